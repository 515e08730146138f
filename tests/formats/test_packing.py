"""Codes in bytes, and in torch's own low-precision dtypes."""

from __future__ import annotations

import pytest
import torch
from rounding_cases import FORMATS

import hwsim
from hwsim.formats import FormatError
from hwsim.formats.interop import from_torch, to_torch, torch_dtype
from hwsim.formats.packing import pack, unpack


@pytest.mark.parametrize(
    ("bits", "order", "codes", "expected"),
    [
        (4, "low_first", [0x1, 0x2, 0x3, 0x4], [0x21, 0x43]),
        (4, "high_first", [0x1, 0x2, 0x3, 0x4], [0x12, 0x34]),
        (4, "low_first", [0xA, 0xB, 0xC], [0xBA, 0x0C]),
        (4, "high_first", [0xA, 0xB, 0xC], [0xAB, 0xC0]),
        (2, "low_first", [0, 1, 2, 3], [0b11100100]),
        (2, "high_first", [0, 1, 2, 3], [0b00011011]),
        (1, "low_first", [1, 0, 0, 0, 0, 0, 0, 0, 1], [1, 1]),
        (3, "low_first", [0b001, 0b010, 0b111], [0b11010001, 0b1]),
        (3, "high_first", [0b001, 0b010, 0b111], [0b00101011, 0b10000000]),
        (6, "low_first", [0b000001, 0b100000, 0b110011, 0b101010], [0b00000001, 0b00111000, 0b10101011]),
        (6, "high_first", [0b000001, 0b100000, 0b110011, 0b101010], [0b00000110, 0b00001100, 0b11101010]),
        (8, "low_first", [1, 255], [1, 255]),
        (16, "low_first", [0x1234], [0x34, 0x12]),
        (16, "high_first", [0x1234], [0x12, 0x34]),
    ],
)
def test_layout_of_bits(bits: int, order: str, codes: list[int], expected: list[int]) -> None:
    packed = pack(torch.tensor(codes), bits, order)  # type: ignore[arg-type]
    assert packed.dtype == torch.uint8
    assert packed.tolist() == expected
    assert unpack(packed, bits, len(codes), order).tolist() == codes  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["low_first", "high_first"])
@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.bits <= 8])
def test_encoding_to_bytes_is_encoding_then_packing(name: str, order: str) -> None:
    """With and without values that the compiled loop leaves to the other way, in rows of whole bytes and not."""
    fmt = FORMATS[name]
    finite = fmt.values().to(fmt.carrier).repeat(8)[:520]
    zero = bool((finite == 0).any())
    special = torch.tensor([v for v, has in ((torch.nan, fmt.has_nan), (torch.inf, fmt.has_infinity), (-0.0, zero)) if has])
    whole = finite[: len(finite) // 16 * 16]
    for x in (whole, whole.view(-1, 16), finite[:13], torch.cat([whole, special]), whole.view(-1, 16).t()):
        assert torch.equal(fmt.encode_packed(x, order), fmt.pack(fmt.encode(x), order))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["e4m3fn", "e2m1fn", "ue5m3", "int8_symmetric", "uint4", "fixed8.4", "e5m2_one_zero"])
def test_encoding_to_bytes_names_the_first_element_that_is_no_value(name: str) -> None:
    fmt = FORMATS[name]
    between = (fmt.values()[0] + fmt.values()[1]).item() / 2
    for bad in (between, 2 * fmt.max, -3 * fmt.max, fmt.smallest_subnormal / 2):
        x = fmt.values().float()[:1].repeat(64)
        x[37] = bad
        with pytest.raises(FormatError, match=r"element \[37\]"):
            fmt.encode_packed(x)


@pytest.mark.parametrize("order", ["low_first", "high_first"])
@pytest.mark.parametrize(
    "name", ["int2", "int3", "fp4_e2m1", "uint5", "fp6_e3m2", "binary7p3se", "fp8_e4m3fn", "fp12_e6m5", "bf16", "fp32"]
)
def test_every_code_comes_back_row_by_row(name: str, order: str) -> None:
    fmt = hwsim.format(name)
    codes = torch.arange(1 << min(fmt.bits, 12)).remainder(1 << fmt.bits).reshape(2, -1)
    codes = torch.cat([codes, codes[:, :1]], 1)
    packed = fmt.pack(codes, order)  # type: ignore[arg-type]
    assert packed.shape == (2, -(-codes.shape[1] * fmt.bits // 8))
    assert torch.equal(fmt.unpack(packed, codes.shape[1], order), codes)  # type: ignore[arg-type]


def test_codes_of_64_bits_are_their_int64() -> None:
    codes = torch.tensor([-1, 0, -(2**63), 2**63 - 1])
    assert torch.equal(unpack(pack(codes, 64), 64), codes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack(torch.tensor([1, 16]), 4), r"code \[1\] is 16; allowed: 0 to 2\^4 - 1"),
        (lambda: pack(torch.tensor([-1]), 4), r"code \[0\] is -1"),
        (lambda: pack(torch.tensor(1), 4), "an axis to pack"),
        (lambda: pack(torch.ones(2), 4), "integers with an axis"),
        (lambda: pack(torch.tensor([1]), 0), "bits: got 0"),
        (lambda: pack(torch.tensor([1]), 4, "low_frist"), "did you mean 'low_first'"),  # type: ignore[arg-type]
        (lambda: unpack(torch.zeros(1, dtype=torch.uint8), 4, 3), "count: got 3; allowed: 0 to 2"),
        (lambda: unpack(torch.tensor([1]), 4), "allowed: uint8"),
    ],
)
def test_what_cannot_be_packed_is_refused(call: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    "name",
    ["fp8_e4m3fn", "fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz", "e8m0fnu", "fp16", "bf16", "int8", "uint8", "int16"],
)
def test_every_code_is_torchs_own(name: str) -> None:
    fmt = hwsim.format(name)
    codes = torch.arange(1 << fmt.bits).reshape(2, -1)
    x = to_torch(codes, fmt)
    assert x.dtype == torch_dtype(fmt)
    assert x.shape == codes.shape
    values = x.double()
    assert torch.equal(values.nan_to_num(7e77), fmt.decode(codes).double().nan_to_num(7e77))
    assert torch.equal(from_torch(x, fmt), codes)


def test_fp4_pairs_have_the_first_code_low() -> None:
    fmt = hwsim.format("fp4_e2m1")
    codes = torch.arange(16).reshape(2, 8)
    x = to_torch(codes, fmt)
    assert x.dtype == torch.float4_e2m1fn_x2
    assert x.view(torch.uint8)[0].tolist() == [0x10, 0x32, 0x54, 0x76]
    assert torch.equal(from_torch(x, fmt), codes)


def test_what_torch_lacks_is_refused() -> None:
    with pytest.raises(FormatError, match="no dtype of its bits"):
        to_torch(torch.tensor([1]), hwsim.format("fp6_e3m2"))
    with pytest.raises(FormatError, match=r"got a tensor of torch.float32 for fp8_e5m2; allowed: torch.float8_e5m2"):
        from_torch(torch.ones(1), hwsim.format("fp8_e5m2"))
    with pytest.raises(FormatError, match="an even last axis"):
        to_torch(torch.tensor([1]), hwsim.format("fp4_e2m1"))
