"""What to try first on the tables of search_quality.py: tests/bench/portfolio.json.

    HPOBENCH=path python tests/bench/make_portfolio.py

Of some random configs and of the best that is known on each of the harness's instances for
learning, those that `automl portfolio build` would take. The best that is known is what a climb
comes to from each of the best of many random configs. What is scored is never looked at.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.searching.portfolio import choose, shares

Array = NDArray[np.float64]

MANY, RANDOM, CLIMBS, ENTRIES = 20_000, 300, 8, 7
STEPS, AROUND, WIDE, NARROWER = 40, 50, 0.1, 0.8  # of a climb; after a step that finds nothing
OUT = Path(__file__).with_name("portfolio.json")


class Ends:
    """Scores at the end of training, of configs as points from 0 to 1."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __call__(self, points: Array) -> Array:
        rows = [[config[name] for name in self.task.names] for config in map(self.config, points)]
        last = np.full(len(rows), self.task.max_epoch, np.float32)
        told = self.task.sur.predict_matrix(np.array(rows, np.float32), last)
        return np.asarray(told[:, self.task.iy], float)

    def config(self, point: Array) -> dict[str, Any]:
        return {p.name: p.from_unit(share) for p, share in zip(self.task.space, point, strict=True)}


def climbed(ends: Ends, point: Array, rng: np.random.Generator) -> Array:
    """Where random steps, of half of the knobs each, lead upward."""
    best, step = ends(point[None])[0], WIDE
    for _ in range(STEPS):
        moves = step * rng.standard_normal((AROUND, len(point)))
        moves *= rng.random(moves.shape) < 0.5
        near = np.clip(point + moves, 0, 1)
        scores = ends(near)
        if scores.max() > best:
            point, best = near[scores.argmax()], scores.max()
        else:
            step *= NARROWER
    return point


def main() -> None:
    sys.path.insert(0, os.environ["HPOBENCH"])
    import bench

    rng = np.random.default_rng(0)
    known = bench.Task(bench.LEARN[0])
    every = {name: Ends(bench.Task(name)) for name in bench.LEARN if name in known.sur.instances}
    drawn = rng.random((MANY, len(known.space)))
    pool = list(drawn[:RANDOM])
    for name, ends in every.items():
        found = [climbed(ends, drawn[i], rng) for i in np.argsort(-ends(drawn))[:CLIMBS]]
        print(name, ends(np.array(found)).max(), flush=True)
        pool += found

    rows = []
    for ends in every.values():
        scores = ends(np.array(pool))
        rows.append(shares(scores, float(np.median(scores[:RANDOM])), float(scores.max())))
    chosen = choose(np.array(rows), np.ones(len(pool)), ENTRIES)
    configs = [rounded(Ends(known).config(pool[i])) for i in chosen]
    for count, config in enumerate(configs, 1):
        print(count, np.array(rows)[:, chosen[:count]].max(1).mean().round(3), config)
    OUT.write_text("[\n" + ",\n".join(map(json.dumps, configs)) + "\n]\n")


def rounded(config: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in config.items()}


if __name__ == "__main__":
    main()
