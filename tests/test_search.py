"""A whole search with real workers: what is scored is what is delivered, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import automl
from automl import amounts
from automl.cache import folder as cache
from automl.config import load_plugin
from automl.data import Metric, Split
from automl.errors import AutomlError, DataError, SpaceError, StudyError
from automl.results.artifact import Artifact, Prediction
from automl.results.delivery import fit
from automl.results.leaderboard import Row
from automl.screen import Screen, nothing, table
from automl.searching.driver import Closed, Forecast, Trained
from automl.searching.finals import Finals, Retrained
from automl.searching.run import Finished, Opened, Told, run
from automl.searching.study import Study, alone, below, folder
from automl.space import Space
from automl.training import train

TRIALS = 4
SPACE = """
task: {name: digits, per_class: 30}
search: {sampler: random, pruner: none}
model: {name: mlp, widths: [{int: [8, 64]}]}
optimizer: {name: adamw, lr: {float: [1e-3, 3e-2], log: true}}
train: {epochs: 4, batch_size: 32}
"""


def go(studies: Path, text: str = SPACE, **options: Any) -> list[Told]:
    return list(begin(studies, text, **options))


def begin(studies: Path, text: str = SPACE, **options: Any) -> Generator[Told]:
    options = {"name": "s", "trials": TRIALS, "workers": 2, "device": "cpu"} | options
    return run(Space.parse(text, "my space.yaml"), studies=studies, **options)


@dataclass(frozen=True)
class Searched:
    """One search, looked at by most tests here; who changes anything takes a copy."""

    studies: Path
    events: list[Told]
    early: Path  # best/ as it was after the first trial
    sealed_to_the_end: bool

    @property
    def study(self) -> Study:
        return Study.open("s", self.studies)

    def copy(self, to: Path) -> Path:
        """The folder of studies to go on with."""
        shutil.copytree(self.studies, to / "studies")
        return to / "studies"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    studies, early = tmp_path_factory.mktemp("studies"), tmp_path_factory.mktemp("early") / "best"
    spoilt, sealed = b"who opens the test split finds it damaged, and repairs it", False
    events: list[Told] = []
    for event in begin(studies):
        events.append(event)
        if isinstance(event, Opened):
            (test,) = cache().glob("digits-*/test.safetensors")
            whole = test.read_bytes()
            test.write_bytes(spoilt)
        if isinstance(event, Closed) and event.done == 1:
            shutil.copytree(studies / "s" / "best", early)
        if isinstance(event, Closed) and event.done == TRIALS:
            sealed = test.read_bytes() == spoilt
            test.write_bytes(whole)
    return Searched(studies, events, early, sealed)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below: what it holds and when it was written."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def scores(studies: Path) -> dict[int, float | None]:
    return {row.trial: row.score for row in Study.open("s", studies).leaderboard}


def test_a_search_tells_what_it_does_in_order(searched: Searched) -> None:
    first, *middle, last = searched.events
    assert isinstance(first, Opened)
    assert isinstance(last, Finished)
    assert sum(isinstance(event, Closed) for event in middle) == TRIALS
    assert sum(isinstance(event, Trained) for event in middle) == TRIALS * 4
    assert (first.done, first.resumed, first.trials, first.workers) == (0, 0, TRIALS, 2)
    assert 0.05 < first.chance[1] < first.baseline[1] <= 1


def test_the_test_split_stays_closed_until_all_trials_have_ended(searched: Searched) -> None:
    assert searched.sealed_to_the_end


def test_the_best_model_is_four_plain_files(searched: Searched) -> None:
    names = {file.name for file in (searched.studies / "s" / "best").iterdir()}
    assert names == {"config.yaml", "model.safetensors", "metrics.json", "card.md"}


def test_the_study_folder_holds_what_is_documented_and_nothing_left_over(
    searched: Searched,
) -> None:
    names = {path.name for path in (searched.studies / "s").iterdir() if path.name[0] != "."}
    assert names == {
        "space.yaml",
        "manifest.json",
        "journal.log",
        "leaderboard.md",
        "leaderboard.csv",
        "report.html",
        "artifacts",
        "best",
        "finals",
        "trials",
        "workers.log",
    }
    assert (searched.studies / "s" / "space.yaml").read_text() == SPACE
    assert len(list((searched.studies / "s" / "trials").iterdir())) <= TRIALS


def test_the_leaderboard_the_metrics_and_the_loaded_model_agree(searched: Searched) -> None:
    study, best = searched.study, searched.study.best
    task = best.config.task
    top = study.leaderboard[0]
    again = best.evaluate(task.load(None).valid)
    assert best.metrics["trial"] == top.trial
    assert best.metrics["params"] == best.params == top.params
    assert best.metrics["valid"]["accuracy"] in best.metrics["finalists"][0]["scores"]
    assert again == pytest.approx(best.metrics["valid"], abs=1e-6)

    finished = searched.events[-1]
    assert isinstance(finished, Finished)
    assert finished.metrics == best.metrics
    test = task.test(None)
    assert best.evaluate(test) == pytest.approx(best.metrics["test"], abs=1e-6)
    assert best.metrics["test_examples"] == len(test)
    assert top.mean == max(row.mean for row in study.leaderboard if row.mean is not None)


def test_the_card_tells_the_scores_of_the_metrics(searched: Searched) -> None:
    best = searched.study.best
    card = (searched.studies / "s" / "best" / "card.md").read_text()
    for split in ("valid", "test"):
        assert f"{best.metrics[split]['accuracy']:.4f}" in card
    assert f"{best.metrics['chance']['accuracy']:.4f}" in card
    assert "Not tested" not in card


def test_the_card_tells_the_layers_the_data_the_limits_and_the_search(searched: Searched) -> None:
    best = searched.study.best
    card = (searched.studies / "s" / "best" / "card.md").read_text()
    metrics = best.metrics
    assert sum(layer["params"] for layer in metrics["layers"]) == best.params
    assert metrics["layers"][-1]["output"] == [10]
    for layer in metrics["layers"]:
        assert f"| {layer['name']} |" in card
    for said in (best.config.task.origin, metrics["environment"]["device"], *metrics["limits"]):
        assert said in card
    assert f"Found among {TRIALS} trials ({TRIALS} finished)" in card
    assert f"{metrics['dataset']['sealed']:,} to test" in card


def test_the_page_of_a_search_is_written_at_its_end(searched: Searched) -> None:
    finished, page = searched.events[-1], searched.studies / "s" / "report.html"
    assert isinstance(finished, Finished)
    assert finished.report == page
    assert f"{searched.study.best.metrics['test']['accuracy']:.4f}" in page.read_text()


@pytest.mark.usefixtures("forked")
def test_a_search_that_scored_nothing_has_a_page_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SPACE.replace("search: {", "search: {max_train_seconds: 0.000001, ")
    *_, finished = go(tmp_path, text, trials=1)
    assert isinstance(finished, Finished)
    assert finished.metrics is None
    assert "No trial has come to its end yet" in (tmp_path / "s" / "report.html").read_text()
    Screen(quiet=False, as_json=False, command="").show(finished)
    shown = capsys.readouterr().out
    assert "no trial was scored; 1 trial: 1 too slow; more --trials try others" in shown
    assert str(tmp_path / "s" / "report.html") in shown


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("disk", "warned"), [(10**9, False), (10**4, True)])
def test_a_study_that_takes_more_than_it_may_says_so(
    disk: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *_, finished = go(tmp_path, SPACE, trials=1, disk=disk, finals=Finals(1, 1))
    assert isinstance(finished, Finished)
    told = f"the study takes {amounts.told(finished.study.megabytes)} MB, more than 0.01: the model"
    assert [told in line for line in caplog.messages] == [True] * warned
    assert list(finished.study.path.glob("finals/*/checkpoint.pt"))
    assert all("weights of finalists" in line for line in caplog.messages)


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_a_leaderboard_says_what_a_model_is_however_narrow_the_terminal(
    width: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    what = "cnn residual 2x64 pool max | adamw lr 0.01 | batch 32"
    done = Row(
        1, True, 12, 0.9594, 0.9497, 0.03, 3, 12, 9, 9, 0.1, 2.0, 9.0, 1.0, "finished", "", what
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: width is not None)
    monkeypatch.setenv("COLUMNS", str(width))
    table([done] * 2, Metric("macro_f1"))
    shown = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    assert " ".join(shown.split()).count(what) == 2
    if width:
        assert max(map(len, shown.splitlines())) <= width


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(("hole", "count"), [("{choice: [8, 16]}", 2), ("16", 1)])
def test_a_search_ends_when_all_configs_are_tried(hole: str, count: int, tmp_path: Path) -> None:
    text = SPACE.replace("{int: [8, 64]}", hole).replace("{float: [1e-3, 3e-2], log: true}", "0.01")
    text = text.replace("search: {sampler: random, pruner: none}\n", "")
    opened, *_, finished = go(tmp_path, text, trials=5)
    assert isinstance(opened, Opened)
    assert (opened.configs, opened.trials) == (count, count)
    assert isinstance(finished, Finished)
    assert len(finished.study.leaderboard) == count
    screen = Screen(quiet=False, as_json=False, command="")
    screen.show(opened)
    assert finished.metrics is not None


def test_whoever_leaves_is_told_how_long_it_takes(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(quiet=False, as_json=False, command="")
    trained = next(event for event in searched.events if isinstance(event, Trained))
    for trial, seconds in enumerate([4.0, 75.0, 9.0]):
        screen.show(replace(trained, trial=trial, epoch=replace(trained.epoch, seconds=seconds)))
    screen.leaving()
    assert "to save them, about 75s each; Ctrl-C again: now" in capsys.readouterr().err
    screen.show(next(event for event in searched.events if isinstance(event, Retrained)))
    screen.leaving()
    assert "to save them; Ctrl-C again: now" in capsys.readouterr().err, "none of these goes on"


def test_a_forecast_of_one_trial_is_of_one(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(quiet=False, as_json=False, command="")
    opened, closed = (
        next(event for event in searched.events if isinstance(event, kind))
        for kind in (Opened, Closed)
    )
    screen.show(opened)
    screen.show(replace(closed, done=1, forecast=Forecast(29.0, 1)))
    assert "forecast: 1 trial, about 29s left" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "ended"), [(0, True), (1, False)])
def test_trials_that_time_did_not_suffice_for_are_told(
    more: int, ended: bool, searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, finished = searched.events[0], searched.events[-1]
    assert isinstance(opened, Opened)
    screen = Screen(quiet=True, as_json=False, command="automl search it")
    screen.show(replace(opened, trials=len(searched.study.leaderboard) + more))
    screen.show(finished)
    told = "time is up; this goes on from here: automl search it"
    assert (told in capsys.readouterr().out) != ended


def test_a_search_without_a_model_says_why_and_what_can_be_done(searched: Searched) -> None:
    rows = searched.study.leaderboard
    opened = next(event for event in searched.events if isinstance(event, Opened))
    lost = "no trial that was scored has its weights any more; 4 trials: 4 finished; "
    assert nothing(rows, opened) == f"{lost}more --trials try others"
    assert nothing(rows, replace(opened, trials=9)) == (
        f"{lost}time was up; the same command goes on, best with more --time"
    )


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"trials": "3"}, "trials: got '3'; want a whole number"),
        ({"workers": 1.5}, "workers: got 1.5; want a whole number"),
        ({"time": "soon"}, "--time: got 'soon'; want 90s, 30m, 8h or 1h30m"),
        ({"time": "10s"}, "--time: got 10 s; want more than 15 s"),
        ({"disk": "5"}, "--disk: got '5'; want 500MB or 5GB"),
        ({"plugins": "x.py"}, "--plugin x.py: want a Python file that exists"),
    ],
)
def test_a_search_from_python_takes_what_the_command_takes(
    option: dict[str, Any], told: str, tmp_path: Path
) -> None:
    space = Space.parse(SPACE, "my space.yaml")
    with pytest.raises(AutomlError, match=re.escape(told)):
        automl.search(space, name="s", studies=tmp_path, **option)


@pytest.mark.usefixtures("forked")
def test_a_search_does_not_fail_for_want_of_a_page(
    searched: Searched,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def page(facts: object) -> str:
        raise DataError("no page today")

    monkeypatch.setattr("automl.results.report.page", page)
    *_, finished = go(searched.copy(tmp_path))
    assert isinstance(finished, Finished)
    assert finished.report is None
    assert finished.metrics is not None
    assert "s: no report: no page today" in caplog.text


def test_the_config_that_is_delivered_trains_to_the_same_model_again(
    searched: Searched, tmp_path: Path
) -> None:
    best = searched.study.best
    config = Space.load(searched.studies / "s" / "best" / "config.yaml").config()
    assert config == best.config
    list(fit(config, tmp_path / "again", root=None, device=torch.device("cpu")))
    assert 'automl.load("again")' in (tmp_path / "again" / "card.md").read_text()
    again = automl.load(tmp_path / "again")
    for split in ("valid", "test"):
        assert again.metrics[split] == best.metrics[split]
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "no checkpoint is left over"


@pytest.fixture(scope="module")
def best(searched: Searched) -> Artifact:
    return automl.load_best("s", studies=searched.studies)


@pytest.fixture(scope="module")
def digits() -> Split:
    return automl.Task.of("digits").test(None)


def png(image: torch.Tensor, folder: Path) -> Path:
    file = folder / "digit.png"
    Image.fromarray(image[0].numpy()).save(file)
    return file


# What predict takes, made from uint8 (3, 1, 8, 8), and how many images of these it is.
FORMS: dict[str, tuple[int, Callable[[torch.Tensor, Path], Any]]] = {
    "a PIL image": (1, lambda x, _: Image.fromarray(x[0, 0].numpy())),
    "a colour PIL image": (1, lambda x, _: Image.fromarray(x[0, 0].numpy()).convert("RGB")),
    "an array (H, W)": (1, lambda x, _: x[0, 0].numpy()),
    "an array (H, W, 1)": (1, lambda x, _: x[0].permute(1, 2, 0).numpy()),
    "an array (N, H, W)": (3, lambda x, _: x[:, 0].numpy()),
    "an array (N, 1, H, W)": (3, lambda x, _: x.numpy()),
    "an array (N, H, W, 1)": (3, lambda x, _: x.permute(0, 2, 3, 1).numpy()),
    "an array of fractions": (3, lambda x, _: x[:, 0].numpy().astype(np.float32) / 255),
    "an array of float64": (1, lambda x, _: x[0, 0].numpy().astype(float)),
    "a tensor (H, W)": (1, lambda x, _: x[0, 0]),
    "a tensor (C, H, W)": (1, lambda x, _: x[0]),
    "a tensor (N, C, H, W)": (3, lambda x, _: x),
    "a tensor of fractions": (3, lambda x, _: x / 255),
    "a path": (1, lambda x, folder: png(x[0], folder)),
    "a path as text": (1, lambda x, folder: str(png(x[0], folder))),
    "the bytes of a file": (1, lambda x, folder: png(x[0], folder).read_bytes()),
    "a column of paths": (1, lambda x, folder: np.array([str(png(x[0], folder))])),
    "a column of arrays": (1, lambda x, _: np.array([None, x[0]], dtype=object)[1:]),
    "a list of arrays": (3, lambda x, _: [image[0].numpy() for image in x]),
    "a list of many kinds": (2, lambda x, folder: [png(x[0], folder), x[1, 0].numpy()]),
    "a generator": (3, lambda x, _: (image for image in x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_predict_takes_an_image_in_any_form(
    form: str, best: Artifact, digits: Split, tmp_path: Path
) -> None:
    count, make = FORMS[form]
    want = best.predict(digits.x[:count])
    told = best.predict(make(digits.x[:3], tmp_path))
    assert [one.label for one in told] == [one.label for one in want]
    for one, other in zip(told, want, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_a_prediction_is_a_label_and_probabilities_that_sum_to_one(
    best: Artifact, digits: Split
) -> None:
    told = best.predict(digits.x)
    assert len(told) == len(digits)
    for one in told:
        assert isinstance(one, Prediction)
        assert set(one.probabilities) == set(best.labels)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert one.probability == one.probabilities[one.label] == max(one.probabilities.values())
    hits = [int(one.label) == y for one, y in zip(told, digits.y.tolist(), strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(best.metrics["test"]["accuracy"], abs=0.01)


@pytest.mark.parametrize(
    "raw",
    [
        17,
        "/nowhere/photo.png",
        np.full((8, 8), np.nan),
        np.full((8, 8), 300),
        np.zeros((2, 2, 2, 2, 2)),
        np.zeros((0, 8)),
        np.array(["a"]),
        np.zeros((8, 8), complex),
        [],
    ],
    ids=repr,
)
def test_what_is_no_image_is_one_data_error(raw: Any, best: Artifact) -> None:
    with pytest.raises(DataError) as caught:
        best.predict(raw)
    assert "\n" not in str(caught.value)


def test_the_same_call_again_trains_nothing_and_leaves_the_model_as_it_is(
    searched: Searched, tmp_path: Path
) -> None:
    studies = searched.copy(tmp_path)
    before = snapshot(studies / "s" / "best")
    space = Space.parse(SPACE, "my space.yaml")
    study = automl.search(space, name="s", studies=studies, trials=TRIALS, workers=2, device="cpu")
    assert snapshot(studies / "s" / "best") == before
    assert [row.trial for row in study.leaderboard] == list(searched_order(searched))
    assert study.best.metrics == searched.study.best.metrics


@pytest.mark.usefixtures("forked")
def test_a_model_is_not_tested_on_what_it_was_trained_on_where_data_came_meanwhile(
    tmp_path: Path,
) -> None:
    """Of more files others are drawn to test: most of them were trained on."""
    data = tmp_path / "mine.csv"
    rows = [f"word{i} of it,{'good' if i % 2 else 'bad'}\n" for i in range(60)]
    data.write_text("text,label\n" + "".join(rows))
    text = f"""
