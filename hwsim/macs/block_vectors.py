"""Golden vectors of converters to blocks: elements, the scales of the blocks, and the tensor's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hwsim.casting import parts
from hwsim.casts import Cast
from hwsim.formats import Block, Draw, Float
from hwsim.formats.philox import word

from .trace import codes_of

FP32 = Float(8, 23, name="fp32")
LINE, SQUARE = (1, 4), (2, 2)
"""How many blocks a case has where they share a tensor scale: 1-D ones in a line, tiles in a square."""


def header(fmt: Block) -> dict[str, Any]:
    """What a file says of the blocks: `shape` is that of the case's tensor, whose codes are in row-major order."""
    found = {"element": str(fmt.element), "scale": str(fmt.scale), "block": list(fmt.shape), "shape": list(_shape(fmt))}
    return found if fmt.tensor_scale is None else found | {"tensor_scale": str(FP32)}


def rows(cast: Cast, fmt: Block, count: int, rng: torch.Generator, draw: Draw) -> Iterator[Mapping[str, str | list[str]]]:
    """Cases of one block, or, with a tensor scale, of a tensor of four; the random words go on from case to case."""
    (bands, strips), (height, width) = _grid(fmt), _block(fmt)
    spread = torch.randn(count, 1, 1, 1, 1, generator=rng).mul(8).exp2()
    x = torch.randn(count, bands, height, strips, width, generator=rng) * spread
    if bands * strips > 1:
        x = x * torch.randn(count, bands, 1, strips, 1, generator=rng).mul(2).exp2()
    for n, given in enumerate(x.reshape(count, *_shape(fmt))):
        yield _row(cast, fmt, given, replace(draw, offset=n * given.numel()))


def _row(cast: Cast, fmt: Block, x: Tensor, draw: Draw) -> Mapping[str, str | list[str]]:
    found, cells = parts(cast, x, draw), dict[str, str | list[str]]()
    if found.scale is None:
        raise ValueError("a block format without scales")
    cells["input"] = codes_of(x.flatten(), FP32)
    if cast.rounding.is_stochastic:
        cells["random"] = [f"{word(k, draw):08x}" for k in range(x.numel())]
    if found.tensor_scale is not None:
        cells["tensor_scale"] = codes_of(found.tensor_scale.reshape(1), FP32)[0]
    scales = codes_of(found.scale.flatten(), fmt.scale)
    cells["scale"] = scales if len(scales) > 1 else scales[0]
    return cells | {"output": codes_of(found.elements.flatten(), fmt.element)}


def _block(fmt: Block) -> tuple[int, int]:
    return fmt.tile or (1, fmt.elements)


def _grid(fmt: Block) -> tuple[int, int]:
    if fmt.tensor_scale is None:
        return 1, 1
    return SQUARE if fmt.tile else LINE


def _shape(fmt: Block) -> tuple[int, ...]:
    """Of one case."""
    (bands, strips), (height, width) = _grid(fmt), _block(fmt)
    return (bands * height, strips * width) if fmt.tile else (strips * width,)
