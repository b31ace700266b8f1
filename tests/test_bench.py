"""What searches are measured by: scores are those that were recorded, and all are charged alike."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lookup import Lookup, Table
from picture import Line, draw, spread
from replay import RECORDED, Recording, Replay, Spent, by_chance, optuna_default, ours
from search_quality import OURS, again, automl_search, automl_search_no_portfolio, ranks, table

from automl.engines import Go, Job, Refused

BENCH = Path(__file__).parent / "bench"


@pytest.fixture(scope="module")
def fashion() -> Recording:
    return Recording.load("fashion5k")


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_config_has_its_own_curve(name: str) -> None:
    recording = Recording.load(name)
    for number, config in enumerate(recording.configs[::10]):
        assert recording.nearest(config.values) == 10 * number
    one = Replay(recording, 10**6)
    config = next(config for config in recording.configs if len(config.curve) == recording.epochs)
    assert [one.score(config.values, e + 1) for e in range(recording.epochs)] == config.curve


@pytest.mark.parametrize("name", RECORDED)
def test_a_config_that_is_almost_a_recorded_one_has_its_curve(name: str) -> None:
    recording = Recording.load(name)
    for number in range(0, 50, 5):
        values = dict(recording.configs[number].values)
        for knob, value in values.items():
            if isinstance(value, float):
                values[knob] = value * 1.0001
        assert recording.nearest(values) == number


def test_what_diverged_diverges_again() -> None:
    recording = Recording.load("questions")
    number = next(n for n, c in enumerate(recording.configs) if 0 < len(c.curve) < recording.epochs)
    config, one = recording.configs[number], Replay(recording, 100)
    for epoch, score in enumerate(config.curve, 1):
        assert one.score(config.values, epoch) == score
    assert one.score(config.values, len(config.curve) + 1) == Refused("diverged", "")
    assert len(one.regrets) == len(config.curve) + 1, "what led to it is paid for"


def test_regret_is_of_the_end_of_what_would_be_delivered(fashion: Recording) -> None:
    ends = [config.curve[-1] for config in fashion.configs]
    best, middle = int(np.argmax(ends)), fashion.ends[len(ends) // 2]
    median = ends.index(middle)
    one = Replay(fashion, fashion.epochs + 2)
    one.score(fashion.configs[best].values, 1)
    assert one.regrets == [0.0]
    for epoch in range(1, fashion.epochs + 1):  # it has come further, so that it is delivered
        one.score(fashion.configs[median].values, epoch)
    assert one.regrets[-1] == 1.0
    one.score(fashion.configs[best].values, 2)
    assert one.regrets[-1] == 1.0, "what came less far is not"
    with pytest.raises(Spent):
        one.score(fashion.configs[best].values, 3)


def test_a_timed_epoch_costs_what_it_took(fashion: Recording) -> None:
    mean = sum(config.seconds for config in fashion.configs) / len(fashion.configs)
    number, slow = next(
        (n, c) for n, c in enumerate(fashion.configs) if 2.1 < c.seconds / mean < 2.4
    )
    one = Replay(fashion, 10, timed=True)
    assert one.cost(slow.values) == pytest.approx(slow.seconds / mean), "nearest in size is itself"
    worth = fashion.regret(number)
    one.score(slow.values, 1)
    assert one.regrets == [1.0, 1.0]
    one.score(slow.values, 2)
    assert one.regrets == [1.0, 1.0, worth, worth]
    one.score(slow.values, 3)
    one.score(slow.values, 4)
    with pytest.raises(Spent):
        one.score(slow.values, 5)
    assert len(one.regrets) == 10


def test_a_timed_search_has_spent_its_budget(fashion: Recording) -> None:
    one = Replay(fashion, 128, timed=True)
    with pytest.raises(Spent):  # its last epoch was not over
        ours(one, 0, sampler="random")
    assert len(one.regrets) == 128
    assert len(set(one.costs.values())) > 8


@pytest.mark.parametrize("slots", [1, 4])
def test_a_replayed_search_has_spent_its_budget(slots: int, fashion: Recording) -> None:
    one = Replay(fashion, 128)
    ours(one, 0, sampler="random", slots=slots)
    assert 128 - slots < len(one.regrets) <= 128
    assert len(one.numbers) > 8, "some did not come to their end"


@pytest.mark.parametrize("search", [by_chance, optuna_default])
def test_peers_are_charged_by_the_epoch(search: Any, fashion: Recording) -> None:
    one = Replay(fashion, 128)
    with pytest.raises(Spent):
        search(one, 0)
    assert len(one.regrets) == 128
    assert len(one.numbers) == 8 or search is optuna_default


def test_workers_side_by_side_share_a_clock() -> None:
    asked = []
    engine = Lookup(lambda job, epoch: asked.append((job.trial, epoch)) or float(epoch), slots=2)
    for slot in (0, 1):
        engine.start(slot)
    engine.wait(1)
    engine.wait(1)
    for slot in (0, 1):
        engine.send(slot, Job(slot, {}, "", 3))
    told = [engine.wait(1)[0][0] for _ in range(2)]
    assert (sorted(told), engine.now()) == ([0, 1], 1.0)
    engine.send(0, Go())
    engine.wait(1)
    engine.send(1, Job(0, {}, "", 3))  # the first trial, elsewhere
    for epoch in (1, 2):
        ((_, event),) = engine.wait(1)
        assert (event.number, event.metrics["accuracy"]) == (epoch, epoch)
        assert engine.now() == 2.0, "what is in the checkpoint costs nothing"
        engine.send(1, Go())
    engine.wait(1)
    assert engine.now() == 3.0
    assert asked == [(0, 1), (1, 1), (0, 2), (0, 3)]


@dataclass
class Param:
    name: str
    kind: str
    lo: Any = None
    hi: Any = None
    log: bool = False
    choices: list[Any] | None = None


@dataclass
class Task:
    """As the harness has them: a bowl, in which the epoch counts too."""

    max_epoch: int
    remaining: int
    seen: list[tuple[Any, int]] = field(default_factory=list)
    space = (
        Param("learning rate", "float", 1e-4, 1.0, log=True),
        Param("units", "int", 1, 512, log=True),
        Param("fixed", "int", 3, 3),
        Param("op", "cat", choices=[None, 7, "b"]),
        Param("only", "cat", choices=["one"]),
    )

    def key(self, config: dict[str, Any]) -> Any:
        return tuple(config[param.name] for param in self.space)

    def curve(self, config: dict[str, Any], epoch: int) -> list[float]:
        assert config["op"] in (None, 7, "b")
        assert (config["fixed"], config["only"]) == (3, "one")
        self.seen.append((self.key(config), epoch))
        worth = -abs(np.log10(config["learning rate"]) + 2) + (config["op"] == 7)
        return [worth - 1 / e for e in range(1, epoch + 1)]


@pytest.mark.parametrize("epochs", [1, 9])
@pytest.mark.parametrize("name", OURS)
def test_a_task_never_seen_before_is_searched(name: str, epochs: int) -> None:
    task = Task(epochs, 12 * epochs)
    OURS[name](task, 0)
    assert 11 * epochs <= len(task.seen) <= 12 * epochs
    assert len(set(task.seen)) == len(task.seen), "an epoch is never paid for twice"
    assert max(epoch for _, epoch in task.seen) == epochs


def test_only_what_paused_is_trained_from_scratch_again() -> None:
    turns = [0, 1, 0, 1, 0, 2, 0, 2, 1]  # of two workers; config 1 pauses after two epochs
    epochs = [1, 1, 2, 2, 3, 1, 4, 2, 3]
    assert again(turns, epochs, 2) == [1, 1, 1, 1, 1, 1, 1, 1, 3]
    assert again(turns, epochs, 1) == epochs, "one worker leaves what another call is for"
    assert again([0, 0, 1, 0], [1, 3, 1, 4], 1) == [1, 2, 1, 4]
    assert again([0, 0], [2, 2], 1) == [2, 2], "asked for what is known, it trains again"


def test_the_harness_finds_what_it_calls() -> None:
    task = Task(1, 6)
    automl_search(task, seed=0)
    automl_search_no_portfolio(task, seed=0)


def test_a_table_has_the_same_name_in_every_process() -> None:
    code = (
        "from lookup import Table; from test_bench import Task; print(Table(Task(1, 1), {}).name)"
    )
    path = os.pathsep.join([str(BENCH), str(BENCH.parent), *sys.path])
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1"},
    )
    assert told.stdout.strip() == Table(Task(1, 1), {}).name


def test_ranks_and_means_are_over_benchmarks_of_means_over_seeds() -> None:
    assert ranks({"a": {"x": 1, "y": 2}, "b": {"x": 2, "y": 2}, "c": {"x": 3, "y": 1}}) == {
        "a": (1 + 2.5) / 2,
        "b": (2 + 2.5) / 2,
        "c": (3 + 1) / 2,
    }
    runs = {
        "automl": {"x": np.array([[0.2], [0.4]]), "y": np.array([[0.1]])},
        "other": {"x": np.array([[0.1]]), "y": np.array([[0.9]])},
        "unfinished": {"x": np.array([[0.0]])},
    }
    lines = table(runs, [100], lambda _bench, run, i: run[:, i])
    assert lines[2:] == [
        "| **automl** | 3 | 0.200 | 1.5 |",
        "| other | 2 | 0.500 | 1.5 |",
    ]


def test_a_picture_names_every_line_once_and_none_on_another() -> None:
    lines = [Line(f"n<{i}", [1, 10, 100], [1, 0.5, 0.05 + i / 1000], i == 2) for i in range(12)]
    root = xml.etree.ElementTree.fromstring(draw(lines, "title", "budget"))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(t for t in texts if t and t.startswith("n<")) == sorted(x.name for x in lines)
    places = spread([line.y[-1] for line in lines])
    assert np.diff(places).max() <= -15
