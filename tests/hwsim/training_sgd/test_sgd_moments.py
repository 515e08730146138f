"""Moments of rounded Gaussian numbers, the epsilon of real formats, and the Gaussian numbers themselves."""

from math import exp, pi, sqrt

import numpy as np
import pytest
import torch
from sgd_cases import fixed

from hwsim.casting import apply
from hwsim.errors import ConfigError
from hwsim.formats import Draw
from hwsim.formats.philox import words
from hwsim.training.equivalent import equivalent, equivalent_noise
from hwsim.training.moments import rounded_moments
from hwsim.training.normals import _normals_of, normals_, uniforms_
from hwsim.training.quantizers import parse_quantizer

DRAW = Draw(seed=3, site="test", step=2)
SAMPLE = normals_(torch.empty(400_000, dtype=torch.float64), DRAW)
CASTS = [
    fixed("int4", "stochastic", 0.25),
    fixed("int4", "stochastic(2)", 0.5),
    fixed("int4", {"mode": "stochastic", "random_bits": 1, "variant": "C"}, 0.5),
    fixed("int4", "toward_zero", 0.25),
    fixed("uint4", "toward_negative", 0.25),
    {"format": "fp4_e2m1fn"},
    {"format": "fp8_e4m3fn", "rounding": "stochastic"},
    {"format": "fp8_e5m2", "rounding": "to_odd"},
    {"format": "fp8_e3m4", "rounding": "nearest_away"},
    {"format": "fp8_e5m2", "rounding": "toward_positive"},
]


@pytest.mark.parametrize("given", CASTS, ids=str)
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.0, 0.2), (0.7, 0.3), (-2.3, 0.01)])
def test_moments_are_those_of_the_emulated_rounding(given, mean, deviation):
    cast = parse_quantizer(given, "cast")
    x = mean + deviation * SAMPLE
    q = apply(cast, x, Draw(seed=11))
    moments = rounded_moments(cast, np.array([mean]), np.array([deviation]))
    for expected, sample in zip(moments, (q, x * q, q**2, x**2 * q**2, x * q**3, q**4, x**3 * q), strict=True):
        error = float(sample.std()) / sqrt(len(sample)) + 1e-6 * float(sample.abs().mean())
        assert abs(expected[0] - float(sample.mean())) <= 4 * error


def test_moments_at_a_point_are_the_conditional_ones():
    moments = rounded_moments(parse_quantizer(fixed("int8", "stochastic", 1.0), "cast"), np.array([0.25]), np.zeros(1))
    assert moments.q[0] == pytest.approx(0.25, abs=1e-7)
    assert moments.qq[0] == pytest.approx(0.25, abs=1e-7)


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.5, 1.0, 3.0])
def test_stochastic_integers_follow_their_series(scale):
    """Var = D^2 (1/6 - sum_k exp(-2 pi^2 k^2 s^2 / D^2) / (pi k)^2)."""
    series = 1 / 6 - sum(exp(-2 * (pi * k * scale) ** 2) / (pi * k) ** 2 for k in range(1, 200))
    # 24 random bits: the chance of the upper neighbour is up to 2^-24 too small
    assert equivalent_noise("int8", scale).variance == pytest.approx(series, rel=1e-6)


def test_small_signals_see_less_of_the_integer_floor():
    noise = equivalent_noise(fixed("int8", "stochastic", 0.5), 0.005)
    assert noise.variance == pytest.approx(0.5 * 0.005 * sqrt(2 / pi) - 0.005**2, rel=1e-5)
    assert noise.departure < 0.05
    assert equivalent_noise("int8", 2.0).departure == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("rounding", "factor", "mantissa_bits"),
    [*(("stochastic", 1.0, m) for m in range(1, 8)), *(("nearest_even", 0.5, m) for m in range(3, 8))],
)
def test_floating_point_has_a_relative_variance_of_the_law(rounding, factor, mantissa_bits):
    fmt = {"kind": "float", "exponent_bits": 7, "mantissa_bits": mantissa_bits}
    relative = [equivalent_noise(fmt, scale, rounding).relative for scale in np.geomspace(1, 2, 16)]
    assert np.mean(relative) == pytest.approx(factor * 0.0902 * 4.0**-mantissa_bits, rel=0.04 if mantissa_bits == 1 else 0.01)


@pytest.mark.parametrize(("name", "epsilon"), [("fp8_e4m3fn", 1.41e-3), ("fp8_e5m2", 5.6e-3), ("bf16", 5.5e-6)])
def test_known_relative_variances(name, epsilon):
    assert equivalent_noise(name, 1.0).relative == pytest.approx(epsilon, rel=0.03)


def test_nearest_is_biased_and_stochastic_is_not():
    assert equivalent_noise("fp8_e5m2", 1.0).gain == pytest.approx(1, abs=1e-6)
    assert equivalent_noise("int8", 0.3, "nearest_even").gain < 0.9


@pytest.mark.parametrize("given", [("additive", 0.2), ("multiplicative", 0.3), ("dither", 0.6)])
def test_the_equivalent_of_an_ideal_error_is_itself(given):
    noise = parse_quantizer(given, "q")
    e = equivalent(noise, 1.7)
    assert (e.gain, e.additive, e.relative) == (1.0, noise.additive, noise.relative)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("int8", 0.0), "scale: got 0.0; allowed: a positive standard deviation"),
        (("fp32", 1.0), "allowed in the theory: formats of up to 16 bits"),
        (({"format": "int8", "scaling": "absmax"}, 1.0), "its scale depends on the whole tensor"),
        (({"format": "fp16", "overflow": "infinity"}, 1.0), "allowed in the theory: 'saturate' without flushing"),
        ((("additive", 0.1), 1.0), "allowed: a format"),
    ],
)
def test_bad_input_is_named(arguments, text):
    with pytest.raises(ConfigError, match=text):
        equivalent_noise(*arguments)


def test_normals_have_gaussian_moments():
    n = len(SAMPLE)
    for power, expected, deviation in ((1, 0, 1), (2, 1, sqrt(2)), (3, 0, sqrt(15)), (4, 3, sqrt(96)), (6, 15, sqrt(10170))):
        assert abs(float((SAMPLE**power).mean()) - expected) < 4 * deviation / sqrt(n)
    assert abs(float((SAMPLE[:-32] * SAMPLE[32:]).mean())) < 4 / sqrt(n)


def test_normals_do_not_depend_on_where_the_tensor_starts():
    part = normals_(torch.empty(300, dtype=torch.float64), Draw(seed=3, site="test", step=2, offset=77))
    assert torch.equal(part, SAMPLE[77:377])


def test_other_devices_draw_the_same_normals():
    block = words(6400, DRAW.numbers).view(-1, 64).double()
    assert torch.allclose(_normals_of(block).view(-1), SAMPLE[:6400], rtol=0, atol=1e-13)


def test_uniforms_are_uniform():
    u = uniforms_(torch.empty(400_000, dtype=torch.float64), DRAW)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 / sqrt(12 * len(u))
    assert abs(float(u.var()) - 1 / 12) < 4 / sqrt(180 * len(u))
