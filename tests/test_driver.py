"""Exactly the trials asked for, whatever is lost, stopped, refused or torn on the way.

The driver and the study are the real ones; workers read their scores off a table.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from toy import ACCURACY, EPOCHS, SPACE, exact
from toy import opened as unstarted
from toy_worker import score as rising

from automl.data import Epoch, Metric
from automl.engines import Broken, Engine, Event, Job, Lost, Ready, Refused, Request, Save, Saved
from automl.errors import PartBug, StudyError
from automl.results import leaderboard
from automl.results.leaderboard import Row
from automl.searching import driver as searching
from automl.searching.driver import MORE, Closed, Driver, Trained
from automl.searching.study import Study, alone, storage

Config = dict[str, Any]
Lose = Callable[[Job | None, int], bool]


def width(config: Config) -> int:
    return int(config["model"]["widths"][0])


class Table(Engine):
    """Workers that take a score from a function of config and epoch, in no fixed order.

    `lose` says of a job and the epoch that is asked for whether the worker dies of it; of None, 0
    whether it fails to start.
    """

    def __init__(
        self,
        curve: Callable[[Config, int], float | Event] = rising,
        *,
        slots: int = 1,
        lose: Lose = lambda job, epoch: False,
        seed: int = 0,
    ) -> None:
        self.curve, self.slots, self.lose = curve, slots, lose
        self.random = random.Random(seed)
        self.jobs: list[Job] = []  # all that were sent
        self.at: dict[int, tuple[Job, int]] = {}  # by slot: what it trains, and its last epoch
        self.pending: dict[int, Event] = {}

    def start(self, slot: int) -> None:
        self.at.pop(slot, None)
        self.pending[slot] = Lost("does not start") if self.lose(None, 0) else Ready()

    def send(self, slot: int, request: Request) -> None:
        assert slot not in self.pending, "one request, one event"
        if isinstance(request, Job):
            self.jobs.append(request)
            self.at[slot] = request, 0
            file = Path(request.checkpoint)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        job, epoch = self.at[slot]
        if isinstance(request, Save):
            self.pending[slot] = Saved()
            return
        assert epoch < job.until, "asked to go on after the last epoch"
        self.at[slot] = job, epoch + 1
        self.pending[slot] = self._answer(job, epoch + 1)

    def _answer(self, job: Job, epoch: int) -> Event:
        if self.lose(job, epoch):
            return Lost("killed")
        told = self.curve(job.config, epoch)
        if not isinstance(told, float):
            return told
        return Epoch(epoch, 1 - told, {"loss": 1 - told, "accuracy": told}, 0.5, 100)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        assert self.pending, "the driver waits, and no worker has anything to do"
        slot = self.random.choice(sorted(self.pending))
        return [(slot, self.pending.pop(slot))]

    def close(self) -> None:
        pass


def opened(
    folder: Path, engine: Engine, trials: int, *, text: str = SPACE, seed: int = 0
) -> Driver:
    """A driver on a study, begun or gone on with as `automl search` does it."""
    driver = unstarted(folder, engine, trials, text, seed)
    driver.start()
    return driver


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """As the journal on disk has them."""
    return optuna.load_study(
        study_name=folder.name, storage=storage(folder / "journal.log")
    ).get_trials(deepcopy=False)


SLOTS = pytest.mark.parametrize("slots", [1, 2, 4])


@SLOTS
@pytest.mark.parametrize("count", [1, 3, 12])
def test_a_search_has_exactly_the_trials_asked_for(count: int, slots: int, tmp_path: Path) -> None:
    table = Table(slots=slots)
    events = list(opened(tmp_path / "s", table, count).run())
    exact(tmp_path / "s", count)
    assert [job.trial for job in table.jobs] == list(range(count))
    closed = [event for event in events if isinstance(event, Closed)]
    assert sorted(event.row.trial for event in closed) == list(range(count))
    assert [event.done for event in closed] == list(range(1, count + 1))
    assert sum(isinstance(event, Trained) for event in events) == count * EPOCHS


def test_a_search_that_is_done_asks_nothing_more(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 3).run())
    table = Table()
    driver = opened(tmp_path / "s", table, 3)
    assert driver.over
    assert list(driver.run()) == []
    assert table.jobs == []
    exact(tmp_path / "s", 3)


def test_more_trials_go_on_where_the_search_was(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 3).run())
    table = Table()
    list(opened(tmp_path / "s", table, 5).run())
    exact(tmp_path / "s", 5)
    assert [job.trial for job in table.jobs] == [3, 4]


def test_seconds_of_a_trial_whose_worker_was_lost_are_noted(tmp_path: Path) -> None:
    table = Table(lose=lambda job, epoch: bool(job) and epoch == 3 and len(table.jobs) == 1)
    events = opened(tmp_path / "s", table, 1).run()
    while len(table.jobs) < 2:
        next(events)
    assert trials(tmp_path / "s")[0].user_attrs["seconds"] == 1.0  # two epochs


def test_files_of_somebody_else_in_the_folder_of_a_trial_stay(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(), 12)
    for event in driver.run():
        if isinstance(event, Closed):
            for folder in (tmp_path / "s" / "trials").iterdir():
                (folder / ".DS_Store").touch()
    exact(tmp_path / "s", 12)


def test_a_journal_that_was_lost_or_is_of_another_study_is_not_begun_anew(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 3).run())
    list(opened(tmp_path / "t", Table(), 3, text=SPACE.replace("64", "65")).run())
    (tmp_path / "s" / "best").mkdir()
    journal, other = (tmp_path / name / "journal.log" for name in "st")
    for raw, told in ((b"", "got 0 studies"), (other.read_bytes(), "it is of another space")):
        journal.write_bytes(raw)
        with pytest.raises(StudyError, match=f"journal.log: damaged, or not written .*{told}"):
            opened(tmp_path / "s", Table(), 3)
    journal.unlink()
    with pytest.raises(StudyError, match=r"journal\.log: is missing"):
        _ = Study(tmp_path / "s").optuna
    assert not journal.exists()


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"step":1,', '"step":"one",'),
        (r'"param_value_internal":0\.\d+,', '"param_value_internal":"",'),
    ],
)
def test_values_of_a_journal_that_are_no_numbers_are_told(
    was: str, now: str, tmp_path: Path
) -> None:
    list(opened(tmp_path / "s", Table(), 2).run())
    journal = tmp_path / "s" / "journal.log"
    changed, count = re.subn(was, now, journal.read_text())
    assert count
    journal.write_text(changed)
    with pytest.raises(StudyError, match=r"journal\.log: damaged, or not written by automl"):
        _ = Study(tmp_path / "s").optuna


@pytest.mark.parametrize("name", ["best/model.safetensors", "journal.log", "report.html"])
def test_what_is_no_file_in_its_place_is_refused(name: str, tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 2).run())
    odd = tmp_path / "s" / name
    odd.parent.mkdir(exist_ok=True)
    odd.unlink(missing_ok=True)
    odd.mkdir() if "best" not in name else os.mkfifo(odd)
    with pytest.raises(StudyError, match=f"{odd.name}: is no plain file; want plain files"):
        Study.open("s", tmp_path)


def test_a_study_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 3).run())
    (tmp_path / "s" / ".lock").mkdir()
    with pytest.raises(StudyError, match="s: cannot be written: Is a dir"), alone(tmp_path / "s"):
        pass


def test_a_study_whose_folder_was_renamed_goes_on(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 3).run())
    (tmp_path / "s").rename(tmp_path / "t")
    table = Table()
    driver = opened(tmp_path / "t", table, 5)
    list(driver.run())
    assert [job.trial for job in table.jobs] == [3, 4]
    assert len(driver.rows()) == 5
    assert optuna.get_all_study_names(storage(tmp_path / "t" / "journal.log")) == ["s"]


def test_going_on_copies_no_trial_for_each_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(opened(tmp_path / "s", Table(), 6).run())
    copied = []
    get_trials = optuna.Study.get_trials

    def counted(study: optuna.Study, deepcopy: bool = True, states: Any = None) -> Any:
        copied.append(deepcopy)
        return get_trials(study, deepcopy, states)

    monkeypatch.setattr(optuna.Study, "get_trials", counted)
    opened(tmp_path / "s", Table(), 7)
    assert copied.count(True) <= 1


def losing(chance: float, most: int, seed: int) -> Lose:
    """Workers die at random moments, of each trial at most so many."""
    draw, lost = random.Random(seed), Counter[int | None]()

    def lose(job: Job | None, epoch: int) -> bool:
        number = job and job.trial
        if draw.random() >= chance or lost[number] == most:
            return False
        lost[number] += 1
        return True

    return lose


@SLOTS
@pytest.mark.parametrize("seed", range(3))
def test_lost_workers_cost_no_trial(slots: int, seed: int, tmp_path: Path) -> None:
    table = Table(slots=slots, lose=losing(0.3, 2, seed), seed=seed)
    list(opened(tmp_path / "s", table, 8).run())
    exact(tmp_path / "s", 8)
    configs: dict[int, Config] = {}
    for job in table.jobs:  # attempts of one trial are attempts at one config
        assert configs.setdefault(job.trial, job.config) == job.config
    assert len(table.jobs) > 8


@SLOTS
def test_a_trial_that_takes_three_workers_with_it_is_given_up(slots: int, tmp_path: Path) -> None:
    deadly = Table(slots=slots, lose=lambda job, epoch: bool(job and job.trial == 1 and epoch == 2))
    driver = opened(tmp_path / "s", deadly, 5)
    list(driver.run())
    assert Counter(job.trial for job in deadly.jobs) == {0: 1, 1: 3, 2: 1, 3: 1, 4: 1}
    rows = driver.rows()
    assert len(rows) == 5
    (lost,) = (row for row in rows if row.state == "lost")
    assert (lost.trial, lost.reason) == (1, "worker lost 3 times")
    assert trials(tmp_path / "s")[1].state == TrialState.FAIL


def test_workers_that_never_start_end_the_search_with_the_place_to_look(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(slots=2, lose=lambda job, epoch: job is None), 5)
    with pytest.raises(StudyError, match=r"workers do not start: does not start; see workers\.log"):
        list(driver.run())


LONG = SPACE.replace("pruner: none", "pruner: auto").replace("epochs: 3", "epochs: 18")


def hopeless(config: Config, epoch: int) -> float:
    """Narrow nets stay at chance."""
    return 0.1 if width(config) < 32 else 0.5 + epoch / 100 + width(config) / 1000


@SLOTS
def test_hopeless_trials_are_really_stopped(slots: int, tmp_path: Path) -> None:
    table = Table(hopeless, slots=slots)
    driver = opened(tmp_path / "s", table, 40, text=LONG)
    list(driver.run())
    rows = {row.trial: row for row in driver.rows()}
    chance = [rows[job.trial] for job in table.jobs if width(job.config) < 32]
    assert len(chance) > 10
    assert sum(row.state == "finished" for row in chance) <= 3 + slots, "more than a rung waits for"
    for row in chance[3 + slots :]:
        assert row.state == "stopped"
        assert row.epochs < 18
        assert row.reason
    assert sum(row.epochs for row in rows.values()) < 0.6 * 40 * 18
    best = driver.rows()[0]
    assert best.state == "finished"
    assert best.score is not None
    assert best.score > 0.5


def test_without_a_pruner_every_trial_trains_to_its_end(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(hopeless), 6, text=LONG.replace("auto", "none"))
    list(driver.run())
    assert {(row.state, row.epochs) for row in driver.rows()} == {("finished", 18)}


@SLOTS
def test_a_search_stopped_after_any_event_goes_on(slots: int, tmp_path: Path) -> None:
    count = 4
    for stop in range(count * (EPOCHS + 1) + 1):
        folder = tmp_path / str(stop)
        events = opened(folder, Table(slots=slots), count).run()
        seen = list(itertools.islice(events, stop))
        events.close()
        closed = {event.row.trial for event in seen if isinstance(event, Closed)}

        table = Table(slots=slots)
        list(opened(folder, table, count).run())
        exact(folder, count)
        assert closed.isdisjoint(job.trial for job in table.jobs), "trained a closed trial again"


@pytest.mark.parametrize("suggested", [0, 1])
def test_a_trial_that_a_crash_left_half_asked_is_completed(suggested: int, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    driver = opened(folder, Table(), 3)
    trial = driver.study.ask()
    drawn = [trial.suggest_int("model.widths[0]", 1, 64) for _ in range(suggested)]

    table = Table()
    list(opened(folder, table, 3).run())
    exact(folder, 3)
    assert [width(job.config) for job in table.jobs[:suggested]] == drawn


STARTS = (
    SPACE.replace("lr: {", "lr: {prior: 0.02, ").replace("[1, 64]", "[1, 64], prior: 40")
    + """
