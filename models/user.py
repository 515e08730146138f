"""Tasks from a user's own functions, named as `package.module:function`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from .errors import TaskError, nearest, not_allowed
from .measures import LOSSES, METRICS
from .task import Data, Measure, Task

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def user_task(
    *, model: str, data: str, loss: str = "cross_entropy", metrics: Mapping[str, str] | None = None, name: str = "user"
) -> Task:
    """A task from functions that Python can import.

    Args:
        model: `package.module:function`, called without arguments for a new `nn.Module`.
        data: the same for the data: a `Data`, or its four tensors (training inputs and targets, test inputs and targets).
        loss: `cross_entropy`, `half_squared_error`, or a path to a function of (outputs, targets); it also gets float64.
        metrics: metric names to `accuracy`, `bits_per_symbol`, `absolute_error` or paths; without it, cross entropy is
            accompanied by `accuracy`, and any other loss by nothing.
        name: what the task is called in results.

    Raises:
        TaskError: a path that is no path, a module or function that is not there, or no function. What the functions
            return is checked when the task calls them.
    """
    make, load = _function("model", model), _function("data", data)
    if metrics is None:
        metrics = {"accuracy": "accuracy"} if loss == "cross_entropy" else {}
    return Task(
        make_model=partial(_make, model, make),
        load_data=partial(_load, data, load),
        loss=_measure("loss", loss, LOSSES),
        metrics={word: _measure(f"metrics.{word}", path, METRICS) for word, path in metrics.items()},
        source=f"the user's {data}",
        name=name,
        description=f"Model of {model}, data of {data}.",
    )


def _measure(field: str, path: str, known: Mapping[str, Measure]) -> Measure:
    if ":" in path:
        return _function(field, path)
    if path not in known:
        raise TaskError(not_allowed(field, path, [*known, "package.module:function"]), field)
    return known[path]


def _function(field: str, path: str) -> Callable[..., Any]:
    if not _PATH.fullmatch(path):
        raise TaskError(f"{field}: got {path!r}; allowed: package.module:function", field)
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise TaskError(f"{field}: got {path!r}, but importing {module_name!r} failed: {error}", field) from error
    public = [word for word in dir(module) if not word.startswith("_")]
    if not hasattr(module, attribute):
        raise TaskError(f"{field}: got {path!r}, but {module_name!r} has no {attribute!r}{nearest(attribute, public)}", field)
    function = getattr(module, attribute)
    if not callable(function):
        raise TaskError(f"{field}: got {path!r}, {_a(function)}; allowed: a function", field)
    found: Callable[..., Any] = function
    return found


def _make(path: str, make: Callable[[], object]) -> nn.Module:
    model = make()
    if not isinstance(model, nn.Module):
        raise TaskError(f"model: {path!r} returned {_a(model)}; allowed: a torch.nn.Module", "model")
    return model


def _load(path: str, load: Callable[[], object]) -> Data:
    data = load()
    if isinstance(data, tuple | list) and len(data) == 4 and all(isinstance(part, Tensor) for part in data):
        return Data(*data)
    if not isinstance(data, Data):
        raise TaskError(f"data: {path!r} returned {_a(data)}; allowed: a hwsim.models.Data, or a tuple of four tensors", "data")
    return data


def _a(value: object) -> str:
    return f"an object of type {type(value).__name__}"
