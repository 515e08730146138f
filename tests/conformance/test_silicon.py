"""Every recorded set of GPU outputs is reproduced bit for bit."""

from __future__ import annotations

import pytest

from hwsim.conformance.units import RECORDED, Recording, recordings, reproduced

pytestmark = pytest.mark.skipif(bool(RECORDED.missing()), reason=RECORDED.missing() or "here")


@pytest.mark.parametrize("recording", list(recordings()), ids=str)
def test_reproduces_every_recorded_dot_product(recording: Recording) -> None:
    found = reproduced(recording, naive=False)
    assert (found.cases, found.mismatches) == (5000, 0)


def test_naive_models_do_not_reproduce_a_tensor_core() -> None:
    found = reproduced(Recording("a100_tf32", "fp32", "nvidia_ampere_tf32"))
    assert "exact sum, then nearest even 69.58%, fp32 sequential 59.76%" in found.note
