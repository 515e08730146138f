"""NVIDIA's own converters, compiled for the host from the CUDA headers that some Python packages ship."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hwsim.formats import Float, Format, Projection, Rounding
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.rounding import Overflow

from .inputs import half_precision
from .peer_ml_dtypes import E8M0
from .peers import Answers, Array, Peer, different
from .registry import Oracle, Outcome

SOURCE = Path(__file__).with_name("nvidia.cpp")
HOST_ONLY = "#define NV_IF_ELSE_TARGET(CONDITION, YES, NO) NO\n"
"""Stands for libcu++'s header nv/target, which chooses between the paths of a GPU and of the host."""

E4M3, E5M2 = Float(4, 3, specials="fn"), Float(5, 2)
CONVERTERS: Mapping[Format, Mapping[Overflow, str]] = {
    E4M3: {"saturate": "e4m3_saturate", "nan": "e4m3_overflow"},
    E5M2: {"saturate": "e5m2_saturate", "infinity": "e5m2_overflow"},
    Float(3, 2, specials="finite"): {"saturate": "e3m2_saturate"},
    Float(2, 3, specials="finite"): {"saturate": "e2m3_saturate"},
    Float(2, 1, specials="finite"): {"saturate": "e2m1_saturate"},
}
SCALE_MODES = {"e8m0_down": "toward_zero", "e8m0_up": "toward_positive"}


def header_folder() -> Path | None:
    """The folder of the CUDA headers in the packages that ship them whole, or None."""
    for name in ("nvidia", "triton"):
        spec = importlib.util.find_spec(name)
        roots = (spec.submodule_search_locations or ()) if spec else ()
        for header in (path for root in roots for path in Path(root).glob("**/include/cuda_fp4.h")):
            if (header.parent / "crt" / "host_defines.h").exists():
                return header.parent
    return None


def missing() -> str:
    """Why they cannot be compiled here, or nothing."""
    return "" if header_folder() and shutil.which("g++") else "needs g++ and the CUDA headers (`pip install triton`)"


@cache
def converters() -> ctypes.CDLL:
    """The compiled converters, once a process."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "nvidia.so"
        (Path(folder) / "nv").mkdir()
        (Path(folder) / "nv" / "target").write_text(HOST_ONLY)
        options = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off"]
        includes = [f"-isystem{header_folder()}", f"-isystem{folder}"]
        subprocess.run(["g++", *options, *includes, SOURCE, "-o", library], check=True)
        return ctypes.CDLL(str(library))


def convert(name: str, x: Tensor) -> Tensor:
    """The codes (uint8) that the converter of this name gives for float32 or float64 numbers."""
    x = x.contiguous()
    codes = torch.empty(x.numel(), dtype=torch.uint8)
    function = getattr(converters(), f"{name}_{'double' if x.dtype is torch.float64 else 'float'}")
    function(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(codes.data_ptr()), ctypes.c_long(x.numel()))
    return codes


def has(fmt: Format) -> bool:
    """The formats of the table."""
    return fmt in CONVERTERS


def rounded(fmt: Format, rounding: Rounding, overflows: tuple[Overflow, ...], x: Array) -> Answers:
    """Nearest even, saturating or not; NaN becomes the largest value in FP6 and FP4."""
    if rounding.mode != "nearest_even":
        return {}
    names = CONVERTERS[fmt]
    return {overflow: fmt.decode(convert(name, torch.from_numpy(x))).double().numpy() for overflow, name in names.items()}


def scales() -> Outcome:
    """E8M0 of magnitudes, down and up, which is all that the host's converter of scales can do; zero becomes the smallest."""
    cases = wrong = 0
    x = half_precision().abs()
    for name, mode in SCALE_MODES.items():
        theirs = E8M0.decode(convert(name, x)).double().numpy()
        ours = quantize_tensor(x, E8M0, Projection(Rounding.parse(mode))).double().numpy()
        cases += x.numel()
        wrong += int(different(ours, theirs).sum())
    return Outcome(cases, wrong, ", ".join(SCALE_MODES.values()))


NVIDIA = Peer(Oracle("NVIDIA cuda_fp8.h, cuda_fp6.h, cuda_fp4.h", missing=missing), has, rounded, takes_nan=True)
