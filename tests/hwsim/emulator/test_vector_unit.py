"""Everything that is no GEMM is rounded to the vector unit's format, moved, or refused."""

from contextlib import nullcontext

import pytest
import torch
from emulator_cases import MODELS, input_of, loss_of, model_of, on_grid, train
from torch import Tensor, nn
from torch.nn import functional as F

from hwsim.emulator import emulate
from hwsim.errors import ConfigError


class Apply(nn.Module):
    """One expression as a model."""

    def __init__(self, expression) -> None:
        super().__init__()
        self.expression = expression

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(x)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "expression",
    [
        F.gelu,
        F.relu,
        torch.exp,
        lambda x: x + 1 / 3,
        lambda x: x.clone().mul_(1 / 3),
        lambda x: torch.mul(x, 1 / 3, out=torch.empty(4, 6)),
        lambda x: torch.cumsum(x, 1),
        lambda x: x.softmax(-1),
        lambda x: F.layer_norm(x, (6,)),
        lambda x: F.interpolate(x[None, None], scale_factor=1.5, mode="bilinear"),
        lambda x: F.avg_pool1d(x[None], 2),
        lambda x: torch.stack(torch._foreach_mul([x, x], 1 / 3)),
        lambda x: torch.var_mean(x, 1)[0],
        lambda x: F.embedding_bag(torch.tensor([[0, 1], [2, 3]]), x),
        lambda x: x.new_zeros(3, 6).index_add_(0, torch.tensor([0, 1, 1, 2]), x * 1.1),
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(4, 3, 2)) * 1.7),
    ],
)
def test_results_of_arithmetic_are_values_of_the_vector_format(expression) -> None:
    model, x = Apply(expression), numbers(4, 6)
    with torch.no_grad():
        assert not on_grid(expression(x), torch.bfloat16)
        with emulate(model, {"vector": "bf16"}):
            assert on_grid(model(x), torch.bfloat16)


@pytest.mark.parametrize(
    "expression",
    [
        lambda x: x.t(),
        lambda x: x.clone(),
        lambda x: torch.cat([x, x]),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x.masked_fill(x > 0, 0.3),
        lambda x: torch.where(x > 0, x, -0.3),
        lambda x: x.amax(1),
        lambda x: x.sort(1).values,
        lambda x: F.max_pool1d(x[None], 2),
        lambda x: F.pad(x, (1, 1), value=0.3),
        lambda x: F.embedding(torch.tensor([0, 2]), x),
        lambda x: torch.full_like(x, 0.3),
    ],
)
def test_values_that_only_move_keep_every_bit(expression) -> None:
    model, x = Apply(expression), numbers(4, 6)
    with torch.no_grad(), emulate(model, {"vector": "bf16"}):
        y = model(x)
    assert torch.equal(y, expression(x))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_s_running_statistics_are_rounded(training: bool) -> None:
    model = nn.BatchNorm2d(3).train(training)
    x = numbers(4, 3, 5, 5)
    with emulate(model, {"vector": "bf16"}):
        y = model(x)
    assert on_grid(y, torch.bfloat16)
    assert on_grid(model.running_mean, torch.bfloat16)
    assert on_grid(model.running_var, torch.bfloat16)
    assert model.num_batches_tracked == int(training)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_whole_networks_are_values_of_the_declared_formats(name: str) -> None:
    model = model_of(name)
    with emulate(model, {"gemm": "bf16", "vector": "bf16"}) as machine:
        loss = loss_of(model(input_of(name)))
        loss.backward()
    assert on_grid(loss.detach(), torch.bfloat16)
    assert [key for key, p in model.named_parameters() if not on_grid(p.grad, torch.bfloat16)] == []
    assert {row.role for row in machine.unemulated()} <= {"weight", "random", "embedding", "steps"}


def test_the_loss_and_clipping_outside_of_the_model_are_rounded_too() -> None:
    model = model_of("mlp")
    with emulate(model, {"vector": "bf16"}) as machine:
        loss_of(model(input_of("mlp"))).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert on_grid(norm, torch.bfloat16)
    phases = {row.phase for row in machine.audit()}
    assert {"entry", "forward", "loss", "backward", "other"} <= phases


def test_stochastic_vector_rounding_is_unbiased_and_repeatable() -> None:
    model = Apply(lambda x: x + 0.0)
    x = torch.full((4096,), 1 + 0.25 * 2**-7)
    machine = {"vector": {"format": "bf16", "rounding": "stochastic"}}
    with emulate(model, machine, seed=1):
        first, second = model(x), model(x)
    with emulate(model, machine, seed=1):
        assert torch.equal(model(x), first)
    assert not torch.equal(first, second)
    assert ((first - 1) * 2**7).mean().item() == pytest.approx(0.25, abs=0.03)


