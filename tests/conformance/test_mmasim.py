"""Every NVIDIA and AMD unit equals MMA-Sim (arXiv 2511.10909) on random bit patterns, special values included."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from hwsim.catalogue import shipped
from hwsim.conformance.units import BLOCK, bits, recordings, rowwise
from hwsim.fields import format_record
from hwsim.macs import Operands, mac, matmul

pytest.importorskip("mmasim", reason="MMA-Sim (PyPI mmasim) is not installed")
if shutil.which("ninja") is None:
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))
os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(tempfile.gettempdir(), f"hwsim-extensions-{sys.version_info[1]}"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mmasim.amd.sim import MFMA
    from mmasim.arithmetic.helper import decode_uint8_to_fp6_fp4, fp4_value_table
    from mmasim.nv_ptx.sim import MMA, WGMMA, TCGen05MMA, TCGen05MMABlockScale

ROWS, MANY = 2000, 100_000
FP8 = ("e4m3", "e5m2")
PTX = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "fp8": torch.float8_e4m3fnuz, "bf8": torch.float8_e5m2fnuz}
WORDS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64, **PTX}
FORMATS = {
    kind: format_record(name)
    for kind, name in (
        ("e4m3", "fp8_e4m3fn"), ("e5m2", "fp8_e5m2"), ("e3m2", "fp6_e3m2fn"), ("e2m3", "fp6_e2m3fn"), ("e2m1", "fp4_e2m1fn")
    )
}  # fmt: skip
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

AMD = {
    (1, "fp16"): "f32_32x32x8f16",
    (1, "bf16"): "f32_32x32x4bf16",
    (1, "fp32"): "f32_32x32x2f32",
    (2, "fp16"): "f32_32x32x8f16",
    (2, "bf16"): "f32_32x32x4bf16",
    (2, "bf16_1k"): "f32_32x32x8bf16_1k",
    (2, "fp32"): "f32_32x32x2f32",
    (2, "fp64"): "f64_16x16x4f64",
    (3, "fp16"): "f32_32x32x8_f16",
    (3, "bf16"): "f32_32x32x8_bf16",
    (3, "tf32"): "f32_16x16x8_xf32",
    (3, "fp32"): "f32_32x32x2_f32",
    (3, "fp64"): "f64_16x16x4_f64",
}


@dataclass(frozen=True)
class Case:
    """One unit of ours, MMA-Sim's instruction, the operands' types, C's type, and the K to try."""

    unit: str
    family: Callable[..., Any]
    target: str
    instruction: str
    a: str
    b: str
    c: str
    terms: tuple[int, ...]

    @cache  # noqa: B019
    def oracle(self) -> Any:
        return self.family(self.target, self.instruction)

    def __str__(self) -> str:
        return f"{self.unit}-{self.a}-{self.b}"


