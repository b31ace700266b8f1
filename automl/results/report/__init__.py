"""A study as one page: report.html opens anywhere, offline, and loads nothing.

All that is shown comes from the study on disk, and the same study gives the same page. Names,
labels, texts and reasons may hold anything: the template escapes what it is given, and the page
allows no script but its own two, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from optuna.trial import FrozenTrial

from automl import amounts
from automl.data import Data, Metric, Series
from automl.inputs.canvas import Canvas
from automl.inputs.columns import Cells
from automl.inputs.series import Lookback
from automl.inputs.text import Paired
from automl.results import artifact, leaderboard
from automl.results.artifact import LEAST, Artifact
from automl.results.card import used
from automl.results.leaderboard import Row
from automl.results.report import examples, figures
from automl.results.report.figures import Plot, finite, named
from automl.results.report.knobs import SURE, Scored, best_of, importance
from automl.results.report.metrics import Metrics
from automl.space import Space

HERE = Path(__file__).parent
FEWEST = 3  # trials, to plot what they have in common
NAMED = 12  # knobs whose importance is told
SLICED = 6  # knobs whose values, and columns whose rows ahead, are plotted
JOINED = 8  # knobs that every trial's line goes through
HALTS = 6  # epochs, marked by a line, after which most trials stopped or paused
LISTED = 10  # rows of a table
COSTS = {
    "params": "parameters",
    "macs": "multiply-accumulates of one example",
    "latency_ms": "milliseconds for one example",
    "seconds": "seconds of training",
}
OPTIONAL = (  # what the template is told where it is known, and None elsewhere
    *("ahead", "bars", "chosen", "classes", "config", "confused", "detections", "gives", "higher"),
    *("importance", "interval", "leaned", "least", "looked", "luck", "metrics", "pairs"),
    *("precisions", "sample", "score", "slices", "tradeoffs", "warning"),
)


@dataclass(frozen=True)
class Facts:
    """What a page is made of."""

    path: Path  # of the study
    space: Space
    manifest: Mapping[str, Any]
    trials: Sequence[FrozenTrial]
    data: Data | None = None  # None: no example is shown
    absent: str = ""  # why there is none

    @property
    def metric(self) -> Metric:
        return self.space.task.metric


@dataclass
class Page:
    """What the template is told, and the plots it places."""

    told: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(OPTIONAL))
    plots: dict[str, Plot] = field(default_factory=dict)

    @property
    def contents(self) -> dict[str, str]:
        """The sections that have something to say, and what they are called."""
        told, plots = self.told, self.plots
        metrics, looked = told["metrics"], told["looked"]
        there = {
            "progress": ("Progress", "progress" in plots),
            "curves": ("Learning curves", "curves" in plots),
            "importance": ("Which knobs mattered", told["importance"]),
            "slices": ("How knobs mattered", told["slices"]),  # without the one above, too
            "parallel": ("Every trial at once", "parallel" in plots),
            "costs": ("Score against cost", told["tradeoffs"]),
            "finalists": ("Finalists", "finalists" in plots),
            "classes": ("Classes", "confusion" in plots or told["confused"] or told["classes"]),
            "mistakes": ("The most confident mistakes", looked and looked.mistakes),
            "writes": ("What it writes", told["gives"] == "prose" and told["sample"]),
            "pairs": ("What it makes of texts", told["pairs"]),
            "boxes": ("What it finds", told["detections"] or told["precisions"]),
            "numbers": ("What it tells", "numbers" in plots),
            "leaned": ("Which columns it looks at", told["leaned"]),
            "ahead": ("What it foretells", told["ahead"] or (metrics and metrics.columns)),
            "calibration": ("Calibration", "calibration" in plots),
            "ensemble": ("Ensemble", metrics and metrics.ensemble and metrics.ensemble.members),
            "config": ("The winning config", told["config"]),
            "use": ("Use it", told["config"]),
            "again": ("Reproduce it", told["config"]),
            "endings": ("What was stopped or failed", told["endings"]),
            "data": ("Data, versions, hardware", True),
        }
        return {name: title for name, (title, has) in there.items() if has}


def page(facts: Facts) -> str:
    """The whole file. Raises AutomlError where the study cannot be read."""
    rows = leaderboard.rows(list(facts.trials), facts.metric, facts.space.search.cost)
    of = {trial.number: trial for trial in facts.trials}
    scored = [
        Scored(of[row.trial], row, row.score)
        for row in rows
        if row.score is not None and math.isfinite(row.score)
    ]
    best = facts.path / "best"
    metrics = Metrics.read(best / "metrics.json") if best.is_dir() else None

    made = Page()
    search(made, facts, rows, of)
    made.told |= {"metrics": metrics, "scored": len(scored), "endings": endings(rows, of)}
    if len(scored) > 1:
        progress(made, facts, rows, scored, metrics)
    if any(len(one.curve) > 1 for one in scored):
        learning(made, facts, scored, metrics)
    if len(scored) >= FEWEST:
        knobs(made, facts, scored)
        tradeoffs(made, facts, scored)
    if metrics:
        model = artifact.load(best)
        answer(made, facts, metrics)
        finalists(made, facts, metrics)
        judged(made, facts, metrics, model)
        trial = None if metrics.trial is None else of.get(metrics.trial)
        made.told |= {
            "summary": model.config.summary,
            "chosen": list(trial.params.items()) if trial else [],
            "config": (best / "config.yaml").read_text(encoding="utf-8"),
            "usage": used(model.config.task),
            "gives": model.config.task.gives,
        }
    return render(made)


def search(made: Page, facts: Facts, rows: Sequence[Row], of: Mapping[int, FrozenTrial]) -> None:
    """What was searched, what it took, and from when to when."""
    begun = [trial.datetime_start for trial in facts.trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in facts.trials if trial.datetime_complete]
    made.told |= {
        "name": facts.path.name,
        "studies": facts.path.resolve().parent.name,
        "metric": named(facts.metric),
        "task": facts.space.task.name,
        "unit": facts.space.task.unit,
        "manifest": facts.manifest,
        "absent": facts.absent,
        "trials": len(rows),
        "states": Counter(row.state for row in rows).most_common(),
        "epochs": sum(row.epochs for row in rows),
        "passes": sum(row.epochs * of[row.trial].user_attrs.get("passes", 1) for row in rows),
        "device_seconds": sum(row.seconds for row in rows),
        "begun": min(begun, default=None),
        "ended": max(ended, default=None),
    }


def answer(made: Page, facts: Facts, metrics: Metrics) -> None:
    """The first screen: how good, on what, and held against what."""
    metric, valid, tested = facts.metric, metrics.score, metrics.tested
    bars = [("this model, test", tested, "ours")] if tested is not None else []
    bars.append(("this model, validation", valid, "ours"))
    bars += [(f"{name}, validation", told, "theirs") for name, told in metrics.held.items()]
    longest = 1.0 if metric.higher_is_better else max(told for _, told, _ in bars)
    made.told |= {
        "warning": warning(metric, metrics),
        "score": valid if tested is None else tested,
        "interval": metrics.valid_interval if tested is None else metrics.test_interval,
        "bars": [(what, told, 100 * told / longest, kind) for what, told, kind in bars],
        "higher": metric.higher_is_better,
    }


def warning(metric: Metric, metrics: Metrics) -> str | None:
    """What must be known before the score is read."""
    baseline = metrics.baseline
    if metrics.warning:
        return f"This model is {metrics.warning}."
    if baseline is None:
        return None
    told = metric.matched(metrics.score, baseline.name, baseline.scores[metrics.metric])
    return f"{told}. More trials or data may help." if told else None


def progress(
    made: Page, facts: Facts, rows: Sequence[Row], scored: Sequence[Scored], metrics: Metrics | None
) -> None:
    """Trials in the order in which they ended; those under way come last."""
    metric = facts.metric
    when = {trial.number: str(trial.datetime_complete or "under way") for trial in facts.trials}
    of = {one.number: one for one in scored}
    spent, points = 0.0, []
    corners: list[tuple[float, float]] = []
    leader: Scored | None = None
    for row in sorted(rows, key=lambda row: (when[row.trial], row.trial)):
        spent += row.seconds
        one = of.get(row.trial)
        if one is None:
            continue
        points.append((spent, one))
        if one.finished and (leader is None or metric.better(one.score, leader.score)):
            leader = one
            corners.append((spent, one.score))
    held = metrics.held if metrics else {}
    made.plots["progress"] = figures.progress(points, corners, held, metric)
    made.told["leader"] = leader
    made.told["reached"] = corners[-1][0] if corners else None
    made.told["rows"] = rows[:LISTED]


def learning(made: Page, facts: Facts, scored: Sequence[Scored], metrics: Metrics | None) -> None:
    left = Counter(one.row.epochs for one in scored if not one.finished)
    halts = sorted(left.most_common(HALTS))
    delivered = metrics.trial if metrics else None
    made.plots["curves"] = figures.curves(
        scored, delivered, [epoch for epoch, _ in halts], facts.space.epochs, facts.metric
    )
    made.told["halts"] = halts
    made.told["early"] = left.total()


def knobs(made: Page, facts: Facts, scored: Sequence[Scored]) -> None:
    """Knobs by importance or, where that is not known, by how many trials have them."""
    space = facts.space.all_knobs()
    found = importance(scored, space, facts.metric)
    had = Counter(name for one in scored for name in one.values if name in space)
    met = [name for name in space if had[name]]  # in the order of the space
    rest = [name for name in met if name not in found]
    ranked = [*found, *sorted(rest, key=lambda name: -had[name])]
    shares = [(name, share) for name, share in found.items() if share >= 0.005]
    for number, name in enumerate(ranked[:SLICED]):
        made.plots[f"slice{number}"] = figures.slice_of(name, space[name], scored, facts.metric)
    joined = {name: space[name] for name in met if name in ranked[:JOINED]}
    if joined:
        top = best_of(scored, facts.metric)
        made.plots["parallel"] = figures.parallel(scored, top, joined, facts.metric)
        made.told["top"] = len(top)
    made.told["importance"] = shares[:NAMED]
    made.told["hint"] = len(scored) < SURE
    made.told["knobs"] = len(met)
    made.told["slices"] = [(f"slice{n}", name) for n, name in enumerate(ranked[:SLICED])]


def tradeoffs(made: Page, facts: Facts, scored: Sequence[Scored]) -> None:
    """The front is of finished trials; what others would cost in training is not known."""
    made.told["tradeoffs"] = []
    made.told["front"] = [one.number for one in scored if one.row.front]
    for cost, what in COSTS.items():
        if cost == "macs" != facts.space.search.cost:
            continue  # much like parameters
        known = [one for one in scored if getattr(one.row, cost)]
        points = [(float(getattr(one.row, cost)), one) for one in known]
        done = [point for point in points if point[1].finished]
        points = done if cost == "seconds" else points
        if done and len(points) >= FEWEST:
            front = figures.front_of(done, facts.metric)
            made.plots[f"cost-{cost}"] = figures.tradeoff(points, front, what, facts.metric)
            made.told["tradeoffs"].append((f"cost-{cost}", what, len(front), len(done)))


def finalists(made: Page, facts: Facts, metrics: Metrics) -> None:
    if metrics.finalists:
        made.plots["finalists"] = figures.finalists(metrics.finalists, facts.metric)
        first = metrics.finalists[0]
        sign = 1 if facts.metric.higher_is_better else -1
        made.told["luck"] = None if first.search is None else sign * (first.search - first.mean)


def judged(made: Page, facts: Facts, metrics: Metrics, model: Artifact) -> None:
    """What the delivered model says: confusions, mistakes, calibration; or the text it writes."""
    if isinstance(model.inputs, Lookback):
        if facts.data:
            foretold(made, facts.data, model, model.inputs)
        return
    if isinstance(model.inputs, Paired):
        if facts.data:
            made.told["pairs"] = examples.translations(model, facts.data)
        return
    if isinstance(model.inputs, Canvas):
        known = [one for one in metrics.boxes or [] if one.map is not None]
        ranked = sorted(known, key=lambda one: one.map or 0.0)
        made.told |= {"precisions": ranked[:LISTED], "all_classes": len(ranked)}
        if facts.data:
            made.told |= {"detections": examples.detections(model, facts.data), "least": LEAST}
        return
    if isinstance(model.inputs, Cells) and facts.data:
        made.told["leaned"] = examples.leaned(model, facts.data)[:LISTED]
    if isinstance(model.inputs, Cells) and not model.labels:
        if facts.data:
            told, came = examples.numbers(model, facts.data)
            made.plots["numbers"] = figures.numbers(told, came, model.inputs.target)
        return
    if not model.labels:
        made.told["sample"] = model.generate(length=600, temperature=0.8, seed=1)
        return
    looked = examples.look(model, facts.data) if facts.data else None
    counts, of = metrics.confusion, "test"
    if counts is None and looked:
        counts, of = looked.confusion, "validation"
    if counts and all(len(row) == len(counts) == len(model.labels) for row in counts):
        if len(counts) <= figures.DRAWN:
            made.plots["confusion"] = figures.confusion(counts, model.labels)
        made.told["confusion_of"] = of
        made.told["confused"] = examples.confused(counts, model.labels)
        made.told["counted"] = len(counts) <= figures.COUNTED  # the plot says it, too
    if metrics.classes:
        occur = [one for one in metrics.classes if one.examples != 0]
        worst = sorted(occur, key=lambda one: 1.0 if one.f1 is None else one.f1)
        made.told["classes"] = worst[:LISTED]
        made.told["all_classes"] = len(worst)
    if metrics.calibration and metrics.calibration.bins:
        made.plots["calibration"] = figures.reliability(metrics.calibration)
    if looked:
        made.told["looked"] = looked
        made.told["sample"] = looked.sample


def foretold(made: Page, data: Data, model: Artifact, inputs: Lookback) -> None:
    """The end of the validation split as the model tells it, of the first columns."""
    series = data.valid.x
    assert isinstance(series, Series)
    past, came = series.values.split([len(series.values) - inputs.horizon, inputs.horizon])
    told = model.forecast(past)
    shown = past[-min(inputs.length, 2 * inputs.horizon) :]
    made.told["ahead"] = [(f"ahead{k}", name) for k, name in enumerate(inputs.names[:SLICED])]
    for k, (id_, name) in enumerate(made.told["ahead"]):
        lines = (rows.tolist() for rows in (shown[:, k], came[:, k], told[name]))
        made.plots[id_] = figures.ahead(*lines)


@dataclass(frozen=True)
class Ending:
    """Trials that ended alike, without being trained to the end."""

    state: str
    reason: str
    count: int
    trial: int  # one of them
    detail: str  # of that one


def endings(rows: Sequence[Row], of: Mapping[int, FrozenTrial]) -> list[Ending]:
    """The most frequent first. Numbers are taken out of reasons, so that those alike are one."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        reason = re.sub(r"\d+(\.\d+)?", "…", row.reason)
        if row.state == "paused":
            reason = "waits for its turn; the same command goes on"
        if row.state != "finished":
            found.setdefault((row.state, reason), []).append(row)
    told = []
    for (state, reason), some in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        one = min(some, key=lambda row: row.trial)
        detail = of[one.trial].user_attrs.get("detail") or one.reason
        told.append(Ending(state, reason, len(some), one.trial, str(detail)))
    return told[:LISTED]


