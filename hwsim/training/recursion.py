"""The exact recursion of the first two moments of the weights of quantized SGD, in O(d) a step."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hwsim.casts import Cast
from hwsim.errors import ConfigError

from .equivalent import Equivalent, data_moments, equivalent, require_symmetric
from .moments import rounded_moments
from .regression import Run
from .threads import in_threads, ranges

Array = npt.NDArray[np.float64]
PIECE = 1 << 14
MEAN, SQUARE, SUM, SUM_VARIANCE, COVARIANCE = range(5)


class Seen(NamedTuple):
    """What one step's quantizers met: the mean squares of the activations and of the residual, and what rounding does there."""

    power: float
    residual: float
    activations: Equivalent
    output_gradients: Equivalent


class Step(NamedTuple):
    """The scalars of one step.

    With the label part l, the overlap part o and the activation part a, the second moments of z_i times the output gradient are
    one_l l + one_o o + one_a a + one_h h_i in one sample, and two_l l + two_o o + two_a a over two samples of a batch.
    """

    size: float
    share: float
    pull: float
    decay: float
    one_l: float
    one_o: float
    one_a: float
    one_h: float
    two_l: float
    two_o: float
    two_a: float
    cross_o: float
    cross_a: float
    overlap: float
    power: float
    stored_factor: float
    stored_extra: float


class Recursion:
    """m_i = E w_i and S_i = E w_i^2 of SGD on Gaussian data, step by step.

    The law of z = Q_d(x) is symmetric in each coordinate, so that the diagonal of E w w^T closes. Everything is exact for ideal
    errors and for any format of the data. A format elsewhere rounds a number whose law is counted as Gaussian with the tracked
    moments (w_i; the activation and the residual, sums over the coordinates), and errors of different quantizers count as
    uncorrelated. This is too coarse in three cases: weights rounded to nearest, where their deviation is below about half of
    the step (the rounding then feeds back into their law); rounding to nearest with large steps in several places at once; and
    numbers that are values of a grid already, such as the residual of labels and activations of one integer step, of which less
    is left to round.

    Attributes:
        moments: of the quantized data.
        label_variance: E y^2. labels: the equivalent of the label quantizer.

    Raises:
        ConfigError: a format as storage, or one that gives the data a mean; converters that have no moments (see `cells`).
    """

    def __init__(self, run: Run) -> None:
        if isinstance(run.storage, Cast):
            raise ConfigError(
                f"storage: got {run.storage}; the error of a stored format depends on the whole law of the weights; "
                'allowed in the theory: ("additive", variance), ("multiplicative", relative variance), ("dither", step)'
            )
        require_symmetric(run.eigenvalues, run.quantizers.get("data"))
        self.run = run
        self.moments = z = data_moments(run.eigenvalues, run.quantizers.get("data"))
        w = run.optimum
        signal = run.eigenvalues * w**2
        self.label_variance = float(signal.sum()) + run.noise_variance
        self.labels = equivalent(run.quantizers.get("labels"), sqrt(self.label_variance))
        self._stored = equivalent(run.storage, 0.0)
        self._constants = np.stack([z.h, z.c * w, z.h * (self.label_variance - signal) + w**2 * z.k22, w * z.k31, z.k4])
        self._state = np.zeros((5, w.size))
        self._weight_squares = np.empty(w.size)
        self._pieces = ranges(w.size, PIECE)

    @property
    def mean(self) -> Array:
        """m of the current iterate."""
        m: Array = self._state[MEAN]
        return m

    @property
    def square(self) -> Array:
        """S of the current iterate."""
        s: Array = self._state[SQUARE]
        return s

    def step(self, averaging: bool) -> Seen:
        """One iteration; `averaging` counts the iterate before it into the average."""
        run, labels, v = self.run, self.labels, self._weight_squares
        mu, base, product, factor, extra = self._parameters()
        sums = in_threads(lambda piece: _sums(self._constants, mu, base, factor, extra, v, *piece), self._pieces)
        overlap, power = (float(sum(total)) for total in zip(*sums, strict=True))
        power = max(power, 0.0)
        acts = equivalent(run.quantizers.get("activations"), sqrt(power))
        residual = _second(labels) * self.label_variance + labels.additive + _second(acts) * power + acts.additive
        residual = max(residual - 2 * labels.gain * acts.gain * overlap, 0.0)
        out = equivalent(run.quantizers.get("output_gradients"), sqrt(residual))
        scalars = self._scalars(acts, out, overlap, power)
        in_threads(lambda piece: _advance(self._state, self._constants, mu, v, product, scalars, averaging, *piece), self._pieces)
        return Seen(power, residual, acts, out)

    def result(self) -> tuple[Array, Array]:
        """Mean and variance of the averaged weights, or of the last iterate."""
        run = self.run
        if not run.averaged:
            return self.mean.copy(), self.square - self.mean**2
        count = run.steps - run.first
        return self._state[SUM] / count, self._state[SUM_VARIANCE] / count**2

    def _parameters(self) -> tuple[Array, Array, Array, float, float]:
        """E p_i, b_i, E w_i p_i, f, e of the quantized weights p, where E p_i^2 = f b_i + e."""
        quantizer = self.run.quantizers.get("parameters")
        if isinstance(quantizer, Cast):
            deviation = np.sqrt(np.maximum(self.square - self.mean**2, 0.0))
            moments = rounded_moments(quantizer, self.mean, deviation)
            return moments.q, moments.qq, moments.xq, 1.0, 0.0
        error = equivalent(quantizer, 0.0)
        return self.mean, self.square, self.square, _second(error), error.additive

    def _scalars(self, acts: Equivalent, out: Equivalent, overlap: float, power: float) -> Step:
        run, z, labels = self.run, self.moments, self.labels
        same, other = _second(out), _common(out)
        both = -2 * labels.gain * acts.gain
        return Step(
            size=run.step_size,
            share=1 / run.batch_size,
            pull=out.gain * labels.gain,
            decay=out.gain * acts.gain,
            one_l=same * _second(labels),
            one_o=same * both,
            one_a=same * _second(acts),
            one_h=same * (labels.additive + acts.additive) + out.additive,
            two_l=other * _common(labels) * z.batch[0],
            two_o=other * both * z.batch[1],
            two_a=other * _common(acts) * z.batch[2],
            cross_o=z.cross[0],
            cross_a=z.cross[1],
            overlap=overlap,
            power=power,
            stored_factor=_second(self._stored),
            stored_extra=self._stored.additive,
        )