task: {{name: textcsv, path: {data}}}
model: {{name: bag, width: {{int: [16, 32]}}}}
train: {{epochs: 1, batch_size: 32}}
"""
    events = begin(tmp_path / "studies", text, trials=1, workers=1, finals=Finals(0, 1))
    config = Space.parse(text.replace("{int: [16, 32]}", "16"), "my config.yaml").config()
    training = fit(config, tmp_path / "model", root=None, device=torch.device("cpu"))
    while not isinstance(next(events), Closed):
        pass
    next(training)
    with data.open("a") as more:
        more.write("one more,good\n")
    for going in (events, training):
        with pytest.raises(DataError, match=r"^textcsv: the data is not what .* changed meanwhile"):
            list(going)
    held = Study.open("s", tmp_path / "studies").best.metrics
    assert held["test"] is None


def searched_order(searched: Searched) -> list[int]:
    return [row.trial for row in searched.study.leaderboard]


@pytest.mark.usefixtures("forked")
def test_more_trials_go_on_where_the_search_was(searched: Searched, tmp_path: Path) -> None:
    studies = searched.copy(tmp_path)
    events = go(studies, trials=TRIALS + 1, workers=1)
    opened = events[0]
    assert isinstance(opened, Opened)
    assert opened.done == TRIALS
    told = scores(studies)
    assert len(told) == TRIALS + 1
    assert {trial: told[trial] for trial in range(TRIALS)} == scores(searched.studies)
    study = Study.open("s", studies)
    assert study.best.metrics["trial"] == study.leaderboard[0].trial


@pytest.mark.usefixtures("forked")
def test_a_study_whose_weights_were_deleted_trains_its_finalists_again(
    searched: Searched, tmp_path: Path
) -> None:
    studies, want = searched.copy(tmp_path), searched.study.best.metrics
    for weights_of in ("trials", "finals"):
        shutil.rmtree(studies / "s" / weights_of)
    before = snapshot(studies / "s" / "best")
    last = go(studies, finals=Finals(0))[-1]  # nothing is left to decide by
    assert isinstance(last, Finished)
    assert last.metrics == want, "the model that was tested is there all the same"
    last = go(studies)[-1]
    assert isinstance(last, Finished)
    assert last.metrics == want, "on the same CPU they come to the same"
    assert snapshot(studies / "s" / "best") == before


@pytest.mark.usefixtures("forked")
def test_a_best_model_that_a_crash_left_behind_is_brought_up_to_date(
    searched: Searched, tmp_path: Path
) -> None:
    top = searched.study.leaderboard[0].trial
    assert automl.load(searched.early).metrics["trial"] != top, "take another seed for this test"
    for left in (searched.early, None):
        studies = searched.copy(tmp_path / str(left is None))
        shutil.rmtree(studies / "s" / "best")
        if left:
            shutil.copytree(left, studies / "s" / "best")
        go(studies)
        told, want = automl.load_best("s", studies=studies).metrics, searched.study.best.metrics
        del told["latency_ms"], want["latency_ms"]  # measured anew
        assert told == want


def eventually(seen: Callable[[], Any]) -> Any:
    """What `seen` gives once it gives something; the bound is for a test that is red."""
    end = time.monotonic() + 120
    while not (found := seen()):
        assert time.monotonic() < end, "waited for two minutes"
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def workers() -> list[int]:
    """The workers that this process drives."""

    def is_worker(pid: int) -> bool:
        return not gone(pid) and b"automl.engines" in Path(f"/proc/{pid}/cmdline").read_bytes()

    return [pid for pid in children(os.getpid()) if is_worker(pid)]


@pytest.mark.usefixtures("forked")
def test_what_the_driver_computes_beside_its_workers_has_one_thread(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = {type(event): torch.get_num_threads() for event in begin(tmp_path, trials=1)}
        assert (seen[Trained], seen[Closed], seen[Finished]) == (1, 1, 3)
        events = begin(tmp_path, trials=2)
        next(event for event in events if isinstance(event, Trained))
        events.close()
        assert torch.get_num_threads() == 3, "however it ends"
    finally:
        torch.set_num_threads(before)


def test_a_killed_worker_changes_no_score(searched: Searched, tmp_path: Path) -> None:
    killed = 0
    for event in begin(tmp_path, workers=1):
        if (
            isinstance(event, Trained)
            and not killed
            and (event.trial, event.epoch.number) == (1, 2)
        ):
            os.kill(workers()[0], signal.SIGKILL)
            killed += 1
    assert killed
    assert scores(tmp_path) == scores(searched.studies)
    assert Study.open("s", tmp_path).best.metrics["test"] == searched.study.best.metrics["test"]


LONG = """
task: {name: digits, per_class: 10}
search: {sampler: random, pruner: none}
model: {name: mlp, widths: [{int: [8, 64]}]}
train: {epochs: 60, batch_size: 32}
"""
SLOW = LONG.replace("{name: mlp, widths: [{int: [8, 64]}]}", "{name: slow, width: {int: [8, 64]}}")
SLOW_PART = """
import time
from typing import Literal

