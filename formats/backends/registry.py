"""The backends by name: the built-in ones, then those of the entry-point group `hwsim.backends`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import MappingProxyType
from typing import Protocol

from torch import Tensor, dtype

from hwsim.formats.base import Format
from hwsim.formats.block import Block
from hwsim.formats.block_lowering import BlockRule, lower_block
from hwsim.formats.errors import FormatError, not_allowed
from hwsim.formats.level_lowering import AnyRule, LevelRule, lower_any
from hwsim.formats.philox import Draw
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import UNSCALED, Geometry, ScaleLayout, geometry, result_dtype
from hwsim.formats.tiling import Tiling

from . import block_gpu, block_reference, block_vector, gpu, qtorch, reference, vector
from .block_vector import RoundTensor

ENTRY_POINTS = "hwsim.backends"


class Quantize(Protocol):
    """Rounds a tensor: see `hwsim.formats.operators.quantize_tensor`."""

    def __call__(
        self, x: Tensor, fmt: Format, projection: Projection, scale: Tensor | None, layout: ScaleLayout, draw: Draw, rescale: bool
    ) -> Tensor:
        """The rounded tensor."""
        ...


class QuantizeBlock(Protocol):
    """Rounds a tensor block by block: see `hwsim.formats.blocks.quantize_blocks`."""

    def __call__(
        self, x: Tensor, fmt: Block, projection: Projection, where: Tiling, draw: Draw, rescale: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The values or elements, the scales block after block, the tensor's scale."""
        ...


class RoundBlocks(Protocol):
    """The same in the plain numbers of a kernel."""

    def __call__(
        self, x: Tensor, rule: BlockRule, where: Tiling, draw: Sequence[int], dtype: dtype, scale_dtype: dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The values or elements, the scales block after block, the tensor's scale."""
        ...


def _no_blocks(
    x: Tensor, fmt: Block, projection: Projection, where: Tiling, draw: Draw, rescale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    raise FormatError(f"backend: got one without blocks for {fmt}; allowed: reference, torch, numba, triton", "backend")


@dataclass(frozen=True)
class Backend:
    """One way to round tensors.

    Args:
        name: what `backend=` calls it.
        available: gives an empty string, or why it cannot run here.
        quantize: rounds a tensor.
        quantize_block: rounds a tensor block by block; refuses where the backend has none.
    """

    name: str
    available: Callable[[], str]
    quantize: Quantize
    quantize_block: QuantizeBlock = _no_blocks


def lowered(round_tensor: RoundTensor) -> Quantize:
    """A `quantize` from a kernel that takes a rule's plain numbers."""

    def quantize(
        x: Tensor,
        fmt: Format,
        projection: Projection,
        scale: Tensor | None,
        layout: ScaleLayout,
        draw: Draw,
        rescale: bool = True,
    ) -> Tensor:
        where = UNSCALED if scale is None else geometry(x.shape, scale, layout)
        return round_tensor(x, lower_any(fmt, projection, rescale), scale, where, draw.numbers, result_dtype(fmt, x.dtype))

    return quantize


def lowered_block(round_blocks: RoundBlocks) -> QuantizeBlock:
    """A `quantize_block` from a kernel that takes a rule's plain numbers."""

    def quantize_block(
        x: Tensor, fmt: Block, projection: Projection, where: Tiling, draw: Draw, rescale: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        rule, result = lower_block(fmt, projection, rescale), result_dtype(fmt, x.dtype)
        return round_blocks(x, rule, where, draw.numbers, result, fmt.scale.carrier)

    return quantize_block


def _numba_missing() -> str:
    return "" if find_spec("numba") else "numba is not installed"


@cache
def cpu_kernel() -> RoundTensor:
    """The numba kernel, whose import takes a second: only who rounds on a CPU waits for it."""
    from .cpu import round_tensor

    return round_tensor


def _numba(x: Tensor, rule: AnyRule, scale: Tensor | None, geometry: Geometry, draw: Sequence[int], dtype: dtype) -> Tensor:
    return cpu_kernel()(x, rule, scale, geometry, draw, dtype)


def round_blocks_on_cpu(
    x: Tensor, rule: BlockRule, where: Tiling, draw: Sequence[int], dtype: dtype, scale_dtype: dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks by the numba kernels; elements on levels by those for tensors, after their scales."""
    if isinstance(rule.element, LevelRule):
        return block_vector.round_blocks(x, rule, where, draw, dtype, scale_dtype, cpu_kernel())
    return _cpu_block_kernel()(x, rule, where, draw, dtype, scale_dtype)


@cache
def _cpu_block_kernel() -> RoundBlocks:
    """The numba kernel for blocks, imported by who first needs it."""
    from .block_cpu import round_blocks

    return round_blocks


@cache
def registered() -> Mapping[str, Backend]:
    """Every backend by name.

    Raises:
        FormatError: a plug-in takes a name that exists, is no Backend, or can run here and fails the property suite.
    """
    known = {
        "reference": Backend("reference", str, reference.quantize, block_reference.quantize_block),
        "torch": Backend("torch", str, lowered(vector.round_tensor), lowered_block(block_vector.round_blocks)),
        "numba": Backend("numba", _numba_missing, lowered(_numba), lowered_block(round_blocks_on_cpu)),
        "triton": Backend("triton", gpu.missing, lowered(gpu.round_tensor), lowered_block(block_gpu.round_blocks)),
        "qtorch": Backend("qtorch", qtorch.missing, qtorch.quantize),
    }
    for entry in entry_points(group=ENTRY_POINTS):
        plugin = entry.load()
        if entry.name in known:
            raise FormatError(f"backend: {entry.name!r} of {entry.value} exists already; allowed: a new name", "backend")
        if not isinstance(plugin, Backend):
            raise FormatError(f"backend: {entry.name!r} of {entry.value} is {plugin!r}; allowed: a Backend", "backend")
        if not plugin.available():
            from hwsim.formats.properties import check_backend

            check_backend(plugin)
        known[entry.name] = plugin
    return MappingProxyType(known)


@cache
def backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        FormatError: there is none, or it cannot run here.
    """
    if name not in registered():
        raise FormatError(not_allowed("backend", name, registered()), "backend")
    found = registered()[name]
    if why_not := found.available():
        raise FormatError(f"backend: got {name!r}, which cannot run here: {why_not}", "backend")
    return found


def backends() -> dict[str, str]:
    """For each backend `available`, or why it is not."""
    return {name: record.available() or "available" for name, record in registered().items()}
