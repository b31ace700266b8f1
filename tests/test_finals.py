"""What is believed after a search: fresh seeds, honest intervals, and more models than one."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from numpy.random import default_rng
from test_driver import Config, Table, opened, width
from test_search import SPACE, children, go
from torch import nn

import automl
from automl import cli
from automl.config import Input, Task
from automl.data import LUCK, PERHAPS, UNSCORED, Data, Metric, Ragged, Split, Windows
from automl.engines import Event, Refused
from automl.engines.local import Local
from automl.errors import DataError, OptionError
from automl.inputs.text import Texts, Tokens
from automl.results import artifact, card, delivery, ensemble
from automl.results.artifact import LARGEST
from automl.results.delivery import Training, latencies
from automl.results.ensemble import Ensemble
from automl.results.judgement import (
    Interval,
    Judgement,
    averaged,
    judge,
    judged,
    temperature,
    wilson,
)
from automl.screen import Screen, answer
from automl.searching import finals, run
from automl.searching.driver import ATTEMPTS, Closed, Driver
from automl.searching.finals import Decision, Finals, Rerun, Retrained, decide
from automl.searching.run import Finished
from automl.searching.study import Study, read_manifest
from automl.training import checkpoint
from automl.training.loop import ended

pytestmark = pytest.mark.usefixtures("all_forked")

DIGITS = Task.of("digits")


def lucky(config: Config, epoch: int) -> float:
    """The wider the better, but for the seed of the search, which likes narrow ones."""
    luck = 0.3 if config["seed"] == 0 and width(config) < 32 else 0.0
    return (0.5 + width(config) / 1000 + config["seed"] / 10_000 + luck) * epoch / 3


def decided(
    folder: Path, table: Table, asked: Finals, ends: float = math.inf
) -> tuple[Decision, list[Retrained]]:
    driver = opened(folder, table, 12)
    list(driver.run())
    driver.deadline = None if math.isinf(ends) else ends
    *told, found = decide_all(driver, asked)
    return found, told


def decide_all(driver: Driver, asked: Finals) -> list[Any]:
    """What is told on the way, then the decision."""
    steps, told = decide(driver, Rerun(driver.engine, driver.data, driver), asked), []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as stop:
            return [*told, stop.value]


@pytest.mark.parametrize("slots", [1, 3])
def test_finalists_are_ranked_by_the_mean_of_fresh_seeds(tmp_path: Path, slots: int) -> None:
    table = Table(lucky, slots=slots)
    found, told = decided(tmp_path / "s", table, Finals(3, 2))
    assert len(told) == 6
    assert {t.training.config.seed for t in told} == {1, 2}
    for finalist in found.finalists:
        assert set(finalist.scores) == {1, 2}
        assert finalist.spread == pytest.approx(0.0001 / math.sqrt(2))
        assert finalist.search - finalist.mean == pytest.approx(0.3 - 0.00015)  # that was luck
    means = [finalist.mean for finalist in found.finalists]
    assert means == sorted(means, reverse=True)
    assert (found.made.trial, found.made.config.seed) == (found.finalists[0].trial, 1)


@pytest.mark.parametrize(
    ("left", "pace", "joined"), [(math.inf, 9.0, True), (90, 0.4, True), (70, 0.4, False),
                                 (-9, 0.4, False), (-9, 0.02, True)]
)  # fmt: skip
def test_an_ensemble_is_made_where_there_is_time_for_its_test(
    left: float, pace: float, joined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = opened(tmp_path / "s", Table(lucky), 12)
    list(driver.run())
    one, other = driver.training(0), driver.training(1)
    both = {one: 0.5, other: 0.5}, ensemble.Gain(0.01, 0.01)
    monkeypatch.setattr(finals, "choose", lambda *_: both)
    monkeypatch.setattr(driver.engine, "now", lambda: 100.0)
    driver.data, driver.pace = replace(driver.data, sealed=100), pace
    driver.deadline = None if math.isinf(left) else 100 + left + pace * 100
    *_, found = decide_all(driver, Finals(1, 1))
    assert [made for made, _, _ in found.members] == ([one, other] if joined else [])


def test_of_losses_the_smallest_mean_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Metric("loss", higher_is_better=False)
    monkeypatch.setattr(type(DIGITS), "metric", property(lambda _: loss))
    found, _ = decided(tmp_path / "s", Table(lucky), Finals(3, 2))
    means = [finalist.mean for finalist in found.finalists]
    assert means == sorted(means)
    assert means[0] < means[-1]
    assert found.made.trial == found.finalists[0].trial


@pytest.mark.parametrize("seed", range(5))
def test_who_ends_first_changes_nothing(tmp_path: Path, seed: int) -> None:
    found, _ = decided(tmp_path / "s", Table(lucky, slots=3, seed=seed), Finals(3, 3))
    assert [list(finalist.scores) for finalist in found.finalists] == [[1, 2, 3]] * 3


def test_every_finalist_has_its_first_training_before_one_has_its_second(tmp_path: Path) -> None:
    _, told = decided(tmp_path / "s", Table(lucky), Finals(3, 2))
    assert [t.training.config.seed for t in told] == [1, 1, 1, 2, 2, 2]


def test_a_lost_worker_costs_no_training(tmp_path: Path) -> None:
    lost: list[str] = []

    def lose(job: Any, epoch: int) -> bool:
        if job and "finals" in job.checkpoint and epoch == 2 and len(lost) < 2:
            lost.append(job.checkpoint)
            return True
        return False

    found, told = decided(tmp_path / "s", Table(lucky, slots=2, lose=lose), Finals(2, 2))
    assert len(lost) == 2
    assert len(told) == 4
    assert [len(finalist.scores) for finalist in found.finalists] == [2, 2]


def test_a_training_that_loses_its_workers_again_and_again_is_left_out(tmp_path: Path) -> None:
    def lose(job: Any, epoch: int) -> bool:
        return bool(job) and "finals" in job.checkpoint and job.config["seed"] == 1 and epoch == 2

    table = Table(lucky, lose=lose)
    found, told = decided(tmp_path / "s", table, Finals(2, 2))
    assert [(t.score, t.reason) for t in told[:2]] == [(None, f"worker lost {ATTEMPTS} times")] * 2
    jobs = Counter(job.checkpoint for job in table.jobs if "finals" in job.checkpoint)
    assert sorted(jobs.values()) == [1, 1, ATTEMPTS, ATTEMPTS]
    assert [list(finalist.scores) for finalist in found.finalists] == [[2], [2]]


def test_workers_that_are_lost_over_other_epochs_cost_no_finalist(tmp_path: Path) -> None:
    lost: set[tuple[str, int]] = set()
    failing: list[bool] = []  # starts: the first one after each loss

    def lose(job: Any, epoch: int) -> bool:
        if not job:
            return bool(failing) and failing.pop()
        at = (job.checkpoint, epoch)
        new = "finals" in at[0] and at not in lost
        lost.update([at] if new else [])
        failing.extend([True] if new else [])
        return new

    found, _ = decided(tmp_path / "s", Table(lucky, lose=lose), Finals(1, 1))
    assert len(lost) == ATTEMPTS
    assert not failing
    assert len(found.finalists) == 1


def test_data_that_went_is_told_and_no_worker_that_is_ready(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(lucky), 4).run())
    table = Table(lucky)
    driver = opened(tmp_path / "s", table, 4)
    table.pending[0] = Refused("data error", "/data: no such folder")
    with pytest.raises(DataError, match="/data: no such folder"):
        decide_all(driver, Finals(1, 1))


@pytest.mark.parametrize(
    ("left", "slots", "kept"),
    [(math.inf, 1, 60), (math.inf, 4, 20), (100, 1, 50), (100, 4, 20), (16, 1, 8), (15, 1, 0)],
)
def test_refits_leave_time_for_a_finalist(
    left: float, slots: int, kept: float, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Table(lucky), 2)
    list(driver.run())
    rows = [replace(row, seconds=s) for row, s in zip(driver.rows(), (10.0, 8.0), strict=True)]
    assert Finals(2, 3, refit=True).later(rows, slots, left) == kept
    assert Finals(2, 3).later(rows, slots, left) == 0


def test_of_finalists_as_good_the_cheapest_is_delivered(tmp_path: Path) -> None:
    text = "task: digits\nsearch: {sampler: auto, metric: [accuracy, params]}\n"
    text += "model: {name: mlp, widths: [{int: [1, 64]}]}\ntrain: {epochs: 3}\n"
    widths = set()
    for seed in range(3):
        driver = opened(
            tmp_path / f"{seed}", Table(lambda config, epoch: 0.5), 8, text=text, seed=seed
        )
        list(driver.run())
        *_, found = decide_all(driver, Finals(3, 1))
        params = [row.params for row in driver.rows() if row.state == "finished"]
        assert next(r.params for r in driver.rows() if r.trial == found.made.trial) == min(params)
        widths.add(found.made.trial)
    assert widths != {0}


def test_trainings_after_the_search_are_counted_when_they_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, told = decided(tmp_path / "s", Table(lucky), Finals(3, 2))
    screen = Screen(quiet=False, as_json=False, command="")
    for event in told[:4]:
        screen.show(event)
    assert "trained again" not in capsys.readouterr().err
    screen.show(replace(told[4], done=1))
    assert "trained again from fresh seeds: 4 of 6, for time was up" in capsys.readouterr().err
    for done in range(2, 7):
        screen.show(replace(told[5], done=done))
    screen.show(replace(told[5], done=1))
    assert "trained again from fresh seeds: 6 trainings" in capsys.readouterr().err


def test_weights_that_are_needed_stay_whatever_room_there_is(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(lucky), 6)
    list(driver.run())
    best, *_, last = [row.trial for row in driver.rows()][:5]
    driver.disk = 1
    driver.make_room([last])
    assert [driver.checkpoint(number).exists() for number in (best, last)] == [True, True]
    driver.make_room()
    assert [driver.checkpoint(number).exists() for number in (best, last)] == [True, False]


def test_the_proof_is_the_last_line_whatever_parts_print() -> None:
    told = "print('a part'); print('{\"now\": 0.5}')"
    with subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE) as reader:
        assert run.answer(reader) == 0.5


def test_what_workers_still_owe_the_search_is_no_score_of_a_finalist(tmp_path: Path) -> None:
    """Time was up in the middle of three trials; their answers come while finalists train."""
    table = Table(lucky, slots=3)
    driver = opened(tmp_path / "s", table, 12)
    events = driver.run()
    while driver.done < 5 or len(driver.active) < 3:
        next(events)
    events.close()
    assert len(driver.active) >= 2
    *_, last = decide_all(driver, Finals(3, 2))
    for finalist in last.finalists:
        configs = {seed: driver.config(finalist.trial, seed).dump() for seed in (1, 2)}
        assert finalist.scores == {seed: lucky(config, 3) for seed, config in configs.items()}


def test_a_training_that_cannot_be_is_told_and_left_out(tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        return Refused("diverged", "loss nan") if config["seed"] == 2 else lucky(config, epoch)

    found, told = decided(tmp_path / "s", Table(curve), Finals(2, 2))
    assert [t.reason for t in told] == ["", "", "diverged", "diverged"]
    assert [finalist.spread for finalist in found.finalists] == [None, None]


def test_only_trials_that_came_to_their_end_are_finalists(tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        narrow = config["seed"] == 0 and width(config) < 40
        return Refused("diverged", "loss nan") if narrow and epoch > 1 else lucky(config, epoch)

    driver = opened(tmp_path / "s", Table(curve), 12)
    list(driver.run())
    finished = {row.trial for row in driver.rows() if row.state == "finished"}
    assert 2 <= len(finished) <= 10
    *told, _ = decide_all(driver, Finals(12, 1))
    assert {one.training.trial for one in told} == finished


@pytest.mark.parametrize(("left", "trained"), [(1.0, 0), (2.0, 9)])
def test_no_training_is_begun_that_would_not_end_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, trained: int
) -> None:
    """Each took 1.5 seconds in the search. Without any, the best trial is taken as it is."""
    table = Table(lucky)
    monkeypatch.setattr(table, "now", lambda: 50.0)
    found, told = decided(tmp_path / "s", table, Finals(3, 3), ends=50.0 + left)
    assert len(told) == trained
    assert bool(found.finalists) == bool(trained)
    assert (found.made.config.seed == 0) == (not trained)


@pytest.mark.parametrize(("score", "kept"), [(0.8, True), (0.61, False)])
def test_a_best_trial_without_time_for_a_second_is_not_given_up_for_one_that_is_far_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, kept: bool
) -> None:
    """It took 150 seconds, of which 50 are left; the others took 1.5 and come to 0.6 again."""
    table = Table(lambda config, epoch: 0.6 * epoch / 3)
    driver = opened(tmp_path / "s", table, 12)
    list(driver.run())
    first, *others = driver.rows()
    rows = [replace(first, seconds=150.0, score=score), *others]
    monkeypatch.setattr(driver, "rows", lambda: rows)
    monkeypatch.setattr(driver, "data", DIGITS.load(None))
    driver.deadline = table.now() + 50.0
    *told, found = decide_all(driver, Finals(3, 1))
    assert {one.training.trial for one in told} == {row.trial for row in rows[1:3]}
    assert (found.made.trial == first.trial) == kept
    assert bool(found.finalists) != kept


def test_where_no_finalist_is_in_time_the_best_is_one_of_those_to_choose_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Training, list[Training]]] = []

    def chosen(made: Training, others: list[Training], _data: Data) -> Any:
        seen.append((made, others))
        return {}, None

    monkeypatch.setattr(finals, "choose", chosen)
    table = Table(lucky)
    monkeypatch.setattr(table, "now", lambda: 50.0)
    decided(tmp_path / "s", table, Finals(3, 3), ends=50.0)
    [(made, others)] = seen
    assert made in others, "which are told apart by identity"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Finals(-1), "--finalists: got -1; want 0 to 100"),
        (Finals(3, 0), "--seeds: got 0; want 1 to 100"),
        (Finals(0, 3, True), "--refit: needs finalists, for it has no score of its own"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: Finals, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        asked.check()


def test_time_is_left_for_the_finalists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(lucky)
    monkeypatch.setattr(table, "now", lambda: 50.0)
    driver = opened(tmp_path / "s", table, 12)
    driver.after, driver.deadline = lambda rows: 7.0, 150.0
    next(event for event in driver.run() if isinstance(event, Closed))
    assert driver.ends == 150
    assert driver.remaining == 93


@pytest.mark.parametrize(("most", "kept"), [(100.0, 18.0), (10.0, 10.0), (1.6, 1.6), (1.4, 0.0)])
def test_no_time_is_kept_in_which_no_finalist_would_end(
    tmp_path: Path, most: float, kept: float
) -> None:
    """Each took 1.5 seconds in the search."""
    driver = opened(tmp_path / "s", Table(lucky), 12)
    list(driver.run())
    assert Finals(3, 4).reserve(driver.rows(), 1, most) == pytest.approx(kept)
    assert Finals(0).reserve(driver.rows(), 1, most) == 0


def test_a_forecast_tells_of_the_time_for_finalists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for after in (0.0, 700.0):
        table = Table(lucky)
        monkeypatch.setattr(table, "now", lambda: 50.0)
        driver = opened(tmp_path / f"s{after:g}", table, 12)
        driver.after = lambda rows, after=after: after
        *_, last = (event.forecast for event in driver.run() if isinstance(event, Closed))
        assert last is not None
        told.append(last.seconds)
    assert told[1] - told[0] == 700


def test_a_refit_takes_its_time_too(tmp_path: Path) -> None:
    table = Table(lucky)
    driver = opened(tmp_path / "s", table, 4)
    list(driver.run())
    rows, each = driver.rows(), 1.5  # three epochs of half a second
    assert Finals(2, 3).work(rows) == 6 * each
    assert Finals(2, 3, refit=True).work(rows) == (6 + 1 + ensemble.MEMBERS) * each


# what a number is worth


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(45, 50, 0.7864, 0.9565), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_intervals_are_those_of_wilson(right: int, of: int, low: float, high: float) -> None:
    found = wilson(right, of)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def answers(count: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 10 classes whose probabilities come true."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, 10, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()


def test_a_temperature_makes_probabilities_come_true() -> None:
    logits, y = answers()
    assert temperature(3 * logits, y) == pytest.approx(3, rel=0.1)
    before, after = judged(3 * logits, y, DIGITS), judged(3 * logits, y, DIGITS, 3.0)
    assert before.calibration_error > 0.2
    assert after.calibration_error < 0.05
    assert after.scores["accuracy"] == before.scores["accuracy"]
    assert sum(b["share"] for b in after.bins()) == pytest.approx(1)


def test_answers_that_are_all_right_make_nothing_certain() -> None:
    y = torch.arange(10).repeat(5)
    assert 0.2 < temperature(10.0 * torch.eye(10)[y], y) < 1


@pytest.mark.parametrize("score", ["accuracy", "macro_f1"])
def test_an_interval_holds_the_score_and_narrows_with_examples(score: str) -> None:
    task = Task.of({"name": "digits", "score": score})
    widths = []
    for count in (200, 2000):
        found = judged(*answers(count), task)
        assert found.interval is not None
        assert found.interval.low < found.scores[score] < found.interval.high
        assert found.interval.by == {"accuracy": "Wilson", "macro_f1": "bootstrap"}[score]
        widths.append(found.interval.high - found.interval.low)
    assert widths[1] < widths[0] / 2


def test_an_interval_of_a_mean_over_classes_is_as_wide_as_one_of_95_percent() -> None:
    """Of two classes as many and as well known, macro F1 is all but the share of right answers."""
    y = torch.arange(2).repeat_interleave(500)
    answers = (y + (torch.arange(1000) % 5 == 0)) % 2
    found = judged(torch.eye(2)[answers], y, Task.of({"name": "digits", "score": "macro_f1"}))
    wanted = wilson(800, 1000)
    assert found.scores["macro_f1"] == pytest.approx(0.8)
    assert found.interval is not None
    width = found.interval.high - found.interval.low
    assert width == pytest.approx(wanted.high - wanted.low, rel=0.08)


def test_an_interval_of_a_mean_over_many_classes_holds_what_more_examples_would_tell() -> None:
    """Of five examples a class F1 is too low, and lower still of those that are drawn anew."""
    draw = torch.Generator().manual_seed(0)

    def answered(count: int) -> Judgement:
        y = torch.randint(100, (count,), generator=draw)
        right = torch.rand(count, generator=draw) < 0.6
        answers = torch.where(right, y, torch.randint(100, y.shape, generator=draw))
        return judged(torch.eye(100)[answers], y, Task.of({"name": "digits", "score": "macro_f1"}))

    truth = answered(50_000).scores["macro_f1"]
    held = 0
    for _ in range(10):
        found = answered(500)
        assert found.interval is not None
        assert found.interval.low <= found.scores["macro_f1"] <= found.interval.high
        held += found.interval.low < truth < found.interval.high
    assert held >= 8


@pytest.mark.parametrize("right", [True, False])
def test_an_interval_of_answers_that_are_all_alike_has_a_width(right: bool) -> None:
    task, y = Task.of({"name": "digits", "score": "macro_f1"}), torch.tensor([0, 1, 1, 3, 3, 3])
    found = judged(torch.eye(4)[y if right else (y + 1) % 4], y, task)
    few = [wilson(count * right, count) for count in (1, 2, 3)]  # examples of a class
    off = math.hypot(*(one.high - one.low for one in few)) / 3
    wanted = Interval(1 - off, 1.0, "Wilson") if right else Interval(0.0, off, "Wilson")
    assert found.interval == wanted
    assert found.scores["macro_f1"] == right


def test_only_cells_that_hold_examples_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    task, made, sizes = Task.of({"name": "digits", "score": "macro_f1"}), default_rng(0), set()

    def drawn(count: int, shares: Any) -> Any:
        sizes.add(len(shares))
        return made.multinomial(count, shares)

    monkeypatch.setattr("numpy.random.default_rng", lambda seed: Mock(multinomial=drawn))
    y = torch.arange(300) // 2  # 150 classes, and 22,500 cells
    judged(torch.eye(150)[y.roll(1)], y, task)
    assert sizes == {300}


def test_no_guess_without_looking_has_more_macro_f1_than_chance() -> None:
    y = torch.arange(5).repeat_interleave(torch.tensor([400, 100, 60, 30, 10]))
    task, digits = Task.of({"name": "digits", "score": "macro_f1"}), DIGITS.load(None)
    _, chance = task.chance(replace(digits, valid=Split(y, y), train=Split(y, y)))
    assert chance == 0.2
    draw = torch.Generator().manual_seed(0)
    mean = []
    for guess in (y.bincount(), torch.ones(5), torch.tensor([1, 0, 0, 0, 0]), y.bincount().sqrt()):
        drawn = [guess.double().multinomial(len(y), True, generator=draw) for _ in range(200)]
        mean.append(fmean(task.judged(answers, y) for answers in drawn))
    assert mean[0] == max(mean) == pytest.approx(chance, abs=0.005)


def test_classes_are_told_apart() -> None:
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 2, 2, 2])]
    first, second, _ = judged(logits, torch.tensor([0, 0, 0, 1, 2, 2]), DIGITS).classes("abc")
    assert (first["examples"], first["recall"], first["precision"]) == (3, 2 / 3, 1.0)
    assert (second["examples"], second["recall"], second["precision"]) == (1, 0.0, 0.0)
    assert (first["f1"], second["f1"]) == (0.8, 0.0)
    assert first["recall_interval"] == [wilson(2, 3).low, wilson(2, 3).high]


def told_of(found: Judgement, labels: Sequence[str]) -> dict[str, Any]:
    """What a test tells of a model that answers so."""
    model: Any = Mock(judge=lambda split: found, labels=labels)
    return delivery.tested(model, Split(torch.empty(0), torch.empty(0)))


def test_no_confusion_matrix_is_kept_that_would_make_a_model_too_large_to_load() -> None:
    for count in (1000, 1001):
        y = torch.arange(count)
        found = judged(torch.eye(count), y, DIGITS)
        told = told_of(found, [str(label) for label in range(count)])
        assert (told["confusion"] is None) == (count > 1000)
        assert 2 * len(json.dumps(told, indent=2)) < LARGEST  # an ensemble has one of its own


class Lengths(nn.Module):
    """Logits that tell texts by their length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        long = (x != 0).sum(1, keepdim=True).float()
        return torch.cat([long, -long], 1)


