"""What detectors share: maps of several sizes to cells that each tell classes and a box.

One stage and no anchors, as in FCOS (Tian et al. 2019). Knows no trunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automl.models import layers

RARE = 0.01  # share that each class has of all cells at first (Lin et al. 2017)
SIDE = 4.0  # of boxes at first, in strides
WIDEST = 6.0  # logarithm of a box's side in strides, at most: what overflows learns nothing


class Cells(nn.Module):
    """A pyramid of maps (Lin et al. 2017), and a head that all of them share.

    Each cell of a map tells logits of the classes, and how far the middle of a box lies from its
    own and how long the sides are, in strides of its map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        *,
        width: int,
        depth: int,
        norm: layers.Norm,
        activation: layers.Activation,
    ) -> None:
        """Of maps with so many channels and such strides, the finest first."""
        super().__init__()
        self.strides = tuple(strides)
        self.enter = nn.ModuleList(conv(inputs, width) for inputs in channels)
        self.tower = nn.Sequential(
            *(
                part
                for _ in range(depth)
                for part in (
                    conv(width, width, 3),
                    *layers.norm(norm, width, maps=True),
                    layers.activation(activation),
                )
            )
        )
        self.leave = conv(width, outputs + 4, 3)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)
            assert self.leave.bias is not None
            self.leave.bias[:outputs] = -math.log(1 / RARE - 1)
            self.leave.bias[-2:] = math.log(SIDE)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, C, H, W) each, the finest first, to (N, cells, outputs + 4)."""
        entered = [layer(one) for layer, one in zip(self.enter, maps, strict=True)]
        for fine, coarse in reversed([*pairwise(range(len(entered)))]):
            size = entered[fine].shape[2:]
            entered[fine] = entered[fine] + F.interpolate(entered[coarse], size=size)
        told = [
            placed(self.leave(self.tower(one)), stride)
            for one, stride in zip(entered, self.strides, strict=True)
        ]
        return torch.cat(told, 1)


def placed(told: Tensor, stride: int) -> Tensor:
    """What the cells of a map tell (N, outputs + 4, H, W) as (N, H * W, outputs + 4), in pixels."""
    height, width = told.shape[2:]
    told = told.flatten(2).transpose(1, 2).float()  # bfloat16 would round pixels to whole ones
    logits, off, sides = told.split([told.shape[2] - 4, 2, 2], 2)
    rows = torch.arange(height, device=told.device, dtype=told.dtype) + 0.5
    columns = torch.arange(width, device=told.device, dtype=told.dtype) + 0.5
    middle = torch.stack([columns.repeat(height), rows.repeat_interleave(width)], 1) + off
    half = sides.clamp_max(WIDEST).exp() / 2
    return torch.cat([logits, stride * (middle - half), stride * (middle + half)], 2)


def conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv2d:
    """Filters start as in He et al. 2015, by fan-out."""
    made = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.normal_(made.weight, std=math.sqrt(2 / (outputs * kernel**2)))
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made
