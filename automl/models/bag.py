"""Bags of n-grams: no order beyond a few tokens, and hardly any cost."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs
from automl.inputs.text import Tokens
from automl.models.layers import Dropout, Embedding

PRIME = 2**31 - 1
FACTOR = 92_821  # a prime, so that n-grams spread over all buckets; int32 wraps, alike everywhere


class Net(nn.Module):
    """What `Bag` builds."""

    def __init__(self, bag: Bag, inputs: Tokens, outputs: int) -> None:
        super().__init__()
        self.longest, self.buckets = bag.ngrams, bag.buckets
        self.embedding = Embedding(inputs.size, bag.width, bag.embedding_dropout)
        if self.longest > 1:
            self.ngrams = Embedding(bag.buckets + 1, bag.width, bag.embedding_dropout)
            nn.init.zeros_(self.ngrams.table.weight)  # nothing is known of the rare ones
        self.dropout = Dropout(bag.dropout)
        self.head = nn.Linear(bag.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # where lengths are free, the longest n-gram must fit
            x = F.pad(x, (0, self.longest - 1))
        mask = x != 0
        total, number, hashed = self.embedding(x).sum(1), mask.sum(1), x
        for n in range(2, self.longest + 1):
            hashed = (hashed[:, :-1] * FACTOR + x[:, n - 1 :]) % PRIME
            inside = mask[:, n - 1 :]
            total = total + self.ngrams((hashed % self.buckets + 1) * inside).sum(1)
            number = number + inside.sum(1)
        # over the square root: many n-grams are more to go by than few
        logits: Tensor = self.head(self.dropout(total / number.clamp_min(1).sqrt().unsqueeze(1)))
        return logits


class Bag(Model):
    """Embeddings of all n-grams of a text, summed: much like fastText (Joulin et al. 2016)."""

    name: Literal["bag"] = "bag"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens"})
    free: ClassVar[set[str]] = {"dropout", "embedding_dropout"}

    ngrams: int = Field(2, ge=1, le=5, description="tokens of the longest n-grams")
    buckets: int = Field(
        100_000, ge=1_000, le=2**22, description="embeddings that n-grams of 2 and more share"
    )
    width: int = Field(16, ge=1, le=2048, description="of an embedding")
    dropout: float = Field(0.0, ge=0, le=0.9, description="share zeroed before the head")
    embedding_dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of the n-grams whose embedding is zeroed"
    )

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, T) int64 in, (N, outputs) logits out."""
        assert isinstance(inputs, Tokens)
        return Net(self, inputs, outputs)
