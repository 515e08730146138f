"""A user's own functions become a task; what is wrong with a path is said by name."""

from pathlib import Path

import pytest
import torch

from hwsim.models import TaskError, batches, evaluate, initial_model, user_task

MODULE = """
import torch
from torch import nn

LIMIT = 3

def make():
    return nn.Linear(2, 3)

def load():
    return torch.ones(4, 2), torch.zeros(4, dtype=torch.long), torch.ones(2, 2), torch.zeros(2, dtype=torch.long)

def penalty(outputs, targets):
    return outputs.square().mean()
"""


@pytest.fixture(autouse=True)
def _importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "things.py").write_text(MODULE)
    (tmp_path / "my_project" / "broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)


def test_functions_of_the_user_make_a_task_that_trains() -> None:
    task = user_task(model="my_project.things:make", data="my_project.things:load")
    data, model = task.load_data(), initial_model(task, 0)
    inputs, targets = next(batches(data, 4, seed=0, epoch=0))
    task.loss(model(inputs), targets).backward()
    assert model.weight.grad is not None
    assert evaluate(model, task, data, 2).keys() == {"loss", "accuracy"}


def test_loss_and_metrics_may_be_the_users_too() -> None:
    task = user_task(
        model="my_project.things:make",
        data="my_project.things:load",
        loss="my_project.things:penalty",
        metrics={"hits": "accuracy", "size": "my_project.things:penalty"},
    )
    assert task.loss(torch.full((2, 2), 3.0), torch.zeros(2)) == 9
    assert task.metrics.keys() == {"hits", "size"}
    assert (
        user_task(model="my_project.things:make", data="my_project.things:load", loss="my_project.things:penalty").metrics == {}
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "my_project.things"}, "model: got 'my_project.things'; allowed: package.module:function"),
        ({"data": "things:load()"}, "data: got 'things:load()'; allowed: package.module:function"),
        (
            {"model": "my_project.thing:make"},
            "model: got 'my_project.thing:make', but importing 'my_project.thing' failed: No module named 'my_project.thing'",
        ),
        (
            {"data": "my_project.broken:load"},
            "data: got 'my_project.broken:load', but importing 'my_project.broken' failed: "
            "No module named 'a_package_that_is_not_there'",
        ),
        (
            {"model": "my_project.things:mkae"},
            "model: got 'my_project.things:mkae', but 'my_project.things' has no 'mkae'; did you mean 'make'?",
        ),
        ({"data": "my_project.things:LIMIT"}, "data: got 'my_project.things:LIMIT', an object of type int; allowed: a function"),
        (
            {"loss": "cross_entrpy"},
            "loss: got 'cross_entrpy'; allowed: cross_entropy, half_squared_error, package.module:function; "
            "did you mean 'cross_entropy'?",
        ),
        (
            {"metrics": {"hits": "acuracy"}},
            "metrics.hits: got 'acuracy'; allowed: absolute_error, accuracy, bits_per_symbol, package.module:function; "
            "did you mean 'accuracy'?",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError) as error:
        user_task(**{"model": "my_project.things:make", "data": "my_project.things:load", **given})
    assert str(error.value) == message
    assert error.value.field == message.partition(":")[0]


def test_functions_that_return_something_else_are_refused_when_called() -> None:
    task = user_task(model="my_project.things:load", data="my_project.things:make")
    with pytest.raises(TaskError) as error:
        task.make_model()
    assert str(error.value) == "model: 'my_project.things:load' returned an object of type tuple; allowed: a torch.nn.Module"
    with pytest.raises(TaskError) as error:
        task.load_data()
    assert str(error.value) == (
        "data: 'my_project.things:make' returned an object of type Linear; "
        "allowed: a hwsim.models.Data, or a tuple of four tensors"
    )