from torch import nn

import automl


print("so it is with parts of one's own")


class Layer(nn.Module):
    def __init__(self, size, outputs, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.Linear(width, outputs))

    def forward(self, x):
        time.sleep(0.01 * self.training)  # a trial takes seconds on any machine
        return self.layers(x)


class Slow(automl.Model):
    name: Literal["slow"] = "slow"
    width: int = 8

    def build(self, inputs, outputs):
        channels, height, width = inputs.shape
        return Layer(channels * height * width, outputs, self.width)
"""


@pytest.mark.usefixtures("forked")  # what this process begins; drivers begin their own
def test_however_a_driver_ends_the_same_command_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    file, journal = tmp_path / "my space.yaml", tmp_path / "s" / "journal.log"
    file.write_text(SLOW)
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW_PART)
    load_plugin(plugin)
    words = ["search", str(file), "--name", "s", "--studies", str(tmp_path), "--trials", "2"]
    words += ["--workers", "1", "--device", "cpu", "--plugin", str(plugin)]
    # a shell's background jobs start deaf to SIGINT; one that is typed into a terminal does not
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    main = [sys.executable, "-c", f"{hears}; from automl.cli import main; main()"]

    def reports() -> int:
        return journal.read_bytes().count(b'"intermediate_value"') if journal.exists() else 0

    for ending in (signal.SIGINT, signal.SIGKILL):  # as SIGINT, so SIGTERM: see faults/
        before, pipe = reports(), subprocess.PIPE
        driver = subprocess.Popen([*main, *words], stderr=pipe, stdout=pipe, text=True)
        eventually(lambda seen=before: reports() > seen + 2)
        driver.send_signal(signal.SIGSTOP)  # held in mid-trial, however slow this machine is
        pids = children(driver.pid)
        assert len(pids) == 1
        with pytest.raises(StudyError, match=f"another search holds .* \\(process {driver.pid}\\)"):
            go(tmp_path, SLOW, trials=2, plugins=[plugin])

        driver.send_signal(ending)
        driver.send_signal(signal.SIGCONT)
        out, told = driver.communicate(timeout=60)
        eventually(lambda seen=pids: all(map(gone, seen)))
        assert out == ""
        if ending == signal.SIGKILL:
            assert driver.returncode == -9
        else:
            assert driver.returncode == 130
            assert "Traceback" not in told
            assert told.strip().splitlines()[-1].strip() == shlex.join(["automl", *words])

    *_, finished = go(tmp_path, SLOW, trials=2, plugins=[plugin])
    assert isinstance(finished, Finished)
    rows = Study.open("s", tmp_path).leaderboard
    assert [row.state for row in rows] == ["finished"] * 2
    space = Space.parse(SLOW)
    data = space.task.load(None)
    for trial in Study.open("s", tmp_path).optuna.trials:
        *_, last = train(space.with_values(trial.params), data, device=torch.device("cpu"))
        assert trial.value == last.metrics["accuracy"]
        assert len(trial.intermediate_values) == 60


OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "space": (SPACE.replace("64", "65"), {}, r"another space \(model.widths\[0\] is not as in /"),
    "fixed value": (
        SPACE.replace("batch_size: 32", "batch_size: 33"),
        {},
        r"another space \(train.batch_size is not as in /.*/s/space.yaml\); use another --name",
    ),
    "one knob more": (SPACE + "augment: none", {}, r"another space \(augment is not as in "),
    "how to look": (SPACE.replace("none", "auto"), {}, r"another space \(search is not as in "),
    "seed": (SPACE, {"seed": 1}, "another seed"),
    "data": (SPACE.replace("per_class: 30", "per_class: 31"), {}, "another space|other data"),
}


def test_a_study_of_another_version_is_not_gone_on_with(searched: Searched, tmp_path: Path) -> None:
    studies = searched.copy(tmp_path)
    file = studies / "s" / "manifest.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in told.items() if key != "format"}))
    with pytest.raises(StudyError, match="s: begun by another version of automl; use another"):
        go(studies)


@pytest.mark.parametrize("other", OTHERS)
def test_a_study_is_not_gone_on_with_by_another_search(
    other: str, searched: Searched, tmp_path: Path
) -> None:
    text, options, told = OTHERS[other]
    studies = searched.copy(tmp_path)
    before = snapshot(studies)
    with pytest.raises(StudyError, match=f"s: begun with .*({told})") as caught:
        go(studies, text, trials=9, **options)
    assert "\n" not in str(caught.value)
    assert snapshot(studies) == before


@pytest.mark.usefixtures("forked")
def test_comments_and_priors_may_change_while_a_study_goes_on(
    searched: Searched, tmp_path: Path
) -> None:
    text = "# my notes\n" + SPACE.replace("[8, 64]", "[8, 64], prior: 32")
    assert scores_after(searched.copy(tmp_path), text) == scores(searched.studies)


def scores_after(studies: Path, text: str) -> dict[int, float | None]:
    go(studies, text)
    return scores(studies)


NAMES = ["../x", "a/b", "", ".", "..", "con", "NUL", "lpt1", ".hidden", "a" * 65, "a b", "ä", "a\n"]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_name_that_is_no_plain_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="want letters, digits") as caught:
        go(tmp_path, name=name)
    assert "\n" not in str(caught.value)
    with pytest.raises(StudyError, match="want letters, digits"):
        automl.load_best(name, studies=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a" * 64, "Cifar-10_v1.2", "0", "console"])
def test_a_plain_study_name_is_taken(name: str, tmp_path: Path) -> None:
    assert folder(tmp_path, name) == tmp_path / name


def test_folders_may_go_while_a_study_is_looked_at(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "in").mkdir(parents=True)
    seen = below(tmp_path)
    *both, inside = (next(seen) for _ in range(3))
    [other] = [path for path in both if path != inside.parent]
    shutil.rmtree(other)
    assert list(seen) == []


def test_a_study_is_held_by_one_at_a_time_and_let_go(tmp_path: Path) -> None:
    with alone(tmp_path / "s"):
        held = pytest.raises(StudyError, match=f"process {os.getpid()}")
        with held, alone(tmp_path / "s"):
            pass
    with alone(tmp_path / "s"):
        pass


def test_there_is_no_best_model_before_a_trial_was_scored(
    searched: Searched, tmp_path: Path
) -> None:
    studies = searched.copy(tmp_path)
    shutil.rmtree(studies / "s" / "best")
    with pytest.raises(StudyError, match="best: there is no model: the same search writes it"):
        automl.load_best("s", studies=studies)
    begun = begin(tmp_path, name="early")
    next(begun)
    begun.close()
    with pytest.raises(StudyError, match="best: there is no model: no trial has come to its end"):
        automl.load_best("early", studies=tmp_path)
    with pytest.raises(StudyError, match=r"no study is called 't'\. Known: s\."):
        automl.load_best("t", studies=studies)


def edited(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(best: Path) -> None:
        (best / file).write_bytes(change((best / file).read_bytes()))

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Other tensors under the header of the file."""

    def spoil(best: Path) -> None:
        file = best / "model.safetensors"
        state, about = load_file(file), header(best)
        change(state)
        save_file(
            {k: v.contiguous() for k, v in state.items()}, file, {"automl": json.dumps(about)}
        )

    return spoil


