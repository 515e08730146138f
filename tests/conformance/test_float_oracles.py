"""Rounding and decoding against outside oracles: ml_dtypes, MPFR (gmpy2) and gfloat."""

from __future__ import annotations

import gfloat
import gmpy2
import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat.formats import Domain, Signedness, format_info_p3109

from hwsim.formats import Float, Format, Projection, Rounding, named_format
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.reference import project
from hwsim.formats.rounding import Overflow

E8M0 = Float(8, 0, bias=127, specials="fn", subnormals=False, signed=False, zero=False)

# What lies beyond the largest value is the type's own choice in ml_dtypes: infinity, NaN, or the largest value.
ML_DTYPES: dict[str, tuple[Format, Overflow]] = {
    "bfloat16": (Float(8, 7), "infinity"),
    "float16": (Float(5, 10), "infinity"),
    "float8_e3m4": (Float(3, 4), "infinity"),
    "float8_e4m3": (Float(4, 3), "infinity"),
    "float8_e5m2": (Float(5, 2), "infinity"),
    "float8_e4m3fn": (Float(4, 3, specials="fn"), "nan"),
    "float8_e4m3fnuz": (Float(4, 3, specials="fnuz"), "nan"),
    "float8_e5m2fnuz": (Float(5, 2, specials="fnuz"), "nan"),
    "float8_e4m3b11fnuz": (Float(4, 3, bias=11, specials="fnuz"), "nan"),
    "float8_e8m0fnu": (E8M0, "nan"),
    "float6_e2m3fn": (Float(2, 3, specials="finite"), "saturate"),
    "float6_e3m2fn": (Float(3, 2, specials="finite"), "saturate"),
    "float4_e2m1fn": (Float(2, 1, specials="finite"), "saturate"),
}


def dtype_of(name: str) -> np.dtype[np.generic]:
    return np.dtype(np.float16 if name == "float16" else getattr(ml_dtypes, name))


def every_value_of_16_bits() -> torch.Tensor:
    """All float16 and all bfloat16 numbers, as float32, which ml_dtypes does not round on the way."""
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    values = torch.cat([codes.view(torch.float16).float(), codes.view(torch.bfloat16).float()])
    return values[~values.isnan()]


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_value_of_16_bits_rounds_as_in_ml_dtypes(name: str, backend: str) -> None:
    fmt, overflow = ML_DTYPES[name]
    # With no fraction bits "even" is a matter of taste: ml_dtypes takes the ties of E8M0 up.
    rounding = Rounding("nearest_away" if fmt is E8M0 else "nearest_even")
    x = every_value_of_16_bits()
    if fmt is E8M0:
        # ml_dtypes takes a subnormal float32 above 2^-127 up to 2^-126, however near it is.
        x = x[(x <= 2.0**-127) | (x >= 2.0**-126)]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.numpy().astype(dtype_of(name)).astype(np.float64)
    given = quantize_tensor(x, fmt, Projection(rounding, overflow), backend=backend).double().numpy()
    np.testing.assert_array_equal(given, expected)
    zero = expected == 0
    assert (np.signbit(given[zero]) == np.signbit(expected[zero])).all()


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    fmt = ML_DTYPES[name][0]
    codes = np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits == 16 else np.uint8)
    expected = codes.view(dtype_of(name)).astype(np.float32)
    np.testing.assert_array_equal(fmt.decode(torch.from_numpy(codes.astype(np.int64))).numpy(), expected)


MPFR_MODES = {
    "nearest_even": gmpy2.RoundToNearest,
    "toward_zero": gmpy2.RoundToZero,
    "toward_positive": gmpy2.RoundUp,
    "toward_negative": gmpy2.RoundDown,
}


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("mode", MPFR_MODES)
@pytest.mark.parametrize("fmt", [Float(5, 10), Float(8, 7), Float(5, 2), Float(4, 3), Float(8, 23), Float(6, 5)], ids=str)
def test_float64_rounds_once_as_in_mpfr(fmt: Float, mode: str, backend: str) -> None:
    """Random float64 of every binade of the format, and its ties with one bit more at the end of float64."""
    generator = np.random.default_rng(1)
    low, high = fmt.grid.smallest_exponent, int(np.log2(fmt.max))
    exponents = generator.integers(low - 2, high + 3, 1500)
    cut = np.ldexp(np.round(generator.uniform(1, 2, 1500) * 2 ** (fmt.mantissa_bits + 1)), -fmt.mantissa_bits - 1)
    tail = generator.choice([0, 2.0**-52, -(2.0**-52), 2.0**-30, 0.1], 1500)
    x = np.ldexp(cut + tail * 2.0**-fmt.mantissa_bits, exponents) * generator.choice([-1, 1], 1500)
    p, emin = fmt.mantissa_bits + 1, fmt.grid.min_exponent
    context = gmpy2.context(precision=p, emax=high + 1, emin=emin - p + 2, subnormalize=True, round=MPFR_MODES[mode])
    with context:
        expected = np.array([float(gmpy2.mpfr(float(v))) for v in x])
    given = quantize_tensor(torch.from_numpy(x), fmt, Projection(Rounding.parse(mode), "infinity"), backend=backend).numpy()
    np.testing.assert_array_equal(given, expected)
    assert (np.signbit(given) == np.signbit(expected)).all()


P3109 = [f"binary{k}p{p}{s}{d}" for k in range(3, 9) for s in "su" for p in range(1, k + (s == "u")) for d in "ef"]


@pytest.mark.parametrize("name", P3109)
def test_every_code_of_p3109_decodes_as_in_gfloat(name: str) -> None:
    fmt = named_format(name)
    assert isinstance(fmt, Float)
    signedness = Signedness.Signed if fmt.signed else Signedness.Unsigned
    domain = Domain.Extended if fmt.domain == "extended" else Domain.Finite
    info = format_info_p3109(fmt.bits, fmt.mantissa_bits + 1, signedness, domain)
    expected = [gfloat.decode_float(info, code).fval for code in range(1 << fmt.bits)]
    np.testing.assert_array_equal(fmt.decode(torch.arange(1 << fmt.bits)).double().numpy(), np.array(expected))


GFLOAT_STOCHASTIC = {"A": "StochasticFastest", "B": "StochasticFast", "C": "Stochastic"}


@pytest.mark.parametrize("variant", GFLOAT_STOCHASTIC)
def test_stochastic_variants_round_as_in_gfloat_for_every_draw(variant: str) -> None:
    fmt, n = Float(3, 2, specials="p3109", domain="finite"), 4
    info = format_info_p3109(6, 3, Signedness.Signed, Domain.Finite)
    mode = gfloat.RoundMode[GFLOAT_STOCHASTIC[variant]]
    for x in np.linspace(0.01, 3.3, 67):
        for bits in range(1 << n):
            expected = gfloat.round_float(info, float(x), mode, sat=True, srbits=bits, srnumbits=n)
            rounding = Rounding("stochastic", n, variant)  # type: ignore[arg-type]
            assert project(float(x), fmt, Projection(rounding), bits << (32 - n)) == expected
