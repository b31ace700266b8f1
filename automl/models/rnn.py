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
from automl.models.layers import Embedding, Pool, Pooling

CELLS: dict[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {
    "vanilla": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}
State = tuple[Tensor, ...]  # of one layer: (1, N, width), for an LSTM two of them


class Layer(nn.Module):
    """One recurrent layer, read forward or both ways; each way ends where the text ends.

    The way back reads each text turned around within its own length, so that no packed sequence,
    which would have to wait for the device, is needed and padding is read after all else.
    """

    def __init__(self, rnn: Rnn, inputs: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(
            CELLS[rnn.cell](inputs, rnn.width, batch_first=True)
            for _ in range(2 if rnn.direction == "both" else 1)
        )
        outputs = rnn.width * len(self.ways)
        self.norm = nn.LayerNorm(outputs) if rnn.layer_norm else nn.Identity()
        self.residual = rnn.residual and inputs == outputs
        for way in self.ways:
            for name, weight in way.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in weight.split(rnn.width):
                        nn.init.orthogonal_(gate)
                elif name.startswith("bias"):
                    nn.init.zeros_(weight)
                    if rnn.cell == "lstm" and name.startswith("bias_ih"):
                        nn.init.ones_(weight[rnn.width : 2 * rnn.width])  # forgets little at first

    def forward(self, x: Tensor, back: Tensor) -> Tensor:
        """(N, T, inputs) in, (N, T, outputs) out. `back` (N, T) turns each text around."""
        states = [self.ways[0](x)[0]]
        if len(self.ways) == 2:
            states.append(turned(self.ways[1](turned(x, back))[0], back))
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


def turned(x: Tensor, back: Tensor) -> Tensor:
    return x.gather(1, back.unsqueeze(2).expand(-1, -1, x.shape[2]))


class Net(nn.Module):
    """What `Rnn` builds."""

    def __init__(self, rnn: Rnn, inputs: Tokens, outputs: int) -> None:
        super().__init__()
        self.causal = inputs.causal
        self.ends_first = rnn.pooling == "last" and rnn.direction == "both"
        self.embedding = Embedding(inputs.size, rnn.embedding, rnn.embedding_dropout)
        width = rnn.width * (2 if rnn.direction == "both" else 1)
        sizes = [rnn.embedding] + [width] * (rnn.layers - 1)
        self.layers = nn.ModuleList(Layer(rnn, size) for size in sizes)
        self.dropout = nn.Dropout(rnn.dropout)
        if self.causal:  # tied: what is said is compared with the embeddings (Press & Wolf 2017)
            self.head = nn.Linear(width, rnn.embedding)
            self.bias = nn.Parameter(torch.zeros(outputs))
        else:
            self.pool = Pool(rnn.pooling, width)
            self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mask = x != 0
        lengths = mask.sum(1, keepdim=True)
        places = torch.arange(x.shape[1], device=x.device).expand_as(x)
        back = torch.where(mask, lengths - 1 - places, places)
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
            assert isinstance(layer, Layer)
            states, new = layer.step(self.dropout(states), state[number] if state else None)
            remembered.append(new)
        return self.said(states).squeeze(1), remembered

    def said(self, states: Tensor) -> Tensor:
        return F.linear(self.head(self.dropout(states)), self.embedding.table.weight, self.bias)


class Rnn(Model):
    """Vanilla, GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997)."""

    name: Literal["rnn"] = "rnn"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens", "next tokens"})

    cell: Literal["vanilla", "gru", "lstm"] = Field("gru", description="what remembers")
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