@torch.library.custom_op("hwsim_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x * x * x


@pytest.mark.parametrize("unknown_ops", ["error", "pass"])
def test_an_unknown_operation_is_refused_with_its_place_or_passed_and_named(unknown_ops) -> None:
    model = nn.Sequential(nn.Linear(3, 3), Apply(cube))
    x = numbers(2, 3)
    refused = pytest.raises(ConfigError, match=r"1 \(forward\): operation hwsim_tests\.cube\.default.*unknown_ops='pass'")
    with (
        torch.no_grad(),
        emulate(model, "bf16", unknown_ops=unknown_ops) as machine,
        refused if unknown_ops == "error" else nullcontext(),
    ):
        model(x)
    if unknown_ops == "pass":
        (row,) = [row for row in machine.unemulated() if row.op == "cube"]
        assert (row.site, row.role) == ("1", "unknown")
        assert machine.coverage()["operations"] < 1
        assert machine.coverage()["flops"] < 1


@pytest.mark.parametrize(
    ("expression", "op"),
    [
        (lambda x: F.bilinear(x, x, torch.ones(2, 4, 4)), "_trilinear"),
        (lambda x: torch.cdist(x, x), "_cdist_forward"),
        (torch.linalg.inv, "linalg_inv_ex"),
        (torch.fft.rfft, "_fft_r2c"),
    ],
)
@pytest.mark.parametrize("unknown_ops", ["error", "pass"])
def test_a_contraction_inside_an_operation_is_always_refused(expression, op: str, unknown_ops) -> None:
    model = Apply(expression)
    with emulate(model, "fp32", unknown_ops=unknown_ops), pytest.raises(ConfigError, match=op):
        model(numbers(4, 4).requires_grad_())


@pytest.mark.parametrize("name", ["mlp", "digits_cnn", "lstm", "gru", "transformer", "encoder", "strided"])
def test_composite_operations_are_opened_in_inference_mode(name: str) -> None:
    def gemms(context) -> set[tuple[str, str]]:
        model = model_of(name).eval()
        with emulate(model, "bf16") as machine, context:
            model(input_of(name))
        return {(row.site, row.cast) for row in machine.audit() if row.gemm}

    assert gemms(torch.inference_mode()) == gemms(torch.no_grad()) != set()


def test_integers_and_comparisons_are_left_alone() -> None:
    model = Apply(lambda x: (x > 0).long().sum(1) + torch.argmax(x, 1))
    with emulate(model, "bf16"):
        y = model(numbers(4, 6))
    assert torch.equal(y, model(numbers(4, 6)))


def test_training_at_low_precision_learns() -> None:
    model = model_of("digits_cnn")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with emulate(model, {"gemm": "bf16", "vector": "bf16"}, optimizer=optimizer):
        losses = train(model, input_of("digits_cnn"), optimizer, steps=12)
    assert losses[-1] < 0.8 * losses[0]


COUNTED = {
    "a comparison": (lambda x: x * (x > 0), "gt"),
    "a place": (lambda x: x[:, x.argmax(-1)], "argmax"),
    "a sum of whole numbers": (lambda x: x * (x > 0).sum(), "sum"),
    "whole numbers in place": (lambda x: x * torch.ones(4, 6, dtype=torch.long).add_(1), "add_"),
}


@pytest.mark.parametrize("case", COUNTED)
def test_truth_values_and_whole_numbers_are_counted_as_moves(case: str) -> None:
    expression, op = COUNTED[case]
    model = Apply(expression)
    with emulate(model, "bf16") as machine:
        model(numbers(4, 6))
    assert [(row.role, row.count) for row in machine.audit() if row.op == op] == [("move", 1)]
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}


@pytest.mark.parametrize(("vector", "reason"), [("bf16", "rows of a weight, selected"), (None, "the datapath declares no cast")])
def test_an_embedding_s_rows_are_named_as_native(vector: str | None, reason: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    with emulate(model, {} if vector is None else {"vector": vector}) as machine:
        model(torch.arange(5))
    (row,) = [row for row in machine.unemulated() if row.role == "embedding"]
    assert (row.phase, row.op, row.site, row.count) == ("forward", "embedding", "0", 1)
    assert row.reason.startswith(reason)
