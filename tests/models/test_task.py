"""A task is a pure function of its options and its run's seed, and is scored in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hwsim.models import Data, Task, TaskError, batches, evaluate, initial_model, predict, score, task


def counting(count: int = 10) -> Data:
    rows = torch.arange(float(count)).unsqueeze(1)
    return Data(rows, rows, rows, rows)


def order(data: Data, **arguments: object) -> list[float]:
    return [
        value
        for inputs, _ in batches(data, **{"batch_size": 4, "seed": 0, "epoch": 0, **arguments})
        for value in inputs.flatten().tolist()
    ]


@pytest.fixture
def half_square() -> Task:
    return Task(
        lambda: nn.Linear(1, 1),
        counting,
        lambda o, t: 0.5 * (o - t).square().mean(),
        {"worst": lambda o, t: (o - t).abs().max()},
        "none",
    )


class TestOrderOfTheSamples:
    def test_is_the_same_for_the_same_seed_and_epoch_whatever_the_global_generator_does(self) -> None:
        torch.manual_seed(1)
        first = order(counting(100))
        torch.manual_seed(2)
        assert order(counting(100)) == first

    def test_leaves_the_global_generator_alone(self) -> None:
        before = torch.random.get_rng_state()
        order(counting())
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_differs_between_seeds_and_between_epochs(self) -> None:
        pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (2**32, 1)]
        assert len({tuple(order(counting(100), seed=seed, epoch=epoch)) for seed, epoch in pairs}) == len(pairs)

    def test_is_the_recorded_one(self) -> None:
        assert order(counting(), seed=3, epoch=5) == [8, 2, 5, 6, 9, 3, 7, 0, 1, 4]

    def test_visits_every_sample_once_an_epoch_with_its_target(self) -> None:
        assert sorted(order(counting())) == list(range(10))
        assert all(torch.equal(inputs, targets) for inputs, targets in batches(counting(), 4, 0, 0))

    @pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
    def test_keeps_a_short_last_batch_unless_told(self, drop_last: bool, sizes: list[int]) -> None:
        assert [len(inputs) for inputs, _ in batches(counting(), 4, 0, 0, drop_last=drop_last)] == sizes

    @pytest.mark.parametrize(
        ("size", "drop_last", "message"),
        [
            (0, False, "batch_size: got 0; allowed: at least 1"),
            (11, True, "batch_size: got 11; allowed: 1 to 10, the number of training samples"),
        ],
    )
    def test_refuses_an_impossible_batch_size_before_the_first_batch(self, size: int, drop_last: bool, message: str) -> None:
        with pytest.raises(TaskError) as error:
            batches(counting(), size, 0, 0, drop_last=drop_last)
        assert str(error.value) == message


class TestInitialModel:
    def test_is_a_function_of_the_seed_alone(self) -> None:
        digits = task("digits_mlp", width=4)
        torch.manual_seed(1)
        first = initial_model(digits, 7).state_dict()
        torch.manual_seed(2)
        again = initial_model(digits, 7).state_dict()
        other = initial_model(digits, 8).state_dict()
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not any(torch.equal(first[key], other[key]) for key in first)

    def test_is_what_manual_seed_gives_and_leaves_the_global_generator_alone(self) -> None:
        digits = task("digits_mlp", width=4)
        before = torch.random.get_rng_state()
        weight = initial_model(digits, 7).state_dict()["1.weight"]
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(7)
        assert torch.equal(digits.make_model().state_dict()["1.weight"], weight)


class TestData:
    def test_checksum_follows_the_content_and_not_the_memory_layout(self) -> None:
        data = counting()
        turned = replace(data, train_inputs=data.train_inputs.T.contiguous().T)
        assert turned.checksum == data.checksum == counting().checksum
        assert data.checksum == "518be5db3de2410e00db4aa37a5b3e199853588318c05654607ad2add920c51f"

    @pytest.mark.parametrize("change", [lambda t: t + 1, lambda t: t.double(), lambda t: t.unsqueeze(1)])
    def test_checksum_sees_a_change_of_value_type_or_shape(self, change) -> None:
        data = counting()
        assert replace(data, test_inputs=change(data.test_inputs)).checksum != data.checksum

    def test_checksum_tells_training_from_test_data(self) -> None:
        a, b = torch.zeros(2, 1), torch.ones(2, 1)
        assert Data(a, a, b, b).checksum != Data(b, b, a, a).checksum

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("train_inputs", [1.0], "data: train_inputs: got list; allowed: a tensor of at least one sample"),
            (
                "test_targets",
                torch.empty(0, 1),
                "data: test_targets: got a tensor of shape (0, 1); allowed: a tensor of at least one sample",
            ),
            ("train_targets", torch.ones(3), "data: train: got 10 inputs and 3 targets; allowed: as many of each"),
        ],
    )
    def test_refuses_what_is_no_data_set(self, field: str, value: object, message: str) -> None:
        with pytest.raises(TaskError) as error:
            replace(counting(), **{field: value})
        assert str(error.value) == message


class TestScore:
    def test_measures_in_float64(self, half_square: Task) -> None:
        # The sum of the squares, 2^48 + 1, is no float32.
        outputs, targets = torch.tensor([[2.0**24], [1.0]]), torch.zeros(2, 1)
        assert score(half_square, outputs, targets) == {"loss": 0.25 * (2.0**48 + 1), "worst": 2.0**24}

    def test_of_the_test_set_does_not_depend_on_a_short_last_batch(self, half_square: Task) -> None:
        model = nn.Linear(1, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        for batch_size in (1, 3, 10, 64):
            assert evaluate(model, half_square, counting(), batch_size) == {"loss": 0.5 * 28.5, "worst": 9.0}

    def test_lets_nan_through(self, half_square: Task) -> None:
        assert math.isnan(score(half_square, torch.full((2, 1), math.nan), torch.zeros(2, 1))["loss"])

    def test_predicts_in_evaluation_mode_and_restores_each_module(self) -> None:
        model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1))
        model[1].eval()
        outputs = predict(model, torch.ones(8, 1), 4)
        assert not outputs.requires_grad
        assert outputs.unique().numel() == 1
        assert [model.training, model[0].training, model[1].training] == [True, True, False]

    def test_refuses_a_metric_called_loss(self, half_square: Task) -> None:
        with pytest.raises(TaskError, match=r"^metrics: got the name 'loss'; allowed: any other name$"):
            replace(half_square, metrics={"loss": half_square.loss})
