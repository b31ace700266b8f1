"""Whole data sets in memory: what a task hands to the trainer. Knows no files and no models."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

UNSCORED = -100  # a target that counts nowhere: padding, and context that was scored before
ANY = -1  # a side of a shape that may be as long as it likes
LUCK = 1 / 741  # a normal distribution's share beyond three deviations, on one side
PERHAPS = 1 / 20  # a score that guessing reaches less often than that may be luck or not
LONGER = 1.5  # in evaluation: the longest text of a batch, in lengths of the shortest
PIECE = 2**22  # numbers, for which 16 MB of float32 are made
POOL = 50  # batches' worth of rows that are sorted by length together


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different length, one behind the other."""

    values: Tensor  # (sum of lengths,)
    offsets: Tensor  # int64 (N + 1,): row i is values[offsets[i] : offsets[i + 1]]

    @classmethod
    def of(cls, rows: Iterable[Tensor], dtype: torch.dtype = torch.int32) -> Self:
        listed = list(rows)
        lengths = torch.tensor([0, *map(len, listed)])
        return cls(torch.cat([torch.empty(0, dtype=dtype), *listed]), lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """int64 (N,)"""
        return self.offsets.diff()

    def __getitem__(self, index: Tensor) -> Ragged:
        """The rows of an index or a mask, in its order."""
        rows = index.nonzero().flatten() if index.dtype == torch.bool else index
        return self._parts(self.offsets[rows], self.lengths[rows])

    def cut(self, longest: int) -> Ragged:
        """The beginnings of all rows."""
        return self._parts(self.offsets[:-1], self.lengths.clamp_max(longest))

    def _parts(self, starts: Tensor, lengths: Tensor) -> Ragged:
        """A row of each of these lengths (N,), from where it starts among the values (N,)."""
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1]), device=offsets.device)
        within = within - offsets[:-1].repeat_interleave(lengths)
        return Ragged(self.values[starts.repeat_interleave(lengths) + within], offsets)

    def joined(self, other: Ragged) -> Ragged:
        offsets = torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Ragged(torch.cat([self.values, other.values]), offsets)

    def padded(self, index: Tensor, longest: int) -> Tensor:
        """The rows of an index, (n, longest of them), zeros behind their ends."""
        lengths = self.lengths[index]
        within = torch.arange(max(1, longest), device=lengths.device)
        inside = within < lengths.unsqueeze(1)
        if not len(self.values):
            return torch.zeros_like(inside, dtype=self.values.dtype)
        places = (self.offsets[index].unsqueeze(1) + within).clamp_max(len(self.values) - 1)
        return self.values[places] * inside

    def to(self, device: torch.device) -> Ragged:
        return Ragged(self.values.to(device), self.offsets.to(device))


