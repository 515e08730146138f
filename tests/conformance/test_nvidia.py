"""What NVIDIA's converters are observed to do, by code; `hwsim conform` compares them number by number."""

from __future__ import annotations

import pytest
import torch

from hwsim.conformance.peer_nvidia import convert, missing


@pytest.fixture(autouse=True)
def _available() -> None:
    if why_not := missing():
        pytest.skip(why_not)


@pytest.mark.parametrize(
    ("name", "x", "code"),
    [
        ("e4m3_saturate", float("nan"), 0x7F),
        ("e5m2_saturate", float("nan"), 0x7F),
        ("e3m2_saturate", float("nan"), 0x1F),
        ("e2m1_saturate", float("nan"), 0x7),
        ("e4m3_saturate", float("inf"), 0x7E),
        ("e4m3_overflow", float("inf"), 0x7F),
        ("e5m2_saturate", float("inf"), 0x7B),
        ("e5m2_overflow", float("inf"), 0x7C),
        ("e8m0_down", -3.0, 0x80),
        ("e8m0_down", 0.0, 0x00),
    ],
)
def test_nvidia_gives_the_observed_codes(name: str, x: float, code: int) -> None:
    assert convert(name, torch.tensor([x])).tolist() == [code]
