"""What all tasks of classes share: splits, loss, metrics. Knows no kind of data."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from automl import cache
from automl.data import Data, Metric, Raw, Rows, Split
from automl.tasks.source import SourceTask, cached, firsts, stratified

FEW = 5  # examples of each class that a baseline learns from before it sees more of any


class ClassTask(SourceTask):
    """Examples in classes. A member says where they come from; cache and splits are common."""

    score: Literal["accuracy", "macro_f1"] = Field(
        "accuracy", description="what trials are ranked by; macro_f1: all classes count alike"
    )
    valid: float = Field(
        0.1, ge=0.01, le=0.5, description="share of the training examples held out for validation"
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="of the draw of the validation examples; 0 to 2^31 - 1"
    )
    per_class: int | None = Field(
        None, ge=2, description="use at most the first so many training examples of each class"
    )

    @property
    def metric(self) -> Metric:
        return Metric(self.score)

    def load(self, root: Path | None) -> Data:
        raw, labels = self.shape(root)
        source = self.source(root)
        train, about = cached(self.name, source, labels, "train")

        if self.per_class is not None:
            classes = [(train.y == k).nonzero().flatten() for k in range(len(labels))]
            train = train[torch.cat([members[: self.per_class] for members in classes])]
        if "valid" in about["digests"]:
            valid, _ = cached(self.name, source, labels, "valid")
        else:
            copies = self.copies(train)
            train, valid = stratified(train, self.valid, self.split_seed, labels, copies)

        split = [self.valid, self.split_seed, self.per_class, cache.digest(valid)]
        settings = [about["digests"], labels, *split]
        return Data(
            train=train,
            valid=valid,
            inputs=self.measured(raw, train),
            labels=labels,
            fingerprint=hashlib.sha256(json.dumps(settings).encode()).hexdigest(),
            sealed=about["counts"]["test"],
        )

    def copies(self, split: Split) -> Tensor:
        """For each example the number of the first that is the same, int64 (N,)."""
        return firsts(split.x)

    def measured(self, raw: Raw, train: Split) -> Raw:
        """What the training split tells of its examples."""
        return raw

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Of logits (N, K) against classes (N,) or shares of them (N, K).

        Of (N, members, K), each member by itself, their mean.
        """
        logits = logits.float()
        if logits.ndim == 3:
            y = y.repeat_interleave(logits.shape[1], 0)
            logits = logits.flatten(0, 1)
        if weights is None or y.is_floating_point():
            return F.cross_entropy(logits, y, weights, label_smoothing=smoothing)
        # PyTorch's own mean waits for the device where classes are weighed and smoothed
        total = F.cross_entropy(logits, y, weights, reduction="sum", label_smoothing=smoothing)
        return total / weights[y].sum()

    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        count = logits.shape[1]
        cells = y * count + logits.argmax(1)
        confusion = cells.new_zeros(count**2)  # bincount waits for the device
        confusion.scatter_add_(0, cells, torch.ones_like(cells))
        nats = F.cross_entropy(logits.double(), y, reduction="sum")
        return {"nats": nats, "confusion": confusion.view(count, count)}

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        confusion = tally["confusion"].double().cpu()  # rows: classes, columns: answers
        return {
            "loss": tally["nats"].item() / len(split),
            "accuracy": (confusion.trace() / confusion.sum()).item(),
            "macro_f1": macro_f1(confusion),
        }

    def chance(self, data: Data) -> tuple[str, float]:
        if self.score == "macro_f1":  # for each class F1 is its share then, and no guess has more
            return "guessing classes as often as they occur", 1 / len(data.valid.y.unique())
        most = data.train.y.bincount().argmax()
        return "the most frequent class", self.judged(most.expand_as(data.valid.y), data.valid.y)

    def judged(self, answers: Tensor, y: Tensor) -> float:
        """The metric of answers (N,)."""
        logits = F.one_hot(answers, int(max(answers.max(), y.max())) + 1).float()
        return self.scores(self.tally(logits, y), Split(y, y))[self.metric.name]

    def regressed(
        self, data: Data, features: Callable[[Rows], Tensor], *, least: float, steps: int
    ) -> float:
        """What logistic regression scores on features (N, F) of at most 5,000 training examples.

        These have mean 0 and deviation 1; a deviation counts as `least` at least.
        """
        from sklearn.linear_model import LogisticRegression

        train = data.train[drawn(data.train.y, 5000)]
        x, y = features(train.x), train.y
        mean, std = x.mean(0), x.std(0, correction=0).clamp_min(least)
        with fitting():
            model = LogisticRegression(max_iter=steps).fit((x - mean) / std, y)
        answers = torch.from_numpy(model.predict((features(data.valid.x) - mean) / std))
        return self.judged(answers, data.valid.y)


@contextmanager
def fitting() -> Iterator[None]:
    """Where a baseline of scikit-learn is fitted."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # one thread: on 2 cores shared with other work, two took about twice as long
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its steps come close enough
        warnings.filterwarnings("ignore", "The number of unique classes")  # few examples of each
        yield


def drawn(y: Tensor, most: int) -> Tensor:
    """Which examples a baseline learns from: so many at random, and of every class some.

    Where there are more classes than that, one of each of as many.
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    by_class = y[order].argsort(stable=True)
    counts = y.bincount()
    before = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = torch.empty_like(order)
    turn[by_class] = torch.arange(len(y)) - before  # 0: the first of its class
    return order[turn.clamp_max(FEW).argsort(stable=True)][:most]


def macro_f1(confusion: Tensor) -> float:
    """Mean F1 over the classes that occur, from counts (class, answer)."""
    right, occur, said = confusion.diag(), confusion.sum(1), confusion.sum(0)
    f1 = 2 * right / (occur + said).clamp_min(1)
    return f1[occur > 0].mean().item()
