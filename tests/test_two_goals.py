"""A search for a good score and a low cost: the front, with trials that pause and go on.

The driver and the study are the real ones; workers read their scores off a table.
"""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from test_driver import Config, Table, opened, trial, trials, width
from test_limits import Costly
from toy import ACCURACY

import automl
from automl.errors import SpaceError
from automl.results import leaderboard
from automl.results.leaderboard import Row
from automl.searching.driver import KEPT, Closed, Driver, Paused, Trained
from automl.searching.ledger import Entry, Ledger
from automl.searching.run import search
from automl.searching.surrogate import LOOKED, Surrogate
from automl.space import COSTS, Space

pytestmark = pytest.mark.usefixtures("all_forked")

SPACE = """
task: digits
search: {metric: [accuracy, params]}
model: {name: mlp, widths: [{int: [1, 64]}], dropout: {float: [0, 0.9]}}
optimizer: {name: adamw, lr: {float: [1e-4, 1e-1], log: true}}
train: {epochs: 9}
"""
TOP = 1 - 0.5 * 0.6**9


def end(wide: int) -> float:
    """The best that a width comes to: the wider the better, and the less so."""
    return 0.1 + 0.8 * math.sqrt(wide / 64)


def rising(config: Config, epoch: int) -> float:
    """Best without dropout and at a learning rate that falls with the width."""
    wide, lr = width(config), config["optimizer"]["lr"]
    off = config["model"]["dropout"] ** 2 + (math.log10(lr) + 1.2 + wide / 40) ** 2 / 4
    return (0.1 + (end(wide) - 0.1) * math.exp(-off)) * (1 - 0.5 * 0.6**epoch)


def shortfall(driver: Driver) -> float:
    """How far the best at most as wide stays behind what could be, in the mean over widths."""
    ends = [
        (row.score or 0.0, width(driver.config(row.trial).dump()))
        for row in driver.rows()
        if row.state == "finished"
    ]
    best = [max((s for s, w in ends if w <= wide), default=0.1) for wide in range(2, 65)]
    return sum(end(wide) * TOP - got for wide, got in enumerate(best, 2)) / len(best)


def searched(folder: Path, text: str, epochs: int, seed: int) -> Driver:
    """A driver after so many epochs of its trials."""
    driver = opened(folder, Table(rising), 1000, text=text, seed=seed)
    told = (event for event in driver.run() if isinstance(event, Trained))
    for _ in itertools.islice(told, epochs):
        pass
    return driver


def test_the_front_is_found_sooner_than_by_chance_or_by_the_score_alone(tmp_path: Path) -> None:
    both = "search: {metric: [accuracy, params]}"
    texts = {
        "two goals": SPACE,
        "one goal": SPACE.replace(both, ""),
        "random": SPACE.replace(both, "search: {sampler: random, pruner: none}"),
    }
    found = {
        name: sum(shortfall(searched(tmp_path / f"{name}{i}", text, 30 * 9, i)) for i in range(6))
        for name, text in texts.items()
    }
    assert found["two goals"] < 0.7 * found["random"]
    assert found["two goals"] < 0.7 * found["one goal"]


@pytest.mark.parametrize("cost", COSTS)
def test_optuna_sees_two_goals_and_the_same_front(cost: str, tmp_path: Path) -> None:
    text = SPACE.replace("params", cost).replace("dropout: {float: [0, 0.9]}", "dropout: 0.0")
    driver = opened(tmp_path / "s", Costly(slots=2), 16, text=text)
    events = list(driver.run())
    assert any(isinstance(event, Paused) for event in events)
    rows = driver.rows()
    assert len(driver.study.directions) == 2
    assert {row.trial for row in rows if row.front} <= {t.number for t in driver.study.best_trials}
    values = {tuple(t.values) for t in driver.study.best_trials}
    assert {(row.score, row.cost(cost)) for row in rows if row.front} == values
    for row in rows:
        kept = trials(tmp_path / "s")[row.trial]
        assert len(kept.user_attrs["curve"]) == row.epochs
        if row.state == "finished":
            assert kept.values == [row.score, row.cost(cost)]
            assert kept.state == TrialState.COMPLETE


@pytest.mark.parametrize("slots", [1, 2])
def test_a_search_for_two_goals_stopped_after_any_event_goes_on(slots: int, tmp_path: Path) -> None:
    text = SPACE.replace("epochs: 9", "epochs: 4").replace("params", "latency_ms")
    count = 9
    whole = len(list(opened(tmp_path / "whole", Costly(slots=slots), count, text=text).run()))
    for stop in range(0, whole + 1, 4):
        folder = tmp_path / str(stop)
        events = opened(folder, Costly(slots=slots), count, text=text).run()
        seen = list(itertools.islice(events, stop))
        events.close()
        closed = {event.row.trial for event in seen if isinstance(event, Closed)}
        table = Costly(slots=slots)
        driver = opened(folder, table, count, text=text)
        costs = {entry.number: entry.cost for entry in driver.ledger.scored}
        list(driver.run())
        assert closed.isdisjoint(job.trial for job in table.jobs)
        rows = driver.rows()
        assert len(rows) == count
        assert {row.state for row in rows} <= {"finished", "stopped"}
        for row in rows:
            assert row.latency_ms == width(driver.config(row.trial).dump()) / 10
            assert costs.get(row.trial, row.latency_ms) == row.latency_ms


