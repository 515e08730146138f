"""Pictures of formats: the code's layout, and the values on the number line."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from hwsim.catalogue import Catalogue
from hwsim.fields import format_record
from hwsim.studies.pictures import COLUMNS, as_svg, as_text, layout, number_lines


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("fp8_e4m3fn", "sign 1, exponent 4, fraction 3"),
        ("e8m0fnu", "exponent 8"),
        ("int8", "two's complement 8"),
        ("uint4", "binary 4"),
        ("mxint8", "integer 2, fraction 6"),
        ("posit8_2", "sign 1, regime up to 7, exponent up to 2, fraction up to 3"),
        ("posit8_0", "sign 1, regime up to 7, fraction up to 5"),
        ("lns8", "sign 1, log2, integer 4, log2, fraction 3"),
        ("nf4", "code 4"),
    ],
)
def test_layout_names_the_bits_of_a_code(name: str, parts: str) -> None:
    assert ", ".join(map(str, layout(format_record(name)))) == parts


def test_values_lie_where_they_are() -> None:
    linear, logarithmic = number_lines(format_record("int3"))
    assert linear.places == pytest.approx([k / 7 for k in range(8)])
    assert (linear.low, linear.high, logarithmic.low) == ("-4", "3", "2^0")
    assert "├█        █        █        █        █        █        █        █┤" in as_text(format_record("int3"))


def test_a_block_shows_its_elements_and_says_how_they_share() -> None:
    text = as_text(format_record("nvfp4"))
    assert "each of 16 elements; one scale of 8 bits (fp8_e4m3fn) a block and one of the tensor" in text
    assert "values, from -6 to 6" in text


@pytest.mark.parametrize("name", [name for name in Catalogue().names("formats") if "16" not in name])
def test_every_format_has_both_pictures(name: str) -> None:
    fmt = format_record(name)
    bars = [line for line in as_text(fmt).splitlines() if line.startswith("├")]
    assert len(bars) == len(number_lines(fmt))
    assert all(len(bar) == COLUMNS + 2 for bar in bars)
    assert ElementTree.fromstring(as_svg(fmt)).tag.endswith("svg")


def test_wide_formats_have_a_layout_alone() -> None:
    assert number_lines(format_record("fp32")) == ()
    assert "exponent 8" in as_text(format_record("fp32"))
