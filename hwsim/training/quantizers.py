"""The quantizers of quantized SGD: ideal errors with a declared law, and real converters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, Literal, get_args

import torch
from pydantic import TypeAdapter
from torch import Tensor

from hwsim.casting import apply
from hwsim.casts import Cast, CastField, Channel
from hwsim.config import Document, validate
from hwsim.errors import ConfigError, not_allowed
from hwsim.formats import Draw, Format

from .normals import normals_, uniforms_

Law = Literal["additive", "multiplicative", "dither"]
Sharing = Literal["elementwise", "rank_one", "batch_common"]
Component = Literal["data", "labels", "parameters", "activations", "output_gradients"]
COMPONENTS: tuple[Component, ...] = get_args(Component)

IDEAL = "('additive', eps), ('multiplicative', eps[, sharing]), ('dither', step)"


@dataclass(frozen=True)
class Noise:
    """An unbiased quantizer with an ideal error; g is standard Gaussian, u uniform on (0, 1).

    - `additive`: Q(x) = x + sqrt(size) g;
    - `multiplicative`: Q(x) = (1 + sqrt(size) g) x;
    - `dither`: Q(x) = size (round(x / size + u) - u), subtractive dither, whose error is uniform, of variance size^2 / 12, and
      independent of x (Schuchman's condition holds).

    Args:
        law: one of these three.
        size: the variance, the relative variance, or the step: finite, not negative (a step is positive).
        sharing: whether g is drawn for each element, once a vector (`rank_one`: a sample's features; the weights), or once a
            batch (`batch_common`). Labels, activations and output gradients are vectors over the batch, so that `rank_one`
            and `batch_common` are one thing there, as they are for parameters. Only multiplicative errors are shared.

    Raises:
        ConfigError: none of these, or a size that is no variance.
    """

    law: Law
    size: float
    sharing: Sharing = "elementwise"

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise ConfigError(not_allowed("law", self.law, get_args(Law)))
        if self.sharing not in get_args(Sharing):
            raise ConfigError(not_allowed("sharing", self.sharing, get_args(Sharing)))
        if self.sharing != "elementwise" and self.law != "multiplicative":
            raise ConfigError(
                f"sharing: got {self.sharing!r} with {self.law!r}; allowed: only 'multiplicative' errors are shared"
            )
        what = "a positive step" if self.law == "dither" else "a finite variance from 0 on"
        number = isinstance(self.size, float | int) and not isinstance(self.size, bool)
        if not number or not isfinite(self.size) or self.size < 0 or (self.law == "dither" and self.size == 0):
            raise ConfigError(f"{self.law}: got {self.size!r}; allowed: {what}")

    @property
    def additive(self) -> float:
        """The variance that does not depend on x."""
        return {"additive": self.size, "dither": self.size**2 / 12, "multiplicative": 0.0}[self.law]

    @property
    def relative(self) -> float:
        """The variance as a multiple of x^2."""
        return self.size if self.law == "multiplicative" else 0.0

    def __str__(self) -> str:
        return f"{self.law} {self.size:g}" + (f" {self.sharing}" if self.sharing != "elementwise" else "")


Quantizer = Noise | Cast


def parse_quantizers(given: Mapping[str, Any] | None) -> dict[Component, Quantizer]:
    """The quantizers by component, in the order of `COMPONENTS`; a component that is left out, or None, is exact.

    Raises:
        ConfigError: no such component, or no quantizer (see `parse_quantizer`).
    """
    given = given or {}
    unknown = next((name for name in given if name not in COMPONENTS), None)
    if unknown is not None:
        raise ConfigError(not_allowed("quantizers", unknown, COMPONENTS))
    return {name: parse_quantizer(given[name], f"quantizers.{name}") for name in COMPONENTS if given.get(name) is not None}


def parse_quantizer(given: Any, where: str) -> Quantizer:
    """A quantizer from itself, a tuple such as ("additive", 0.01), a format (name, mapping or record), or a Cast's mapping.

    Raises:
        ConfigError: none of these.
    """
    if isinstance(given, Noise):
        return given
    if isinstance(given, tuple | list):
        try:
            return Noise(*given)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        except TypeError:
            raise ConfigError(f"{where}: got {given!r}; allowed: {IDEAL}, or a format") from None
    if isinstance(given, str | Mapping | Format | Cast):
        path = tuple(where.split("."))
        nested: Any = given
        for key in reversed(path):
            nested = {key: nested}
        cast: Cast = validate(Document(nested, ""), TypeAdapter(CastField), path)
        if cast.scaling is not None and isinstance(cast.scaling.granularity, Channel):
            raise ConfigError(f"{where}: got a scale per channel; allowed: granularity tensor (one a replica) or group")
        return cast
    raise ConfigError(f"{where}: got {given!r}; allowed: {IDEAL}, or a format")


def quantize_(x: Tensor, quantizer: Quantizer, draw: Draw, room: Tensor) -> None:
    """Quantize a contiguous float64 tensor (replica, ..., element) in place; `room` is scratch of at least its size.

    `draw.offset` counts elements of the whole ensemble of replicas. A scale "per tensor" is one of each replica's tensor, and
    groups run along the last axis.
    """
    if isinstance(quantizer, Cast):
        x.copy_(apply(_a_replica(quantizer), x, draw))
        return
    if quantizer.law == "dither":
        u = uniforms_(room[: x.numel()].view(x.shape), draw)
        u.add_(x, alpha=1 / quantizer.size)
        x.add_(torch.round(u).sub_(u), alpha=quantizer.size)
        return
    shape = _error_shape(x, quantizer.sharing)
    numbers = shape.numel()
    first = draw.offset * numbers // x.numel()
    errors = normals_(room[:numbers].view(shape), Draw(draw.seed, draw.site, draw.step, offset=first))
    if quantizer.law == "additive":
        x.add_(errors, alpha=sqrt(quantizer.size))
    else:
        x.mul_(errors.mul_(sqrt(quantizer.size)).add_(1.0))


def _error_shape(x: Tensor, sharing: Sharing) -> torch.Size:
    if sharing == "elementwise":
        return x.shape
    kept = x.dim() - 1 if sharing == "rank_one" else 1
    return torch.Size([*x.shape[:kept], *[1] * (x.dim() - kept)])


def _a_replica(cast: Cast) -> Cast:
    scaling = cast.scaling
    if scaling is None or scaling.granularity != "tensor" or scaling.rule in ("none", "fixed"):
        return cast
    return cast.model_copy(update={"scaling": scaling.model_copy(update={"granularity": Channel(channel=0)})})
