"""Searches replayed on recorded learning curves of real, conditional spaces.

`curves/NAME.jsonl.gz` holds random configs that were trained to their end by `make_curves.py`. A
search runs on the whole space; a config that it tries has the curve of the nearest recorded one,
noise and all, whoever proposed it. Near is what a random forest takes for alike that was grown on
where the recorded curves end (proximity, Breiman 2001), over the coordinates of the tool's model:
so knobs count as much as they matter. The ends of configs that were left out have a rank
correlation of 0.7 to 0.8 with those of their nearest, and of 0.4 to 0.5 if all knobs count alike.

What this cannot show: whoever refines a good config stays in its cell and finds the same curve.
"""

from __future__ import annotations

import gzip
import json
import math
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from curves_as_study import write
from lookup import NOTHING, Lookup, drive, study
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from sklearn.ensemble import RandomForestRegressor

from automl.config import Pruner, Sampler, Task
from automl.data import Data, Split
from automl.engines import Event, Job, Refused
from automl.inputs.text import Texts, pack
from automl.searching import portfolio
from automl.searching.costs import point
from automl.searching.driver import suggest
from automl.searching.encoder import Encoder, Values
from automl.searching.study import Study
from automl.searching.surrogate import key
from automl.size import Size
from automl.space import Search, Space, measure

HERE = Path(__file__).parent
ENTRIES = 8  # of a portfolio, as those that are shipped
VALIDATED = {  # examples, of what was recorded
    "fashion-mnist": 500,
    "cifar10": 750,
    "trec": 546,
    "sst2": 872,
    "agnews": 500,
}


@dataclass(frozen=True)
class Curves:
    """Recorded curves of a space."""

    space: Path
    score: str  # that ranks the configs
    elsewhere: str  # the curves of what is learned from before: others of the same kind of data


def own(name: str, elsewhere: str) -> Curves:
    return Curves(HERE / "spaces" / f"{name}.yaml", "accuracy", elsewhere)


DIGITS = HERE.parents[1] / "search_spaces" / "digits.yaml"
CHOSEN_ON = {  # what choices of the search were made on
    # 83 of the 400 configs end with all right: only the loss tells them apart
    "digits": Curves(DIGITS, "loss", "fashion5k"),
    "fashion5k": own("fashion5k", "digits"),
    "questions": own("questions", "sentences"),
}
UNSEEN = {  # what none was
    "photographs": own("photographs", "fashion5k"),
    "news": own("news", "sentences"),
    "sentences": own("sentences", "questions"),
}
RECORDED = CHOSEN_ON | UNSEEN


@dataclass(frozen=True)
class Recorded:
    """A config that was trained: its knobs, and its scores by epoch, of which larger is better."""

    values: dict[str, Any]
    curve: list[float]  # shorter than the training if it diverged
    seconds: float = math.nan  # an epoch took


