"""Trained models and batches that budgets are taken of."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hwsim.datapaths import Datapath, datapath
from hwsim.fields import format_record
from hwsim.formats import Block
from hwsim.models import Task, batches, initial_model, task

SAMPLES = {"digits_cnn": 256, "char_gpt": 64}
LR = 0.05


@cache
def trained(name: str) -> tuple[nn.Module, Task, tuple[Tensor, Tensor]]:
    """A task's model after a short training, and a batch."""
    options: dict[str, Any] = {
        "digits_cnn": {},
        "char_gpt": {"network": "torch", "layers": 2, "heads": 2, "width": 32, "context": 16},
    }[name]
    made = task(name, **options)
    data, model = made.load_data(), initial_model(made, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step, (inputs, targets) in enumerate(batches(data, 64, 0, 0)):
        if step == 60:
            break
        optimizer.zero_grad()
        made.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model, made, (data.train_inputs[: SAMPLES[name]], data.train_targets[: SAMPLES[name]])


def all_operands(fmt: str) -> Datapath:
    """Every operand of every GEMM in one format, scaled by each tensor's largest magnitude unless its blocks have scales."""
    cast = {"format": fmt} if isinstance(format_record(fmt), Block) else {"format": fmt, "scaling": "absmax"}
    return datapath({"name": fmt, "gemm": {"all": {"input": cast, "weight": cast, "grad_output": cast}}})
