"""After the search: its best configs are trained again, from other seeds and to their end.

The best of many scores is in part the luckiest. Fresh trainings have not been chosen for their
luck, so that their mean is what a config is worth. Every training has a folder of its own,
finals/TRIAL-SEED, and the same command goes on where it was.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from automl.config import Config
from automl.data import Data, Epoch
from automl.engines import (
    Broken,
    Engine,
    Event,
    Full,
    Go,
    Job,
    Lost,
    Refused,
    Save,
    Saved,
    patience,
)
from automl.errors import DataError, OptionError, PartBug, StudyError
from automl.results import ensemble
from automl.results.delivery import Training, choose
from automl.results.leaderboard import Row
from automl.searching.driver import ATTEMPTS, Driver
from automl.searching.study import FULL
from automl.training.loop import ended

log = logging.getLogger("automl")

SHARE = 1 / 4  # of a time budget that all of this may take, at most
QUICK = 5.0  # seconds that the test of an ensemble may take when none are left


@dataclass(frozen=True)
class Finals:
    """What is asked for after the search."""

    finalists: int = 3  # configs; 0: the best trial is taken as it is
    seeds: int = 3  # fresh trainings of each
    refit: bool = False  # whether what is delivered trains on the validation split too

    def check(self) -> None:
        """Raises OptionError."""
        if not 0 <= self.finalists <= 100:
            raise OptionError(f"--finalists: got {self.finalists}; want 0 to 100")
        if not 1 <= self.seeds <= 100:
            raise OptionError(f"--seeds: got {self.seeds}; want 1 to 100")
        if self.refit and not self.finalists:
            raise OptionError("--refit: needs finalists, for it has no score of its own")

    def work(self, rows: Sequence[Row]) -> float:
        """Seconds of one worker for the finalists, at the pace of their trials, and for refits."""
        best = [row.seconds for row in self.among(rows)]
        return self.seeds * sum(best) + self.more * max(best, default=0.0)

    def reserve(self, rows: Sequence[Row], workers: int, most: float) -> float:
        """Seconds to keep for it: none where none of these trainings would end in them."""
        kept = min(most, self.work(rows) / workers)
        least = min((row.seconds for row in self.among(rows)), default=0.0)
        return kept if kept >= least else 0.0

    def later(self, among: Sequence[Row], workers: int, left: float) -> float:
        """Seconds of those left to keep for refits: half at most, and none instead of finalists."""
        seconds = [row.seconds for row in among]
        most = math.ceil(self.more / workers) * max(seconds, default=0.0)
        kept = min(most, left / 2)
        return kept if left - kept >= min(seconds, default=0.0) else 0.0

    def among(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows[: self.finalists] if row.state == "finished"]

    @property
    def more(self) -> int:
        """Trainings that come after these: of the winner, and of the members of an ensemble."""
        return 1 + ensemble.MEMBERS if self.refit else 0


USUAL = Finals()


@dataclass(frozen=True)
class Finalist:
    """A config of the search, trained again."""

    trial: int
    search: float  # score of the trial that made it one
    scores: dict[int, float]  # by seed
    summary: str

    @property
    def mean(self) -> float:
        return fmean(self.scores.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None where there is one only."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def typical(self) -> int:
        """The seed whose score is nearest the mean."""
        return min(self.scores, key=lambda seed: (abs(self.scores[seed] - self.mean), seed))

    def told(self) -> dict[str, Any]:
        """As the study and metrics.json hold it."""
        return {
            "trial": self.trial,
            "search": self.search,
            "mean": self.mean,
            "spread": self.spread,
            "scores": list(self.scores.values()),
            "seeds": list(self.scores),
            "summary": self.summary,
        }


@dataclass(frozen=True)
class Retrained:
    """One more fresh training has come to its end."""

    training: Training
    score: float | None  # at its end; None: it could not be trained
    reason: str  # why not
    done: int
    of: int


@dataclass(frozen=True)
class Decision:
    """What is to be delivered, and why."""

    made: Training
    validated: Training  # the same, unless that one was trained on the validation split too
    finalists: list[Finalist]  # best first
    members: list[tuple[Training, Training, float]]  # of an ensemble: made, validated, share of 1
    gain: ensemble.Gain | None


class Rerun:
    """The workers of a search, for trainings that no study hears of."""

    def __init__(self, engine: Engine, data: Data, driver: Driver) -> None:
        self.engine, self.data, self.folder = engine, data, driver.folder
        self.metric, self.started = driver.metric.name, driver.started
        self.leave = driver.leave
        self.idle = set(driver.idle)  # the others start, or still owe the driver an event
        self.active: dict[int, Training] = {}  # by slot
        self.lost: Counter[Path | None] = Counter()  # workers, over one epoch of what they trained
        self.reached: Counter[Path] = Counter()  # the last epoch of each

    @cached_property
    def whole(self) -> Data:
        return self.data.whole()

    def training(self, trial: int, config: Config, *, whole: bool = False) -> Training:
        name = f"{trial:04d}-{config.seed}" + ("-whole" if whole else "")
        return Training(trial, config, self.folder / "finals" / name / "checkpoint.pt", whole)

    def run(self, wanted: Mapping[Training, float], deadline: float) -> Generator[Retrained]:
        """Each to its end, or until time is up; none is begun that would not end in time.

        `wanted` says how many seconds each takes; `deadline` is by the engine's clock. Raises
        KeyboardInterrupt when the driver was asked to leave and what was under way is saved.
        """
        waiting, done = deque[Training](), 0
        for training in wanted:
            data = self.whole if training.whole else self.data
            if epoch := ended(training.config, data, training.file):
                done += 1
                yield Retrained(training, epoch.metrics[self.metric], "", done, len(wanted))
            else:
                waiting.append(training)
        if waiting and not self.started:
            self.started = True
            for slot in range(self.engine.slots):
                self.engine.start(slot)

        while left := max(0.0, deadline - self.engine.now()):
            waiting = deque(training for training in waiting if wanted[training] <= left)
            while waiting and self.idle and not self.leave():
                training = waiting.popleft()
                self._begin(min(self.idle), training, patience(wanted[training]))
            if self.leave() and not self.active:
                raise KeyboardInterrupt
            if not waiting and not self.active:
                return
            for slot, event in self.engine.wait(min(left, 60.0)):
                if over := self._hear(slot, event, waiting):
                    done += 1
                    yield Retrained(*over, done, len(wanted))
        self.active.clear()

    def _hear(
        self, slot: int, event: Event, waiting: deque[Training]
    ) -> tuple[Training, float | None, str] | None:
        """The training that is over by this event, its score or, without one, why; else None."""
        at = self.active.get(slot)
        if isinstance(event, Epoch) and at and event.number > self.reached[at.file]:
            self.reached[at.file], self.lost[at.file] = event.number, 0
        if isinstance(event, Lost) and not (at and event.reason):
            given_up = self._lost(slot, event, waiting)
            return (given_up, None, f"worker lost {ATTEMPTS} times") if given_up else None
        if isinstance(event, Broken):
            what = f" in trial {at.trial} ({at.config.summary})" if at else ""
            raise PartBug(f"a part failed{what}:\n{event.traceback}")
        if isinstance(event, Full):
            raise StudyError(f"{self.folder}: {FULL.format(event.detail)}")
        if isinstance(event, Refused) and not at and event.reason == "data error":
            raise DataError(event.detail)  # as it starts
        if isinstance(event, Saved):
            self.active.pop(slot, None)
            self.idle.add(slot)
            return None
        if at is None:  # ready, or an answer to what nobody waits for any more
            self.lost[None] = 0
            self.idle.add(slot)
            return None
        if isinstance(event, Epoch) and event.number < at.config.train.epochs:
            self.engine.send(slot, Save() if self.leave() else Go())
            return None

        del self.active[slot]
        if isinstance(event, Lost):
            self.engine.start(slot)
        else:
            self.idle.add(slot)
        score = event.metrics[self.metric] if isinstance(event, Epoch) else None
        reason = event.reason if isinstance(event, Refused | Lost) else None
        return at, score, reason or ""

    def _begin(self, slot: int, training: Training, wait: float) -> None:
        self.idle.remove(slot)
        self.active[slot] = training
        config, file = training.config, str(training.file.resolve())
        epochs = config.train.epochs
        whole = training.whole
        job = Job(training.trial, config.dump(), file, epochs, whole=whole, patience=wait)
        self.engine.send(slot, job)

    def _lost(self, slot: int, event: Lost, waiting: deque[Training]) -> Training | None:
        """A worker is gone: what it trained goes on elsewhere, from its checkpoint, or is given up.

        That is what it returns then.
        """
        training = self.active.pop(slot, None)
        self.idle.discard(slot)
        key = training.file if training else None
        self.lost[key] += 1
        often = self.lost[key] == ATTEMPTS
        if often and not training:
            raise StudyError(f"workers do not start: {event.detail}; see workers.log")
        if training and not often:
            waiting.appendleft(training)
        self.engine.start(slot)
        return training if often else None


def decide(
    driver: Driver, rerun: Rerun, asked: Finals
) -> Generator[Retrained, None, Decision | None]:
    """Train the finalists, choose the winner and an ensemble, and refit these if that is asked for.

    The winner is the config of the best mean, as the training that is nearest this mean. Without
    finalists, or the time for any, or where there was none for the best trial and no mean comes
    near its score, it is the best trial of the search that has its weights; None where there is
    none either.
    """
    rows, best = driver.rows(), driver.best
    among = asked.among(rows)
    took = {row.trial: row.seconds for row in rows}

    wanted = {  # one of each, then another one of each
        rerun.training(row.trial, driver.config(row.trial, 1 + number)): took[row.trial]
        for number in range(asked.seeds)
        for row in among
    }
    left = driver.ends - rerun.engine.now()
    scored: dict[Training, float] = {}
    tried = set[int]()
    for told in rerun.run(wanted, driver.ends - asked.later(among, rerun.engine.slots, left)):
        driver.make_room()
        yield told
        tried.add(told.training.trial)
        if told.score is not None:
            scored[told.training] = told.score
    fresh = {training: scored[training] for training in wanted if training in scored}  # in order

    finalists = []
    for row in among:
        scores = {t.config.seed: score for t, score in fresh.items() if t.trial == row.trial}
        if scores and row.score is not None:
            finalists.append(Finalist(row.trial, row.score, scores, row.summary))
    costs = {row.trial: row.cost(driver.cost) for row in among}
    finalists.sort(key=lambda one: (-driver.sign * one.mean, costs[one.trial], one.trial))
    searched = next((row.score for row in among if row.trial == best), None)
    if finalists and searched is not None and best not in tried:  # it would have taken too long
        mean, examples = finalists[0].mean, len(driver.data.valid)
        if driver.metric.beyond(searched, mean, examples):
            finalists = []
    if finalists:
        winner = finalists[0].trial, finalists[0].typical
        made = next(training for training in fresh if training.key == winner)
    elif best is not None:
        made = driver.training(best)
    else:
        return None

    members: dict[Training, float] = {}
    gain = None
    if asked.finalists:
        others = [
            made if row.trial == made.trial else driver.training(row.trial)
            for row in rows
            if row.state == "finished" and driver.checkpoint(row.trial).exists()
        ]
        members, gain = choose(made, [*fresh, *others], driver.data)
    test = len(members) * driver.data.sealed * driver.pace
    if test > max(QUICK, left := driver.ends - rerun.engine.now()):
        words = "no ensemble: its test would take about %.0f s, and %.0f are left"
        log.warning(words, test, max(0.0, left))
        members, gain, test = {}, None, 0.0

    twins: dict[tuple[int, int], Training] = {}
    if asked.refit and finalists:
        longer = len(rerun.whole.train) / len(driver.data.train)
        wanted = {
            rerun.training(one.trial, one.config, whole=True): longer * took[one.trial]
            for one in dict.fromkeys([made, *members])
        }
        for told in rerun.run(wanted, driver.ends - test):
            driver.make_room(one.trial for one in [made, *members])
            yield told
            if told.score is not None:
                twins[told.training.key] = told.training
    return Decision(
        twins.get(made.key, made),
        made,
        finalists,
        [(twins.get(one.key, one), one, share) for one, share in members.items()],
        gain,
    )
