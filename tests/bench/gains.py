"""What one change to a training gains: validation accuracy and CPU-seconds, with it and without.

    AUTOML_DATA=... python tests/bench/gains.py run FILE.jsonl ARM,ARM,... [seeds, such as 0-4]
    python tests/bench/gains.py report FILE.jsonl [ARM to hold the others against]

A narrow CNN on 300 CIFAR-10 images of each class, 8 epochs, one thread, by the tool's own trainer.
Half of the task's validation split, 2,500 images, judges; the test split is not opened. For each
seed the arms train one after the other, so that what else the machine does falls upon all. A line
of the file is one training; what is in it is not trained again. Differences are of the same seeds.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from automl.config import Config, Task
from automl.data import Data
from automl.inputs.images import Images
from automl.places import root
from automl.training import train

EACH = 300  # training images of a class
STEM = {"channels": 24, "kernel": 2, "stride": 2}  # 24: each direction of a patch, and its opposite
WHITENED = {**STEM, "whiten": True}
BASE: dict[str, dict[str, Any]] = {
    "model": {
        "name": "cnn",
        "stem": STEM,
        "stages": [
            {"name": "plain", "channels": 24, "depth": 1},
            {"name": "plain", "channels": 48, "depth": 2},
        ],
    },
    "optimizer": {"name": "adamw", "lr": 1e-2},
    "augment": {"name": "images", "flip": True, "crop": 2},
    "train": {"epochs": 8, "batch_size": 64, "label_smoothing": 0.1},
}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "base": {},
    **{f"adamw {lr:g}": {"optimizer": {"lr": lr}} for lr in (3e-3, 3e-2)},
    **{f"muon {lr:g}": {"optimizer": {"name": "muon", "lr": lr}} for lr in (0.01, 0.03, 0.1)},
    "no average": {"train": {"average": 0}},
    "no flip": {"augment": {"flip": False}},
    "whitened": {"model": {"stem": WHITENED}},
    "stem 3x3": {"model": {"stem": {**STEM, "kernel": 3}}},
    "whitened 3x3": {"model": {"stem": {**WHITENED, "kernel": 3}}},
    "muon whitened": {"optimizer": {"name": "muon", "lr": 0.03}, "model": {"stem": WHITENED}},
}


def config(arm: str, seed: int) -> Config:
    whole: dict[str, Any] = {"task": "cifar10", "seed": seed, **BASE}
    for section, change in ARMS[arm].items():
        kept = {} if "name" in change else whole[section]  # another part has other knobs
        whole[section] = kept | change
    return Config.of(whole)


def subset() -> Data:
    """The first images of each class in the training split, half of the validation split."""
    whole = Task.of("cifar10").load(root(os.environ.get("AUTOML_DATA")))
    classes = range(len(whole.labels))
    drawn = torch.cat([(whole.train.y == k).nonzero().flatten()[:EACH] for k in classes])
    few, judges = whole.train[drawn], whole.valid[torch.arange(0, len(whole.valid), 2)]
    inputs = Images.measure(few.x)
    return replace(whole, train=few, valid=judges, inputs=inputs, fingerprint="a subset")


def run(file: Path, arms: list[str], seeds: list[int]) -> None:
    torch.set_num_threads(1)
    data = subset()
    known = {(line["arm"], line["seed"]) for line in lines(file)}
    for seed in seeds:
        for arm in arms:
            if (arm, seed) in known:
                continue
            began = time.process_time()
            epochs = list(train(config(arm, seed), data, device=torch.device("cpu")))
            told = {
                "arm": arm,
                "seed": seed,
                "accuracy": epochs[-1].metrics["accuracy"],
                "cpu": round(time.process_time() - began, 2),
                "curve": [round(epoch.metrics["accuracy"], 4) for epoch in epochs],
            }
            with file.open("a") as out:
                out.write(json.dumps(told) + "\n")
            print(told, flush=True)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def report(file: Path, against: str) -> None:
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines(file):
        runs.setdefault(line["arm"], {})[line["seed"]] = line
    theirs = runs[against]
    print(f"| arm | seeds | accuracy | against {against} | CPU-seconds, times |")
    print("|---|---|---|---|---|")
    for arm, ours in runs.items():
        both = sorted(ours.keys() & theirs.keys())
        gains = [ours[seed]["accuracy"] - theirs[seed]["accuracy"] for seed in both]
        costs = [ours[seed]["cpu"] / theirs[seed]["cpu"] for seed in both]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else math.nan
        accuracy = statistics.mean(line["accuracy"] for line in ours.values())
        gain, times = statistics.mean(gains), statistics.mean(costs)
        print(f"| {arm} | {len(ours)} | {accuracy:.4f} | {gain:+.4f} ± {error:.4f} | {times:.2f} |")


def main() -> None:
    match sys.argv[1:]:
        case ["run", file, arms, *seeds]:
            low, _, high = (seeds or ["0-4"])[0].partition("-")
            run(Path(file), arms.split(","), list(range(int(low), int(high or low) + 1)))
        case ["report", file, *against]:
            report(Path(file), (against or ["base"])[0])
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
