"""Casts of float32 tensors on the CPU with everything found once that does not depend on the tensor.

What is left of a call is two views and a compiled loop: a training step has hundreds of casts of tensors that are no larger than
what Python does around them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwsim.formats.lowering import Rule
from hwsim.formats.scaled import Geometry

from .absmax_kernels import round_by_largest
from .cpu import NO_DRAW, ONE, kept_records
from .fast import NEAREST_SCALED, fast_loop
from .kernels import round_range
from .magnitude_cpu import LIMITS, largest_magnitudes
from .memory import empty_like
from .refusal import refuse_nan
from .threads import divided, in_threads
from .words import BLOCK

SINGLE = np.finfo(np.float32)
ENDS = (SINGLE.smallest_subnormal, SINGLE.max)
NO_WORDS = np.empty(BLOCK, np.uint32)


class Direct:
    """One deterministic rounding of float32: `quantize_tensor` without scales, or by one scale that is found on the way.

    Args:
        rule: the rounding, `rescale` among it.
        divisor: where given, x is divided by s = largest finite |x| / divisor, rounded to float32; 1 where x is zero.
    """

    __slots__ = ("_divisor", "_loop", "_records", "_refuses")

    def __init__(self, rule: Rule, divisor: float | None = None) -> None:
        self._loop = fast_loop(rule, divisor is not None)
        self._records = kept_records(rule, torch.float32)
        self._divisor = None if divisor is None else np.float32(divisor)
        self._refuses = bool(rule.refuses_nan)

    def __call__(self, x: Tensor) -> tuple[Tensor, float | None] | None:
        """The values, with x's shape and strides, and the scale; None where x is no float32 matrix that fills its memory.

        Raises:
            NanError: an element became NaN in a format that has none.
        """
        if x.requires_grad:
            x = x.detach()
        flat = x if x.is_contiguous() else x.mT if x.dim() > 1 else x
        if x.dtype is not torch.float32 or not x.numel() or not flat.is_contiguous():
            return None
        out = empty_like(flat)
        given, result = flat.numpy().reshape(-1), out.numpy().reshape(-1)
        scale = ONE if self._divisor is None else np.empty(1)
        found = self._in_parts(flat, given, result, scale) if divided(given.size) else self._at_once(given, result, scale)
        out = out if flat is x else out.mT
        if found and self._refuses:
            refuse_nan(x, out)
        return out, None if self._divisor is None else float(scale[0])

    def _at_once(self, given: npt.NDArray[Any], result: npt.NDArray[Any], scale: npt.NDArray[Any]) -> bool:
        if self._divisor is None:
            whole = tuple(Geometry(given.size, given.size))
            return bool(round_range(given, result, 0, given.size, 0, scale, whole, NO_DRAW, self._records, self._loop, None))
        limits = LIMITS[torch.float32][1]
        quickly = self._loop == NEAREST_SCALED
        return bool(round_by_largest(given, result, scale, NO_WORDS, self._divisor, limits, ENDS, self._records, quickly))

    def _in_parts(self, x: Tensor, given: npt.NDArray[Any], result: npt.NDArray[Any], scale: npt.NDArray[Any]) -> bool:
        if self._divisor is not None:
            top = largest_magnitudes(x, 1).numpy()[0]
            scale[0] = max(min(top / self._divisor, ENDS[1]), ENDS[0]) if top > 0 else 1.0
        whole = tuple(Geometry(given.size, given.size))
        rest = 0, scale, whole, NO_DRAW, self._records, self._loop, None
        return any(
            in_threads(lambda low, high: bool(round_range(given, result, low, high, *rest)), given.size, given.size, BLOCK)
        )