def test_the_same_seed_gives_the_same_front(tmp_path: Path) -> None:
    a, b = (searched(tmp_path / name, SPACE, 150, 0) for name in "ab")
    assert a.rows() == b.rows()
    front = [row.trial for row in a.rows() if row.front]
    assert len(front) > KEPT
    assert all(a.checkpoint(number).exists() for number in front), "to be handed over in the end"


def test_a_trial_is_held_against_those_that_cost_no_more() -> None:
    space = Space.parse(SPACE)
    ledger = Ledger(epochs=2)
    names = list(space.all_knobs())
    for number, (wide, score) in enumerate([(4, 0.3), (8, 0.5), (16, 0.6), (64, 0.9), (60, 0.88)]):
        values = dict(zip(names, (wide, 0.0, 0.01), strict=True))
        ledger.entries[number] = Entry(number, values, "closed", [score, score], cost=float(wide))
    model = Surrogate(space, ledger, seed=0, startup=3)

    def hope(cost: float) -> float:
        values = dict(zip(names, (16, 0.0, 0.02), strict=True))
        ledger.entries[9] = Entry(9, values, "paused", [0.6], cost=cost)
        return float(model.chance_to_win([ledger.entries[9]])[0])

    hopes = [hope(cost) for cost in (2.0, 7.0, 20.0, 100.0)]
    assert hopes == sorted(hopes, reverse=True)
    assert hopes[0] > 0.9
    assert hopes[-1] < 0.1


def test_of_many_trials_the_cheap_ones_of_the_front_are_not_forgotten() -> None:
    space, names = Space.parse(SPACE), [*Space.parse(SPACE).all_knobs()]
    ledger = Ledger(epochs=1)
    for number in range(LOOKED + 60):  # the costly ones score better, all of them
        cheap = number < 60
        wide = 1 + number % 8 if cheap else 33 + number % 32
        score = wide / 100 + (0.0 if cheap else 0.5) - number / 1e5
        values = dict(zip(names, (wide, 0.9 * (number / 999), 0.01), strict=True))
        ledger.entries[number] = Entry(number, values, "closed", [score], cost=float(wide))
    assert {entry.number for entry in ledger.leading(LOOKED)} == {
        *range(8),
        *range(60, LOOKED + 60),
    }
    model = Surrogate(space, ledger, seed=0, startup=3)
    for number in range(LOOKED + 60, LOOKED + 80):
        values = model.propose().values
        ledger.entries[number] = Entry(number, values, "closed", [0.1], cost=70.0)


