"""What an optimizer stores lies on the declared formats, rounded once, whichever form of the optimizer runs."""

import pytest
import torch
from emulator_cases import OPTIMIZERS, Transformer, input_of, loss_of, model_of, on_grid, optimizer_of, same, tensors_of, train
from torch import Tensor, nn

from hwsim.casting import apply
from hwsim.datapaths import datapath
from hwsim.emulator import Machine, emulate
from hwsim.errors import ConfigError
from hwsim.formats import Draw

BF16 = {"gradient": "bf16", "momentum": "bf16", "variance": "bf16", "state": "bf16", "weight": "bf16"}


def trained(optimizer_name: str, machine, steps: int = 2, **options):
    model = model_of("mlp")
    optimizer = optimizer_of(optimizer_name, model)
    with emulate(model, machine, optimizer=optimizer, **options) as running:
        train(model, input_of("mlp"), optimizer, steps)
    return model, optimizer, running


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_weights_gradients_and_states_are_values_of_their_formats(optimizer_name: str) -> None:
    model, optimizer, machine = trained(optimizer_name, {"optimizer": BF16})
    stored = tensors_of(model, optimizer)
    assert [name for name, x in stored.items() if not on_grid(x, torch.bfloat16) and not name.endswith("step")] == []
    assert {row.role for row in machine.audit() if row.role == "weight" and row.phase == "optimizer"} == {"weight"}


@pytest.mark.parametrize(
    ("role", "key"), [("momentum", "exp_avg"), ("variance", "exp_avg_sq"), ("variance", "max_exp_avg_sq"), ("weight", None)]
)
@pytest.mark.parametrize("form", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_each_role_of_adam_rounds_its_own_tensor_only(role: str, key: str | None, form: dict[str, bool]) -> None:
    model = model_of("mlp")
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True, **form)
    with emulate(model, {"optimizer": {role: "bf16"}}, optimizer=optimizer):
        train(model, input_of("mlp"), optimizer)
    for p, state in optimizer.state.items():
        assert on_grid(p, torch.bfloat16) is (role == "weight")
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            rounded = role == "variance" if name.endswith("sq") else role == "momentum"
            assert on_grid(state[name], torch.bfloat16) is rounded
        assert state["step"] == 2


