"""Linear regression."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..datasets import regression as datasets
from ..measures import absolute_error, half_squared_error, largest_agrees
from ..registry import CATALOGUE, Count, NonNegative, Seed
from ..task import Task

DIABETES = "scikit-learn load_diabetes (BSD-3-Clause): Efron et al., Least Angle Regression, Annals of Statistics 32 (2004)"
DIGITS = "scikit-learn load_digits (BSD-3-Clause): UCI optdigits, E. Alpaydin and C. Kaynak 1998"
GENERATED = "generated from the seed of the task; setting of arXiv 2510.18259"


@CATALOGUE.register
def linear_regression(
    *, d: Count = 200, n: Count = 10_000, test_n: Count = 2000, a: NonNegative = 2.0, noise: NonNegative = 1.0, seed: Seed = 0
) -> Task:
    """Gaussian inputs with covariance eigenvalues i^-a, optimal weights 1, weights from 0; the test loss is the excess risk."""
    load = partial(datasets.power_law, d=d, n=n, test_n=test_n, a=a, noise=noise, seed=seed)
    return Task(partial(zero_linear, d), load, half_squared_error, {}, GENERATED)


@CATALOGUE.register
def diabetes_regression() -> Task:
    """A linear model of disease progression from ten measurements of 442 patients."""
    metrics = {"absolute_error": absolute_error}
    return Task(partial(nn.Linear, 10, 1), datasets.diabetes, half_squared_error, metrics, DIABETES)


@CATALOGUE.register
def digits_one_vs_all() -> Task:
    """Ten linear models side by side, each +1 for its handwritten digit and -1 for the others; the largest output decides."""
    metrics = {"accuracy": largest_agrees}
    return Task(partial(nn.Linear, 64, 10), datasets.digits_one_vs_all, half_squared_error, metrics, DIGITS)


def zero_linear(features: int) -> nn.Linear:
    """One output, no bias, all weights 0: the start of the theory's recursion."""
    layer = nn.Linear(features, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
