"""What goes wrong in a training costs its trial at most: memory, numbers, bugs, data, a worker."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from optuna.trial import TrialState
from test_driver import Table, opened, trials, width
from test_engine import PARTS, TASK, eventually
from test_engine import config as plain
from test_limits import only_where_memory_is_told
from test_training import config, told, weights
from torch import Tensor, nn
from toy import SPACE, exact
from toy_worker import score as rising

from automl.config import Task
from automl.data import Data
from automl.engines import Broken, Event, Job, Lost, Ready, Reason, Refused, Save, Saved, Setup
from automl.engines.local import Local
from automl.errors import DataError, PartBug
from automl.results.leaderboard import Ending, counted
from automl.searching.driver import Driver
from automl.searching.finals import Finals, Rerun, decide
from automl.space import Space
from automl.training import Diverged, checkpoint, loop, train
from automl.training.cost import machine_mb, own_mb
from automl.training.precision import Precision
from automl.training.run import Run
from automl.training.step import spared

CPU = torch.device("cpu")
FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


@pytest.fixture(scope="module")
def data() -> Data:
    return Task.of({"name": "digits", "per_class": 12}).load(None)


# Memory.


def narrow(patch: pytest.MonkeyPatch, most: int) -> Counter[int]:
    """Memory that suffices to train on so many examples at once; counts those that were tried."""
    seen, build = Counter[int](), Run.__init__

    def look(model: nn.Module, given: tuple[Tensor]) -> None:
        if not model.training:
            return
        seen[len(given[0])] += 1
        if len(given[0]) > most:
            raise RuntimeError(FULL)

    def built(run: Run, *given: Any) -> None:
        build(run, *given)
        run.model.register_forward_pre_hook(look)

    patch.setattr(Run, "__init__", built)
    return seen


UPDATES: dict[str, dict[str, Any]] = {  # all that a loss may weigh
    "plain": {},
    "classes that weigh": {"train": {"class_weights": "inverse"}},
    "smoothing": {"train": {"label_smoothing": 0.2}},
    "both": {"train": {"class_weights": "inverse", "label_smoothing": 0.2}},
    "mixup": {"augment": {"name": "images", "mixup": 0.4}},
    "clipped": {"train": {"clip": 0.1}},
}


@pytest.mark.parametrize("case", UPDATES)
def test_the_parts_of_a_batch_make_the_same_update_as_the_whole(
    case: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = classmethod(lambda cls, device: cls(device, bf16=False))  # as parts round otherwise
    monkeypatch.setattr(Precision, "of", exact)
    kept = (data.train.y < 5) | (torch.arange(len(data.train)) % 4 == 0)
    uneven = replace(data, train=data.train[kept])
    model = {"name": "mlp", "widths": [16], "norm": "none"}
    one = config(model=model, optimizer={"name": "sgd", "lr": 0.1}, **UPDATES[case])
    whole = told(list(train(one, uneven, device=CPU, checkpoint=tmp_path / "a")))
    seen = narrow(monkeypatch, 9)
    parts = told(list(train(one, uneven, device=CPU, checkpoint=tmp_path / "b")))
    assert min(seen) < max(seen) / 3
    assert seen[max(seen)] == 1, "what does not fit is tried once"
    for (number, loss, *_), (other, close, *_) in zip(whole, parts, strict=True):
        assert (number, loss) == (other, pytest.approx(close, rel=1e-3))
    for name, weight in weights(tmp_path / "a").items():
        assert torch.allclose(weight, weights(tmp_path / "b")[name], atol=1e-4), name


def test_where_not_even_two_examples_fit_the_config_is_given_up(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = narrow(monkeypatch, 1)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(train(config(), data, device=CPU))
    assert list(seen) == [27, 14, 7, 4], "halves of halves; batch norm wants two examples"


def test_another_error_is_no_lack_of_memory() -> None:
    def wrong(x: Tensor, y: Tensor, parts: int) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        spared(wrong, torch.zeros(64, 1), torch.zeros(64), 1)


HUNGRY = (
    PARTS
    + """

