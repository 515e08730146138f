"""The commonest roundings of float32 in loops that run in vector registers, at about the speed of memory."""

from __future__ import annotations

from functools import lru_cache
from math import isnan
from typing import Any

import numpy as np

from hwsim.formats.lowering import NEAREST_EVEN, STOCHASTIC, Rule

from .compiling import inlined
from .drawn_loops import drawn, drawn_scaled, drawn_single
from .nearest_loops import nearest, nearest_scaled, nearest_single

NEAREST, DRAWN, NEAREST_SCALED, DRAWN_SCALED = range(4)
DRAWN_BITS = 24


@lru_cache(maxsize=1024)
def fast_loop(rule: Rule, scaled: bool) -> int | None:
    """The loop that rounds finite float32 by this rule (and by float32 scales) to float32 values, or None."""
    ordinary = not (rule.wrap_bits or rule.flush_inputs or rule.flush_outputs or isnan(rule.above) or isnan(rule.below))
    if not ordinary or rule.rounded_zero != 0 or rule.mantissa_bits > 23 + rule.uniform:
        return None
    symmetric = rule.below == -rule.above and rule.min_value == -rule.max_value
    narrow = not rule.uniform and symmetric and rule.mantissa_bits < 23 and rule.min_exponent >= -126
    linear = rule.min_exponent == -126 and rule.smallest_exponent == -126 - rule.mantissa_bits
    if rule.mode == NEAREST_EVEN:
        if narrow and not scaled and (linear or rule.smallest_exponent + 23 <= 126):
            return NEAREST
        return NEAREST_SCALED if rule.mantissa_bits else None
    if rule.mode == STOCHASTIC and rule.variant == 0 and rule.random_bits <= DRAWN_BITS:
        return DRAWN if narrow and not scaled and (linear or -126 <= rule.smallest_exponent <= 0) else DRAWN_SCALED
    return None


@inlined
def fast(x: Any, out: Any, words: Any, scale: Any, stride: Any, rule: Any, loop: Any, carrier: Any = None) -> Any:
    """Round the float32 piece x into out by one of the loops; element i is divided by scale[stride i].

    Values times their scale are rounded to float32, or once to the narrower `carrier` (the Rule of a dtype).
    """
    if loop == NEAREST:
        return nearest(x.view(np.int32), out.view(np.int32), rule)
    if loop == DRAWN:
        return drawn(x.view(np.int32), out.view(np.int32), words, rule)
    if loop == NEAREST_SCALED:
        if stride == 0 and carrier is None and nearest_single(x, out, scale[0], rule):
            return True
        return nearest_scaled(x, out, scale, stride, rule, carrier)
    if stride == 0 and carrier is None and drawn_single(x, out, words, scale[0], rule):
        return True
    return drawn_scaled(x, out, words, scale, stride, rule, carrier)
