"""The report of a study: what it says, that it opens anywhere, and that nothing in it is run."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import random
import re
import shutil
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import optuna
import pytest
import soundfile
import torch
from conftest import Command
from curves_as_study import distribution
from optuna.trial import TrialState, create_trial
from PIL import Image
from playwright.sync_api import Browser, Page

from automl.boxes import matched
from automl.config import Config
from automl.data import Data, Metric, Split
from automl.errors import DataError, StudyError
from automl.holes import random_value
from automl.inputs.canvas import Canvas
from automl.results import artifact, report
from automl.results.artifact import Artifact
from automl.results.judgement import Judgement
from automl.results.report import examples, figures
from automl.results.report.knobs import ENOUGH, Scored, best_of, importance
from automl.results.report.metrics import Finalist
from automl.searching.run import search
from automl.searching.study import Manifest, Study, storage, versions
from automl.space import Space
from automl.tasks.digits import Digits

pytestmark = pytest.mark.usefixtures("all_forked")

DIGITS = """
task: {name: digits, per_class: 30, valid: 0.2}
model: {name: mlp, widths: [{int: [8, 64]}], dropout: {float: [0, 0.5]}}
optimizer: {name: adamw, lr: {float: [1e-3, 3e-2], log: true}}
train: {epochs: 4, batch_size: {choice: [32, 64]}}
"""
CONDITIONAL = """
task: {name: digits, valid: 0.2}
model:
  name: cnn
  stages:
    repeat: {int: [1, 2]}
    each:
      choice:
        - {name: plain, channels: {int: [16, 64], step: 16}, depth: {int: [1, 2]}}
        - {name: residual, channels: {int: [16, 64], step: 16}, depth: {int: [1, 2]}}
  pool: {choice: [avg, max]}
  dropout: {float: [0.0, 0.4]}
optimizer:
  choice:
    - {name: adamw, lr: {float: [1e-3, 2e-2], log: true}, weight_decay: {float: [1e-3, 0.3]}}
    - {name: sgd, lr: {float: [2e-2, 0.5], log: true}, momentum: {float: [0.8, 0.97]}}
