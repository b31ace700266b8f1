"""What tasks of boxes in pictures share: splits, loss, scores, baselines. Knows no files."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from automl import cache
from automl.boxes import (
    CANDIDATES,
    MOST,
    area,
    chosen,
    found,
    generalized,
    matched,
    occurring,
    overlap,
    precision,
    shared,
)
from automl.data import PIECE, Data, Metric, Split
from automl.errors import DataError
from automl.inputs.canvas import Canvas
from automl.tasks.classes import fitting
from automl.tasks.source import PURPOSES, SourceTask, apart, cached, firsts

log = logging.getLogger("automl")

NEAREST = 10  # cells that learn to tell a box, at most
KEEN = 3.0  # power of how well they fit, where they are chosen; 6 learned less well
NEVER = -2.0  # below all fits
NEAR = 0.5  # share of a cell's box within one that does not count, from which it learns nothing
SLID = 600  # pictures of either split that the baseline slides windows over, by class
WINDOW = 8  # pixels of a side that it sees
PLACES = 2**14  # of a window in a picture, about, at most
BESIDE = 30  # windows of each picture, on average, that it learns what is none from
BOXED = 2.0  # weight of the boxes in the loss, of the classes 1


class BoxTask(SourceTask):
    """Pictures, and where things of each class are in them.

    A split's x is uint8 (N, 3, H, W), each picture as large as its proportions let it be, top left
    on a canvas; y is float32 (N, M, 6): label, x1, y1, x2, y2 in pixels of the canvas, and whether
    it counts. Rows that are no box have label -1. A box that does not count is not learned, and
    what is found there is neither right nor wrong.
    """

    gives: ClassVar[str] = "pictures"
    tells: ClassVar[str] = "boxes"
    unit: ClassVar[str] = "pictures"
    input: ClassVar[str] = "canvas"

    size: int = Field(
        320, ge=32, le=2048, description="longest side of the canvas, in pixels, rounded up to 32"
    )
    score: Literal["map", "map50"] = Field(
        "map",
        description="mean average precision: over overlaps from 0.50 to 0.95, as COCO has it, "
        "or at 0.50",
    )
    valid: float = Field(
        0.2, ge=0.01, le=0.5, description="share of the training pictures held out for validation"
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="of the draw of the validation pictures; 0 to 2^31 - 1"
    )

    @property
    def metric(self) -> Metric:
        return Metric(self.score)

    def load(self, root: Path | None) -> Data:
        raw, labels = self.shape(root)
        assert isinstance(raw, Canvas)
        source = self.source(root)
        train, about = cached(self.name, source, labels, "train")
        if "valid" in about["digests"]:
            valid, _ = cached(self.name, source, labels, "valid")
        else:
            train, valid = held_out(train, self.valid, self.split_seed)
        empty = {"train": (train, "nothing is learned"), "valid": (valid, "every score is 0")}
        for part, (split, then) in empty.items():
            if not (split.y[..., 5] > 0).any():
                told = f"{self.name}: no box counts in any picture to {PURPOSES[part]}"
                log.warning("%s, of %s: %s", told, f"{len(split):,}", then)
        settings = [about["digests"], labels, self.valid, self.split_seed, cache.digest(valid)]
        assert isinstance(train.x, Tensor)
        return Data(
            train=train,
            valid=valid,
            inputs=Canvas.measure(train.x),
            labels=labels,
            fingerprint=hashlib.sha256(json.dumps(settings).encode()).hexdigest(),
            sealed=about["counts"]["test"],
        )

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Of cells (N, cells, C + 4) against boxes (N, M, 6); each picture counts the same."""
        return losses(logits, y).mean()

    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """A row for each picture."""
        told = self.compared(found(logits), y, logits.shape[2] - 4)
        return told | {"loss": losses(logits, y)}

    def compared(self, rows: Tensor, y: Tensor, classes: int) -> dict[str, Tensor]:
        """What was found (N, 100, 6) beside what is there: a tally without the loss."""
        few = max(1, PIECE // (rows.shape[1] * y.shape[1]))  # crowds are held against crowds
        pairs = zip(rows.split(few), y.split(few), strict=True)
        return {
            "rows": rows,
            "right": torch.cat([matched(*pair) for pair in pairs]),
            "occur": occurring(y, classes),
            "loss": rows.new_zeros(len(y)),
        }

    def joined(self, before: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One behind the other: what is found is ranked among that of all pictures."""
        if not before:
            return batch
        return {name: torch.cat([before[name], value]) for name, value in batch.items()}

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        told = self.precisions(tally)
        loss = tally["loss"].double().mean().item()
        return {"loss": loss, "map": mean(told), "map50": mean(told[:, 0])}

    def precisions(self, tally: dict[str, Tensor]) -> Tensor:
        """Of each class, at overlaps from 0.50 to 0.95, (C, 10); NaN of one that does not occur."""
        rows, right = tally["rows"].flatten(0, 1), tally["right"].flatten(0, 1)
        some = rows[:, 0] >= 0
        rows, right = rows[some], right[some]
        return precision(rows[:, 0].long(), rows[:, 5], right, tally["occur"].sum(0))

    def chance(self, data: Data) -> tuple[str, float]:
        """Of the boxes that other pictures have, those of the training split in turn."""
        rows = data.train.y[torch.arange(len(data.valid)) % len(data.train), :MOST]
        rows = torch.cat([rows[..., :5], torch.ones_like(rows[..., :1])], 2)  # all are as sure
        tally = self.compared(rows, data.valid.y, len(data.labels))
        return "the boxes of other pictures", self.scores(tally, data.valid)[self.metric.name]

    def hopeless(self, data: Data) -> float:
        """Nothing found: a detector that has hardly begun is not at chance."""
        return 0.0

    def baseline(self, data: Data) -> tuple[str, float]:
        """Logistic regression on windows of 8x8 pixels that slide over the picture, class by class.

        As Dalal and Triggs (2005) do, but on the pixels themselves. Windows are as large as the
        median box of their class, or so large that a picture has no more than `PLACES` of them, and
        few pictures are looked at where there are many classes.
        """
        most = max(1, SLID // len(data.labels))
        train, valid = (one[torch.arange(min(most, len(one)))] for one in (data.train, data.valid))
        told = [_slid(train, valid, label) for label in range(len(data.labels))]
        found_by_class = [one for one in told if one is not None]
        if not found_by_class:
            return self.chance(data)
        all_of = torch.cat(found_by_class, 1)
        best = all_of[..., 5].topk(min(CANDIDATES * MOST, all_of.shape[1])).indices
        cells = all_of.gather(1, best.unsqueeze(2).expand(-1, -1, 6))
        rows = [chosen(one[..., 0], one[..., 1:5], one[..., 5]) for one in cells.split(8)]
        tally = self.compared(torch.cat(rows), valid.y, len(data.labels))
        name = f"logistic regression on windows of {WINDOW}x{WINDOW} pixels"
        return name, self.scores(tally, valid)[self.metric.name]


def held_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What stays and what is drawn: the share about, pictures that are the same on one side.

    Raises DataError where there are no two that differ.
    """
    first = firsts(split.x)
    if len(own := first.unique()) < 2:
        told = f"got {len(own)} of {len(split):,} training pictures that differs from the others"
        raise DataError(f"{told}; want 2 at least where one is held out")
    return apart(split, first, share, seed)


def mean(told: Tensor) -> float:
    """Of the classes that occur; 0 where none does."""
    known = ~told.isnan()
    return float(told[known].mean()) if known.any() else 0.0


def _slid(train: Split, valid: Split, label: int) -> Tensor | None:
    """Windows of the validation pictures, the best of each (n, K, 6): label, box and score.

    None where the class is nowhere to be learned.
    """
    from sklearn.linear_model import LogisticRegression

    own = train.y[(train.y[..., 0] == label) & (train.y[..., 5] > 0)][:, 1:5]
    if not len(own):
        return None
    sides = (own[:, 2:] - own[:, :2]).median(0).values.clamp_min(1)
    generator = torch.Generator().manual_seed(0)
    features, targets = [], []
    for x, y in _few(train):
        seen, boxes = windows(x, sides)
        wanted = torch.where((y[..., :1] == label), y[..., 1:5], -1.0)
        boxes = boxes.expand(len(x), -1, -1)
        fits = torch.zeros(seen.shape[:2], dtype=torch.bool)
        for few in _at_once(boxes, wanted):
            fits |= overlap(boxes, wanted[:, few]).amax(2) >= 0.5
        others = torch.rand(fits.shape, generator=generator) < BESIDE / fits.shape[1]
        features.append(seen[fits | others])
        targets.append(fits[fits | others])
    target = torch.cat(targets)
    if target.all() or not target.any():
        return None
    with fitting():
        model = LogisticRegression(max_iter=50).fit(torch.cat(features), target)
    weight, bias = (torch.from_numpy(each).float() for each in (model.coef_, model.intercept_))
    told = []
    for x, _ in _few(valid):
        seen, boxes = windows(x, sides)
        scores = (seen @ weight.T + bias).squeeze(2).sigmoid()
        scores, best = scores.topk(min(CANDIDATES * MOST, scores.shape[1]))
        scores = scores.unsqueeze(2)
        told.append(torch.cat([torch.full_like(scores, label), boxes[best], scores], 2))
    return torch.cat(told)


def _few(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    assert isinstance(split.x, Tensor)
    return zip(split.x.split(8), split.y.split(8), strict=True)


def windows(x: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Of about these width and height, uint8 (N, C, H, W) to (N, windows, F) and (windows, 4).

    One begins every quarter of a window; pixels are -1 to 1. They are larger where there would be
    more than about `PLACES`.
    """
    height, width = x.shape[2:]
    step = WINDOW // 4
    wide, high = (long / side for long, side in zip((width, height), sides.tolist(), strict=True))
    share = min(1.0, math.sqrt(PLACES / (wide * high)) * step / WINDOW)
    across, down = (max(WINDOW, round(WINDOW * share * one)) for one in (wide, high))
    small = F.interpolate(x.float() / 127.5 - 1, (down, across), mode="area")
    seen = F.unfold(small, WINDOW, stride=step).transpose(1, 2)
    top, left = torch.meshgrid(
        torch.arange(0, down - WINDOW + 1, step),
        torch.arange(0, across - WINDOW + 1, step),
        indexing="ij",
    )
    corners = torch.stack([left, top, left + WINDOW, top + WINDOW], 2).flatten(0, 1)
    return seen, corners * torch.tensor([width / across, height / down] * 2)


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """Of cells (N, cells, C + 4) against boxes (N, M, 6), for each picture (N,), by box.

    Which cells learn a box hangs on what they tell now: those ten for which the share of its class
    and the fit come to most together (task-aligned, Feng et al. 2021). The fit is the generalized
    overlap, which tells also how far a box is missed by: so any model of boxes can be trained,
    wherever its cells are. What a cell is to say of the class is how well its box fits (quality
    focal loss, Li et al. 2020).
    """
    classes, boxes = logits.float().split([logits.shape[2] - 4, 4], 2)
    label, wanted, counted = y[..., 0].long(), y[..., 1:5], y[..., 5] > 0
    there = (label >= 0) & counted
    with torch.no_grad():
        learns, box, fit = assigned(classes, boxes, label, wanted, there)
        share = fit.clamp_min(0) * learns
        of = label.clamp_min(0).gather(1, box)
        aim = torch.zeros_like(classes).scatter_(2, of.unsqueeze(2), share.unsqueeze(2))
        passed = covered(boxes, wanted, (label >= 0) & ~counted) & (share == 0)
        pull = (1 + fit) / 2 * (learns & ~passed)  # of a box that does not fit at all, too
        weight = (aim - classes.sigmoid()).square() * ~passed.unsqueeze(2)
    off = F.binary_cross_entropy_with_logits(classes, aim, reduction="none") * weight
    missed = 1 - generalized(boxes, wanted.gather(1, box.unsqueeze(2).expand(-1, -1, 4)))
    told = off.sum((1, 2)) + BOXED * (missed * pull).sum(1)
    per_box: Tensor = told / there.sum(1).clamp_min(1)
    return per_box


def assigned(
    classes: Tensor, boxes: Tensor, label: Tensor, wanted: Tensor, there: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells learn a box, which one, and how well they tell it now; each (N, cells)."""
    cells = boxes.shape[1]
    said = classes.sigmoid()
    highest = torch.full_like(boxes[..., 0], NEVER)
    box = torch.zeros_like(highest, dtype=torch.long)
    for few in _at_once(boxes, wanted):
        fit = generalized(boxes.unsqueeze(2), wanted[:, few].unsqueeze(1))  # (N, cells, few)
        of = label[:, few].clamp_min(0).unsqueeze(1).expand(-1, cells, -1)
        aligned = said.gather(2, of).sqrt() * ((1 + fit) / 2) ** KEEN
        best = aligned.topk(min(NEAREST, cells), 1).indices
        near = torch.zeros_like(fit).scatter_(1, best, 1.0) * there[:, few].unsqueeze(1)
        fits, place = torch.where(near > 0, fit, NEVER).max(2)
        box = torch.where(fits > highest, place + few.start, box)  # of two the one that fits better
        highest = torch.maximum(fits, highest)
    return highest > NEVER, box, highest


def covered(boxes: Tensor, wanted: Tensor, which: Tensor) -> Tensor:
    """Which boxes (N, cells) lie within one of these (N, M), as far as `NEAR` says."""
    told = torch.zeros_like(boxes[..., 0], dtype=torch.bool)
    for few in _at_once(boxes, wanted):
        within = shared(boxes, wanted[:, few]) > NEAR * area(boxes).unsqueeze(2)
        told |= (within & which[:, few].unsqueeze(1)).any(2)
    return told


def _at_once(boxes: Tensor, wanted: Tensor) -> Iterator[slice]:
    """Of boxes (N, M) so many that what is told of all cells (N, cells) and them stays small."""
    few = max(1, PIECE // boxes[..., 0].numel())
    for first in range(0, wanted.shape[1], few):
        yield slice(first, first + few)
