"""Small transformers over tokens: one label for a text, or at each token what comes next."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs
from automl.inputs.text import Tokens
from automl.models.layers import Embedding, Pool

Rotation = tuple[Tensor, Tensor]  # cosine and sine (T, head / 2) of each place's angles
Cache = tuple[Tensor, Tensor]  # of one layer: keys, not rotated yet, and values (N, heads, T, head)


def rotation(places: Tensor, head: int) -> Rotation:
    """Of rotary positions (Su et al. 2021)."""
    pairs = torch.arange(0, head, 2, device=places.device)
    angles = places.unsqueeze(1) * 10_000.0 ** (-pairs / head)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, by: Rotation) -> Tensor:
    """(N, heads, T, head) in and out: each pair of numbers rotated by its place's angle."""
    cos, sin = (part.to(x.dtype) for part in by)
    a, b = x.chunk(2, 3)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], 3)


class Layer(nn.Module):
    """Attention and a hidden layer, each beside a shortcut, behind a norm (Xiong et al. 2020)."""

    def __init__(self, heads: int, head: int, expand: int, dropout: float) -> None:
        super().__init__()
        width, self.head = heads * head, head
        self.listen, self.think = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width, bias=False)  # queries, keys, values
        self.answer = nn.Linear(width, width)
        self.widen = nn.Linear(width, expand * width)
        self.narrow = nn.Linear(expand * width, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.ask, self.answer, self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        for leaving in (self.answer, self.narrow):
            nn.init.zeros_(leaving.weight)  # a shortcut at first (Zhang et al. 2019)
            nn.init.zeros_(leaving.bias)

    def forward(self, x: Tensor, by: Rotation, mask: Tensor | None) -> Tensor:
        """(N, T, width) in and out. `mask` (N, 1, 1, T): who is listened to; None: all before."""
        queries, keys, values = self.asked(x)
        heard = F.scaled_dot_product_attention(
            rotated(queries, by), rotated(keys, by), values, mask, is_causal=mask is None
        )
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


class Net(nn.Module):
    """What `Transformer` builds."""

    def __init__(self, form: Transformer, inputs: Tokens, outputs: int) -> None:
        super().__init__()
        width, self.head_width = form.heads * form.head, form.head
        self.causal, self.length = inputs.causal, inputs.length
        self.embedding = Embedding(inputs.size, width, form.embedding_dropout)
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList(
            Layer(form.heads, form.head, form.expand, form.dropout) for _ in range(form.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(form.dropout)
        if self.causal:  # tied: what is said is compared with the embeddings (Press & Wolf 2017)
            self.bias = nn.Parameter(torch.zeros(outputs))
        else:
            self.pool = Pool(form.pooling, width)
            self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mask = x != 0
        listened = None
        if not self.causal:
            listened = mask.clone()
            listened[:, 0] = True  # a text without tokens listens to something, too
            listened = listened[:, None, None]
        by = rotation(torch.arange(x.shape[1], device=x.device), self.head_width)
        states = self.dropout(self.embedding(x) * self.scale)
        for layer in self.layers:
            states = layer(states, by, listened)
        states = self.norm(states)
        if self.causal:
            return self.said(states)
        logits: Tensor = self.head(self.dropout(self.pool(states, mask)))
        return logits

    def step(self, x: Tensor, state: list[Cache] | None) -> tuple[Tensor, list[Cache]]:
        """Tokens (N,) and what was remembered, None at first: logits (N, outputs), and that.

        As many tokens are remembered as a window of training had.
        """
        states = self.embedding(x.unsqueeze(1)) * self.scale
        if state is None:
            heads = states.shape[2] // self.head_width
            nothing = states.new_empty(len(x), heads, 0, self.head_width)
            state = [(nothing, nothing)] * len(self.layers)
        state = [(k[:, :, 1 - self.length :], v[:, :, 1 - self.length :]) for k, v in state]
        by = rotation(torch.arange(state[0][0].shape[2] + 1, device=x.device), self.head_width)
        remembered = []
        for layer, cache in zip(self.layers, state, strict=True):
            assert isinstance(layer, Layer)
            states, new = layer.step(states, by, cache)
            remembered.append(new)
        return self.said(self.norm(states)).squeeze(1), remembered

    def said(self, states: Tensor) -> Tensor:
        return F.linear(self.dropout(states), self.embedding.table.weight, self.bias)


class Transformer(Model):
    """Self-attention (Vaswani et al. 2017) with rotary positions and norms ahead of each part."""

    name: Literal["transformer"] = "transformer"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens", "next tokens"})
    free: ClassVar[set[str]] = {"dropout", "embedding_dropout"}

    heads: int = Field(4, ge=1, le=32, description="of attention, in each layer")
    head: Literal[16, 32, 64, 128] = Field(
        32, description="width of a head; all heads together are the width of the network"
    )
    layers: int = Field(2, ge=1, le=16, description="one upon the other")
    expand: int = Field(4, ge=1, le=8, description="hidden width in multiples of the outer")
    pooling: Literal["mean", "max", "attention"] = Field(
        "mean", description="of all states of a text to one"
    )
    dropout: float = Field(
        0.0, ge=0, le=0.9, description="share zeroed of embeddings, of each branch, before the head"
    )
    embedding_dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of the tokens whose embedding is zeroed"
    )

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, T) int64 in; (N, outputs) logits out, or (N, T, outputs) of the next tokens."""
        assert isinstance(inputs, Tokens)
        return Net(self, inputs, outputs)
