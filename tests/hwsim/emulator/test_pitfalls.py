"""What a prototype of the emulator tripped over: each was wrong once, somewhere."""

from __future__ import annotations

import copy
import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator_cases import (
    Attention,
    Residual,
    Transformer,
    input_of,
    loss_of,
    model_of,
    on_grid,
    optimizer_of,
    same,
    tensors_of,
    train,
)
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from hwsim.emulator import emulate
from hwsim.errors import ConfigError

LEARNED = {"format": "int4", "scaling": "learned", "requantize": False}
LEARNED_OPERANDS = {"gemm": {"all": {"input": LEARNED, "weight": LEARNED}}}
OPERANDS = ("input", "weight", "grad_output")


class Gain(nn.Module):
    """A product of data with itself, scaled by a parameter: only that the data is known as such makes it an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, *, values: Tensor) -> Tensor:
        x = values * self.gain
        return x @ x.mT


def test_inputs_by_keyword_made_inside_the_block_are_data() -> None:
    model = Gain()
    with emulate(model, "fp32") as machine:
        loss_of(model(values=torch.randn(3, 8))).backward()
    assert {row.role for row in machine.audit() if row.gemm} == {"input", "grad_output", "result"}


def gradients(model: nn.Module, x: Tensor, saved: Any = None) -> dict[str, Tensor]:
    """Of the weights and of the scales that train."""
    with emulate(model, LEARNED_OPERANDS) as machine:
        with saved or nullcontext():
            loss = loss_of(model(x))
        loss.backward()
        scales = {port: s.grad.clone() for port, s in machine.learned_scales().items() if s.grad is not None}
    return tensors_of(model) | scales


@pytest.mark.parametrize("reentrant", [True, False])
def test_scales_learn_the_same_from_recomputed_operands(reentrant: bool) -> None:
    found = []
    for kind in (None, reentrant):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Transformer(kind)
        found.append(gradients(model, input_of("transformer")))
    assert same(*found) == []


@pytest.mark.parametrize("tokens", [4, 6])
def test_scales_learn_the_same_from_operands_that_were_saved_elsewhere(tokens: int) -> None:
    """Of 4 tokens both activations of a product of attention have the same shape."""
    found = []
    for saved in (None, torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda x: x)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, x = Attention(written_out=True), torch.randn(2, tokens, 8)
        found.append(gradients(model, x, saved))
    assert same(*found) == []


@pytest.mark.parametrize("case", ["noted nodes", "nodes older than the block", "no hook on nodes"])
def test_gradients_add_up_in_the_layer_of_their_weight(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), input_of("mlp")
    older = (
        [p.expand_as(p).grad_fn.next_functions[0][0] for p in model.parameters()] if case == "nodes older than the block" else []
    )
    if case == "no hook on nodes":
        monkeypatch.setattr("hwsim.emulator.context.node_creation_hook", None)
    with emulate(model, {"vector": "bf16", "overrides": {"1": {"vector": "fp16"}}}) as machine:
        for _ in range(2):
            loss_of(model(x)).backward()
    del older
    added = {(row.site, row.cast) for row in machine.audit() if row.phase == "backward" and row.op == "add_"}
    assert added == {("0", "bf16"), ("1", "fp16")}


def test_what_runs_after_the_backward_pass_is_on_the_vector_unit() -> None:
    model, seen = nn.Linear(8, 4), list[Tensor]()

    def finish() -> None:
        seen.append(torch.ones(3) / 3)

    with emulate(model, {"vector": "bf16"}) as machine:
        y = model(input_of("mlp"))
        y.register_hook(lambda _: torch.autograd.Variable._execution_engine.queue_callback(finish))
        y.sum().backward()
    assert on_grid(seen[0], torch.bfloat16)
    assert {row.phase for row in machine.audit() if row.op == "div"} == {"callback"}


def test_a_copy_of_the_model_keeps_roles_and_sites_in_the_block_and_nothing_after_it() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 4)), input_of("mlp")
    with emulate(model, "bf16") as machine, torch.no_grad():
        average = copy.deepcopy(model)
        average(x)
        sites = {row.site for row in machine.audit() if row.role == "weight" and row.gemm}
        before = machine.audit()
    assert "0" in sites
    assert any(site.startswith("1") for site in sites)
    assert torch.backends.mkldnn.enabled
    assert torch.equal(average(x)[0], model(x)[0])
    assert machine.audit() == before


def test_a_model_is_saved_whole_in_the_block() -> None:
    model, file = nn.Linear(8, 4), io.BytesIO()
    with emulate(model, "bf16"):
        torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = input_of("mlp")
    assert torch.equal(again(x), model(x))


def test_transforms_of_functions_are_refused() -> None:
    model = nn.Linear(3, 2)
    with emulate(model, "fp32"), pytest.raises((ConfigError, NotImplementedError)):
        torch.func.vmap(model)(torch.ones(4, 3))


class FunctionalLstm(nn.Module):
    """Calls the fused kernel past the layer whose hooks would have opened it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(1, x.shape[1], 6)
        result: Tensor = torch._VF.lstm(x, (h, h), self.rnn._flat_weights, True, 1, 0.0, True, False, False)[0]
        return result


def test_a_fused_recurrent_kernel_is_refused() -> None:
    model = FunctionalLstm()
    with emulate(model, "fp32"), pytest.raises(ConfigError, match="mkldnn_rnn_layer"):
        model(torch.ones(3, 2, 5))


def test_a_convolution_whose_gradients_are_split_trains_to_the_same_bits() -> None:
    """Casts that change nothing, but are there: the split is taken. A bias is summed apart, in another order."""
    gemms = ("output", "grad_input", "grad_weight")
    nothing = {f"{p}/{g}/{r}": lambda _, x, *__: x for p, _ in Residual().named_modules() for g in gemms for r in OPERANDS}
    found = []
    for given, converters in (("fp32", None), ({"gemm": {"all": dict.fromkeys(OPERANDS, "bf16")}}, nothing)):
        model = model_of("residual")
        optimizer = optimizer_of("sgd_momentum", model)
        with emulate(model, given, optimizer, converters=converters):
            train(model, input_of("residual"), optimizer)
        found.append(tensors_of(model, optimizer))
    assert same(*found) == []


@pytest.mark.parametrize("compress", [False, True])
def test_torch_s_own_exchange_of_gradients_is_seen_and_named(tmp_path: Path, compress: bool) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        with emulate(model, "bf16") as machine:
            parallel = DistributedDataParallel(model)
            if compress:
                parallel.register_comm_hook(None, bf16_compress_hook)
            loss_of(parallel(input_of("mlp"))).backward()
    finally:
        distributed.destroy_process_group()
    wire = {(row.op, row.reason) for row in machine.unemulated() if row.role == "wire"}
    assert wire == {(op, "the datapath declares no wire format") for op in ("broadcast_", "allreduce_")}
    assert machine.coverage()["operations"] < 1
