"""Which cast an operand gets: by where it comes from and by the forward's record, never by its place."""

import pytest
import torch
from emulator_cases import Attention, Conv1D, Mlp, Transformer, input_of, loss_of, model_of, on_grid
from torch import nn

from hwsim.emulator import emulate


def roles(model: nn.Module, x: torch.Tensor, datapath="fp32") -> dict[tuple[str, str], set[str]]:
    """The operand roles of every (site, GEMM) that ran in one forward and backward pass."""
    with emulate(model, datapath) as machine:
        loss_of(model(x)).backward()
    found: dict[tuple[str, str], set[str]] = {}
    for row in machine.audit():
        if row.gemm:
            found.setdefault((row.site, row.gemm), set()).add(row.role)
    return found


LINEAR = {
    "output": {"input", "weight", "result"},
    "grad_input": {"grad_output", "weight", "result"},
    "grad_weight": {"grad_output", "input", "result"},
}
PRODUCT = {"output": {"input", "result"}, "grad_input": {"input", "grad_output", "result"}}


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("mlp", "0", ["3", "5"]),
        ("digits_cnn", "0", ["4", "9"]),
        ("residual", "conv1", ["conv2", "head"]),
        ("strided", "line", ["plane", "space"]),
    ],
)
def test_layers_have_three_gemms_and_the_first_needs_no_input_gradient(name: str, first: str, others: list[str]) -> None:
    found = roles(model_of(name), input_of(name))
    for gemm, expected in LINEAR.items():
        assert all(found[site, gemm] == expected for site in others)
    assert found[first, "grad_weight"] == LINEAR["grad_weight"]
    assert (first, "grad_input") not in found


def test_a_layer_that_stores_its_weight_the_other_way_round_has_the_same_roles() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Conv1D())
    found = roles(model, input_of("mlp"))
    assert {gemm: found["1", gemm] for gemm in LINEAR} == LINEAR


@pytest.mark.parametrize("written_out", [True, False])
def test_products_of_activations_have_input_gradients_for_both_operands(written_out: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Attention(written_out=written_out))
    found = roles(model, input_of("written_out_attention"))
    products = {site for site, _ in found if site.startswith("1:bmm")}
    assert products == {"1:bmm.0", "1:bmm.1"}
    for site in products:
        assert {gemm: found[site, gemm] for s, gemm in found if s == site} == PRODUCT


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("lstm", {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1", "rnn.weight_hh_l1", "head"}),
        ("gru", {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1", "rnn.weight_hh_l1", "head"}),
    ],
)
def test_the_weights_of_a_recurrent_layer_are_sites_of_their_own(name: str, sites: set[str]) -> None:
    found = roles(model_of(name), input_of(name))
    assert {site for site, _ in found} == sites
    assert all(found[site, "grad_weight"] == LINEAR["grad_weight"] for site in sites)


def test_frozen_layers_hand_gradients_through_and_get_none() -> None:
    model = Mlp()
    model[3].weight.requires_grad_(False)
    found = roles(model, input_of("mlp"))
    assert found["3", "grad_input"] == LINEAR["grad_input"]
    assert ("3", "grad_weight") not in found


def test_a_tied_weight_belongs_to_the_module_that_runs() -> None:
    found = roles(Transformer(), input_of("transformer"))
    assert {gemm: found["head", gemm] for gemm in LINEAR} == LINEAR
    assert not any(site.startswith("tokens") for site, _ in found)


def test_torch_s_own_attention_names_its_projections() -> None:
    found = roles(model_of("encoder"), input_of("encoder"))
    assert {"layer.self_attn.in_proj_weight", "layer.self_attn.out_proj", "layer.linear1"} <= {site for site, _ in found}


class Wrapped(nn.Module):
    """A linear layer on a weight that some expression makes of a parameter."""

    def __init__(self, expression) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4) / 3)
        self.expression = expression
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.expression(self)


@pytest.mark.parametrize(
    "expression",
    [
        lambda m: m.weight,
        lambda m: m.weight.clone(),
        lambda m: m.weight.to(torch.float64).to(torch.float32),
        lambda m: m.weight * m.scale,
        lambda m: m.weight / m.weight.norm(),
        lambda m: (m.weight - m.weight.mean(0)).contiguous(),
        lambda m: m.weight.t().contiguous().t(),
        lambda m: torch.cat([m.weight[:4], m.weight[4:]]),
    ],
)
def test_copies_views_and_scalings_of_a_weight_are_weights(expression) -> None:
    found = roles(nn.Sequential(nn.Linear(8, 8), Wrapped(expression)), input_of("mlp"))
    gemms = {gemm: kinds for (site, gemm), kinds in found.items() if site.startswith("1")}
    assert gemms == LINEAR


