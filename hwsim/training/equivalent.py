"""What a quantizer amounts to in second moments: of the data, and of a Gaussian scalar."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from hwsim.casts import Cast
from hwsim.errors import ConfigError
from hwsim.formats import Fixed, Float, Integer

from .moments import rounded_moments
from .quantizers import Noise, Quantizer, parse_quantizer

Array = npt.NDArray[np.float64]
STOCHASTIC_LAW = 1 / (16 * log(2))
ASYMMETRY = 1e-6


@dataclass(frozen=True)
class Equivalent:
    """Q(x) = gain x + n for x ~ N(0, deviation^2): n uncorrelated with x, E[n^2 | x] counted as additive + relative x^2.

    For a real format the two are the projection of the conditional variance on the span of 1 and x^2: all that the second
    moments of SGD see of it. `shared` is the relative variance of an error that a whole batch has in common.
    """

    gain: float = 1.0
    additive: float = 0.0
    relative: float = 0.0
    shared: float = 0.0


EXACT = Equivalent()


def equivalent(quantizer: Quantizer | None, deviation: float) -> Equivalent:
    """The second moments of a quantizer on a Gaussian scalar of this standard deviation."""
    if quantizer is None:
        return EXACT
    if isinstance(quantizer, Noise):
        if quantizer.sharing != "elementwise":
            return Equivalent(shared=quantizer.relative)
        return Equivalent(additive=quantizer.additive, relative=quantizer.relative)
    moments = rounded_moments(quantizer, np.zeros(1), np.array([deviation]))
    xq, qq, xxqq, xxxq = (float(m[0]) for m in (moments.xq, moments.qq, moments.xxqq, moments.xxxq))
    if deviation == 0.0:
        return Equivalent(additive=qq)
    power = deviation**2
    gain = xq / power
    noise = qq - gain**2 * power
    weighted = xxqq - 2 * gain * xxxq + 3 * gain**2 * power**2
    relative = (weighted / power - noise) / (2 * power)
    return Equivalent(gain, noise - relative * power, relative)


@dataclass(frozen=True)
class DataMoments:
    """Moments of x ~ N(0, lambda) and z = Q_d(x), a coordinate each.

    c = E zx, h = E z^2, k22 = E z^2 x^2, k31 = E z^3 x, k4 = E z^4.

    `cross` are the factors of E[z_i^2 z_k x_k] = f h_i c_k and E[z_i^2 z_k^2] = f h_i h_k, i != k; `batch` those of
    E[z_i x_i z'_i x'_i] = f c_i^2, E[z_i x_i z'_i^2] = f c_i h_i and E[z_i^2 z'_i^2] = f h_i^2 for two samples of one batch.
    """

    c: Array
    h: Array
    k22: Array
    k31: Array
    k4: Array
    cross: tuple[float, float] = (1.0, 1.0)
    batch: tuple[float, float, float] = (1.0, 1.0, 1.0)


def data_moments(eigenvalues: Array, quantizer: Quantizer | None) -> DataMoments:
    """The moments of quantized Gaussian data.

    Raises:
        ConfigError: a converter without conditional moments of one element.
    """
    v = eigenvalues
    if isinstance(quantizer, Cast):
        m = rounded_moments(quantizer, np.zeros_like(v), np.sqrt(v))
        return DataMoments(m.xq, m.qq, m.xxqq, m.xqqq, m.qqqq)
    if quantizer is None:
        return DataMoments(v, v, 3 * v**2, 3 * v**2, 3 * v**2)
    if quantizer.law == "multiplicative":
        e = quantizer.size
        u2, u3, u4 = 1 + e, 1 + 3 * e, 1 + 6 * e + 3 * e**2
        moments = v, u2 * v, 3 * u2 * v**2, 3 * u3 * v**2, 3 * u4 * v**2
        shared = (u3 / u2, u4 / u2**2)
        if quantizer.sharing == "elementwise":
            return DataMoments(*moments)
        return DataMoments(
            *moments, cross=shared, batch=(u2, *shared) if quantizer.sharing == "batch_common" else (1.0, 1.0, 1.0)
        )
    e = quantizer.additive
    fourth = (3 if quantizer.law == "additive" else 9 / 5) * e**2
    h = v + e
    return DataMoments(v, h, v * h + 2 * v**2, 3 * v * h, 3 * v**2 + 6 * v * e + fourth)


def require_symmetric(eigenvalues: Array, quantizer: Quantizer | None) -> None:
    """Refuse a format whose quantized data have a mean: the second moments of the weights then mix coordinates.

    Raises:
        ConfigError: the mean is above 1e-3 of the root mean square of some coordinate.
    """
    if not isinstance(quantizer, Cast):
        return
    m = rounded_moments(quantizer, np.zeros_like(eigenvalues), np.sqrt(eigenvalues))
    off = float((m.q**2 / np.where(m.qq > 0, m.qq, 1.0)).max())
    if off > ASYMMETRY:
        raise ConfigError(
            f"quantizers.data: {quantizer} gives zero-mean data a mean of up to {sqrt(off):.2g} of their size; "
            "allowed in the theory: formats as symmetric as the data (`symmetric: true`), or a scale that avoids saturation"
        )


@dataclass(frozen=True)
class EquivalentNoise:
    """The epsilon that a format amounts to on Gaussian input of a given standard deviation.

    Attributes:
        variance: E (Q(x) - x)^2, the epsilon of the additive model. relative: the same over the input's variance, the epsilon of
            the multiplicative model.
        gain: E xQ(x) / E x^2; 1 where the quantizer is unbiased.
        law: the variance that the format's law gives: 0.0902 2^(-2m) (half of it for nearest) times the input's variance for
            floating point, step^2 / 6 (or / 12) for integers; None for other formats and directed roundings.
        departure: variance / law: 1 where the law holds; it falls below for integers as the input shrinks under the step, and
            differs for floating point once subnormals or saturation count.
    """

    variance: float
    relative: float
    gain: float
    law: float | None

    @property
    def departure(self) -> float | None:
        """Variance over law; None where there is no law."""
        return self.variance / self.law if self.law else None


def equivalent_noise(format: Any, scale: float, rounding: Any = "stochastic") -> EquivalentNoise:
    """The error of a real format on x ~ N(0, scale^2), by exact integration.

    Stochastic rounding to integers of step D has the variance D^2 (1/6 - sum_k exp(-2 pi^2 k^2 scale^2 / D^2) / (pi k)^2):
    D^2 / 6 from scale = D / 2 on, but about D scale sqrt(2 / pi) far below it, where an additive floor would be D^2 / 6 still.

    Args:
        format: a format (name, mapping, record) or a Cast's mapping, such as
            {"format": "int8", "scaling": {"rule": "fixed", "value": 0.1}}.
        scale: the standard deviation of the input, positive.
        rounding: of a format that is given alone.

    Raises:
        ConfigError: no format, a scale that is not positive, a converter without conditional moments of one element.
    """
    if isinstance(scale, bool) or not isinstance(scale, float | int) or not 0 < scale < float("inf"):
        raise ConfigError(f"scale: got {scale!r}; allowed: a positive standard deviation")
    alone = not isinstance(format, Cast) and not (isinstance(format, dict) and "format" in format)
    cast = parse_quantizer({"format": format, "rounding": rounding} if alone else format, "format")
    if not isinstance(cast, Cast):
        raise ConfigError(f"format: got {format!r}; allowed: a format")
    moments = rounded_moments(cast, np.zeros(1), np.array([float(scale)]))
    variance = float(moments.qq[0] - 2 * moments.xq[0]) + scale**2
    return EquivalentNoise(variance, variance / scale**2, float(moments.xq[0]) / scale**2, _law(cast, scale))


def _law(cast: Cast, scale: float) -> float | None:
    factor = 1.0 if cast.rounding.is_stochastic else 0.5 if cast.rounding.mode.startswith("nearest") else None
    if factor is None:
        return None
    if isinstance(cast.format, Float):
        return factor * relative_variance(cast.format) * scale**2
    if isinstance(cast.format, Integer | Fixed):
        step = cast.format.smallest_subnormal * (cast.scaling.value or 1.0 if cast.scaling is not None else 1.0)
        return factor * step**2 / 6
    return None


def relative_variance(fmt: Float) -> float:
    """0.0902 2^(-2m), m the mantissa bits: E[ulp(x)^2 / (6 x^2)] of stochastic rounding for x uniform in its logarithm."""
    return STOCHASTIC_LAW * 4.0**-fmt.mantissa_bits
