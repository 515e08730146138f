"""Names: the shipped ones, a file's own, and what a wrong one is told."""

import pytest

import hwsim
from hwsim.catalogue import Catalogue, shipped
from hwsim.config import loads
from hwsim.errors import ConfigError, FormatError
from hwsim.fields import format_mapping, format_record


@pytest.mark.parametrize("name", sorted(shipped("formats")))
def test_every_shipped_format_resolves_and_is_its_own_mapping(name: str) -> None:
    fmt = format_record(name)
    assert format_record(format_mapping(fmt)) == fmt


def test_a_file_cannot_redeclare_a_shipped_name() -> None:
    document = loads("formats:\n  bf16: {kind: integer, bits: 3}\n", "s.yaml")
    with pytest.raises(
        ConfigError, match=r"s\.yaml:2: formats\.bf16: got 'bf16', the name of a shipped format; allowed: a name of your own"
    ):
        Catalogue.of(document)


def test_a_files_own_names_resolve_through_each_other() -> None:
    catalogue = Catalogue.of(loads("formats:\n  a: {kind: integer, bits: 3}\n  b: a\n"))
    assert str(format_record("b", catalogue)) == "a"


E4M3 = {"kind": "float", "exponent_bits": 4, "mantissa_bits": 3}
WRONG = {
    "an unknown name": ("fp8_e4m3fm", r"format: got 'fp8_e4m3fm'; allowed: .*; did you mean 'fp8_e4m3fn'\?"),
    "an unknown kind": ({"kind": "flot"}, r"kind: got 'flot'; allowed: .*; did you mean 'float'\?"),
    "no kind": ({"bits": 8}, r"kind: missing; allowed: .*float"),
    "an unknown parameter": (
        {"kind": "integer", "bits": 8, "sined": True},
        r"sined: unknown key; allowed: .*; did you mean 'signed'\?",
    ),
    "a text for a number": (
        {"kind": "integer", "bits": "8"},
        r"bits: got '8' \(text\); allowed: a whole number; did you mean 8 without quotes\?",
    ),
    "too many bits": ({"kind": "integer", "bits": 40}, r"bits: got 40; allowed: a whole number from 1 to 32"),
    "no bits": ({"kind": "integer", "bits": 0}, r"bits: got 0; allowed: a whole number from 1 to 32"),
    "a number": (5, r"got 5; allowed: a format's name or a mapping with `kind`"),
    "an exponent below one bit": ({**E4M3, "exponent_bits": 0}, r"exponent_bits: got 0; allowed: a whole number from 1 to 11"),
    "an exponent beyond fp64's": ({**E4M3, "exponent_bits": 12}, r"exponent_bits: got 12; allowed: a whole number from 1 to 11"),
    "a significand beyond fp64's": (
        {**E4M3, "mantissa_bits": 53},
        r"mantissa_bits: got 53; allowed: a whole number from 0 to 52",
    ),
    "a width beside the parts of it": ({**E4M3, "bits": 9}, r"bits: unknown key; allowed: bias, .*exponent_bits"),
    "a bias that is no whole number": (
        {**E4M3, "bias": 1.5},
        r"bias: got 1\.5 \(a floating-point number\); allowed: a whole number",
    ),
    "a bias that takes values out of reach": (
        {**E4M3, "bias": 5000},
        r"bias: got 5000; allowed: a whole number from -1100 to 1200",
    ),
    "an old name for specials": ({**E4M3, "infinities": True}, r"infinities: unknown key; allowed: .*specials"),
    "specials that leave no number": (
        {"kind": "float", "exponent_bits": 1, "mantissa_bits": 0},
        r"specials: ieee leaves no positive number in 2 bits",
    ),
    "a posit with less than no exponent": (
        {"kind": "posit", "bits": 8, "es": -1},
        r"es: got -1; allowed: a whole number from 0 to 3",
    ),
    "a point far outside": (
        {"kind": "fixed", "bits": 8, "fraction_bits": 200},
        r"fraction_bits: got 200; allowed: a whole number from -64 to 8",
    ),
    "a level that is NaN": (
        {"kind": "codebook", "levels": [1, float("nan")]},
        r"levels\[1\]: got \.nan .*; allowed: a finite number",
    ),
    "a truth value for a size": (
        {"kind": "block", "element": "fp4", "scale": "e8m0fnu", "size": True},
        r"size: got true \(a truth value\); allowed: a whole number",
    ),
    "a scale that is no float": (
        {"kind": "block", "element": "fp4", "scale": "int8", "size": 4},
        r"scale: got int8; allowed: a float",
    ),
    "a P3109 name beyond fp64": (
        "binary16p5ue",
        r"format: got 'binary16p5ue', whose 12 exponent bits take its values beyond fp64; allowed: P = 6 or more",
    ),
    "a P3109 name too wide": ("binary17p3se", r"format: got 'binary17p3se'; allowed: binary\{K\}p\{P\} with K = 3..16"),
    "a P3109 name out of range": ("binary8p9se", r"format: got 'binary8p9se'; allowed: binary\{K\}p\{P\}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_format_is_a_format_error_with_the_nearest_match(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(FormatError, match=message):
        hwsim.format(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "  a: {kind: integer, bits: 3}\n  a: {kind: integer, bits: 4}\n",
            r"s\.yaml:3: formats\.a: duplicate key; first on line 2",
        ),
        ("  5: {kind: integer, bits: 3}\n", r"s\.yaml:2: formats: got 5 \(a whole number\) as a key; allowed: text"),
        (
            "  5e2: {kind: integer, bits: 3}\n",
            r"s\.yaml:2: formats: got 500\.0 \(a floating-point number\) as a key; allowed: text",
        ),
        ("  a: b\n  b: a\n", r"format: got 'a'; allowed: "),
        ("  a: {kind: block, element: a, scale: e8m0fnu, size: 4}\n", r"element: format: got 'a'; allowed: "),
    ],
)
def test_names_that_say_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises((ConfigError, FormatError), match=message):
        format_record("a", Catalogue.of(loads(f"formats:\n{text}", "s.yaml")))
