"""Image classifiers by name: each is made from (channels, classes, size of the square image)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..errors import TaskError
from .resnet import CifarResNet


def mlp(channels: int, classes: int, size: int, *, width: int = 64) -> nn.Sequential:
    """Two linear layers with a ReLU between them; `width` hidden units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, width), nn.ReLU(), nn.Linear(width, classes))


def cnn(channels: int, classes: int, size: int, *, width: int = 16) -> nn.Sequential:
    """Two 3x3 convolutions of `width` and 2 `width` filters, each with ReLU and 2x2 max pooling, then a linear layer.

    Raises:
        TaskError: the images are smaller than 4 x 4.
    """
    if size < 4:
        raise TaskError(f"network: got images of {size} x {size}; allowed for two poolings: at least 4 x 4", "network")
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (size // 4) ** 2, classes),
    )


def _cifar_resnet(channels: int, classes: int, size: int, *, depth: int) -> nn.Module:
    return CifarResNet(depth, channels=channels, classes=classes)


def _torchvision_resnet(channels: int, classes: int, size: int, *, name: str) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network


def _vision_transformer(channels: int, classes: int, size: int, *, patch: int, layers: int, heads: int, width: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    _check_patches(size, patch)
    network: nn.Module = VisionTransformer(size, patch, layers, heads, width, 4 * width, num_classes=classes)
    return network


def _swin(
    channels: int, classes: int, size: int, *, patch: int, width: int, depths: tuple[int, ...], heads: tuple[int, ...],
    window: int, drop: float,
) -> nn.Module:  # fmt: skip
    from torchvision.models import SwinTransformer

    _check_patches(size, patch)
    network: nn.Module = SwinTransformer(
        [patch, patch], width, [*depths], [*heads], [window, window], stochastic_depth_prob=drop, num_classes=classes
    )
    return network


def _check_patches(size: int, patch: int) -> None:
    if size % patch:
        raise TaskError(
            f"network: got images of {size} x {size}; allowed for patches of {patch}: a multiple of {patch}", "network"
        )


@dataclass(frozen=True)
class ImageNetwork:
    """A constructor of (channels, classes, size), and whether it takes images of three channels only."""

    make: Callable[[int, int, int], nn.Module]
    colour_only: bool = False


NETWORKS = {
    "mlp": ImageNetwork(mlp),
    "cnn": ImageNetwork(cnn),
    "resnet20": ImageNetwork(partial(_cifar_resnet, depth=20)),
    "resnet56": ImageNetwork(partial(_cifar_resnet, depth=56)),
    "resnet18": ImageNetwork(partial(_torchvision_resnet, name="resnet18"), colour_only=True),
    "resnet50": ImageNetwork(partial(_torchvision_resnet, name="resnet50"), colour_only=True),
    # Dosovitskiy et al. 2021 (arXiv 2010.11929), table 1.
    "vit_b_16": ImageNetwork(partial(_vision_transformer, patch=16, layers=12, heads=12, width=768), colour_only=True),
    # Touvron et al. 2021 (arXiv 2012.12877), table 1, without the distillation token; the second with patches for small images.
    "deit_tiny_16": ImageNetwork(partial(_vision_transformer, patch=16, layers=12, heads=3, width=192), colour_only=True),
    "deit_tiny_4": ImageNetwork(partial(_vision_transformer, patch=4, layers=12, heads=3, width=192), colour_only=True),
    # The same network with a third of the layers and of the width, for processors.
    "deit_mini_4": ImageNetwork(partial(_vision_transformer, patch=4, layers=4, heads=4, width=64), colour_only=True),
    "deit_mini_2": ImageNetwork(partial(_vision_transformer, patch=2, layers=4, heads=4, width=64), colour_only=True),
    # Liu et al. 2021 (arXiv 2103.14030), section 3.3 and appendix A2; then a small one.
    "swin_t": ImageNetwork(
        partial(_swin, patch=4, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, drop=0.2), colour_only=True
    ),
    "swin_mini": ImageNetwork(
        partial(_swin, patch=2, width=32, depths=(2, 2), heads=(2, 4), window=4, drop=0.0), colour_only=True
    ),
}
"""By name. `deit_` and `vit_` end in the size of their patches: it must divide that of the image."""