@pytest.mark.parametrize("form", [{"foreach": False}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("recipe", ["adam8bit", "fp8_lm"])
def test_states_that_are_rounded_each_step_are_those_of_the_plain_step_rounded_after_it(
    recipe: str, form: dict[str, bool]
) -> None:
    """As torchao's 8-bit Adam and MS-AMP compute: the update has the states as they are before their rounding."""
    unit = datapath(recipe).optimizer
    casts = {"exp_avg": unit.momentum, "exp_avg_sq": unit.variance}
    states = {key: getattr(unit, key) for key in ("momentum", "variance", "round_states")}
    models = [model_of("mlp"), model_of("mlp")]
    emulated, plain = (torch.optim.Adam(model.parameters(), lr=0.01, **form) for model in models)
    with emulate(models[0], {"optimizer": states}, optimizer=emulated):
        train(models[0], input_of("mlp"), emulated, 4)
    for _ in range(4):
        train(models[1], input_of("mlp"), plain, 1)
        for state in plain.state.values():
            for key, cast in casts.items():
                state[key].copy_(apply(cast, state[key].reshape(-1)).view_as(state[key]))
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(emulated.state[p][key], plain.state[q][key]) for key in casts)


def fresh_transformer(reentrant: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(reentrant)


def test_a_state_is_rounded_once_before_it_is_used() -> None:
    p = nn.Parameter(torch.tensor([1.0]))
    model = nn.ParameterList([p])
    optimizer = torch.optim.SGD([p], lr=1.0, momentum=0.9)
    third = torch.tensor([1 / 3])
    with emulate(model, {"optimizer": {"momentum": "bf16"}}, optimizer=optimizer):
        for _ in range(2):
            p.grad = third.clone()
            optimizer.step()
    cast = datapath({"optimizer": {"momentum": "bf16"}}).optimizer.momentum
    first = apply(cast, third)
    second = apply(cast, first.mul(0.9).add(third))
    assert torch.equal(optimizer.state[p]["momentum_buffer"], second)
    assert torch.equal(p.detach(), torch.tensor([1.0]).sub(third).sub(second))


@pytest.mark.parametrize("pair", [("sgd_momentum", {"foreach": True}), ("adam", {"foreach": True})])
def test_the_for_loop_and_foreach_forms_agree(pair) -> None:
    name, form = pair
    machine = {"gemm": "bf16", "vector": "bf16", "optimizer": {**BF16, "update": "bf16"}}
    expected = tensors_of(*trained(name, machine)[:2])
    model = model_of("mlp")
    kind, options = OPTIMIZERS[name]
    optimizer = kind(model.parameters(), **options, **form)
    with emulate(model, machine, optimizer=optimizer):
        train(model, input_of("mlp"), optimizer)
    assert same(tensors_of(model, optimizer), expected) == []


def test_the_update_format_rounds_what_a_step_computes_in_between() -> None:
    plain = tensors_of(*trained("adam", "fp32")[:2])
    rounded = tensors_of(*trained("adam", {"optimizer": {"update": "bf16"}})[:2])
    assert same(plain, rounded) != []
    rows = trained("adam", {"optimizer": {"update": "bf16"}})[2].audit()
    assert {row.op for row in rows if row.role == "update"} >= {"sqrt", "div"}


@pytest.mark.parametrize("name", ["adamw_fused", "sgd_fused"])
def test_an_update_format_is_refused_where_one_kernel_does_the_whole_step(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer: update: got bf16 with _fused_\w+, .*allowed: .*fused=False or foreach=True"
    ):
        trained(name, {"optimizer": {"update": "bf16"}})


@pytest.mark.parametrize("name", ["adamw_fused", "sgd_fused"])
def test_a_fused_kernel_is_counted_by_what_it_stores(name: str) -> None:
    rows = [row for row in trained(name, {"optimizer": BF16})[2].audit() if row.op.startswith("_fused_")]
    assert {row.role for row in rows} <= {"weight", "momentum", "variance", "counter"}
    assert {row.role for row in rows} >= {"weight", "momentum"}


def test_parameters_are_rounded_on_entry() -> None:
    model = model_of("mlp")
    with emulate(model, {"optimizer": {"weight": "bf16"}}):
        assert all(on_grid(p, torch.bfloat16) for p in model.parameters())


STORED = {
    "bf16, stochastic": {"format": "bf16", "rounding": "stochastic"},
    "mxfp8": "mxfp8_e4m3",
    "mxfp8, scales upwards": {"kind": "block", "element": "fp8_e4m3fn", "scale": "e8m0fnu", "size": 4, "rule": "rceil"},
    "mxfp4, stochastic": {"format": "mxfp4", "rounding": "stochastic"},
    "fp8, powers of two": {"format": "fp8_e4m3fn", "scaling": "power_of_two"},
    "fp16, powers of two": {"format": "fp16", "scaling": "power_of_two", "overflow": "saturate"},
}


@pytest.mark.parametrize("case", STORED)
def test_weights_that_were_stored_stay_as_they_are_when_they_are_loaded_and_the_block_is_entered_again(case: str) -> None:
    model, _, _ = trained("sgd", {"optimizer": {"weight": STORED[case]}})
    before = tensors_of(model)
    with emulate(model, {"optimizer": {"weight": STORED[case]}}, seed=9):
        entered = tensors_of(model)
        model.load_state_dict({name: x for name, x in before.items() if not name.endswith(".grad")})
    assert same(entered, before) == same(tensors_of(model), before) == []


def test_states_of_a_resumed_optimizer_are_followed_from_its_first_step() -> None:
    model = model_of("mlp")
    optimizer = optimizer_of("adam", model)
    train(model, input_of("mlp"), optimizer)
    with emulate(model, {"optimizer": BF16}, optimizer=optimizer):
        train(model, input_of("mlp"), optimizer, steps=1)
    assert all(on_grid(s[key], torch.bfloat16) for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))


STOCHASTIC = {"format": "bf16", "rounding": "stochastic"}


def test_stochastic_weights_are_keyed_by_name_and_step_and_do_not_depend_on_the_rank() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    cast = datapath({"optimizer": {"weight": STOCHASTIC}}).optimizer.weight
    with emulate(model, {"optimizer": {"weight": STOCHASTIC}}, optimizer=optimizer, seed=9, rank=5):
        for step in range(2):
            before = model[0].weight.detach().clone()
            model[0].weight.grad = torch.full((4, 4), 1e-3)
            optimizer.step()
            assert torch.equal(model[0].weight, apply(cast, before - 1e-3, Draw(9, "0.weight/weight", step, 1, 0)))


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws() -> None:
    machine = {"optimizer": {"weight": STOCHASTIC, "momentum": STOCHASTIC}, "vector": STOCHASTIC}

    def run(parts: list[int]) -> dict[str, Tensor]:
        model = model_of("mlp")
        optimizer = optimizer_of("sgd_momentum", model)
        state = None
        for steps in parts:
            with emulate(model, machine, optimizer=optimizer, seed=1) as running:
                if state is not None:
                    running.load_state_dict(state)
                train(model, input_of("mlp"), optimizer, steps)
                state = running.state_dict()
        return tensors_of(model, optimizer)

    assert same(run([4]), run([1, 3])) == []


def test_a_weight_that_the_program_writes_itself_is_rounded_at_once() -> None:
    model = nn.Linear(4, 4)
    with emulate(model, {"optimizer": {"weight": "bf16"}}), torch.no_grad():
        for p in model.parameters():
            p -= 1e-3
            assert on_grid(p, torch.bfloat16)
            p.copy_(torch.full_like(p, 1 / 3))
            assert on_grid(p, torch.bfloat16)


def test_gradients_accumulate_and_are_read_once_a_step() -> None:
    model = model_of("mlp")
    optimizer = optimizer_of("sgd", model)
    with emulate(model, {"optimizer": {"gradient": "bf16"}}, optimizer=optimizer) as machine:
        for _ in range(3):
            model(input_of("mlp")).square().mean().backward()
        optimizer.step()
    assert all(on_grid(p.grad, torch.bfloat16) for p in model.parameters())
    assert {row.count for row in machine.audit() if row.role == "gradient"} == {1}
    assert machine.step == 1


ONES = 300


@pytest.mark.parametrize(
    ("accumulate", "vector", "expected"),
    [
        ("bf16", None, 256.0),
        ("bf16", "fp16", 256.0),
        ("fp32", "bf16", float(ONES)),
        (None, "bf16", 256.0),
        (None, None, float(ONES)),
    ],
)
def test_a_gradient_that_is_kept_in_bf16_stalls_at_256_ones(accumulate: str | None, vector: str | None, expected: float) -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(3))])
    with emulate(model, {"optimizer": {"accumulate": accumulate}, "vector": vector}):
        for _ in range(ONES):
            model[0].sum().backward()
    assert torch.equal(model[0].grad, torch.full((3,), expected))


