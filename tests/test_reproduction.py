"""A trial trained again: what the study says is what comes out, or it is said that it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from optuna.trial import TrialState, create_trial
from test_search import SPACE, go, snapshot

from automl.searching.finals import Finals
from automl.searching.study import Study
from automl.training import Diverged

pytestmark = pytest.mark.usefixtures("all_forked")


@pytest.fixture
def again(command: Command) -> Command:
    """Run `automl reproduce s`: its status, what it printed and what it noted."""

    def run(studies: Path, trial: int, *words: object) -> tuple[object, str, str]:
        options = ["--trial", trial, "--studies", studies, "--device", "cpu", *words]
        return command("reproduce", "s", *options)

    return run


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials 0 and 1, as two workers trained them; the others are made up of the first.

    2 was stopped after two epochs, 3 ended a little off, 4 far off, 5 was never scored.
    """
    place = tmp_path_factory.mktemp("studies")
    go(place, SPACE.replace("epochs: 4", "epochs: 3"), trials=2, seed=5, finals=Finals(0))
    study = Study.open("s", place).optuna
    real = study.get_trials(deepcopy=False)[0]
    curve = real.intermediate_values
    for last, state in [
        (curve[2], TrialState.PRUNED),
        (curve[3] - 0.001, TrialState.COMPLETE),
        (curve[3] - 0.4, TrialState.COMPLETE),
        (None, TrialState.PRUNED),
    ]:
        told = {1: curve[1], 2: curve[2], 3: last}
        if state == TrialState.PRUNED:
            told = {1: curve[1], 2: last} if last else {}
        study.add_trial(
            create_trial(
                state=state,
                value=last if state == TrialState.COMPLETE else None,
                params=real.params,
                distributions=real.distributions,
                intermediate_values=told,
                user_attrs={"reason": "" if last else "too large"},
            )
        )
    return place


@pytest.mark.parametrize("trial", [0, 1])
def test_a_trial_is_the_same_to_the_last_digit_and_its_study_is_left_alone(
    trial: int, studies: Path, again: Command
) -> None:
    before, threads = snapshot(studies), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        status, out, err = again(studies, trial)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert status == 0
    assert "the same, to the last digit of every epoch" in out
    assert err.count("in the study") == 3
    assert snapshot(studies) == before


def test_a_trial_that_was_stopped_is_compared_as_far_as_it_came(
    studies: Path, again: Command
) -> None:
    status, out, _ = again(studies, 2, "--json")
    told = json.loads(out)
    assert status == 0
    assert len(told["study"]) == 2
    assert told["now"] == told["study"]


@pytest.mark.parametrize(("trial", "within"), [(3, "within"), (4, "more than")])
def test_what_is_not_the_same_is_said_and_fails(
    trial: int, within: str, studies: Path, again: Command
) -> None:
    status, out, _ = again(studies, trial)
    assert status == 1
    assert "NOT THE SAME" in out
    assert "by the same source of automl, it would be equal" in out
    assert f"{within} the noise" in out


@pytest.mark.parametrize(("trial", "want"), [(0, 0), (3, 0), (4, 1)])
def test_elsewhere_the_noise_is_allowed_for_and_what_differs_is_said(
    trial: int, want: int, studies: Path, again: Command, tmp_path: Path
) -> None:
    shutil.copytree(studies, tmp_path / "there")
    file = tmp_path / "there" / "s" / "manifest.json"
    manifest: dict[str, Any] = json.loads(file.read_text())
    manifest["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(manifest | {"device": "a GPU"}))
    status, out, _ = again(tmp_path / "there", trial)
    assert status == want
    if trial:
        assert "device a GPU, here CPU" in out
        assert "torch 1.0, here 2" in out


def test_a_training_that_falls_apart_is_not_the_same(
    studies: Path, again: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> Any:
        raise Diverged("loss nan in epoch 1")
        yield

    monkeypatch.setattr("automl.searching.reproduction.train", train)
    status, out, _ = again(studies, 0)
    assert status == 1
    assert "none now: NOT THE SAME: loss nan in epoch 1" in out


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        (5, "--trial: 5 was never scored, it is stopped: too large"),
        (6, "--trial: got 6; s has 0 to 5"),
        (-1, "--trial: got -1; s has 0 to 5"),
    ],
)
def test_a_trial_that_cannot_be_compared_is_one_line(
    trial: int, told: str, studies: Path, again: Command
) -> None:
    status, out, err = again(studies, trial)
    assert status == 2
    assert out == ""
    assert err == f"automl: {told}\n"


def test_other_data_is_not_compared(studies: Path, again: Command, tmp_path: Path) -> None:
    shutil.copytree(studies, tmp_path / "there")
    file = tmp_path / "there" / "s" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": "other"}))
    status, _, err = again(tmp_path / "there", 0)
    assert status == 2
    assert err == "automl: digits: is not the data that s was begun with\n"
