"""The driver: asks for configs, hands them to workers, decides after every epoch, tells the study.

It owns the study; workers know nothing of it. It knows no terminal: it is a generator of what
happened, and whoever stops asking stops the search.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from automl.config import Config
from automl.data import Data, Epoch
from automl.engines import (
    HOUR,
    Broken,
    Engine,
    Event,
    Full,
    Go,
    Job,
    Lost,
    Measured,
    Ready,
    Reason,
    Refused,
    Save,
    Saved,
    patience,
)
from automl.errors import DataError, PartBug, SpaceError, StudyError
from automl.holes import Draw, Float, Hole, Int
from automl.results import leaderboard
from automl.results.artifact import put
from automl.results.delivery import Training
from automl.results.leaderboard import Ranking, Row
from automl.searching.costs import Costs
from automl.searching.ledger import Entry, Ledger
from automl.searching.study import FULL, asked, taken
from automl.size import Size
from automl.space import Space, measure
from automl.training import checkpoint as disk

BATCH = "train.batch_size"  # where this is a knob, what an epoch takes depends on it
HOPELESS = 2  # a config foretold to take more than so many times the limit is not proposed
ATTEMPTS = 3  # workers a trial may lose over one epoch before it is given up
STARTS = 30  # starts that may fail in a row once a worker has started; ATTEMPTS before that
NEAR = 3  # epochs before the end of the time from which on each is saved
KEPT = 3  # finished trials whose weights stay on disk, whatever they take
MORE, ROOM = 10, 2**29  # for an ensemble as many may stay as fit into so many bytes


@dataclass(frozen=True)
class Trained:
    """A trial has come through one more epoch."""

    trial: int
    epoch: Epoch
    epochs: int


@dataclass(frozen=True)
class Forecast:
    """When the search will end, and with how many trials closed."""

    seconds: float  # from now
    trials: int


@dataclass(frozen=True)
class Paused:
    """A trial waits with its checkpoint, and may go on later."""

    trial: int
    epoch: int


@dataclass(frozen=True)
class Closed:
    """A trial has ended."""

    row: Row
    best: float | None  # score so far
    is_best: bool
    done: int
    forecast: Forecast | None


@dataclass
class Active:
    """A trial under way."""

    trial: optuna.Trial
    config: Config
    size: Size
    entry: Entry
    history: list[Epoch] = field(default_factory=list)
    reported: int = 0  # epochs that the study has
    decided: int = 0  # the last of them after which it was decided whether it goes on
    attempts: int = 0
    began: float = 0.0

    @property
    def work(self) -> float:
        """Of an epoch, up to a factor that all have: multiply-accumulates of its passes."""
        return self.size.macs * self.config.federation.passes


class Driver:
    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        engine: Engine,
        *,
        folder: Path,
        data: Data,
        trials: int,
        seed: int,
        deadline: float | None = None,
        chance: float | None = None,
        after: Callable[[list[Row]], float] = lambda rows: 0.0,
        disk: int | None = None,
        leave: Callable[[], bool] = lambda: False,
    ) -> None:
        """`deadline` is by the engine's clock; the best model is to be tested before it.

        `chance` is the score of a guess: who is no better is stopped. `after` tells from the
        trials, best first and without ranks, how many seconds shall be left when the search ends.
        Of `disk` bytes the study takes no more, as far as there is something to delete. Once
        `leave` says so the epochs under way are trained to their end and saved.
        """
        self.study, self.space, self.engine, self.folder = study, space, engine, folder
        self.data, self.trials, self.seed, self.deadline = data, trials, seed, deadline
        self.metric = space.task.metric
        self.sign = 1 if self.metric.higher_is_better else -1
        self.cost = space.search.cost
        self.pruner = space.search.pruner
        self.ledger = Ledger(epochs=space.epochs, feasible=self._feasible)
        if self.metric.higher_is_better and (examples := data.valid.rows):
            self.ledger.blur = lambda score: self.metric.blur(score, examples)
            self.ledger.ceiling = 1.0
        if chance is not None:
            self.ledger.chance = self.sign * chance
        self.asked = asked(study)
        sampler = space.search.sampler
        drawn = 0 if sampler.recalls else 7919 * self.asked  # no number shall come twice
        study.sampler = sampler.build(seed + drawn, space, self.ledger)
        self.sizes: dict[str, Size] = {}  # by what decides them
        self.costs, self.memory = Costs(), Costs()  # seconds of an epoch; megabytes
        self.waiting: deque[Active] = deque()  # interrupted trials, to go on with first
        self.paused: dict[int, Active] = {}  # by trial; the pruner may go on with them
        self.active: dict[int, Active] = {}  # by slot
        self.idle: set[int] = set()
        self.started = False
        self.late = False  # nothing new could come to its end in time
        self.failed_starts, self.may_fail = 0, ATTEMPTS
        self.after, self.reserved = after, 0.0
        self.disk, self.leave = disk, leave
        self.longest = (0.0, 1.0)  # seconds of an epoch, and its work
        self.busy = 0.0  # seconds of workers, those with which they waited for a trial among them
        self.freed: dict[int, float] = {}  # when, by slot
        self.worked = set[int]()  # trials that they were spent on
        self.ended = Ranking(self.metric, self.cost)  # trials, as the leaderboard has them
        self.top = -math.inf  # best score of any epoch here, larger is better
        self.pace = 0.0  # seconds in which its model scores an example
        self._recall()

    def _recall(self) -> None:
        """What an earlier search left: curves of closed trials, and those to go on with."""
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state == TrialState.WAITING:
                continue
            curve = [self.sign * score for score in leaderboard.curve_of(frozen)]
            pace = frozen.user_attrs.get("seconds", 0.0) / max(1, len(curve))
            if frozen.state == TrialState.RUNNING:
                self._resume(frozen, curve, pace)
            else:
                self._remember(frozen, curve, pace)
        self.reserved = self.after(self.rows())  # which ranks them

    def _resume(self, frozen: FrozenTrial, curve: list[float], pace: float) -> None:
        """A trial to go on with, at once or when the pruner says so."""
        trial = optuna.Trial(self.study, frozen._trial_id)
        active = self._opened(trial)  # asks again for what a crash left unasked
        if active is None:
            return
        active.entry.curve, active.entry.seconds = curve, pace
        active.reported = len(curve)
        if curve and frozen.user_attrs.get("paused") == len(curve):
            active.entry.state, active.decided = "paused", len(curve)
            self.paused[frozen.number] = active
        else:
            active.decided = len(curve) - 1  # a crash may have come before that
            self.waiting.append(active)

    def _remember(self, frozen: FrozenTrial, curve: list[float], pace: float) -> None:
        """A closed trial, which the sampler, the pruner and the forecasts learn from."""
        told = frozen.user_attrs
        entry = Entry(frozen.number, frozen.params, "closed", curve, pace)
        if any(value > 0 for value in frozen.constraints.values()):
            entry.state = "infeasible"
        self._read(entry, told)
        self.ledger.entries[frozen.number] = entry
        if "macs" in told:
            size = Size(told["params"], told["macs"], told.get("frozen", 0))
            batch = frozen.params.get(BATCH, 1)
            self.costs.learn(frozen.number, size, batch, pace / told.get("passes", 1.0))
            self.memory.learn(frozen.number, size, batch, told.get("memory_mb", 0.0))

    def _read(self, entry: Entry, told: Mapping[str, Any]) -> None:
        """What the study notes of a trial before it has a score."""
        entry.believed = "from" in told
        entry.whole = told.get("whole", False)
        if self.cost:
            entry.cost = told.get(self.cost, math.inf)

    @property
    def done(self) -> int:
        return len(self.ended.rows)

    @property
    def over(self) -> bool:
        if self.leave():
            return not self.active
        to_do = self.active or self.waiting or self._may_ask()
        if not self.late:  # else those that are worth it go on by now
            to_do = to_do or any(self.ledger.can_finish(one.entry) for one in self.paused.values())
        return not self.remaining or not to_do

    def start(self) -> None:
        self.started = True
        for slot in range(self.engine.slots):
            self.engine.start(slot)

    def run(self) -> Generator[Trained | Paused | Closed]:
        """Until all trials are closed or time is up. What is then under way can go on later.

        Raises KeyboardInterrupt when it was asked to leave and all is saved.
        """
        while not self.over:
            yield from self.step(60.0)
        for active in self.active.values():
            self._note_seconds(active)
        if self.leave():
            raise KeyboardInterrupt

    def step(self, seconds: float) -> Iterator[Trained | Paused | Closed]:
        """Give idle workers a trial, and hear what all of them tell, within so many seconds."""
        for slot in sorted(self.idle):
            yield from self._occupy(slot)
        if not self.over:
            for slot, event in self.engine.wait(min(self.remaining, seconds)):
                yield from self._hear(slot, event)

    def rows(self) -> list[Row]:
        """All trials, by rank."""
        trials = self.study.get_trials(deepcopy=False)
        return leaderboard.rows(trials, self.metric, self.cost, ended=self.ended)

    @property
    def best(self) -> int | None:
        return self._best(self.rows())

    def _best(self, rows: list[Row]) -> int | None:
        """The trial to deliver: the best that has weights on disk, finished ones first."""
        return next((row.trial for row in rows if self.checkpoint(row.trial).exists()), None)

    def config(self, number: int, more: int = 0) -> Config:
        """The config that a trial of the study trained; with so many added to its seed."""
        values = self.study.get_trials(deepcopy=False)[number].params
        seed = (self.seed + more) % 2**31
        return self.space.with_values(values).model_copy(update={"seed": seed})

    def training(self, number: int) -> Training:
        return Training(number, self.config(number), self.checkpoint(number))

    def _may_ask(self) -> bool:
        return self.asked < self.trials and not self.late

    @property
    def remaining(self) -> float:
        """Seconds until the search must end."""
        return max(0.0, self.ends - self.reserved - self.engine.now())

    @property
    def ends(self) -> float:
        """When the best model must be tested.

        Scoring an example takes as long then as it did in the search. The validation split is
        scored twice more: by the process that loads the model again, and for the page.
        """
        if self.deadline is None:
            return math.inf
        return self.deadline - self.pace * (self.data.sealed + 2 * len(self.data.valid))

    def _occupy(self, slot: int) -> Iterator[Closed]:
        """Give an idle worker the next trial. Trials that cannot be trained close on the way."""
        while slot in self.idle and self.remaining and not self.leave():
            active = self.waiting.popleft() if self.waiting else None
            if active is None:
                self.ledger.may_ask, self.ledger.seconds_left = self._may_ask(), self.remaining
                number = self.pruner.promote(self.ledger)
                active = None if number is None else self.paused.pop(number)
            if active is None and self._may_ask():
                if not self._in_time():
                    self.late = True
                    continue
                trial = self.study.ask()
                self.asked += 1
                active = self._opened(trial)
                if active is None:
                    yield self._ended(trial.number)
                    continue
            if active:
                self._begin(slot, active)
            elif self.active:
                return  # what they come to may promote a paused one
            hopeless = {} if self.late else self.pruner.drop(self.ledger)  # or on another day
            for number, reason in (hopeless | self._crowded()).items():
                yield self._stop(self.paused.pop(number), reason)
            if active is None:
                return

    def _begin(self, slot: int, active: Active) -> None:
        self.idle.remove(slot)
        self.active[slot] = active
        active.began = self.engine.now()
        self.busy += active.began - self.freed.pop(slot, active.began)
        active.history = []  # the worker tells all epochs, those in the checkpoint too
        active.entry.state = "under way"
        number, epochs = active.trial.number, active.config.train.epochs
        path = str(self.checkpoint(number).resolve())
        saves = self.pruner.saves(epochs)
        asked_for = self.cost == "latency_ms" or self.space.search.max_latency_ms is not None
        timed = asked_for and "latency_ms" not in active.trial.user_attrs
        seconds, work = self.longest
        expected = seconds * max(1.0, active.work / work)
        wait = patience(expected) if seconds else HOUR
        job = Job(number, active.config.dump(), path, epochs, saves, timed, patience=wait)
        self.engine.send(slot, job)

    def _feasible(self, values: dict[str, Any]) -> bool:
        """Whether a config can be trained, as far as is known without training."""
        try:
            config = self.space.with_values(values)
            size = self._measure(config)
        except SpaceError:
            return False
        search, batch = self.space.search, values.get(BATCH, 1)
        whole = self._seconds(size, batch, config.federation.passes)
        memory = self.memory.foretell(size, batch) or 0.0
        if whole > min(HOPELESS * (search.max_train_seconds or math.inf), self.remaining):
            return False
        if memory > HOPELESS * (search.max_memory_mb or math.inf):
            return False
        return search.excess(size) is None

    def _seconds(self, size: Size, batch: int, passes: float) -> float:
        """What all epochs are foretold to take; 0 while nothing is known."""
        return (self.costs.foretell(size, batch) or 0.0) * passes * self.space.epochs

    def _in_time(self) -> bool:
        """Whether anything new could come to its end, as far as a model of the search knows."""
        if self.deadline is None or self.ledger.model is None:
            return True
        last = self.ledger.model.propose()
        if last.gain > -math.inf:
            return True
        try:
            config = self.space.with_values(last.values)
            size = self._measure(config)
        except SpaceError:
            return True
        batch, passes = last.values.get(BATCH, 1), config.federation.passes
        return self._seconds(size, batch, passes) <= self.remaining

    def _measure(self, config: Config) -> Size:
        key = config.structure
        if key not in self.sizes:
            inputs = config.input.fit(self.data)
            self.sizes[key] = measure(config, inputs, len(self.data.labels))
        return self.sizes[key]

    def _opened(self, trial: optuna.Trial) -> Active | None:
        """The trial with its config; None if the config cannot be trained, which is then told."""
        entry = Entry(trial.number, {})
        try:
            config = self.space.fill(suggest(trial)).model_copy(update={"seed": self.seed})
            entry.values = trial.params
            told = trial.user_attrs  # a copy of all of it, each time
            model = self.ledger.model
            if model and model.proposal and model.proposal.values == entry.values:
                told["whole"] = model.proposal.whole
                trial.set_user_attr("whole", told["whole"])
            self._read(entry, told)
            self.ledger.entries[trial.number] = entry
            size = self._measure(config)
        except SpaceError as error:  # knobs that are fine alone and do not go together
            entry.values = trial.params
            self.ledger.entries[trial.number] = entry
            self._refuse(trial, "infeasible shape", str(error))
            return None
        self._note(trial, "params", size.params)
        self._note(trial, "macs", size.macs)
        if size.frozen:
            self._note(trial, "frozen", size.frozen)
        if config.federated:
            self._note(trial, "passes", config.federation.passes)
        trial.set_user_attr("summary", config.summary)
        excess = self.space.search.excess(size)
        if excess:
            self._refuse(trial, "too large", excess)
            return None
        return Active(trial, config, size, entry)

    def _hear(self, slot: int, event: Event) -> Iterator[Trained | Paused | Closed]:
        match event:
            case Ready():
                self.failed_starts, self.may_fail = 0, STARTS
                self.idle.add(slot)
            case Measured():
                yield from self._timed(slot, event)
            case Epoch():
                yield from self._judge(slot, event)
            case Saved() if self.leave():
                active = self._release(slot)
                self._note_seconds(active)
                self.waiting.append(active)
            case Saved():
                self.engine.send(slot, Go())
            case Refused():
                if slot not in self.active:
                    raise DataError(event.detail)  # as it starts: no trial can be trained
                yield self._give_up(slot, event.reason, event.detail)
            case Broken():
                raise PartBug(f"a part failed{self._shown(slot)}:\n{event.traceback}")
            case Full():
                raise StudyError(f"{self.folder}: {FULL.format(event.detail)}")
            case Lost():
                yield from self._lost(slot, event)

    def _shown(self, slot: int) -> str:
        """Which trial a worker trains, whose config goes to a file that shows what it does."""
        active = self.active.get(slot)
        if active is None:
            return ""
        file = self.folder / "bug.yaml"
        put(file, json.dumps(active.config.dump(), indent=2) + "\n")  # JSON is YAML, too
        return f" in trial {active.trial.number} ({active.config.summary}); its config is {file}"

    def _timed(self, slot: int, told: Measured) -> Iterator[Closed]:
        trial, limit = self.active[slot].trial, self.space.search.max_latency_ms
        self._note(trial, "latency_ms", round(told.latency_ms, 4))
        trial.set_user_attr("latency_64_ms", round(told.latency_64_ms, 4))
        if limit and told.latency_ms > limit:
            detail = f"{told.latency_ms:.3g} ms for one example; max_latency_ms: {limit:g}"
            yield self._give_up(slot, "too slow", detail)
        else:
            self.engine.send(slot, Go())

    def _judge(self, slot: int, epoch: Epoch) -> Iterator[Trained | Paused | Closed]:
        active = self.active[slot]
        trial, number = active.trial, active.trial.number
        epochs = active.config.train.epochs
        score = epoch.metrics[self.metric.name]
        active.history.append(epoch)
        entry = active.entry
        fresh, undecided = epoch.number > active.reported, epoch.number > active.decided
        if fresh:
            self._note_memory(active, epoch)
        excess = self._excess(active) if undecided else None  # notes the cost before the score
        if fresh:
            entry.curve.append(self.sign * score)
            if self.cost:  # Optuna takes reports for one goal only
                trial.set_user_attr("curve", [self.sign * told for told in entry.curve])
            else:
                trial.report(score, epoch.number)
            active.reported = epoch.number
            active.attempts = 0  # what was lost before has cost no epoch
            if epoch.seconds > self.longest[0]:
                self.longest = epoch.seconds, max(1.0, active.work)
        entry.seconds = sum(e.seconds for e in active.history) / len(active.history)
        batch, passes = entry.values.get(BATCH, 1), active.config.federation.passes
        self.costs.learn(number, active.size, batch, entry.seconds / passes)
        yield Trained(number, epoch, epochs)

        if excess:
            yield self._give_up(slot, *excess)
            return
        if self.sign * score > self.top:  # the first epoch is slow, as all begins with it
            seconds = min(told.scoring for told in active.history)
            self.top, self.pace = self.sign * score, seconds / max(1, len(self.data.valid))
        if epoch.number == epochs:
            self._release(slot)
            self._tell(active, TrialState.COMPLETE, score)
            yield self._ended(number)
            return
        active.decided = max(active.decided, epoch.number)
        reason = self.pruner.stop(entry, self.ledger) if undecided else None
        if reason is not None:
            self._release(slot)
            yield self._stop(active, reason)
        elif undecided and self.pruner.pause(entry, self.ledger):
            self._release(slot)
            entry.state = "paused"
            trial.set_user_attr("paused", epoch.number)
            self._note_seconds(active)
            self.paused[number] = active
            yield Paused(number, epoch.number)
        else:
            near = self.remaining < NEAR * entry.seconds  # or its weights are those of before
            self.engine.send(slot, Save() if near or self.leave() else Go())

    def _excess(self, active: Active) -> tuple[Reason, str] | None:
        """Which limit the training of a trial breaks, as its epochs tell, and by how much."""
        search, epochs = self.space.search, active.history
        seconds = [epoch.seconds for epoch in epochs]
        pace = min(seconds[1:], default=0.0)  # not of the first one, which warms up
        whole = sum(seconds) + (active.config.train.epochs - len(seconds)) * pace
        if self.cost == "train_seconds" and (
            pace or epochs[-1].number == active.config.train.epochs
        ):
            self._note(active.trial, "train_seconds", round(whole, 3))
        most = search.max_memory_mb
        if most and (memory := active.trial.user_attrs.get("memory_mb", 0.0)) > most:
            return "too large", f"{memory:,.0f} MB; max_memory_mb: {most:g}"
        if search.max_train_seconds and whole > search.max_train_seconds:
            told = f"{whole:.3g} s to its end; max_train_seconds: {search.max_train_seconds:g}"
            return "too slow", told
        return None

    def _note_memory(self, active: Active, epoch: Epoch) -> None:
        if epoch.memory_mb is not None:
            batch = active.entry.values.get(BATCH, 1)
            self.memory.learn(active.trial.number, active.size, batch, epoch.memory_mb)
            active.trial.set_user_attr("memory_mb", round(epoch.memory_mb, 1))

    def _give_up(self, slot: int, reason: Reason, detail: str) -> Closed:
        """A trial under way whose config cannot be trained."""
        active = self._release(slot)
        self._note_seconds(active)
        self._refuse(active.trial, reason, detail)
        return self._ended(active.trial.number)

    def _stop(self, active: Active, reason: str) -> Closed:
        active.trial.set_user_attr("reason", reason)
        self._tell(active, TrialState.PRUNED)
        return self._ended(active.trial.number)

    def _lost(self, slot: int, event: Lost) -> Iterator[Closed]:
        """A worker is gone: its trial goes on elsewhere, from its checkpoint, as the same trial."""
        if event.reason and slot in self.active:
            yield self._give_up(slot, event.reason, event.detail)
        active = self.active.pop(slot, None)
        if active:
            self._note_seconds(active)
            active.attempts += 1
            if active.attempts < ATTEMPTS:
                self.waiting.appendleft(active)
            else:
                active.trial.set_user_attr("reason", f"worker lost {ATTEMPTS} times")
                self._tell(active, TrialState.FAIL)
                yield self._ended(active.trial.number)
        elif slot not in self.idle:
            self.failed_starts += 1
            if self.failed_starts >= self.may_fail:
                raise StudyError(f"workers do not start: {event.detail}; see workers.log")
        self.idle.discard(slot)
        self.engine.start(slot)

    def _release(self, slot: int) -> Active:
        active = self.active.pop(slot)
        self.late = False  # it may have told that others take less
        self.ledger.may_ask = self._may_ask()
        self.freed[slot] = self.engine.now()
        self.busy += self.freed[slot] - active.began
        self.worked.add(active.trial.number)
        self.idle.add(slot)
        return active

    def _refuse(self, trial: optuna.Trial, reason: Reason, detail: str) -> None:
        """The config's own fault: the sampler learns to keep away, which a FAIL would not teach."""
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("detail", detail[:500])
        trial.set_constraint("runnable", 1.0)
        self.study.tell(trial, state=TrialState.PRUNED)
        if trial.number in self.ledger.entries:
            self.ledger.entries[trial.number].state = "infeasible"
        disk.remove(self.checkpoint(trial.number))

    def _tell(self, active: Active, state: TrialState, score: float | None = None) -> None:
        active.entry.state = "closed"
        self._note_seconds(active)
        both = [score, active.entry.cost] if self.cost and score is not None else score
        self.study.tell(active.trial, both, state=state)

    def _note(self, trial: optuna.Trial, name: str, value: float) -> None:
        trial.set_user_attr(name, value)
        if name == self.cost:
            self.ledger.entries[trial.number].cost = value

    def _note_seconds(self, active: Active) -> None:
        if not active.history:
            return  # it was paused, and noted then
        seconds = sum(epoch.seconds for epoch in active.history)
        active.trial.set_user_attr("seconds", round(seconds, 3))
        active.trial.set_user_attr("epochs", len(active.history))

    def _under_way(self) -> list[int]:
        """The trials that go on now or later."""
        held = [*self.active.values(), *self.waiting, *self.paused.values()]
        return [active.trial.number for active in held]

    def make_room(self, needed: Iterable[int] = ()) -> None:
        """For trainings beside the trials: these lose weights that the study has no room for.

        But for those of the trials that are `needed`.
        """
        rows = self.rows()
        self._tidy(rows, {*needed, *(row.trial for row in rows if row.front)})

    def _tidy(self, rows: list[Row], needed: set[int]) -> None:
        """Weights of the best few finished trials and of those under way stay on disk."""
        finished = [row.trial for row in rows[:MORE] if row.state == "finished"]
        keep = {*self._under_way(), *needed}
        if (best := self._best(rows)) is not None:
            keep.add(best)  # something to deliver, whatever time or room there is
        more = [trial for trial in finished if trial not in keep]
        self._clear({*keep, *more})
        room, spare = ROOM, math.inf
        if self.disk is not None:
            spare = self.disk - taken(self.folder) + self._bytes(more)
        for trial in more:
            size = self._bytes([trial])
            spare -= size
            room -= 0 if trial in finished[:KEPT] else size
            if min(room, spare) >= 0:
                keep.add(trial)
        self._clear(keep)

    def _clear(self, keep: set[int]) -> None:
        for folder in (self.folder / "trials").glob("*"):
            if folder.name.isdecimal() and int(folder.name) not in keep:
                disk.remove(folder / "checkpoint.pt")
                with contextlib.suppress(OSError):  # somebody else's file lies there
                    folder.rmdir()

    def _bytes(self, trials: Iterable[int]) -> int:
        """What the weights of these trials take on disk."""
        return sum(taken(self.checkpoint(trial).parent) for trial in trials)

    def _crowded(self) -> dict[int, str]:
        """The worst paused trials, as many as there is no room for on disk, and why they stop."""
        over = 0 if self.disk is None else taken(self.folder) - self.disk
        if over <= 0:
            return {}
        worst = sorted(self.paused, key=lambda number: self._standing(self.paused[number].entry))
        dropped = {}
        while over > 0 and worst:
            over -= self._bytes([worst[0]])
            dropped[worst.pop(0)] = "no room on disk"
        return dropped

    def _standing(self, entry: Entry) -> float:
        """Share of the trials that came as far which are worse; larger is better."""
        place, of = self.ledger.rank(entry)
        return 1 - place / of

    def _ended(self, number: int) -> Closed:
        trials = self.study.get_trials(deepcopy=False)
        ended = leaderboard.row(trials[number])
        self.ended.add(ended)
        ranking = self.ended.joined(trials[other] for other in self._under_way())
        rows, front = ranking.rows, ranking.front
        self._tidy(rows, front)
        self.reserved = self.after(rows)
        ended = replace(ended, rank=ranking.index(ended) + 1, front=number in front)
        best = rows[0] if rows[0].state == "finished" else None
        is_best = best is not None and best.trial == number
        return Closed(ended, best.score if best else None, is_best, self.done, self.forecast)

    @property
    def forecast(self) -> Forecast | None:
        """From what a trial has taken so far, in the mean; None until a few have had their time.

        One that is under way counts as half a trial more. Of those paused so many go on as of all
        have come to their end, and have half of it behind them.
        """
        if len(self.worked) < min(ATTEMPTS, self.trials):
            return None
        each = self.busy / len(self.worked) / self.engine.slots
        ended = len(self.ledger.finished) / len(self.ledger.entries)
        halves = len(self.active) + len(self.waiting) + len(self.paused) * ended
        work = (self.trials - self.asked + halves / 2) * each
        if work <= self.remaining:
            return Forecast(work + self.reserved, self.trials)
        trials = self.done + int(self.remaining / max(each, 1e-9))
        return Forecast(self.remaining + self.reserved, trials)

    def checkpoint(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}" / "checkpoint.pt"


def suggest(trial: optuna.Trial) -> Draw:
    """Fill holes with what Optuna suggests, under their path names."""

    def draw(name: str, hole: Hole) -> Any:
        if isinstance(hole, Int):
            step = 1 if hole.log else hole.step
            return trial.suggest_int(name, hole.low, hole.high, step=step, log=hole.log)
        if isinstance(hole, Float):
            return trial.suggest_float(name, hole.low, hole.high, step=hole.step, log=hole.log)
        return trial.suggest_categorical(name, list(hole.options))

    return draw