def accumulated(machine, micro_batches: int = 3) -> tuple[dict[str, Tensor], Machine]:
    """Parameters and gradients of tied weights after some micro-batches and a step."""
    model = model_of("transformer")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with emulate(model, machine, optimizer=optimizer, seed=4) as running:
        for i in range(micro_batches):
            loss_of(model((input_of("transformer") + i) % 11)).backward()
        optimizer.step()
    return tensors_of(model), running


def test_gradients_kept_in_fp32_are_torch_s_own() -> None:
    found, machine = accumulated({"optimizer": {"accumulate": "fp32"}})
    assert same(found, accumulated("fp32")[0]) == []
    rows = [row for row in machine.audit() if row.role == "accumulate"]
    assert {row.site for row in rows} == {name for name, _ in model_of("transformer").named_parameters()}
    assert {row.count for row in rows} == {3}
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}


@pytest.mark.parametrize("cast", ["bf16", {"format": "bf16", "rounding": "stochastic"}])
def test_every_sum_of_micro_batches_is_rounded_once_with_words_of_its_own(cast) -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    declared = datapath({"optimizer": {"accumulate": cast}}).optimizer.accumulate
    batches = [torch.randn(2, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with emulate(model, {"optimizer": {"accumulate": cast}}, seed=4):
        for x in batches:
            model(x).sum().backward()
    expected = torch.zeros(3, 4)
    for call, x in enumerate(batches):
        expected = apply(declared, expected + torch.ones(3, 2) @ x, Draw(4, "0.weight/accumulate", 0, call, 0))
    assert torch.equal(model[0].weight.grad, expected)


def test_a_parameter_that_thaws_inside_the_block_is_followed_and_hooks_end_with_it() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.requires_grad_(False)
    third = torch.full((1, 2), 1 / 3)
    with emulate(model, {"optimizer": {"accumulate": "bf16"}}):
        assert not model.weight.requires_grad
        model.weight.requires_grad_()
        model(third).sum().backward()
        assert torch.equal(model.weight.grad, third.bfloat16().float())
    model.weight.grad = None
    model(third).sum().backward()
    assert torch.equal(model.weight.grad, third)


def test_gradients_recomputed_under_checkpointing_are_kept_in_the_same_format() -> None:
    expected = accumulated({"optimizer": {"accumulate": "bf16"}})[0]
    for reentrant in (True, False):
        model = fresh_transformer(reentrant)
        with emulate(model, {"optimizer": {"accumulate": "bf16"}}, seed=4):
            for i in range(3):
                loss_of(model((input_of("transformer") + i) % 11)).backward()
        grads = {name: x for name, x in tensors_of(model).items() if name.endswith(".grad")}
        assert same(grads, {name: x for name, x in expected.items() if name.endswith(".grad")}) == []


def test_an_optimizer_with_a_closure_evaluates_it_as_forward_and_backward() -> None:
    model = model_of("mlp")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(input_of("mlp")).square().mean()
        loss.backward()
        return loss

    with emulate(model, "fp32", optimizer=optimizer) as machine:
        optimizer.step(closure)
    phases = {row.phase for row in machine.audit() if row.gemm}
    assert phases == {"forward", "backward"}


CLOSURES = {"positional": lambda optimizer, f: optimizer.step(f), "keyword": lambda optimizer, f: optimizer.step(closure=f)}


@pytest.mark.parametrize("given", CLOSURES)
def test_the_gradients_of_a_closure_are_read_when_it_has_computed_them(given: str) -> None:
    def run(machine, step) -> tuple[dict[str, Tensor], float]:
        model = model_of("mlp")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with emulate(model, machine, optimizer=optimizer) as running:

            def closure() -> Tensor:
                optimizer.zero_grad(set_to_none=False)
                loss = model(input_of("mlp")).square().mean()
                running.scale(loss).backward()
                return loss

            for _ in range(3):
                step(optimizer, closure)
        return tensors_of(model, optimizer), running.state_dict()["loss_scaling"]["factor"]

    def before(optimizer: torch.optim.Optimizer, closure) -> None:
        closure()
        optimizer.step()

    machine = {
        "optimizer": {"gradient": {"format": "bf16", "rounding": "stochastic"}},
        "loss_scaling": {"initial": 1024, "interval": 2},
    }
    tensors, factor = run(machine, CLOSURES[given])
    expected, expected_factor = run(machine, before)
    assert same(tensors, expected) == []
    assert factor == expected_factor == 2048


def test_every_evaluation_of_a_closure_has_its_gradients_read() -> None:
    model = model_of("mlp")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    read: list[bool] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(input_of("mlp")).square().mean()
        loss.backward()
        return loss

    with emulate(model, {"optimizer": {"gradient": "bf16"}}, optimizer=optimizer) as machine:
        optimizer.step(closure)
        read += [on_grid(p.grad, torch.bfloat16) for p in model.parameters()]
    assert all(read)
    assert {row.count for row in machine.audit() if row.role == "gradient"} == {3}


@pytest.mark.parametrize("form", [{}, {"foreach": True}, {"fused": True}])
def test_adam_s_count_of_steps_is_never_rounded(form: dict[str, bool]) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters(), **form)
    casts = dict.fromkeys(("momentum", "variance", "state", "weight"), "bf16")
    if "fused" not in form:
        casts["update"] = "bf16"
    with emulate(layer, {"optimizer": casts, "vector": "bf16"}, optimizer=optimizer):
        for _ in range(2):
            layer(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            for state in optimizer.state.values():
                state["step"].fill_(256.0)
        optimizer.step()
    assert {state["step"].item() for state in optimizer.state.values()} == {257.0}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    ("kind", "counters"), [(torch.optim.NAdam, {"step", "mu_product"}), (torch.optim.ASGD, {"step", "eta", "mu"})]
)
def test_the_numbers_of_an_optimizer_s_control_flow_are_never_rounded(kind, counters: set[str], foreach: bool) -> None:
    def states(machine) -> dict[str, Tensor]:
        layer = nn.Linear(2, 2)
        optimizer = kind(layer.parameters(), lr=0.01, foreach=foreach)
        with emulate(layer, machine, optimizer=optimizer):
            for _ in range(3):
                optimizer.zero_grad()
                layer(torch.ones(1, 2)).sum().backward()
                optimizer.step()
        return optimizer.state[layer.weight]

    casts = dict.fromkeys(("momentum", "variance", "state", "update", "weight"), "bf16")
    rounded, plain = states({"optimizer": casts}), states("fp32")
    assert {key for key, x in plain.items() if not x.dim()} == counters
    assert all(torch.equal(rounded[key], plain[key]) for key in counters)
    assert all(on_grid(x, torch.bfloat16) for key, x in rounded.items() if key not in counters)
