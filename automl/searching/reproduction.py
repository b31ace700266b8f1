"""A trial of a study, trained again and held against what the study says. Changes nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from automl.config import Config
from automl.data import Data, Metric
from automl.errors import StudyError
from automl.results import leaderboard
from automl.results.leaderboard import Row
from automl.searching.run import threads
from automl.searching.study import Study, versions
from automl.training import Diverged, precision, train

NOISE = 4  # times `Metric.blur`: two standard errors of the validation split
LOSS = 0.02  # share of itself that a loss may be off by, where it need not be the same


@dataclass
class Reproduction:
    """Made by `of`; `train` then fills `now`, epoch by epoch."""

    row: Row  # of the trial, as the study has it
    metric: Metric
    config: Config
    data: Data
    device: torch.device
    differs: list[str]  # device and versions that are not those of the study
    was: list[float]  # score by epoch
    now: list[float] = field(default_factory=list)
    fault: str = ""  # why there are fewer of these

    @classmethod
    def of(
        cls, study: Study, number: int, *, root: Path | None, device: torch.device
    ) -> Reproduction:
        """Raises StudyError for a trial that was never scored, DataError for other data."""
        space, begun = study.space, study.manifest
        trials = study.optuna.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            known = f"0 to {len(trials) - 1}" if trials else "none yet"
            raise StudyError(f"--trial: got {number}; {study.name} has {known}")
        trial, row = trials[number], leaderboard.row(trials[number])
        was = leaderboard.curve_of(trial)
        if not was:
            why = f": {row.reason}" if row.reason else ""
            raise StudyError(f"--trial: {number} was never scored, it is {row.state}{why}")
        data = study.data(root)
        config = space.with_values(trial.params).model_copy(update={"seed": begun.seed})

        there = {"device": begun.device, **begun.versions}
        here = {"device": precision.describe(device), **versions()}
        differs = [
            f"{name} {there.get(name, 'unknown')}, here {here.get(name, 'unknown')}"
            for name in {**there, **here}
            if there.get(name) != here.get(name)
        ]
        return cls(row, space.task.metric, config, data, device, differs, was)

    def train(self) -> Iterator[tuple[int, float, float]]:
        """Epoch, score in the study, score now; as many epochs as the trial has."""
        with precision.on_threads(threads(self.device)):  # sums are in another order with more
            try:
                epochs = train(self.config, self.data, device=self.device, until=len(self.was))
                for epoch, was in zip(epochs, self.was, strict=False):
                    self.now.append(epoch.metrics[self.metric.name])
                    yield epoch.number, was, self.now[-1]
            except Diverged as error:
                self.fault = str(error)

    @property
    def equal(self) -> bool:
        """To the last digit, at every epoch."""
        return self.now == self.was

    @property
    def must_be_equal(self) -> bool:
        """As far as the study says where it was trained."""
        return self.device.type == "cpu" and not self.differs

    @property
    def room(self) -> float:
        """How far the last score may be off where it need not be equal."""
        was = self.was[-1]
        if not self.metric.higher_is_better:
            return LOSS * was
        return NOISE * self.metric.blur(was, self.data.valid.rows)

    @property
    def near(self) -> bool:
        whole = len(self.now) == len(self.was)
        return whole and abs(self.now[-1] - self.was[-1]) <= self.room

    @property
    def agrees(self) -> bool:
        return self.equal or (self.near and not self.must_be_equal)

    @property
    def verdict(self) -> str:
        """Whether they agree, and why they need not be equal, in one line."""
        if self.equal:
            return "the same, to the last digit of every epoch"
        if self.fault:
            return f"NOT THE SAME: {self.fault}"
        off = f"off by {abs(self.now[-1] - self.was[-1]):.2g}"
        noise = f"noise of {self.room:.2g}"
        if self.must_be_equal:
            within = "within" if self.near else "more than"
            return (
                f"NOT THE SAME: {off}, {within} the {noise}; on the same CPU, by the same source of"
                " automl, it would be equal, and the study does not know which these were"
            )
        why = "; ".join(self.differs) or "a GPU sums in another order each time"
        if self.near:
            return f"the same within the {noise}: {off} ({why})"
        return f"NOT THE SAME: {off}, more than the {noise} ({why})"
