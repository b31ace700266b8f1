"""Convolutional networks over tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs
from automl.inputs.text import Tokens
from automl.models import layers

Kernel = Annotated[int, Field(ge=1, le=9)]


class Net(nn.Module):
    """What `TextCnn` builds."""

    def __init__(self, cnn: TextCnn, inputs: Tokens, outputs: int) -> None:
        super().__init__()
        self.embedding = layers.Embedding(inputs.size, cnn.embedding, cnn.embedding_dropout)
        self.filters = nn.ModuleList(
            nn.Conv1d(cnn.embedding, cnn.channels, kernel) for kernel in cnn.kernels
        )
        for filters in self.filters:
            assert isinstance(filters, nn.Conv1d)
            nn.init.kaiming_normal_(filters.weight)
        self.kernels = cnn.kernels
        self.activation = layers.activation(cnn.activation)
        width = cnn.channels * len(cnn.kernels)
        self.pool = layers.Pool(cnn.pooling, width)
        self.dropout = layers.Dropout(cnn.dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mask = x != 0
        embedded = self.embedding(x).transpose(1, 2)  # (N, C, T), zeros where padding is
        maps = [
            self.activation(filters(F.pad(embedded, ((kernel - 1) // 2, kernel // 2))))
            for kernel, filters in zip(self.kernels, self.filters, strict=True)
        ]
        pooled = self.pool(torch.cat(maps, 1).transpose(1, 2), mask)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


class TextCnn(Model):
    """Filters of several widths over a text, pooled (Kim 2014).

    Kernel 1 with mean pooling is a bag of words with a hidden layer, much like fastText.
    """

    name: Literal["textcnn"] = "textcnn"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens"})
    free: ClassVar[set[str]] = {"dropout", "embedding_dropout"}

    embedding: int = Field(128, ge=1, le=2048, description="width of a token's embedding")
    channels: int = Field(128, ge=1, le=2048, description="filters of each kernel")
    kernels: list[Kernel] = Field(
        default=[1, 2, 3], min_length=1, max_length=6, description="tokens that a filter sees"
    )
    activation: layers.Activation = Field("relu", description="of each filter")
    pooling: Literal["max", "mean", "attention"] = Field(
        "max", description="of all places of a text to one"
    )
    dropout: float = Field(0.0, ge=0, le=0.9, description="share zeroed before the head")
    embedding_dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of the tokens whose embedding is zeroed"
    )

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, T) int64 in, (N, outputs) logits out."""
        assert isinstance(inputs, Tokens)
        return Net(self, inputs, outputs)
