"""Multilayer perceptrons over the columns of a table: one, or many that share their weights."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from automl.data import Inputs
from automl.inputs.columns import Cells
from automl.models.columns import Encoding, RowModel, Vectors
from automl.models.layers import Activation, Dropout, activation


class Shared(nn.Module):
    """A linear layer of many members (N, members, inputs) with one matrix (Wen et al. 2020).

    Each member has factors of its own for what comes in and goes out, and a bias; they lie in one
    row, as what no optimizer lets decay.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.given = nn.Parameter(torch.ones(members * inputs))
        self.taken = nn.Parameter(torch.ones(members * outputs))
        self.bias = nn.Parameter(torch.zeros(members * outputs))
        self.members = members
        if first:  # what tells members apart at first
            nn.init.normal_(self.given)

    def forward(self, x: Tensor) -> Tensor:
        given, taken, bias = (
            of.view(self.members, -1) for of in (self.given, self.taken, self.bias)
        )
        told: Tensor = self.linear(x * given) * taken + bias
        return told


class Net(nn.Module):
    """What `TabM` builds."""

    def __init__(self, form: TabM, inputs: Cells, outputs: int) -> None:
        super().__init__()
        self.vectors = Vectors(
            inputs, form.numbers, form.embedding, form.texts, form.embedding_dropout
        )
        self.members, self.classes = form.ensemble, inputs.mean is None
        width = inputs.features * (form.embedding if form.numbers else 1)
        width += len(inputs.named) * form.embedding + len(inputs.texts) * form.texts
        self.layers = nn.ModuleList()
        for number in range(form.depth):
            self.layers.append(self.linear(width, form.width, first=number == 0))
            width = form.width
        self.act, self.dropout = activation(form.activation), Dropout(form.dropout)
        self.residual = form.residual
        self.head = nn.Parameter(torch.empty(form.ensemble, width, outputs))
        self.bias = nn.Parameter(torch.zeros(form.ensemble * outputs))
        nn.init.uniform_(self.head, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def linear(self, inputs: int, outputs: int, *, first: bool) -> nn.Module:
        if self.members == 1:
            return nn.Linear(inputs, outputs)
        return Shared(self.members, inputs, outputs, first=first)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([part.flatten(1) for part in self.vectors.parts(x)], 1)
        x = x.unsqueeze(1).expand(-1, self.members, -1)  # (N, members, width)
        for number, layer in enumerate(self.layers):
            more = self.dropout(self.act(layer(x)))
            x = x + more if self.residual and number else more
        bias = self.bias.view(self.members, 1, -1)
        told = torch.baddbmm(bias, x.transpose(0, 1), self.head).transpose(0, 1)
        if self.training:
            return told if self.members > 1 else told.squeeze(1)
        if self.members == 1 or not self.classes:
            return told.mean(1)
        return told.float().log_softmax(2).logsumexp(1) - math.log(self.members)


class TabM(RowModel):
    """A perceptron over all columns, or many in one (Gorishniy et al. 2025).

    Members share their matrices, learn each for itself and answer by the mean of their shares.
    """

    name: Literal["tabm"] = "tabm"

    ensemble: int = Field(
        16, ge=1, le=64, description="members, which share weights; 1: one plain perceptron"
    )
    depth: int = Field(3, ge=1, le=16, description="hidden layers")
    width: int = Field(256, ge=1, le=4096, description="units of each")
    residual: bool = Field(False, description="each hidden layer but the first beside a shortcut")
    activation: Activation = Field("relu", description="after each hidden layer")
    numbers: SerializeAsAny[Encoding] | None = Field(
        None, description="to vectors; null: they stay what they are"
    )
    embedding: int = Field(
        16, ge=1, le=256, description="width of the vector of a word, and of a number that has one"
    )
    texts: int = Field(32, ge=1, le=1024, description="width of the vector of a text")
    dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of hidden units zeroed in training"
    )

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, columns) in, (N, outputs) out; of several members (N, members, outputs) to train."""
        assert isinstance(inputs, Cells)
        return Net(self, inputs, outputs)
