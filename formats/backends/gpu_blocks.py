"""A Triton kernel that rounds a tensor's elements by the scales of their blocks."""

from __future__ import annotations

import triton
import triton.language as tl

from .gpu_kernels import report, scale_of, word_of
from .gpu_rounding import MODE, RESCALE, STOCHASTIC, exactly, float64_of, multiply, reals
from .gpu_scales import FLUSH_INPUTS, NAN, RULE, TWO_LEVEL, rounded_by, single


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["half", "bands", "strips", "rows", "columns", "height", "width", "key0", "key1", "high0", "high1"]
)
def round_elements(
    x: tl.tensor,
    out: tl.tensor,
    rules: tl.tensor,
    numbers: tl.tensor,
    values: tl.tensor,
    keys: tl.tensor,
    half: tl.int64,
    scales: tl.tensor,
    tensor: tl.tensor,
    found: tl.tensor,
    count: tl.int64,
    bands: tl.int64,
    strips: tl.int64,
    rows: tl.int64,
    columns: tl.int64,
    height: tl.int64,
    width: tl.int64,
    key0: tl.int64,
    key1: tl.int64,
    high0: tl.int64,
    high1: tl.int64,
    offset: tl.int64,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Every element by its block's scale; where that is NaN, values are NaN and elements zeros.

    Args:
        x, out: contiguous, of any floating dtype.
        rules, numbers, scales, tensor: as for block_scales.
        values, keys, half: the tables of levels of elements (see round_to_levels), or None for elements on a grid.
        found: an int32 that becomes 1 where another element becomes NaN, or None.
        count: the number of elements; then fields of a Tiling and the numbers of a Draw.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    place = scale_of(i, columns, width, 0, rows, bands, height, strips)
    scale = tl.load(scales + place, mask=inside, other=1)
    known = scale == scale
    scale = tl.where(known, scale, 1.0)
    value = tl.where(known, float64_of(tl.load(x + i, mask=inside, other=0)), 0.0)
    value = tl.where(tl.abs(value) < tl.load(reals(numbers) + FLUSH_INPUTS), value * 0.0, value)
    word = tl.zeros([BLOCK], tl.uint32)
    if tl.load(rules + MODE) == STOCHASTIC:
        word = word_of(i + offset, key0, key1, high0, high1)
    rounded = value
    if tl.load(numbers + RULE) == TWO_LEVEL:
        scale = scale * tl.load(tensor).to(tl.float64)
        divisor = scale.to(tl.float32).to(tl.float64)
        inverse = single(1.0 / divisor)
        product = (value.to(tl.float32).to(tl.float64) * inverse).to(tl.float32).to(tl.float64)
        rounded = rounded_by(product, None, word, rules, values, keys, half, inside)
    else:
        rounded = rounded_by(value, scale, word, rules, values, keys, half, inside)
    report(found, rounded, inside & known)
    result = rounded
    if tl.load(rules + RESCALE) != 0:
        result = tl.where(known, multiply(rounded, scale, rules + FIELDS), NAN)
    tl.store(out + i, exactly(result, out.dtype.element_ty), mask=inside)
