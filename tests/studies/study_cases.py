"""What the tests of studies share: one small study file, and the runs it stands for."""

from collections import OrderedDict
from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn

from hwsim.config import loads
from hwsim.studies.executors import Needs, Work
from hwsim.studies.files import StudyFile
from hwsim.studies.plan import Plan, expand
from hwsim.studies.schema import Run
from hwsim.studies.worker import Finished

TINY = """\
formats:
  my_e3m2: {kind: float, exponent_bits: 3, mantissa_bits: 2, specials: finite}
datapaths:
  mine:
    description: Every operand in a format of one's own.
    gemm: {all: {input: my_e3m2, weight: my_e3m2, grad_output: {format: my_e3m2, scaling: absmax}}}
study:
  name: tiny
  task: {name: digits_mlp, epochs: 1, batch_size: 256, width: 4}
  optimizer: {name: sgd, lr: 0.1}
  baseline: fp32
  grid: {datapath: [fp32, mine]}
  seeds: [0, 1]
"""

Edit = tuple[str, str]
TRUSTED = ("study_cases", "test_checkpoints")


def edited(*edits: Edit) -> str:
    """The small study's text with pieces replaced."""
    text = TINY
    for old, new in edits:
        if old not in text:
            raise ValueError(f"{old!r} is not in the study")
        text = text.replace(old, new)
    return text


def study_of(*edits: Edit) -> StudyFile:
    """The small study with pieces of its text replaced."""
    return StudyFile.of(loads(edited(*edits), "tiny.yaml"), TRUSTED)


def plan_of(*edits: Edit) -> Plan:
    """The plan of that study."""
    return expand(study_of(*edits))


class Here:
    """One run after another in this process: a fresh one takes seconds to import everything."""

    workers = 1

    def __init__(self, workers: int | None, needs: Needs) -> None:
        pass

    def map(self, work: Work, runs: Sequence[Run]) -> Generator[Finished, None, None]:
        """See `Executor.map`."""
        yield from map(work, runs)


def no_model() -> None:
    """A user's function that fails when a run calls it."""
    raise RuntimeError("the model is <b>broken</b>")


def layer_called_name() -> nn.Module:
    """A user's model whose only layer has the name of a label."""
    return nn.Sequential(OrderedDict(name=nn.Linear(1, 1)))


def few_points() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A user's data: four points on a line."""
    x = torch.arange(4.0).unsqueeze(1)
    return x, 2 * x, x, 2 * x


@torch.library.custom_op("hwsim_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """An operation that no emulator knows."""
    return 2 * x


doubled.register_autograd(lambda ctx, grad: 2 * grad)


class Unknown(torch.nn.Linear):
    """A layer of a user's own with an operation that no emulator knows."""

    def forward(self, x: Tensor) -> Tensor:
        return doubled(super().forward(x))


def unknown_model() -> torch.nn.Module:
    """A user's model of it."""
    return Unknown(1, 1)
