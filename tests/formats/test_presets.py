"""Projections by the name of the converter that they describe."""

from __future__ import annotations

import math

import pytest
import torch

from hwsim.formats import Float, FormatError
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.presets import preset

E4M3, E5M2, E2M1 = Float(4, 3, specials="fn"), Float(5, 2), Float(2, 1, specials="finite")
P3SE = Float(5, 2, specials="p3109")
P3SF = Float(5, 2, specials="p3109", domain="finite")
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "fmt", "x", "expected"),
    [
        ("nvidia", E4M3, 1e6, 448.0),
        ("nvidia", E4M3, -INF, -448.0),
        ("nvidia", E4M3, NAN, NAN),
        ("nvidia", E5M2, INF, 57344.0),
        ("nvidia", E2M1, -NAN, 6.0),
        ("nvidia", E4M3, 1.0625, 1.0),
        ("ocp", E5M2, INF, 57344.0),
        ("ocp", E5M2, NAN, NAN),
        ("ocp", E2M1, -100.0, -6.0),
        ("p3109", P3SE, INF, INF),
        ("p3109", P3SE, 1e9, 49152.0),
        ("p3109", P3SF, INF, 57344.0),
        ("p3109", P3SE, NAN, NAN),
        ("p3109", P3SE, -0.0, 0.0),
        ("qtorch", E2M1, 1.25, 1.5),
        ("qtorch", E2M1, INF, 6.0),
        ("qtorch", E2M1, NAN, 6.0),
    ],
)
def test_a_preset_rounds_as_its_converter(name: str, fmt: Float, x: float, expected: float) -> None:
    given = quantize_tensor(torch.tensor([x]), fmt, preset(name), backend="reference").item()
    assert given == expected or (math.isnan(given) and math.isnan(expected))


def test_ocp_leaves_nan_in_fp4_open() -> None:
    with pytest.raises(FormatError, match="has no NaN"):
        quantize_tensor(torch.tensor([NAN]), E2M1, preset("ocp"), backend="reference")


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(FormatError, match="preset: got 'nvida'; allowed: nvidia, ocp, p3109, qtorch; did you mean 'nvidia'"):
        preset("nvida")
