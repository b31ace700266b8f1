"""Trials that pause and go on, and the model that says which.

The driver and the study are the real ones; workers read their scores off a table.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
import scipy.optimize
import torch
from optuna.trial import TrialState
from test_driver import Config, Table, opened, trials, width
from threadpoolctl import threadpool_info, threadpool_limits

from automl.config import Config as Whole
from automl.data import Epoch, Metric
from automl.engines import Event, Job, Refused, Request, Save
from automl.holes import Choice, Float, Int, random_value, share_of, value_at
from automl.searching.driver import Closed, Paused, Trained
from automl.searching.encoder import Encoder
from automl.searching.gaussian import NEAREST, GaussianProcess
from automl.searching.ledger import Entry, Ledger, State
from automl.searching.pruners import Auto
from automl.searching.surrogate import Surrogate, improvement, key
from automl.space import Space
from automl.training import train

SPACE = """
task: digits
model: {name: mlp, widths: [{int: [1, 64]}], dropout: {float: [0, 0.9]}}
optimizer:
  choice:
    - {name: adamw, lr: {float: [1e-4, 1e-1], log: true}}
    - {name: sgd, lr: {float: [1e-3, 1.0], log: true}, momentum: {float: [0, 0.9]}}
train: {epochs: 18}
"""


def worth(config: Config) -> float:
    """Best, at 0.9: a wide net with little dropout and AdamW at 0.01."""
    lr = config["optimizer"]["lr"]
    off = (1 - width(config) / 64) ** 2 + config["model"]["dropout"] ** 2
    off += (math.log10(lr) + 2) ** 2 / 4 + 0.5 * (config["optimizer"]["name"] == "sgd")
    return 0.2 + 0.7 * math.exp(-off)


def rising(config: Config, epoch: int) -> float:
    return worth(config) * (1 - 0.5 * 0.8**epoch)


def whole_or_stopped(folder: Path, count: int) -> None:
    """`count` closed trials, each with the curve of its own config from the first epoch on."""
    found = trials(folder)
    assert len(found) == count
    for trial in found:
        config = Space.parse(SPACE).with_values(trial.params).dump()
        epochs = len(trial.intermediate_values)
        want = {epoch: rising(config, epoch) for epoch in range(1, epochs + 1)}
        assert trial.intermediate_values == want
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("sampler", ["auto", "tpe", "random"])
def test_paused_trials_go_on_in_their_own_rows(sampler: str, slots: int, tmp_path: Path) -> None:
    text = SPACE + f"search: {{sampler: {sampler}}}"
    table = Table(rising, slots=slots)
    events = list(opened(tmp_path / "s", table, 30, text=text).run())
    whole_or_stopped(tmp_path / "s", 30)
    finished = {e.row.trial for e in events if isinstance(e, Closed) and e.row.state == "finished"}
    for trial in trials(tmp_path / "s"):
        epochs = len(trial.intermediate_values)
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        assert (epochs == 18) == (trial.state == TrialState.COMPLETE)
    jobs = Counter(job.trial for job in table.jobs)
    told = Counter(event.trial for event in events if isinstance(event, Paused))
    went_on = 0
    for number, count in jobs.items():  # taken up once for every pause that did not end it
        assert count == told[number] + (number in finished or number not in told)
        went_on += count > 1
    assert went_on, "none of those that paused went on"


@pytest.mark.parametrize("slots", [1, 2])
def test_a_search_with_paused_trials_stopped_after_any_event_goes_on(
    slots: int, tmp_path: Path
) -> None:
    text = SPACE.replace("epochs: 18", "epochs: 4")
    whole = len(list(opened(tmp_path / "whole", Table(rising, slots=slots), 9, text=text).run()))
    for stop in range(0, whole + 1, 3):
        folder = tmp_path / str(stop)
        events = opened(folder, Table(rising, slots=slots), 9, text=text).run()
        seen = list(itertools.islice(events, stop))
        events.close()
        closed = {event.row.trial for event in seen if isinstance(event, Closed)}
        table = Table(rising, slots=slots)
        driver = opened(folder, table, 9, text=text)
        list(driver.run())
        whole_or_stopped(folder, 9)
        assert closed.isdisjoint(job.trial for job in table.jobs), "trained a closed trial again"
        assert driver.rows()[0].state == "finished"


def test_what_paused_stays_paused_after_a_restart(tmp_path: Path) -> None:
    events = opened(tmp_path / "s", Table(rising), 30, text=SPACE).run()
    for event in events:
        if isinstance(event, Paused):
            break
    events.close()
    driver = opened(tmp_path / "s", Table(rising), 30, text=SPACE)
    assert list(driver.paused) == [event.trial]
    assert driver.paused[event.trial].entry.epoch == event.epoch
    assert not driver.waiting


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_what_paused_before_a_restart_does_not_pause_there_again(
    sampler: str, tmp_path: Path
) -> None:
    text = SPACE + f"search: {{sampler: {sampler}}}"
    events, paused = opened(tmp_path / "s", Table(rising), 40, text=text).run(), dict[int, int]()
    for event in events:
        if isinstance(event, Paused):
            paused[event.trial] = event.epoch
        if len(paused) == 9:
            break
    events.close()
    table = Table(rising)
    after = [e for e in opened(tmp_path / "s", table, 40, text=text).run() if isinstance(e, Paused)]
    assert paused.keys() & {job.trial for job in table.jobs}, "some of them go on"
    assert all(event.epoch > paused.get(event.trial, 0) for event in after)


def test_the_model_finds_more_with_less_than_chance_does(tmp_path: Path) -> None:
    def searched(sampler: str, pruner: str, seed: int) -> tuple[float, int]:
        table = Table(rising)
        text = SPACE + f"search: {{sampler: {sampler}, pruner: {pruner}}}"
        driver = opened(tmp_path / f"{sampler}{seed}", table, 30, text=text, seed=seed)
        epochs = sum(isinstance(event, Trained) for event in driver.run())
        rows = driver.rows()
        assert rows[0].score is not None
        return rows[0].score, epochs

    ours = [searched("auto", "auto", seed) for seed in range(3)]
    theirs = [searched("random", "none", seed) for seed in range(3)]
    assert np.mean([score for score, _ in ours]) > np.mean([score for score, _ in theirs]) + 0.02
    assert np.mean([score for score, _ in ours]) > 0.85
    assert sum(epochs for _, epochs in ours) < 0.8 * sum(epochs for _, epochs in theirs)


def test_no_config_is_proposed_twice(tmp_path: Path) -> None:
    text = "task: digits\nmodel: {name: mlp, widths: [{int: [1, 24]}]}\ntrain: {epochs: 9}\n"
    table = Table(lambda config, epoch: 0.5 + width(config) / 100)
    list(opened(tmp_path / "s", table, 20, text=text).run())
    assert len({width(job.config) for job in table.jobs}) == 20


def test_all_configs_are_tried_before_one_comes_twice() -> None:
    space = Space.parse("task: digits\nmodel: {name: mlp, widths: [{int: [1, 600]}]}\n")
    ledger = Ledger(epochs=9)
    model = Surrogate(space, ledger, seed=0, startup=1000)
    for number in range(600):
        ledger.entries[number] = Entry(number, model.propose().values)
    assert {entry.values["model.widths[0]"] for entry in ledger.entries.values()} == {
        *range(1, 601)
    }


def test_where_many_begin_at_once_and_none_is_at_a_rung_the_spread_goes_on() -> None:
    ledger = Ledger(epochs=18)
    model = Surrogate(Space.parse(SPACE), ledger, seed=0, startup=6)
    for number in range(8):
        values = model.propose().values
        ledger.entries[number] = Entry(number, values, curve=[0.5 + number / 100])
    assert model.ready
    assert len({key(entry.values) for entry in ledger.entries.values()}) == 8


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median", "none", "auto"])
def test_the_model_learns_from_unfinished_trials_whoever_stops_them(pruner: str) -> None:
    ledger = Ledger(epochs=18)
    space = Space.parse(f"{SPACE}search: {{pruner: {pruner}}}\n")
    model = Surrogate(space, ledger, seed=0, startup=3)
    for number in range(4):
        curve = [0.1 * number, *[0.2 * number] * 4]
        ledger.entries[number] = Entry(number, model.propose().values, "closed", curve)
    model.propose()
    first = {0.1, 0.1 * 3} if pruner == "hyperband" else set()  # it may stop after one epoch
    assert {score for score in model.at_rungs.scores if score} == {0.2, 0.4, 0.2 * 3} | first
    assert not model.at_ends.scores


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_what_is_stopped_before_the_usual_first_rung_is_learned_too(
    pruner: str, tmp_path: Path
) -> None:
    """Else what is expected of its like stays what it was, and nothing else is tried."""
    text = SPACE.replace("epochs: 18", "epochs: 100") + f"search: {{pruner: {pruner}}}"

    def slow(config: Config, epoch: int) -> float:
        return worth(config) * (1 - 0.5 * 0.95**epoch)

    driver = opened(tmp_path / "s", Table(slow), 30, text=text, seed=1)
    list(driver.run())
    model, entries = driver.ledger.model, driver.ledger.entries.values()
    assert isinstance(model, Surrogate)
    model.propose()  # it notes what the last trial has told
    assert any(entry.epoch < 12 for entry in entries), "before a ninth of the training"
    seen = {stand.tobytes() for stand in model.at_rungs.stands}
    assert all(model.stood[entry.number].tobytes() in seen for entry in entries if entry.curve)
    assert max(worth(driver.config(entry.number).dump()) for entry in entries) > 0.85


@pytest.mark.parametrize(("pruner", "wholes"), [("median", False), ("none", True), ("auto", True)])
def test_nothing_is_to_train_to_its_end_where_the_pruner_may_stop_it(
    pruner: str, wholes: bool, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Table(rising), 16, text=f"{SPACE}search: {{pruner: {pruner}}}")
    list(driver.run())
    assert any(entry.whole for entry in driver.ledger.entries.values()) == wholes


def test_the_same_holds_for_workers_side_by_side(tmp_path: Path) -> None:
    table = Table(rising, slots=4)
    list(opened(tmp_path / "s", table, 24, text=SPACE).run())
    params = {key(trial.params) for trial in trials(tmp_path / "s")}
    assert len(params) == 24


def test_a_model_that_is_too_large_is_not_even_proposed(tmp_path: Path) -> None:
    text = SPACE + "search: {max_params: 1000}"  # 64 + 10 a unit and 10 more
    driver = opened(tmp_path / "s", Table(rising), 25, text=text)
    list(driver.run())
    assert all(row.params is not None and row.params <= 1000 for row in driver.rows())
    assert {row.state for row in driver.rows()} <= {"finished", "stopped"}


def test_a_trial_at_chance_stops_at_once_and_so_does_one_that_falls_apart(tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float:
        if config["optimizer"]["name"] == "sgd":
            return 0.1
        return 0.05 if width(config) > 32 and epoch > 5 else rising(config, epoch)

    driver = opened(tmp_path / "s", Table(curve), 25, text=SPACE)
    driver.ledger.chance = 0.1
    list(driver.run())
    reasons = Counter(row.reason for row in driver.rows() if row.score is not None)
    assert reasons["at chance at epoch 2"] > 1
    for row in driver.rows():
        if row.reason.startswith("fell apart"):
            assert row.reason == f"fell apart at epoch {row.epochs}"
            assert row.epochs == 6


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        ([0.105, 0.1], None),  # a few of the examples by luck
        ([0.105, *[0.1] * 10], None),
        ([0.105, *[0.1] * 11], "at chance at epoch 12"),  # the first rung
        ([0.2, 0.1], "fell apart at epoch 2"),
        ([0.2, 0.105], None),
    ],
)
def test_what_is_above_chance_by_luck_alone_has_not_fallen_apart(
    curve: list[float], told: str | None
) -> None:
    ledger = Ledger(epochs=100, feasible=lambda _values: True)
    ledger.chance, ledger.blur = 0.1, lambda score: Metric("accuracy").blur(score, 288)
    assert Auto().stop(Entry(0, {}, "under way", curve), ledger) == told


@pytest.mark.parametrize("until", [0, 3], ids=["at chance", "fell apart"])
def test_the_model_keeps_away_from_where_nothing_is_better_than_chance(
    until: int, tmp_path: Path
) -> None:
    """Two thirds of all configs are there, and the best others are next to them."""

    def curve(config: Config, epoch: int) -> float:
        if config["optimizer"]["lr"] > 3e-3:
            return 0.3 if epoch <= until else 0.1
        return rising(config, epoch)

    driver = opened(tmp_path / "s", Table(curve), 40, text=SPACE)
    driver.ledger.chance = 0.1
    list(driver.run())
    late = [row for row in driver.rows() if row.trial >= 10]
    stopped = [row for row in late if row.reason.startswith(("at chance", "fell apart"))]
    assert len(stopped) < len(late) / 2


def test_where_nothing_can_be_better_no_more_is_trained_than_one_look(tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float:
        return 1.0 if epoch > 3 else rising(config, epoch)

    driver = opened(tmp_path / "s", Table(curve), 20, text=SPACE)
    driver.ledger.ceiling, driver.ledger.blur = 1.0, lambda _score: 0.01
    list(driver.run())
    rows = sorted(driver.rows(), key=lambda row: row.trial)
    assert [row.epochs for row in rows[6:]] == [2] * 14


ADAMW = "optimizer: {name: adamw, lr: {float: [1e-4, 1e-1], log: true}}\n"
FLAT = SPACE[: SPACE.index("optimizer")] + ADAMW + SPACE[SPACE.index("train:") :]


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(("text", "ends"), [(SPACE, 4), (FLAT, 2)], ids=["branches", "flat"])
def test_of_the_first_looks_the_best_come_to_their_ends_before_the_model_decides(
    text: str, ends: int, slots: int, tmp_path: Path
) -> None:
    table = Table(rising, slots=slots)
    driver = opened(tmp_path / "s", table, 40, text=text)
    events = driver.run()
    while len(driver.ledger.finished) < ends:
        next(events)
    seen = driver.ledger.entries.values()
    early = {entry.number: entry.curve[1] for entry in seen if entry.epoch > 1}
    best = sorted((n for n in early if n < 6), key=early.__getitem__)[-ends:]
    jobs = [job.trial for job in table.jobs]
    again = [number for place, number in enumerate(jobs) if number in jobs[:place]]
    if slots == 1:
        assert jobs == [*range(6), *reversed(best)]
    else:  # who asks when not all six have come there takes the best of those that have
        assert len(again) == ends
        assert best[-1] in again


@pytest.mark.parametrize("text", [SPACE, FLAT], ids=["branches", "flat"])
@pytest.mark.parametrize("slots", [1, 3])
def test_fewer_trials_than_looks_all_come_to_their_ends(
    text: str, slots: int, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Table(rising, slots=slots), 5, text=text)
    list(driver.run())
    assert [row.state for row in driver.rows()] == ["finished"] * 5


def test_of_many_workers_half_train_the_first_ends(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(rising, slots=16), 99, text=FLAT)
    most = 0
    for _ in driver.run():
        if driver.ledger.finished:
            break
        ahead = [entry for entry in driver.ledger.of("under way") if entry.epoch >= 2]
        most = max(most, len(ahead))
    assert most == 8


def test_where_time_is_short_the_best_of_the_first_looks_comes_to_its_end(tmp_path: Path) -> None:
    for epochs in range(20, 31):  # that fit; six at their first rung and one end take 28
        table = Table(rising)
        driver = opened(tmp_path / str(epochs), table, 99, text=SPACE)
        entries = driver.ledger.entries
        table.now = lambda entries=entries: 0.5 * sum(e.epoch for e in entries.values())
        driver.deadline = 0.5 * epochs
        list(driver.run())
        assert driver.rows()[0].state == "finished", f"nothing after {epochs} epochs"


def test_what_the_space_believes_in_goes_to_its_end_at_once(tmp_path: Path) -> None:
    table = Table(rising)
    text = (
        SPACE
        + "start: [{model: {widths: [8], dropout: 0.1}, optimizer: {name: adamw, lr: 0.01}}]\n"
    )
    driver = opened(tmp_path / "s", table, 8, text=text)
    events = driver.run()
    while len(driver.ledger.entries) < 3:
        next(events)
    assert [driver.ledger.entries[number].epoch for number in (0, 1)] == [18, 2]


def test_the_forecast_of_a_search_with_paused_trials_is_near_what_comes(tmp_path: Path) -> None:
    """Of trials that wait few come to their ends; as whole ones they made it 4 times too long.

    They do count: in so far as trials come to their ends at all.
    """
    table = Table(rising)
    driver = opened(tmp_path / "s", table, 50, text=SPACE, seed=2)
    entries = driver.ledger.entries
    table.now = lambda: 0.5 * sum(entry.epoch for entry in entries.values())
    told, waited = [], 0
    for event in driver.run():
        if isinstance(event, Closed) and (forecast := event.forecast):
            told.append((table.now(), forecast.seconds))
            paused = len(driver.paused)
            with mock.patch.object(driver, "paused", {}):
                without = driver.forecast
            assert without
            assert (without.seconds < forecast.seconds) == (paused > 0)
            waited = max(waited, paused)
    assert waited > 5
    end = table.now()
    late = [(end - now, seconds) for now, seconds in told if end / 2 < now < 0.95 * end]
    assert len(late) > 10
    assert all(left / 1.5 < seconds < 2.5 * left for left, seconds in late)


def test_what_is_no_clear_gain_is_not_trained_on(tmp_path: Path) -> None:
    """A hundred examples cannot tell 0.90 from 0.91, and no config here is any better."""

    def epochs(examples: int) -> int:
        def curve(config: Config, epoch: int) -> float:
            return 0.9 + 0.01 * worth(config) - 0.5**epoch

        driver = opened(tmp_path / str(examples), Table(curve), 50, text=SPACE)
        driver.ledger.blur = lambda score: driver.metric.blur(score, examples)
        return sum(isinstance(event, Trained) for event in driver.run())

    assert epochs(100) < 0.7 * epochs(10**6)


@pytest.mark.parametrize(("whole", "believed", "next_one"), [(0, 0, True), (1, 0, True),
                         (2, 0, False), (0, 2, False), (1, 1, False), (0, 1, True)])  # fmt: skip
def test_half_of_all_epochs_are_of_trials_that_train_to_their_ends(
    whole: int, believed: int, next_one: bool
) -> None:
    """Those that the view of ends proposed, and those that came from elsewhere."""
    space = Space.parse("task: digits\nmodel: {name: mlp, dropout: {float: [0, 0.9]}}\n")
    ledger = Ledger(epochs=2)
    model = Surrogate(space, ledger, seed=0, startup=3)
    for number in range(4):
        entry = Entry(number, {"model.dropout": number / 5}, "closed", [0.5, 0.6 + number / 10])
        entry.whole, entry.believed = number < whole, number >= 4 - believed
        ledger.entries[number] = entry
    assert model.propose().whole == next_one


def test_every_branch_has_its_turn_now_and_then() -> None:
    space = Space.parse(SPACE.replace("dropout:", "activation: {choice: [relu, gelu]}, dropout:"))
    ledger = Ledger(epochs=1)
    model = Surrogate(space, ledger, seed=0, startup=3)
    best = {"model.widths[0]": 64, "model.activation": "relu", "model.dropout": 0.1,
            "optimizer": "adamw", "optimizer.adamw.lr": 0.01}  # fmt: skip
    for number in range(8):
        values = best | {"model.dropout": 0.1 + number / 50}
        ledger.entries[number] = Entry(number, values, "closed", [0.9 - number / 100])
    turns = [model.branch(np.random.default_rng(seed)) for seed in range(200)]
    assert 30 < sum(turn != {} for turn in turns) < 70
    assert {turn["optimizer"] for turn in turns if turn} == {"adamw", "sgd"}
    assert {tuple(turn) for turn in turns if turn} == {("optimizer",)}, "it opens no other knobs"
    rng = np.random.default_rng(0)
    centers = model.encoder.stands([best] * 20)
    near = model.near(centers, rng, 0.1, 0.5, {"optimizer": "sgd"})
    bound = [model.encoder.values(stand) for stand in near]
    assert {values["optimizer"] for values in bound} == {"sgd"}
    assert all("optimizer.sgd.lr" in values for values in bound)


class Clocked(Table):
    """Every epoch takes half a second."""

    clock = 0.0

    def now(self) -> float:
        return self.clock

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        (told,) = super().wait(timeout)
        if isinstance(told[1], Epoch):
            self.clock += 0.5
        return [told]

    def send(self, slot: int, request: Request) -> None:
        before = self.clock
        super().send(slot, request)
        self.clock = before


@pytest.mark.parametrize("seconds", [150, 200])
def test_when_time_is_nearly_up_the_best_that_can_be_finished_is(
    seconds: int, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Clocked(rising), 1000, text=SPACE)
    driver.deadline = float(seconds)
    begun = set[int]()
    for event in driver.run():
        if isinstance(event, Trained) and event.trial not in begun:
            begun.add(event.trial)
            left = seconds - driver.engine.now()
            could = [a for a in driver.paused.values() if (18 - a.entry.epoch) / 2 <= left]
            assert left >= 8.5 or not could, "a trial was begun in the time to finish one"
    assert driver.engine.now() <= seconds + 1
    assert len(begun) > 10


@pytest.mark.parametrize("seconds", [100, 150, 200])
def test_nothing_new_begins_that_could_not_end_in_time(seconds: int, tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Clocked(rising), 1000, text=SPACE)
    driver.deadline = float(seconds)
    begun = dict[int, float]()
    for event in driver.run():
        if isinstance(event, Trained):
            begun.setdefault(event.trial, driver.engine.now() - 0.5)
    assert len(begun) > 10
    assert max(begun.values()) + 18 / 2 <= seconds
    ends = driver.engine.now()
    assert seconds - 9 < ends <= seconds
    again = opened(tmp_path / "s", Clocked(rising), 1000, text=SPACE)  # another day
    again.deadline = 20.0
    assert max(event.trial for event in again.run() if isinstance(event, Trained)) > max(begun)


class Uneven(Clocked):
    """Epochs take a quarter of a second to a whole one. It keeps which epochs were saved."""

    def __init__(self) -> None:
        super().__init__(rising)
        self.saved, self.saves = dict[int, int](), 0

    def send(self, slot: int, request: Request) -> None:
        super().send(slot, request)
        if isinstance(request, Save):
            job, epoch = self.at[slot]
            self.saved[job.trial] = epoch
            self.saves += 1
        if isinstance(told := self.pending[slot], Epoch):
            self.pending[slot] = replace(told, seconds=self.random.uniform(0.25, 1.0))

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        slot, told = next(iter(self.pending.items()))
        if isinstance(told, Epoch):
            if told.seconds > timeout:
                self.clock += timeout
                return []
            self.clock += told.seconds
        del self.pending[slot]
        return [(slot, told)]


@pytest.mark.parametrize("seed", range(8))
def test_when_time_is_up_the_weights_are_those_of_the_last_epoch_told(
    seed: int, tmp_path: Path
) -> None:
    table = Uneven()
    table.random.seed(seed)
    driver = opened(tmp_path / "s", table, 9, text=SPACE + "search: {pruner: none}\n")
    driver.deadline = 6.0
    list(driver.run())
    (active,) = driver.active.values()
    assert table.saved == {active.trial.number: active.reported}
    assert 0 < table.saves < active.reported, "not each epoch: only when time is nearly up"


def test_what_is_paused_waits_for_another_day_where_nothing_new_could_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = opened(tmp_path / "s", Table(rising), 1000, text=SPACE)
    monkeypatch.setattr(driver, "_in_time", lambda: driver.asked < 20)
    closed = [event.row for event in driver.run() if isinstance(event, Closed)]
    assert driver.asked == 20
    assert driver.paused
    assert not [row for row in closed if "likely" in row.reason], "they would never go on"


class Warming(Table):
    """Four workers at once. An epoch takes half a second, and the first one of each ten."""

    def __init__(self) -> None:
        super().__init__(rising, slots=4)
        self.clock, self.due = 0.0, dict[int, float]()  # by slot: when it answers
        self.trained = set[tuple[int, int]]()

    def now(self) -> float:
        return self.clock

    def send(self, slot: int, request: Request) -> None:
        super().send(slot, request)
        job, epoch = self.at[slot]
        seconds = 0.5 if slot in self.due else 10.0
        if isinstance(told := self.pending[slot], Epoch):
            self.pending[slot] = replace(told, seconds=seconds)
        again = (job.trial, epoch) in self.trained  # from its checkpoint, or only to be saved
        self.due[slot] = self.clock + (0.0 if again else seconds)
        self.trained.add((job.trial, epoch))

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        slot = min(self.pending, key=lambda slot: (self.due.get(slot, 0.0), slot))
        due = max(self.clock, self.due.get(slot, 0.0))
        if due > self.clock + timeout:
            self.clock += timeout
            return []
        self.clock = due
        return [(slot, self.pending.pop(slot))]


@pytest.mark.parametrize(("epochs", "seconds"), [(9, 45), (18, 30)])
def test_slow_first_epochs_do_not_end_a_search(epochs: int, seconds: int, tmp_path: Path) -> None:
    text = SPACE.replace("epochs: 18", f"epochs: {epochs}")
    driver = opened(tmp_path / "s", Warming(), 1000, text=text)
    driver.deadline = float(seconds)
    list(driver.run())
    assert driver.engine.now() > seconds - epochs / 2
    assert len(driver.ledger.finished) > 5


@pytest.mark.parametrize("count", [4, 1000])
def test_where_nothing_can_end_in_time_the_best_one_is_trained_until_then(
    count: int, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Clocked(rising), count, text=SPACE)
    driver.deadline = 8.0
    list(driver.run())
    assert driver.engine.now() == 8
    assert max(entry.epoch for entry in driver.ledger.scored) > 4


@pytest.mark.parametrize("possible", [False, True])
def test_what_is_paused_goes_on_where_nothing_new_could_end_in_time(possible: bool) -> None:
    space = Space.parse("task: digits\nmodel: {name: mlp, dropout: {float: [0, 0.9]}}\n")
    ledger = Ledger(epochs=18, feasible=lambda _values: possible)
    ledger.model = Surrogate(space, ledger, seed=0, startup=3)
    for number in range(8):  # the more, the better
        curve = [0.05 * number + 0.01 * epoch for epoch in range(1, 19)]
        ledger.entries[number] = Entry(number, {"model.dropout": 0.1 * number}, "closed", curve)
    ledger.entries[8] = Entry(8, {"model.dropout": 0.15}, "paused", [0.08, 0.09])
    assert Auto().promote(ledger) == (None if possible else 8)


@pytest.mark.parametrize("refused", ["diverged", "out of memory"])
def test_the_model_learns_from_what_could_not_be_trained(refused: str, tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        if config["optimizer"]["name"] == "sgd":
            return Refused(refused, "")
        return rising(config, epoch)

    driver = opened(tmp_path / "s", Table(curve), 60, text=SPACE)
    list(driver.run())
    states = [row.state for row in sorted(driver.rows(), key=lambda row: row.trial)]
    assert states[40:].count("infeasible") <= 4, "half of all configs are"


@pytest.mark.parametrize(("told", "rung"), [(1, 6), (9, 10), (99, 17)])
def test_the_first_rung_is_the_earliest_whose_ranks_agree_with_the_end(
    told: int, rung: int
) -> None:
    """Until epoch `told` scores are noise, and after it they rank as the end does."""
    rng = random.Random(0)
    ledger = Ledger(epochs=52, model=Surrogate(Space.parse(SPACE), Ledger(52), 0, 6))
    pruner = Auto()
    for number in range(12):
        usual = pruner.decides(ledger)
        curve = [rng.random() if epoch < told else number for epoch in range(1, 53)]
        curve[-1] = number
        ledger.entries[number] = Entry(number, {}, "closed", curve)
        if number < 8:
            assert usual[0] == 6, "too few have finished to know better"
    assert pruner.decides(ledger)[0] == rung
    assert pruner.decides(ledger)[0] in pruner.saves(52)


def test_finished_trials_that_all_score_alike_tell_nothing_of_ranks() -> None:
    ledger = Ledger(epochs=18, model=Surrogate(Space.parse(SPACE), Ledger(18), 0, 6))
    for number in range(9):
        ledger.entries[number] = Entry(number, {}, "closed", [0.5] * 17 + [1.0])
    assert Auto().decides(ledger) == [4, 6, 10, 17], "the last before a third of all epochs"


@pytest.mark.parametrize(("early", "goes_on"), [(0.95, True), (0.2, False)])
def test_the_model_says_which_paused_trial_goes_on(early: float, goes_on: bool) -> None:
    """Curves end 0.2 above where they pause; the best has ended at 0.9."""
    space = Space.parse("task: digits\nmodel: {name: mlp, dropout: {float: [0, 0.9]}}\n")
    ledger = Ledger(epochs=18, may_ask=False)
    ledger.model = Surrogate(space, ledger, seed=0, startup=3)
    for number in range(8):
        start = 0.7 - 0.05 * number
        curve = [start + 0.2 * epoch / 18 for epoch in range(1, 19)]
        entry = Entry(number, {"model.dropout": 0.1 * number}, "closed", curve)
        ledger.entries[number] = entry
    paused = Entry(8, {"model.dropout": 0.85}, "paused", [early - 0.1, early])
    ledger.entries[8] = paused
    assert Auto().promote(ledger) == (8 if goes_on else None)
    told = Auto().drop(ledger)[8]
    assert told.endswith("likely to be best, at epoch 2")
    assert (int(told.partition("%")[0]) >= 10) == goes_on


def test_the_search_looks_further_while_nothing_is_better_and_then_begins_again() -> None:
    ledger = Ledger(epochs=1)
    model = Surrogate(Space.parse(SPACE), ledger, seed=0, startup=3)
    told = []
    for number, score in enumerate([0.1, 0.3, 0.5, 0.7, 0.9] + [0.9] * 25 + [1.5]):
        ledger.entries[number] = Entry(number, {}, "closed", [score])
        told.append(model.stagnant)
    assert told[4:7] == [0, 1, 2]
    assert told[23:27] == [19, 0, 1, 2]
    assert told[-1] == 0


HOLES = [
    Int(2, 9, 1, False, None, 0),
    Int(2, 20, 3, False, None, 0),
    Int(1, 1000, 1, True, None, 0),
    Float(-1.0, 3.0, None, False, None, 0),
    Float(0.0, 1.0, 0.1, False, None, 0),
    Float(1e-6, 1.0, None, True, None, 0),
]


@pytest.mark.parametrize("hole", HOLES, ids=str)
def test_a_value_lies_where_its_share_says(hole: Int | Float) -> None:
    rng = random.Random(0)
    for _ in range(300):
        value = random_value(hole, rng)
        assert hole.low <= value <= hole.high
        share = share_of(hole, value)
        assert 0 <= share <= 1
        assert value_at(hole, share) == pytest.approx(value)
    assert value_at(hole, 0.0) == pytest.approx(hole.low)
    assert value_at(hole, 1.0) == pytest.approx(hole.high)


@pytest.mark.parametrize("file", sorted(Path("search_spaces").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_knob_of_every_filling_is_known(file: Path) -> None:
    space = Space.load(file)
    known = space.all_knobs()
    rng = random.Random(0)
    for _ in range(20):
        values = space.values(lambda _name, hole: random_value(hole, rng))
        assert values.keys() <= known.keys()
        for name, value in values.items():
            hole = known[name]
            assert value in hole.options if isinstance(hole, Choice) else hole.low <= value
        assert isinstance(space.with_values(values), Whole)


def test_knobs_that_are_not_there_do_not_count() -> None:
    encoder = Encoder(Space.parse(SPACE))
    lr = "optimizer.adamw.lr"
    base = {"model.widths[0]": 9, "model.dropout": 0.1, "optimizer": "adamw", lr: 0.01}
    a, b = encoder.points(encoder.stands([base, base | {lr: 0.02}]))
    moved = np.flatnonzero(a != b)
    assert [encoder.names[encoder.groups[column]] for column in moved] == [lr]


REPEATS = """
task: digits
model:
  name: mlp
  widths: {repeat: {int: [1, 5], log: true}, each: {int: [8, 64], step: 8}}
  dropout: {float: [0, 0.8], step: 0.2}