def cases() -> list[Case]:
    """The table of units and instructions."""
    ptx = {"fp16": "f16", "bf16": "bf16", "tf32": "tf32", "fp64": "f64"}
    found = []
    shapes = {"volta": ("Volta", "m8n8k4"), "turing": ("Turing", "m16n8k8"), "ampere": ("Ampere", "m16n8k16")}
    shapes |= {"ada": ("Ada Lovelace", "m16n8k16"), "hopper": ("Hopper", "m16n8k16"), "blackwell": ("Blackwell", "m16n8k16")}
    for name, (target, shape) in shapes.items():
        groups = (1, 3, 4, 8, 11, 16, 32, 37)
        for kind in ("fp16",) if name in ("volta", "turing") else ("fp16", "bf16", "tf32"):
            here = "m16n8k8" if kind == "tf32" else shape
            t = ptx[kind]
            found.append(Case(f"nvidia_{name}_{kind}", MMA, target, f"{here}.f32.{t}.{t}.f32", kind, kind, "fp32", groups))
        found.append(Case(f"nvidia_{name}_fp16_to_fp16", MMA, target, f"{shape}.f16.f16.f16.f16", "fp16", "fp16", "fp16", groups))
        if name in ("ampere", "hopper", "blackwell"):
            found.append(Case(f"nvidia_{name}_fp64", MMA, target, "m8n8k4.f64.f64.f64.f64", "fp64", "fp64", "fp64", (1, 4, 9)))
    for a in FP8:
        for b in FP8:
            groups = (1, 16, 20, 32, 64, 75)
            for d, c, suffix in (("f32", "fp32", ""), ("f16", "fp16", "_to_fp16")):
                kind = f"m64n8k32.kind::f8f6f4.{d}.{a}.{b}"
                found += [
                    Case(f"nvidia_ada_fp8{suffix}", MMA, "Ada Lovelace", f"m16n8k32.{d}.{a}.{b}.{d}", a, b, c, groups),
                    Case(f"nvidia_hopper_fp8{suffix}", WGMMA, "Hopper", f"m64n8k32.{d}.{a}.{b}", a, b, c, groups),
                    Case(f"nvidia_blackwell_fp8{suffix}", TCGen05MMA, "Blackwell", kind, a, b, c, groups),
                ]
    for generation, kind in AMD:
        t = kind.removesuffix("_1k")
        groups = (4, 8, 16, 32) if generation == 2 else (1, 2, 4, 5, 8, 16, 19)
        c = "fp64" if kind == "fp64" else "fp32"
        found.append(Case(f"amd_cdna{generation}_{kind}", MFMA, f"CDNA{generation}", AMD[generation, kind], t, t, c, groups))
    for a in ("fp8", "bf8"):
        for b in ("fp8", "bf8"):
            found.append(Case("amd_cdna3_fp8", MFMA, "CDNA3", f"f32_16x16x32_{a}_{b}", a, b, "fp32", (2, 7, 16, 20, 32)))
    return found


def patterns(kind: str, shape: tuple[int, ...], rng: torch.Generator, near: bool) -> torch.Tensor:
    """Random bit patterns of a type; with `near`, values of like magnitude, so that sums do not hang on one term."""
    dtype = torch.float32 if kind == "tf32" else WORDS[kind]
    integer = INTEGERS[dtype.itemsize]
    if near:
        exact = torch.randn(shape, generator=rng, dtype=torch.float64) * 2.0 ** torch.randint(-4, 5, shape, generator=rng)
        x = (exact * (torch.rand(shape, generator=rng) > 0.1)).to(dtype)
    else:
        low, high = (0, 256) if integer == torch.uint8 else (torch.iinfo(integer).min, torch.iinfo(integer).max)
        x = torch.randint(low, high, shape, generator=rng, dtype=torch.int64).to(integer).view(dtype)
    if kind == "tf32":
        x = (x.view(torch.int32) >> 13 << 13).view(torch.float32)
    return x


def wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def differing(case: Case, rows: int, terms: int, seed: int) -> int:
    """How many of `rows` dot products differ in a bit."""
    rng = torch.Generator().manual_seed(seed)
    near = seed % 2 == 1
    a, b = patterns(case.a, (rows, terms), rng, near), patterns(case.b, (rows, terms), rng, near)
    c = patterns(case.c, (rows,), rng, near)
    expected = wide(case.oracle().dpa(a, b, c))
    found = rowwise(wide(a), wide(b), wide(c), case.unit)
    wrong = bits(found) != bits(expected)
    if case.unit == "amd_cdna3_fp8":
        # MMA-Sim takes the exponent of a NaN or infinite running sum for -1, and may drop it as too small.
        earlier = (terms - 1) // 16 * 16
        wrong &= c.isfinite() & ~wide(a[:, :earlier]).isnan().any(1) & ~wide(b[:, :earlier]).isnan().any(1)
    return int(wrong.sum())


