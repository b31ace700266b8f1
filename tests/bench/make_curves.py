"""Train random configs of a space to their end and keep the curves, for searches to be replayed on.

    AUTOML_DATA=... python tests/bench/make_curves.py SPACE.yaml COUNT FILE.jsonl

A line a config: the values of its knobs, its parameters, the seconds of an epoch, and the
validation metrics of every epoch; a config that diverged has the epochs before. A call that was cut
short goes on where it was. Takes one core; when a file is whole: `gzip -9 -n FILE.jsonl`.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from automl.data import Data, Epoch
from automl.errors import SpaceError
from automl.holes import Hole, random_value
from automl.places import root
from automl.space import Space, measure
from automl.training import Diverged, train


def rounded(epochs: list[Epoch], name: str) -> list[float]:
    return [round(epoch.metrics[name], 5) for epoch in epochs]


def curve(space: Space, data: Data, seed: int) -> dict[str, Any]:
    rng, values = random.Random(seed), {}

    def draw(name: str, hole: Hole) -> Any:
        values[name] = random_value(hole, rng)
        return values[name]

    config = space.fill(draw)
    told: dict[str, Any] = {"seed": seed, "values": values, "state": "finished"}
    epochs: list[Epoch] = []
    try:
        told["params"] = measure(config, config.input.fit(data), len(data.labels)).params
        for epoch in train(config, data, device=torch.device("cpu")):
            epochs.append(epoch)
    except SpaceError:
        told["state"] = "infeasible shape"
    except Diverged:
        told["state"] = "diverged"
    if epochs:
        told["seconds"] = round(statistics.median(epoch.seconds for epoch in epochs), 4)
        told["metrics"] = {name: rounded(epochs, name) for name in epochs[0].metrics}
    return told


def main() -> None:
    file, count, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    space = Space.load(file)
    data = space.task.load(root(os.environ.get("AUTOML_DATA")))
    known = len(out.read_text().splitlines()) if out.exists() else 0
    with out.open("a") as lines:
        for seed in range(known, count):
            told = curve(space, data, seed)
            lines.write(json.dumps(told) + "\n")
            lines.flush()
            print(seed, told["state"], told.get("seconds"), flush=True)


if __name__ == "__main__":
    main()
