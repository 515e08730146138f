"""Checks of block formats: torchao's `to_mx`, gfloat's blocks, and TransformerEngine's NVFP4 rule."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from hwsim.fields import format_record
from hwsim.formats import Block, Format, FormatError
from hwsim.formats.block import ScaleRule
from hwsim.formats.blocks import quantize_blocks
from hwsim.formats.operators import quantize_tensor

from .peer_gfloat import GFLOAT
from .registry import Check, Oracle, Outcome, package

TORCHAO = package("torchao")
TRANSFORMER_ENGINE = Oracle("TransformerEngine's NVFP4 rule, in torch operations")

RULES: Mapping[ScaleRule, str] = {"floor": "FLOOR", "ceil": "CEIL", "rceil": "RCEIL", "even": "EVEN"}
TORCHAO_ELEMENTS = {
    "fp8_e4m3fn": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp6_e3m2fn": "fp6_e3m2",
    "fp6_e2m3fn": "fp6_e2m3",
    "fp4_e2m1fn": "float4_e2m1fn_x2",
}
GFLOAT_BLOCKS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def checks() -> Iterator[Check]:
    """Scales and elements, code by code."""
    for element in TORCHAO_ELEMENTS:
        for rule in RULES:
            what = f"scales by the rule `{rule}` and elements of blocks of 32"
            yield Check(f"blocks/{element}/{rule}/torchao", TORCHAO, what, partial(microscaling, element, rule))
    for name in GFLOAT_BLOCKS:
        run = partial(gfloat_blocks, name)
        yield Check(f"blocks/{name}/gfloat", GFLOAT.oracle, "values of blocks of 32, from float64", run, "full")
    yield Check("blocks/nvfp4/transformer_engine", TRANSFORMER_ENGINE, "scales and elements of blocks of 16", nvfp4)


@cache
def blocks_of(dtype: torch.dtype, rows: int = 512) -> Tensor:
    """Rows of 64 normal numbers, of another magnitude in each row; a sixth of them powers of two or next to one.

    Magnitudes stay within float32's normal range, where the peers are right.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 64, generator=generator) * 2.0 ** torch.randint(-90, 90, (rows, 1), generator=generator)
    powers = torch.copysign(2.0 ** x.abs().log2().round(), x)
    pick = torch.randint(0, 12, x.shape, generator=generator)
    x = torch.where(pick == 0, powers, x).to(dtype)
    return torch.where(pick == 1, torch.nextafter(powers.to(dtype), torch.zeros_like(x)), x)


def microscaling(element: str, rule: ScaleRule) -> Outcome:
    """The codes of scales and elements beside torchao's, of float32 and bfloat16 blocks."""
    fmt = Block(format_record(element), format_record("e8m0fnu"), 32, rule)
    cases = wrong = 0
    for dtype in DTYPES.values():
        x = blocks_of(dtype)
        scale_codes, codes = _torchao(x, element, fmt.element, RULES[rule])
        parts = quantize_blocks(x, fmt, rescale=False)
        for ours, theirs in ((fmt.scale.encode(parts.scales), scale_codes), (fmt.element.encode(parts.values), codes)):
            cases += ours.numel()
            wrong += int((ours != theirs).sum())
    return Outcome(cases, wrong, ", ".join(DTYPES))


def _torchao(x: Tensor, element: str, fmt: Format, mode: str) -> tuple[Tensor, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.mx_formats.config import ScaleCalculationMode
        from torchao.prototype.mx_formats.mx_tensor import to_mx

        theirs = TORCHAO_ELEMENTS[element]
        scale, data = to_mx(x, getattr(torch, theirs, theirs), 32, ScaleCalculationMode[mode])
    bits = data.view(torch.uint8)
    codes = fmt.unpack(bits) if fmt.bits == 4 else bits.to(torch.int64)
    return scale.view(torch.uint8).to(torch.int64), codes.reshape(x.shape)


def gfloat_blocks(name: str) -> Outcome:
    """The values beside gfloat's of float64 numbers (of float32 ones it takes a logarithm in float32, and a wrong exponent)."""
    import gfloat
    from gfloat import formats

    fmt = _block(name)
    info = getattr(formats, f"format_info_{name}{'_e2m1' if name == 'mxfp4' else ''}")
    x = blocks_of(torch.float32, 64).double()
    theirs = [gfloat.quantize_block(info, block, gfloat.compute_scale_amax) for block in x.view(-1, 32).numpy()]
    ours = quantize_blocks(x, fmt).values.numpy()
    wrong = ours != np.array(theirs).reshape(ours.shape)
    return Outcome(ours.size, int(wrong.sum()))


def _block(name: str) -> Block:
    fmt = format_record(name)
    if not isinstance(fmt, Block):
        raise FormatError(f"format: got {name}; allowed: block formats")
    return fmt


def transformer_engine(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled elements (before their rounding to E2M1), block scales and tensor scale, each operation in float32."""
    six, largest = torch.tensor(6.0), torch.tensor(torch.finfo(torch.float32).max)
    amax = x.float().abs().max()
    encode = torch.minimum(torch.div(torch.tensor(448.0 * 6.0), amax), largest)
    decode = torch.div(torch.tensor(1.0), encode)
    blocks = x.float().reshape(x.shape[0], -1, 16)
    scale = blocks.abs().amax(-1, keepdim=True) * (encode * torch.reciprocal(six))
    scale = scale.clamp(-448, 448).to(torch.float8_e4m3fn)
    inverse = torch.minimum(torch.div(torch.tensor(1.0), scale.float() * decode), largest)
    return (blocks * inverse).clamp(-6, 6).reshape(x.shape), scale.squeeze(-1), decode


def nvfp4() -> Outcome:
    """The parts beside TransformerEngine's, of float32 and bfloat16 tensors of narrow, wide and very wide range."""
    fmt = _block("nvfp4")
    cases = wrong = 0
    for dtype in DTYPES.values():
        for spread in (0, 3, 8):
            generator = torch.Generator().manual_seed(spread)
            x = torch.randn(512, 256, generator=generator) * 2.0 ** -torch.randint(0, spread + 1, (512, 256), generator=generator)
            x = x.to(dtype)
            scaled, scale, decode = transformer_engine(x)
            parts = quantize_blocks(x, fmt, rescale=False)
            rounded = quantize_tensor(scaled, fmt.element).to(dtype)
            pairs = ((parts.scales, scale.float()), (parts.tensor_scale, decode), (parts.values, rounded))
            for ours, theirs in pairs:
                cases += ours.numel()
                wrong += int((ours != theirs).sum())
    return Outcome(cases, wrong, ", ".join(DTYPES))
