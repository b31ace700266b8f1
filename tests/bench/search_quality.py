"""How good is a search, in seconds: the tool's own driver on tables of learning curves.

    HPOBENCH=path python tests/bench/search_quality.py NAME [--seeds 0-4] [--jobs 2] [--out FOLDER]

Everything is the tool's own but the engine, which looks scores up. `automl_search(task, seed)` and
`automl_search_no_portfolio(task, seed)` are optimizers for the harness that HPOBENCH names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import optuna
import torch
from pydantic import Field, create_model
from torch import nn

from automl.config import Model
from automl.data import Data, Epoch, Split
from automl.engines import Engine, Event, Job, Ready, Request
from automl.inputs.images import Images
from automl.searching.driver import Driver
from automl.space import Space

NOTHING = Split(torch.zeros(0), torch.zeros(0))
PORTFOLIO = Path(__file__).with_name("portfolio.json")
DATA = Data(NOTHING, NOTHING, Images((1, 1, 1)), ["a", "b"], "table")

Curve = Callable[[dict[str, Any], int], float]


class Lookup(Engine):
    """Workers whose epochs take a second each and whose scores are looked up."""

    def __init__(self, curve: Curve, slots: int = 1) -> None:
        self.curve, self.slots = curve, slots
        self.clock = 0.0
        self.jobs: dict[int, tuple[Job, int]] = {}
        self.due: dict[int, tuple[float, Event]] = {}
        self.trained: dict[int, int] = {}  # epochs in the checkpoint, by trial

    def now(self) -> float:
        return self.clock

    def start(self, slot: int) -> None:
        self.due[slot] = self.clock, Ready()

    def send(self, slot: int, request: Request) -> None:
        job, epoch = (request, 0) if isinstance(request, Job) else self.jobs[slot]
        self.jobs[slot] = job, epoch + 1
        score = self.curve(job.config["model"], epoch + 1)
        again = epoch + 1 <= self.trained.get(job.trial, 0)
        self.trained[job.trial] = max(epoch + 1, self.trained.get(job.trial, 0))
        told = Epoch(epoch + 1, 0.0, {"loss": -score, "accuracy": score}, 1.0, 1)
        self.due[slot] = self.clock + (not again), told

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        slot = min(self.due, key=lambda slot: (self.due[slot][0], slot))
        self.clock, event = self.due.pop(slot)
        return [(slot, event)]

    def close(self) -> None:
        pass


class Stub(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 2)


def family(params: list[Any], name: str) -> type[Model]:
    """A model family with the knobs of a table."""
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for param in params:
        kind = {"int": int, "float": float, "cat": str}[param.kind]
        fields["k_" + param.name] = (kind, Field(description=param.name))

    def build(self: Model, inputs: Any, outputs: int) -> nn.Module:
        return Stub()

    body = {"build": build, "reads": ClassVar[Any]}
    del body["reads"]
    base = type("Looked", (Model,), {"build": build, "__module__": __name__})
    return create_model(name.title(), __base__=base, **fields)


def space_of(params: list[Any], epochs: int, search: dict[str, Any], name: str) -> Space:
    knobs: dict[str, Any] = {"name": name}
    for p in params:
        if p.kind == "cat":
            knobs["k_" + p.name] = {"choice": [str(choice) for choice in p.choices]}
        else:
            knobs["k_" + p.name] = {p.kind: [p.lo, p.hi], **({"log": True} if p.log else {})}
    whole = {
        "task": "digits",
        "search": search,
        "model": knobs,
        "train": {"epochs": epochs},
    }
    return Space.parse(json.dumps(whole), "table")


FAMILIES: dict[str, type[Model]] = {}


def search(
    task: Any,
    seed: int,
    sampler: Any = "auto",
    pruner: Any = "auto",
    first: Sequence[dict[str, Any]] = (),
) -> None:
    """Search a task of the harness until its budget is spent; the configs `first` before others."""
    params = task.space
    name = "table" + format(abs(hash(tuple((p.name, p.kind) for p in params))) % 10**6, "06d")
    if name not in FAMILIES:
        FAMILIES[name] = family(params, name)
    space = space_of(params, task.max_epoch, {"sampler": sampler, "pruner": pruner}, name)
    choices = {p.name: {str(c): c for c in p.choices} for p in params if p.kind == "cat"}

    def curve(model: dict[str, Any], epoch: int) -> float:
        config = {p.name: model["k_" + p.name] for p in params}
        for knob, options in choices.items():
            config[knob] = options[config[knob]]
        done = known.setdefault(task.key(config), [])
        if epoch > len(done):
            done.append(float(task.curve(config, epoch)[epoch - 1]))
        return done[epoch - 1]

    known: dict[Any, list[float]] = {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    where = {"from": PORTFOLIO.name}
    for config in first:
        knobs = {p.name: str(v) if p.kind == "cat" else v for p in params for v in [config[p.name]]}
        study.enqueue_trial({f"model.k_{knob}": value for knob, value in knobs.items()}, where)
    engine = Lookup(curve)
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(
            study,
            space,
            engine,
            folder=Path(folder),
            data=DATA,
            trials=10**6,
            seed=seed,
            deadline=float(task.remaining),
        )
        driver.start()
        for _ in driver.run():
            pass


def automl_search(task: Any, seed: int) -> None:
    """With what make_portfolio.py learned from other instances; without, where knobs differ."""
    names = {param.name for param in task.space}
    search(task, seed, first=[config for config in json.loads(PORTFOLIO.read_text())
                              if config.keys() == names])  # fmt: skip


def automl_search_no_portfolio(task: Any, seed: int) -> None:
    search(task, seed)


def without_promotion(task: Any, seed: int) -> None:
    search(task, seed, pruner="none")


def without_model(task: Any, seed: int) -> None:
    search(task, seed, sampler="random")


OPTS = {
    "automl": automl_search,
    "automl_no_portfolio": automl_search_no_portfolio,
    "automl_no_promotion": without_promotion,
    "automl_no_model": without_model,
}


def one(name: str, instance: str, seed: int, out: str) -> Any:
    sys.path.insert(0, os.environ["HPOBENCH"])
    import bench

    torch.set_num_threads(1)
    return bench.run_one(OPTS[name], name, instance, seed, out, BUDGET)


BUDGET = int(os.environ.get("BUDGET", 5200))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=OPTS)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", default="results")
    given = parser.parse_args()
    low, _, high = given.seeds.partition("-")
    sys.path.insert(0, os.environ["HPOBENCH"])
    import bench
    import score

    tasks = [(i, s) for s in range(int(low), int(high or low) + 1) for i in bench.OPEN]
    with ProcessPoolExecutor(given.jobs) as pool:
        runs = [pool.submit(one, given.name, i, s, os.path.abspath(given.out)) for i, s in tasks]
        told = [run.result() for run in runs]
    print(told[0])
    score.HERE = os.path.dirname(os.path.abspath(given.out))
    table = score.table(score.load(os.path.basename(given.out), [given.name]), bench.OPEN)
    for name, (mean, count, per) in table.items():
        print(name, count, mean.round(3), per[:, 2].round(2), per[:, 4].round(2))


if __name__ == "__main__":
    main()