class Recording:
    """All configs of a space that were trained."""

    def __init__(self, space: Space, configs: list[Recorded], name: str = "") -> None:
        self.space, self.configs, self.name = space, configs, name
        self.epochs = space.epochs
        whole = [config.curve[-1] for config in configs if len(config.curve) == self.epochs]
        self.ends = sorted(whole, reverse=True)
        self.encoder = Encoder(space)
        self.data = examples(space.task)

    @classmethod
    def load(cls, name: str) -> Recording:
        score = RECORDED[name].score
        sign = -1 if score == "loss" else 1
        configs = []
        with gzip.open(HERE / "curves" / f"{name}.jsonl.gz", "rt") as lines:
            for line in map(json.loads, lines):
                curve = line.get("metrics", {}).get(score, [])
                curve = [sign * value for value in curve]
                configs.append(Recorded(line["values"], curve, line.get("seconds", math.nan)))
        return cls(Space.load(RECORDED[name].space), configs, name)

    @cached_property
    def learned(self) -> list[tuple[Values, str]]:
        """What `automl portfolio build` makes of other recorded curves, as far as it fits here.

        What is good is told by the score that counts here.
        """
        mine = RECORDED[self.name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, mine.elsewhere)
            curves = HERE / "curves" / f"{mine.elsewhere}.jsonl.gz"
            write(Space.load(RECORDED[mine.elsewhere].space), curves, path, "recorded", mine.score)
            beliefs = portfolio.build([Study(path)], ENTRIES)
        found = portfolio.usable(self.space, self.data, beliefs)
        return [(v, b.told) for v, b in islice(found, self.space.search.portfolio)]

    def prior(self, seed: int, best: float, worst: float) -> Values:
        """Of configs between these shares of all, ranked by their ends, the one a seed draws."""
        whole = [config for config in self.configs if len(config.curve) == self.epochs]
        whole.sort(key=lambda config: -config.curve[-1])
        rng = np.random.default_rng((seed, round(100 * best)))
        return whole[rng.integers(int(best * len(whole)), int(worst * len(whole)))].values

    @cached_property
    def _points(self) -> Any:
        """(configs, coordinates)"""
        return self.encoder.points(self.encoder.stands([c.values for c in self.configs]))

    @cached_property
    def _forest(self) -> RandomForestRegressor:
        """Grown on the ranks of ends; who did not come to one is last."""
        ends = [c.curve[-1] if len(c.curve) == self.epochs else -np.inf for c in self.configs]
        forest = RandomForestRegressor(100, min_samples_leaf=2, max_features=0.5, random_state=0)
        return forest.fit(self._points, np.argsort(np.argsort(ends)))

    @cached_property
    def _leaves(self) -> Any:
        """(configs, trees)"""
        return self._forest.apply(self._points)

    def nearest(self, values: dict[str, Any]) -> int:
        """The recorded config that is in the same leaf as these values in most trees."""
        here = self.encoder.points(self.encoder.stands([values]))
        alike = (self._leaves == self._forest.apply(here)).sum(1)
        away = np.square(self._points - here).sum(1)  # decides between those that are equally near
        return int(np.lexsort((away, -alike))[0])

    def size(self, values: dict[str, Any]) -> tuple[Size, int]:
        """What an epoch's seconds depend on: of the model, and the batch size."""
        config = self.space.with_values(values)
        size = measure(config, config.input.fit(self.data), len(self.data.labels))
        return size, config.train.batch_size

    @cached_property
    def _sizes(self) -> Any:
        """(configs, 3), and no place for those of which no epoch was timed."""
        nowhere = (math.inf,) * 3
        return np.array(
            [point(*self.size(c.values)) if c.seconds > 0 else nowhere for c in self.configs]
        )

    def cost(self, values: dict[str, Any]) -> float:
        """What an epoch takes, as that of the recorded config nearest in size; 1 is the mean."""
        seconds = np.array([config.seconds for config in self.configs])
        away = np.square(self._sizes - point(*self.size(values))).sum(1)
        return float(seconds[away.argmin()] / np.nanmean(seconds))

    def regret(self, number: int) -> float:
        """Of where a config's curve ends: 0 is the best recorded, 1 the median."""
        best, median = self.ends[0], self.ends[len(self.ends) // 2]
        return (best - self.configs[number].curve[-1]) / (best - median)


class Spent(BaseException):
    """The budget is; no library catches this on its way."""


class Replay:
    """One search: the curves it has had, and after each epoch the regret of what it would deliver.

    That is the best config seen at the last epoch that any came to, as the harness has it. Where it
    is `timed` an epoch costs what it takes, in the mean of all that are recorded, and not 1.
    """

    def __init__(self, recording: Recording, budget: int, *, timed: bool = False) -> None:
        self.recording, self.budget, self.timed = recording, budget, timed
        self.numbers: dict[Any, int] = {}  # of recorded configs, by the values tried
        self.costs: dict[Any, float] = {}  # of an epoch, likewise
        self.spent = 0.0
        self.regrets: list[float] = []  # after each unit of the budget
        self.top, self.regret = (0, -np.inf), 1.0

    def score(self, values: dict[str, Any], epoch: int) -> float | Event:
        """At the cost of an epoch. Raises Spent."""
        self.spent += self.cost(values)
        before = min(self.budget, math.ceil(self.spent - 1e-9) - 1)  # the last unit without it
        self.regrets += [self.regret] * (before - len(self.regrets))
        if self.spent > self.budget + 1e-9:
            raise Spent
        tried = key(values)
        if tried not in self.numbers:
            self.numbers[tried] = self.recording.nearest(values)
        number = self.numbers[tried]
        curve = self.recording.configs[number].curve
        if epoch <= len(curve) and (epoch, curve[epoch - 1]) > self.top:
            self.top, self.regret = (epoch, curve[epoch - 1]), self.recording.regret(number)
        if self.spent >= before + 1 - 1e-9:
            self.regrets.append(self.regret)
        return curve[epoch - 1] if epoch <= len(curve) else Refused("diverged", "")

    def cost(self, values: dict[str, Any]) -> float:
        """Of an epoch."""
        if not self.timed:
            return 1.0
        tried = key(values)
        if tried not in self.costs:
            self.costs[tried] = self.recording.cost(values)
        return self.costs[tried]


def ours(
    replay: Replay,
    seed: int,
    *,
    sampler: str = "auto",
    pruner: str = "auto",
    beginnings: bool = False,
    prior: tuple[float, float] | None = None,
    elsewhere: bool = False,
    slots: int = 1,
) -> None:
    """The tool's driver; what the space says is good, and what did well elsewhere, first.

    With a `prior` the space says that a recorded config is good that ends between these shares.
    """
    space = replay.recording.space
    search = Search(sampler=Sampler.of(sampler), pruner=Pruner.of(pruner))
    fresh = study()
    first = space.beginnings() if beginnings else []
    for values in [*first, *([replay.recording.prior(seed, *prior)] if prior else [])]:
        fresh.enqueue_trial(values, {"from": "the space"})
    for values, where in replay.recording.learned if elsewhere else []:
        fresh.enqueue_trial(values, {"from": where})

    def values(job: Job) -> dict[str, Any]:
        return fresh.get_trials(deepcopy=False)[job.trial].params

    engine = Lookup(
        lambda job, epoch: replay.score(values(job), epoch),
        slots,
        lambda job: replay.cost(values(job)),
    )
    drive(
        fresh,
        replace(space, search=search),
        engine,
        seed=seed,
        seconds=replay.budget / slots,
        data=replay.recording.data,
    )


def examples(task: Task) -> Data:
    """Data of the task's kind, as much as it takes to build models for it.

    Its validation split is as large as that of the recorded accuracies, so that the search knows
    their noise; for digits, scored by the loss, it is empty.
    """
    inputs, labels = task.shape(None)
    train = NOTHING
    if isinstance(inputs, Texts):  # enough words, often enough, for any vocabulary
        text = " ".join(f"w{number}" for number in range(10_000))
        train = Split(pack([text] * 5), torch.zeros(5))
    valid = torch.zeros(VALIDATED.get(task.name, 0))
    return Data(train, Split(valid.unsqueeze(1), valid), inputs, labels, "recorded")


def theirs(replay: Replay, sampler: BaseSampler, pruner: BasePruner) -> None:
    """Optuna alone, as its manual shows it: report every epoch, and stop when it says so."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    fresh = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    epochs = replay.recording.epochs
    while True:
        trial = fresh.ask()
        values = replay.recording.space.values(suggest(trial))
        state = TrialState.COMPLETE
        for epoch in range(1, epochs + 1):
            score = replay.score(values, epoch)
            if not isinstance(score, float):
                state = TrialState.FAIL  # as an objective that raises
                break
            trial.report(score, epoch)
            if epoch < epochs and trial.should_prune():
                state = TrialState.PRUNED
                break
        fresh.tell(trial, score if state == TrialState.COMPLETE else None, state=state)


def optuna_default(replay: Replay, seed: int) -> None:
    """What `optuna.create_study()` has: TPE and the median pruner."""
    theirs(replay, optuna.samplers.TPESampler(seed=seed), optuna.pruners.MedianPruner())


def optuna_tpe(replay: Replay, seed: int) -> None:
    theirs(replay, optuna.samplers.TPESampler(seed=seed), optuna.pruners.NopPruner())


def by_chance(replay: Replay, seed: int) -> None:
    theirs(replay, optuna.samplers.RandomSampler(seed=seed), optuna.pruners.NopPruner())
