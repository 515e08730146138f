"""Regression: float32 inputs (samples, features) and targets (samples, outputs)."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from ..task import Data
from .images import digits


def diabetes() -> Data:
    """The 442 patients of scikit-learn's diabetes data, every fifth for testing.

    The ten features and the target become (value - mean) / deviation over the training rows.
    """
    from sklearn.datasets import load_diabetes

    source = load_diabetes(scaled=False)
    rows = torch.cat([torch.from_numpy(source.data), torch.from_numpy(source.target).unsqueeze(1)], 1)
    test = torch.arange(len(rows)) % 5 == 4
    # The statistics module sums exactly: the result is the same on every machine.
    columns = rows[~test].T.tolist()
    mean = torch.tensor([statistics.fmean(column) for column in columns], dtype=torch.float64)
    deviation = torch.tensor([statistics.pstdev(column) for column in columns], dtype=torch.float64)
    rows = ((rows - mean) / deviation).float()
    return Data(rows[~test, :-1], rows[~test, -1:], rows[test, :-1], rows[test, -1:])


def digits_one_vs_all() -> Data:
    """The pixels of the handwritten digits, split and standardised as for the classifiers; targets +1 and -1 for each digit."""
    data = digits()
    signs = 2 * torch.eye(10) - 1
    train, test = signs[data.train_targets], signs[data.test_targets]
    return Data(data.train_inputs[:].flatten(1), train, data.test_inputs[:].flatten(1), test)


def power_law(*, d: int, n: int, test_n: int, a: float, noise: float, seed: int) -> Data:
    """`x ~ N(0, diag(i^-a))` for i = 1..d, `y = sum_i x_i + noise * N(0, 1)`; the test targets carry no noise.

    Without noise there, half the squared test error estimates the excess risk `(w - 1)' diag(i^-a) (w - 1) / 2` itself.

    Source: the setting of arXiv 2510.18259 (spectrum i^-a, all optimal weights 1, unit noise).

    Args:
        d: number of features.
        n: number of training samples.
        test_n: number of test samples.
        a: exponent of the spectrum.
        noise: standard deviation of the label noise.
        seed: of all draws.
    """
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, d + 1, dtype=torch.float64) ** (-a / 2)

    def draw(count: int, noise: float) -> tuple[Tensor, Tensor]:
        # The targets belong to the float32 inputs that the model sees, not to the float64 ones they came from.
        inputs = (torch.randn(count, d, generator=generator, dtype=torch.float64) * deviations).float()
        errors = noise * torch.randn(count, 1, generator=generator, dtype=torch.float64)
        return inputs, (inputs.double().sum(1, keepdim=True) + errors).float()

    return Data(*draw(n, noise), *draw(test_n, 0.0))