def run_recursion(run: Run) -> Recursion:
    """The recursion after the last step."""
    recursion = Recursion(run)
    for t in range(run.steps):
        recursion.step(t >= run.first)
    return recursion


def _second(e: Equivalent) -> float:
    """The factor of x^2 in E Q(x)^2."""
    return e.gain**2 + e.relative + e.shared


def _common(e: Equivalent) -> float:
    """The factor of x x' in E Q(x) Q(x'), for two samples of a batch."""
    return e.gain**2 + e.shared


@njit(nogil=True, cache=True)
def _sums(constants: Any, mu: Any, base: Any, factor: Any, extra: Any, square: Any, first: Any, last: Any) -> Any:
    """square = factor base + extra on a range; the sums of c w* mu and of h square over it."""
    overlap = 0.0
    power = 0.0
    for i in range(first, last):
        square[i] = factor * base[i] + extra
        overlap += constants[1, i] * mu[i]
        power += constants[0, i] * square[i]
    return overlap, power


@njit(nogil=True, cache=True)
def _advance(
    state: Any, constants: Any, mu: Any, square: Any, product: Any, k: Any, averaging: Any, first: Any, last: Any
) -> None:
    """The recursion's step on a range, in place."""
    for i in range(first, last):
        h, g, label, k31, k4 = constants[0, i], constants[1, i], constants[2, i], constants[3, i], constants[4, i]
        m, s, p, v, x = state[0, i], state[1, i], mu[i], square[i], product[i]
        overlapping = k.cross_o * h * (k.overlap - g * p) + p * k31
        active = k.cross_a * h * (k.power - h * v) + v * k4
        one = k.one_l * label + k.one_o * overlapping + k.one_a * active + k.one_h * h
        two = k.two_l * g * g + k.two_o * g * h * p + k.two_a * h * h * v
        variance = max(s - m * m, 0.0)
        if averaging:
            gain = (x - m * p) / variance if variance > 0 else 1.0
            state[SUM, i] += m
            state[SUM_VARIANCE, i] += 2 * state[COVARIANCE, i] + variance
            state[COVARIANCE, i] = (1 - k.size * k.decay * h * gain) * (state[COVARIANCE, i] + variance)
        moved = s + 2 * k.size * (k.pull * g * m - k.decay * h * x) + k.size * k.size * (two + k.share * (one - two))
        state[SQUARE, i] = k.stored_factor * moved + k.stored_extra
        state[MEAN, i] = m + k.size * (k.pull * g - k.decay * h * p)
