"""The report of a study: what it says, that it opens anywhere, and that nothing in it is run."""

from __future__ import annotations

import base64
import io
import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import soundfile
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial
from PIL import Image
from playwright.sync_api import Browser, Page
from test_cli import Command, automl  # noqa: F401 (a fixture)

import automl as package
from automl.config import Config
from automl.data import Metric
from automl.errors import DataError
from automl.holes import Choice, Hole, Int, random_value
from automl.results import artifact
from automl.results.report import examples, figures
from automl.results.report.knobs import ENOUGH, Scored, best_of, importance
from automl.searching.run import search
from automl.searching.study import Manifest, Study, storage, versions
from automl.space import Space
from automl.tasks.digits import Digits

DIGITS = """
task: {name: digits, per_class: 30, valid: 0.2}
model: {name: mlp, widths: [{int: [8, 64]}], dropout: {float: [0, 0.5]}}
optimizer: {name: adamw, lr: {float: [1e-3, 3e-2], log: true}}
train: {epochs: 4, batch_size: {choice: [32, 64]}}
"""
CONDITIONAL = """
task: {name: digits, valid: 0.2}
model:
  name: cnn
  stages:
    repeat: {int: [1, 2]}
    each:
      choice:
        - {name: plain, channels: {int: [16, 64], step: 16}, depth: {int: [1, 2]}}
        - {name: residual, channels: {int: [16, 64], step: 16}, depth: {int: [1, 2]}}
  pool: {choice: [avg, max]}
  dropout: {float: [0.0, 0.4]}
optimizer:
  choice:
    - {name: adamw, lr: {float: [1e-3, 2e-2], log: true}, weight_decay: {float: [1e-3, 0.3], log: true}}
    - {name: sgd, lr: {float: [2e-2, 0.5], log: true}, momentum: {float: [0.8, 0.97]}}
train: {epochs: 12, batch_size: {choice: [32, 64, 128]}}
"""
EVIL = "</script><script>owned=1</script><img src=x onerror=owned=1><b>&amp;\"'{{7*7}}"
ACCURACY = Metric("accuracy")


def ranges(hole: Hole) -> BaseDistribution:
    if isinstance(hole, Choice):
        return CategoricalDistribution(list(hole.options))
    if isinstance(hole, Int):
        return IntDistribution(hole.low, hole.high, hole.log, 1 if hole.log else hole.step)
    return FloatDistribution(hole.low, hole.high, hole.log, hole.step)


def score_of(values: dict[str, Any], noise: float) -> float:
    """The learning rate of AdamW matters, and that it is AdamW."""
    lr = values.get("optimizer.adamw.lr")
    off = 0.3 if lr is None else 0.3 * (math.log10(lr) + 2.5) ** 2
    return min(0.995, max(0.1, 0.97 - off - 0.05 * values["model.dropout"] + noise))


def synthetic(path: Path, count: int, text: str = "cnn", seed: int = 0) -> Study:
    """A study of random trials as a search leaves them, `text` where a text may stand."""
    space = Space.parse(CONDITIONAL)
    rng = random.Random(seed)
    path.mkdir(parents=True)
    (path / "space.yaml").write_text(CONDITIONAL)
    data = space.task.load(None)
    manifest = Manifest(space.digest, "digits", data.fingerprint, 0, text, versions())
    (path / "manifest.json").write_text(json.dumps(asdict(manifest)))
    study = optuna.create_study(
        study_name=path.name, storage=storage(path / "journal.log"), direction="maximize"
    )
    known = space.all_knobs()
    began = datetime(2026, 11, 25, 20)
    made = []
    for number in range(count):
        values = space.values(lambda _, hole: random_value(hole, rng))
        end = score_of(values, rng.gauss(0, 0.01))
        curve = [round(0.1 + (end - 0.1) * (1 - 0.5**epoch), 4) for epoch in range(1, 13)]
        state, reason, broken = TrialState.COMPLETE, "", {}
        if number % 50 == 3:
            state, reason, broken, curve = TrialState.PRUNED, "too large", {"runnable": 1.0}, []
        elif number and (end < 0.9 or number % 3):
            state, curve = TrialState.PRUNED, curve[: rng.choice([2, 4, 7])]
            reason = f"{rng.randrange(9)}% likely to be best, at epoch {len(curve)} {text}"
        told = {"params": 5_000 + rng.randrange(200_000), "macs": 10**6, "reason": reason}
        told |= {"seconds": round(0.8 * len(curve) + 0.1, 3), "summary": f"{text} {number}"}
        told |= {"latency_ms": round(told["params"] / 1e5, 3), "detail": text if broken else ""}
        made.append(
            create_trial(
                state=state,
                value=curve[-1] if state == TrialState.COMPLETE else None,
                params=values,
                distributions={name: ranges(known[name]) for name in values},
                user_attrs=told,
                intermediate_values=dict(enumerate(curve, 1)),
                constraints=broken,
            )
        )
        made[-1].datetime_start = began
        began += timedelta(seconds=told["seconds"])
        made[-1].datetime_complete = began
    study.add_trials(made)
    return Study(path)


