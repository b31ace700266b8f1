"""What did well elsewhere is tried first, in this space's values, and costs little if wrong."""

from __future__ import annotations

import errno
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from test_driver import Config, Table, opened, trials, width
from test_promotion import SPACE, rising
from toy import ACCURACY, DIGITS

from automl.config import Task
from automl.errors import AutomlError, OptionError, SpaceError, StudyError
from automl.searching import portfolio
from automl.searching.driver import Closed, Paused, Trained
from automl.searching.portfolio import Belief, Record, choose
from automl.searching.run import run
from automl.searching.study import Manifest, Study, begin
from automl.space import Space, shipped

pytestmark = pytest.mark.usefixtures("all_forked")

SPACES = {file.stem: Space.load(file) for file in sorted(shipped()[-1].glob("*.yaml"))}
few = settings(max_examples=10)
seeds = st.integers(0, 10**6)


def drawn(space: Space, seed: int) -> Config | None:
    try:
        return space.sample(random.Random(seed)).dump()
    except SpaceError:
        return None


# How a config is carried from one space to another.


@pytest.mark.parametrize("name", SPACES)
@few
@given(seed=seeds)
def test_a_config_carried_to_its_own_space_is_the_same(name: str, seed: int) -> None:
    space = SPACES[name]
    if config := drawn(space, seed):
        values = space.carried(config)
        assert values is not None
        assert space.with_values(values).dump() == config


@pytest.mark.parametrize("name", SPACES)
@few
@given(other=st.sampled_from(sorted(SPACES)), seed=seeds)
def test_a_config_carried_elsewhere_keeps_its_family_or_is_not_carried(
    name: str, other: str, seed: int
) -> None:
    if config := drawn(SPACES[other], seed):
        values = SPACES[name].carried(config)
        if values is not None:
            assert SPACES[name].with_values(values).model.name == config["model"]["name"]


MINE = """
task: digits
model:
  name: mlp
  widths: {repeat: {int: [2, 3]}, each: {int: [16, 64], step: 16}}
  dropout: {float: [0.2, 0.4]}
optimizer:
  choice:
    - {name: adamw, lr: {float: [1e-3, 1e-1], log: true}, weight_decay: {float: [0, 1], prior: 0.3}}
    - {name: muon, lr: 0.02}
train: {epochs: 3, batch_size: {choice: [32, 128]}}
"""
CARRIED = {  # what another space's config says, and what becomes of it here
    "the nearest, and those that are too many fall off": (
        {"widths": [20, 90, 40, 16]},
        [16, 64, 48],
    ),
    "those that are missing are like the last": ({"widths": [30]}, [32, 32]),
    "a number that is too large": ({"dropout": 0.9}, 0.4),
    "a number as it is": ({"dropout": 0.31}, 0.31),
    "the nearest of a few numbers": ({"batch_size": 100}, 128),
    "each knob by itself": ({"name": "adamw", "lr": 0.5, "weight_decay": 0.1}, [0.1, 0.1]),
    "what is not said is as believed": ({"name": "adamw", "lr": 0.02}, [0.02, 0.3]),
    "another rule's numbers say nothing": ({"name": "sgd", "lr": 0.03}, [0.01, 0.3]),
}


@pytest.mark.parametrize("what", CARRIED)
def test_what_is_carried(what: str) -> None:
    said, want = CARRIED[what]
    config: Config = {"model": {"name": "mlp"}, "optimizer": {}, "train": {}}
    knob = next(iter(said))
    place = {"widths": "model", "dropout": "model", "batch_size": "train"}.get(knob, "optimizer")
    config[place] |= said
    values = Space.parse(MINE).carried(config)
    assert values is not None
    made = Space.parse(MINE).with_values(values).dump()
    got = made[place][knob]
    if place == "optimizer":
        assert made["optimizer"]["name"] == "adamw"
        got = [made["optimizer"]["lr"], made["optimizer"]["weight_decay"]]
    assert got == (pytest.approx(want) if place == "optimizer" else want)


def test_numbers_of_another_rule_say_nothing_where_the_rule_is_fixed_either() -> None:
    config = {"model": {"name": "mlp"}, "optimizer": {"name": "sgd", "lr": 0.09}}
    assert Space.parse(TEXT).carried(config) == {
        "model.widths[0]": 32,
        "model.dropout": 0.25,
        "optimizer.lr": pytest.approx(0.01),
    }