train: {epochs: 12, batch_size: {choice: [32, 64, 128]}}
"""
Scheme = Literal["light", "dark"]
EVIL = "<b></script><script>owned=1</script><img src=x onerror=owned=1>&amp;\"'{{7*7}}"
ACCURACY = Metric("accuracy")


def score_of(values: dict[str, Any], noise: float) -> float:
    """The learning rate of AdamW matters, and that it is AdamW."""
    lr = values.get("optimizer.adamw.lr")
    off = 0.3 if lr is None else 0.3 * (math.log10(lr) + 2.5) ** 2
    return min(0.995, max(0.1, 0.97 - off - 0.05 * values["model.dropout"] + noise))


def synthetic(path: Path, count: int, text: str = "cnn", seed: int = 0) -> Study:
    """A study of random trials as a search leaves them, `text` where a text may stand."""
    space = Space.parse(CONDITIONAL)
    rng = random.Random(seed)
    path.mkdir(parents=True)
    (path / "space.yaml").write_text(CONDITIONAL)
    data = space.task.load(None)
    manifest = Manifest(space.digest, "digits", data.fingerprint, 0, text, versions())
    (path / "manifest.json").write_text(json.dumps(asdict(manifest)))
    study = optuna.create_study(
        study_name=path.name, storage=storage(path / "journal.log"), direction="maximize"
    )
    known = space.all_knobs()
    began = datetime(2026, 11, 25, 20)
    made = []
    for number in range(count):
        values = space.values(lambda _, hole: random_value(hole, rng))
        end = score_of(values, rng.gauss(0, 0.01))
        curve = [round(0.1 + (end - 0.1) * (1 - 0.5**epoch), 4) for epoch in range(1, 13)]
        state, reason, broken = TrialState.COMPLETE, "", {}
        if number % 50 == 3:
            state, reason, broken, curve = TrialState.PRUNED, "too large", {"runnable": 1.0}, []
        elif number and (end < 0.9 or number % 3):
            state, curve = TrialState.PRUNED, curve[: rng.choice([2, 4, 7])]
            reason = f"{rng.randrange(9)}% likely to be best, at epoch {len(curve)} {text}"
        told = {"params": 5_000 + rng.randrange(200_000), "macs": 10**6, "reason": reason}
        told |= {"seconds": round(0.8 * len(curve) + 0.1, 3), "summary": f"{text} {number}"}
        told |= {"latency_ms": round(told["params"] / 1e5, 3), "detail": text if broken else ""}
        made.append(
            create_trial(
                state=state,
                value=curve[-1] if state == TrialState.COMPLETE else None,
                params=values,
                distributions={name: distribution(known[name]) for name in values},
                user_attrs=told,
                intermediate_values=dict(enumerate(curve, 1)),
                constraints=broken,
            )
        )
        made[-1].datetime_start = began
        began += timedelta(seconds=told["seconds"])
        made[-1].datetime_complete = began
    study.add_trials(made)
    return Study(path)


def deliver(study: Study, labels: list[str], **more: Any) -> None:
    """A model that was never trained, with `more` in its metrics."""
    rows = study.leaderboard
    space = Space.load(study.path / "space.yaml")
    trial = study.optuna.get_trials(deepcopy=False)[rows[0].trial]
    config = space.with_values(trial.params)
    data = config.task.load(None)
    inputs = config.input.fit(data)
    torch.manual_seed(0)
    model = config.model.build(inputs, len(labels))
    assert rows[0].score is not None
    valid, chance = rows[0].score, {"name": "the most frequent class", "accuracy": 0.101}
    metrics = {
        "name": study.name,
        "trial": rows[0].trial,
        "epochs": 12,
        "params": rows[0].params,
        "metric": "accuracy",
        "valid": {"accuracy": valid},
        "test": {"accuracy": 0.9721},
        "chance": chance,
        "baseline": {"name": "logistic regression", "accuracy": 0.93},
        "train_examples": 1151,
        "valid_examples": 287,
        "test_examples": 359,
        "data": data.fingerprint,
    } | more
    with artifact.replaced(study.path / "best") as folder:
        artifact.write(folder, config, model.state_dict(), inputs, labels)
        artifact.describe(folder, metrics, "a card")


def whole(labels: list[str], text: str = "cnn") -> dict[str, Any]:
    """All that metrics.json may hold, with numbers that were made up."""
    classes = len(labels)
    counts = [[30 if i == j else 2 if j == (i + 1) % classes else 0 for j in range(classes)]
              for i in range(classes)]  # fmt: skip
    bins = [(0.35, 0.3, 0.03), (0.55, 0.5, 0.06), (0.75, 0.7, 0.11), (0.98, 0.97, 0.8)]
    return {
        "seed": 3,
        "macs": 231_000,
        "size_mb": 0.03,
        "higher_is_better": True,
        "search": {"score": 0.99, "trials": 1000, "seconds": 900.0, "device_seconds": 1810.5},
        "finalists": [
            {"trial": 0, "search": 0.991, "mean": 0.9812, "spread": 0.004, "seeds": [1, 2, 3],
             "scores": [0.978, 0.9797, 0.9859], "summary": text},
            {"trial": 9, "search": 0.988, "mean": 0.9784, "spread": 0.009, "seeds": [1, 2, 3],
             "scores": [0.968, 0.9797, 0.9875], "summary": text},
            {"trial": 12, "search": 0.987, "mean": 0.9701, "spread": 0.002, "seeds": [1, 2, 3],
             "scores": [0.968, 0.97, 0.9723], "summary": text},
        ],
        "refit": False,
        "test_interval": [0.9497, 0.9848],
        "test_interval_by": "Wilson",
        "valid_interval": [0.96, 0.99],
        "classes": [
            {"label": label, "examples": 32, "precision": 0.9375, "recall": 0.93,
             "recall_interval": [0.8, 0.98], "f1": 0.93}
            for label in labels
        ],
        "confusion": counts,
        "calibration": {
            "temperature": 1.31, "ece_before": 0.0421, "ece_after": 0.0113,
            "bins": [dict(zip(("confidence", "accuracy", "share"), one, strict=True))
                     for one in bins],
        },
        "latency_ms": {"1": 0.137, "64": 2.1},
        "proof": {"trained": 0.9861, "loaded": 0.9861},
        "ensemble": {"members": [{"trial": 0, "seed": 1, "weight": 0.75},
                                 {"trial": 9, "seed": 2, "weight": 0.25}],
                     "valid": {"accuracy": 0.99}, "test": {"accuracy": 0.98}, "gain": 0.0041,
                     "latency_ms": {"1": 0.4, "64": 3.0}, "size_mb": 0.09},
        "environment": {"device": "CPU", "cores": 2},
        "warning": None,
    }  # fmt: skip


LABELS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A real search, with its report."""
    place = tmp_path_factory.mktemp("studies")
    study = search(
        Space.parse(DIGITS),
        name="digits",
        studies=place,
        trials=4,
        workers=1,
        finalists=2,
        seeds=2,
    )
    study.report(study.task.load(None))
    return study


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of 1,000 trials of a conditional space, all that metrics may hold, hostile texts."""
    study = synthetic(tmp_path_factory.mktemp("studies") / "thousand", 1000, EVIL)
    labels = [f"{EVIL} {label}" for label in LABELS]
    deliver(study, labels, **whole(labels, EVIL))
    study.report(study.task.load(None))
    return study


def text_of(study: Study) -> str:
    """The page without its scripts and style."""
    page = (study.path / "report.html").read_text(encoding="utf-8")
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([a-z]+)"', page)


def opened(browser: Browser, file: Path, width: int = 1280, scheme: Scheme = "light") -> Page:
    """The page as a browser shows it, with all that it complained of in `said`."""
    phone = width < 500
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        has_touch=phone,
        is_mobile=phone,
        offline=True,
    )
    shown = context.new_page()
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda asked: said.append(asked.url))
    shown.goto(file.as_uri())
    shown.wait_for_selector("html[data-drawn]")
    ours = [one for one in said if not one.startswith(("data:", "blob:", file.as_uri()))]
    assert ours == []  # no error, no warning, nothing fetched
    return shown


@pytest.mark.browser
@pytest.mark.parametrize(
    ("which", "width", "scheme"),
    [
        ("digits", 1280, "light"),
        ("digits", 360, "dark"),
        ("thousand", 1280, "dark"),
        ("thousand", 360, "light"),
    ],
)
def test_every_plot_is_drawn_and_the_page_fits(
    which: str, width: int, scheme: Scheme, browser: Browser, request: pytest.FixtureRequest
) -> None:
    study: Study = request.getfixturevalue(which)
    shown = opened(browser, study.path / "report.html", width, scheme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    plots = shown.query_selector_all(".plot")
    assert len(plots) >= (7 if which == "digits" else 14)
    for plot in plots:
        assert plot.query_selector_all(".scatterlayer .trace path, .heatmaplayer image")
        box = plot.bounding_box()
        assert box
        assert box["width"] > 200
        assert box["height"] > 100
        name = plot.get_attribute("aria-label")
        says = plot.get_attribute("aria-labelledby")
        assert len(name or shown.inner_text(f"#{says}")) > 10
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = shown.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    dark = [sum(map(int, re.findall(r"\d+", colour)[:3])) < 384 for colour in (paper, ink)]
    assert dark == ([True, False] if scheme == "dark" else [False, True])
    shown.context.close()


@pytest.mark.browser
def test_a_long_name_of_a_class_leaves_room_for_its_numbers(
    thousand: Study, browser: Browser
) -> None:
    shown = opened(browser, thousand.path / "report.html", 360)
    table = "document.querySelector('[aria-label=\"Scores by class\"] tr:last-child')"
    first, second = (f"{table}.cells[{n}].getBoundingClientRect().left" for n in (0, 1))
    assert shown.evaluate(f"{second} - {first}") < 220
    shown.context.close()


@pytest.mark.browser
def test_plots_follow_when_light_turns_dark(digits: Study, browser: Browser) -> None:
    shown = opened(browser, digits.path / "report.html")
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    before = shown.evaluate(ink)
    shown.emulate_media(color_scheme="dark")
    for _ in range(
        100
    ):  # the page lets nothing be evaluated in it, as waiting for a condition does
        if shown.evaluate(ink) != before:
            break
        shown.wait_for_timeout(50)
    assert shown.evaluate(ink) != before
    shown.context.close()


@pytest.mark.browser
def test_nothing_from_the_study_is_run_or_taken_for_markup(
    thousand: Study, browser: Browser
) -> None:
    shown = opened(browser, thousand.path / "report.html")
    assert shown.evaluate("typeof owned") == "undefined"
    assert shown.query_selector("img[src=x]") is None
    assert shown.query_selector("main b, main script, svg b, svg [style*=bold]") is None
    assert EVIL in shown.inner_text("#endings")  # it is shown as it is
    assert EVIL[:20] in shown.inner_text("#mistakes")
    assert "<b></script" in shown.inner_text("#plot-confusion")  # Plotly knows a few tags
    shown.evaluate("document.body.append(Object.assign(document.createElement('script'), "
                   "{textContent: 'owned=1'}))")  # fmt: skip
    assert shown.evaluate("typeof owned") == "undefined"  # and if it were, it would not run
    shown.context.close()


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "a'\"><img src=x onerror=owned=1>", 3)
    study.report()
    assert "<img" not in text_of(study)
    assert "&lt;img src=x" in text_of(study)


def test_texts_that_are_no_texts_are_written_all_the_same(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "odd", 30, "a\x00b\x1bc\ud800d\u202e")
    study.report()
    page = (study.path / "report.html").read_text(encoding="utf-8")
    assert "\x00" not in page
    assert "\x1b" not in page
    assert "a\ufffdb\ufffdc?d" in page


def test_the_first_screen_says_how_good_the_model_is(digits: Study) -> None:
    page, metrics = text_of(digits), digits.best.metrics
    first = page[: page.index("<nav")]
    for score in (metrics["test"]["accuracy"], metrics["valid"]["accuracy"]):
        assert f"{score:.4f}" in first
    for held in ("baseline", "chance"):
        assert metrics[held]["name"] in first
        assert f"{metrics[held]['accuracy']:.4f}" in first
    assert "4 trials" in first
    assert f"{metrics['params']:,}" in first
    assert "data:image/png;base64," in first
    assert "The model says" in first


def test_the_page_has_what_the_study_has(digits: Study, thousand: Study) -> None:
    small = ["progress", "curves", "slices", "parallel", "costs", "finalists", "classes"]
    small += ["mistakes", "calibration", "config", "use", "again"]
    found, may = sections(text_of(digits)), ("endings", "ensemble")
    assert [name for name in found if name not in may] == [*small, "data"]
    assert "How knobs mattered" in text_of(digits), "they, where none was told before"
    more = ["importance", "ensemble", "endings"]
    assert sorted(sections(text_of(thousand))) == sorted([*small, *more, "data"])
    for study in (digits, thousand):
        page = text_of(study)
        assert re.findall(r'<a href="#([a-z]+)"', page) == sections(page)
        assert all(len(caption) < 2000 for caption in re.findall("<figcaption.*?</fig", page))


def test_what_metrics_tell_is_said(thousand: Study) -> None:
    page = text_of(thousand)
    assert "95 % interval 0.9497 to 0.9848 (Wilson)" in page
    assert "0.0098 of the first one's score in the search was luck" in page.replace("&#39;", "'")
    assert "off by 0.0113" in page
    assert "as trained: 0.9861" in page
    place = thousand.path.parent.name
    trial = thousand.best.metrics["trial"]
    assert f"automl reproduce thousand --trial {trial} --studies {place}\n" in page
    assert "gain 0.0041" in page
    assert "0.137 ms" in page


def test_the_same_study_gives_the_same_page(digits: Study) -> None:
    file = digits.path / "report.html"
    before = file.read_bytes()
    digits.report(digits.task.load(None))
    assert file.read_bytes() == before


def test_a_thousand_trials_fit_a_mail(thousand: Study) -> None:
    assert (thousand.path / "report.html").stat().st_size < 15_000_000


def test_plotly_is_there_once_and_only_for_plots(digits: Study, tmp_path: Path) -> None:
    assert (digits.path / "report.html").read_text().count("* plotly.js v") == 1
    nothing = synthetic(tmp_path / "nothing", 0)
    nothing.report()
    page = (nothing.path / "report.html").read_text()
    assert "plotly" not in page
    assert "No trial has come to its end yet" in page
    assert sections(page) == ["data"]


def test_no_better_than_chance_is_said_before_the_score(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "poor", 30)
    poor = {"valid": {"accuracy": 0.12}, "test": {"accuracy": 0.11}}
    deliver(study, LABELS, warning="no better than chance; do not use it", **poor)
    study.report()
    page = text_of(study)
    warned = page.index("This model is no better than chance; do not use it.")
    assert warned < page.index("0.1100")


def test_the_command_for_the_whole_search_says_where_it_began(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "begun", 30)
    deliver(study, LABELS)
    file = study.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"start_from": "my best.json"}))
    study.report()
    assert "--trials 30 --from 'my best.json'" in html.unescape(text_of(study))


def test_classes_that_do_not_occur_are_not_the_worst(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "rare", 30)
    cells = {"precision": 0.5, "recall": 0.5, "recall_interval": [0.4, 0.6]}
    told = [{"label": name, "examples": 9 * (name != "3"), "f1": 0.1 * (name != "3"), **cells}
            for name in LABELS]  # fmt: skip
    deliver(study, LABELS, classes=told)
    study.report()
    table = re.search(r"<caption>All classes that occur.*?</table>", text_of(study), re.S)
    assert table
    assert len(re.findall("<tr>", table[0])) == len(LABELS)


def test_of_many_classes_no_matrix_is_drawn_but_what_is_mistaken_is_said(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "many", 5)
    labels = [f"class {number}" for number in range(250)]
    deliver(study, labels, **whole(labels))
    study.report()
    page = text_of(study)
    assert 'id="plot-confusion"' not in page
    assert "What is most often mistaken, on the test split" in page
    assert (study.path / "report.html").stat().st_size < 5_500_000  # Plotly alone has 4.7


@pytest.mark.parametrize(
    ("theirs", "told"), [(None, "forest does as well."), (0.9991, "forest does better, 0.9991.")]
)
def test_a_baseline_that_does_as_well_is_said(
    theirs: float | None, told: str, tmp_path: Path
) -> None:
    study = synthetic(tmp_path / "even", 30)
    deliver(study, LABELS)
    theirs = theirs or study.best.metrics["valid"]["accuracy"]
    deliver(study, LABELS, baseline={"name": "a forest", "accuracy": theirs})
    study.report()
    assert told in text_of(study)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"confusion": "x"}, "confusion: got 'x'; want a list"),
        ({"finalists": [{"trial": 1}]}, "finalists[0].mean: is missing"),
        ({"valid": {"loss": 1.0}}, "valid: got ['loss']; want 'accuracy' among them"),
        ({"chance": {"name": "luck"}}, "'luck' has no 'accuracy'"),
    ],
)
def test_metrics_that_are_odd_are_one_clear_line(
    more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    study = synthetic(tmp_path / "odd", 5)
    deliver(study, LABELS, **more)
    with pytest.raises(DataError) as error:
        study.report()
    assert "metrics.json: " in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_metrics_may_be_null_or_absent(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "bare", 5)
    new = dict.fromkeys(whole(LABELS)) | {"proof": {"trained": 0.9, "loaded": None}}
    deliver(study, LABELS, **new, test=None, test_examples=None, chance=None, baseline=None)
    study.report()
    assert "not tested" in text_of(study)


def test_scores_that_are_no_numbers_are_refused_in_one_line(tmp_path: Path) -> None:
    study = synthetic(tmp_path / "nan", 5)
    told = study.optuna.get_trials()[0]
    curve = {1: 0.5, 2: math.inf, 3: 0.6}
    study.optuna.add_trial(
        create_trial(
            value=0.6,
            params=told.params,
            distributions=told.distributions,
            intermediate_values=curve,
            user_attrs={"params": 5, "seconds": 1.0},
        )
    )
    with pytest.raises(StudyError, match=r"trial 5: .* want a finite number") as caught:
        study.report()
    assert "\n" not in str(caught.value)


def scored_of(study: Study) -> list[Scored]:
    trials = {trial.number: trial for trial in study.optuna.get_trials(deepcopy=False)}
    return [
        Scored(trials[row.trial], row, row.score)
        for row in study.leaderboard
        if row.score is not None
    ]


def test_importance_finds_what_matters_in_a_conditional_space(thousand: Study) -> None:
    space = Space.parse(CONDITIONAL).all_knobs()
    found = importance(scored_of(thousand), space, ACCURACY)
    assert list(found)[:3] == ["optimizer.adamw.lr", "optimizer", "model.dropout"]
    assert sum(found.values()) == pytest.approx(1)
    assert found.get("optimizer.sgd.momentum", 0) < 0.02
    assert importance(scored_of(thousand)[: ENOUGH - 1], space, ACCURACY) == {}


def test_the_best_of_equals_is_one_that_finished(thousand: Study) -> None:
    equal = [Scored(one.trial, one.row, 0.9) for one in scored_of(thousand)]
    equal.sort(key=lambda one: one.finished)
    assert best_of(equal, ACCURACY)[0].finished


def test_a_front_is_cheaper_or_better_at_every_step(thousand: Study) -> None:
    points = [(float(one.row.params or 0), one) for one in scored_of(thousand) if one.finished]
    of = {one.number: (cost, one.score) for cost, one in points}
    front = [of[number] for number in figures.front_of(points, ACCURACY)]
    assert front == sorted(front)
    assert [score for _, score in front] == sorted(score for _, score in front)
    for cost, score in of.values():
        assert any(c <= cost and s >= score for c, s in front)


def test_plots_look_at_what_is_near_the_best_and_say_what_is_beyond(thousand: Study) -> None:
    some = scored_of(thousand)[:40]
    near = [Scored(one.trial, one.row, 0.9 + number / 1000) for number, one in enumerate(some)]
    assert figures.focus_on(near, ACCURACY) is None
    far = [*near, Scored(near[0].trial, near[0].row, 0.1)]
    focus = figures.focus_on(far, ACCURACY)
    assert focus
    assert focus[0] > 0.85
    assert focus[1] > 0.939
    assert figures.outside((one.score for one in far), focus) >= 1


def test_equal_scores_lie_on_an_axis_of_what_is_near(tmp_path: Path) -> None:
    some = scored_of(synthetic(tmp_path / "s", 5))
    equal = [Scored(one.trial, one.row, 0.96) for one in some]
    name, hole = next(iter(Space.parse(CONDITIONAL).all_knobs().items()))
    again = [Finalist(trial=0, search=0.96, mean=0.96, scores=[0.96])]
    for axis in (
        figures.slice_of(name, hole, equal, ACCURACY).layout["yaxis"],
        figures.tradeoff([(1.0, one) for one in equal], [], "cost", ACCURACY).layout["yaxis"],
        figures.finalists(again, ACCURACY).layout["xaxis"],
    ):
        assert axis["range"] == pytest.approx([0.912, 1.008])
    assert "range" not in figures.slice_of(name, hole, some, ACCURACY).layout["yaxis"]


def test_the_mistakes_are_those_that_the_model_is_surest_of(digits: Study) -> None:
    data = digits.task.load(None)
    model = digits.best
    looked = examples.look(model, data)
    assert looked.seen == len(data.valid)
    assert isinstance(data.valid.x, torch.Tensor)
    told = model.predict(data.valid.x)
    labels = [data.labels[y] for y in data.valid.y.tolist()]
    wrong = [one.probability for one, label in zip(told, labels, strict=True) if one.label != label]
    assert looked.wrong == len(wrong)
    shown = [one.probability for one in looked.mistakes]
    assert shown == pytest.approx(sorted(wrong, reverse=True)[: len(shown)])
    for one in looked.mistakes:
        assert one.label == labels[one.number]
        assert one.answer == told[one.number].label
        raw = base64.b64decode(one.picture.removeprefix("data:image/png;base64,"))
        pixels = torch.tensor(list(Image.open(io.BytesIO(raw)).tobytes()), dtype=torch.uint8)
        assert torch.equal(pixels, data.valid.x[one.number].flatten())
    right = sum(looked.confusion[k][k] for k in range(10))
    assert right == looked.seen - looked.wrong


def test_a_sound_is_played_as_it_was_recorded() -> None:
    samples = torch.tensor([0, 1000, -32768, 32767], dtype=torch.int16)
    uri = examples.wav(samples, 8000)
    raw = base64.b64decode(uri.removeprefix("data:audio/wav;base64,"))
    played, rate = soundfile.read(io.BytesIO(raw), dtype="int16")
    assert rate == 8000
    assert played.tolist() == samples.tolist()


def searched(space: Space, data: Path) -> Study:
    """Two trials on the user's own data, and their page."""
    study = search(
        space, name="s", studies=data.parent, trials=2, data=data, workers=1, finalists=0
    )
    study.report(study.task.load(data))
    return study


