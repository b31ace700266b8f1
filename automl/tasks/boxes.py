"""What tasks of boxes in pictures share: splits, loss, scores, baselines. Knows no files."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from automl import cache
from automl.boxes import area, found, matched, occurring, overlap, precision
from automl.data import Data, Metric, Split
from automl.inputs.canvas import Canvas
from automl.tasks.source import SourceTask, cached, chosen, firsts

log = logging.getLogger("automl")

NEAREST = 10  # cells that learn to tell a box, at most
KEEN = 6.0  # power of how well they fit, where they are chosen (Feng et al. 2021)
NEAR = 0.5  # share of a cell's box within one that does not count, from which it learns nothing
BOXED = 2.0  # weight of the boxes in the loss, of the classes 1


class BoxTask(SourceTask):
    """Pictures, and where things of each class are in them.

    A split's x is uint8 (N, 3, H, W), each picture as large as its proportions let it be, top left
    on a canvas; y is float32 (N, M, 6): label, x1, y1, x2, y2 in pixels of the canvas, and whether
    it counts. Rows that are no box have label -1. A box that does not count is not learned, and what
    is found there is neither right nor wrong.
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
        """Of cells (N, cells, C + 4) against boxes (N, M, 6); each picture counts the same.

        Which cells learn to tell a box is decided by what they tell now: those ten whose share for
        its class and whose fit come to most together (task-aligned, Feng et al. 2021). Fit is the
        generalized overlap (Rezatofighi et al. 2019), so that any family of models can be trained,
        wherever its cells are. What a cell is to say of the class is how well its box fits (quality
        focal loss, Li et al. 2020).
        """
        logits = logits.float()
        classes, boxes = logits.split([logits.shape[2] - 4, 4], 2)
        label, wanted, counted = y[..., 0].long(), y[..., 1:5], y[..., 5] > 0
        there = (label >= 0) & counted
        with torch.no_grad():
            told, box, share = assigned(classes, boxes, label, wanted, there)
            aim = F.one_hot(label.clamp_min(0).gather(1, box), classes.shape[2]) * share.unsqueeze(
                2
            )
            passed = beside(boxes, wanted, (label >= 0) & ~counted) & ~told
        fit = generalized(boxes, wanted.gather(1, box.unsqueeze(2).expand(-1, -1, 4)))
        number = there.sum(1).clamp_min(1)
        off = F.binary_cross_entropy_with_logits(classes, aim, reduction="none")
        off = off * (aim - classes.detach().sigmoid()).square() * ~passed.unsqueeze(2)
        placed = (1 - fit) * share * told
        return ((off.sum((1, 2)) + BOXED * placed.sum(1)) / number).mean()

    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is found in each picture (N, 100, ...), beside what is there."""
        rows = found(logits)
        classes = logits.shape[2] - 4
        occur = torch.stack([occurring(one, classes) for one in y])
        loss = self.loss(logits, y).double() * len(y)
        return {
            "rows": rows,
            "right": matched(rows, y),
            "occur": occur,  # (N, C)
            "loss": loss.expand(1),
        }

    def joined(self, before: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One behind the other: what is found is ranked among that of all pictures."""
        if not before:
            return batch
        return {name: torch.cat([before[name], value]) for name, value in batch.items()}

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        rows, right = tally["rows"].flatten(0, 1), tally["right"].flatten(0, 1)
        some = rows[:, 0] >= 0
        rows, right = rows[some], right[some]
        told = precision(rows[:, 0].long(), rows[:, 5], right, tally["occur"].sum(0))
        loss = tally["loss"].sum().item() / len(tally["occur"])
        return {"loss": loss, "map": mean(told), "map50": mean(told[:, 0])}

    def chance(self, data: Data) -> tuple[str, float]:
        """Of the boxes that other pictures have, those of the training split in turn."""
        order = torch.arange(len(data.valid)) % len(data.train)
        rows = data.train.y[order].clone()
        rows[..., 5] = torch.where(rows[..., 0] >= 0, 1.0, -1.0)
        occur = occurring(data.valid.y, len(data.labels)).unsqueeze(0)
        right = matched(rows, data.valid.y)
        tally = {"rows": rows, "right": right, "occur": occur, "loss": torch.zeros(1)}
        return "the boxes of other pictures", self.scores(tally, data.valid)[self.metric.name]

    def hopeless(self, data: Data) -> float:
        """Nothing found: a detector that has hardly begun is not at chance."""
        return 0.0

    def baseline(self, data: Data) -> tuple[str, float]:
        return self.chance(data)


def held_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What stays and what is drawn: the share about, pictures that are the same on one side."""
    first = firsts(split.x)
    own = first.unique()
    own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))]
    copies = first.bincount()
    drawn = torch.zeros(len(split), dtype=torch.bool)
    drawn[chosen(own.tolist(), copies[own].tolist(), share)] = True
    drawn = drawn[first]
    return split[~drawn], split[drawn]


def mean(told: Tensor) -> float:
    """Of the classes that occur; 0 where none does."""
    known = ~told.isnan()
    return float(told[known].mean()) if known.any() else 0.0


def assigned(
    classes: Tensor, boxes: Tensor, label: Tensor, wanted: Tensor, there: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells (N, cells) learn a box, which box, and how well they are to say they fit."""
    cells, most = boxes.shape[1], wanted.shape[1]
    fit = hull_overlap(boxes, wanted)  # (N, cells, M)
    index = label.clamp_min(0).unsqueeze(1).expand(-1, cells, -1)
    said = classes.sigmoid().gather(2, index)
    aligned = said.sqrt() * ((1 + fit) / 2) ** KEEN * there.unsqueeze(1)
    value, place = aligned.topk(min(NEAREST, cells), 1)
    near = torch.zeros_like(fit).scatter_(1, place, 1.0).bool() & there.unsqueeze(1)
    best = torch.where(near, fit, -2.0)
    highest, box = best.max(2)  # of two boxes the one that fits better
    told = highest > -2.0
    return told, box, highest.clamp(0, 1) * told


def hull_overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Generalized overlap of each with each, (N, K, 4) and (N, M, 4) to (N, K, M), -1 to 1."""
    return _generalized(ours.unsqueeze(2), theirs.unsqueeze(1))


def generalized(ours: Tensor, theirs: Tensor) -> Tensor:
    """The same of pairs, (..., 4) each to (...)."""
    return _generalized(ours, theirs)


def _generalized(ours: Tensor, theirs: Tensor) -> Tensor:
    low = torch.maximum(ours[..., :2], theirs[..., :2])
    high = torch.minimum(ours[..., 2:], theirs[..., 2:])
    both = (high - low).clamp_min(0).prod(-1)
    union = area(ours) + area(theirs) - both
    low = torch.minimum(ours[..., :2], theirs[..., :2])
    high = torch.maximum(ours[..., 2:], theirs[..., 2:])
    hull = (high - low).prod(-1).clamp_min(1e-6)
    return both / union.clamp_min(1e-6) - (hull - union) / hull


def beside(boxes: Tensor, wanted: Tensor, passed: Tensor) -> Tensor:
    """Which cells (N, cells) tell what lies in a box that does not count."""
    low = torch.maximum(boxes.unsqueeze(2)[..., :2], wanted.unsqueeze(1)[..., :2])
    high = torch.minimum(boxes.unsqueeze(2)[..., 2:], wanted.unsqueeze(1)[..., 2:])
    both = (high - low).clamp_min(0).prod(-1)
    within = both / area(boxes).unsqueeze(2).clamp_min(1e-6) > NEAR
    return (within & passed.unsqueeze(1)).any(2)