class Hungry(Perceptron):
    name: Literal["hungry"] = "hungry"

    def build(self, inputs, outputs):
        import time
        held = []
        for _ in range(4000):  # a megabyte each, until it is stopped
            held.append(torch.ones(2**18))
            time.sleep(0.001)
        time.sleep(60)

class Poisonous(Perceptron):
    name: Literal["poisonous"] = "poisonous"
    told: str

    def build(self, inputs, outputs):
        raise torch.AcceleratorError(self.told)
"""
)


class Sparing(Local):
    """Workers with little memory of their own."""

    share: ClassVar[float]

    def send(self, slot: int, request: Any) -> None:
        if isinstance(request, Setup):
            request = replace(request, share=self.share)
        super().send(slot, request)


@only_where_memory_is_told
def test_a_worker_that_outgrows_its_share_is_replaced_and_its_config_refused(
    tmp_path: Path,
) -> None:
    plugin, log = tmp_path / "parts.py", tmp_path / "log"
    plugin.write_text(HUNGRY)
    Sparing.share = (own_mb() + 300) / machine_mb()  # no worker starts with more than we hold
    engine = Sparing(Setup(TASK, None, "", 1, [str(plugin)]), ["cpu"], log)
    engine.start(0)
    assert eventually(lambda: engine.wait(1.0)) == [(0, Ready())]
    engine.send(0, Job(0, plain({"name": "hungry"}), str(tmp_path / "t" / "c"), 1))
    ((_, lost),) = eventually(lambda: engine.wait(1.0))
    assert isinstance(lost, Lost)
    assert lost.reason == "out of memory"
    engine.start(0)
    assert eventually(lambda: engine.wait(1.0)) == [(0, Ready())]
    engine.close()
    assert re.search(r"worker: held [\d,]+ MB; its share is [\d,]+ MB", log.read_text())


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("CUDA error: device-side assert triggered", None),
        ("CUDA error: out of memory", "out of memory"),
    ],
)
def test_an_error_that_poisons_a_process_replaces_it(
    told: str, reason: Reason | None, tmp_path: Path
) -> None:
    plugin, log = tmp_path / "parts.py", tmp_path / "log"
    plugin.write_text(HUNGRY)
    engine = Local(Setup(TASK, None, "", 1, [str(plugin)]), ["cpu"], log)
    engine.start(0)
    assert eventually(lambda: engine.wait(1.0)) == [(0, Ready())]
    job = Job(0, plain({"name": "poisonous", "told": told}), str(tmp_path / "t" / "c"), 1)
    engine.send(0, job)
    ((_, lost),) = eventually(lambda: engine.wait(1.0))
    engine.close()
    assert isinstance(lost, Lost)
    assert lost.reason == reason
    assert told in log.read_text()


def outgrown(config: dict[str, Any], epoch: int) -> float | Event:
    """Wide models outgrow the share of their worker."""
    if width(config) > 32 and epoch == 2:
        return Lost("the worker held more than its share of memory", "out of memory")
    return rising(config, epoch)


def test_what_outgrows_its_worker_is_tried_once_and_the_sampler_learns(tmp_path: Path) -> None:
    table = Table(outgrown, slots=2)
    driver = opened(tmp_path / "s", table, 12)
    list(driver.run())
    wide = {job.trial for job in table.jobs if width(job.config) > 32}
    assert 0 < len(wide) < 12
    assert len(table.jobs) == 12
    for row in driver.rows():
        assert row.ending == ("out of memory" if row.trial in wide else "finished")
    for number in wide:
        assert trials(tmp_path / "s")[number].constraints


def test_a_finalist_that_outgrows_its_worker_is_left_out(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Table(), 6)
    list(driver.run())
    driver.engine = Table(lambda config, epoch: Lost("much", "out of memory"), slots=1)
    driver.started, driver.idle = False, set()
    found = list(decide(driver, Rerun(driver.engine, driver.data, driver), Finals(2, 1)))
    assert [(one.score, one.reason) for one in found] == [(None, "out of memory")] * 2


# Numbers that are none.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_a_score_that_is_no_number_is_a_config_that_diverged(
    name: str, value: float, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"loss": 1.0, "accuracy": 0.5} | {name: value}
    monkeypatch.setattr(loop, "evaluate", lambda *_: scores)
    with pytest.raises(Diverged, match=f"{name} {value:g}.* in epoch 1"):
        list(train(config(), data, device=CPU))


# To leave in time.


def test_who_asks_for_it_has_the_epoch_saved(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVING", 0.0)  # no checkpoint comes by itself but at the end
    undisturbed = told(list(train(config(), data, device=CPU)))
    epochs = train(config(), data, device=CPU, checkpoint=tmp_path / "c")
    next(epochs)
    second = next(epochs)
    assert checkpoint.load(tmp_path / "c") is None
    assert epochs.send(True) == second
    epochs.close()
    again = train(config(), data, device=CPU, checkpoint=tmp_path / "c")
    first = next(again)
    assert again.send(True) == first, "it is saved"
    assert told([first, *again]) == undisturbed


class Saving(Table):
    """Workers that save when they are asked to."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots=slots)
        self.asked: list[Any] = []

    def send(self, slot: int, request: Any) -> None:
        self.asked.append(request)
        if isinstance(request, Save):
            self.pending[slot] = Saved()
        else:
            super().send(slot, request)


