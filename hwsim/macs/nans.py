"""Where a NaN is refused: at each place that one reaches, if its format has none under `nan: error`; not where it passes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from hwsim.formats.reference import not_a_number

from .operands import check_nan
from .record import Mac, Rounded


def check_products(a: Tensor, b: Tensor, scale_a: Tensor | None, scale_b: Tensor | None, mac: Mac) -> None:
    """Refuse a NaN among the products of (..., M, K) and (..., K, N) flushed operands, where products are rounded.

    Raises:
        NanError: their format has none, and a factor is NaN or zero meets infinity.
    """
    place = mac.product
    if place == "exact" or not _refuses(place) or not a.numel() or not b.numel():
        return
    x, y = _kinds(a, scale_a, -1, mac), _kinds(b, scale_b, -2, mac)
    if bool(x.nan.any() | y.nan.any()) or _meet(x.infinite, y.zero) or _meet(x.zero, y.infinite):
        not_a_number(place.format, place.projection)


def check_sums(data: Tensor, mac: Mac, partial_sums: Callable[[], Tensor]) -> None:
    """Refuse a NaN among the unit's results, and one that became so before a promotion.

    Args:
        partial_sums: gives the results again without what joins the outer sums only: C, and scales of promotions.

    Raises:
        NanError: as the reference does.
    """
    check_nan(data, mac.outermost)
    if mac.promote and _refuses(mac.accumulator) and bool(data.isnan().any()):
        check_nan(partial_sums(), mac.accumulator)


class _Kinds(NamedTuple):
    nan: Tensor
    infinite: Tensor
    zero: Tensor


def _kinds(x: Tensor, scale: Tensor | None, axis: int, mac: Mac) -> _Kinds:
    """What elements are with their scales, where those act on products."""
    infinite, zero, nan = x.isinf(), x == 0, x.isnan()
    if scale is not None and mac.scales is not None and mac.scales.applied == "product":
        spread = scale.repeat_interleave(mac.scales.block, axis).narrow(axis, 0, x.shape[axis])
        infinite, zero, nan = infinite | spread.isinf(), zero | (spread == 0), nan | spread.isnan()
    return _Kinds(nan | (infinite & zero), infinite, zero)


def _meet(a: Tensor, b: Tensor) -> bool:
    """Whether two marks meet in a product."""
    return bool(a.any()) and bool(b.any()) and bool((a.float() @ b.float()).any())


def _refuses(place: Rounded) -> bool:
    return not place.format.has_nan and place.nan == "error"
