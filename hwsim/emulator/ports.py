"""One converter of the machine at one site, and the random words it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsim.casting import apply, elements
from hwsim.casts import Cast, Channel
from hwsim.errors import ConfigError
from hwsim.formats.philox import Draw

from .meter import Meter

CALLS = 1 << 16
FIXED = Draw()


class Draws:
    """The random words of a run: a function of seed, site, step, call and rank."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed = seed
        self.rank = rank
        self.step = 0

    def __call__(self, site: str, call: int, ranked: bool) -> Draw:
        """The words of one call of a site; beyond 2^16 calls in a step the site's name counts on."""
        if call >= CALLS:
            site, call = f"{site}#{call // CALLS}", call % CALLS
        return Draw(self.seed, site, self.step, call, self.rank if ranked else 0)


class Port:
    """A cast at a site; without a cast, or where the cast changes nothing, tensors pass.

    Args:
        cast: what is declared, or None.
        site: the name that random words are keyed by.
        ranked: whether the words depend on the data-parallel rank (not for weights and optimizer states).
    """

    __slots__ = ("_passes", "cast", "draws", "grouped", "meter", "ranked", "site", "stochastic")

    def __init__(self, cast: Cast | None, site: str, draws: Draws, ranked: bool = True, meter: Meter | None = None) -> None:
        self.cast = cast
        self.site = site
        self.draws = draws
        self.ranked = ranked
        self.meter = meter
        self.stochastic = cast is not None and cast.rounding.is_stochastic
        self.grouped = cast is not None and _is_grouped(cast)
        self._passes: dict[torch.dtype, bool] = {}

    def passes(self, dtype: torch.dtype) -> bool:
        """Whether tensors of this dtype go through unchanged."""
        known = self._passes.get(dtype)
        if known is None:
            known = self._passes[dtype] = self.cast is None or self.cast.keeps(dtype)
        return known

    def does_the_same(self, other: Port) -> bool:
        """Whether the other port makes the same values of the same tensor, so that they need not be made twice."""
        apart = self.stochastic or self.grouped or self.meter is not None
        return not apart and self.cast is not None and self.cast == other.cast

    def __call__(self, x: Tensor, call: int = 0, axis: int = -1, site: str = "") -> Tensor:
        """The tensor after the cast (dequantized values); groups run along `axis`."""
        if x.is_complex():
            return torch.view_as_complex(self(torch.view_as_real(x), call, axis, site))
        if self.cast is None or self.passes(x.dtype) or not x.numel():
            return x
        if not x.dim():
            return self(x.reshape(1), call, axis, site).reshape(())
        y = apply(self.cast, x, self._draw(call, site), axis)
        if y.dtype is not x.dtype:
            raise ConfigError(f"{self.site}: got {x.dtype}, which does not hold {self.cast}; allowed: a model in torch.float32")
        if self.meter is not None:
            self.meter.add(x, y, self.cast)
        return y

    def elements(self, x: Tensor, call: int, axis: int) -> tuple[Tensor, Tensor | None]:
        """The values of the format itself and the scale that they were divided by, as an emulated unit takes them."""
        if self.cast is None or self.passes(x.dtype):
            return x, None
        return elements(self.cast, x, self._draw(call, ""), axis)

    def _draw(self, call: int, site: str) -> Draw:
        return self.draws(site or self.site, call, self.ranked) if self.stochastic else FIXED


def _is_grouped(cast: Cast) -> bool:
    """Whether values share scales in runs along an axis."""
    granularity = cast.scaling.granularity if cast.scaling is not None else "tensor"
    return cast.format.kind == "block" or not (granularity == "tensor" or isinstance(granularity, Channel))