def test_when_asked_to_leave_every_epoch_under_way_is_saved_and_nothing_begun(
    tmp_path: Path,
) -> None:
    table = Saving(slots=3)
    driver = opened(tmp_path / "s", table, 9)
    leaving = [False]
    driver.leave = lambda: leaving[0]
    events = driver.run()
    for event in events:
        if getattr(event, "epoch", None) and driver.done == 2:
            break
    begun, leaving[0], table.asked = len(table.jobs), True, []
    with pytest.raises(KeyboardInterrupt):
        list(events)
    assert len(table.jobs) == begun
    saved = sum(isinstance(request, Save) for request in table.asked)
    assert saved == len(driver.waiting) > 0
    assert not driver.active


def test_finals_are_left_in_the_same_way(tmp_path: Path) -> None:
    table = Saving(slots=2)
    driver = opened(tmp_path / "s", table, 6)
    list(driver.run())
    before = len(table.asked)
    driver.leave = lambda: len(table.asked) >= before + 3  # both have begun
    with pytest.raises(KeyboardInterrupt):
        list(decide(driver, Rerun(table, driver.data, driver), Finals(3, 3)))
    assert [type(request) for request in table.asked[before:]].count(Save) == 2


# Bugs, and data.


def test_a_bug_stops_the_search_with_its_traceback_and_the_config_that_shows_it(
    tmp_path: Path,
) -> None:
    def buggy(config: dict[str, Any], epoch: int) -> float | Event:
        return Broken("Traceback:\n  in build\nKeyError: 'oops'") if epoch == 2 else 0.5

    table = Table(buggy)
    driver = opened(tmp_path / "s", table, 3)
    file = tmp_path / "s" / "bug.yaml"
    with pytest.raises(PartBug, match=rf"(?s)in trial 0 .*{file}:\nTraceback.*KeyError: 'oops'"):
        list(driver.run())
    assert Space.load(file).config().dump() == table.jobs[0].config


def test_data_that_is_gone_when_a_worker_starts_is_one_line(tmp_path: Path) -> None:
    class Gone(Table):
        def start(self, slot: int) -> None:
            self.pending[slot] = Refused("data error", "/data: not found")

    with pytest.raises(DataError, match=r"^/data: not found$"):
        list(opened(tmp_path / "s", Gone(), 3).run())


