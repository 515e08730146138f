"""Image sets in their published files: IDX (MNIST and sets made to replace it) and CIFAR-10."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TaskError
from ..task import Data
from .images import standardised

IMAGE_MAGIC, LABEL_MAGIC = 0x803, 0x801


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
    """CIFAR-10 as its author publishes it: the binary version, or the one for Python, which torchvision reads and checks.

    The binary one has records of a label and 3 x 32 x 32 bytes in five training files and a test file.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; cs.toronto.edu/~kriz/cifar.html.

    Args:
        folder: `cifar-10-batches-bin` or `cifar-10-batches-py`, by whatever name.

    Raises:
        TaskError: a file is absent, does not consist of whole records, or is not the published one (version for Python).
    """
    if (Path(folder) / "data_batch_1").is_file():
        return standardised(*_python_cifar(Path(folder), train=True), *_python_cifar(Path(folder), train=False))
    train = torch.cat([_cifar_records(Path(folder) / f"data_batch_{number}.bin") for number in range(1, 6)])
    test = _cifar_records(Path(folder) / "test_batch.bin")
    return standardised(*(column for part in (train, test) for column in (part[:, 1:].view(-1, 3, 32, 32), part[:, 0].long())))


def _python_cifar(path: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import CIFAR10

    class Here(CIFAR10):  # type: ignore[misc]
        base_folder = path.resolve().name

    try:
        found = Here(str(path.resolve().parent), train=train, download=False)
    except RuntimeError as error:
        message = "which is not what torchvision expects; allowed: a whole cifar-10-batches-py"
        raise TaskError(f"folder: got {str(path)!r}, {message}", "folder") from error
    return torch.from_numpy(found.data).permute(0, 3, 1, 2), torch.tensor(found.targets)


def _cifar_records(path: Path) -> Tensor:
    if not path.is_file():
        allowed = "a folder with CIFAR-10, the binary version or that for Python"
        raise TaskError(f"folder: got {str(path.parent)!r}, which has no {path.name}; allowed: {allowed}", "folder")
    content = bytearray(path.read_bytes())
    if not content or len(content) % 3073:
        raise TaskError(f"folder: {path} has {len(content)} bytes; allowed: a multiple of 3073", "folder")
    return torch.frombuffer(content, dtype=torch.uint8).view(-1, 3073)


def _by(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[1:]))
