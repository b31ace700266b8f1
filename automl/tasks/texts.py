"""What text tasks share: baselines, and the loss of text that goes on. Knows no files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from automl.data import UNSCORED, Data, Metric, Split
from automl.inputs.text import UNKNOWN, Texts, unpack
from automl.tasks.classes import ClassTask, drawn, fitting
from automl.tasks.source import Published, Unlabelled

SPELLED_OUT = math.log(0x110000)  # nats for one of all characters there are
ORDER = 6  # characters of the n-gram baseline
MOST = 50_000  # training texts of the baseline by words


class TextTask(ClassTask):
    """Texts in classes."""

    gives: ClassVar[str] = "texts"
    input: ClassVar[str] = "words"

    def baseline(self, data: Data) -> tuple[str, float]:
        """A linear SVM (Joachims 1998) on TF-IDF of words and pairs, of at most 50,000 texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import LinearSVC

        train = data.train[drawn(data.train.y, MOST)]
        rare = 2 if len(train) >= 1000 else 1
        model = make_pipeline(
            TfidfVectorizer(
                ngram_range=(1, 2), min_df=rare, sublinear_tf=True, token_pattern=r"\S+"
            ),
            LinearSVC(random_state=0),
        )
        with fitting():
            model.fit(unpack(train.x), train.y)
        answers = torch.from_numpy(model.predict(unpack(data.valid.x)))
        return "a linear SVM on TF-IDF", self.judged(answers, data.valid.y)


class PublishedTexts(Published, TextTask):
    """Texts that all have the same copy of."""

    def shape(self, root: Path | None) -> tuple[Texts, tuple[str, ...]]:
        return Texts(), self.labels


class TokenTask(Unlabelled):
    """Tokens, of which the next one is told."""

    @property
    def metric(self) -> Metric:
        return Metric("bits_per_character", higher_is_better=False)

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Of logits (N, T, V) against tokens (N, T); there are no weights for them."""
        flat = logits.flatten(0, 1).float()
        return F.cross_entropy(flat, y.flatten(), ignore_index=UNSCORED, label_smoothing=smoothing)

    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """A token that was never seen is charged for being spelled out, too."""
        nats = F.cross_entropy(
            logits.flatten(0, 1).float(), y.flatten(), ignore_index=UNSCORED, reduction="none"
        )
        total = nats.double().sum() + (y == UNKNOWN).sum() * SPELLED_OUT
        return {"nats": total, "count": (y != UNSCORED).sum()}

    def measured(self, tally: dict[str, Tensor], characters: int) -> dict[str, float]:
        """Scores, from the sums over a split in which so many characters are told."""
        nats, tokens = tally["nats"].item(), tally["count"].item()
        return {
            "loss": nats / tokens,
            "perplexity": math.exp(min(nats / tokens, 700)),
            "nats_per_character": nats / characters,
            "bits_per_character": nats / characters / math.log(2),
        }


class ProseTask(TokenTask):
    """A text to go on with, split by position: to train, to validate, to test."""

    gives: ClassVar[str] = "prose"
    tells: ClassVar[str] = "tokens"
    unit: ClassVar[str] = "characters"
    input: ClassVar[str] = "characters"

    valid: float = Field(
        0.05, ge=0.01, le=0.4, description="share of the text to validate, before that to test"
    )
    sealed: float = Field(0.05, ge=0.01, le=0.4, description="share of the text to test, its end")

    def shape(self, root: Path | None) -> tuple[Texts, tuple[str, ...]]:
        return Texts(prose=True), ()

    def cut(self, text: str) -> dict[str, Split]:
        """The splits of a whole text."""
        ends = [
            len(text) - int(len(text) * share) for share in (self.valid + self.sealed, self.sealed)
        ]
        parts = (text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :])
        return dict(zip(("train", "valid", "test"), map(written, parts), strict=True))

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        """The first character is given: a split has one to tell fewer than it is long."""
        return self.measured(tally, max(1, len(split) - 1))

    def chance(self, data: Data) -> tuple[str, float]:
        (train,), (valid,) = unpack(data.train.x), unpack(data.valid.x)
        return "characters by their frequency", by_frequency(train, valid)

    def baseline(self, data: Data) -> tuple[str, float]:
        (train,), (valid,) = unpack(data.train.x), unpack(data.valid.x)
        return f"a {ORDER}-gram model", by_ngrams(train, valid)


def by_frequency(train: str, valid: str) -> float:
    """Bits per character of one text, foretold by how often each is in another."""
    counts, all_ = Counter(train), len(train) + len(set(train)) + 1
    bits = sum(
        -number * math.log2((counts[character] + 1) / all_)
        for character, number in Counter(valid).items()
    )
    return (bits + _spelled_out(train, valid)) / len(valid)


def by_ngrams(train: str, valid: str) -> float:
    """The same by the five characters before each, smoothed as by Witten and Bell (1991).

    From the last 2 million characters to train, of the first 50,000 to validate.
    """
    train, valid = train[-2_000_000:], valid[:50_000]
    wanted = {valid[i : i + n] for n in range(ORDER) for i in range(len(valid) - n + 1)}
    follows: dict[str, Counter[str]] = {}
    for n in range(ORDER):
        pairs = Counter(zip(*(train[i:] for i in range(n + 1)), strict=False))
        for gram, number in pairs.items():
            before = "".join(gram[:-1])
            if before in wanted:
                follows.setdefault(before, Counter())[gram[-1]] = number
    sums = {before: (sum(after.values()), len(after)) for before, after in follows.items()}
    uniform = 1 / (len(set(train)) + 1)
    bits = 0.0
    for place, character in enumerate(valid):
        share = uniform
        for n in range(min(ORDER, place + 1)):
            before = valid[place - n : place]
            if before not in follows:
                break
            seen, kinds = sums[before]
            share = (follows[before][character] + kinds * share) / (seen + kinds)
        bits -= math.log2(share)
    return (bits + _spelled_out(train, valid)) / len(valid)


def _spelled_out(train: str, valid: str) -> float:
    """Bits of saying which they are, for characters that were never seen; as models are charged."""
    seen = set(train)
    return sum(character not in seen for character in valid) * SPELLED_OUT / math.log(2)


def written(text: str) -> Split:
    """A text as a split holds it."""
    raw = torch.frombuffer(bytearray(text.encode("utf-8", "replace")), dtype=torch.uint8)
    return Split(raw, torch.zeros(0, dtype=torch.long))
