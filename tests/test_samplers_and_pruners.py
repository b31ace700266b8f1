"""Every sampler and every pruner searches a space with conditions to its end."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from test_driver import Config, Table, opened, trials
from test_promotion import SPACE, rising, whole_or_stopped

from automl.config import Pruner, Sampler
from automl.engines import Event, Refused
from automl.searching.ledger import Entry, Ledger
from automl.searching.pruners import Hyperband
from automl.space import Space

COUNT = 16


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("sampler", Sampler.members())
def test_a_sampler_fills_spaces_with_conditions(sampler: str, slots: int, tmp_path: Path) -> None:
    text = SPACE + f"search: {{sampler: {sampler}, pruner: none}}"
    list(opened(tmp_path / "s", Table(rising, slots=slots), COUNT, text=text).run())
    whole_or_stopped(tmp_path / "s", COUNT)
    found = trials(tmp_path / "s")
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert {trial.params["optimizer"] for trial in found} == {"adamw", "sgd"}
    known = Space.parse(text).all_knobs()
    for trial in found:
        other = {"adamw": "sgd", "sgd": "adamw"}[trial.params["optimizer"]]
        assert not any(name.startswith(f"optimizer.{other}") for name in trial.params)
        assert trial.params.keys() <= known.keys()


@pytest.mark.parametrize("sampler", Sampler.members())
def test_a_sampler_of_the_same_seed_searches_the_same(sampler: str, tmp_path: Path) -> None:
    text = SPACE + f"search: {{sampler: {sampler}, pruner: none}}"

    def searched(name: str, seed: int) -> list[dict[str, object]]:
        list(opened(tmp_path / name, Table(rising), 14, text=text, seed=seed).run())
        return [trial.params for trial in trials(tmp_path / name)]

    first = searched("a", 1)
    assert first == searched("b", 1)
    assert first != searched("c", 2)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("pruner", Pruner.members())
def test_a_pruner_spares_epochs_and_lets_the_best_come_to_its_end(
    pruner: str, slots: int, tmp_path: Path
) -> None:
    text = SPACE + f"search: {{sampler: random, pruner: {pruner}}}"
    driver = opened(tmp_path / "s", Table(rising, slots=slots), COUNT, text=text)
    list(driver.run())
    whole_or_stopped(tmp_path / "s", COUNT)
    rows = driver.rows()
    assert rows[0].state == "finished"
    assert (sum(row.epochs for row in rows) < 0.8 * COUNT * 18) == (pruner != "none")
    assert all(row.reason for row in rows if row.state == "stopped")
    third = sorted((rising(driver.config(row.trial).dump(), 18) for row in rows), reverse=True)
    assert rows[0].score is not None
    assert rows[0].score >= third[COUNT // 3]


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_what_cannot_be_trained_is_no_rival(pruner: str, tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        if config["model"]["widths"][0] <= 24:
            return 0.5 * rising(config, epoch)
        return Refused("diverged", "") if epoch == 10 else 0.9

    text = SPACE + f"search: {{sampler: random, pruner: {pruner}}}"
    driver = opened(tmp_path / "s", Table(curve), 40, text=text)
    list(driver.run())
    states = Counter(row.state for row in driver.rows())
    assert states["infeasible"] > 10
    assert states["finished"] >= 3


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("gp", "auto"), ("cmaes", "asha"), ("cmaes", "hyperband")],
)
def test_a_sampler_learns_from_trials_that_were_stopped(
    sampler: str, pruner: str, tmp_path: Path
) -> None:
    plain = SPACE.partition("optimizer")[0] + "train: {epochs: 18}\n"
    plain += "optimizer: {name: adamw, lr: {float: [1e-4, 1e-1], log: true}}\n"

    def best(sampler: str) -> float:
        text = plain + f"search: {{sampler: {sampler}, pruner: {pruner}}}"
        driver = opened(tmp_path / sampler, Table(rising), 40, text=text)
        list(driver.run())
        return max(row.score or 0.0 for row in driver.rows() if row.state == "finished")

    assert best(sampler) > best("random") + 0.02


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_stopped_trials_that_lack_a_knob_of_the_finished_ones_are_no_fault_of_cmaes(
    pruner: str, tmp_path: Path
) -> None:
    text = SPACE + f"search: {{sampler: cmaes, pruner: {pruner}}}"
    list(opened(tmp_path / "s", Table(rising), COUNT, text=text, seed=2).run())
    whole_or_stopped(tmp_path / "s", COUNT)


def test_what_is_refused_is_not_asked_for_again_and_again(tmp_path: Path) -> None:
    def curve(config: Config, epoch: int) -> float | Event:
        good = config["model"]["widths"][0] <= 32
        return rising(config, epoch) if good or epoch < 3 else Refused("diverged", "")

    text = SPACE + "search: {sampler: gp, pruner: none}"
    driver = opened(tmp_path / "s", Table(curve), 30, text=text)
    list(driver.run())
    late = [row.state for row in driver.rows() if row.trial >= 18]
    assert late.count("infeasible") < 6


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("first", [1, 2])
def test_hyperband_stops_what_that_of_optuna_stops(
    first: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, rng = 27, random.Random(first)
    ours = Hyperband(first=first, factor=factor)
    theirs = optuna.pruners.HyperbandPruner(first, epochs, factor)

    def bracket(study: optuna.Study, trial: FrozenTrial) -> int:
        return ours.bracket(trial.number, epochs)  # Optuna's hash has the name of the study in it

    monkeypatch.setattr(theirs, "_get_bracket_id", bracket)
    study = optuna.create_study(direction="maximize", pruner=theirs)
    ledger = Ledger(epochs=epochs)
    ended = Counter[int]()
    for number in range(120):
        trial, entry = study.ask(), Entry(number, {})
        ledger.entries[number] = entry
        for epoch in range(1, epochs + 1):
            entry.curve.append(round(rng.random(), 1))  # with ties
            trial.report(entry.curve[-1], epoch)
            reason = ours.stop(entry, ledger) if epoch < epochs else None
            assert (reason is not None) == (epoch < epochs and trial.should_prune()), (
                number,
                epoch,
            )
            if reason:
                break
        ended[entry.epoch] += 1
        study.tell(trial, state=TrialState.PRUNED)
    assert ended[epochs] > 3
    assert ended[first] > 10


def test_most_trials_fall_into_brackets_of_hyperband_that_stop_early() -> None:
    counts = Counter(Hyperband().bracket(number, 27) for number in range(3000))
    assert sorted(counts) == [0, 1, 2, 3]
    shares = [counts[bracket] / 3000 for bracket in range(4)]
    assert shares == pytest.approx([27 / 49, 12 / 49, 6 / 49, 4 / 49], abs=0.03)