def test_answers_stand_in_the_order_of_the_examples() -> None:
    rows = [torch.full((length,), 2) for length in (7, 1, 5, 3)]  # which a sweep sorts
    split = Split(Ragged.of(rows), torch.tensor([0, 1, 0, 1]))
    found = judge(Lengths(), split, Tokens(10, 8), Task.of("trec"))
    assert found.logits is not None
    assert found.logits[:, 0].tolist() == [7, 1, 5, 3]
    assert found.y is not None
    assert found.y.tolist() == [0, 1, 0, 1]


def written(text: str, kind: str) -> tuple[Tokens, Split]:
    """A text to go on with, in windows of 32 tokens that were learned from it."""
    raw = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    split = Split(raw, torch.zeros(len(text), dtype=torch.long))
    data = Data(split, split, Texts(prose=True), (), "")
    inputs = Input.of({"name": kind, "vocab": 300, "length": 32}).fit(data)
    assert isinstance(inputs, Tokens)
    return inputs, inputs.encode(split)


def test_a_score_of_text_has_an_interval_from_its_blocks() -> None:
    torch.manual_seed(0)
    inputs, split = written("".join(random.Random(0).choices("abcdefgh", k=4000)), "characters")
    task = Task.of("textfile")
    found = judge(nn.Embedding(inputs.size, inputs.size), split, inputs, task)
    score = found.scores[task.metric.name]
    assert found.interval is not None
    assert found.interval.by == "bootstrap"
    assert score - 0.3 < found.interval.low < score < found.interval.high < score + 0.3


