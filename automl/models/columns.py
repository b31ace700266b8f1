"""What models of tables share: numbers and words of a row to vectors. Knows no family."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model, Part
from automl.data import Inputs, Split
from automl.inputs.columns import Cells
from automl.models.layers import Embedding

MOST = 100_000  # training rows that bins are learned from


class Separate(nn.Module):
    """A linear layer for each column: (N, columns, inputs) to (N, columns, outputs)."""

    def __init__(self, columns: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(columns * outputs))  # which no optimizer lets decay
        for weight in (self.weight, self.bias):
            nn.init.uniform_(weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.view(len(self.weight), 1, -1)
        return torch.baddbmm(bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class Encoding(Part):
    """How each number of a row becomes a vector, before anything looks at two of them."""

    home: ClassVar[str] = "automl.models.columns"

    @abstractmethod
    def build(self, columns: int, width: int) -> nn.Module:
        """(N, columns) in, (N, columns, width) out."""


class Linear(Encoding):
    """A vector times the number, and another one."""

    name: Literal["linear"] = "linear"

    def build(self, columns: int, width: int) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (columns, 1)), Separate(columns, 1, width))


class Waves(nn.Module):
    """What `Periodic` builds."""

    def __init__(self, columns: int, width: int, waves: int, scale: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.randn(columns, waves) * scale)
        self.linear = Separate(columns, 2 * waves, width)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * self.frequency * x.unsqueeze(2)
        return F.relu(self.linear(torch.cat([angles.cos(), angles.sin()], 2)))


class Periodic(Encoding):
    """Sine and cosine of it at frequencies that are learned, and a hidden layer for each column.

    Gorishniy et al. 2022 (PLR).
    """

    name: Literal["periodic"] = "periodic"

    waves: int = Field(16, ge=1, le=128, description="frequencies of each column")
    scale: float = Field(
        0.1,
        gt=0,
        le=10,
        description="deviation of the frequencies at first, waves a quartile range",
    )

    def build(self, columns: int, width: int) -> nn.Module:
        return Waves(columns, width, self.waves, self.scale)


class Bins(nn.Module):
    """What `Piecewise` builds."""

    start: Tensor  # (columns, bins)
    rate: Tensor  # of the same shape: 1 / width of the bin, 0 where it has none

    def __init__(self, columns: int, width: int, bins: int) -> None:
        super().__init__()
        even = torch.linspace(-2, 2, bins + 1).expand(columns, -1)
        self.register_buffer("start", even[:, :-1].clone())
        self.register_buffer("rate", torch.full((columns, bins), bins / 4))
        self.linear = Separate(columns, bins + 1, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2)
        filled = ((x - self.start) * self.rate).clamp(0, 1)
        told: Tensor = self.linear(torch.cat([filled, x], 2))
        return told

    def fit(self, x: Tensor) -> None:
        """To training rows (N, columns)."""
        shares = np.linspace(0, 1, self.start.shape[1] + 1)
        found = np.quantile(x[:MOST].double().cpu().numpy(), shares, axis=0)
        edges = torch.from_numpy(found).T
        self.start.copy_(edges[:, :-1])
        widths = edges.diff()
        self.rate.copy_(torch.where(widths > 0, 1 / widths, 0.0))


class Piecewise(Encoding):
    """How far it comes through each of several bins, which hold as many training rows each.

    Gorishniy et al. 2022 (PLE); beside these the number itself, and a layer for each column.
    """

    name: Literal["piecewise"] = "piecewise"

    bins: int = Field(
        16, ge=2, le=256, description="of each column, fewer where many rows are alike"
    )

    def build(self, columns: int, width: int) -> nn.Module:
        return Bins(columns, width, self.bins)


class Vectors(nn.Module):
    """A row as a vector for each number, each sign of an empty cell, each word and each text.

    Without an `encoding` numbers stay what they are, one each. Of a text it is the sum of its
    words over the square root of their number, `spoken` wide, and `dropout` of them are zeroed in
    training.
    """

    def __init__(
        self, inputs: Cells, encoding: Encoding | None, width: int, spoken: int, dropout: float
    ) -> None:
        super().__init__()
        numbers, gaps, named = len(inputs.numbers), len(inputs.gaps), len(inputs.named)
        self.counts, self.lengths = (numbers, gaps, named, sum(inputs.lengths)), inputs.lengths
        self.encoded = encoding.build(numbers, width) if encoding and numbers else None
        self.gaps = Separate(gaps, 1, width) if encoding and gaps else None
        self.words = nn.Embedding(sum(inputs.sizes), width) if named else None
        if self.words:
            nn.init.normal_(self.words.weight, std=1 / math.sqrt(width))
        self.texts = Embedding(1 + sum(inputs.terms), spoken, dropout) if self.lengths else None

    def parts(self, x: Tensor) -> list[Tensor]:
        """Each (N, columns, its width), or (N, columns) of numbers that stay what they are."""
        numbers, gaps, words, texts = x.split(self.counts, 1)
        found = [self.encoded(numbers) if self.encoded else numbers]
        found.append(self.gaps(gaps.unsqueeze(2)) if self.gaps else gaps)
        if self.words:
            found.append(self.words(words.long()))
        if self.texts:
            said = self.texts(texts.long()).split(self.lengths, 1)
            counts = [known.sum(1, keepdim=True) for known in (texts > 0).split(self.lengths, 1)]
            pairs = zip(said, counts, strict=True)
            means = [words.sum(1) / count.clamp_min(1).sqrt() for words, count in pairs]
            found.append(torch.stack(means, 1))
        return [part for part in found if part.shape[1]]

    def begin(self, inputs: Inputs, split: Split) -> None:
        """Bins are learned from the encoded training split."""
        assert isinstance(split.x, Tensor)
        if isinstance(self.encoded, Bins):
            self.encoded.fit(inputs.prepare(split.x[:MOST])[:, : self.counts[0]])


class RowModel(Model):
    """One whose network turns a row to vectors first: it has them as `vectors`."""

    reads: ClassVar[frozenset[str]] = frozenset({"columns"})
    free: ClassVar[set[str]] = {"dropout", "embedding_dropout"}

    embedding_dropout: float = Field(
        0.7, ge=0, le=0.95, description="share of the words of texts zeroed in training"
    )

    def begin(self, model: nn.Module, inputs: Inputs, split: Split) -> None:
        assert isinstance(model.vectors, Vectors)
        model.vectors.begin(inputs, split)
