"""Small data sets laid out as the published ones are."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

CIFAR_FILES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


def idx(magic: int, *shape: int) -> bytes:
    """An IDX file of bytes that count up."""
    count = int(torch.tensor(shape).prod())
    return struct.pack(f">I{len(shape)}I", magic, *shape) + bytes(i % 251 for i in range(count))


def mnist_folder(folder: Path, count: int = 4) -> Path:
    """Four IDX files of `count` images each."""
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(0x803, count, 28, 28))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(0x801, count))
    return folder


def cifar_record(number: int) -> bytes:
    """A label, a red plane of one colour, a green one whose last pixel is the brightest, a blue one of everything."""
    return bytes([number, *[10 * number + 1] * 1024, *[100] * 1023, 101, *range(256), *range(256)] + [7] * 512)


def binary_cifar(folder: Path) -> Path:
    """The binary version of CIFAR-10 with one image a file."""
    for number, name in enumerate(CIFAR_FILES):
        (folder / f"{name}.bin").write_bytes(cifar_record(number))
    return folder


def python_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same images in the version for Python, whose checksums torchvision is told."""
    sums = {}
    for number, name in enumerate(CIFAR_FILES):
        pixels = numpy.frombuffer(cifar_record(number), dtype=numpy.uint8)[1:].reshape(1, -1)
        sums[name] = _pickled(folder / name, {"data": pixels, "labels": [number]})
    meta = _pickled(folder / "batches.meta", {"label_names": [str(number) for number in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in CIFAR_FILES[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name in CIFAR_FILES[-1:]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return folder


def _pickled(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def image_folder(folder: Path, size: tuple[int, int] = (24, 18)) -> Path:
    """Two classes of three images for training and one for testing, of random pixels, in PNG and JPEG."""
    generator = numpy.random.default_rng(0)
    for part, count in (("train", 3), ("val", 1)):
        for name in ("n01440764", "n01443537"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.{'JPEG' if number else 'png'}")
    return folder
