"""Checks of stochastic rounding: gfloat is given the random bits, all of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from hwsim.formats import Float, Projection, Rounding
from hwsim.formats.reference import project
from hwsim.formats.rounding import Variant

from .peer_gfloat import GFLOAT, format_info
from .peers import different
from .registry import Check, Outcome

VARIANTS: dict[Variant, str] = {"A": "StochasticFastest", "B": "StochasticFast", "C": "Stochastic"}
FORMATS = {
    "binary6p3sf": Float(3, 2, specials="p3109", domain="finite"),
    "fp8_e4m3fn": Float(4, 3, specials="fn"),
    "fp4_e2m1fn": Float(2, 1, specials="finite"),
}
RANDOM_BITS = 4
STEPS = 3


def checks() -> Iterator[Check]:
    """Each variant of IEEE P3109 on each format."""
    for name, fmt in FORMATS.items():
        for variant in VARIANTS:
            what = f"variant {variant} with {RANDOM_BITS} random bits, for every draw"
            yield Check(f"stochastic/{name}/{variant}/gfloat", GFLOAT.oracle, what, partial(every_draw, fmt, variant))


def every_draw(fmt: Float, variant: Variant) -> Outcome:
    """Numbers between the neighbours of some values, in steps finer than the random bits, under every draw."""
    import gfloat

    values = fmt.values().double()
    low, high = values[:-1], values[1:]
    share = torch.arange(0, STEPS << RANDOM_BITS) / (STEPS << RANDOM_BITS)
    x = (low[:, None] + share * (high - low)[:, None]).flatten()[:: max(1, len(values) // 16)].numpy()
    projection = Projection(Rounding("stochastic", RANDOM_BITS, variant))
    cases = wrong = 0
    for draw in range(1 << RANDOM_BITS):
        bits = np.full(x.shape, draw)
        theirs = gfloat.round_ndarray(format_info(fmt), x, gfloat.RoundMode[VARIANTS[variant]], True, bits, RANDOM_BITS)
        ours = np.array([float(project(v, fmt, projection, draw << (32 - RANDOM_BITS))) for v in x.tolist()])
        cases += x.size
        wrong += int(different(ours, theirs).sum())
    return Outcome(cases, wrong)