@pytest.mark.parametrize("make", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_normalised_weights_are_weights(make) -> None:
    model = nn.Sequential(nn.Linear(8, 8), make(nn.Linear(8, 4)))
    found = roles(model, input_of("mlp"))
    assert {gemm for (site, gemm), kinds in found.items() if site.startswith("1") and kinds == LINEAR[gemm]} == set(LINEAR)


def test_inputs_given_by_keyword_and_made_inside_the_block_are_inputs() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, *, values: torch.Tensor) -> torch.Tensor:
            return self.layer(values)

    model = Keyword()
    with emulate(model, "fp32") as machine:
        loss_of(model(values=torch.randn(3, 8))).backward()
    assert {(row.gemm, row.role) for row in machine.audit() if row.gemm} == {
        (gemm, role) for gemm in ("output", "grad_weight") for role in LINEAR[gemm]
    }


def test_a_weight_whose_storage_the_program_replaces_stays_a_weight_in_its_format() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with emulate(model, {"optimizer": {"weight": "bf16"}}, optimizer=optimizer) as machine:
        model[1].weight.data = torch.randn(4, 8)
        loss_of(model(input_of("mlp"))).backward()
        assert on_grid(model[1].weight, torch.bfloat16)
        model[0].weight.data = torch.randn(8, 8)
        optimizer.step()
    assert on_grid(model[0].weight, torch.bfloat16)
    gemms = {(row.gemm, row.role) for row in machine.audit() if row.site == "1" and row.gemm}
    assert gemms == {(gemm, role) for gemm, roles in LINEAR.items() for role in roles}


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.large)])
def test_a_compiled_model_runs_eagerly_with_the_same_roles_and_bits(before: bool) -> None:
    """Whether it has run, compiled, `before` the block or not."""
    model, x = model_of("mlp"), input_of("mlp")
    compiled = torch.compile(model, backend="aot_eager") if before else torch.compile(model)
    if before:
        loss_of(compiled(x)).backward()
        model.zero_grad()
    results = []
    for run in (model, compiled):
        with emulate(model, "bf16") as machine:
            y = run(x)
            loss_of(y).backward()
        results.append((y.tolist(), [(row.site, row.gemm, row.role, row.cast) for row in machine.audit() if row.gemm]))
    assert results[0] == results[1]


def test_autocast_keeps_roles_and_sites() -> None:
    model = Mlp()
    with emulate(model, "fp32") as machine, torch.autocast("cpu", torch.bfloat16):
        loss_of(model(input_of("mlp"))).backward()
    sites = {(row.site, row.gemm) for row in machine.audit() if row.gemm}
    assert {site for site, _ in sites} == {"0", "3", "5"}
    assert ("3", "grad_input") in sites


def test_gradients_without_the_node_creation_hook_find_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(name: str):
        model = model_of(name)
        with emulate(model, "fp32") as machine:
            loss_of(model(input_of(name))).backward()
        return [row for row in machine.audit() if row.role != "move"]

    expected = {name: rows(name) for name in ("residual", "transformer", "lstm")}
    monkeypatch.setattr("hwsim.emulator.context.node_creation_hook", None)
    assert {name: rows(name) for name in expected} == expected


def test_overrides_follow_a_layer_into_its_backward_pass() -> None:
    datapath = {"gemm": "bf16", "vector": "bf16", "overrides": {"3": {"gemm": "fp32", "vector": "fp16"}, "4": {"vector": "fp16"}}}
    model = model_of("mlp")
    with emulate(model, datapath) as machine:
        loss_of(model(input_of("mlp"))).backward()
    for row in machine.audit():
        if row.gemm:
            assert row.cast == ("fp32" if row.site == "3" else "bf16"), row
        elif row.role == "vector":
            assert row.cast == ("fp16" if row.site in ("3", "4") else "bf16"), row
    assert any(row.phase == "backward" and row.site == "4" and row.op == "silu_backward" for row in machine.audit())
