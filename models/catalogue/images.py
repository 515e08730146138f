"""Image classification."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import nn

from ..datasets import images as datasets
from ..errors import TaskError
from ..measures import accuracy, cross_entropy
from ..networks.images import NETWORKS, cnn, mlp
from ..registry import CATALOGUE, Count, NonNegative, OneOf, Seed
from ..task import Data, Task

Network = Annotated[str, OneOf(tuple(NETWORKS))]

DIGITS = "scikit-learn load_digits (BSD-3-Clause): UCI optdigits, E. Alpaydin and C. Kaynak 1998"
IDX = "IDX files in a folder of the user's; Fashion-MNIST: Zalando Research (MIT), Xiao et al. 2017, arXiv 1708.07747"
CIFAR = "CIFAR-10, binary version, in a folder of the user's; A. Krizhevsky 2009"
GENERATED = "generated from the seed of the task"
FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"


@CATALOGUE.register
def digits_cnn(*, width: Count = 16) -> Task:
    """Two small convolutions on 8 x 8 handwritten digits."""
    return _classification(partial(cnn, 1, 10, 8, width=width), datasets.digits, DIGITS)


@CATALOGUE.register
def digits_mlp(*, width: Count = 64) -> Task:
    """One hidden layer on 8 x 8 handwritten digits."""
    return _classification(partial(mlp, 1, 10, 8, width=width), datasets.digits, DIGITS)


@CATALOGUE.register
def fashion_cnn(*, folder: str = FASHION_FOLDER, width: Count = 16) -> Task:
    """Two small convolutions on Fashion-MNIST, 28 x 28."""
    return _classification(partial(cnn, 1, 10, 28, width=width), partial(datasets.idx, folder, 28), IDX)


@CATALOGUE.register
def fashion_resnet20(*, folder: str = FASHION_FOLDER) -> Task:
    """The ResNet-20 for CIFAR on Fashion-MNIST, 28 x 28."""
    return _image_task("resnet20", (1, 10, 28), partial(datasets.idx, folder, 28), IDX)


@CATALOGUE.register
def idx_images(*, network: Network = "cnn", folder: str = FASHION_FOLDER) -> Task:
    """Any network on MNIST or a set in its place: ten classes, 28 x 28 pixels."""
    return _image_task(network, (1, 10, 28), partial(datasets.idx, folder, 28), IDX)


@CATALOGUE.register
def cifar10(*, network: Network = "resnet20", folder: str = "cifar-10-batches-bin") -> Task:
    """Any network on CIFAR-10, without augmentation."""
    return _image_task(network, (3, 10, 32), partial(datasets.cifar10, folder), CIFAR)


@CATALOGUE.register
def synthetic_images(
    *,
    network: Network = "resnet18",
    channels: Count = 3,
    size: Count = 32,
    classes: Count = 10,
    train_samples: Count = 512,
    test_samples: Count = 128,
    noise: NonNegative = 1.0,
    seed: Seed = 0,
) -> Task:
    """Any network on noisy random patterns: for coverage and speed where no data are at hand, not a benchmark of learning."""
    load = partial(
        datasets.synthetic,
        channels=channels,
        size=size,
        classes=classes,
        train_samples=train_samples,
        test_samples=test_samples,
        noise=noise,
        seed=seed,
    )
    return _image_task(network, (channels, classes, size), load, GENERATED)


def _image_task(network: str, shape: tuple[int, int, int], load: Callable[[], Data], source: str) -> Task:
    channels, classes, size = shape
    chosen = NETWORKS[network]
    if chosen.colour_only and channels not in (1, 3):
        raise TaskError(f"channels: got {channels}; allowed for {network}: 1 or 3", "channels")
    if chosen.colour_only and channels == 1:
        channels, load = 3, partial(datasets.coloured, load)
    return _classification(partial(chosen.make, channels, classes, size), load, source)


def _classification(make: Callable[[], nn.Module], load: Callable[[], Data], source: str) -> Task:
    return Task(make, load, cross_entropy, {"accuracy": accuracy}, source)
