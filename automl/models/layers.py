"""What model families share: activations, norms, embeddings, recurrence, pooling, attention.

Knows no family.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


LEVELS = 2**16  # shares of a dropout that are told apart


class Dropout(nn.Module):
    """Zeroes a share of the numbers in training and scales up the rest (Srivastava et al. 2014).

    On a CPU each number takes 16 random bits, four numbers a draw, where PyTorch's draws 53 for
    each: a million numbers take 2 ms instead of 18.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.zeroed = round(share * LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x
        if not x.is_cpu:
            return F.dropout(x, self.share)
        draws = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),))
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        return x * (bits >= self.zeroed - LEVELS // 2) * (LEVELS / (LEVELS - self.zeroed))

    def extra_repr(self) -> str:
        return f"p={self.share:g}"


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


STEPWISE = 32  # places, up to which a CPU attends in bfloat16, step by step

Rotation = tuple[Tensor, Tensor]  # cosine and sine (T, head / 2) of each place's angles
Cache = tuple[Tensor, Tensor]  # of one layer: keys, not rotated yet, and values (N, heads, T, head)


def rotation(places: Tensor, head: int) -> Rotation:
    """Of rotary positions (Su et al. 2021)."""
    pairs = torch.arange(0, head, 2, device=places.device)
    angles = places.unsqueeze(1) * 10_000.0 ** (-pairs / head)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, by: Rotation | None) -> Tensor:
    """(N, heads, T, head) in and out: each pair of numbers rotated by its place's angle, if any."""
    if by is None:
        return x
    cos, sin = (part.to(x.dtype) for part in by)
    a, b = x.chunk(2, 3)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], 3)


def attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Each (N, heads, T, head): what is heard where `mask` (N, 1, 1, T) says; None: all before.

    On a CPU PyTorch's own is slow in bfloat16: 64 texts of 32 places in 4 heads of 32 take 30 ms,
    there and back, in float32 4, and step by step as long; fewer places take less so.
    """
    if not queries.is_cpu or queries.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=mask is None)
    if queries.shape[2] > STEPWISE:
        with torch.autocast("cpu", enabled=False):
            told = attended(queries.float(), keys.float(), values.float(), mask)
        return told.to(queries.dtype)
    places, head = queries.shape[2:]
    heard = torch.ones(places, places, dtype=torch.bool).triu() if mask is None else mask.mT
    scores = keys @ (queries / math.sqrt(head)).mT  # by key, then query: short rows are slow
    shares = scores.float().masked_fill(~heard, -torch.inf).softmax(2)
    return shares.to(values.dtype).mT @ values


class Attention(nn.Module):
    """Attention and a hidden layer, each beside a shortcut, behind a norm (Xiong et al. 2020)."""

    def __init__(self, heads: int, head: int, expand: int, dropout: float) -> None:
        super().__init__()
        width, self.head = heads * head, head
        self.listen, self.think = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width, bias=False)  # queries, keys, values
        self.answer = nn.Linear(width, width)
        self.widen = nn.Linear(width, expand * width)
        self.narrow = nn.Linear(expand * width, width)
        self.dropout = Dropout(dropout)
        for linear in (self.ask, self.answer, self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        for leaving in (self.answer, self.narrow):
            nn.init.zeros_(leaving.weight)  # a shortcut at first (Zhang et al. 2019)
            nn.init.zeros_(leaving.bias)

    def forward(self, x: Tensor, by: Rotation | None, mask: Tensor | None) -> Tensor:
        """(N, T, width) in and out. `mask` (N, 1, 1, T): who is listened to; None: all before."""
        queries, keys, values = self.asked(x)
        heard = attended(rotated(queries, by), rotated(keys, by), values, mask)
        return self.thought(x, heard)

    def step(self, x: Tensor, by: Rotation, cache: Cache) -> tuple[Tensor, Cache]:
        """One token further: x (N, 1, width), listening to the cached ones and to itself."""
        queries, *new = self.asked(x)
        keys, values = (torch.cat([old, one], 2) for old, one in zip(cache, new, strict=True))
        last = by[0][-1:], by[1][-1:]
        heard = F.scaled_dot_product_attention(rotated(queries, last), rotated(keys, by), values)
        return self.thought(x, heard), (keys, values)

    def asked(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, each (N, heads, T, head)."""
        parts = self.ask(self.listen(x)).chunk(3, 2)
        return [part.unflatten(2, (-1, self.head)).transpose(1, 2) for part in parts]

    def thought(self, x: Tensor, heard: Tensor) -> Tensor:
        x = x + self.dropout(self.answer(heard.transpose(1, 2).flatten(2)))
        both: Tensor = x + self.dropout(self.narrow(F.gelu(self.widen(self.think(x)))))
        return both


Anchor = Literal["none", "last", "mean", "scale"]


class Anchored(nn.Module):
    """Rows ahead (N, horizon, C), told of a past (N, length, C) that is moved to where 0 is.

    `net` is from (N, C, length) to (N, C, horizon). What it tells is moved back: by the last row
    (NLinear, Zeng et al. 2023), by the mean, or by the mean and to the deviation of each past
    (Kim et al. 2022), so that a level that training never saw is no other case.
    """

    def __init__(self, anchor: Anchor, net: nn.Module) -> None:
        super().__init__()
        self.anchor, self.net = anchor, net

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        match self.anchor:
            case "none":
                told = self.net(x)
            case "last":
                told = self.net(x - x[:, :, -1:]) + x[:, :, -1:]
            case "mean":
                told = self.net(x - x.mean(2, keepdim=True)) + x.mean(2, keepdim=True)
            case "scale":
                mean = x.mean(2, keepdim=True)
                scale = ((x - mean).square().mean(2, keepdim=True) + 1e-5).sqrt()
                told = self.net((x - mean) / scale) * scale + mean
        ahead: Tensor = told.transpose(1, 2)
        return ahead


def cut(x: Tensor, patch: int) -> Tensor:
    """(N, C, length) as patches (N, C, patches, patch), from the end on; zeros before the start."""
    missing = -x.shape[2] % patch
    patches: Tensor = F.pad(x, (missing, 0)).unflatten(2, (-1, patch))
    return patches