def deliver(study: Study, labels: list[str], **more: Any) -> None:
    """A model that was never trained, with `more` in its metrics."""
    rows = study.leaderboard
    space = Space.load(study.path / "space.yaml")
    trial = study.optuna.get_trials(deepcopy=False)[rows[0].trial]
    config = space.with_values(trial.params)
    data = config.task.load(None)
    inputs = config.input.fit(data)
    torch.manual_seed(0)
    model = config.model.build(inputs, len(labels))
    assert rows[0].score is not None
    valid, chance = rows[0].score, {"name": "the most frequent class", "accuracy": 0.101}
    metrics = {
        "name": study.name,
        "trial": rows[0].trial,
        "epochs": 12,
        "params": rows[0].params,
        "metric": "accuracy",
        "valid": {"accuracy": valid},
        "test": {"accuracy": 0.9721},
        "chance": chance,
        "baseline": {"name": "logistic regression", "accuracy": 0.93},
        "train_examples": 1151,
        "valid_examples": 287,
        "test_examples": 359,
        "data": data.fingerprint,
    } | more
    artifact.write(
        study.path / "best", config, model.state_dict(), inputs, labels, metrics, "a card"
    )


def whole(labels: list[str], text: str = "cnn") -> dict[str, Any]:
    """All that metrics.json may hold, with numbers that were made up."""
    classes = len(labels)
    counts = [[30 if i == j else 2 if j == (i + 1) % classes else 0 for j in range(classes)]
              for i in range(classes)]  # fmt: skip
    bins = [(0.35, 0.3, 0.03), (0.55, 0.5, 0.06), (0.75, 0.7, 0.11), (0.98, 0.97, 0.8)]
    return {
        "seed": 3,
        "macs": 231_000,
        "size_mb": 0.03,
        "higher_is_better": True,
        "search": {"score": 0.99, "trials": 1000, "seconds": 900.0, "device_seconds": 1810.5},
        "finalists": [
            {"trial": 0, "search": 0.991, "mean": 0.9812, "spread": 0.004, "seeds": [1, 2, 3],
             "scores": [0.978, 0.9797, 0.9859], "summary": text},
            {"trial": 9, "search": 0.988, "mean": 0.9784, "spread": 0.009, "seeds": [1, 2, 3],
             "scores": [0.968, 0.9797, 0.9875], "summary": text},
            {"trial": 12, "search": 0.987, "mean": 0.9701, "spread": 0.002, "seeds": [1, 2, 3],
             "scores": [0.968, 0.97, 0.9723], "summary": text},
        ],
        "refit": False,
        "test_interval": [0.9497, 0.9848],
        "test_interval_by": "Wilson",
        "valid_interval": [0.96, 0.99],
        "classes": [
            {"label": label, "examples": 32, "precision": 0.9375, "recall": 0.93,
             "recall_interval": [0.8, 0.98], "f1": 0.93}
            for label in labels
        ],
        "confusion": counts,
        "calibration": {
            "temperature": 1.31, "ece_before": 0.0421, "ece_after": 0.0113,
            "bins": [dict(zip(("confidence", "accuracy", "share"), one, strict=True))
                     for one in bins],
        },
        "latency_ms": {"1": 0.137, "64": 2.1},
        "proof": {"trained": 0.9861, "loaded": 0.9861},
        "ensemble": {"members": [{"trial": 0, "seed": 1, "weight": 0.75},
                                 {"trial": 9, "seed": 2, "weight": 0.25}],
                     "valid": {"accuracy": 0.99}, "test": None, "gain": 0.0041,
                     "latency_ms": 0.4, "size_mb": 0.09},
        "environment": {"device": "CPU", "cores": 2},
        "warning": None,
    }  # fmt: skip


LABELS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A real search, with its report."""
    place = tmp_path_factory.mktemp("studies")
    study = search(Space.parse(DIGITS), name="digits", studies=place, trials=4, workers=1)
    study.report(study.task.load(None))
    return study


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of 1,000 trials of a conditional space, all that metrics may hold, hostile texts."""
    study = synthetic(tmp_path_factory.mktemp("studies") / "thousand", 1000, EVIL)
    labels = [f"{EVIL} {label}" for label in LABELS]
    deliver(study, labels, **whole(labels, EVIL))
    study.report(study.task.load(None))
    return study


def text_of(study: Study) -> str:
    """The page without its scripts and style."""
    page = (study.path / "report.html").read_text(encoding="utf-8")
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([a-z]+)"', page)