@pytest.mark.parametrize("case", cases(), ids=str)
def test_equals_mmasim_on_random_bit_patterns(case: Case) -> None:
    rows = max(1, ROWS // len(case.terms) // BLOCK) * BLOCK
    assert {k: differing(case, rows, k, seed=k + n) for n, k in enumerate(case.terms)} == dict.fromkeys(case.terms, 0)


@pytest.mark.large
@pytest.mark.parametrize("case", cases(), ids=str)
def test_equals_mmasim_on_many_random_bit_patterns(case: Case) -> None:
    rows = MANY // 2 // len(case.terms) // BLOCK * BLOCK + BLOCK
    wrong = {(k, near): differing(case, rows, k, seed=2 * k + near) for k in case.terms for near in (0, 1)}
    assert not any(wrong.values()), wrong


TINY = ("amd_cdna1_bf16", "amd_cdna2_bf16", "amd_cdna3_bf16", "nvidia_ampere_bf16", "nvidia_hopper_bf16")


@pytest.mark.parametrize("case", [case for case in cases() if case.unit in TINY], ids=str)
def test_the_sign_of_sums_that_round_to_zero_equals_mmasim(case: Case) -> None:
    a, b, c = (torch.tensor(x) for x in ((-1.0, 1.0, 0.0, -0.0), (2.0**-60, -0.0), (0.0, -0.0, 2.0**-149)))
    first, second, weight, start = (x.flatten()[:, None] for x in torch.meshgrid(a, a, b, c, indexing="ij"))
    left = torch.cat([first, second], 1).bfloat16() * 2.0**-100
    right = torch.cat([weight, weight], 1).bfloat16()
    expected = case.oracle().dpa(left, right, start[:, 0].contiguous())
    found = torch.stack([matmul(x[None].float(), y[:, None].float(), case.unit, z[None])[0, 0]
                         for x, y, z in zip(left, right, start, strict=True)])  # fmt: skip
    assert torch.equal(bits(found), bits(wide(expected)))


def test_every_shipped_gpu_unit_is_compared_here_or_with_recorded_outputs() -> None:
    blocks = {f"nvidia_blackwell_{kind}" for kind in ("fp6", "fp6_to_fp16", "mxfp8", "mxfp6", "mxfp4", "nvfp4")}
    compared = {case.unit for case in cases()} | blocks | {recording.unit for recording in recordings()}
    left = {name for name in shipped("macs") if name.startswith(("nvidia", "amd"))} - compared
    assert left == {"nvidia_hopper_mma_sync_fp8"}
    # Not recorded with fp32 results; it is the recorded unit of the next generation.
    twins = [mac(f"nvidia_{name}_mma_sync_fp8").model_copy(update={"name": ""}) for name in ("hopper", "blackwell")]
    assert twins[0] == twins[1]


def test_mmasim_may_drop_a_running_sum_that_is_nan() -> None:
    # torch.frexp gives a NaN and an infinity no exponent of their own (C leaves it unspecified), so that MMA-Sim drops them as
    # too small beside a large product. No rule of the hardware says so, and MMA-Sim itself keeps them beside a small product and
    # in CDNA3's other units: here MMA-Sim is taken to be wrong, and the unit propagates them.
    oracle = MFMA("CDNA3", "f32_16x16x32_bf8_bf8")
    for special in (torch.nan, torch.inf):
        c = torch.tensor([special])
        for size, dropped in ((2.0**14, True), (2.0**-8, False)):
            a = torch.full((1, 2), size, dtype=torch.float32)
            theirs = oracle.dpa(a.to(PTX["bf8"]), a.to(PTX["bf8"]), c).float()
            assert not matmul(a, a.mT, "amd_cdna3_fp8", c[None]).isfinite().any()
            assert bool(theirs.isfinite().all()) is dropped


def narrow(kind: str, shape: tuple[int, ...], rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random fp6 or fp4 operands: as MMA-Sim holds them, one to a byte, and their values."""
    codes = torch.randint(0, 64, shape, generator=rng, dtype=torch.uint8)
    return codes, decode_uint8_to_fp6_fp4(codes, kind).float()


def scales(kind: str, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Random scale bit patterns; every third set near one."""
    low, high = (120, 134) if kind == "ue8m0" else (0, 128)
    everywhere = torch.rand((), generator=rng) < 0.3 and kind == "ue8m0"
    codes = torch.randint(*((0, 256) if everywhere else (low, high)), shape, generator=rng, dtype=torch.int64)
    return codes.to(torch.uint8).view(torch.float8_e8m0fnu if kind == "ue8m0" else torch.float8_e4m3fn)


FEW_OR_MANY = pytest.mark.parametrize("rows", [500, pytest.param(MANY // 4 // BLOCK * BLOCK, marks=pytest.mark.large)])


@FEW_OR_MANY
@pytest.mark.parametrize(("suffix", "d", "result"), [("", "f32", "fp32"), ("_to_fp16", "f16", "fp16")])
@pytest.mark.parametrize(("a", "b"), [(a, b) for a in ("e3m2", "e2m3", "e2m1") for b in ("e3m2", "e2m3", "e2m1")])
def test_fp6_and_fp4_on_blackwell_equal_mmasim(a: str, b: str, suffix: str, d: str, result: str, rows: int) -> None:
    rng = torch.Generator().manual_seed(6)
    oracle = TCGen05MMA("Blackwell", f"m64n8k32.kind::f8f6f4.{d}.{a}.{b}")
    operands = Operands(input=(FORMATS[a],), weight=(FORMATS[b],))
    unit = mac(f"nvidia_blackwell_fp6{suffix}").model_copy(update={"operands": operands})
    for terms in (1, 32, 50, 64):
        (x, vx), (y, vy) = (narrow(kind, (rows, terms), rng) for kind in (a, b))
        c = patterns(result, (rows,), rng, near=terms == 32)
        assert torch.equal(bits(rowwise(vx, vy, wide(c), unit)), bits(wide(oracle.dpa(x, y, c))))


@FEW_OR_MANY
@pytest.mark.parametrize(("a", "b"), [(a, b) for a in (*FP8, "e3m2", "e2m3") for b in (*FP8, "e3m2", "e2m3")])
def test_mxf8f6f4_on_blackwell_equals_mmasim(a: str, b: str, rows: int) -> None:
    rng = torch.Generator().manual_seed(8)
    oracle = TCGen05MMABlockScale("Blackwell", f"m128n8k32.kind::mxf8f6f4.block32.f32.{a}.{b}.ue8m0")
    name = "nvidia_blackwell_mxfp8" if {a, b} & set(FP8) else "nvidia_blackwell_mxfp6"
    unit = mac(name).model_copy(update={"operands": Operands(input=(FORMATS[a],), weight=(FORMATS[b],))})
    for terms in (32, 32, 7, 50, 96):
        blocks, sides = -(-terms // 32), []
        for kind in (a, b):
            codes, values = (
                narrow(kind, (rows, terms), rng) if kind not in FP8 else (patterns(kind, (rows, terms), rng, False),) * 2
            )
            sides.append((codes, values.float(), scales("ue8m0", (rows, blocks), rng)))
        (x, vx, sx), (y, vy, sy) = sides
        c = patterns("fp32", (rows,), rng, near=blocks > 1)
        expected = c
        for n in range(blocks):
            k = slice(32 * n, 32 * n + 32)
            expected = oracle.dpa(x[:, k], y[:, k], expected, sx[:, n : n + 1], sy[:, n : n + 1])
        assert torch.equal(bits(rowwise(vx, vy, c, unit, sx.float(), sy.float())), bits(expected))


@FEW_OR_MANY
@pytest.mark.parametrize(
    ("unit", "kind", "block", "scale"),
    [("nvidia_blackwell_mxfp4", "mxf4", 32, "ue8m0"), ("nvidia_blackwell_nvfp4", "mxf4nvf4", 16, "ue4m3")],
)
def test_block_scaled_fp4_on_blackwell_equals_mmasim(unit: str, kind: str, block: int, scale: str, rows: int) -> None:
    rng = torch.Generator().manual_seed(4)
    oracle = TCGen05MMABlockScale("Blackwell", f"m128n8k64.kind::{kind}.block{block}.f32.e2m1.e2m1.{scale}")
    for terms in (64, 64, 32, 160, 192):
        x, y = (fp4_value_table.float()[torch.randint(0, 16, (rows, terms), generator=rng)] for _ in range(2))
        sparse = torch.rand((rows, terms), generator=rng) < torch.rand((rows, 1), generator=rng)
        x = x * sparse
        sx, sy = scales(scale, (rows, terms // block), rng), scales(scale, (rows, terms // block), rng)
        c = patterns("fp32", (rows,), rng, near=terms == 160)
        expected = oracle.dpa(x, y, c, sx, sy)
        assert torch.equal(bits(rowwise(x, y, c, unit, sx.float(), sy.float())), bits(expected))