def test_texts_stand_where_models_of_texts_err(tmp_path: Path) -> None:
    lines = ["text,label"]
    lines += [f"{'good fine' if i % 2 else 'bad poor'} {EVIL!r} {i},{'ab'[i % 3 % 2]}"
              for i in range(90)]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(lines).replace('"', "'"))
    space = Space.parse(
        "task: {name: textcsv}\nmodel: {name: bag}\n"
        "optimizer: {name: adamw, lr: {float: [1e-4, 1e-3]}}\ntrain: {epochs: 1}"
    )
    page = text_of(searched(space, tmp_path / "t.csv"))
    assert "<blockquote>" in page[page.index('id="mistakes"') :]
    assert "<img" not in page
    assert "&lt;/script&gt;" in page


def test_prose_is_a_sample_of_text_instead_of_mistakes(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 60)
    space = Space.parse(
        "task: textfile\nmodel: {name: rnn, width: 16, embedding: 16}\n"
        "optimizer: {name: adamw, lr: {float: [1e-3, 1e-2]}}\ntrain: {epochs: 2}"
    )
    page = text_of(searched(space, tmp_path / "text.txt"))
    assert "writes" in sections(page)
    assert not {"classes", "mistakes", "calibration"} & set(sections(page))
    assert "the lower the better" in page


