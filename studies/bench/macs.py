"""Multiply-accumulates a second of each kind of dot-product unit, beside torch's fp32 matmul and MMA-Sim."""

from __future__ import annotations

import os
import sysconfig
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hwsim.fields import format_record
from hwsim.formats import Float
from hwsim.formats.operators import quantize_tensor
from hwsim.macs import Mac, mac, matmul

from .measurement import Case, Measurement, measured

SIZE = 512
FEW = 64
"""Rows and columns for MMA-Sim, which is many times slower."""
REFERENCE, PEER = "torch fp32 matmul", "MMA-Sim, Hopper FP16"
E8M13 = {"kind": "float", "exponent_bits": 8, "mantissa_bits": 13}
UNITS: Mapping[str, tuple[str | dict[str, Any], float | None]] = {
    "sequential, exact FP8 products, fp32 accumulator": ({"order": "sequential", "accumulator": {"format": "fp32"}}, 2.0),
    "sequential, exact FP8 products, fp16 accumulator": ({"order": "sequential", "accumulator": {"format": "fp16"}}, 2.0),
    "sequential, exact bf16 products, fp32 accumulator": (
        {"order": "sequential", "operands": "bf16", "accumulator": {"format": "fp32"}},
        2.0,
    ),
    "sequential, exact FP8 products, E8M13 toward zero": (
        {"order": "sequential", "accumulator": {"format": E8M13, "rounding": "toward_zero"}},
        2.0,
    ),
    "sequential, exact FP8 products, fp16 to odd": (
        {"order": "sequential", "accumulator": {"format": "fp16", "rounding": "to_odd"}},
        2.0,
    ),
    "sequential, exact FP8 products, fp32 nearest, ties to zero": (
        {"order": "sequential", "accumulator": {"format": "fp32", "rounding": "nearest_zero"}},
        2.0,
    ),
    "sequential, exact fp32 products, fp32 accumulator": (
        {"order": "sequential", "operands": "fp32", "accumulator": {"format": "fp32"}},
        2.0,
    ),
    "sequential, exact tf32 products, bf16 accumulator": (
        {"order": "sequential", "operands": "tf32", "accumulator": {"format": "bf16"}},
        2.0,
    ),
    "fma, exact bf16 products, bf16 accumulator": ("bf16_fma", 2.0),
    "sequential, fp16 products, fp16 accumulator": ("fp16_accumulate", 1.4),
    "sequential, fp32 products, fp32 accumulator": ("fp32_sequential", 1.4),
    "fused, Hopper FP16": ("nvidia_hopper_fp16", 1.2),
    "fused, Hopper FP8": ("nvidia_hopper_fp8", 1.2),
    "fused, Ampere FP16": ("nvidia_ampere_fp16", 1.2),
    "fused, Blackwell NVFP4": ("nvidia_blackwell_nvfp4", 1.2),
    "fused with promotion, DeepSeek FP8": ("deepseek_fp8", 1.2),
    "fused with late sum, CDNA3 FP16": ("amd_cdna3_fp16", None),
    "stochastic, E6M5 accumulator": ("fp8_fp12_stochastic", 0.4),
    "integer, int8 to int32": ("int8_int32", 5.0),
    "integer, int4 to int16, saturating": ("int4_int16_saturate", 5.0),
    "pairwise, fp32": ({"order": "pairwise", "accumulator": {"format": "fp32"}}, None),
    "chunked(16), fp16": ({"order": "chunked(16)", "accumulator": {"format": "fp16"}}, None),
}
"""Each with the G MAC/s that are promised on two cores."""


@dataclass(frozen=True)
class Rates:
    """A measurement of matrix products in multiply-accumulates a second.

    Attributes:
        measurement: the ratios of times to torch's fp32 matmul, which are the slowdown that a user pays.
        work: multiply-accumulates of one product.
        goals: promised G MAC/s by case.
    """

    measurement: Measurement
    work: int
    goals: Mapping[str, float]

    def rate(self, name: str) -> float:
        """G MAC/s of a case."""
        return self.work / (self.measurement.ratios[name] * self.measurement.seconds) / 1e9

    def as_dict(self) -> dict[str, Any]:
        """Everything, for machines."""
        found = self.measurement.as_dict()
        for name, case in found["cases"].items():
            case |= {"g_mac_per_second": self.rate(name), "at_least": self.goals.get(name)}
        return found

    def as_text(self) -> str:
        """A line a case."""
        width = max(map(len, self.measurement.ratios))
        lines = [self.measurement.title]
        for name, ratio in self.measurement.ratios.items():
            goal, rate = self.goals.get(name), self.rate(name)
            verdict = "" if goal is None else f"  (at least {goal:g}: {'holds' if rate >= goal else 'missed'})"
            lines.append(f"  {name:<{width}}  {rate:7.2f} G MAC/s  {ratio:7.1f} x the time of {REFERENCE}{verdict}")
        return "\n".join([*lines, *self.measurement.as_text().splitlines()[2 + len(self.measurement.ratios) :]])


def measure(rounds: int) -> Rates:
    """All units on products of 512^3."""
    a, b = (torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    cases = {REFERENCE: Case(lambda: a @ b)}
    for n, (name, (given, _)) in enumerate(UNITS.items()):
        cases[name] = _case(mac(given), n)
    cases |= _peer()
    title = f"products of {SIZE}^3, {torch.get_num_threads()} threads"
    faster = tuple((name, PEER, 40.0) for name in ("fused, Hopper FP16", "fused, Ampere FP16"))
    goals = {name: goal for name, (_, goal) in UNITS.items() if goal is not None}
    return Rates(measured(title, REFERENCE, cases, rounds, faster), SIZE**3, goals)


def _case(unit: Mac, seed: int) -> Case:
    a, b = _operands(unit, seed)
    return Case(lambda: matmul(a, b, unit))


def _operands(unit: Mac, seed: int) -> tuple[Tensor, Tensor]:
    """Random values of the unit's formats, FP8 where it declares none, small enough to keep sums finite."""
    rng = torch.Generator().manual_seed(seed)
    fmt = unit.operands.input[0] if unit.operands else format_record("fp8_e4m3fn")
    if fmt.bits > 8 and isinstance(fmt, Float):
        a, b = (quantize_tensor(torch.randn(SIZE, SIZE, generator=rng), fmt) for _ in range(2))
        return a, b
    values = fmt.values()
    values = values[values.abs() <= max(8.0, fmt.max / 8)]
    a, b = (values[torch.randint(len(values), (SIZE, SIZE), generator=rng)] for _ in range(2))
    return a, b


def _peer() -> dict[str, Case]:
    if not find_spec("mmasim"):
        return {}
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(tempfile.gettempdir(), "hwsim-extensions"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmasim.nv_ptx.sim import MMA
    oracle = MMA("Hopper", "m16n8k16.f32.f16.f16.f32")
    rng = torch.Generator().manual_seed(2)
    a, b = torch.randn(FEW, SIZE, generator=rng).half(), torch.randn(SIZE, FEW, generator=rng).half()
    c = torch.zeros(FEW, FEW)
    return {PEER: Case(lambda: oracle(a, b, c), size=(FEW / SIZE) ** 2)}
