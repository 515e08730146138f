"""Which operands a GEMM's unit can be given: values and scales that it cannot take are refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from hwsim.casts import Cast, Channel, Group, Tile
from hwsim.errors import FormatError
from hwsim.fields import format_record
from hwsim.formats import Block, Format
from hwsim.formats.block import POWERS_OF_TWO as BLOCK_POWERS
from hwsim.formats.block import element_format
from hwsim.layering import FIRST_USE, OPERANDS_OF, OUTER_FIRST, Gemm, Operand
from hwsim.macs import Mac

FP32 = format_record("fp32")
POWERS_OF_TWO = format_record("e8m0fnu")
ANY = 1 << 30
SIGNED: tuple[Operand, ...] = ("weight", "grad_output")
"""The operands with values of both signs in every network."""
AXES = 5
"""A batch of volumes in channels: no operand of a layer has more."""


def check_operands(gemm: Gemm, casts: Mapping[Operand, Cast], unit: Mac, roles: tuple[Operand, ...] = ()) -> None:
    """Refuse operand casts that do not go together, or not with the unit.

    Args:
        gemm: which. casts: by role. unit: that multiplies.
        roles: of its operands, where they are not those of a layer with a weight.

    Raises:
        FormatError: two transforms, a transform of a copy that another GEMM made; weights or gradients in a format without
            negative values; scales along an axis that no operand has; with an emulated unit, values that its ports do not
            have, or scales that vary along the axis that it sums over and that it does not take: other runs, other values.
    """
    sizes = {cast.rotation for cast in casts.values() if cast.rotation}
    if len(sizes) > 1:
        given = " and ".join(str(cast.transform) for cast in casts.values() if cast.rotation)
        raise FormatError(f"got {given}; allowed: the same transform for both operands, or for one", gemm)
    for role, cast in casts.items():
        _check_signs_and_axes(gemm, role, cast)
        if sizes and not cast.requantize and FIRST_USE[role] != gemm:
            raise FormatError("transform: got one with `requantize: false`; allowed: `requantize: true`", f"{gemm}.{role}")
        if not unit.is_native:
            _check_scales(gemm, role, cast, unit)
    for role in roles or OPERANDS_OF[gemm]:
        if unit.operands is not None:
            _check_values(gemm, role, casts.get(role), unit.name or "the unit", {*unit.operands.input, *unit.operands.weight})


def _check_signs_and_axes(gemm: Gemm, role: Operand, cast: Cast) -> None:
    if role in SIGNED and element_format(cast.format).min >= 0:
        raise FormatError(f"got {cast}, which has no negative values; allowed: a signed format", f"{gemm}.{role}.format")
    granularity = cast.scaling.granularity if cast.scaling is not None else None
    if isinstance(granularity, Channel) and not -AXES <= granularity.channel < AXES:
        given = f"channel: got {granularity.channel}; allowed: an axis from {-AXES} to {AXES - 1}"
        raise FormatError(given, f"{gemm}.{role}.scaling.granularity.channel")


def _check_values(gemm: Gemm, role: Operand, cast: Cast | None, unit: str, ports: set[Format]) -> None:
    handed = FP32 if cast is None else element_format(cast.format)
    if not any(_has_all(port, handed) for port in ports):
        given = f"no cast, so that {unit} is given values of {FP32}" if cast is None else f"{cast} for {unit}"
        names = ", ".join(sorted(map(str, ports)))
        raise FormatError(f"got {given}; allowed: values of {names}", f"{gemm}.{role}")


def _has_all(port: Format, handed: Format) -> bool:
    """Whether every finite value of a format is one of the port's, whose values lie on a grid."""
    grid = port.grid
    digits = ANY if grid.uniform else grid.mantissa_bits + 1
    inside = port.min <= handed.min and handed.max <= port.max
    return inside and handed.lattice.fits(digits, grid.smallest_exponent, ANY)


def _check_scales(gemm: Gemm, role: Operand, cast: Cast, unit: Mac) -> None:
    runs = _terms_a_scale(gemm, role, cast)
    if runs is None:
        return
    block = unit.scales.block if unit.scales is not None else None
    if unit.scales is not None and runs % unit.scales.block == 0:
        _check_scale_values(gemm, role, cast, unit.scales.format, unit.name or "the emulated unit")
        return
    where = "along the axis that this GEMM sums over" if runs == 1 else f"for every {runs} terms of the sum"
    takes = "one scale a sum" if block is None else f"a scale for every {block} terms"
    along = "a scale a tensor, a channel along the other axis" if block is None else f"runs of a multiple of {block}"
    raise FormatError(
        f"got {cast}, with scales {where}; {unit.name or 'the emulated unit'} takes {takes}; allowed: {along}, or `mac: native`",
        f"{gemm}.{role}",
    )


def _check_scale_values(gemm: Gemm, role: Operand, cast: Cast, port: Format, unit: str) -> None:
    if isinstance(cast.format, Block):
        handed, powers = cast.format.scale, cast.format.scale_rule in BLOCK_POWERS
    elif cast.scaling is not None:
        handed, powers = cast.scaling.format, cast.scaling.rule == "power_of_two"
    else:
        return
    if not (_has_all(port, handed) or (powers and _has_all(port, POWERS_OF_TWO))):
        raise FormatError(f"got {cast}, with scales in {handed}; allowed for {unit}: scales in {port}", f"{gemm}.{role}")


def _terms_a_scale(gemm: Gemm, role: Operand, cast: Cast) -> int | None:
    """How many terms of a sum share a scale, None where all do."""
    granularity = cast.scaling.granularity if cast.scaling is not None else None
    if isinstance(granularity, Channel):
        summed = (1, -1) if (gemm, role) in OUTER_FIRST else (0, -2)
        return 1 if granularity.channel in summed else None
    if isinstance(cast.format, Block):
        tile = cast.format.tile or (1, cast.format.elements)
        last = ((gemm, role) in OUTER_FIRST) if cast.format.tile else not _turned(gemm, role, cast)
        return tile[1 if last else 0]
    if isinstance(granularity, Group | Tile):
        tile = granularity.tile if isinstance(granularity, Tile) else (1, granularity.group)
        return tile[0 if _turned(gemm, role, cast) else 1]
    return None


def _turned(gemm: Gemm, role: Operand, cast: Cast) -> bool:
    """Whether the operand is the copy of a GEMM that contracts its other axis."""
    return not cast.requantize and ((FIRST_USE[role], role) in OUTER_FIRST) != ((gemm, role) in OUTER_FIRST)
