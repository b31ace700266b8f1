"""What model families share: activations and norms by name. Knows no family."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

Activation = Literal["relu", "gelu", "silu", "hardswish"]
Norm = Literal["batch", "group", "layer", "none"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


def activation(kind: Activation) -> nn.Module:
    return ACTIVATIONS[kind]()


def norm(kind: Norm, channels: int, *, maps: bool) -> list[nn.Module]:
    """The norm over (N, C, H, W) if `maps`, else over (N, C), as a list: "none" is an empty one.

    `group` makes groups of 16 channels (Wu & He 2018), or of more where 16 does not divide them;
    `layer` takes all channels of an example, and all places of a map, together.
    """
    match kind:
        case "batch":
            return [nn.BatchNorm2d(channels) if maps else nn.BatchNorm1d(channels)]
        case "group":
            return [nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "none":
            return []
