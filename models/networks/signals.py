"""Classifiers of signals (samples, 1, positions)."""

from __future__ import annotations

from torch import nn


def signal_cnn(length: int, classes: int, width: int) -> nn.Sequential:
    """Three convolutions of `width` filters and stride 2 with ReLUs, then a linear layer, as in the paper of MNIST-1D."""
    layers: list[nn.Module] = []
    for inputs, kernel in ((1, 5), (width, 3), (width, 3)):
        layers += [nn.Conv1d(inputs, width, kernel, stride=2, padding=1), nn.ReLU()]
        length = (length + 2 - kernel) // 2 + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * length, classes))


def signal_mlp(length: int, classes: int, width: int) -> nn.Sequential:
    """Two hidden layers of `4 width` units with ReLUs."""
    hidden = 4 * width
    return nn.Sequential(
        nn.Flatten(), nn.Linear(length, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


NETWORKS = {"cnn": signal_cnn, "mlp": signal_mlp}
