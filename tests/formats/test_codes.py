"""Codes and values: each code has one value, each value one code."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from rounding_cases import FORMATS, same, tricky

from hwsim.formats import Float, Format, FormatError, Logarithmic, Projection
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.properties import canonical_codes


def codes_of(fmt: Format) -> torch.Tensor:
    """Every code of a format of up to 12 bits, every 17th of one of 16; else some at the ends of each field."""
    if fmt.bits <= 16:
        return torch.arange(0, 1 << fmt.bits, 1 if fmt.bits <= 12 else 17)
    low = torch.tensor([0, 1, 2, 3, (1 << 23) - 1, 1 << 23, (1 << 52) - 1, 1 << 52, 0x3FF << 52, 0x7FE << 52, 0x7FF << 52])
    high = -1 - low if fmt.bits == 64 else (1 << fmt.bits) - 1 - (low & ((1 << fmt.bits) - 1))
    return torch.cat([low & ((1 << min(fmt.bits, 63)) - 1), high]).unique()


@pytest.mark.parametrize("name", FORMATS)
def test_decode_gives_the_exact_value_of_every_code(name: str) -> None:
    fmt = FORMATS[name]
    codes = codes_of(fmt)
    expected = [float(fmt.decode_code(code % (1 << fmt.bits))) for code in codes.tolist()]
    values = fmt.decode(codes)
    assert values.dtype == fmt.carrier
    assert same(values.double(), torch.tensor(expected, dtype=torch.float64))


CODED: dict[str, Format] = FORMATS | {
    "lns16": Logarithmic(16, 10),
    "e4m3_flat_one_zero": Float(4, 3, subnormals=False, negative_zero=False),
}

SAME_VALUE: dict[str, dict[int, int]] = {
    "lns8": {0xC0: 0x40},
    "lns16": {0xC000: 0x4000},
    "e5m2_one_zero": {0x80: 0},
    "e4m3_flat": {sign + fraction: sign for sign in (0, 0x80) for fraction in range(1, 8)},
    "bf16_flat": {sign + fraction: sign for sign in (0, 0x8000) for fraction in range(1, 128)},
    "e4m3_flat_one_zero": {sign + fraction: 0 for sign in (0, 0x80) for fraction in range(8) if sign + fraction},
}
"""Codes of a value that another code has too, the canonical one: the second zero beside a sign bit without -0, and fractions
beside exponent field 0 without subnormals."""

NO_VALUE: dict[str, set[int]] = {
    "int8_symmetric": {0x80},
    "fixed16.15_symmetric": {0x8000},
    "ternary": {3},
    "codes_in_any_order": {5, 6, 7},
    "above_zero": {3},
    "apot5": {31},
}
"""Codes below the lowest value of a symmetric format, and past the last level."""


def every_code(fmt: Format) -> torch.Tensor:
    return torch.arange(1 << fmt.bits) if fmt.bits <= 16 else codes_of(fmt)


@pytest.mark.parametrize("name", CODED)
def test_every_code_comes_back_but_for_the_named_ones_and_for_nan_which_gets_the_canonical_code(name: str) -> None:
    fmt = CODED[name]
    codes = torch.tensor([code for code in every_code(fmt).tolist() if code not in NO_VALUE.get(name, ())])
    values = fmt.decode(codes)
    back = fmt.encode(values)
    assert back.dtype == torch.int64
    changed = {code: other for code, other, value in zip(*(x.tolist() for x in (codes, back, values)), strict=True)
               if code != other and value == value}  # fmt: skip
    assert changed == SAME_VALUE.get(name, {})
    assert set(back[values.isnan()].tolist()) <= {fmt.lattice.nan_code}


@pytest.mark.parametrize("name", NO_VALUE)
def test_a_code_of_no_value_does_not_come_back(name: str) -> None:
    for code in NO_VALUE[name]:
        with pytest.raises(FormatError, match="encode with"):
            CODED[name].encode(CODED[name].decode(torch.tensor([code])))


@pytest.mark.parametrize("name", CODED)
def test_the_suite_of_plug_ins_makes_the_same_exceptions(name: str) -> None:
    fmt, codes = CODED[name], every_code(CODED[name])
    values = fmt.decode(codes).double()
    canonical, known = canonical_codes(codes, values, fmt)
    assert set(codes[~known].tolist()) == NO_VALUE.get(name, set())
    kept = known & ~values.isnan()
    changed = dict(zip(codes[kept].tolist(), canonical[kept].tolist(), strict=True))
    assert {code: other for code, other in changed.items() if code != other} == SAME_VALUE.get(name, {})
    assert set(canonical[values.isnan() & known].tolist()) <= {fmt.lattice.nan_code}


@pytest.mark.parametrize("name", FORMATS)
def test_every_rounded_value_has_a_code_that_decodes_to_it(name: str) -> None:
    fmt = FORMATS[name]
    rounded = quantize_tensor(tricky(fmt, torch.float32), fmt, Projection(nan="error" if fmt.has_nan else "zero"))
    assert same(fmt.decode(fmt.encode(rounded)).double(), rounded.double())


@pytest.mark.parametrize("name", ["e4m3fn", "e2m1fn", "int8", "uint4", "ufixed6.6", "binary8p3se"])
def test_magnitude_codes_count_the_values(name: str) -> None:
    fmt = FORMATS[name]
    values = fmt.values()
    codes = fmt.encode(values[values >= 0])
    assert codes.tolist() == list(range(len(codes)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("e4m3fn", 1.0625),
        ("e4m3fn", 480.0),
        ("e4m3fn", float("inf")),
        ("e2m1fn", float("nan")),
        ("int8", 128.0),
        ("int8", 0.5),
        ("int8_symmetric", -128.0),
        ("uint8", -1.0),
        ("ue5m3", -1.0),
        ("ue4m3_ieee", float("-inf")),
        ("e8m0fnu", 0.0),
        ("e4m3_flat", 2.0**-9),
        ("fp32", 1 + 2.0**-40),
        ("ternary", 0.5),
        ("ternary", float("nan")),
        ("above_zero", 0.0),
        ("posit8_2", 2.0**25),
        ("posit8_2", float("inf")),
        ("lns8", 1.1),
        ("fp64", None),
    ],
)
def test_encode_names_the_first_element_that_is_no_value(name: str, value: float | None) -> None:
    fmt = FORMATS[name]
    if value is None:
        assert fmt.encode(torch.tensor([2.0**-1074], dtype=torch.float64)).tolist() == [1]
        return
    x = torch.tensor([[1.0, 1.0], [1.0, value]], dtype=torch.float64)
    with pytest.raises(FormatError, match=r"element \[1, 1\] is "):
        fmt.encode(x)


def test_encode_takes_every_floating_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert FORMATS["e4m3fn"].encode(torch.tensor([1.5, -0.0], dtype=dtype)).tolist() == [0x3C, 0x80]


def test_encode_refuses_integer_tensors() -> None:
    with pytest.raises(FormatError, match="floating dtypes"):
        FORMATS["int8"].encode(torch.tensor([1]))


@pytest.mark.parametrize("code", [-1, 256])
def test_decode_refuses_codes_out_of_range(code: int) -> None:
    with pytest.raises(FormatError, match=rf"element \[2\] is {code}; allowed: codes from 0 to 2\^8 - 1"):
        FORMATS["e4m3fn"].decode(torch.tensor([0, 1, code]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_decode_takes_integers_of_any_width(dtype: torch.dtype) -> None:
    assert FORMATS["e4m3fn"].decode(torch.tensor([0x3C], dtype=dtype)).tolist() == [1.5]


def test_decode_code_is_exact_where_decode_needs_float64() -> None:
    assert FORMATS["fp64"].decode_code(1) == Fraction(2) ** -1074
