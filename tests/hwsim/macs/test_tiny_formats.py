"""Every triple of a five-bit float, by every order, against exact rational arithmetic written out here."""

from __future__ import annotations

import itertools
from fractions import Fraction
from functools import cache

import pytest
import torch

from hwsim.formats import Float, Projection, Rounding
from hwsim.formats.reference import project
from hwsim.macs import mac, matmul

E2M2 = Float(2, 2, name="e2m2")
VALUES = [float(v) for v in E2M2.values().tolist()]
MODES = ("nearest_even", "nearest_away", "nearest_zero", "toward_zero", "toward_positive", "toward_negative", "to_odd")


@cache
def rounded(x: Fraction, mode: str) -> Fraction:
    """An exact real in E2M2, saturating."""
    found = project(x, E2M2, Projection(Rounding(mode)))  # type: ignore[arg-type]
    return Fraction(found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("product", ["exact", "rounded"])
def test_one_step_is_right_for_all_triples(mode: str, product: str) -> None:
    place = {"format": E2M2, "rounding": mode, "overflow": "saturate"}
    unit = mac({"order": "sequential", "product": "exact" if product == "exact" else place, "accumulator": place})
    a = torch.tensor(VALUES, dtype=torch.float32)
    c = a.repeat(len(VALUES), 1)
    for b in VALUES:
        found = matmul(a[:, None], torch.full((1, len(VALUES)), b), unit, c)
        for i, j in itertools.product(range(len(VALUES)), repeat=2):
            p = Fraction(VALUES[i]) * Fraction(b)
            expected = rounded(Fraction(VALUES[j]) + (p if product == "exact" else rounded(p, mode)), mode)
            assert found[i, j].item() == float(expected), (VALUES[i], b, VALUES[j])


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.large)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("order", "tree"), [("pairwise", "(01)2"), ("chunked(2)", "(01)(2)"), ("fma", "((0)1)2")])
def test_three_terms_are_added_in_the_declared_order(order: str, tree: str, mode: str, step: int) -> None:
    unit = mac({"order": order, "accumulator": {"format": E2M2, "rounding": mode, "overflow": "saturate"}})
    triples = list(itertools.product(VALUES[::step], repeat=3))
    found = matmul(torch.tensor(triples), torch.ones(3, 1), unit)[:, 0]
    for (x, y, z), d in zip(triples, found.tolist(), strict=True):
        inner = rounded(Fraction(x) + Fraction(y), mode)
        if tree == "(01)(2)":
            inner = rounded(rounded(Fraction(x), mode) + Fraction(y), mode)
        assert d == float(rounded(inner + Fraction(z), mode)), (x, y, z)
