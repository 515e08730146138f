"""Multiply-accumulates a second of each kind of unit: `python tests/benchmarks/macs.py [SIZE]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from hwsim.fields import format_record
from hwsim.macs import mac, matmul

UNITS = {
    "sequential, exact product, 24-bit accumulator": {"order": "sequential", "accumulator": {"format": "fp32"}},
    "sequential, exact product, fp16 accumulator": {"order": "sequential", "accumulator": {"format": "fp16"}},
    "sequential, exact product, E8M13 toward zero": {
        "order": "sequential",
        "accumulator": {"format": {"kind": "float", "exponent_bits": 8, "mantissa_bits": 13}, "rounding": "toward_zero"},
    },
    "sequential, rounded product (fp16)": "fp16_accumulate",
    "sequential, rounded product (fp32)": "fp32_sequential",
    "fused, Hopper FP16": "nvidia_hopper_fp16",
    "fused, Hopper FP8": "nvidia_hopper_fp8",
    "fused, Ampere FP16": "nvidia_ampere_fp16",
    "fused, DeepSeek FP8": "deepseek_fp8",
    "fused, Blackwell NVFP4": "nvidia_blackwell_nvfp4",
    "late sum, CDNA3 FP16": "amd_cdna3_fp16",
    "stochastic accumulator": "fp8_fp12_stochastic",
    "integer, int8 to int32": "int8_int32",
    "integer, int4 to int16, saturating": "int4_int16_saturate",
    "pairwise fp32": {"order": "pairwise", "accumulator": {"format": "fp32"}},
    "chunked(16) fp16": {"order": "chunked(16)", "accumulator": {"format": "fp16"}},
}


def least_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of several runs, after one that compiles."""
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def operands(unit: str | dict[str, object], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random values of the unit's formats, small enough to keep sums finite."""
    declared = mac(unit).operands
    fmt = declared.input[0] if declared else format_record("fp8_e4m3fn")
    if fmt.bits > 8:
        return (
            tuple(torch.randn(size, size).bfloat16().float() for _ in range(2))
            if fmt.name != "fp16"
            else tuple(torch.randn(size, size).half().float() for _ in range(2))
        )
    values = fmt.values()
    values = values[values.abs() <= max(8.0, fmt.max / 8)]
    a, b = (values[torch.randint(len(values), (size, size))] for _ in range(2))
    return a, b


def main(size: int = 512) -> None:
    """Print one line a unit, with the slowdown against torch's own fp32 matmul."""
    torch.manual_seed(0)
    native = least_seconds(lambda: torch.ones(size, size) @ torch.ones(size, size))
    print(f"{size}^3, {torch.get_num_threads()} threads; torch fp32 matmul {size**3 / native / 1e9:.1f} G MAC/s")
    for title, unit in UNITS.items():
        m = mac(unit)
        a, b = operands(unit, size)
        seconds = least_seconds(lambda m=m, a=a, b=b: matmul(a, b, m))  # type: ignore[misc]
        print(f"{title:50s} {size**3 / seconds / 1e9:7.2f} G MAC/s, {seconds / native:7.1f} x torch fp32")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
