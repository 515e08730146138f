"""hwsim::quantize_block as a torch operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from block_cases import BLOCKS

from hwsim.formats import Draw, Projection, Rounding
from hwsim.formats.block_lowering import lower_block
from hwsim.formats.blocks import quantize_blocks
from hwsim.formats.tiling import tiling

FMT = BLOCKS["nvfp4"]


# opcheck itself looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_operator_passes_opcheck(rounding: str, requires_grad: bool) -> None:
    x = torch.randn(4, 40).requires_grad_(requires_grad)
    rule = lower_block(FMT, Projection(Rounding.parse(rounding))).packed()
    arguments = x, rule, list(tiling(x.shape, FMT, -1)[0]), list(Draw().numbers), torch.float32, torch.float32
    torch.library.opcheck(torch.ops.hwsim.quantize_block.default, arguments)


def test_meta_tensors_have_shapes_and_dtypes() -> None:
    q = quantize_blocks(torch.empty(3, 40, device="meta", dtype=torch.bfloat16), FMT)
    assert (q.values.shape, q.values.dtype, q.scales.shape, q.tensor_scale.shape) == ((3, 40), torch.bfloat16, (3, 3), ())


def test_gradient_passes_straight_through() -> None:
    x, weights = torch.randn(3, 40, requires_grad=True), torch.randn(3, 40)
    q = quantize_blocks(x, FMT)
    assert not q.scales.requires_grad
    (q.values * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_compiled_graph_calls_the_operator() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return quantize_blocks(x * 2, FMT).values + 1

    x, graphs = torch.randn(3, 40), []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    assert torch.equal(torch.compile(f, backend=backend, fullgraph=True)(x), f(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_mapped_function_rounds_every_sample_as_a_loop_does(name: str, rounding: str, axis: int) -> None:
    """In one call where that has the same bits, and without torch's warning of its own loop."""
    x, projection = torch.randn(3, 20, 40).movedim(0, axis), Projection(Rounding.parse(rounding))

    def rounded(v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(quantize_blocks(v, BLOCKS[name], projection, draw=Draw(7)))

    found = torch.func.vmap(rounded, in_dims=axis)(x)
    for part, alone in zip(found, zip(*map(rounded, x.unbind(axis)), strict=True), strict=True):
        assert torch.equal(part, torch.stack(alone))


def test_functional_transforms_pass_the_gradient() -> None:
    x, fmt = torch.randn(3, 40), next(iter(BLOCKS.values()))

    def doubled(v: torch.Tensor) -> torch.Tensor:
        return (quantize_blocks(v, fmt).values * 2).sum()

    assert torch.equal(torch.func.grad(doubled)(x), torch.full_like(x, 2))
    assert torch.equal(torch.func.vmap(torch.func.grad(doubled))(x), torch.full_like(x, 2))
