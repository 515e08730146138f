"""Losses and metrics: functions of (outputs, targets), each the mean over all samples.

Class scores lie along the last dimension, so that (samples, classes) and (samples, positions, classes) read alike.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """`-log softmax(outputs)[target]` in nats; outputs (..., classes), targets (...) of class numbers."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def bits_per_symbol(outputs: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy` in bits."""
    return cross_entropy(outputs, targets) / math.log(2)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of targets with the largest score; the first of equal scores counts, NaN counts as largest (torch.argmax)."""
    return (outputs.argmax(-1) == targets).double().mean()


def largest_agrees(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of samples whose largest output is that of the largest target, (samples, classes) both: one-vs-all."""
    return accuracy(outputs, targets.argmax(-1))


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """`(output - target)^2 / 2`: its gradient is the residual, as in the theory of linear regression."""
    return 0.5 * F.mse_loss(outputs, targets)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """`|output - target|`."""
    return F.l1_loss(outputs, targets)


LOSSES = {"cross_entropy": cross_entropy, "half_squared_error": half_squared_error}
METRICS = {"accuracy": accuracy, "bits_per_symbol": bits_per_symbol, "absolute_error": absolute_error}
