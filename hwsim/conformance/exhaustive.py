"""All 2^32 float32 inputs against ml_dtypes, whose cast from float32 rounds once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from hwsim.fields import format_record
from hwsim.formats import Format, Projection
from hwsim.formats.operators import quantize_tensor

from .peer_ml_dtypes import ML_DTYPES, TYPES, numpy_type
from .registry import Check, Outcome

NAMES = ("fp4_e2m1fn", "fp8_e4m3fn", "fp8_e5m2", "fp16", "bf16")
CHUNK = 1 << 24


def checks() -> Iterator[Check]:
    """One for each format, minutes long."""
    for name in NAMES:
        what = "rounding of every float32 number to nearest even"
        yield Check(
            f"exhaustive/{name}/ml_dtypes", ML_DTYPES.oracle, what, partial(every_float32, format_record(name)), "exhaustive"
        )


def every_float32(fmt: Format, stop: int = 1 << 32, step: int = CHUNK) -> Outcome:
    """The bits of every result beside ml_dtypes', any NaN being the same; NaN is not given to formats that have none."""
    name, overflow = TYPES[fmt]
    cases = wrong = nans = 0
    for start in range(0, stop, step):
        x = np.arange(start, start + step, dtype=np.uint32).view(np.float32)
        if not fmt.has_nan:
            kept = x[~np.isnan(x)]
            nans += x.size - kept.size
            x = kept
        with np.errstate(over="ignore", invalid="ignore"):
            theirs = x.astype(numpy_type(name)).astype(np.float32)
        ours = quantize_tensor(torch.from_numpy(x), fmt, Projection(overflow=overflow)).numpy()
        differ = (ours.view(np.uint32) != theirs.view(np.uint32)) & ~(np.isnan(ours) & np.isnan(theirs))
        cases += x.size
        wrong += int(differ.sum())
    return Outcome(cases, wrong, f"overflow: {overflow}" + (f"; {nans} NaN codes are not given" if nans else ""))