def test_a_worker_without_its_data_says_so(tmp_path: Path) -> None:
    task = {"name": "imagefolder", "path": str(tmp_path / "nowhere")}
    engine = Local(Setup(task, None, "", 1, []), ["cpu"], tmp_path / "log")
    engine.start(0)
    ((_, refused),) = eventually(lambda: engine.wait(1.0))
    engine.close()
    assert isinstance(refused, Refused)
    assert refused.reason == "data error"
    assert "nowhere" in refused.detail


def test_a_worker_that_finds_other_data_than_the_search_began_with_trains_nothing(
    tmp_path: Path,
) -> None:
    setup = Setup(TASK, None, "", 1, [], fingerprint="of yesterday")
    engine = Local(setup, ["cpu"], tmp_path / "log")
    engine.start(0)
    ((_, refused),) = eventually(lambda: engine.wait(1.0))
    engine.close()
    assert refused == Refused(
        "data error",
        "digits: the data is not what the search began with: it was changed meanwhile",
    )


# How trials end.


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_reason_is_counted_under_its_own_name(reason: Reason, tmp_path: Path) -> None:
    def curve(config: dict[str, Any], epoch: int) -> float | Event:
        return Refused(reason, "") if width(config) > 32 else rising(config, epoch)

    driver = opened(tmp_path / "s", Table(curve), 12)
    list(driver.run())
    rows = driver.rows()
    counts = Counter(row.ending for row in rows)
    assert set(counts) == {"finished", reason} <= set(get_args(Ending))
    told = {f"{counts['finished']} finished", f"{counts[reason]} {reason}"}
    assert set(counted(rows).removeprefix("12 trials: ").split(", ")) == told


def test_workers_that_have_started_before_are_given_more_chances(tmp_path: Path) -> None:
    starts = Counter[bool]()

    def lose(job: Job | None, epoch: int) -> bool:
        """The worker of the first trial dies, and then ten as they start."""
        starts[job is None] += 1
        return 1 < starts[True] <= 11 if job is None else starts[False] == 1

    list(opened(tmp_path / "s", Table(lose=lose), 3).run())
    assert starts[True] == 12
    exact(tmp_path / "s", 3)


def test_progress_forgives_the_workers_that_were_lost_before(tmp_path: Path) -> None:
    lost: Counter[tuple[int, int]] = Counter()

    def lose(job: Job | None, epoch: int) -> bool:
        """Two workers over each epoch."""
        lost[job.trial if job else -1, epoch] += job is not None
        return job is not None and lost[job.trial, epoch] <= 2

    table = Table(lose=lose)
    driver = opened(tmp_path / "s", table, 2)
    list(driver.run())
    assert {row.state for row in driver.rows()} == {"finished"}


@pytest.mark.parametrize(("sampler", "seeds"), [("tpe", 3), ("auto", 1)])
def test_a_poisoned_region_wastes_fewer_trials_than_failures_would(
    sampler: str, seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best lies beside what cannot be trained."""

    def curve(config: dict[str, Any], epoch: int) -> float | Event:
        wide = width(config)
        return Refused("out of memory", "") if wide > 24 else wide / 100 * (1 - 0.5**epoch)

    def failed(driver: Driver, trial: Any, reason: Reason, detail: str) -> None:
        driver.study.tell(trial, state=TrialState.FAIL)
        driver.ledger.entries[trial.number].state = "closed"

    text = SPACE.replace("sampler: random", f"sampler: {sampler}")

    def wasted(name: str, seed: int) -> int:
        """Trials spent where nothing can be trained, of 30."""
        driver = opened(tmp_path / f"{name}{seed}", Table(curve), 30, text=text, seed=seed)
        list(driver.run())
        return sum(row.ending != "finished" for row in driver.rows())

    ours = sum(wasted("ours", seed) for seed in range(seeds))
    monkeypatch.setattr(Driver, "_refuse", failed)
    theirs = sum(wasted("theirs", seed) for seed in range(seeds))
    assert ours < 0.8 * theirs, (ours, theirs)
