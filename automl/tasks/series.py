"""What tasks of series share: parts one behind the other, errors, baselines. Knows no files."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from automl.data import PIECE, Data, Metric, Series, Spans, Split
from automl.errors import DataError
from automl.inputs.series import LONGEST, Columns, Lookback, Window
from automl.tasks.classes import fitting
from automl.tasks.source import PURPOSES, Parts, Unlabelled

log = logging.getLogger("automl")

PAST = 336  # rows that the baseline reads, where there are so many
FITTED = 20_000  # stretches that it learns from
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # on squared weights, columns of deviation 1


class SeriesTask(Unlabelled):
    """Rows in time, the first to train, the next to validate, the last to test.

    All rows before a moment may be read to tell those behind it, also where they are of an earlier
    part. Errors are of columns with mean 0 and deviation 1 in the training rows (as by Zhou et al.
    2021): 1 is about what telling the mean costs.
    """

    gives: ClassVar[str] = "series"
    tells: ClassVar[str] = "rows"
    unit: ClassVar[str] = "rows"
    input: ClassVar[str] = "window"

    horizon: int = Field(96, ge=1, le=LONGEST, description="rows ahead that are told")
    score: Literal["mse", "mae"] = Field(
        "mse", description="mean squared or absolute error, to train by and to judge by"
    )

    @property
    def metric(self) -> Metric:
        return Metric(self.score, higher_is_better=False)

    def cut(
        self, place: Path, names: Sequence[str], values: Tensor, counts: Sequence[int]
    ) -> Parts:
        """The splits of a whole series (T, C), from its first row on. Raises DataError."""
        parts, first = dict[str, Split](), 0
        for name, empty in zip(names, values[: counts[0]].isnan().all(0), strict=True):
            if empty:
                told = f"got no number in column {name[:60]!r}"
                raise DataError(f"{place}: {told} in the {counts[0]:,} rows to train with")
        learned, seen = (_many(values[: sum(counts[:some])]) for some in (1, 2))  # none to test
        for name, varied, varies in zip(names, learned, seen, strict=True):
            if varies and not varied:
                told = f"column {name[:60]!r}: one number in the {counts[0]:,} rows to train with"
                log.warning("%s: %s and others later: these errors count as they are", place, told)
        for (part, purpose), count in zip(PURPOSES.items(), counts, strict=True):
            if count < self.horizon + 2:  # two stretches to train with, each behind a row
                told = f"got {count:,} rows to {purpose}; want {self.horizon + 2:,} at least"
                raise DataError(f"{place}: {told}, for a task.horizon of {self.horizon:,}")
            if values[first : first + count].isnan().all():
                raise DataError(f"{place}: got no number in the {count:,} rows to {purpose}")
            parts[part] = Split(
                Series(values[: first + count], first), torch.zeros(0, dtype=torch.long)
            )
            first += count
        return parts

    def load(self, root: Path | None) -> Data:
        data = super().load(root)
        assert isinstance(data.inputs, Columns)
        known = json.dumps([data.inputs.names, self.horizon, data.fingerprint])
        return replace(data, fingerprint=hashlib.sha256(known.encode()).hexdigest())

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Of rows told (N, horizon, C) against those that came, as `score` has it."""
        known = ~y.isnan()
        off = torch.where(known, logits.float() - y, 0.0)
        off = off.square() if self.score == "mse" else off.abs()
        return off.sum() / known.sum().clamp_min(1)

    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Each (C,)."""
        known = ~y.isnan()
        off = torch.where(known, logits.float() - y, 0.0).double()
        return {
            "squared": off.square().sum((0, 1)),
            "absolute": off.abs().sum((0, 1)),
            "count": known.sum((0, 1)),
        }

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        count = tally["count"].sum().clamp_min(1)
        mse = (tally["squared"].sum() / count).item()
        mae = (tally["absolute"].sum() / count).item()
        return {"loss": {"mse": mse, "mae": mae}[self.score], "mse": mse, "mae": mae}

    def chance(self, data: Data) -> tuple[str, float]:
        inputs = Window(length=1).fit(data)
        return "repeating the last row", self._judged(inputs, data.valid, lambda past: past)

    def hopeless(self, data: Data) -> float:
        """Of this and of telling the mean what is worse.

        A course that no one foretells is best told by its last row, which what learns comes near.
        """
        mean = self._judged(Window(length=1).fit(data), data.valid, torch.zeros_like)
        return max(mean, self.chance(data)[1])

    def baseline(self, data: Data) -> tuple[str, float]:
        """Ridge regression (Hoerl and Kennard 1970) on the last rows, less the last one.

        One for all columns, learned from 20,000 stretches drawn at random; its penalty is the one
        of five that tells those best which are left out one by one.
        """
        from sklearn.linear_model import RidgeCV

        inputs = Window(length=PAST).fit(data)
        spans = inputs.encode(data.train).x
        assert isinstance(spans, Spans)
        order = torch.randperm(len(spans), generator=torch.Generator().manual_seed(0))
        x, y = spans.take(order[: 1 + FITTED // len(inputs.names)])
        past, ahead = (part.transpose(1, 2).flatten(0, 1) for part in (inputs.prepare(x), y))
        whole = ~ahead.isnan().any(1)
        if not whole.any():
            return self.chance(data)
        last = past[whole, -1:]
        with fitting():
            model = RidgeCV(PENALTIES).fit(past[whole] - last, ahead[whole] - last)

        def told(past: Tensor) -> Tensor:
            rows = past.transpose(1, 2)
            last = rows[:, :, -1:]
            ahead = torch.from_numpy(model.predict((rows - last).flatten(0, 1)))
            return (ahead.view(*rows.shape[:2], -1) + last).transpose(1, 2)

        return f"ridge regression on {inputs.length:,} rows", self._judged(inputs, data.valid, told)

    def _judged(self, inputs: Lookback, split: Split, told: Callable[[Tensor], Tensor]) -> float:
        """The metric of what is told of each past (n, length, C): (n, horizon, C), or one row."""
        sums = dict[str, Tensor]()
        encoded = inputs.encode(split)
        for _, x, y in encoded.sweep(PIECE // inputs.floats):
            sums = self.joined(sums, self.tally(told(inputs.prepare(x)).expand_as(y), y))
        return self.scores(sums, encoded)[self.metric.name]


def _many(values: Tensor) -> list[bool]:
    """Whether a column (T, C) holds different numbers."""
    known = ~values.isnan()
    least, most = (torch.where(known, values, off) for off in (math.inf, -math.inf))
    told: list[bool] = (least.amin(0) < most.amax(0)).tolist()
    return told
