"""The best model so far as a folder to take away, tested once when all is over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from automl.config import Config
from automl.data import Data, Epoch, Split
from automl.errors import OptionError, StudyError
from automl.results import artifact, card
from automl.results.artifact import FILES
from automl.space import measure
from automl.training import checkpoint, train


@dataclass(frozen=True)
class Delivery:
    """A folder for a model of this data, and what the model is held against."""

    folder: Path
    name: str  # of the study
    data: Data
    baseline: tuple[str, float]

    @property
    def exists(self) -> bool:
        return self.folder.is_dir()

    @property
    def trial(self) -> int | None:
        """The trial whose model is in the folder."""
        found: int | None = artifact.load(self.folder).metrics.get("trial") if self.exists else None
        return found

    def write(self, config: Config, file: Path, *, trial: int | None = None) -> None:
        """The weights in a checkpoint, with their scores. Raises StudyError without one."""
        state = checkpoint.load(file)
        if state is None:
            raise StudyError(f"{file}: no checkpoint that can be read")
        weights = state["model"] if state["averaged"] is None else state["averaged"]
        last = state["history"][-1]
        name = config.task.metric.name
        inputs = config.input.fit(self.data)
        chance, score = config.task.chance(self.data)
        metrics: dict[str, Any] = {
            "name": self.name,
            "trial": trial,
            "epochs": last["number"],
            "params": measure(config, inputs, len(self.data.labels)).params,
            "metric": name,
            "valid": last["metrics"],
            "test": None,
            "chance": {"name": chance, name: score},
            "baseline": {"name": self.baseline[0], name: self.baseline[1]},
            "train_examples": len(self.data.train),
            "valid_examples": len(self.data.valid),
            "data": self.data.fingerprint,
        }
        told = card.text(config, metrics)
        artifact.write(self.folder, config, weights, inputs, self.data.labels, metrics, told)

    def test(self, split: Split) -> dict[str, float]:
        """The sealed split, with the model as it is on disk. No model is tested twice."""
        model = artifact.load(self.folder)
        if model.metrics["test"] is None:
            model.metrics["test"] = model.evaluate(split)
            model.metrics["test_examples"] = len(split)
            texts = {
                "metrics.json": json.dumps(model.metrics, indent=2) + "\n",
                "card.md": card.text(model.config, model.metrics),
            }
            for name, text in texts.items():
                fresh = self.folder / f"{name}.new"
                fresh.write_text(text, encoding="utf-8")
                os.replace(fresh, self.folder / name)
        tested: dict[str, float] = model.metrics["test"]
        return tested


def fit(
    config: Config, folder: Path, *, root: Path | None, device: torch.device
) -> Iterator[Epoch]:
    """Train one config, test it and leave it in `folder`. The same call goes on after a stop."""
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= FILES):
        raise OptionError(f"--out: {folder} holds more than a model; give a folder of its own")
    data = config.task.load(root)
    measure(config, config.input.fit(data), len(data.labels))
    baseline = config.task.baseline(data)
    file = folder.with_name(folder.name + ".checkpoint")
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield from train(config, data, device=device, checkpoint=file)
    delivery = Delivery(folder, folder.name, data, baseline)
    delivery.write(config, file)
    delivery.test(config.task.test(root))
    checkpoint.remove(file)
