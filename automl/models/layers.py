"""What model families share: activations, norms, embeddings, recurrence, pooling.

Knows no family.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from automl.inputs.text import PAD, UNKNOWN

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


Cell = Literal["vanilla", "gru", "lstm"]
State = tuple[Tensor, ...]  # of a recurrent layer: (1, N, width), for an LSTM two of them

CELLS: dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]] = {
    "vanilla": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class Recurrent(nn.Module):
    """One recurrent layer, read forward or both ways; each way ends where the sequence ends.

    The way back reads each sequence turned around within its own length, so that padding comes last
    and nothing need be packed, for which the device would be waited for.
    """

    def __init__(
        self, cell: Cell, inputs: int, width: int, *, both: bool, norm: bool, residual: bool
    ) -> None:
        super().__init__()
        self.ways = nn.ModuleList(
            CELLS[cell](inputs, width, batch_first=True) for _ in range(2 if both else 1)
        )
        outputs = width * len(self.ways)
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()
        self.residual = residual and inputs == outputs
        for way in self.ways:
            for name, weight in way.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in weight.split(width):
                        nn.init.orthogonal_(gate)
                elif name.startswith("bias"):
                    nn.init.zeros_(weight)
                    if cell == "lstm" and name.startswith("bias_ih"):
                        nn.init.ones_(weight[width : 2 * width])  # forgets little at first

    def forward(self, x: Tensor, back: Tensor) -> Tensor:
        """(N, T, inputs) in, (N, T, outputs) out. `back` is what `turn` gives."""
        states = [read(self.ways[0], x)]
        if len(self.ways) == 2:
            states.append(turned(read(self.ways[1], turned(x, back)), back))
        return self.joined(x, torch.cat(states, 2))

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One token further, (N, 1, inputs) in."""
        lstm = isinstance(self.ways[0], nn.LSTM)
        given = state if state is None or lstm else state[0]
        out, new = self.ways[0](x, given)
        return self.joined(x, out), new if lstm else (new,)

    def joined(self, x: Tensor, out: Tensor) -> Tensor:
        normed: Tensor = self.norm(out)
        return x + normed if self.residual else normed


def read(way: nn.Module, x: Tensor) -> Tensor:
    """The states (N, T, width) of a recurrent layer.

    On a GPU in float32: whatever autocast is asked for there, cuDNN's layers get float16 of it
    (aten/src/ATen/cudnn/AutocastRNN.cpp), in which gradients vanish unless the loss is scaled.
    """
    if not x.is_cuda:
        states: Tensor = way(x)[0]
        return states
    with torch.autocast("cuda", enabled=False):
        states = way(x.float())[0]
        return states


def turn(mask: Tensor) -> Tensor:
    """Rows (N * T,) that turn each sequence around, from where the mask (N, T) says it is."""
    count, steps = mask.shape
    places = torch.arange(steps, device=mask.device).expand_as(mask)
    back = torch.where(mask, mask.sum(1, keepdim=True) - 1 - places, places)
    return (back + steps * torch.arange(count, device=mask.device).unsqueeze(1)).flatten()


def turned(x: Tensor, back: Tensor) -> Tensor:
    """(N, T, C) by whole rows: a gather along T takes four times as long on a CPU."""
    return x.flatten(0, 1).index_select(0, back).view(x.shape)


LOW = -1e4  # below all states, and within the range of bfloat16 and float16

Pooling = Literal["last", "mean", "max", "attention"]


class Embedding(nn.Module):
    """Tokens (N, T) to (N, T, width); in training some are zeroed (Gal & Ghahramani 2016).

    Padding and what was never seen begin at 0, and stay there where training has none of them: an
    answer then hangs on the words that were learned, not on random numbers.
    """

    def __init__(self, tokens: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table, self.dropout = nn.Embedding(tokens, width, padding_idx=PAD), dropout
        nn.init.normal_(self.table.weight, std=1 / math.sqrt(width))
        with torch.no_grad():
            self.table.weight[[PAD, UNKNOWN]] = 0

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
        self.weigh = nn.Linear(width, 1, bias=False) if kind == "attention" else None

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
