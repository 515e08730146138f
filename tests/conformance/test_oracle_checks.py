"""The checks of `hwsim conform`: the quick ones always, a sample of the longer ones, and all of these nightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwsim.conformance import Check, Oracle, Outcome, checks, perform
from hwsim.conformance.exhaustive import every_float32
from hwsim.conformance.page import read, write
from hwsim.conformance.peer_gfloat import GFLOAT
from hwsim.conformance.peer_logarithms import MPFR_LOGARITHMS, XLNS
from hwsim.conformance.peer_ml_dtypes import ML_DTYPES, TYPES
from hwsim.conformance.peer_mpfr import MPFR
from hwsim.conformance.peer_posits import POSIT_STRINGS, SOFTPOSIT
from hwsim.conformance.peers import Peer, compare
from hwsim.errors import ConfigError
from hwsim.formats import Fixed, Float, Format, Logarithmic, Posit

FULL = checks(depths=("full",))
SAMPLE = ("formats/fp8_e5m2/gfloat", "formats/fp16/apytypes", "formats/int8/apytypes")


def passes(check: Check) -> None:
    if why_not := check.oracle.missing():
        pytest.skip(why_not)
    outcome = check.run()
    assert outcome.cases > 0
    assert not outcome.mismatches, outcome.note


# torchao compares enumerations of its own in a way that torch has given up.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", checks(depths=("quick",)), ids=lambda check: check.name)
def test_equals_the_oracle(check: Check) -> None:
    passes(check)


@pytest.mark.parametrize("check", [check for check in FULL if check.name in SAMPLE], ids=lambda check: check.name)
def test_equals_a_slower_oracle(check: Check) -> None:
    passes(check)


@pytest.mark.large
@pytest.mark.parametrize("check", [check for check in FULL if check.name not in SAMPLE], ids=lambda check: check.name)
def test_equals_every_slower_oracle(check: Check) -> None:
    passes(check)


@pytest.mark.parametrize("fmt", [Float(4, 3, specials="fn"), Float(5, 2), Float(2, 1, specials="finite")], ids=str)
def test_the_torch_backend_equals_ml_dtypes_and_gfloat(fmt: Format) -> None:
    for peer in (ML_DTYPES, GFLOAT):
        assert not compare(fmt, peer, ("nearest_even",), backend="torch").mismatches


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(
    "fmt",
    [Float(5, 10), Float(8, 7), Float(5, 2), Float(8, 23), Float(6, 5), Float(5, 3, specials="fn", signed=False), Fixed(8, 4)],
    ids=str,
)
def test_both_compiled_backends_equal_mpfr_in_every_mode(fmt: Format, backend: str) -> None:
    assert not compare(fmt, MPFR, backend=backend, every=101).mismatches


@pytest.mark.parametrize(
    ("fmt", "peer"),
    [
        (Posit(8, 0), SOFTPOSIT),
        (Posit(16, 2), SOFTPOSIT),
        (Posit(16, 1), POSIT_STRINGS),
        (Posit(8, 2), POSIT_STRINGS),
        (Logarithmic(8, 3), XLNS),
        (Logarithmic(16, 10), MPFR_LOGARITHMS),
    ],
    ids=lambda given: given.oracle.name if isinstance(given, Peer) else str(given),
)
def test_posits_and_logarithmic_numbers_equal_two_oracles_each(fmt: Format, peer: Peer) -> None:
    if why_not := peer.oracle.missing():
        pytest.skip(why_not)
    outcome = compare(fmt, peer, every=401)
    assert outcome.cases > 0
    assert not outcome.mismatches, outcome.note


@pytest.mark.parametrize("fmt", [fmt for fmt, (name, _) in TYPES.items() if name in ("bfloat16", "float4_e2m1fn")], ids=str)
def test_the_exhaustive_check_looks_at_every_float32_of_its_range(fmt: Format) -> None:
    outcome = every_float32(fmt, 1 << 20, 1 << 19)
    assert (outcome.cases, outcome.mismatches) == (1 << 20, 0)


def test_a_wrong_rounding_is_found() -> None:
    """ml_dtypes overflows E5M2 to infinity; a format with one more bit of fraction rounds otherwise."""
    from dataclasses import replace

    liar = replace(ML_DTYPES, rounded=lambda fmt, rounding, overflows, x: ML_DTYPES.rounded(Float(4, 3), rounding, overflows, x))
    outcome = compare(Float(5, 2), liar, ("nearest_even",))
    assert outcome.mismatches > 0
    assert "first:" in outcome.note


def test_a_pattern_without_checks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--only: got 'fromats/\*', which no check matches; allowed: .*formats/\*"):
        checks("fromats/*")


def test_names_are_unique() -> None:
    names = [check.name for check in checks(depths=("quick", "full", "exhaustive"))]
    assert len(set(names)) == len(names)


def test_results_are_kept_and_replaced_by_newer_ones(tmp_path: Path) -> None:
    def check(name: str, outcome: Outcome, missing: str = "") -> Check:
        return Check(name, Oracle("an oracle", missing=lambda: missing), "something", lambda: outcome)

    first = [check("a/x", Outcome(10, 1, "first: 3", (("its defect", 2),))), check("a/y", Outcome(5, 0))]
    write(tmp_path, perform(first))
    page = write(
        tmp_path,
        perform([check("a/x", Outcome(10, 0)), check("a/y", Outcome(5, 0), "not here"), check("b/z", Outcome(1, 0), "no")]),
    )
    assert {name: result.outcome for name, result in read(tmp_path).items()} == {
        "a/x": Outcome(10, 0),
        "a/y": Outcome(5, 0),
        "b/z": None,
    }
    assert "| z | an oracle |  |  | not performed: no |" in page.read_text()
    assert json.loads((tmp_path / "conformance.json").read_text())["machine"]["torch"]