@dataclass(frozen=True, eq=False)
class Windows:
    """One long text as tokens, read in windows; what is to be said at each token is the next."""

    values: Tensor  # (T,)
    length: int  # tokens of a window
    characters: int  # of the text

    def to(self, device: torch.device) -> Windows:
        return replace(self, values=self.values.to(device))

    def __len__(self) -> int:
        """Windows of an epoch, wherever it begins: of a short text all, else those that fit."""
        tokens = len(self.values)
        if tokens <= 2 * self.length:
            return len(range(0, max(1, tokens - 1), self.length))
        return tokens // self.length - 1

    def starts(self, generator: Generator) -> Tensor:
        """Where windows begin: one behind the other, in a long text from a random place on."""
        device = self.values.device
        starts = self.length * torch.arange(len(self), device=device)
        if len(self.values) <= 2 * self.length:
            return starts
        return starts + torch.randint(self.length, (), generator=generator, device=device)

    def take(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, length) and the next ones; beyond the end 0 and UNSCORED."""
        places = starts.unsqueeze(1) + torch.arange(self.length + 1, device=starts.device)
        inside = places < len(self.values)
        tokens = self.values[places.clamp_max(len(self.values) - 1)] * inside
        return tokens[:, :-1], tokens[:, 1:].long().masked_fill(~inside[:, 1:], UNSCORED)


@dataclass(frozen=True, eq=False)
class Series:
    """Rows in time. Those from `first` on are an example each, the ones before are their past."""

    values: Tensor  # float32 (T, C); NaN where nothing is known
    first: int = 0

    def __len__(self) -> int:
        return len(self.values) - self.first

    def joined(self, other: Series) -> Series:
        """With the rows that follow, whose past these are."""
        return Series(other.values, self.first)


@dataclass(frozen=True, eq=False)
class Spans:
    """Rows in time: `length` of them to read, the `horizon` behind to tell, wherever these fit."""

    values: Tensor  # (T, C) to read
    targets: Tensor  # (T, C) to tell; NaN where nothing is known
    first: int  # the first row to tell; `length` rows at least come before
    length: int
    horizon: int

    def __len__(self) -> int:
        return max(0, len(self.values) - self.first - self.horizon + 1)

    def to(self, device: torch.device) -> Spans:
        return replace(self, values=self.values.to(device), targets=self.targets.to(device))

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """What is read (n, length, C) and what is to be told (n, horizon, C)."""
        now = index.unsqueeze(1) + self.first
        steps = torch.arange(-self.length, self.horizon, device=index.device)
        past, ahead = (now + steps).split([self.length, self.horizon], 1)
        return self.values[past], self.targets[ahead]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of tokens, each a source and its target; what is to be said at each token is the next.

    Of the target alone: nobody tells the source.
    """

    tokens: Ragged
    starts: Tensor  # int64 (N,): where in its row the target begins
    characters: Tensor  # int64 (N,): of the target, its end counted as one

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.tokens.to(device), self.starts.to(device), self.characters.to(device))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor) -> Pairs:
        return Pairs(self.tokens[index], self.starts[index], self.characters[index])

    @property
    def lengths(self) -> Tensor:
        """int64 (N,)"""
        return self.tokens.lengths

    def take(self, index: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Tokens (n, longest - 1) and the next ones; of sources and beyond the ends UNSCORED."""
        tokens = self.tokens.padded(index, longest)
        places = torch.arange(1, tokens.shape[1], device=index.device)
        source = places < self.starts[index].unsqueeze(1)
        beyond = places >= self.lengths[index].unsqueeze(1)
        return tokens[:, :-1], tokens[:, 1:].long().masked_fill(source | beyond, UNSCORED)


Rows = Tensor | Ragged | Windows | Pairs | Series | Spans


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and targets, index by index.

    As tasks give them, images and pictures are uint8 (N, C, H, W), sounds int16 (N, samples), texts
    ragged UTF-8 bytes, pairs of texts too, a zero byte between the two, a text to go on with is
    uint8 (bytes,) and a series rows in time, all three without targets of their own.
    """

    x: Rows
    y: Tensor  # classes: int64 (N,); boxes: float32 (N, M, 6), see `automl/boxes.py`
    groups: Tensor | None = None  # int64 (N,): what shares one is never on two sides of a split

    def __len__(self) -> int:
        """Examples; of a text to go on with, characters, and of a series rows."""
        if isinstance(self.x, Windows):
            return self.x.characters
        if isinstance(self.x, Spans):
            return len(self.x.values) - self.x.first
        if isinstance(self.x, Tensor) and self.x.ndim == 1:
            return int(((self.x & 0xC0) != 0x80).sum())  # bytes that begin a character
        return len(self.x)

    @property
    def rows(self) -> int:
        """What batches are made of: examples, or windows of a text or a series."""
        return len(self.x)

    def to(self, device: torch.device) -> Split:
        assert not isinstance(self.x, Series)
        return Split(self.x.to(device), self.y.to(device))

    def __getitem__(self, index: Tensor) -> Split:
        """The examples of an index or a mask."""
        assert isinstance(self.x, Tensor | Ragged | Pairs)
        groups = None if self.groups is None else self.groups[index]
        return Split(self.x[index], self.y[index], groups)

    def joined(self, other: Split) -> Split:
        """These examples, then those of another split; one text or series, then the other."""
        groups = None
        if self.groups is not None and other.groups is not None:
            groups = torch.cat([self.groups, other.groups])
        if isinstance(self.x, Ragged) and isinstance(other.x, Ragged):
            return Split(self.x.joined(other.x), torch.cat([self.y, other.y]), groups)
        if isinstance(self.x, Series) and isinstance(other.x, Series):
            return Split(self.x.joined(other.x), self.y)
        assert isinstance(self.x, Tensor)
        assert isinstance(other.x, Tensor)
        y, theirs = self.y, other.y
        if y.ndim == 3:  # boxes: as many rows for each as the other split needs
            y, theirs = (
                F.pad(a, (0, 0, 0, max(0, b.shape[1] - a.shape[1])), value=-1.0)
                for a, b in ((y, theirs), (theirs, y))
            )
        return Split(torch.cat([self.x, other.x]), torch.cat([y, theirs]), groups)

    def epoch(
        self, size: int, generator: Generator, *, few: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `size` rows in random order; fewer than `size` rows wait for another epoch.

        Rows of different length come with others nearly as long. With `few`, lengths are rounded
        up, by an eighth at most, so that batches come in few different lengths.
        """
        device = self.y.device
        if isinstance(self.x, Windows):
            starts = self.x.starts(generator)
            order = starts[torch.randperm(len(starts), generator=generator, device=device)]
        else:
            order = torch.randperm(len(self.x), generator=generator, device=device)
        order = order[: max(size, len(order) // size * size)]  # others each time
        if isinstance(self.x, Ragged | Pairs):
            lengths = self.x.lengths
            pool = torch.arange(len(order), device=device) // (POOL * size)
            order = order[torch.argsort(pool * (lengths.max() + 1) + lengths[order], stable=True)]
            whole = order.view(-1, min(size, len(order)))
            order = whole[torch.randperm(len(whole), generator=generator, device=device)].flatten()
        batches = order.split(size)
        for batch, longest in zip(batches, self._longest(batches), strict=True):
            yield self._take(batch, rounded(longest) if few else longest)

    def sweep(self, budget: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Index, x and y of batches that go through all once, with at most `budget` places each.

        A place is an example or, of texts, a token. Texts come with others nearly as long, as
        padding takes time too. Windows overlap by half: each token but the first few is judged
        with at least half a window before it.
        """
        if isinstance(self.x, Windows):
            half = max(1, self.x.length // 2)
            starts = torch.arange(0, max(1, len(self.x.values) - 1 - half), half)
            for index in starts.to(self.y.device).split(max(1, budget // self.x.length)):
                x, y = self.x.take(index)
                y[:, : self.x.length - half].masked_fill_((index > 0).unsqueeze(1), UNSCORED)
                yield index, x, y
            return
        if isinstance(self.x, Tensor | Spans):
            for index in torch.arange(len(self.x), device=self.y.device).split(max(1, budget)):
                yield index, *self._take(index)
            return
        assert isinstance(self.x, Ragged | Pairs)
        lengths, order = self.x.lengths.clamp_min(1).sort(stable=True)
        longest = lengths.tolist()
        first = 0
        for last in range(1, len(order) + 1):  # closes a batch before the row that is too much
            full = last == len(order) or (last + 1 - first) * longest[last] > budget
            if full or longest[last] > LONGER * longest[first]:
                index = order[first:last]
                yield index, *self._take(index, longest[last - 1])
                first = last

    def _longest(self, batches: Sequence[Tensor]) -> list[int]:
        """Of the rows of each batch: the device is waited for once, not for every batch."""
        if not isinstance(self.x, Ragged | Pairs):
            return [0] * len(batches)
        told: list[int] = torch.stack([self.x.lengths[batch].max() for batch in batches]).tolist()
        return told

    def _take(self, index: Tensor, longest: int = 0) -> tuple[Tensor, Tensor]:
        if isinstance(self.x, Windows | Spans):
            return self.x.take(index)
        if isinstance(self.x, Pairs):
            return self.x.take(index, longest)
        if isinstance(self.x, Ragged):
            x = self.x.padded(index, longest)
        else:
            assert isinstance(self.x, Tensor)
            x = self.x.index_select(0, index)  # on a CPU in a tenth of the time of self.x[index]
        return x, self.y[index]


def pieces(x: Tensor) -> tuple[Tensor, ...]:
    """A few rows at a time, for what takes many times their memory on the way."""
    parts: tuple[Tensor, ...] = x.split(max(1, min(256, PIECE // math.prod(x.shape[1:]))))
    return parts


def rounded(length: int) -> int:
    """Up, to one of eight lengths between a power of two and the next."""
    step: int = max(1, 2 ** (length.bit_length() - 4))
    return -(-length // step) * step


@dataclass(frozen=True)
class Metric:
    """What a trial is judged by on the validation split."""

    name: str
    higher_is_better: bool = True

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b

    def matched(self, score: float, name: str, theirs: float) -> str:
        """What is to be said of a baseline of that name, where the score is not above its own."""
        if self.better(score, theirs):
            return ""
        return f"{name} does as well" if score == theirs else f"{name} does better, {theirs:.4f}"

    def blur(self, score: float, examples: int) -> float:
        """The smallest difference between two scores that means anything.

        Of shares of right answers half a standard error, and at least one example; of losses 0.
        """
        if not self.higher_is_better or not examples:
            return 0.0
        return max(math.sqrt(max(score * (1 - score), 0.0) / examples) / 2, 1 / examples)

    def beyond(self, score: float, chance: float, examples: int, luck: float = LUCK) -> bool:
        """Whether a score, the best of many, is more than luck.

        A share of right answers is, if guessing reaches it with a probability below `luck`; a loss
        is, if it is below that of a guess.
        """
        if not self.higher_is_better:
            return score < chance
        from scipy.special import bdtrc  # late, as all of SciPy

        as_good = bdtrc(round(score * examples) - 1, examples, chance)  # how likely a guess is
        return bool(as_good < luck)


class Raw(ABC):
    """What kind of examples a task gives."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """In a few words."""


class Inputs(Raw):
    """How raw examples become what a model reads: fitted in training, saved with the model."""

    @abstractmethod
    def encode(self, split: Split) -> Split:
        """Examples as a task gives them to those that lie on the device; once a training."""

    @abstractmethod
    def prepare(self, x: Tensor) -> Tensor:
        """A batch of encoded examples to what the model reads; at every step, on the device."""

    @abstractmethod
    def read(self, raw: Any) -> Split:
        """What a user has, one example or several, encoded. Raises DataError."""

    @abstractmethod
    def example(self, count: int) -> Tensor:
        """What `prepare` gives for `count` examples, without content, on the default device."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """How anyone gets from raw input to what `encode` gives: in plain values and words.

        `dtype` and `shape` are those of a batch; letters in a shape are free.
        """

    def facts(self) -> dict[str, Any]:
        """What a saved model must know of it, as plain values."""
        told: dict[str, Any] = asdict(self)  # type: ignore[call-overload] # all are dataclasses
        return told

    def files(self) -> dict[str, str]:
        """What is too much for that, as texts by file name."""
        return {}

    @property
    def outputs(self) -> int:
        """Where no class is asked for: tokens to choose the next one from, or columns to tell."""
        return 0

    def answers(self, count: int, outputs: int) -> tuple[int, ...]:
        """The shape of what a model gives for `example(count)`; ANY side may be of any length."""
        return count, outputs

    def told(self, logits: Tensor) -> Tensor:
        """What a model gives as a user wants it: shares of classes or tokens (..., K)."""
        return logits.softmax(-1)

    def untold(self, told: Tensor) -> Tensor:
        """What a model gives, from what `told` makes of it."""
        return told.clamp_min(torch.finfo(torch.float32).tiny).log()

    @property
    @abstractmethod
    def floats(self) -> int:
        """Numbers that a model holds for each place of a batch, roughly; see `Split.sweep`."""


@dataclass(frozen=True, eq=False)
class Data:
    """All that training may see. It holds no test split: that one stays sealed to the end."""

    train: Split
    valid: Split
    inputs: Raw
    labels: Sequence[str]
    fingerprint: str  # sha256 over the examples, the labels and the split
    sealed: int = 0  # examples of the test split, which is not here

    def whole(self) -> Data:
        """To train on the validation split too, when there is nothing left to choose."""
        return replace(
            self,
            train=self.train.joined(self.valid),
            fingerprint=f"{self.fingerprint} with the validation split",
        )


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave."""

    number: int  # counted from 1
    train_loss: float
    metrics: dict[str, float]  # on the validation split
    seconds: float
    examples: int
    scoring: float = field(default=0.0, compare=False)  # seconds of these, to score that split
    memory_mb: float | None = field(default=None, compare=False)  # the most so far
