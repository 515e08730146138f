"""One converter of the machine at one site, and the random words it takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hwsim.casting import Quantized, apply, apply_in_units, direct, elements, parts
from hwsim.casts import Cast
from hwsim.errors import ConfigError, FormatError
from hwsim.formats import Block
from hwsim.formats.block import element_format
from hwsim.formats.operators import unwatched
from hwsim.formats.philox import Draw

from .meter import Meter, Tally
from .scales import DelayedScale, TrainedScale, through

CALLS = 1 << 16
FIXED = Draw()
Converter = Callable[[Cast, Tensor, Draw, int, Tensor | None], Tensor]
"""(cast, x, draw, axis, kept scale or None) -> what a port hands on; `hwsim.casting.apply` unless a study replaces it."""


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
        meter: keeps count of what the port does, or None.
        convert: how tensors are cast.
        kept: the scale, where it is state of the run.

    `tally` is what the last call was counted as; None where it was not.
    """

    __slots__ = (
        "_passes",
        "cast",
        "convert",
        "direct",
        "draws",
        "grouped",
        "kept",
        "meter",
        "ranked",
        "site",
        "stochastic",
        "tally",
    )

    def __init__(
        self,
        cast: Cast | None,
        site: str,
        draws: Draws,
        ranked: bool = True,
        meter: Meter | None = None,
        convert: Converter = apply,
        kept: DelayedScale | TrainedScale | None = None,
    ) -> None:
        self.cast = cast
        self.kept = kept
        self.convert = convert
        self.site = site
        self.draws = draws
        self.ranked = ranked
        self.meter = meter
        self.stochastic = cast is not None and cast.rounding.is_stochastic
        self.grouped = cast is not None and cast.blocked
        self.tally: Tally | None = None
        self._passes: dict[torch.dtype, bool] = {}
        plain = convert is apply and kept is None
        self.direct = direct(cast) if plain and cast is not None else None

    def passes(self, dtype: torch.dtype) -> bool:
        """Whether tensors of this dtype go through unchanged."""
        known = self._passes.get(dtype)
        if known is None:
            known = self._passes[dtype] = self.cast is None or self.cast.keeps(dtype)
        return known

    def does_the_same(self, other: Port) -> bool:
        """Whether the other port makes the same values of the same tensor, so that they need not be made twice."""
        apart = self.stochastic or self.grouped or self.kept is not other.kept
        return not apart and self.cast is not None and (self.cast, self.convert) == (other.cast, other.convert)

    def __call__(self, x: Tensor, call: int = 0, axis: int = -1, site: str = "") -> Tensor:
        """The tensor after the cast (dequantized values); groups run along `axis`."""
        self.tally = None
        if x.is_complex():
            return torch.view_as_complex(self(torch.view_as_real(x), call, axis, site))
        if self.cast is None or self.passes(x.dtype) or not x.numel():
            return x
        if not x.dim():
            return self(x.reshape(1), call, axis, site).reshape(())
        unit: Tensor | float | None = None
        try:
            if self.direct is not None and unwatched(x):
                known = self.direct(x)
                if known is not None:
                    self._count(x, *known)
                    return known[0]
            if self.meter is not None:
                y, unit = apply_in_units(self.cast, x, self._draw(call, site), axis, self._scale(x, call))
            else:
                y = self.convert(self.cast, x, self._draw(call, site), axis, self._scale(x, call))
        except FormatError as error:
            raise self._placed(error, site) from error
        if y.dtype is not x.dtype:
            raise ConfigError(f"{self.site}: got {x.dtype}, which does not hold {self.cast}; allowed: a model in torch.float32")
        self._count(x, y, unit)
        return y

    def count_again(self, tally: Tally | None) -> None:
        """Count a cast whose copy serves this port too."""
        if self.meter is not None and tally is not None:
            self.meter.repeat(tally)

    def elements(self, x: Tensor, call: int, axis: int) -> tuple[Tensor, Tensor | None]:
        """The values of the format itself and the scale that they were divided by, as an emulated unit takes them."""
        if self.cast is None or self.passes(x.dtype):
            return x, None
        try:
            values, scale = elements(self.cast, x, self._draw(call, ""), axis, self._scale(x, call))
        except FormatError as error:
            raise self._placed(error) from error
        if self.meter is not None:
            unit = None if scale is None else scale.expand(x.shape) if scale.numel() > 1 else scale
            self._count(x, values if scale is None else values * scale, unit)
        return values, scale

    def parts(self, x: Tensor, call: int, axis: int) -> Tensor | Quantized:
        """What a multiplier's port holds: elements and scales; groups and blocks run along `axis`."""
        if self.cast is None or self.passes(x.dtype):
            return x
        try:
            q = parts(self.cast, x, self._draw(call, ""), axis, kept=self._scale(x, call))
        except FormatError as error:
            raise self._placed(error) from error
        if self.meter is not None:
            self._count(x, q.values, q.unit)
        return q

    @property
    def rescales(self) -> bool:
        """Whether the cast's values are those of its format times a scale."""
        return self.cast is not None and (self.cast.scaled or isinstance(self.cast.format, Block))

    @property
    def estimates(self) -> bool:
        """Whether the gradient that goes back through the cast is not the one that comes."""
        return self.cast is not None and self.cast.estimates

    def through(self, x: Tensor, grad: Tensor) -> Tensor:
        """The gradient of an operand, given that of what the port made of it."""
        return grad if self.cast is None else through(self.cast, self.kept, x, grad)

    def _count(self, x: Tensor, y: Tensor, unit: Tensor | float | None) -> None:
        if self.meter is None or self.cast is None:
            return
        squashed = self.cast.scaling is not None and self.cast.scaling.rule == "dorefa"
        # tanh brings every number into the range, so that none is clipped.
        self.tally = self.meter.add(x, y, element_format(self.cast.format), torch.inf if squashed else unit)

    def _scale(self, x: Tensor, call: int) -> Tensor | None:
        return None if self.kept is None else self.kept.of(x, call)

    def _placed(self, error: FormatError, site: str = "") -> FormatError:
        return type(error)(f"{site or self.site}: {error}", error.field)

    def _draw(self, call: int, site: str) -> Draw:
        return self.draws(site or self.site, call, self.ranked) if self.stochastic else FIXED