def render(made: Page) -> str:
    """The template with its style, its scripts and their hashes."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=tidy,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": score,
        "lasted": lasted,
        "amount": amounts.told,
        "quoted": shlex.quote,
        "breakable": breakable,
        "value": lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
    }
    scripts = []
    if made.plots:
        from plotly.offline import get_plotlyjs

        scripts = [get_plotlyjs(), (HERE / "page.js").read_text(encoding="utf-8")]
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    drawn = {
        f"plot-{name}": {"data": plot.traces, "layout": plot.layout}
        for name, plot in made.plots.items()
    }
    text = environment.get_template("page.html").render(
        **made.told,
        contents=made.contents,
        plots=made.plots,
        figures=finite(drawn),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=Markup(" ".join(hashes) or "'none'"),
    )
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text


def tidy(value: Any) -> Any:
    """Without control characters, which no page may hold; they may stand in names and texts."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", value)
    return value


def score(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def lasted(seconds: float) -> str:
    """`0.5 s`, `24 s`, `3.1 minutes`, `2.5 hours`."""
    length, unit = figures.unit_of(seconds)
    told = f"{seconds / length:.1f}" if seconds / length < 9.95 else f"{seconds / length:,.0f}"
    return f"{told} {'s' if unit == 'seconds' else unit}"


def breakable(name: str) -> Markup:
    """A knob's name that may go on in the next line after a dot or an underscore."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", name))