def test_an_interval_of_text_holds_that_tokens_have_more_and_fewer_characters() -> None:
    """All tokens are alike to this model: what varies is how many a character takes."""
    runs = random.Random(0).choices(["word " * 32, "." * 32], k=30)
    inputs, split = written("".join(runs), "bpe")
    task, size = Task.of("textfile"), inputs.size

    class Even(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape, size)

    found = judge(Even(), split, inputs, task)
    assert found.interval is not None
    assert isinstance(split.x, Windows)
    _, told = split.x.take(32 * torch.arange(len(split.x)))
    rows = [row[row != UNSCORED] for row in told]
    long = torch.tensor([inputs.characters(row) for row in rows]).double()
    bits = torch.tensor([len(row) * math.log2(size) for row in rows])
    error = float((bits - bits.sum() / long.sum() * long).std() / long.mean() / len(rows) ** 0.5)
    width = (found.interval.high - found.interval.low) / 2
    assert width == pytest.approx(1.96 * error, rel=0.1)


def test_a_short_text_has_a_score_and_no_interval() -> None:
    inputs, split = written("a short text " * 8, "characters")
    task = Task.of("textfile")
    found = judge(nn.Embedding(inputs.size, inputs.size), split, inputs, task)
    assert found.interval is None
    told = told_of(found, ())
    assert (told["test_interval"], told["test_interval_by"]) == (None, None)
    assert told["test"][task.metric.name] > 0