def test_boxes_that_are_found_are_told_right_or_wrong() -> None:
    """In pictures of two boxes each, of which one is found, twice, and the other not."""
    there = torch.tensor([[0, 2, 2, 12, 22, 1], [1, 30, 10, 50, 20, 1], [1, 0, 40, 50, 60, 0.0]])
    rows = torch.full((8, 100, 6), -1.0)
    rows[:, :5] = torch.tensor(
        [
            [0, 2, 2, 12, 18, 0.9],  # overlaps by 0.8
            [0, 2, 2, 12, 21, 0.8],  # again
            [0, 30, 10, 50, 20, 0.7],  # of another class
            [1, 10, 45, 20, 55, 0.6],  # in one that does not count
            [1, 30, 10, 50, 20, 0.29],  # not sure enough
        ]
    )
    x = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 64, 96).contiguous()
    split = Split(x, there.expand(8, 3, 6).contiguous())

    class Told:
        """A model that finds these rows in any picture."""

        labels = (EVIL, "b")

        def judge(self, split: Split) -> Judgement:
            found = rows[: len(split)]
            return Judgement({}, None, sums={"rows": found, "right": matched(found, split.y)})

    data = Data(split, split, Canvas.measure(x), (EVIL, "b"), "drawn")
    told = examples.detections(cast(Artifact, Told()), data)  # it is asked for no more
    assert len({one.number for one in told}) == len(told) == 6
    for one in told:
        raw = base64.b64decode(one.picture.removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(raw)).getpixel((0, 0)) == (one.number,) * 3
        assert one.size == (96, 64)
        assert [box.verdict for box in one.found] == ["right", "wrong", "wrong", "neither"]
        assert [box.label for box in one.there] == [EVIL, "b"]
        first = one.found[0]
        assert (first.left, first.top, first.width, first.height) == (2, 2, 10, 16)
        assert first.score == pytest.approx(0.9)

    large = x.repeat_interleave(20, 2).repeat_interleave(20, 3)  # 1,920 pixels wide
    boxes = split.y.clone()
    boxes[..., 1:5] *= 20
    rows[..., 1:5] *= 20
    data = Data(Split(large, boxes), Split(large, boxes), Canvas.measure(large), data.labels, "")
    for one in examples.detections(cast(Artifact, Told()), data):
        raw = base64.b64decode(one.picture.removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(raw)).size == one.size == (640, 427)  # a page has seven
        assert [box.verdict for box in one.found] == ["right", "wrong", "wrong", "neither"]
        first = one.found[0]
        assert (first.left, first.width) == pytest.approx((2 * 20 / 3, 10 * 20 / 3))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Pictures of one bright square each, marked as a stranger would."""
    place = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(24):
        pixels = random.integers(0, 90, (64, 64, 3), np.uint8)
        x, y = random.integers(0, 40, 2).tolist()
        pixels[y : y + 20, x : x + 20] = 230
        Image.fromarray(pixels).save(place / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        boxes.append({"image_id": number, "category_id": 1, "bbox": [x, y, 20, 20]})
    kinds = [{"id": 1, "name": EVIL}]
    told = {"images": images, "annotations": boxes, "categories": kinds}
    (place / "boxes.json").write_text(json.dumps(told))
    space = Space.parse(
        "task: {name: coco, path: boxes.json, size: 64}\n"
        "model: {name: cnn-fcos, stem: {channels: 8, stride: 2}, head: {width: 8},\n"
        "  stages: [{name: plain, channels: 16}, {name: plain, channels: 16}]}\n"
        "optimizer: {name: adamw, lr: {float: [5e-3, 2e-2]}}\n"
        "train: {epochs: 8, batch_size: 4}"
    )
    return searched(space, place)


def test_pictures_stand_with_their_boxes(squares: Study) -> None:
    page = text_of(squares)
    assert "boxes" in sections(page)
    assert not {"classes", "mistakes", "calibration"} & set(sections(page))
    assert page.count("<svg") == page.count("<image") == 1 + 4  # on top, and all to validate
    assert page.count('class="there"') == 5
    assert "1 box found" in page or "0 of 1 box found" in page
    assert "&lt;/script&gt;" in page
    drawn = str(squares.optuna._storage.get_study_system_attrs(squares.optuna._study_id))
    assert drawn.count("what it finds.png") == 2  # one for each trial
    assert "map50" in json.loads((squares.path / "best/metrics.json").read_text())["boxes"][0]
    table = re.search(r"<caption>Average precision.*?</table>", page, re.S)
    assert table
    assert "<td>4</td>" in table[0] or "<td>3</td>" in table[0]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_boxes_lie_where_they_are_in_the_picture(
    squares: Study, browser: Browser, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((squares.path / "report.html").as_uri())
    shown = page.locator("#boxes svg").first
    outer, box = shown.bounding_box(), shown.locator("rect.there").bounding_box()
    assert outer is not None
    assert box is not None
    assert outer["width"] == pytest.approx(outer["height"], abs=1)
    told = [float(shown.locator("rect.there").get_attribute(side) or "") for side in "xy"]
    scale = outer["width"] / 64
    assert box["x"] - outer["x"] == pytest.approx(told[0] * scale, abs=scale)
    assert box["y"] - outer["y"] == pytest.approx(told[1] * scale, abs=scale)
    assert box["width"] == pytest.approx(20 * scale, abs=2 * scale)  # its line is wide, too
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_command_says_where_the_page_is(digits: Study, command: Command) -> None:
    file = digits.path / "report.html"
    before = file.read_bytes()
    file.unlink()
    status, out, _ = command("report", digits.name, "--studies", digits.path.parent)
    assert status == 0
    assert out == f"{file}\n"
    assert file.read_bytes() == before


def test_without_its_data_a_page_says_why_it_shows_no_example(
    digits: Study,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(digits.path, tmp_path / "digits")

    def gone(task: Digits, root: Path | None) -> None:
        raise DataError(f"{root}: nothing here")

    monkeypatch.setattr(Digits, "load", gone)
    status, _, err = command("report", "digits", "--studies", tmp_path)
    assert status == 0
    assert "no examples in the report: None: nothing here" in err
    page = text_of(Study(tmp_path / "digits"))
    assert "examples: None: nothing here" in page
    assert "mistakes" not in sections(page)
    assert "curves" in sections(page)


def test_other_data_than_was_searched_with_is_not_shown(digits: Study, tmp_path: Path) -> None:
    shutil.copytree(digits.path, tmp_path / "digits")
    other = Config.of({"task": {"name": "digits", "per_class": 20}, "model": "mlp"}).task
    Study(tmp_path / "digits").report(other.load(None))
    assert "the data is not what was searched with" in text_of(Study(tmp_path / "digits"))


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.52, "0.5 s"), (24, "24 s"), (186, "3.1 minutes"), (9e4, "25 hours")]
)
def test_times_are_told_in_the_unit_that_suits_them(seconds: float, told: str) -> None:
    assert report.lasted(seconds) == told
