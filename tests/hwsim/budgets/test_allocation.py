"""Limits, the allocation of formats within one, and two machines in lock step."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hwsim
from hwsim.budgets.allocation import allocate
from hwsim.budgets.limits import Limits, verdicts
from hwsim.budgets.lockstep import first_difference
from hwsim.budgets.twins import Twin
from hwsim.datapaths import Datapath, datapath
from hwsim.studies.budgeting import write_datapath


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def small() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), (torch.randn(32, 16), torch.randn(32, 4))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def machine(**unit: object) -> Datapath:
    return datapath({"name": "given", "gemm": {"all": {"input": "bf16", "mac": {"order": "sequential", **unit}}}})


@pytest.mark.parametrize(("limit", "passed"), [("90 %", True), (10.0, True), ("0.001 %", False), (1e-9, False)])
def test_a_limit_is_a_number_or_a_share_of_the_twin(limit: object, passed: bool) -> None:
    model, batch = small()
    cast = {"format": "int3", "scaling": "absmax"}
    found = hwsim.budget(model, squared, batch, {"name": "int3", "gemm": {"output": {"input": cast}}}, causes=False)
    (verdict,) = verdicts(found, Limits.model_validate({"loss": limit}))
    assert verdict.passed is passed
    assert str(verdict).startswith("pass" if passed else "FAIL")


def test_every_limit_is_judged_by_what_all_casts_change_together() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(16, 4), 8 * torch.randn(32, 16)
    batch = (x, model(x).argmax(1))
    cast = {"format": "int2", "scaling": "absmax"}
    machine = {"name": "int2", "gemm": {"output": {"weight": cast}, "grad_weight": {"grad_output": cast}}}
    found = hwsim.budget(model, nn.functional.cross_entropy, batch, machine, optimizer=sgd(model), causes=False, predict=False)
    whole = found.part("all")
    changes = {
        "loss": whole.measured,
        "step_loss": found.part("all, after the step").measured,
        "accuracy": whole.accuracy,
        "logits": 10 ** (-whole.sqnr / 20),
        "gradient": whole.gradient_error,
    }
    assert changes["accuracy"] < 0
    for factor, passed in ((1.01, True), (0.99, False)):
        limits = Limits.model_validate({name: factor * abs(change) for name, change in changes.items()})
        judged = {verdict.name: (verdict.found, verdict.passed) for verdict in verdicts(found, limits)}
        assert judged == {name: (pytest.approx(change), passed) for name, change in changes.items()}


def test_the_loss_after_the_step_is_limited_where_only_the_forward_pass_rounds() -> None:
    model, batch = small()
    cast = {"format": "int3", "scaling": "absmax"}
    found = hwsim.budget(model, squared, batch, {"name": "int3", "gemm": {"output": {"input": cast}}}, causes=False)
    (verdict,) = verdicts(found, Limits.model_validate({"step_loss": 1.0}))
    assert verdict.found == found.part("all").step_loss != found.part("all").measured


def test_casts_of_the_backward_pass_leave_the_batchs_own_loss_where_it_is() -> None:
    model, batch = small()
    machine = {"name": "int3", "gemm": {"grad_weight": {"input": {"format": "int3", "scaling": "absmax"}}}}
    found = hwsim.budget(model, squared, batch, machine, optimizer=sgd(model), causes=False)
    loss, step = verdicts(found, Limits.model_validate({"loss": 1e-9, "step_loss": 1e-9}))
    assert (loss.found, loss.passed) == (0.0, True)
    assert step.found == found.part("all").measured != 0


@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.3])
def test_an_allocation_keeps_its_limit_and_is_cheaper_the_wider_that_is(share: float) -> None:
    model, batch = small()
    twin = Twin(model, squared, batch, sgd(model), torch.float64)
    base = twin.step(datapath({}), {}, 0)[0].loss
    found = allocate(twin, "proposed", share * base, ("fp4_e2m1fn", "fp8_e4m3fn", "bf16", "fp32"))
    assert found.within
    assert datapath(found.datapath).name == "proposed"
    wider = allocate(twin, "wider", 10 * share * base, ("fp4_e2m1fn", "fp8_e4m3fn", "bf16", "fp32"))
    assert 4 <= wider.bits <= found.bits <= 32


def test_the_file_of_an_allocation_changes_what_the_allocation_says(tmp_path: Path) -> None:
    model, batch = small()
    twin = Twin(model, squared, batch, sgd(model), torch.float64)
    found = allocate(twin, "proposed", 0.1, ("fp4_e2m1fn", "fp8_e4m3fn", "bf16", "fp32"))
    path = tmp_path / "proposed.yaml"
    write_datapath(found, path)
    x, y = batch[0].double(), batch[1].double()
    losses = []
    for machine in (datapath(path), datapath({"name": "wide"})):
        copied, _ = small()
        copied.double()
        optimizer = sgd(copied)
        with hwsim.emulate(copied, machine, optimizer):
            loss = squared(copied(x), y)
            loss.backward()
            optimizer.step()
        losses.append((loss.item(), squared(copied(x), y).item()))
    changes = [cast - wide for cast, wide in zip(*losses, strict=True)]
    assert found.measured == pytest.approx(max(changes), rel=1e-9)
    assert found.measured != 0


def test_two_units_differ_first_in_a_product_whose_vectors_are_given() -> None:
    model, batch = small()
    a, b = machine(accumulator={"format": "fp12_e6m5"}), machine(accumulator={"format": "fp16"})
    found = first_difference(model, sgd, squared, [batch], a, b)
    assert found is not None
    assert (found.step, found.site, found.gemm, found.tensor) == (0, "0", "output", "result")
    assert len(found.row) == len(found.column) == 16
    assert found.row == tuple(hwsim.quantize(batch[0], "bf16")[found.element[0]].tolist())


def test_two_casts_differ_first_in_an_operand() -> None:
    model, batch = small()
    a, b = (datapath({"name": fmt, "gemm": {"grad_weight": {"input": fmt}}}) for fmt in ("bf16", "fp16"))
    found = first_difference(model, sgd, squared, [batch], a, b)
    assert found is not None
    assert (found.site, found.gemm, found.tensor) == ("2", "grad_weight", "input")


def test_two_optimizer_units_differ_first_in_the_gradient_that_they_read() -> None:
    model, batch = small()
    a, b = datapath({"name": "a", "optimizer": {"gradient": "bf16"}}), datapath({"name": "b"})
    found = first_difference(model, sgd, squared, [batch], a, b)
    assert found is not None
    assert (found.site, found.tensor) == ("0.weight", "gradient")


def test_equal_machines_agree_to_the_end() -> None:
    model, batch = small()
    cast = {"format": "int4", "scaling": "absmax", "rounding": "stochastic"}
    a = datapath({"name": "a", "gemm": {"all": {"weight": cast}}})
    assert first_difference(model, sgd, squared, [batch, batch], a, a, seed=3) is None


def test_machines_keep_their_scales_from_step_to_step() -> None:
    model, batch = small()
    louder = batch[0] * 64, batch[1]
    delayed = {"format": "fp8_e4m3fn", "scaling": {"rule": "delayed", "window": 4}}
    latest = {"format": "fp8_e4m3fn", "scaling": {"rule": "delayed", "window": 1}}
    a, b = (datapath({"name": "kept", "gemm": {"output": {"input": cast}}}) for cast in (delayed, latest))
    assert first_difference(model, still, squared, [batch, louder, batch], a, b) is None
    found = first_difference(model, still, squared, [batch, louder, batch, batch], a, b)
    assert found is not None
    assert (found.step, found.tensor) == (3, "input")


def test_a_scaled_loss_is_scaled_in_lock_step_too() -> None:
    model, batch = small()
    found = first_difference(model, sgd, squared, [batch], datapath("fp16"), datapath({"name": "wide"}))
    assert found is not None
    assert found.step == 0


def still(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.0)


class Unpredicted(nn.Module):
    """A branch whose output reaches no loss through autograd, so that nothing is predicted of its casts."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.hidden = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.seen(x) + self.hidden(x).detach()  # type: ignore[no-any-return]


def test_what_is_not_predicted_takes_the_widest_format() -> None:
    torch.manual_seed(0)
    model, batch = Unpredicted(), (torch.randn(32, 16), torch.randn(32, 4))
    found = allocate(Twin(model, squared, batch, sgd(model), torch.float64), "proposed", 10.0, ("fp4_e2m1fn", "bf16"))
    assert found.formats["seen/output/weight"] == "fp4_e2m1fn"
    assert found.formats["hidden/output/weight"] == "bf16"
    assert found.within


def test_a_candidate_of_ones_own_is_written_out() -> None:
    model, batch = small()
    own = hwsim.format({"kind": "float", "exponent_bits": 3, "mantissa_bits": 1, "specials": "finite"})
    found = allocate(Twin(model, squared, batch, sgd(model), torch.float64), "proposed", 10.0, (own, "fp32"))
    assert found.datapath["overrides"]["0"]["gemm"]["output"]["weight"]["format"]["exponent_bits"] == 3
    assert datapath(found.datapath).name == "proposed"
