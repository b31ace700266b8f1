"""What model families share: activations, norms, embeddings, pooling. Knows no family."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

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


LOW = -1e4  # below all states, and a number of bfloat16

Pooling = Literal["last", "mean", "max", "attention"]


class Embedding(nn.Module):
    """Tokens (N, T) to (N, T, width); in training some are zeroed (Gal & Ghahramani 2016)."""

    def __init__(self, tokens: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table, self.dropout = nn.Embedding(tokens, width, padding_idx=0), dropout
        nn.init.normal_(self.table.weight, std=1 / math.sqrt(width))
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.table(x)
        if self.training and self.dropout:
            kept = torch.rand(x.shape, device=x.device).unsqueeze(2) >= self.dropout
            embedded = embedded * kept / (1 - self.dropout)
        return embedded


class Pool(nn.Module):
    """States (N, T, C) of one text to one (N, C). What the mask (N, T) leaves out has no part."""

    def __init__(self, kind: Pooling, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.weigh = nn.Linear(width, 1) if kind == "attention" else None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        inside = mask.unsqueeze(2)
        if self.weigh is not None:
            shares = self.weigh(states).float().masked_fill(~inside, LOW).softmax(1)
            weighed: Tensor = (states * shares * inside).sum(1)
            return weighed
        if self.kind == "max":
            return states.masked_fill(~inside, LOW).amax(1).masked_fill(~inside.any(1), 0)
        lengths = mask.sum(1)
        if self.kind == "mean":
            return (states * inside).sum(1) / lengths.clamp_min(1).unsqueeze(1)
        last = (lengths - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        end: Tensor = states.gather(1, last).squeeze(1)
        return end