@pytest.mark.parametrize("noted", ["memory_mb", "train_seconds", "curve"])
def test_a_search_for_seconds_killed_between_two_notes_goes_on(
    noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPACE.replace("params", "train_seconds").replace("epochs: 9", "epochs: 1")
    note = optuna.trial.Trial.set_user_attr

    def killed(trial: optuna.trial.Trial, name: str, value: object) -> None:
        if name == noted and trial.number == 1:
            raise KeyboardInterrupt
        note(trial, name, value)

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", killed)
    told = Costly(slots=1)
    with pytest.raises(KeyboardInterrupt):
        list(opened(tmp_path / "s", told, 3, text=text).run())
    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", note)
    list(opened(tmp_path / "s", Costly(slots=1), 3, text=text).run())
    found = opened(tmp_path / "s", Costly(slots=1), 3, text=text).rows()
    assert [row.state for row in found] == ["finished"] * 3
    assert all(0 < row.cost("train_seconds") < math.inf for row in found)


@pytest.mark.parametrize("goals", [", metric: [accuracy, train_seconds]", ""])
def test_what_was_measured_before_a_stop_is_judged_after_it(goals: str, tmp_path: Path) -> None:
    text = SPACE.replace("metric: [accuracy, params]", f"max_memory_mb: 140{goals}")
    text = text.replace("epochs: 9", "epochs: 1").replace("{int: [1, 64]}", "64")
    events = opened(tmp_path / "s", Costly(), 2, text=text).run()
    assert isinstance(next(events), Trained)
    events.close()
    list(opened(tmp_path / "s", Costly(), 2, text=text).run())
    found = opened(tmp_path / "s", Costly(), 2, text=text).rows()
    assert [(row.state, row.reason) for row in found] == [("infeasible", "too large")] * 2


@pytest.mark.parametrize("pruner", ["hyperband", "asha", "median"])
def test_who_costs_less_is_held_against_its_like_alone(pruner: str, tmp_path: Path) -> None:
    def wider_is_better(config: Config, epoch: int) -> float:
        return end(width(config)) * (1 - 0.5 * 0.8**epoch)

    text = SPACE.replace("metric", f"pruner: {pruner}, metric")
    driver = opened(tmp_path / "s", Table(wider_is_better), 40, text=text)
    list(driver.run())
    widths = Counter(entry.values["model.widths[0]"] for entry in driver.ledger.entries.values())
    for row in driver.rows():
        wide = driver.ledger.entries[row.trial].values["model.widths[0]"]
        assert row.state == "finished" or widths[wide] > 1, "only a tie is no reason to go on"


def test_a_trial_of_known_cost_that_can_be_trained_no_more_does_not_stop_the_search() -> None:
    space = Space.parse(SPACE)
    ledger = Ledger(epochs=2)
    names = list(space.all_knobs())
    for number in range(8):
        values = dict(zip(names, (4 + number, 0.0, 0.01), strict=True))
        ledger.entries[number] = Entry(number, values, "closed", [0.1 * number], cost=4.0 + number)
    ledger.entries[7].state = "under way"  # once more, after a pause
    model = Surrogate(space, ledger, seed=0, startup=3)
    tried = [entry.values for entry in ledger.entries.values()]
    assert model.propose().values not in tried
    ledger.entries[7].state = "infeasible"
    assert model.propose().values not in tried
    assert len(model.priced) == 7


def test_a_finished_trial_is_on_the_front_unless_another_is_better_or_cheaper() -> None:
    draw = random.Random(0)
    found = []
    for number in range(60):
        state = draw.choice([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED])
        made = trial(state, 0.1, draw.randrange(12) / 12, params=draw.randrange(1, 12))
        made.number = number
        found.append(made)
    rows = leaderboard.rows(found, ACCURACY, "params")
    ended = [row for row in rows if row.state == "finished"]

    def beats(a: Row, b: Row) -> bool:
        better = (a.score or 0.0, -(a.params or 0)), (b.score or 0.0, -(b.params or 0))
        return all(x >= y for x, y in zip(*better, strict=True)) and better[0] != better[1]

    wanted = {(r.score, r.params) for r in ended if not any(beats(other, r) for other in ended)}
    assert len(wanted) > 2
    assert {(row.score, row.params) for row in rows if row.front} == wanted
    assert len(wanted) == sum(row.front for row in rows), "of two alike one is enough"
    assert rows[0].front

    text = leaderboard.markdown(rows, ACCURACY)
    head, _, first, *_ = text.splitlines()
    assert head.startswith("| rank | front | trial |")
    assert first.startswith("| 1 | * |")
    plain = [replace(row, front=False) for row in rows]
    assert leaderboard.markdown(plain, ACCURACY).startswith("| rank | trial |")


REFUSED = {
    "macro_f1": "got ['macro_f1']; want accuracy, then params, macs, latency_ms or train_seconds",
    "[accuracy]": "got ['accuracy']; want accuracy, then params, macs, latency_ms or train_seconds",
    "[loss, params]": "got ['loss', 'params']; want accuracy, then ",
    "[accuracy, size]": "got ['accuracy', 'size']; want accuracy, then ",
    "[accuracy, params], sampler: tpe": "two goals want sampler: auto; got tpe",
}


@pytest.mark.parametrize("given", REFUSED)
def test_goals_that_cannot_be_sought_are_refused_in_one_line(given: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space.parse(SPACE.replace("[accuracy, params]", given), "my.yaml")
    assert str(caught.value).startswith(f"my.yaml:3: search.metric: {REFUSED[given]}")


def test_every_model_of_the_front_is_there_to_be_loaded(tmp_path: Path) -> None:
    text = SPACE.replace("task: digits", "task: {name: digits, per_class: 30}")
    space = Space.parse(text.replace("epochs: 9", "epochs: 2"))
    study = search(space, name="s", studies=tmp_path, trials=5, workers=1)
    front = {row.trial: row for row in study.leaderboard if row.front}
    folders = {int(folder.name): folder for folder in (tmp_path / "s" / "front").iterdir()}
    assert folders.keys() == front.keys()
    for number, folder in folders.items():
        metrics = automl.load(folder).metrics
        assert metrics["params"] == front[number].params
        assert metrics["valid"]["accuracy"] == front[number].score
        assert metrics["test"] is None, "the test split was opened for the best alone"
    assert study.best.metrics["trial"] == study.leaderboard[0].trial
    assert {tuple(t.values) for t in study.optuna.best_trials} >= {
        (row.score, row.params) for row in front.values()
    }
    shutil.rmtree(tmp_path / "s" / "trials")  # whose weights they were written from
    (tmp_path / "s" / "front" / "9999").mkdir()
    search(space, name="s", studies=tmp_path, trials=5, workers=1)
    assert {int(folder.name) for folder in (tmp_path / "s" / "front").iterdir()} == front.keys()
    assert all(automl.load(folder).metrics["valid"] for folder in folders.values())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
