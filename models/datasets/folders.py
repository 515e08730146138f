"""Labelled photographs in folders by class, laid out as ImageNet is, read batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from ..errors import TaskError, nearest
from ..samples import Samples
from ..task import Data

PARTS = ("train", "val")
MEAN = numpy.array([0.485, 0.456, 0.406], dtype=numpy.float32)
DEVIATION = numpy.array([0.229, 0.224, 0.225], dtype=numpy.float32)
"""Of ImageNet's channels in units of 255, as torchvision's networks are trained with."""
MARGIN = 256 / 224
"""How much longer than the crop the short side is before the centre is cut out, as in torchvision's recipe."""


def image_folders(folder: str, size: int) -> Data:
    """`folder/train/CLASS/*` and `folder/val/CLASS/*`, the centre of each image, standardised by ImageNet's mean and deviation.

    Classes are numbered in the order of their folders' names. Images are read with every batch; nothing is augmented.

    Raises:
        TaskError: a folder is absent or holds no images, or the two parts have other classes.
    """
    train, val = (_part(folder, part) for part in PARTS)
    if train.classes != val.classes:
        odd = sorted({*train.classes} ^ {*val.classes})[0]
        raise TaskError(
            f"folder: {folder!r} has the class {odd!r} in one of train and val; allowed: the same classes in both", "folder"
        )
    inputs = [ImageFiles(part.root, tuple(path for path, _ in part.samples), size) for part in (train, val)]
    targets = [torch.tensor(part.targets) for part in (train, val)]
    return Data(inputs[0], targets[0], inputs[1], targets[1])


def classes(folder: str) -> list[str]:
    """The names of the classes in `folder/train`, sorted.

    Raises:
        TaskError: there are none.
    """
    found: list[str] = _part(folder, "train").classes
    return found


def _part(folder: str, part: str) -> Any:
    from torchvision.datasets import ImageFolder

    path = Path(folder) / part
    try:
        return ImageFolder(str(path))
    except FileNotFoundError as error:
        beside = [entry.name for entry in Path(folder).parent.glob("*")] if Path(folder).parent.is_dir() else []
        hint = "" if Path(folder).is_dir() else nearest(Path(folder).name, beside)
        raise TaskError(f"folder: got {folder!r}: {error}; allowed: a folder with {part}/CLASS/IMAGE{hint}", "folder") from error


@dataclass(frozen=True)
class ImageFiles(Samples):
    """Images of files as float32 (samples, 3, size, size).

    The short side is resized to `size * 256 / 224` and the centre cut out, as torchvision does it with Pillow's images.

    Args:
        root: the folder that they are in.
        paths: of the files.
        size: rows and columns.
        device: where batches go.
    """

    root: str
    paths: Sequence[str]
    size: int
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        paths = self.paths[chosen] if isinstance(chosen, slice) else [self.paths[number] for number in chosen.tolist()]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            images = numpy.stack(list(threads.map(self._read, paths)))
        return torch.from_numpy(images).to(self.device)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over the size, and each file's place in the root and number of bytes: contents are not read for it."""
        digest = hashlib.sha256(str(self.size).encode())
        for path in map(Path, self.paths):
            digest.update(f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}\n".encode())
        return digest.digest()

    def to(self, device: torch.device | str) -> ImageFiles:
        """The same images, read to `device`."""
        return replace(self, device=device)

    def _read(self, path: str) -> numpy.ndarray[Any, numpy.dtype[numpy.float32]]:
        from PIL import Image, UnidentifiedImageError
        from torchvision.transforms.functional import center_crop, resize

        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise TaskError(f"folder: {path} cannot be read: {error}", "folder") from error
        cut = center_crop(resize(image, [round(self.size * MARGIN)]), [self.size, self.size])
        pixels = (numpy.asarray(cut, dtype=numpy.float32) / numpy.float32(255) - MEAN) / DEVIATION
        return numpy.ascontiguousarray(pixels.transpose(2, 0, 1))
