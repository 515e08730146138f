"""Training towards few values a weight: which values, by which method, and how many weights are on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from hwsim.casts import Granularity
from hwsim.config.record import Record
from hwsim.fields import FormatField
from hwsim.formats import Format, Integer
from hwsim.training import (
    LSBQ,
    LSQ,
    PARQ,
    BinaryRelax,
    FormatLevels,
    Hard,
    LevelQuantizer,
    Linear,
    Parq,
    ProxMap,
    Sigmoid,
    Ternary,
    Uniform,
    split_parameters,
)
from hwsim.training.level_quantizers import ScaleRule
from hwsim.training.nearest import nearest
from hwsim.training.rows import from_rows, to_rows

Bits = Annotated[int, Field(ge=1, le=8)]
Share = Annotated[float, Field(ge=0, le=1)]
Method = Literal["ste", "binary_relax", "parq", "lsq", "post_training"]


class LsbqLevels(Record):
    """Least-squares binary quantization: the sums of +-v_j, found from each row."""

    rule: Literal["lsbq"]
    bits: Bits
    optimal: bool = False

    def quantizer(self) -> LevelQuantizer:
        """The rule."""
        return LSBQ(self.bits, self.optimal)

    @model_validator(mode="after")
    def _possible(self) -> LsbqLevels:
        self.quantizer()
        return self


class UniformLevels(Record):
    """2^bits half-integers times a step."""

    rule: Literal["uniform"]
    bits: Bits

    def quantizer(self) -> LevelQuantizer:
        """The rule."""
        return Uniform(self.bits)


class TernaryLevels(Record):
    """-v, 0 and v; the best v, or 1.1 times the mean magnitude."""

    rule: Literal["ternary"]
    optimal: bool = False

    def quantizer(self) -> LevelQuantizer:
        """The rule."""
        return Ternary(optimal=self.optimal)


class FormatValues(Record):
    """The values of a format times a scale a row."""

    rule: Literal["format"]
    format: FormatField
    scale: ScaleRule = "absmax"

    def quantizer(self) -> LevelQuantizer:
        """The rule."""
        return FormatLevels(self.format, self.scale)

    @model_validator(mode="after")
    def _possible(self) -> FormatValues:
        self.quantizer()
        return self


def _levels(given: Any) -> Any:
    alone = isinstance(given, str | Format) or (isinstance(given, Mapping) and "kind" in given)
    return {"rule": "format", "format": given} if alone else given


LevelsField = Annotated[
    Annotated[LsbqLevels | UniformLevels | TernaryLevels | FormatValues, Field(discriminator="rule")], BeforeValidator(_levels)
]


class QuantizerChoice(Record):
    """The weights of linear and convolution layers are drawn to few values while they are trained.

    Args:
        method: `ste` (always the nearest level in forward and backward), `binary_relax`, `parq`, `lsq` (a learned step, of which
            levels of one bit give -s and s), or `post_training` (trained without, rounded for every test).
        levels: a format's name (scaled by the largest magnitude), or `rule`: `lsbq`, `uniform`, `ternary`, `format`.
        granularity: what shares levels.
        period: steps between updates of the levels.
        start, end: the shares of all steps at which `binary_relax` and `parq` begin to draw, and are hard.
        steepness: of PARQ's schedule.
        keep: beginnings of the names of modules that stay as they are.
    """

    method: Method
    levels: LevelsField
    granularity: Granularity = "tensor"
    period: Annotated[int, Field(ge=1)] = 10
    start: Share = 0.0
    end: Share = 0.75
    steepness: Annotated[float, Field(gt=0, le=700)] = 10.0
    keep: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> QuantizerChoice:
        if self.start >= self.end:
            raise ValueError(f"end: got {self.end:g} with start {self.start:g}; allowed: a later share of the run")
        if self.method == "lsq":
            self.learned_levels()
        return self

    def learned_levels(self) -> tuple[int, bool]:
        """The bits of a learned step size and whether zero is among its levels; 1 bit with zero for -s, 0, s.

        Raises:
            ValueError: the levels are neither -s and s nor signed integers, or not per tensor.
        """
        fmt = self.levels.format if isinstance(self.levels, FormatValues) else None
        values = [] if fmt is None else fmt.values().tolist()
        binary = (isinstance(self.levels, LsbqLevels | UniformLevels) and self.levels.bits == 1) or values == [-1.0, 1.0]
        ternary = isinstance(self.levels, TernaryLevels) or values == [-1.0, 0.0, 1.0]
        integers = isinstance(fmt, Integer) and fmt.signed and fmt.bits > 1
        if not (binary or ternary or integers) or self.granularity != "tensor":
            allowed = "binary, lsbq or uniform of 1 bit, ternary, int2 to int8, granularity tensor"
            raise ValueError(f"levels: got none that one learned step makes; allowed with lsq: {allowed}")
        return (fmt.bits if isinstance(fmt, Integer) and integers else 1), not binary

    def prox_map(self, steps: int) -> ProxMap:
        """How far the weights are drawn, over a run of so many steps."""
        first = int(self.start * steps)
        last = max(int(self.end * steps), first + 1)
        if self.method == "parq":
            return Parq(Sigmoid(first, last, self.steepness))
        return BinaryRelax(Linear(first, last)) if self.method == "binary_relax" else Hard()


@dataclass(frozen=True)
class Trainee:
    """What a run steps, and what it tests.

    Args:
        optimizer: steps the model.
        testing: the context in which the model is tested.
        rate: the share of the weights that are on a level; None where none is drawn to any.
    """

    optimizer: Optimizer
    testing: Callable[[], AbstractContextManager[None]] = nullcontext
    rate: Callable[[], float] | None = None


def trainee(model: nn.Module, choice: QuantizerChoice | None, make: Callable[[Any], Optimizer], steps: int) -> Trainee:
    """The model with an optimizer that draws its weights as chosen.

    Args:
        make: an optimizer from parameters or groups of them.
        steps: of the whole run.
    """
    if choice is None:
        return Trainee(make(model.parameters()))
    if choice.method == "lsq":
        return _learned(model, choice, make)
    rule = choice.levels.quantizer()
    weights, others = split_parameters(model, choice.keep)
    if choice.method == "post_training":
        share = choice.granularity
        return Trainee(
            make(model.parameters()), lambda: _rounded(weights, rule, share), lambda: _rounded_rate(weights, rule, share)
        )
    groups = [{"params": weights}, *([{"params": others}] if others else [])]
    optimizer = PARQ(
        make(groups),
        [rule, *([None] if others else [])],
        choice.prox_map(steps),
        granularity=choice.granularity,
        period=choice.period,
    )
    return Trainee(optimizer, rate=lambda: _rate(optimizer))


def _rate(optimizer: PARQ) -> float:
    """The share of drawn weights that are exactly on a level in use."""
    pairs = []
    for weight, _ in optimizer.latents():
        levels, share = optimizer.levels_of(weight)
        pairs.append((to_rows(weight.detach(), share), levels))
    return _share_on(pairs)


def _rounded_rate(weights: list[nn.Parameter], rule: LevelQuantizer, share: Granularity) -> float:
    """The share of weights that are, once rounded, exactly on a level of what they were."""
    levels = [rule.levels(to_rows(weight.detach(), share)) for weight in weights]
    with _rounded(weights, rule, share):
        return _share_on([(to_rows(weight.detach(), share), own) for weight, own in zip(weights, levels, strict=True)])


@torch.no_grad()
def _learned_rate(learned: list[tuple[nn.Module, LSQ]]) -> float:
    """The share of weights that are exactly on a multiple of their learned step."""
    return _share_on([(cast(torch.Tensor, module.weight).reshape(1, -1), lsq.levels()[None]) for module, lsq in learned])


def _share_on(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Of all rows of elements, the share that equals one of the row's levels; NaN equals none."""
    on = sum(int((nearest(rows, levels) == rows).sum()) for rows, levels in pairs)
    return on / sum(rows.numel() for rows, _ in pairs)


@contextmanager
def _rounded(weights: list[nn.Parameter], rule: LevelQuantizer, share: Granularity) -> Iterator[None]:
    """The weights at their nearest levels, and afterwards as they were."""
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            rows = to_rows(weight, share)
            weight.copy_(from_rows(nearest(rows, rule.levels(rows)), weight.shape, share))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


def _learned(model: nn.Module, choice: QuantizerChoice, make: Callable[[Any], Optimizer]) -> Trainee:
    chosen = {id(weight) for weight in split_parameters(model, choice.keep)[0]}
    learned: list[tuple[nn.Module, LSQ]] = []
    for module in list(model.modules()):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and id(weight) in chosen:
            bits, zero = choice.learned_levels()
            learned.append((module, LSQ(weight, bits, zero=zero)))
            parametrize.register_parametrization(module, "weight", learned[-1][1])
    return Trainee(make(model.parameters()), rate=lambda: _learned_rate(learned))


__all__ = ["QuantizerChoice", "Trainee", "trainee"]
