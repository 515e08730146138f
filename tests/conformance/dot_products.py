"""Row-wise dot products by a unit, and the recorded outputs of real GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hwsim.macs import Mac, Scaled, matmul

BLOCK = 50
SILICON = Path(os.environ.get("HWSIM_SILICON", Path(__file__).parents[3] / "shared" / "data" / "silicon"))
needs_silicon = pytest.mark.skipif(not SILICON.is_dir(), reason=f"no recorded GPU outputs at {SILICON} (set HWSIM_SILICON)")


def rowwise(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None,
    mac: Mac | str,
    scale_a: torch.Tensor | None = None,
    scale_b: torch.Tensor | None = None,
) -> torch.Tensor:
    """d_r = c_r + a_r . b_r for rows r of (R, K): the diagonals of small matrix products, R a multiple of BLOCK."""
    rows, terms = a.shape
    x, y = a.reshape(-1, BLOCK, terms), b.reshape(-1, BLOCK, terms).mT
    z = None if c is None else torch.diag_embed(c.reshape(-1, BLOCK))
    if scale_a is None or scale_b is None:
        d = matmul(x, y, mac, z)
    else:
        s, t = scale_a.reshape(rows // BLOCK, BLOCK, -1), scale_b.reshape(rows // BLOCK, BLOCK, -1).mT
        d = matmul(Scaled(x, s), Scaled(y, t), mac, z)
    return d.diagonal(dim1=1, dim2=2).reshape(rows)


def recorded(name: str) -> dict[str, torch.Tensor]:
    """The arrays of one recorded set, as float32 tensors."""
    with np.load(SILICON / f"{name}.npz") as archive:
        return {key: torch.from_numpy(archive[key].astype(np.uint32).view(np.float32)) for key in archive.files}


def bits(x: torch.Tensor) -> torch.Tensor:
    """Bit patterns, with one pattern for every NaN."""
    canonical = torch.where(x.isnan(), torch.nan, x)
    return canonical.view(torch.int32 if x.dtype == torch.float32 else torch.int64)
