"""How good answers are, and how sure one can be of that. Knows no study and no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Task
from automl.data import UNSCORED, Inputs, Pairs, Spans, Split
from automl.inputs.text import Tokens
from automl.training.loop import predict

SURE = 1.96  # standard errors to either side: 95 %
DRAWS = 1000  # of a bootstrap
REDRAWN = 200  # where boxes of pictures are ranked anew for each of them
ABOVE = 2.7  # times what halves are off from the score, for what both are off
CHUNKS = 2000  # that rows of numbers are cut into, at most
EVEN = 0.03  # share of the deviation of all errors that those of a draw have at least
POWERS = {"rmse": 2, "mae": 1}  # of errors, whose mean a score is made of
BLOCKS = 32  # that a batch of windows, or a series, is cut into: neighbours stay together
FEWEST = 10  # blocks: of so few 95 % intervals cover 89 % (simulated, normal), of 5 only 83
BINS = 10  # of equal width, for calibration
SPREAD = 0.5  # prior standard deviation of the logarithm of a temperature


@dataclass(frozen=True)
class Interval:
    """Where the score on all such data lies, 95 % sure."""

    low: float
    high: float
    by: str  # Wilson, bootstrap or halves


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a model answers to a split, held against the targets."""

    scores: dict[str, float]
    interval: Interval | None  # None: of a text or series too short to tell
    logits: Tensor | None = None  # (N, K) on the CPU, divided by the temperature; None: no classes
    y: Tensor | None = None  # (N,)
    sums: dict[str, Tensor] | None = None  # that scores are made of; None: of classes

    @property
    def bounds(self) -> list[float] | None:
        """Of the interval, as metrics.json holds them."""
        return [self.interval.low, self.interval.high] if self.interval else None

    @property
    def probabilities(self) -> Tensor:
        """(N, K)"""
        assert self.logits is not None
        return self.logits.softmax(1)

    @property
    def confusion(self) -> Tensor:
        """int64 (K, K): rows classes, columns answers."""
        assert self.logits is not None
        assert self.y is not None
        count = self.logits.shape[1]
        cells = self.y * count + self.logits.argmax(1)
        return cells.bincount(minlength=count**2).view(count, count)

    def classes(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class; recall with its interval (Wilson)."""
        found = self.confusion.tolist()
        told = []
        for k, label in enumerate(labels):
            right, examples, said = found[k][k], sum(found[k]), sum(row[k] for row in found)
            sure = wilson(right, examples)
            told.append(
                {
                    "label": label,
                    "examples": examples,
                    "precision": right / said if said else 0.0,
                    "recall": right / examples if examples else 0.0,
                    "recall_interval": [sure.low, sure.high],
                    "f1": 2 * right / (examples + said) if examples + said else 0.0,
                }
            )
        return told

    def bins(self) -> list[dict[str, float]]:
        """Mean confidence and accuracy of the answers between 0 and 0.1, 0.1 and 0.2, ..."""
        assert self.y is not None
        confidence, answers = self.probabilities.max(1)
        right = torch.eq(answers, self.y).double()
        place = (confidence * BINS).long().clamp_max(BINS - 1)
        return [
            {
                "confidence": confidence[place == k].double().mean().item(),
                "accuracy": right[place == k].mean().item(),
                "share": (place == k).double().mean().item(),
            }
            for k in place.unique().tolist()
        ]

    @property
    def calibration_error(self) -> float:
        """How far confidence and accuracy lie apart in the mean (ECE, Guo et al. 2017)."""
        told = (abs(b["confidence"] - b["accuracy"]) * b["share"] for b in self.bins())
        return sum(told)


def judge(
    model: nn.Module, split: Split, inputs: Inputs, task: Task, temperature: float = 1.0
) -> Judgement:
    """Of a model on an encoded split that lies where the model does."""
    tallies: dict[tuple[int, int], dict[str, Tensor]] = {}
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    joined: dict[str, Tensor] = {}
    for number, (index, logits, y) in enumerate(predict(model, split, inputs)):
        if task.tells == "boxes":
            joined = task.joined(joined, task.tally(logits, y))
            continue
        if logits.ndim == 2:
            kept.append((index.cpu(), logits.cpu(), y.cpu()))
            continue
        if isinstance(split.x, Pairs):
            long = split.x.characters[index].unbind()
            for characters, *pair in zip(long, logits.split(1), y.split(1), strict=True):
                own = {"characters": characters}
                tallies[number, len(tallies)] = task.tally(*pair) | own
            continue
        for block, some, targets in _blocks(split, index, logits, y):
            key = (0, block) if isinstance(split.x, Spans) else (number, block)
            now = task.tally(some, targets)
            if isinstance(inputs, Tokens):
                told = targets[targets != UNSCORED].cpu()
                now["characters"] = torch.tensor(inputs.characters(told))
            tallies[key] = task.joined(tallies.get(key, {}), now)
    if task.tells == "boxes":
        return _of_pictures(joined, split, task)
    if not kept:
        return _of_blocks([*tallies.values()], split, task)
    index, logits, y = (torch.cat(parts) for parts in zip(*kept, strict=True))
    order = index.argsort()
    if task.tells == "numbers":
        return _of_numbers(logits[order], y[order], task)
    return judged(logits[order], y[order], task, temperature)


def judged(logits: Tensor, y: Tensor, task: Task, temperature: float = 1.0) -> Judgement:
    """Of logits (N, K) against classes (N,)."""
    logits = logits.float() / temperature
    split = Split(y, y)
    scores = task.scores(task.tally(logits, y), split)
    found = Judgement(scores, None, logits, y)
    name = task.metric.name
    if name == "accuracy":
        return replace(found, interval=wilson(round(scores[name] * len(y)), len(y)))
    cells = found.confusion  # to draw examples anew is to draw their cells
    drawn, rng = torch.zeros_like(cells), np.random.default_rng(0)
    some = cells.view(-1).nonzero().flatten()  # of a thousand classes nearly all cells are empty
    shares = (cells.view(-1)[some].double() / len(y)).numpy()
    nats, told = torch.zeros(()), list[float]()
    for _ in range(DRAWS):
        drawn.view(-1)[some] = torch.from_numpy(rng.multinomial(len(y), shares))
        told.append(task.scores({"nats": nats, "confusion": drawn}, split)[name])
    if min(told) == max(told) in (0.0, 1.0):  # of right answers alone all draws are alike
        right = cells.diag().tolist()
        return replace(found, interval=_unvaried(right, cells.sum(1).tolist(), max(told)))
    # Of few examples a class those drawn anew score too low, and the score is as far below what
    # more of them would tell: of 100 classes with 5 each 64 intervals of 100 held it, now 92.
    return replace(found, interval=_moved(told, scores[name]))


def _blocks(
    split: Split, index: Tensor, logits: Tensor, y: Tensor
) -> Iterable[tuple[int, Tensor, Tensor]]:
    """Parts of a batch that lie side by side, numbered."""
    if not isinstance(split.x, Spans):
        return zip(range(BLOCKS), logits.chunk(BLOCKS), y.chunk(BLOCKS), strict=False)
    numbers, sizes = (index // _long(split.x)).unique_consecutive(return_counts=True)
    parts = (rows.split(sizes.tolist()) for rows in (logits, y))
    return zip(numbers.tolist(), *parts, strict=True)


def _long(spans: Spans) -> int:
    """Windows of a block of a series: as many as rows are told, or a share of all if that is more.

    What is told from one row and from the next is nearly the same, and a bad hour follows another.
    """
    return max(spans.horizon, len(spans) // BLOCKS)


def _apart(spans: Spans) -> float:
    """The share of blocks of a series that say something new.

    Rows ahead reach into the next block, so that sums of neighbours vary together: where errors
    have nothing in common, by half more than they would alone if blocks are as long as a horizon.
    """
    long, ahead = _long(spans), spans.horizon
    own = ahead**2 * (long - ahead + 1) + ahead * (ahead - 1) * (2 * ahead - 1) / 3
    return own / (long * ahead**2)


def _of_blocks(tallies: list[dict[str, Tensor]], split: Split, task: Task) -> Judgement:
    """Of sums over the blocks of a text or a series, drawn anew as blocks (Kuensch 1989).

    A block of a text is as long as it has characters, and a pair of texts is one of its own, as
    long as its target. Of a series as many as say something new.
    """
    blocks = {name: torch.stack([t[name] for t in tallies]).double().cpu() for name in tallies[0]}
    whole = {name: values.sum(0) for name, values in blocks.items()}
    scores = task.scores(whole, split)
    found = Judgement(scores, None, sums=whole)
    known = blocks["count"].view(len(tallies), -1).any(1)  # a block of gaps says nothing
    blocks = {name: values[known] for name, values in blocks.items()}
    if (count := int(known.sum())) < FEWEST:
        return found
    draws = round(count * _apart(split.x)) if isinstance(split.x, Spans) else count
    long = "characters" if "characters" in whole else "count"
    generator = torch.Generator().manual_seed(0)
    told = []
    for _ in range(DRAWS):
        drawn = torch.randint(count, (draws,), generator=generator)
        sums = {name: values[drawn].sum(0) for name, values in blocks.items()}
        scale = whole[long] / sums[long].clamp_min(1)  # the split is as long as it is
        scaled = {name: value * scale for name, value in sums.items()}
        told.append(task.scores(scaled, split)[task.metric.name])
    return replace(found, interval=_bootstrap(told))


def _of_numbers(logits: Tensor, y: Tensor, task: Task) -> Judgement:
    """Of numbers told (N, 1), of rows that are drawn anew.

    By bootstrap-t (Efron and Tibshirani 1993, 12.5), for squares of errors are far from normal; of
    the logarithm below the score, of the mean itself above it. Simulated with 100 rows, of 100
    intervals of rmse 95 held the score where errors are normal, 82 where they are Student's with 3
    degrees and 84 where they are lognormal; the usual ones 92, 72 and 70. Where one error in twenty
    is large 94 did, and ended at 3.9 times the score in the median; of the logarithm above it, too,
    95 did, and one in twenty ended at more than 100,000 times the score.
    """
    sums = task.tally(logits, y)
    scores, name = task.scores(sums, Split(y, y)), task.metric.name
    found = Judgement(scores, None, sums=sums)
    if name not in POWERS or len(y) < FEWEST or not scores[name]:
        return found
    off = (logits.squeeze(1).double() - y).abs() ** POWERS[name]
    means = torch.stack([some.mean() for some in off.chunk(CHUNKS)])
    generator = torch.Generator().manual_seed(0)
    drawn = means[torch.randint(len(means), (DRAWS, len(means)), generator=generator)]
    tiny, root = torch.finfo(torch.double).tiny, 1 / POWERS[name]
    width = (means.std(correction=0) / means.mean()).item()
    ratio = drawn.mean(1) / means.mean()
    spread = (drawn.std(1, correction=0) / means.mean()).clamp_min(tiny)
    above = (ratio.clamp_min(tiny).log() * ratio / spread).quantile(0.975).item()
    below = ((ratio - 1) / spread.clamp_min(EVEN * width)).quantile(0.025).item()
    low, high = math.exp(-width * above * root), (1 - width * min(below, 0.0)) ** root
    return replace(found, interval=Interval(scores[name] * low, scores[name] * high, "bootstrap"))


def _of_pictures(tally: dict[str, Tensor], split: Split, task: Task) -> Judgement:
    """Of what is found in pictures, a row for each, of which halves are drawn.

    Scores of halves differ as those of all such splits do (Shao and Wu 1989), and are too high by
    more: the fewer the boxes of a class, the higher is the best precision at a recall or beyond.
    What is too much falls about as their number to the power of 2/3, so that halves are off by 1.6
    times what the score is, which `ABOVE` allows for. Simulated with pictures that are easy or
    hard: with three classes, one of them eight times as frequent, 88 intervals of 100 held the
    score with 72 pictures and 86 with 20; with 80 classes, the first 80 times as frequent as the
    last, 39 of 40 did with 200 pictures and 15 of 15 with 1,000. Those of a bootstrap 94 and 85 of
    100, but 30 of 60 and 14 of 25, and one could lie above the very score.
    """
    rows = {name: values.cpu() for name, values in tally.items()}
    scores, name = task.scores(rows, split), task.metric.name
    found = Judgement(scores, None, sums=rows)
    if len(split) < FEWEST:
        return found
    generator = torch.Generator().manual_seed(0)
    told = []
    for _ in range(REDRAWN):
        drawn = torch.randperm(len(split), generator=generator)[: len(split) // 2]
        some = {each: values[drawn] for each, values in rows.items()}
        told.append(task.scores(some, split)[name])
    if not min(told) == max(told) == scores[name] in (0.0, 1.0):
        sure = _moved(told, scores[name], ABOVE)
        return replace(found, interval=replace(sure, by="halves"))
    pictures = (rows["occur"] > 0).sum(0).tolist()  # of each class; in all of them all are alike
    if not any(pictures):
        return found
    right = [round(scores[name] * count) for count in pictures]
    return replace(found, interval=_unvaried(right, pictures, scores[name]))


def _moved(told: list[float], score: float, times: float = 2.0) -> Interval:
    """Of shares in draws that are off from the score: moved by so many times that, and with it."""
    off = times * (score - sum(told) / len(told))
    sure = _bootstrap([min(max(one + off, 0.0), 1.0) for one in told])
    return replace(sure, low=min(sure.low, score), high=max(sure.high, score))


def _bootstrap(told: list[float]) -> Interval:
    low, high = np.quantile(told, [0.025, 0.975]).tolist()
    return Interval(low, high, "bootstrap")


def wilson(right: int, examples: int) -> Interval:
    """Of a share of right answers (Wilson 1927)."""
    if not examples:
        return Interval(0.0, 1.0, "Wilson")
    share, z = right / examples, SURE**2 / examples
    centre = (share + z / 2) / (1 + z)
    half = math.sqrt(z * share * (1 - share) + z**2 / 4) / (1 + z)
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def _unvaried(right: list[int], examples: list[int], score: float) -> Interval:
    """Of a mean over the classes that occur, from their Wilson intervals (Zou and Donner 2008)."""
    each = [wilson(*one) for one in zip(right, examples, strict=True) if one[1]]
    down = math.hypot(*(score - one.low for one in each)) / len(each)
    up = math.hypot(*(one.high - score for one in each)) / len(each)
    return Interval(max(0.0, score - down), min(1.0, score + up), "Wilson")


def mistakes(probabilities: Tensor, y: Tensor) -> Tensor:
    """Which examples are answered wrong, the most confident answer first."""
    confidence, answers = probabilities.max(1)
    wrong = (answers != y).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)]


def averaged(probabilities: Tensor, y: Tensor, task: Task) -> Judgement:
    """Of probabilities (N, K) that no temperature is needed for."""
    return judged(probabilities.clamp_min(1e-12).log(), y, task)


def temperature(logits: Tensor, y: Tensor) -> float:
    """What logits are to be divided by so that their probabilities come true (Guo et al. 2017).

    The likeliest, if its logarithm is normal around 0: where every answer is right, none is sure.
    """
    logits = logits.double()

    def unlikely(log: float) -> float:
        nats = F.cross_entropy(logits / math.exp(log), y, reduction="sum").item()
        return nats + (log / SPREAD) ** 2 / 2

    from scipy.optimize import minimize_scalar  # a second, which a search has after its first step

    found = minimize_scalar(unlikely, bounds=(-math.log(10), math.log(10)), method="bounded")
    return float(math.exp(found.x))
