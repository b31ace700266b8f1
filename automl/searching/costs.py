"""What a config will take, foretold from the trials seen: seconds of a pass, or megabytes.

Both grow with the size of a model, and with the share of it that is trained, by powers of them: a
ridge on logarithms knows most of that after eight trials (`tests/bench/forecast.py`; figures in
`studies/bench/cpu-2026-11.md`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from automl.size import Size

FEWEST = 4  # trials that tell anything
LATEST = 1000  # trials that a fit sees, at most: of 10,000 it took 7 ms, for each new one
RIDGE = 1.0  # of trials: the weight of the belief that sizes do not matter
BEYOND = 1.5  # how far out of what was seen a forecast may lie, as a logarithm: 4.5 times

Point = tuple[float, float, float, float]


class Costs:
    """One kind of cost."""

    def __init__(self) -> None:
        self.points: dict[int, tuple[Point, float]] = {}  # by trial: sizes and cost as logarithms
        self.told: dict[int, float] = {}  # by trial: what was foretold before it ran
        self.fit: Callable[[Point], float] | None = None  # of the points as they are

    def learn(self, trial: int, size: Size, batch: int, cost: float) -> None:
        """What a trial has taken for a pass; of one that is known, better than before."""
        if cost <= 0:
            return
        if trial not in self.points and (told := self.foretell(size, batch)) is not None:
            self.told[trial] = told
        self.points[trial] = point(size, batch), math.log(cost)
        self.fit = None

    def foretell(self, size: Size, batch: int) -> float | None:
        """What a config would take, in the mean; None while too few are known."""
        if len(self.points) < FEWEST:
            return None
        if self.fit is None:
            latest = islice(reversed(self.points.values()), LATEST)
            self.fit = ridge(*zip(*latest, strict=True))
        return self.fit(point(size, batch))

    @property
    def error(self) -> float | None:
        """The factor that half of the forecasts were within, each made before its trial ran."""
        if not self.told:
            return None
        misses = [math.log(told) - self.points[trial][1] for trial, told in self.told.items()]
        return math.exp(statistics.median(map(abs, misses)))


def ridge(points: Sequence[Point], logs: Sequence[float]) -> Callable[[Point], float]:
    """From a point to the mean cost there."""
    places, costs = np.array(points), np.array(logs)
    center, scale = places.mean(0), np.maximum(places.std(0), 1e-3)
    x = (places - center) / scale
    slopes = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (costs - costs.mean()))
    spread = np.exp(costs - costs.mean() - x @ slopes).mean()  # a few take much more than others
    low, high = costs.min() - BEYOND, costs.max() + BEYOND

    def mean(place: Point) -> float:
        told = costs.mean() + (np.array(place) - center) / scale @ slopes
        return float(np.exp(np.clip(told, low, high)) * spread)

    return mean


def point(size: Size, batch: int) -> Point:
    params = math.log(size.params + 1)
    trained = math.log(size.params - size.frozen + 1)
    return params, math.log(size.macs + 1), trained - params, math.log(batch)