optimizer:
  choice:
    - {name: adamw, lr: {choice: [0.001, 0.01, 0.1]}}
    - {name: sgd, lr: {float: [1e-3, 1.0], log: true}}
train: {batch_size: {int: [2, 4096], log: true}}
"""


@pytest.mark.parametrize(
    "space",
    [*(Space.load(file) for file in sorted(Path("search_spaces").glob("*.yaml"))),
     Space.parse(REPEATS)],
    ids=lambda space: Path(space.source).stem,
)  # fmt: skip
def test_many_configs_at_once_are_what_one_by_one_are(space: Space) -> None:
    encoder = Encoder(space)
    drawn = np.random.default_rng(0).random((200, len(encoder.names)))
    stands = encoder.settled(drawn)
    configs = [encoder.values(stand) for stand in stands]
    for shares, values in zip(drawn, configs, strict=True):
        at = dict(zip(encoder.names, shares.tolist(), strict=True))
        assert values == space.values(lambda name, hole, at=at: value_at(hole, at[name]))
    assert np.allclose(encoder.stands(configs), stands, equal_nan=True)
    points = encoder.points(stands)
    assert np.allclose(encoder.moved(stands, points), stands, equal_nan=True)
    for column, group in enumerate(encoder.groups):
        ranged = not isinstance(encoder.holes[group], Choice)
        assert (encoder.free(stands)[:, column] == (ranged & ~np.isnan(stands[:, group]))).all()
        every = not np.isnan(stands[:, group]).any()
        assert (column in encoder.ranges) == (ranged and bool(every))


def test_candidates_climb_along_the_slopes_of_what_the_process_foretells() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.random((40, 3)), rng.choice([0.3, 1.0], 40)
    y = np.sin(5 * x[:, 0]) + x[:, 1] + 0.1 * t + 0.05 * rng.standard_normal(40)
    process = GaussianProcess([0, 1, 1], 2, [0])
    process.fit(x, t, y, rng)
    process.condition(x, t, y)
    here = rng.random((5, 3))
    mean, left, up, out = (
        part.numpy()
        for part in process._slopes(torch.tensor(here), torch.cholesky_inverse(process.root))
    )
    assert np.allclose((mean, np.sqrt(left)), process.predict(here))
    for column in range(3):
        step = np.eye(3)[column] * 1e-5
        above, below = process.predict(here + step), process.predict(here - step)
        assert np.allclose(up[:, column], (above[0] - below[0]) / 2e-5, rtol=1e-3, atol=1e-5)
        told = (above[1] ** 2 - below[1] ** 2) / 2e-5
        assert np.allclose(out[:, column], told, rtol=1e-3, atol=1e-5)
    best = float(y.max())
    moved = process.climb(here, np.array([[True, True, False]] * 5), best)
    assert (moved[:, 2] == here[:, 2]).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    gained = [improvement(*process.predict(points), best) for points in (here, moved)]
    assert (gained[1] >= gained[0]).all()
    assert gained[1].sum() > gained[0].sum()


def test_where_a_candidate_climbs_is_told_by_the_points_that_are_most_alike() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([0.3 * rng.random((NEAREST, 2)), 0.8 + 0.2 * rng.random((100, 2))])
    x = x[rng.permutation(len(x))]
    t, y = np.ones(len(x)), np.sin(9 * x[:, 0]) + x[:, 1]
    process = GaussianProcess([0, 1], 2, [0, 1])
    process.condition(x, t, y)
    here = 0.3 * rng.random((5, 2))
    seen = process._local(torch.tensor(here)).seen.numpy()
    assert (seen == x[x[:, 0] < 0.5]).all(), "each once, in their order"
    assert len(process.seen) == len(x)
    free, best = np.ones((5, 2), dtype=bool), 0.9 * float(y[x[:, 0] < 0.5].max())
    moved = process.climb(here, free, best)
    gained = [improvement(*process.predict(points), best) for points in (here, moved)]
    assert gained[1].sum() > 1.2 * gained[0].sum()
    local = GaussianProcess([0, 1], 2, [0, 1])
    local.condition(*(of[x[:, 0] < 0.5] for of in (x, t, y)))
    assert np.allclose(local.climb(here, free, best), moved)
    process.expect(moved[:1])
    assert (process._local(torch.tensor(here)).seen[-1].numpy() == moved[0]).all()
    assert not np.allclose(process.climb(here, free, best), moved)


def test_a_kernel_is_fitted_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seen = scipy.optimize.minimize, list[int]()

    def minimize(*given: Any, **options: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return found(*given, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", minimize)
    rng = np.random.default_rng(0)
    with threadpool_limits(2):
        GaussianProcess([0], 1, [0]).fit(rng.random((9, 1)), np.ones(9), rng.random(9), rng)
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert set(seen) == {1}


def test_what_is_expected_is_surer_near_it_and_else_as_foretold() -> None:
    rng = np.random.default_rng(0)
    x, t, ahead, many = rng.random((20, 3)), rng.choice([0.3, 1.0], 20), *rng.random((2, 4, 3))
    y = np.sin(5 * x[:, 0]) + x[:, 1] + 0.1 * t
    process, whole = (GaussianProcess([0, 1, 1], 2, [0]) for _ in range(2))
    process.condition(x, t, y)
    told, told_ahead = process.predict(many), process.predict(ahead)
    process.expect(ahead)
    whole.condition(
        np.concatenate([x, ahead]), np.append(t, np.ones(4)), np.append(y, told_ahead[0])
    )
    for points, before in ((many, told), (ahead, told_ahead)):
        mean, deviation = process.predict(points)
        assert np.allclose(mean, before[0])
        assert np.allclose((mean, deviation), whole.predict(points))
        assert (deviation < before[1]).all()
    assert (process.predict(ahead)[1] < 0.2 * told_ahead[1]).all()
    process.condition(x, t, y)
    assert np.allclose(process.predict(many), told), "it is over"


def test_a_kernel_is_fitted_along_the_slopes_of_its_misfit() -> None:
    rng = np.random.default_rng(0)
    x, t = torch.tensor(rng.random((20, 4))), torch.tensor(rng.choice([0.3, 1.0], 20))
    x[0], x[1] = 0.0, 1.0  # ends of all ranges, where a bend may be endlessly steep
    y = torch.sin(5 * x[:, 0]) + x[:, 1] + 0.1 * t
    process = GaussianProcess([0, 1, 1, 2], 2, [0, 3])
    theta = torch.tensor(process.center) + 0.3 * torch.tensor(rng.standard_normal(12))
    slope = process._misfit(theta, x, t, y)[1]
    kernel = process._kernel_of(theta)
    covariance = kernel(kernel.placed(x), t, kernel.placed(x), t)
    covariance += (torch.exp(2 * theta[-1]) + 1e-6) * torch.eye(20)
    told = torch.distributions.MultivariateNormal(torch.zeros(20).double(), covariance)
    misfit = process._misfit(theta, x, t, y)[0] + 10 * math.log(2 * math.pi)
    assert misfit == pytest.approx(-told.log_prob(y).item())
    for number in range(12):
        step = 1e-5 * torch.eye(12, dtype=torch.float64)[number]
        above, below = (process._misfit(theta + by, x, t, y)[0] for by in (step, -step))
        assert slope[number].item() == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-6)


def test_a_range_that_matters_at_one_end_is_bent_and_better_foretold() -> None:
    def value(x: np.ndarray) -> np.ndarray:  # as of a knob that wanted a logarithm
        return np.sin(1.5 * np.log(x[:, 0] + 0.01)) + 0.3 * x[:, 1]

    missed = {True: 0.0, False: 0.0}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, many, t = rng.random((30, 2)), rng.random((200, 2)), np.ones(30)
        for bends in missed:
            process = GaussianProcess([0, 1], 2, [0, 1] if bends else [])
            process.fit(x, t, value(x), rng)
            process.condition(x, t, value(x))
            missed[bends] += np.abs(process.mean(many) - value(many)).mean()
            if bends:
                first, second = process.kernel.first, process.kernel.second
                assert first[0] < 0.5 < first[1] < 2
                assert ((second > 0.5) & (second < 2)).all()
    assert missed[True] < 0.7 * missed[False]


def test_a_handful_of_configs_says_little_of_how_ranges_bend() -> None:
    rng = np.random.default_rng(4)
    x, t = rng.random((4, 2)).repeat(10, 0), np.tile(np.linspace(0.1, 1.0, 10), 4)
    y = np.sin(1.5 * np.log(x[:, 0] + 0.01)) + 0.3 * t
    process = GaussianProcess([0, 1], 2, [0, 1])
    process.fit(x, t, y, rng)
    for numbers in (process.kernel.first, process.kernel.second):
        assert ((numbers > 0.95) & (numbers < 1.05)).all(), "they count once, not at each rung"


def test_a_process_foretells_the_end_of_a_curve_from_those_of_its_like() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((12, 1))
    times = np.array([0.3, 0.6, 1.0])

    def value(x: np.ndarray, t: float) -> np.ndarray:
        return np.sin(3 * x[:, 0]) * (0.5 + t)

    points = np.concatenate([x, x, x[:8]])
    at = np.concatenate([np.full(12, 0.3), np.full(12, 0.6), np.full(8, 1.0)])
    seen = np.concatenate([value(x, 0.3), value(x, 0.6), value(x[:8], 1.0)])
    process = GaussianProcess([0], 1, [0])
    process.fit(points, at, seen, rng)
    process.condition(points, at, seen)
    mean, deviation = process.predict(x[8:])
    assert np.abs(mean - value(x[8:], 1.0)).max() < 0.15
    known, sure = process.predict(x[:8])
    assert np.abs(known - value(x[:8], 1.0)).max() < 0.05
    assert sure.mean() < deviation.mean()
    far = process.predict(np.array([[9.0]]))[1]
    assert far[0] > 3 * deviation.mean()
    assert times[-1] == 1.0


def test_what_is_under_way_is_not_proposed_again_nearby() -> None:
    space = Space.parse("task: digits\nmodel: {name: mlp, dropout: {float: [0, 0.9]}}\n")
    ledger = Ledger(epochs=1)
    name = "model.dropout"
    for number, value in enumerate((0.0, 0.3, 0.6, 0.9)):
        ledger.entries[number] = Entry(number, {name: value}, "closed", [-((value - 0.5) ** 2)])
    model = Surrogate(space, ledger, seed=0, startup=3)
    first = model.propose().values
    ledger.entries[4] = Entry(4, first)
    second = model.propose().values
    assert abs(first[name] - 0.5) < 0.15
    assert abs(second[name] - first[name]) > 0.01


def test_what_a_trial_tells_is_noted_once_and_learned_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = Space.parse("task: digits\nmodel: {name: mlp, dropout: {float: [0, 0.9]}}\n")
    ledger = Ledger(epochs=18)
    for number in range(8):
        curve = [0.3 + 0.01 * number, *[0.5 + 0.02 * number] * 17]
        ledger.entries[number] = Entry(number, {"model.dropout": 0.1 * number}, "closed", curve)
    refused = ledger.entries[8] = Entry(8, {"model.dropout": 0.85})
    ledger.entries[12] = Entry(12, {"model.dropout": 0.05}, "paused", [0.3, 0.4])
    model = Surrogate(space, ledger, seed=0, startup=3)
    learned = list[int]()
    condition = GaussianProcess.condition

    def counted(self: GaussianProcess, *points: np.ndarray) -> None:
        learned.append(len(points[0]))
        condition(self, *points)

    monkeypatch.setattr(GaussianProcess, "condition", counted)
    rungs = len(space.search.pruner.saves(18)) + 1
    for _ in range(3):
        model.propose()
        model.gain([refused])
        model.chance_to_win([refused])
    refused.state = "infeasible"
    for number in range(13, 16):
        ledger.entries[number] = Entry(number, {"model.dropout": 0.05 * number})
        model.gain([refused])
    seen = 8 * rungs + 1  # the paused one has come to the first rung
    assert learned == [8, seen, *[seen + 1] * 3], "ends to propose, rungs to foretell"
    for points, count in ((model.at_rungs, seen), (model.at_ends, 8)):
        assert np.isnan(points.scores).tolist() == [False] * count + [True]
        assert points.worst == 0.3, "of all epochs"


def test_asking_stays_quick_with_a_thousand_trials() -> None:
    space = Space.load(Path("search_spaces/cifar.yaml"))
    ledger = Ledger(epochs=20)
    rng = random.Random(0)
    for number in range(1000):
        values = space.values(lambda _name, hole: random_value(hole, rng))
        curve = [rng.random() for _ in range(20 if number % 8 == 0 else 3)]
        ledger.entries[number] = Entry(number, values, "closed", curve)
    model = Surrogate(space, ledger, seed=0, startup=6)
    proposal = model.propose()
    assert key(proposal.values) not in {key(e.values) for e in ledger.entries.values()}
    model.predict([ledger.entries[0]])
    for view in (model.rungs, model.ends):
        assert view.process is not None
        assert len(view.process.seen) == (800 if view is model.rungs else 125), "of more, a cube"


def test_weights_are_on_disk_after_the_epochs_that_must_be(tmp_path: Path) -> None:
    config = Whole.of({"task": {"name": "digits", "per_class": 30}, "model": "mlp",
                       "train": {"epochs": 6}})  # fmt: skip
    data = config.task.load(None)
    file = tmp_path / "checkpoint.pt"
    epochs = train(config, data, device=torch.device("cpu"), checkpoint=file, saves=[3])
    for _ in range(3):
        told = next(epochs)
    epochs.close()
    again = train(config, data, device=torch.device("cpu"), checkpoint=file, until=3)
    assert list(again)[-1] == told, "not from the file: seconds are never the same twice"


def test_a_job_names_the_epochs_at_which_it_may_pause(tmp_path: Path) -> None:
    table = Table(rising)
    list(opened(tmp_path / "s", table, 3, text=SPACE).run())
    job = table.jobs[0]
    assert isinstance(job, Job)
    assert job.saves == [2, 4, 6, 10, 17]
    assert max(job.saves) < job.until == 18


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_paused_trials_that_cannot_end_in_time_go_on_another_day(
    sampler: str, tmp_path: Path
) -> None:
    text = SPACE + f"search: {{sampler: {sampler}}}"
    driver = opened(tmp_path / "s", Clocked(rising), 6, text=text)
    driver.deadline = 20.0
    list(driver.run())
    assert driver.paused
    paused = {row.trial for row in driver.rows() if row.state == "paused"}
    assert paused == set(driver.paused)
    assert driver.engine.now() < 20.0, "nobody waits for what cannot end"
    again = Clocked(rising)
    list(opened(tmp_path / "s", again, 6, text=text).run())
    assert paused & {job.trial for job in again.jobs}
    whole_or_stopped(tmp_path / "s", 6)


class Sure:
    """A model of a search that knows what is expected, and how likely each is to win."""

    ready, branching, proposal = True, False, None

    def __init__(self, gains: list[float], hopes: list[float]) -> None:
        self.gains, self.hopes = gains, hopes

    def gain(self, entries: list[Entry]) -> Any:
        return np.array([self.gains[entry.number] for entry in entries])

    def chance_to_win(self, entries: list[Entry]) -> Any:
        return np.array([self.hopes[entry.number] for entry in entries])


@pytest.mark.parametrize(("hopes", "goes_on"), [([0.05, 0.12], 1), ([0.1, 0.1], 0), ([0, 0], None)])
def test_at_the_end_all_that_are_likely_go_on_first_what_gains_most(
    hopes: list[float], goes_on: int | None
) -> None:
    ledger = Ledger(epochs=9, may_ask=False, model=cast(Any, Sure([0.2, 0.1], hopes)))
    for number in range(4):
        state: State = "paused" if number < 2 else "closed"
        ledger.entries[number] = Entry(number, {}, state, [0.1] * (1 if number < 2 else 9))
    assert Auto().promote(ledger) == goes_on


def test_at_the_end_paused_trials_wait_for_what_is_under_way() -> None:
    values = {"x": 0.5}
    ledger = Ledger(epochs=9, may_ask=False)
    for number in range(3):
        ledger.entries[number] = Entry(number, values, "paused", [0.1 * number])
    ledger.entries[3] = Entry(3, values)
    assert Auto().drop(ledger) == {}
    ledger.entries[3].state = "closed"
    assert sorted(Auto().drop(ledger)) == [0, 1, 2]