start:
  - {task: digits, model: {name: mlp, widths: [7]}, optimizer: {name: adamw, lr: 0.05}}
  - {task: digits, model: {name: mlp, widths: [9]}, optimizer: {name: adamw, lr: 0.06}}
"""
)


@pytest.mark.parametrize("stop", [0, 1, 6])
def test_start_configs_come_first_and_then_the_priors(stop: int, tmp_path: Path) -> None:
    interrupted = Table()
    list(itertools.islice(opened(tmp_path / "s", interrupted, 5, text=STARTS).run(), stop))
    table = Table()
    list(opened(tmp_path / "s", table, 5, text=STARTS).run())
    configs = {job.trial: job.config for job in interrupted.jobs + table.jobs}
    tried = [(width(configs[i]), configs[i]["optimizer"]["lr"]) for i in range(5)]
    assert tried[:3] == [(7, 0.05), (9, 0.06), (40, 0.02)]
    assert len(set(tried)) == 5


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random"])
def test_the_same_seed_and_one_worker_give_the_same_search(sampler: str, tmp_path: Path) -> None:
    text = SPACE.replace("sampler: random", f"sampler: {sampler}").replace("none", "auto")

    def search(name: str, seed: int) -> list[Row]:
        driver = opened(tmp_path / name, Table(), 15, text=text, seed=seed)
        list(driver.run())
        return driver.rows()

    first = search("a", 0)
    assert search("b", 0) == first
    assert search("c", 1) != first


def test_going_on_is_the_search_as_if_never_stopped(tmp_path: Path) -> None:
    text = SPACE.replace("sampler: random", "sampler: auto").replace("none", "auto")

    def tried(name: str, *stops: int | None) -> list[Any]:
        for stop in stops:
            events = opened(tmp_path / name, Table(), 14, text=text).run()
            list(itertools.islice(events, stop))
            events.close()
        return [trial.params for trial in trials(tmp_path / name)]

    assert tried("stopped", 5, 9, None) == tried("whole", None)


def test_a_worker_trains_what_the_study_says_that_was_sampled(tmp_path: Path) -> None:
    table = Table()
    driver = opened(tmp_path / "s", table, 6, seed=5)
    list(driver.run())
    for job in table.jobs:
        assert driver.config(job.trial).dump() == job.config
        params = trials(tmp_path / "s")[job.trial].params
        assert params["model.widths[0]"] == width(job.config)
        assert params["optimizer.lr"] == job.config["optimizer"]["lr"]
        assert job.config["seed"] == 5
        assert job.until == EPOCHS


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("reason", ["out of memory", "diverged"])
def test_a_refused_config_is_infeasible_with_its_reason(
    reason: str, at: int, tmp_path: Path
) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        wide = width(config) > 32 and epoch == at
        return Refused(reason, "of this much") if wide else rising(config, epoch)

    table = Table(curve, slots=2)
    driver = opened(tmp_path / "s", table, 12)
    list(driver.run())
    wide = {job.trial for job in table.jobs if width(job.config) > 32}
    rows = {row.trial: row for row in driver.rows()}
    assert 0 < len(wide) < 12
    for number, trial in enumerate(trials(tmp_path / "s")):
        row = rows[number]
        if number in wide:
            assert trial.state == TrialState.PRUNED, "the sampler learns of PRUNED, not of FAIL"
            assert any(value > 0 for value in trial.constraints.values())
            assert trial.user_attrs["detail"] == "of this much"
            assert (row.state, row.reason, row.epochs) == ("infeasible", reason, at - 1)
        else:
            assert row.state == "finished"


def test_models_above_max_params_are_refused_before_a_worker_sees_them(tmp_path: Path) -> None:
    limit = 64 * 32 + 2 * 32 + 32 * 10 + 10  # the weights of a width of 32
    text = SPACE.replace("pruner: none", f"pruner: none, max_params: {limit}")
    table = Table()
    driver = opened(tmp_path / "s", table, 12, text=text)
    list(driver.run())
    rows = driver.rows()
    assert len(rows) == 12
    assert max(width(job.config) for job in table.jobs) <= 32
    refused = [row for row in rows if row.state == "infeasible"]
    assert len(refused) == 12 - len(table.jobs) > 0
    assert {(row.reason, row.epochs, row.score) for row in refused} == {("too large", 0, None)}
    assert all(row.params is not None and row.params > limit for row in refused)


def test_knobs_that_are_fine_alone_and_do_not_go_together_are_infeasible(tmp_path: Path) -> None:
    share = "{choice: [0.0, 0.9, 0.1]}"
    text = SPACE + f"schedule: {{name: wsd, warmup: {share}, cooldown: {share}}}\n"
    table = Table()
    driver = opened(tmp_path / "s", table, 20, text=text)
    list(driver.run())
    rows = driver.rows()
    assert len(rows) == 20
    refused = [row for row in rows if row.state == "infeasible"]
    assert refused
    assert len(table.jobs) == 20 - len(refused)
    for row in refused:
        detail = trials(tmp_path / "s")[row.trial].user_attrs["detail"]
        assert "warmup and cooldown take" in detail


def test_a_bug_in_a_part_stops_the_search_and_its_trial_goes_on_later(tmp_path: Path) -> None:
    def buggy(config: Config, epoch: int) -> float | Event:
        traceback = "Traceback:\n  in build\nKeyError: 'oops'"
        return Broken(traceback) if epoch == 2 else rising(config, epoch)

    driver = opened(tmp_path / "s", Table(buggy), 3)
    with pytest.raises(PartBug, match=r"(?s)in trial 0 \(mlp.*KeyError: 'oops'"):
        list(driver.run())
    assert [trial.state for trial in trials(tmp_path / "s")] == [TrialState.RUNNING]

    list(opened(tmp_path / "s", Table(), 3).run())  # the part is mended
    exact(tmp_path / "s", 3)


@SLOTS
def test_when_time_is_up_what_is_under_way_is_left_to_go_on_with(
    slots: int, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Table(slots=slots), 12)
    driver.deadline = time.monotonic() + 3600
    for event in driver.run():
        if isinstance(event, Closed) and event.done == 3:
            assert event.forecast is not None
            assert 0 <= event.forecast.seconds <= 3600
            driver.deadline = time.monotonic()
    states = Counter(row.state for row in driver.rows())
    assert states["finished"] == 3
    assert states["paused"] <= slots
    assert states.total() < 12

    list(opened(tmp_path / "s", Table(slots=slots), 12).run())
    exact(tmp_path / "s", 12)


def test_no_time_at_all_trains_nothing(tmp_path: Path) -> None:
    table = Table()
    driver = opened(tmp_path / "s", table, 3)
    driver.deadline = time.monotonic()
    assert list(driver.run()) == []
    assert table.jobs == []


@SLOTS
def test_the_forecast_comes_after_a_few_trials_and_ends_at_nothing(
    slots: int, tmp_path: Path
) -> None:
    events = opened(tmp_path / "s", Table(slots=slots), 10).run()
    left = [event.forecast for event in events if isinstance(event, Closed)]
    assert left[0] is None
    told = [forecast.seconds for forecast in left[3:] if forecast is not None]
    assert len(told) == 7
    assert all(seconds > 0 for seconds in told[:-1])
    assert told[-1] == 0


def test_the_forecast_counts_what_workers_wait_for(tmp_path: Path) -> None:
    """Each trial trains for a second and a half, and takes five to be proposed."""
    table = Table()
    driver = opened(tmp_path / "s", table, 12)
    entries = driver.ledger.entries
    table.now = lambda: 5.0 * driver.asked + 0.5 * sum(entry.epoch for entry in entries.values())
    closed = (event for event in driver.run() if isinstance(event, Closed))
    left = [(table.now(), event.forecast) for event in closed]
    end = table.now()
    for now, forecast in left[3:-1]:
        assert forecast is not None
        assert (end - now) / 1.5 < forecast.seconds <= 1.1 * (end - now)


def test_the_best_is_marked_when_it_is_found(tmp_path: Path) -> None:
    best = None
    for event in opened(tmp_path / "s", Table(slots=2), 12).run():
        if isinstance(event, Closed):
            assert event.row.score is not None
            assert event.is_best == (best is None or event.row.score > best)
            best = max(best or 0.0, event.row.score)
            assert event.best == best


@pytest.mark.parametrize("metric", ["", "[accuracy, params]"])
def test_a_trial_is_told_as_a_leaderboard_made_then_has_it(metric: str, tmp_path: Path) -> None:
    """The ranks of those before are kept from one to the next, and trials wait among them."""
    goals = f", metric: {metric}" if metric else ""
    text = SPACE.replace("sampler: random, pruner: none", f"sampler: auto, pruner: auto{goals}")
    cost = "params" if metric else None
    seen: list[Row] = []
    for stop in (9, 30):
        driver = opened(tmp_path / "s", Table(slots=3), stop, text=text)
        for event in driver.run():
            if isinstance(event, Closed):
                rows = leaderboard.rows(driver.study.get_trials(), ACCURACY, cost)
                assert event.row in rows
                assert event.done == sum(row.state != "paused" for row in rows)
                assert driver.rows() == rows
                seen.append(event.row)
    assert len(seen) == 30
    assert metric == "" or any(row.front and row.rank > 1 for row in seen)
    assert any(row.state != "finished" for row in seen)


def test_only_the_best_few_keep_their_weights(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(slots=2), 12)
    list(driver.run())
    kept = {int(folder.name) for folder in (tmp_path / "s" / "trials").iterdir()}
    ranked = [row.trial for row in driver.rows()]
    assert len(kept) == MORE
    assert kept == set(ranked[: len(kept)])
    assert all(driver.checkpoint(number).exists() for number in kept)


def test_no_more_weights_stay_for_an_ensemble_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "ROOM", 9)

    def lose(job: Job | None, epoch: int) -> bool:
        if job:
            Path(job.checkpoint).write_bytes(b"four")
        return False

    driver = opened(tmp_path / "s", Table(lose=lose), 12)
    list(driver.run())
    kept = list((tmp_path / "s" / "trials").iterdir())
    assert len(kept) == searching.KEPT + 2


def test_what_to_deliver_when_nothing_has_finished_has_weights(tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        """Wide nets score best, until they diverge."""
        wide = width(config) > 32
        return Refused("diverged", "") if wide and epoch == 2 else 0.9 if wide else 0.4

    driver = opened(tmp_path / "s", Table(curve, slots=2), 12)
    for event in driver.run():
        if isinstance(event, Trained) and event.epoch.number == 2:  # a narrow one, not yet closed
            break
    assert driver.rows()[0].state == "infeasible"
    assert driver.best == event.trial
    assert driver.checkpoint(driver.best).exists()


def trial(state: TrialState, *curve: float, **told: Any) -> optuna.trial.FrozenTrial:
    constraints = {"constraints": [1.0]} if told.pop("infeasible", False) else {}
    made = optuna.trial.create_trial(
        state=state,
        value=curve[-1] if state == TrialState.COMPLETE else None,
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs=told,
        system_attrs=constraints,
    )
    return made


TRIALS = [
    trial(TrialState.COMPLETE, 0.1, 0.5, summary="a | b", params=1234, seconds=1.25),
    trial(TrialState.PRUNED, 0.9, reason="rank 4 of 5 at epoch 1", summary='say "no", or more'),
    trial(TrialState.FAIL, reason="worker lost 3 times"),
    trial(TrialState.COMPLETE, 0.7, 0.8),
    trial(TrialState.RUNNING, 0.95),
    trial(TrialState.RUNNING),
    trial(TrialState.WAITING),
    trial(TrialState.COMPLETE, 0.9, 0.8),
]


@pytest.fixture
def mixed() -> list[optuna.trial.FrozenTrial]:
    for number, made in enumerate(TRIALS):
        made.number = number
    return TRIALS


@pytest.mark.parametrize(
    ("metric", "want"),
    [
        (Metric("accuracy"), [3, 7, 0, 4, 1, 2, 5]),
        (Metric("loss", higher_is_better=False), [0, 3, 7, 1, 4, 2, 5]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_finished_trials_lead_by_their_last_score_and_ties_by_age(
    metric: Metric, want: list[int], mixed: list[optuna.trial.FrozenTrial]
) -> None:
    rows = leaderboard.rows(mixed, metric)
    assert [row.trial for row in rows] == want
    assert [row.rank for row in rows] == list(range(1, len(want) + 1))


def test_every_state_has_its_word(mixed: list[optuna.trial.FrozenTrial]) -> None:
    states = {row.trial: row.state for row in leaderboard.rows(mixed, ACCURACY)}
    assert states == {
        0: "finished",
        1: "stopped",
        2: "lost",
        3: "finished",
        4: "paused",
        5: "paused",
        7: "finished",
    }


def test_every_row_of_the_markdown_table_has_all_its_cells(
    mixed: list[optuna.trial.FrozenTrial],
) -> None:
    text = leaderboard.markdown(leaderboard.rows(mixed, ACCURACY), ACCURACY)
    head, rule, *lines = text.splitlines()
    assert len(lines) == 7
    cells = [line.replace("\\|", "").count("|") for line in (head, rule, *lines)]
    assert set(cells) == {9}
    assert "a \\| b" in text


def test_the_csv_reads_back_as_it_was(mixed: list[optuna.trial.FrozenTrial]) -> None:
    rows = leaderboard.rows(mixed, ACCURACY)
    read = list(csv.DictReader(io.StringIO(leaderboard.as_csv(rows))))
    assert [int(row["trial"]) for row in read] == [row.trial for row in rows]
    assert [row["summary"] for row in read] == [row.summary for row in rows]
    assert [row["score"] and float(row["score"]) for row in read] == [
        "" if row.score is None else row.score for row in rows
    ]


def test_lines_of_a_table_that_are_kept_are_those_of_fresh_rows(
    mixed: list[optuna.trial.FrozenTrial],
) -> None:
    kept = leaderboard.Ranking(ACCURACY)
    mixed[-1].user_attrs["latency_ms"] = 2.5  # one column more, from then on
    told = [{"trial": 3, "mean": 0.5, "spread": None, "seeds": [0]}]
    for count, finalists in ((2, []), (4, []), (len(mixed), []), (len(mixed), told)):
        ours = leaderboard.rows(mixed[:count], ACCURACY, None, finalists, kept)
        fresh = leaderboard.rows(mixed[:count], ACCURACY, None, finalists)
        assert leaderboard.markdown(ours, ACCURACY) == leaderboard.markdown(fresh, ACCURACY)
        assert leaderboard.as_csv(ours) == leaderboard.as_csv(fresh)


def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    list(opened(folder, Table(), 1).run())
    for text in ("", "{", "[]", json.dumps({"space": 1})):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(StudyError, match=r"manifest\.json: cannot be read") as caught:
            opened(folder, Table(), 1)
        assert "\n" not in str(caught.value)
