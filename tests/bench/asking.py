"""How long a worker waits for its next trial when a study is long."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from lookup import Lookup
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from replay import examples

from automl.engines import Event, Job, Request
from automl.holes import Float, Hole, Int, random_value
from automl.searching.driver import Driver
from automl.searching.study import Manifest, begin
from automl.space import Space

CIFAR = Path(__file__).parents[2] / "search_spaces" / "cifar.yaml"
ASKED = 15  # new trials that are timed


class Timed(Lookup):
    """Also tells how long each new trial was waited for since the last answer."""

    def __init__(self, rng: random.Random, after: int) -> None:
        super().__init__(lambda _job, epoch: curve_of(rng)[epoch - 1])
        self.after, self.answered = after, (0.0, 0.0)
        self.waits: list[tuple[float, float]] = []  # seconds of this process, and of the clock

    def send(self, slot: int, request: Request) -> None:
        if isinstance(request, Job) and request.trial >= self.after + len(self.waits):
            cpu, clock = self.answered
            self.waits.append((time.process_time() - cpu, time.perf_counter() - clock))
        super().send(slot, request)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        told = super().wait(timeout)
        self.answered = time.process_time(), time.perf_counter()
        return told


def ask(trials: int) -> str:
    """After so many trials on disk: median and worst of the next few."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, rng = Space.load(CIFAR), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(space.digest, space.task.name, "none", 0, "cpu", {})
        study = begin(Path(folder), space, manifest, space.task.metric)
        while study.trials and study.trials[-1].state == TrialState.WAITING:
            study.tell(study.ask(), state=TrialState.FAIL)  # what is tried first
        study.add_trials([closed(space, rng) for _ in range(trials - len(study.trials))])
        knobs = statistics.mean(len(t.params) for t in study.get_trials(deepcopy=False))
        engine = Timed(rng, trials)
        driver = Driver(
            study,
            space,
            engine,
            folder=Path(folder),
            data=examples(space.task),
            trials=trials + ASKED,
            seed=0,
        )
        driver.start()
        for _ in driver.run():
            if len(engine.waits) == ASKED:
                break
    (first, _), *rest = engine.waits
    cpu, clock = zip(*rest, strict=True)
    told = (
        f"{trials:,} trials of {knobs:.0f} knobs, {len(space.all_knobs())} in all: a new one takes "
    )
    told += f"{statistics.median(cpu):.2f} s of CPU, {max(cpu):.2f} s at worst "
    told += f"({statistics.median(clock):.2f} and {max(clock):.2f} s by the clock); "
    return f"{told}{first:.2f} s the first time, when the model sees all at once"


def closed(space: Space, rng: random.Random) -> FrozenTrial:
    """A random config: one in eight has come to its end, the others to the third epoch."""
    distributions: dict[str, BaseDistribution] = {}

    def drawn(name: str, hole: Hole) -> Any:
        distributions[name] = distribution(hole)
        return random_value(hole, rng)

    params = space.values(drawn)
    curve = curve_of(rng)
    whole = rng.random() < 1 / 8
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.PRUNED,
        value=curve[-1] if whole else None,
        params=params,
        distributions=distributions,
        intermediate_values=dict(enumerate(curve if whole else curve[:3], 1)),
        user_attrs={"seconds": 3.0},
    )


def distribution(hole: Hole) -> BaseDistribution:
    """A hole in Optuna's words."""
    if isinstance(hole, Int):
        return IntDistribution(hole.low, hole.high, log=hole.log, step=hole.step)
    if isinstance(hole, Float):
        return FloatDistribution(hole.low, hole.high, log=hole.log, step=hole.step)
    return CategoricalDistribution(list(hole.options))


def curve_of(rng: random.Random) -> list[float]:
    """Twenty epochs that rise to a random end."""
    end = rng.random()
    return [end * (1 - 0.7**epoch) for epoch in range(1, 21)]