def header(best: Path) -> dict[str, Any]:
    raw = (best / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    about: dict[str, Any] = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["automl"])
    return about


def headed(**about: Any) -> Callable[[Path], None]:
    """The tensors of the file under another header; what is not its own is of the inputs."""

    def spoil(best: Path) -> None:
        file, told = best / "model.safetensors", header(best)
        for key, value in about.items():
            (told["inputs"] if key in told["inputs"] else told)[key] = value
        save_file(load_file(file), file, {"automl": json.dumps(told)})

    return spoil


def piped(file: str) -> Callable[[Path], None]:
    def spoil(best: Path) -> None:
        (best / file).unlink()
        os.mkfifo(best / file)

    return spoil


def without_header(best: Path) -> None:
    file = best / "model.safetensors"
    save_file(load_file(file), file)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a weight of another name": weights(lambda w: w.update(other=w.pop("1.weight"))),
    "a weight too many": weights(lambda w: w.update(other=torch.zeros(1))),
    "a weight missing": weights(lambda w: w.pop("1.weight")),
    "a weight of another shape": weights(lambda w: w.update({"1.weight": w["1.weight"][:, :9]})),
    "a weight of another type": weights(lambda w: w.update({"1.weight": w["1.weight"].long()})),
    "no header": without_header,
    "no labels": headed(labels=[]),
    "fewer labels": headed(labels=["one", "two"]),
    "labels that are numbers": headed(labels=list(range(10))),
    "the same label twice": headed(labels=["one"] * 10),
    "two sides": headed(shape=[8, 8]),
    "a side below zero": headed(shape=[1, -8, -8]),
    "a side of nothing": headed(shape=[1, 0, 8]),
    "a vast side": headed(shape=[1, 2**40, 8]),
    "other sides": headed(shape=[1, 9, 9]),
    "two channels": headed(shape=[2, 4, 8]),
    "means of other channels": headed(mean=[0.5, 0.5, 0.5]),
    "a mean that is no number": headed(mean=[float("nan")]),
    "a deviation of nothing": headed(std=[0.0]),
    "an unknown key": headed(code="import os"),
    "garbage for weights": edited("model.safetensors", lambda raw: b"garbage" * 100),
    "weights cut": edited("model.safetensors", lambda raw: raw[: len(raw) // 2]),
    "weights cut in the header": edited("model.safetensors", lambda raw: raw[:20]),
    "empty weights": edited("model.safetensors", lambda raw: b""),
    "no weights": lambda best: (best / "model.safetensors").unlink(),
    "a config with holes": edited(
        "config.yaml", lambda raw: raw.replace(b"batch_size: 32", b"batch_size: {int: [1, 32]}")
    ),
    "a config of an unknown part": edited("config.yaml", lambda raw: raw.replace(b"mlp", b"mlq")),
    "a config with a tag": edited(
        "config.yaml", lambda raw: raw + b"\nx: !!python/name:os.system\n"
    ),
    "a pipe for a config": piped("config.yaml"),
    "a pipe for weights": piped("model.safetensors"),
    "a pipe for metrics": piped("metrics.json"),
    "no config": lambda best: (best / "config.yaml").unlink(),
    "metrics cut": edited("metrics.json", lambda raw: raw[:50]),
    "metrics that are a list": edited("metrics.json", lambda raw: b"[1, 2]"),
    "metrics that are no text": edited("metrics.json", lambda raw: b"\xff\xfe\x00"),
    "metrics too deep": edited("metrics.json", lambda raw: b"[" * 100_000),
    "no metrics": lambda best: (best / "metrics.json").unlink(),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_model_folder_that_was_tampered_with_is_one_error_that_names_the_place(
    case: str, searched: Searched, tmp_path: Path
) -> None:
    best = searched.copy(tmp_path) / "s" / "best"
    HOSTILE[case](best)
    with pytest.raises((DataError, SpaceError)) as caught:
        automl.load(best)
    assert "\n" not in str(caught.value)
    assert str(best) in str(caught.value)


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(AutomlError, match="nowhere"):
        automl.load(tmp_path / "nowhere")


@pytest.mark.usefixtures("forked")
def test_when_time_runs_out_before_a_trial_ends_the_best_so_far_is_delivered(
    tmp_path: Path,
) -> None:
    events = begin(tmp_path, LONG, workers=1, trials=1)
    for event in events:
        if isinstance(event, Trained) and event.epoch.number == 2:
            break
    events.close()
    assert not (tmp_path / "s" / "best").exists()

    hour = time.monotonic() - 3600
    *_, last = go(tmp_path, LONG, workers=1, trials=1, seconds=60.0, began=hour)
    assert isinstance(last, Finished)
    study = Study.open("s", tmp_path)
    (row,) = study.leaderboard
    assert row.state == "paused"
    assert 1 <= study.best.metrics["epochs"] <= row.epochs == 2
    assert last.metrics == study.best.metrics
    assert last.metrics["test"] is not None


def test_a_file_where_one_happens_to_stand_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by workers, and not by the process that loads the model again."""
    (tmp_path / "torch.py").write_text("open('run', 'w')\nraise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    go(tmp_path / "studies", trials=1)
    assert not (tmp_path / "run").exists()
    assert Study.open("s", tmp_path / "studies").best.metrics["proof"]["loaded"] is not None
