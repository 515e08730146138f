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
    "a P3109 name out of range": ("binary8p9se", r"format: got 'binary8p9se'; allowed: binary\{K\}p\{P\}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_format_is_a_format_error_with_the_nearest_match(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(FormatError, match=message):
        hwsim.format(given)
