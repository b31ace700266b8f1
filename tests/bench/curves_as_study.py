"""Recorded curves as a study, for `automl portfolio build` to learn from.

python tests/bench/curves_as_study.py SPACE.yaml CURVES.jsonl.gz studies/NAME DEVICE
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import create_trial

from automl.holes import Choice, Hole, Int
from automl.searching.study import Manifest, begin
from automl.space import Space


def distribution(hole: Hole) -> BaseDistribution:
    if isinstance(hole, Choice):
        return CategoricalDistribution(list(hole.options))
    if isinstance(hole, Int):
        return IntDistribution(hole.low, hole.high, hole.log, 1 if hole.log else hole.step)
    return FloatDistribution(hole.low, hole.high, hole.log, hole.step)


def write(space: Space, curves: Path, folder: Path, device: str, by: str = "") -> None:
    """By the task's score, or by the `loss`, negated. Raises FileExistsError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True)
    metric, knobs = space.task.metric, space.all_knobs()
    manifest = Manifest(space.digest, space.task.name, "recorded", 0, device, {})
    study = begin(folder, space, manifest, metric)
    for line in gzip.decompress(curves.read_bytes()).splitlines():
        told = json.loads(line)
        if told["state"] != "finished":
            continue
        scores = told["metrics"][by or metric.name]
        scores = [-score for score in scores] if by == "loss" else scores
        facts = {"params": told["params"], "seconds": round(told["seconds"] * len(scores), 3)}
        study.add_trial(
            create_trial(
                params=told["values"],
                distributions={name: distribution(knobs[name]) for name in told["values"]},
                value=scores[-1],
                intermediate_values=dict(enumerate(scores, 1)),
                user_attrs=facts,
            )
        )


if __name__ == "__main__":
    write(Space.load(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
