"""ResNets for 32 x 32 px images (He et al., CVPR 2016, arXiv 1512.03385, section 4.2): the teachers."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from bench.config.schema import Model, RecipeError

NUMERICS = 1  # raised when results change: bench/config/numerics.py


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: a strided 1 x 1 convolution with batch norm if the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    """Three stages of basic blocks with `width`, 2 `width` and 4 `width` channels; the second and third halve the map.

    For 32 x 32 px and width 16 the maps are 16 x 32², 32 x 16² and 64 x 8².
    """

    def __init__(self, blocks: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages, channels_in = [], width
        for channels, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            first = BasicBlock(channels_in, channels, stride)
            stages.append(nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1))))
            channels_in = channels
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        features = self.stages(F.relu(self.bn(self.conv(images))))
        return self.head(features.mean((2, 3)))


def build(model: Model, classes: int) -> nn.Module:
    """ResNet of `model.depth` = 6 n + 2 layers, with n blocks per stage."""
    depth = model.depth or 56
    if depth < 8 or (depth - 2) % 6:
        raise RecipeError(f"model.depth: {depth} layers, the CIFAR ResNets have 6 n + 2: 8, 14, 20, 26, 32, …")
    return ResNetCifar((depth - 2) // 6, model.width or 16, classes)
