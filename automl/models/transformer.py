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
from automl.models.layers import Attention, Cache, Dropout, Embedding, Pool, rotation


class Net(nn.Module):
    """What `Transformer` builds."""

    def __init__(self, form: Transformer, inputs: Tokens, outputs: int) -> None:
        super().__init__()
        width, self.head_width = form.heads * form.head, form.head
        self.causal, self.length = inputs.causal, inputs.length
        self.embedding = Embedding(inputs.size, width, form.embedding_dropout)
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList(
            Attention(form.heads, form.head, form.expand, form.dropout) for _ in range(form.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(form.dropout)
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
            assert isinstance(layer, Attention)
            states, new = layer.step(states, by, cache)
            remembered.append(new)
        return self.said(self.norm(states)).squeeze(1), remembered

    @staticmethod
    def kept(state: list[Cache], rows: Tensor) -> list[Cache]:
        """What was remembered of these rows (n,), in their order."""
        return [(keys[rows], values[rows]) for keys, values in state]

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
