"""Checks of dot-product units: recorded outputs of GPUs, with what naive models get beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hwsim.macs import Mac, Scaled, mac, matmul

from .registry import Check, Oracle, Outcome

BLOCK = 50
SILICON = Path(os.environ.get("HWSIM_SILICON", Path(__file__).parents[3] / "shared" / "data" / "silicon"))


def _missing() -> str:
    return "" if SILICON.is_dir() else f"no recorded GPU outputs at {SILICON} (set HWSIM_SILICON)"


RECORDED = Oracle("recorded GPU outputs (ACM TACO 10.1145/3830409)", missing=_missing)


@dataclass(frozen=True)
class Recording:
    """One recorded set: its file, which result (`fp32` or `fp16`), the unit that made it, and whether C was zero."""

    name: str
    result: str
    unit: str
    zero_c: bool = False

    def __str__(self) -> str:
        return f"{self.name}_to_{self.result}"


def recordings() -> Iterator[Recording]:
    """Every recorded set."""
    generations = {"v100": "volta", "a100": "ampere", "ada": "ada", "h100": "hopper", "b200": "blackwell"}
    for gpu, generation in generations.items():
        unit = f"nvidia_{generation}"
        yield Recording(f"{gpu}_fp16", "fp32", f"{unit}_fp16")
        yield Recording(f"{gpu}_fp16", "fp16", f"{unit}_fp16_to_fp16")
        if gpu == "v100":
            continue
        yield Recording(f"{gpu}_bf16", "fp32", f"{unit}_bf16")
        yield Recording(f"{gpu}_tf32", "fp32", f"{unit}_tf32")
        if gpu == "a100":
            continue
        # H100's FP8 -> FP32 sets are of wgmma, recorded with C = 0; its FP8 -> FP16 sets and those of B200 are of mma.sync.
        emulated = {"ada": "", "h100": "_mma_sync", "b200": "_mma_sync"}[gpu]
        native = "" if gpu == "h100" else emulated
        for kind in ("e4m3", "e5m2"):
            yield Recording(f"{gpu}_{kind}", "fp32", f"{unit}{native}_fp8", zero_c=gpu == "h100")
            yield Recording(f"{gpu}_{kind}", "fp16", f"{unit}{emulated}_fp8_to_fp16")


def checks() -> Iterator[Check]:
    """Every recorded set, bit for bit."""
    for recording in recordings():
        what = f"dot products by {recording.unit}"
        yield Check(f"units/{recording}/silicon", RECORDED, what, partial(reproduced, recording), "full")


def reproduced(recording: Recording, naive: bool = True) -> Outcome:
    """A unit's results beside the recorded ones; the note says how often `naive` models match them."""
    data = recorded(recording.name)
    expected = bits(data[f"d_{recording.result}"])
    c = torch.zeros_like(data["c"]) if recording.zero_c else data["c"]

    def matching(unit: Mac | str) -> int:
        found = rowwise(data["a"], data["b"], c, unit)
        return int((bits(found.half().float() if recording.result == "fp16" else found) == expected).sum())

    rows, models = len(expected), naive_models(recording.result) if naive else {}
    shares = ", ".join(f"{name} {matching(model) / rows:.2%}" for name, model in models.items())
    return Outcome(rows, rows - matching(recording.unit), f"naive models match: {shares}" if naive else "")


def naive_models(result: str) -> dict[str, Mac]:
    """What one might take a tensor core for: an exact sum rounded once, or fp32 sums in the order of k."""
    c = {"enters": "first", "format": result}
    rounded = {"accumulator": {"format": result}, "c": c}
    sequential = {"product": {"format": "fp32"}, "accumulator": {"format": "fp32"}, "order": "sequential", "c": c}
    return {
        "exact sum, then nearest even": mac({**rounded, "order": {"fused": {"fraction_bits": "exact", "negative_zero": True}}}),
        "fp32 sequential": mac(sequential),
    }


def rowwise(
    a: Tensor, b: Tensor, c: Tensor | None, unit: Mac | str, scale_a: Tensor | None = None, scale_b: Tensor | None = None
) -> Tensor:
    """d_r = c_r + a_r . b_r for rows r of (R, K): the diagonals of small matrix products, R a multiple of BLOCK."""
    rows, terms = a.shape
    x, y = a.reshape(-1, BLOCK, terms), b.reshape(-1, BLOCK, terms).mT
    z = None if c is None else torch.diag_embed(c.reshape(-1, BLOCK))
    if scale_a is None or scale_b is None:
        d = matmul(x, y, unit, z)
    else:
        s, t = scale_a.reshape(rows // BLOCK, BLOCK, -1), scale_b.reshape(rows // BLOCK, BLOCK, -1).mT
        d = matmul(Scaled(x, s), Scaled(y, t), unit, z)
    return d.diagonal(dim1=1, dim2=2).reshape(rows)


def recorded(name: str) -> dict[str, Tensor]:
    """The arrays of one recorded set, as float32 tensors."""
    with np.load(SILICON / f"{name}.npz") as archive:
        return {key: torch.from_numpy(archive[key].astype(np.uint32).view(np.float32)) for key in archive.files}


def bits(x: Tensor) -> Tensor:
    """Bit patterns, with one pattern for every NaN."""
    canonical = torch.where(x.isnan(), torch.nan, x)
    return canonical.view(torch.int32 if x.dtype == torch.float32 else torch.int64)
