"""From a study's choice of task to the task itself."""

from __future__ import annotations

import json
from functools import cache

import torch

from hwsim.config import canonical
from hwsim.models import Data, Task, TaskError, task, task_options, user_task

from .choices import TaskChoice

USER_OPTIONS = ("model", "data", "loss", "metrics")


def completed(choice: TaskChoice) -> TaskChoice:
    """The choice with every option of its task written out.

    Raises:
        TaskError: no such task or option, a value that is not allowed, a package or file that is not there, a batch larger
            than the training set, a cast of labels that are classes.
    """
    made = build(choice)
    if not _is_user(choice):
        # A model without numbers, so that one that cannot be made is refused before anything runs.
        with torch.device("meta"):
            made.make_model()
        known = task_options(choice.name)
        options = {name: option.check(choice.name, choice.options.get(name, option.default)) for name, option in known.items()}
        choice = choice.model_copy(update={"options": options})
    targets = data(choice).train_targets
    if choice.labels is not None and not targets.is_floating_point():
        raise TaskError(f"got a cast for targets of {targets.dtype}; allowed: with targets that are real numbers", "labels")
    samples = len(targets)
    if choice.batch_size > samples:
        raise TaskError(f"got {choice.batch_size}; allowed: 1 to {samples}, the number of training samples", "batch_size")
    return choice


def build(choice: TaskChoice) -> Task:
    """The task: one of the catalogue, or of the user's own functions where the options name a `model`.

    Raises:
        TaskError: as for `completed`.
    """
    if not _is_user(choice):
        return task(choice.name, **choice.options)
    for name in choice.options:
        if name not in USER_OPTIONS:
            raise TaskError(f"unknown key; allowed: batch_size, epochs, labels, name, {', '.join(USER_OPTIONS)}", name)
    for name in ("model", "data"):
        if name not in choice.options:
            raise TaskError("missing; allowed: a task's `name`, or `model` and `data` as package.module:function", name)
    return user_task(name=choice.name, **choice.options)


def data(choice: TaskChoice) -> Data:
    """The data of the task, loaded once a process."""
    return _data(choice.name, canonical(choice.options))


@cache
def _data(name: str, options: str) -> Data:
    return build(TaskChoice(name=name, epochs=1, batch_size=1, options=json.loads(options))).load_data()


def _is_user(choice: TaskChoice) -> bool:
    return "model" in choice.options or choice.name == "user"
