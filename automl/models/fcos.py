"""What detectors share: maps of several sizes to cells that each tell classes and a box.

One stage and no anchors, as in FCOS (Tian et al. 2019). Knows no trunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Strict
from automl.models import layers

RARE = 0.01  # share that each class has of all cells at first (Lin et al. 2017)
SIDE = 4.0  # of boxes at first, in strides
WIDEST = 6.0  # logarithm of a box's side in strides, at most: what overflows learns nothing


class Head(Strict):
    """Which maps of a trunk tell boxes, and how."""

    finest: Literal[4, 8, 16, 32] = Field(
        default=8, description="stride in pixels of the finest map that tells boxes; all above do"
    )
    width: int = Field(default=64, ge=8, le=512, description="channels of the maps that tell boxes")
    depth: int = Field(default=1, ge=0, le=4, description="convolutions before they do")

    def build(
        self,
        maps: Sequence[tuple[int, int]],
        outputs: int,
        norm: layers.Norm,
        activation: layers.Activation,
    ) -> tuple[Cells, list[int]]:
        """On layers whose maps have these strides and channels, of which the last of each stride is
        taken; and which these are. Raises ValueError where none is coarse enough.
        """
        last = {stride: number for number, (stride, _) in enumerate(maps) if stride >= self.finest}
        if not last:
            told = f"its last map has a stride of {maps[-1][0]}"
            raise ValueError(f"{told}; want a head.finest of that at most, got {self.finest}")
        channels = [maps[number][1] for number in last.values()]
        cells = Cells(
            channels, [*last], outputs, self.width, self.depth, norm=norm, activation=activation
        )
        return cells, [*last.values()]


class Cells(nn.Module):
    """A pyramid of maps (Lin et al. 2017), each with a head of its own.

    Each cell of a map tells logits of the classes, and how far the middle of a box lies from its
    own and how long the sides are, in strides of its map. With one head for all maps, whose norms
    saw each of them by itself, ten epochs of blood cells came to a map of 0.29, with these to 0.43.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        outputs: int,
        width: int,
        depth: int,
        *,
        norm: layers.Norm,
        activation: layers.Activation,
    ) -> None:
        """Of maps with so many channels and such strides, the finest first."""
        super().__init__()
        self.strides = tuple(strides)

        def unit(inputs: int, kernel: int) -> list[nn.Module]:
            normed = layers.norm(norm, width, maps=True)
            return [conv(inputs, width, kernel, bias=not normed), *normed]

        def head() -> nn.Sequential:
            units = (
                part
                for _ in range(depth)
                for part in (*unit(width, 3), layers.activation(activation))
            )
            leave = conv(width, outputs + 4, 3)
            assert leave.bias is not None
            with torch.no_grad():
                leave.weight.mul_(0.1)
                leave.bias[:outputs] = -math.log(1 / RARE - 1)
                leave.bias[-2:] = math.log(SIDE)
            return nn.Sequential(*units, leave)

        self.enter = nn.ModuleList(nn.Sequential(*unit(inputs, 1)) for inputs in channels)
        self.heads = nn.ModuleList(head() for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(N, C, H, W) each, the finest first, to (N, cells, outputs + 4)."""
        entered = [layer(one) for layer, one in zip(self.enter, maps, strict=True)]
        for fine, coarse in reversed([*pairwise(range(len(entered)))]):
            size = entered[fine].shape[2:]
            entered[fine] = entered[fine] + F.interpolate(entered[coarse], size=size)
        told = [
            placed(head(one), stride)
            for head, one, stride in zip(self.heads, entered, self.strides, strict=True)
        ]
        return torch.cat(told, 1)


def taken(trunk: nn.Sequential, numbers: Sequence[int], x: Tensor) -> list[Tensor]:
    """The maps that the layers of these numbers give."""
    maps = []
    for number, layer in enumerate(trunk):
        x = layer(x)
        if number in numbers:
            maps.append(x)
    return maps


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


def conv(inputs: int, outputs: int, kernel: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """Filters start as in He et al. 2015, by fan-out."""
    made = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.normal_(made.weight, std=math.sqrt(2 / (outputs * kernel**2)))
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made
