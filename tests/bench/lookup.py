"""The tool's own driver, whole, with scores that are looked up instead of trained for.

`Lookup` takes the place of the engine and nothing else is replaced: space, driver, sampler, pruner
and study are those of `automl search`. The clock is only counted: an epoch takes one second of it
unless said.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

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

Curve = Callable[[Job, int], float | Event]  # the score of a job's epoch; larger is better

NOTHING = Split(torch.zeros(0, 1), torch.zeros(0))
PIXEL = Data(NOTHING, NOTHING, Images((1, 1, 1)), ["a", "b"], "table")


class Lookup(Engine):
    """Workers whose epochs take `seconds`; a score is looked up when these are over."""

    def __init__(
        self, curve: Curve, slots: int = 1, seconds: Callable[[Job], float] = lambda _job: 1.0
    ) -> None:
        self.curve, self.slots, self.seconds, self.clock = curve, slots, seconds, 0.0
        self.at: dict[int, tuple[Job, int]] = {}  # by slot: what it trains, and to which epoch
        self.due: dict[int, float] = {}  # by slot: when it answers
        self.scores: dict[int, list[float]] = {}  # by trial: those of its checkpoint

    def now(self) -> float:
        return self.clock

    def start(self, slot: int) -> None:
        self.due[slot] = self.clock

    def send(self, slot: int, request: Request) -> None:
        job, epoch = (request, 0) if isinstance(request, Job) else self.at[slot]
        self.at[slot] = job, epoch + 1
        again = epoch < len(self.scores.get(job.trial, []))  # told again, from the checkpoint
        self.due[slot] = self.clock + (0.0 if again else self.seconds(job))

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        slot = min(self.due, key=lambda slot: (self.due[slot], slot))
        self.clock = self.due.pop(slot)
        return [(slot, self._answer(slot))]

    def _answer(self, slot: int) -> Event:
        if slot not in self.at:
            return Ready()
        job, epoch = self.at[slot]
        scores = self.scores.setdefault(job.trial, [])
        if epoch > len(scores):
            told = self.curve(job, epoch)
            if not isinstance(told, float):
                return told
            scores.append(told)
        score = scores[epoch - 1]
        metrics = {"loss": -score, "accuracy": score}
        return Epoch(epoch, 0.0, metrics, self.seconds(job), 1)

    def close(self) -> None:
        pass


def study() -> optuna.Study:
    """An empty one, in memory."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize")


def drive(
    study: optuna.Study,
    space: Space,
    engine: Engine,
    *,
    seed: int,
    seconds: float,
    data: Data = PIXEL,
) -> None:
    """Search until the engine's clock says `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(
            study,
            space,
            engine,
            folder=Path(folder),
            data=data,
            trials=10**6,
            seed=seed,
            deadline=seconds,
        )
        driver.start()
        for _ in driver.run():
            pass


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 2)


class Looked(Model):
    """What families of tables have in common: there is nothing to train."""

    def build(self, inputs: Any, outputs: int) -> nn.Module:
        return Constant()


FAMILIES: dict[str, type[Model]] = {}  # those that this process has defined


class Table:
    """A task of the harness as a space: its parameters are the knobs of one model family."""

    def __init__(self, task: Any, search: dict[str, Any]) -> None:
        """`task` has `space`, of parameters with kind, lo, hi, log and choices, and `max_epoch`."""
        self.params = {f"k{number}": param for number, param in enumerate(task.space)}
        self.name = self._family()
        whole = {
            "task": "digits",
            "search": search,
            "model": {"name": self.name, **{k: self._hole(p) for k, p in self.params.items()}},
            "train": {"epochs": task.max_epoch},
        }
        self.space = Space.parse(json.dumps(whole), "table")

    def config(self, model: dict[str, Any]) -> dict[str, Any]:
        """The harness's config of a model as the engine is told it."""
        return {param.name: self._value(param, model[knob]) for knob, param in self.params.items()}

    def values(self, config: dict[str, Any]) -> dict[str, Any]:
        """The harness's config by knob name, as a study has it."""
        return {
            f"model.{knob}": str(param.choices.index(config[param.name]))
            if param.kind == "cat"
            else config[param.name]
            for knob, param in self.params.items()
        }

    def _family(self) -> str:
        """Its name, equal in all processes."""
        kinds = {"int": int, "float": float, "cat": str}
        told = [(p.name, p.kind, p.lo, p.hi, p.log, p.choices) for p in self.params.values()]
        name = "table-" + hashlib.sha256(repr(told).encode()).hexdigest()[:12]
        if name not in FAMILIES:
            fields: dict[str, Any] = {"name": (Literal[name], name)}
            for knob, param in self.params.items():
                fields[knob] = kinds[param.kind], Field(description=param.name)
            FAMILIES[name] = create_model("Table", __base__=Looked, **fields)
        return name

    def _hole(self, param: Any) -> Any:
        if param.kind == "cat":
            options = [str(number) for number in range(len(param.choices))]
            return {"choice": options} if len(options) > 1 else options[0]
        if param.lo == param.hi:
            return param.lo
        return {param.kind: [param.lo, param.hi], **({"log": True} if param.log else {})}

    def _value(self, param: Any, value: Any) -> Any:
        return param.choices[int(value)] if param.kind == "cat" else value


def search_table(
    task: Any,
    seed: int,
    *,
    sampler: str = "auto",
    pruner: str = "auto",
    slots: int = 1,
    first: Sequence[dict[str, Any]] = (),
) -> None:
    """Search a task of the harness until its budget is spent; it keeps its own log.

    The configs `first`, in the harness's form, are tried before others.
    """
    table = Table(task, {"sampler": sampler, "pruner": pruner})
    known: dict[Any, list[float]] = {}

    def curve(job: Job, epoch: int) -> float:
        wanted = table.config(job.config["model"])
        done = known.setdefault(task.key(wanted), [])
        if epoch > len(done):
            done.append(float(task.curve(wanted, epoch)[epoch - 1]))
        return done[epoch - 1]

    begun = study()
    for config in first:
        begun.enqueue_trial(table.values(config), {"from": "portfolio"})
    engine = Lookup(curve, slots)
    drive(begun, table.space, engine, seed=seed, seconds=task.remaining / slots)