# several models


def test_models_that_err_in_different_places_are_taken_together() -> None:
    logits, y = answers()
    noise = torch.Generator().manual_seed(1)
    several = [
        (logits + 2 * torch.randn(logits.shape, generator=noise)).softmax(1) for _ in range(8)
    ]
    shares = ensemble.chosen(several, y)
    assert 2 <= len(shares) <= ensemble.MEMBERS
    assert sum(shares.values()) == pytest.approx(1)
    assert ensemble.gain(several, y, several[0], DIGITS).worth


def test_what_one_model_does_as_well_needs_no_second() -> None:
    logits, y = answers()
    good, bad = logits.softmax(1), torch.full_like(logits, 0.1)
    assert ensemble.chosen([bad, good, bad], y) == {1: 1.0}
    assert not ensemble.gain([bad, good], y, good, DIGITS).worth


def test_luck_in_choosing_is_no_gain() -> None:
    """Of many that guess, some guess the examples right that they are chosen by."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (60,), generator=generator)
    guesses = list(torch.rand(200, 60, 10, generator=generator).softmax(2))
    members = ensemble.chosen(guesses, y)
    told = ensemble.mean([guesses[m] for m in members], list(members.values()))
    alone = torch.full((60, 10), 0.1)
    assert averaged(told, y, DIGITS).scores["loss"] < averaged(alone, y, DIGITS).scores["loss"]
    assert not ensemble.gain(guesses, y, alone, DIGITS).worth


def test_only_what_is_better_together_is_delivered_together(tmp_path: Path) -> None:
    data = Task.of({"name": "digits", "per_class": 60, "valid": 0.5}).load(None)
    made = automl.Config.of({"task": "digits", "model": "mlp"})
    noise = torch.randn(12, len(data.valid), 10, generator=torch.Generator().manual_seed(0))
    several = [Training(number, made, tmp_path / f"{number}") for number in range(12)]

    def chosen(logits: torch.Tensor, count: int = 300) -> Any:
        for training, one in zip(several, logits, strict=True):
            checkpoint.save(training.file, {"logits": one[:count]})
        few = Split(data.valid.x[:count], data.valid.y[:count])
        return delivery.choose(several[0], several, replace(data, valid=few))

    good = noise + 1.5 * torch.eye(10)[data.valid.y]
    assert chosen(good, ensemble.FEWEST - 1) == ({}, None)
    members, gain = chosen(good)
    assert gain.worth
    assert len(members) >= 2
    assert sum(members.values()) == pytest.approx(1)
    noise[0] = 0  # it says that it does not know, and the others guess
    members, gain = chosen(noise)
    assert not gain.worth
    assert not members


@pytest.mark.parametrize("ragged", [False, True])
def test_splits_are_joined_example_by_example(ragged: bool) -> None:
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9])]
    make: Callable[[list[torch.Tensor]], Any] = Ragged.of if ragged else torch.stack
    one = Split(make(rows[:2]), torch.tensor([0, 1]))
    both = one.joined(Split(make(rows[2:]), torch.tensor([2])))
    assert both.y.tolist() == [0, 1, 2]
    last = both[torch.tensor([2])].x
    assert (last.values if isinstance(last, Ragged) else last[0]).tolist() == [7, 8, 9]


# a whole search


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    studies = tmp_path_factory.mktemp("studies")
    go(studies, SPACE, finals=Finals(2, 2, refit=True))
    return Study.open("s", studies)


def test_the_model_is_the_winner_on_all_data_and_told_as_such(study: Study) -> None:
    told = study.best.metrics
    first = told["finalists"][0]
    assert told["refit"]
    assert told["trial"] == first["trial"] == study.leaderboard[0].trial
    assert told["seed"] in first["seeds"]
    fresh = study.path / "finals" / f"{told['trial']:04d}-{told['seed']}" / "checkpoint.pt"
    state, data = checkpoint.load(fresh), study.task.load(None)
    assert state is not None
    heat = told["calibration"]["temperature"]
    unseen = judged(state["logits"], data.valid.y, study.task, heat)
    assert told["valid"] == unseen.scores  # not those of data it has seen
    assert unseen.scores["accuracy"] in first["scores"]
    raw = judged(state["logits"], data.valid.y, study.task)
    assert told["calibration"]["ece_before"] == raw.calibration_error
    assert told["proof"]["loaded"] == told["proof"]["trained"]
    low, high = told["test_interval"]
    assert low <= told["test"]["accuracy"] <= high
    assert study.leaderboard[0].mean == first["mean"]


def test_a_refit_sees_all_examples_but_those_of_the_test(study: Study) -> None:
    (file, *_) = (study.path / "finals").glob("*-whole/checkpoint.pt")
    state = checkpoint.load(file)
    assert state is not None
    told = study.best.metrics
    both = told["train_examples"] + told["valid_examples"]
    assert {epoch["examples"] for epoch in state["history"]} == {both}


def test_only_the_training_that_is_meant_counts_as_ended(study: Study) -> None:
    data = study.task.load(None)
    told = study.best.metrics
    file = study.path / "finals" / f"{told['trial']:04d}-{told['seed']}" / "checkpoint.pt"
    config = study.best.config
    assert ended(config, data, file)
    assert ended(config.model_copy(update={"seed": 99}), data, file) is None
    assert ended(config, data.whole(), file) is None


def test_a_model_that_is_not_the_one_trained_is_found_out(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["automl", "verify", "s", "--studies", str(study.path.parent)])
    metrics = study.best.metrics
    monkeypatch.setattr("automl.results.artifact.noted", lambda folder: metrics)
    for trained, status in (metrics["proof"]["trained"], 0), (0.1234, 2):
        metrics["proof"]["trained"] = trained
        with pytest.raises(SystemExit) as ending:
            cli.main()
        assert ending.value.code == status
    assert "is not the one that was trained" in capsys.readouterr().err
    del metrics["proof"]
    with pytest.raises(SystemExit):
        cli.main()
    assert "metrics.json: does not say what the model scored" in capsys.readouterr().err
    manifest = read_manifest(study.path)
    monkeypatch.setattr(
        "automl.searching.study.read_manifest", lambda _path: replace(manifest, data="other")
    )
    with pytest.raises(SystemExit):
        cli.main()
    assert "digits: is not the data that s was begun with" in capsys.readouterr().err


def test_a_model_that_no_process_could_read_is_read_again(tmp_path: Path) -> None:
    go(tmp_path, SPACE, finals=Finals(0))
    best = tmp_path / "s" / "best"
    told = artifact.noted(best)
    trained = told["proof"]["trained"]
    artifact.note(best, told | {"proof": {"trained": trained, "loaded": None}})
    *_, finished = go(tmp_path, SPACE, finals=Finals(0))
    assert isinstance(finished, Finished)
    assert artifact.noted(best)["proof"] == {"trained": trained, "loaded": trained}


@pytest.mark.parametrize(("search", "luck"), [(0.9, "; 0.1000 of it was luck"), (0.8, "")])
def test_luck_is_said_where_there_was_some(study: Study, search: float, luck: str) -> None:
    first = study.best.metrics["finalists"][0] | {"search": search, "mean": 0.8, "spread": 0.01}
    line, *_ = answer(study.best.metrics | {"finalists": [first]}, "examples")
    assert line.endswith(f"trained again from 2 seeds{luck}")
    line, *_ = answer(study.best.metrics | {"finalists": []}, "examples")
    assert line.endswith(" in the search, not trained again: some of it may be luck")
    epochs = study.best.metrics["epochs"]
    assert study.best.metrics["search"]["epochs"] == epochs
    ahead = {"finalists": [], "search": study.best.metrics["search"] | {"epochs": epochs + 1}}
    line, *_ = answer(study.best.metrics | ahead, "examples")
    assert line.endswith(f"; its weights are of epoch {epochs}, that score of {epochs + 1}")
    unscored = {"finalists": [], "search": study.best.metrics["search"] | {"score": None}}
    assert answer(study.best.metrics | unscored, "examples")[0].startswith("test accuracy")


def test_what_is_too_short_for_an_interval_is_told_as_such(study: Study) -> None:
    short = study.best.metrics | {"test_interval": None, "test_interval_by": None}
    assert re.search(
        r"^test accuracy \S+ \(too few to say how sure\) on", answer(short, "examples")[1]
    )
    assert "examples; too few to say how sure) | 0." in card.text(study.best.config, short)


def test_finals_are_not_trained_twice(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    files = list((study.path / "finals").rglob("checkpoint.pt"))
    assert len(files) >= 5  # four, and the winner on all data
    before = {file: file.stat().st_mtime_ns for file in [*files, study.path / "best/metrics.json"]}
    monkeypatch.setattr(Local, "start", lambda engine, slot: pytest.fail("nothing is to train"))
    go(study.path.parent, SPACE, finals=Finals(2, 2, refit=True))
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize(
    ("surely", "likely", "told"),
    [
        (True, True, None),
        (False, True, r"perhaps no better than chance: \d+ examples to validate cannot tell"),
        (False, False, "no better than chance; do not use it"),
    ],
)
def test_what_may_be_luck_is_not_said_to_be(
    surely: bool,
    likely: bool,
    told: str | None,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def beyond(_: Metric, score: float, *rest: float, luck: float = LUCK) -> bool:
        return score == 1 or (likely if PERHAPS in (*rest, luck) else surely)

    shutil.copytree(study.path.parent, tmp_path / "t")
    shutil.rmtree(tmp_path / "t" / "s" / "best")
    monkeypatch.setattr(Metric, "beyond", beyond)
    go(tmp_path / "t", SPACE, finals=Finals(2, 2, refit=True))
    found = Study.open("s", tmp_path / "t").best.metrics.get("warning")
    assert found == told if told is None else re.fullmatch(told, found)


def test_who_asks_for_other_finals_later_has_the_model_that_they_tell(
    study: Study, tmp_path: Path
) -> None:
    shutil.copytree(study.path, tmp_path / "s")
    for asked in Finals(2, 2), Finals(2, 1), Finals(2, 1, refit=True):
        go(tmp_path, SPACE, finals=asked)
        told = Study.open("s", tmp_path).best.metrics
        assert told["refit"] == asked.refit
        assert [len(one["seeds"]) for one in told["finalists"]] == [asked.seeds] * 2
        assert told["test"]["accuracy"] > 0


def test_a_search_that_goes_on_says_so_of_the_same_model(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.path.parent, tmp_path / "t")
    before, trials = study.best.metrics, len(study.leaderboard) + 1
    go(tmp_path / "t", SPACE, trials=trials, finals=Finals(2, 2, refit=True))
    after = Study.open("s", tmp_path / "t").best.metrics
    assert (after["trial"], after["seed"]) == (before["trial"], before["seed"])
    assert (before["search"]["trials"], after["search"]["trials"]) == (trials - 1, trials)
    card = (tmp_path / "t" / "s" / "best" / "card.md").read_text()
    assert f"Found among {trials} trials" in card


@pytest.mark.usefixtures("unforked")
def test_an_end_that_was_cut_short_is_made_up_for_without_a_second_test(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And models are timed when no other process of the search runs any more."""
    shutil.copytree(study.path, tmp_path / "s")
    told = artifact.noted(tmp_path / "s" / "best")
    told["test"]["accuracy"], told["proof"]["loaded"] = 0.5, None  # as no test would find it
    del told["latency_ms"]
    artifact.note(tmp_path / "s" / "best", told)
    others, alone = set(children(os.getpid())), list[bool]()  # as a browser of other tests

    def timed(folder: Path, device: torch.device) -> dict[str, float]:
        alone.append(set(children(os.getpid())) <= others)
        return latencies(folder, device)

    monkeypatch.setattr(run, "latencies", timed)
    go(tmp_path, SPACE, finals=Finals(2, 2, refit=True))
    now = Study.open("s", tmp_path).best.metrics
    assert alone
    assert all(alone)
    assert now["latency_ms"].keys() == {"1", "64"}
    assert now["test"]["accuracy"] == 0.5
    assert now["proof"]["loaded"] == now["proof"]["trained"]


