"""The engine of autograd runs in threads of its own for devices, and on a CPU below sixty nested backward passes."""

import threading

import torch
from emulator_cases import same, tensors_of
from torch import Tensor, nn

from hwsim.emulator import emulate

DEEP = 70
FP8 = {"gemm": {"all": {role: {"format": "fp8_e4m3fn", "scaling": "absmax"} for role in ("input", "weight", "grad_output")}}}


class Nested(torch.autograd.Function):
    """Takes the gradient of a layer below some nested backward passes, as reentrant checkpointing nests them."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Module, depth: int, threads: set[int]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.given = layer, depth, threads
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        layer, depth, threads = ctx.given
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = layer(x) if depth == 0 else Nested.apply(x, layer, depth - 1, threads)
        threads.add(threading.get_ident())
        y.backward(grad)
        return x.grad, None, None, None


def _run(depth: int) -> tuple[dict[str, Tensor], list, int]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x = nn.Linear(6, 5), torch.randn(4, 6, requires_grad=True)
    threads: set[int] = set()
    with emulate(layer, FP8) as machine:
        Nested.apply(x, layer, depth, threads).square().sum().backward()
    kept = [
        (row.site, row.gemm, row.role, row.cast, row.flops) for row in machine.audit() if row.phase == "backward" and row.gemm
    ]
    return {"x": x.grad, **tensors_of(layer)}, kept, len(threads)


def test_gemms_in_a_worker_thread_of_the_engine_are_emulated_at_their_sites() -> None:
    near, places, threads = _run(0)
    far, same_places, more_threads = _run(DEEP)
    assert (threads, more_threads) == (1, 2)
    assert same_places == places
    assert {(site, gemm) for site, gemm, *_ in places} == {("weight", "grad_input"), ("weight", "grad_weight")}
    assert same(near, far) == []