def test_another_family_is_not_carried() -> None:
    for model in ({"name": "cnn"}, {"name": "an architecture of somebody else"}):
        assert Space.parse(MINE).carried({"model": model}) is None


# How a portfolio is chosen.


def test_the_best_for_its_price_comes_first_and_then_what_differs_most() -> None:
    worth = np.array(
        [
            [0.9, 0.8, 1.0, 0.0],  # what four configs are worth in one study
            [0.9, 0.8, 0.85, 0.0],
            [0.1, 0.1, 0.0, 0.9],  # and where another is needed
        ]
    )
    assert choose(worth, np.ones(4), 3) == [0, 3, 2]
    assert choose(worth, np.array([2.0, 1, 2, 1]), 3) == [1, 3, 2], "a bit worse at half the price"
    assert choose(worth, np.ones(4), 2) == [0, 3]
    assert choose(worth[:2], np.ones(4), 4) == [2, 0, 1], (
        "what adds nothing, then; what is no good, never"
    )


TEXT = """
task: digits
search: {sampler: random, pruner: none}
model: {name: mlp, widths: [{int: [1, 64]}], dropout: {float: [0, 0.5]}}
optimizer: {name: adamw, lr: {float: [1e-3, 1e-1], log: true}}
train: {epochs: 3}
"""


def around(best: int, lr: float = 0.01) -> Callable[[Config, int], float]:
    """Curves that are highest at a width and a learning rate."""

    def curve(config: Config, epoch: int) -> float:
        off = ((width(config) - best) / 64) ** 2 + math.log10(config["optimizer"]["lr"] / lr) ** 2
        return (0.3 + 0.6 * math.exp(-3 * off)) * (1 - 0.5**epoch)

    return curve


