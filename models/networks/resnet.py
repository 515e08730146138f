"""The residual networks for CIFAR-10 of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TaskError


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # Option A: where the shape changes, the shortcut subsamples and pads with channels of zeros; it has no weights.
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(shortcut + residual)


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3x3 convolution, three stages of n blocks with 16, 32, 64 filters, mean pooling, a linear layer.

    Args:
        depth: 6n + 2 with n >= 1: 20, 32, 44, 56, 110 in the paper.
        channels: of the images (samples, channels, rows, columns).
        classes: number of scores in the result (samples, classes).

    Raises:
        TaskError: any other depth.
    """

    def __init__(self, depth: int, *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise TaskError(f"depth: got {depth}; allowed: 6n + 2 with n >= 1", "depth")
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = _stage(16, 16, blocks, stride=1)
        self.stage2 = _stage(16, 32, blocks, stride=2)
        self.stage3 = _stage(32, 64, blocks, stride=2)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        x = F.relu(self.bn(self.conv(images)))
        scores: Tensor = self.head(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))
        return scores


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs, stride), *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))
