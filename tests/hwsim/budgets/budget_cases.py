"""Models, losses and machines that budgets are taken of."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hwsim.budgets import Budget
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


class Attentive(nn.Module):
    """Attention over embedded tokens, its products of activations recomputed or not."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.embedding, self.qkv, self.head = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Linear(8, 11)
        self.checkpointed = checkpointed

    def attended(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.softmax(q @ k.mT, -1) @ v

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        attended = checkpoint(self.attended, x, use_reentrant=False) if self.checkpointed else self.attended(x)
        result: Tensor = self.head(attended)
        return result


INT4 = {"format": "int4", "scaling": "absmax"}


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def tokenwise(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.reshape(-1, 11), targets.reshape(-1))


def one(gemm: str, role: str, cast: Any = INT4) -> dict[str, Any]:
    return {"name": "one", "gemm": {gemm: {role: cast}}}


def rows_of(budget: Budget, gemm: str, role: str) -> list[Any]:
    return [row for row in budget.rows if (row.gemm, row.role) == (gemm, role)]


def with_loss(linear: Any) -> tuple[nn.Module, Any, tuple[Tensor, Tensor]]:
    model, batch = linear
    return model, squared, batch