def studied(folder: Path, curve: Callable[[Config, int], float]) -> Study:
    list(opened(folder, Table(curve), 24, text=TEXT).run())
    return Study(folder)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Studies of a task on which narrow nets are best, and of one for wide nets."""
    folder = tmp_path_factory.mktemp("old")
    return [studied(folder / name, around(best)) for name, best in (("narrow", 4), ("wide", 60))]


def test_a_portfolio_has_something_for_every_study(old: list[Study]) -> None:
    beliefs = portfolio.build(old, 3)
    widths = sorted(belief.config.model.model_dump()["widths"][0] for belief in beliefs)
    assert widths[0] < 25
    assert widths[-1] > 40
    together = np.array([Record.of(study).worth(beliefs).max() for study in old])
    assert (together > 0.8).all()
    alone = np.array([Record.of(old[1]).worth([belief]).max() for belief in beliefs])
    assert alone.min() < 0.5, "one of them is for the other study"


def test_an_entry_says_where_it_comes_from(old: list[Study], tmp_path: Path) -> None:
    study = old[0]
    (belief, *_) = portfolio.build([study], 1)
    row = next(row for row in study.leaderboard if row.score == pytest.approx(belief.origin.score))
    assert (belief.origin.params, belief.origin.epochs) == (row.params, 3)
    assert belief.origin.task == "digits"
    assert belief.told.startswith("study narrow of 20")
    portfolio.write(tmp_path / "a.json", [belief])
    assert portfolio.read(tmp_path / "a.json") == [belief]


def test_a_portfolio_is_written_whole_or_not_at_all(
    old: list[Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beliefs, file = portfolio.build(old, 1), tmp_path / "a.json"
    file.write_text("as it was")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OptionError, match=r"--out: .*a\.json: No space left on device"):
        portfolio.write(file, beliefs)
    assert file.read_text() == "as it was"


def test_a_portfolio_is_of_one_kind_of_data(old: list[Study], tmp_path: Path) -> None:
    prose = "task: trec\nmodel: {name: bag, width: {int: [8, 64]}}\ntrain: {epochs: 3}\n"
    other = tmp_path / "other"
    shutil.copytree(old[0].path, other)
    (other / "space.yaml").write_text(prose)
    with pytest.raises(StudyError, match="studies of images and texts; want one kind of data"):
        portfolio.build([old[0], Study(other)], 3)


def test_a_study_that_has_hardly_begun_tells_nothing(tmp_path: Path) -> None:
    list(opened(tmp_path / "s", Table(), 2, text=TEXT).run())
    with pytest.raises(StudyError, match="2 trials have finished; want at least 5"):
        portfolio.build([Study(tmp_path / "s")], 3)


# What is shipped.


@pytest.mark.parametrize("path", sorted(portfolio.SHIPPED.glob("*.json")), ids=lambda p: p.stem)
def test_a_shipped_portfolio_is_of_known_data_and_of_use(path: Path) -> None:
    kinds = {task.gives for task in Task.members().values()}
    assert path.stem in kinds
    beliefs = portfolio.shipped(path.stem)
    assert {Task.members()[belief.origin.task].gives for belief in beliefs} == {path.stem}
    homes = [space for space in SPACES.values() if space.task.gives == path.stem]
    for belief in beliefs:
        assert any(space.carried(belief.config.model_dump(mode="json")) for space in homes)
    untaught = [space for space in homes if not space.sample(random.Random(0)).model.origin]
    assert len(untaught) > len(homes) / 2
    for space in untaught:
        carried = [space.carried(belief.config.model_dump(mode="json")) for belief in beliefs]
        assert sum(values is not None for values in carried) >= 2, space.source


def test_there_are_portfolios_for_images_and_texts() -> None:
    assert len(portfolio.shipped("images")) >= 4
    assert len(portfolio.shipped("texts")) >= 4
    assert portfolio.shipped("smells") == []


# Text from outside.

ENTRY = {
    "origin": {
        "study": "s",
        "task": "digits",
        "metric": "accuracy",
        "score": 0.9,
        "epochs": 3,
        "seconds": 1.5,
        "device": "cpu",
        "params": 100,
        "date": "2026-11-25",
    },
    "config": {
        "input": "pixels",
        "model": {"name": "mlp", "widths": [32], "dropout": 0.1},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "wsd",
        "augment": "none",
        "train": {"epochs": 3},
    },
}


def changed(**changes: Any) -> str:
    return json.dumps([ENTRY | {"config": ENTRY["config"] | changes}])


BROKEN = [
    ("", "no portfolio: Expecting value"),
    ("[" * 100_000, "no portfolio: "),
    ("{}", "got {}; want a list"),
    ("[1]", "[0]: got 1; want a "),
    ('[{"origin": {}}]', "[0].origin.study: is missing"),
    (changed(model="nm"), "[0].config.model: no model is called 'nm'"),
    (changed(model={"name": "mlp", "widths": [0]}), "[0].config.model.widths[0]: got 0; want"),
    (changed(optimizer={"name": "adamw", "lr": math.inf}), "want a finite number"),
    (json.dumps([ENTRY | {"origin": ENTRY["origin"] | {"study": "\x1b[2J"}}]), "study: got "),
    (changed(command="rm"), "[0].config.command: no knob is called 'command'"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_portfolio_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        portfolio.read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# What a search makes of it.

LEARNED = Belief.of(ENTRY)


def first(text: str, beliefs: list[Belief], **options: Any) -> list[dict[str, Any]]:
    space = Space.parse(text)
    return [values for values, _ in portfolio.usable(space, DIGITS, beliefs)]


def test_only_what_is_new_and_fits_is_tried() -> None:
    other = Belief.of(ENTRY | {"config": ENTRY["config"] | {"model": "cnn"}})
    values = {"model.widths[0]": 32, "model.dropout": 0.1, "optimizer.lr": 0.01}
    assert first(TEXT, [other, LEARNED, LEARNED]) == [values]
    small = TEXT.replace("search: {", "search: {max_params: 2000, ")
    assert first(small, [LEARNED]) == [], "its 2,410 parameters are too many"
    start = "start: [{model: {widths: [32], dropout: 0.1}, optimizer: {name: adamw, lr: 0.01}}]"
    assert first(TEXT + start, [LEARNED]) == []


def waiting(folder: Path, text: str, elsewhere: list[tuple[dict[str, Any], str]]) -> list[Any]:
    folder.mkdir()
    space = Space.parse(text)
    study = begin(folder, space, Manifest(space.digest, "digits", "", 0, "cpu", {}), ACCURACY,
                  elsewhere)  # fmt: skip
    found = study.get_trials(deepcopy=False, states=[TrialState.WAITING])
    return [(t.system_attrs["fixed_params"]["model.widths[0]"], t.user_attrs) for t in found]


def test_what_the_space_says_comes_before_what_others_found(tmp_path: Path) -> None:
    text = TEXT.replace("{int: [1, 64]}", "{int: [1, 64], prior: 20}")
    text += "start: [{model: {widths: [7], dropout: 0.1}, optimizer: {name: adamw, lr: 0.01}}]"
    elsewhere = [(values, "far away") for values in first(text, [LEARNED])]
    told = waiting(tmp_path / "s", text, elsewhere)
    ours = {"from": "the space"}
    assert told == [(7, ours), (20, ours), (32, {"from": "far away"})]


def test_a_search_begins_with_the_best_of_another(old: list[Study], tmp_path: Path) -> None:
    shutil.copytree(old[1].path, tmp_path / "old")
    best = old[1].leaderboard
    events = run(Space.parse(TEXT), name="new", studies=tmp_path, trials=5, device="cpu",
                 start_from="old")  # fmt: skip
    list(events)
    params = [trial.params for trial in trials(tmp_path / "new")]
    was = {trial.number: trial.params for trial in trials(old[1].path)}
    assert params[:4] == [was[row.trial] for row in best[:4]]
    told = trials(tmp_path / "new")[0].user_attrs["from"]
    assert told == f"study old of {trials(old[1].path)[0].datetime_complete:%Y-%m-%d}: " + (
        f"accuracy {best[0].score:.4g} on digits"
    )
    shutil.rmtree(tmp_path / "old")
    list(run(Space.parse(TEXT), name="new", studies=tmp_path, trials=6, device="cpu",
             start_from="./old"))  # fmt: skip
    list(run(Space.parse(TEXT), name="new", studies=tmp_path, trials=7, device="cpu"))
    assert len(trials(tmp_path / "new")) == 7, "who goes on needs no beginning"
    with pytest.raises(StudyError, match="new: begun with --from old; got --from other; use"):
        list(run(Space.parse(TEXT), name="new", studies=tmp_path, device="cpu",
                 start_from="other"))  # fmt: skip


@pytest.mark.parametrize(
    ("start_from", "message"),
    [
        ("nobody", "no study is called 'nobody'"),
        ("mine.json", "mine.json: cannot be read: No such file"),
        ("old", "--from old: none of its 24 configs is new to space and fits it"),
    ],
)
def test_a_beginning_that_cannot_be_is_one_error(
    start_from: str, message: str, old: list[Study], tmp_path: Path
) -> None:
    shutil.copytree(old[1].path, tmp_path / "old")
    text = "task: digits\nmodel: {name: cnn, dropout: {float: [0, 0.5]}}\n"
    with pytest.raises(AutomlError) as caught:
        list(run(Space.parse(text), name="new", studies=tmp_path, start_from=start_from))
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


def believing(folder: Path, beliefs: list[tuple[float, float]], count: int) -> tuple[Any, Table]:
    """A driver that begins with these dropouts and learning rates, and its workers."""
    space = Space.parse(SPACE)
    elsewhere = [
        (
            {
                "model.widths[0]": 60,
                "model.dropout": dropout,
                "optimizer": "adamw",
                "optimizer.adamw.lr": lr,
            },
            "elsewhere",
        )
        for dropout, lr in beliefs
    ]
    folder.mkdir()
    manifest = Manifest(space.digest, "digits", "fingerprint", 0, "cpu", {})
    begin(folder, space, manifest, ACCURACY, elsewhere)
    table = Table(rising)
    return opened(folder, table, count, text=SPACE), table


def test_of_what_did_well_elsewhere_two_are_trained_to_their_end_and_others_wait(
    tmp_path: Path,
) -> None:
    driver, _ = believing(tmp_path / "s", [(0.1 * i, 0.01) for i in range(5)], 5)
    told = [(type(e), e.row.trial if isinstance(e, Closed) else e.trial) for e in driver.run()]
    first = [each for each in told if each[0] is not Trained][:5]
    assert first == [(Closed, 0), (Closed, 1), (Paused, 2), (Paused, 3), (Paused, 4)]


def test_a_wrong_belief_costs_little(tmp_path: Path) -> None:
    wrong = [(0.9, 1e-4), (0.8, 2e-4), (0.9, 0.1), (0.85, 1.5e-4)]
    best = []
    for name, beliefs in (("wrong", wrong), ("none", [])):
        driver, _ = believing(tmp_path / name, beliefs, 24)
        list(driver.run())
        best.append(driver.rows()[0].score)
    assert best[0] > 0.85
    assert best[0] > best[1] - 0.03
