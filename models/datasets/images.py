"""Labelled images: float32 (samples, channels, rows, columns), standardised by channel; labels int64 (samples)."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TaskError
from ..task import Data

IMAGE_MAGIC, LABEL_MAGIC = 0x803, 0x801


def digits() -> Data:
    """The 1797 handwritten 8 x 8 digits of scikit-learn: of each class, in file order, every fifth image is for testing."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(source.target).long()
    # Within a class, because the file repeats the digits in order: plain every-fifth would test on two classes only.
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero()[4::5]] = True
    return standardised(images[~test], labels[~test], images[test], labels[test])


def idx(folder: str, size: int) -> Data:
    """The four IDX files of MNIST or of a set made to replace it, each plain or gzipped.

    Source of the file format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", yann.lecun.com/exdb/mnist.

    Args:
        folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k`.
        size: rows and columns that the images must have.

    Raises:
        TaskError: a file is absent or not what its name says.
    """
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(Path(folder) / f"{part}-images-idx3-ubyte", IMAGE_MAGIC)
        if images.shape[1:] != (size, size):
            raise TaskError(f"folder: {part} images in {folder!r} are {_by(images)}; allowed: {size} x {size}", "folder")
        parts += [images.unsqueeze(1), read_idx(Path(folder) / f"{part}-labels-idx1-ubyte", LABEL_MAGIC).long()]
    return standardised(*parts)


def read_idx(path: Path, magic: int) -> Tensor:
    """An IDX file of bytes, or its gzipped form with `.gz` after the name, as a uint8 tensor.

    Raises:
        TaskError: neither file is there, the first word is not `magic`, or the length is not what the header says.
    """
    packed = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not packed.is_file():
        raise TaskError(
            f"folder: got {str(path.parent)!r}, which has no {path.name}[.gz]; allowed: a folder with the IDX files of MNIST "
            "(for Fashion-MNIST on Debian: apt install dataset-fashion-mnist)",
            "folder",
        )
    content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    dimensions = magic & 0xFF
    header = 4 + 4 * dimensions
    if len(content) < header or struct.unpack_from(">I", content)[0] != magic:
        raise TaskError(
            f"folder: {path} begins with {content[:4].hex()!r}; allowed: {magic:08x}, then {dimensions} lengths", "folder"
        )
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) != header + math.prod(shape):
        raise TaskError(f"folder: {path} has {len(content)} bytes; allowed by its header: {header + math.prod(shape)}", "folder")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)


def cifar10(folder: str) -> Data:
    """CIFAR-10 in its binary form: records of a label and 3 x 32 x 32 bytes in five training files and a test file.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; cs.toronto.edu/~kriz/cifar.html.

    Raises:
        TaskError: a file is absent or does not consist of whole records.
    """
    train = torch.cat([_cifar_records(Path(folder) / f"data_batch_{number}.bin") for number in range(1, 6)])
    test = _cifar_records(Path(folder) / "test_batch.bin")
    return standardised(*(column for part in (train, test) for column in (part[:, 1:].view(-1, 3, 32, 32), part[:, 0].long())))


def _cifar_records(path: Path) -> Tensor:
    if not path.is_file():
        raise TaskError(
            f"folder: got {str(path.parent)!r}, which has no {path.name}; allowed: a folder with the binary version of CIFAR-10",
            "folder",
        )
    content = bytearray(path.read_bytes())
    if not content or len(content) % 3073:
        raise TaskError(f"folder: {path} has {len(content)} bytes; allowed: a multiple of 3073", "folder")
    return torch.frombuffer(content, dtype=torch.uint8).view(-1, 3073)


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
    return replace(data, train_inputs=data.train_inputs.expand(-1, 3, -1, -1), test_inputs=data.test_inputs.expand(-1, 3, -1, -1))


def _by(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[1:]))
