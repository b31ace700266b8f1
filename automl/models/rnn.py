"""Recurrent networks over tokens: one label for a text, or at each token what comes next."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs
from automl.inputs.text import Tokens
from automl.models.layers import Cell, Dropout, Embedding, Pool, Pooling, Recurrent, State, turn


class Net(nn.Module):
    """What `Rnn` builds."""

    def __init__(self, rnn: Rnn, inputs: Tokens, outputs: int) -> None:
        super().__init__()
        self.causal = inputs.causal
        self.ends_first = rnn.pooling == "last" and rnn.direction == "both"
        self.embedding = Embedding(inputs.size, rnn.embedding, rnn.embedding_dropout)
        both = rnn.direction == "both"
        width = rnn.width * (2 if both else 1)
        sizes = [rnn.embedding] + [width] * (rnn.layers - 1)
        self.layers = nn.ModuleList(
            Recurrent(
                rnn.cell, size, rnn.width, both=both, norm=rnn.layer_norm, residual=rnn.residual
            )
            for size in sizes
        )
        self.dropout = Dropout(rnn.dropout)
        if self.causal:  # tied: what is said is compared with the embeddings (Press & Wolf 2017)
            self.head = nn.Linear(width, rnn.embedding)
            self.bias = nn.Parameter(torch.zeros(outputs))
        else:
            self.pool = Pool(rnn.pooling, width)
            self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mask = x != 0
        back = turn(mask)
        states = self.embedding(x)
        for layer in self.layers:
            states = layer(self.dropout(states), back)
        if self.causal:
            return self.said(states)
        pooled = self.pool(states, mask)
        if self.ends_first:  # the way back ends where the text begins
            half = states.shape[2] // 2
            pooled = torch.cat([pooled[:, :half], states[:, 0, half:]], 1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def step(self, x: Tensor, state: list[State] | None) -> tuple[Tensor, list[State]]:
        """Tokens (N,) and what was remembered, None at first: logits (N, outputs), and that."""
        states = self.embedding(x.unsqueeze(1))
        remembered = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Recurrent)
            states, new = layer.step(self.dropout(states), state[number] if state else None)
            remembered.append(new)
        return self.said(states).squeeze(1), remembered

    @staticmethod
    def kept(state: list[State], rows: Tensor) -> list[State]:
        """What was remembered of these rows (n,), in their order."""
        return [tuple(part[:, rows] for part in layer) for layer in state]

    def said(self, states: Tensor) -> Tensor:
        return F.linear(self.head(self.dropout(states)), self.embedding.table.weight, self.bias)


class Rnn(Model):
    """Vanilla, GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997)."""

    name: Literal["rnn"] = "rnn"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens", "next tokens"})
    free: ClassVar[set[str]] = {"dropout", "embedding_dropout"}

    cell: Cell = Field("gru", description="what remembers")
    embedding: int = Field(128, ge=1, le=2048, description="width of a token's embedding")
    width: int = Field(128, ge=1, le=2048, description="units of a layer, each way")
    layers: int = Field(1, ge=1, le=4, description="one upon the other")
    direction: Literal["forward", "both"] = Field(
        "forward", description="which way a text is read; the next token is told from before only"
    )
    pooling: Pooling = Field("max", description="of all states of a text to one; last: of each way")
    dropout: float = Field(
        0.0, ge=0, le=0.9, description="share zeroed before each layer and before the head"
    )
    embedding_dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of the tokens whose embedding is zeroed"
    )
    layer_norm: bool = Field(False, description="normalise the states of each layer")
    residual: bool = Field(False, description="add a layer's input where it is as wide")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, T) int64 in; (N, outputs) logits out, or (N, T, outputs) of the next tokens."""
        assert isinstance(inputs, Tokens)
        if inputs.causal and self.direction == "both":
            raise ValueError("direction both reads what is to be told; want forward")
        return Net(self, inputs, outputs)
