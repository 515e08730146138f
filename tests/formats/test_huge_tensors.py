"""Tensors of more than 2^31 elements: every element has its own index, in values and in random words."""

import pytest
import torch

import hwsim

TAIL = torch.tensor([1.0625, -0.3, 1000.0, 2.0**-10, -0.0, 17.5, 3.3, -448.0])
COUNT = 2**31 + len(TAIL)
FIRST = COUNT - len(TAIL)


def huge() -> torch.Tensor:
    """Zeros, which take no memory until they are written, and a tail that lies beyond 2^31."""
    x = torch.zeros(COUNT)
    x[FIRST:] = TAIL
    return x


@pytest.mark.large
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_elements_beyond_two_to_the_31_are_rounded_like_any_other(rounding: str) -> None:
    y = hwsim.quantize(huge(), "fp8_e4m3fn", rounding=rounding, seed=3)
    assert torch.equal(y[FIRST:], hwsim.quantize(TAIL, "fp8_e4m3fn", rounding=rounding, seed=3, offset=FIRST))
    assert not y[:FIRST].any()


@pytest.mark.large
def test_blocks_and_codes_beyond_two_to_the_31_are_those_of_any_other() -> None:
    x = huge()
    blocks = hwsim.quantize(x, "mxfp8_e4m3")
    assert torch.equal(blocks[FIRST:], hwsim.quantize(TAIL, "mxfp8_e4m3"))
    del blocks
    fmt = hwsim.format("int8")
    packed = fmt.encode_packed(x.clamp_(-128, 127).round_())
    assert packed[FIRST:].view(torch.int8).tolist() == TAIL.clamp(-128, 127).round().tolist()