def test_nothing_that_chooses_can_see_the_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens it before all is decided finds an error instead."""
    from automl.tasks.digits import Digits

    def sealed(self: Digits, root: Path | None) -> Split:
        assert (tmp_path / "s" / "best" / "metrics.json").exists()
        found = Study.open("s", tmp_path)
        assert found.best.metrics["finalists"], "opened before it was decided"
        raise PermissionError("sealed")

    monkeypatch.setattr(Digits, "test", sealed)
    with pytest.raises(PermissionError, match="sealed"):
        go(tmp_path, SPACE, finals=Finals(2, 1))
    assert Study.open("s", tmp_path).best.metrics["test"] is None


def test_an_ensemble_is_loaded_in_one_line_and_answers_as_its_members_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPACE.replace("per_class: 30", "per_class: 60, valid: 0.5")
    go(tmp_path, text, trials=3, finals=Finals(3, 2))
    folder = tmp_path / "s" / "ensemble"
    assert folder.is_dir(), "six small models of few examples gain from each other"
    model = automl.load(folder)
    assert isinstance(model, Ensemble)
    data = model.members[0].config.task.load(None)
    pictures = data.valid.x[:20].numpy().transpose(0, 2, 3, 1)
    probabilities = [member.probabilities(pictures) for member in model.members]
    want = ensemble.mean(probabilities, model.weights)
    told = [list(answer.probabilities.values()) for answer in model.predict(pictures)]
    assert model.predict(iter(pictures)) == model.predict(pictures)
    assert torch.allclose(torch.tensor(told), want, atol=1e-6)
    assert model.evaluate(data.valid)["accuracy"] == model.metrics["valid"]["accuracy"]
    assert Study.open("s", tmp_path).best.metrics["ensemble"] == model.metrics
    monkeypatch.setattr(delivery, "latency_ms", lambda *_: 1.0)
    assert set(latencies(folder, torch.device("cpu")).values()) == {len(model.members)}

    for member in model.members:
        judgement = member.judge(Split(data.valid.x[:20], data.valid.y[:20]))
        assert torch.allclose(judgement.probabilities, member.probabilities(pictures), atol=1e-6)

    one = model.members[1]
    artifact.write(folder / "1", one.config, one.model.state_dict(), one.inputs, one.labels[::-1])
    with pytest.raises(DataError, match="the members do not tell the same classes"):
        automl.load(folder)
    (folder / "ensemble.json").write_text('{"members": {"../0": 1.0}}')
    with pytest.raises(DataError, match="want members by number"):
        automl.load(folder)
    (folder / "ensemble.json").write_text("[]")
    with pytest.raises(DataError, match=r"ensemble\.json: got \[\]; want a mapping$"):
        automl.load(folder)
