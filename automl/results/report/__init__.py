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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from optuna.trial import FrozenTrial, TrialState

from automl.data import Data, Metric
from automl.holes import Hole
from automl.results import artifact, leaderboard
from automl.results.artifact import Artifact
from automl.results.card import USAGE
from automl.results.leaderboard import Row, curve_of
from automl.results.report import examples, figures
from automl.results.report.figures import Plot, finite
from automl.results.report.knobs import SURE, Scored, best_of, importance
from automl.results.report.metrics import Metrics
from automl.space import Space

HERE = Path(__file__).parent
FEWEST = 3  # trials of a plot of all of them
SLICED = 6  # knobs whose values are plotted
NAMED = 12  # knobs whose importance is told
JOINED = 8  # knobs that every trial's line goes through
LISTED = 10  # trials, classes and reasons in tables
COSTS = {
    "params": "parameters",
    "latency_ms": "milliseconds for one example",
    "seconds": "seconds of training",
}


OPTIONAL = (  # what the template is told only where it is known
    "chosen classes config confused counted confusion_of gives importance interval looked luck "
    "metrics sample slices tradeoffs warning"
).split()


@dataclass(frozen=True)
class Facts:
    """What a page is made of."""

    path: Path  # of the study
    space: Space
    manifest: dict[str, Any]
    trials: Sequence[FrozenTrial]
    data: Data | None = None  # None: no example is shown
    absent: str = ""  # why there is none

    @property
    def metric(self) -> Metric:
        return self.space.task.metric


@dataclass
class Page:
    """What the template is given, and the plots it places."""

    told: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(OPTIONAL))
    plots: dict[str, Plot] = field(default_factory=dict)

    def contents(self) -> dict[str, str]:
        """The sections that have something to say, and what they are called."""
        told, plots = self.told, self.plots
        metrics, looked = told["metrics"], told["looked"]
        there = {
            "progress": ("Progress", "progress" in plots),
            "curves": ("Learning curves", "curves" in plots),
            "importance": ("Which knobs mattered", told["importance"]),
            "slices": ("How they mattered", told["slices"]),
            "parallel": ("Every trial at once", "parallel" in plots),
            "costs": ("Score against cost", told["tradeoffs"]),
            "finalists": ("Finalists", "finalists" in plots),
            "classes": ("Classes", "confusion" in plots or told["classes"]),
            "mistakes": ("The most confident mistakes", looked and looked.mistakes),
            "writes": ("What it writes", told["gives"] == "prose" and told["sample"]),
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
    rows = [row for row in rows if row.score is None or math.isfinite(row.score)]
    of = {trial.number: trial for trial in facts.trials}
    scored = [Scored(of[row.trial], row.score) for row in rows if row.score is not None]
    scored.sort(key=lambda one: one.number)
    best = facts.path / "best"
    metrics = Metrics.read(best / "metrics.json") if best.is_dir() else None
    model = artifact.load(best) if metrics else None

    made = Page()
    made.told |= {"name": facts.path.name, "metric": named(facts.metric), "metrics": metrics, "scored": len(scored)}
    made.told |= totals(facts, rows)
    if scored:
        if len(scored) > 1:
            progress(made, facts, rows, metrics)
            made.told["rows"] = rows[:LISTED]
        learning(made, facts, scored, metrics)
        knobs(made, facts, rows, scored)
        tradeoffs(made, facts, rows)
    if metrics and model:
        answer(made, facts, metrics)
        finalists(made, facts, metrics)
        judged(made, facts, metrics, model)
        made.told |= {
            "summary": model.config.summary,
            "chosen": chosen(of.get(metrics.trial)) if metrics.trial is not None else [],
            "config": (best / "config.yaml").read_text(encoding="utf-8"),
            "usage": USAGE[model.config.task.gives],
            "gives": model.config.task.gives,
        }
    made.told["endings"] = endings(rows, of)
    return render(made)


def named(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def totals(facts: Facts, rows: Sequence[Row]) -> dict[str, Any]:
    """What the search took: trials, epochs, seconds of devices, and from when to when."""
    begun = [trial.datetime_start for trial in facts.trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in facts.trials if trial.datetime_complete]
    return {
        "manifest": facts.manifest,
        "trials": len(rows),
        "states": Counter(row.state for row in rows).most_common(),
        "epochs": sum(row.epochs for row in rows),
        "device_seconds": sum(row.seconds for row in rows),
        "begun": min(begun, default=None),
        "ended": max(ended, default=None),
        "data": facts.data,
        "absent": facts.absent,
        "task": facts.space.task.name,
        "seed": facts.manifest.get("seed"),
        "studies": facts.path.parent.name,
    }


def answer(made: Page, facts: Facts, metrics: Metrics) -> None:
    """The first screen: how good, on what, held against what."""
    metric = facts.metric
    valid, name = metrics.valid[metric.name], metric.name
    chance, baseline = (float(told.get(name, math.nan)) for told in (metrics.chance, metrics.baseline))
    held = [("this model, validation", valid, "ours")]
    if metrics.test:
        held.insert(0, ("this model, test", metrics.test[name], "ours"))
    held.append((f"{metrics.baseline.get('name', 'baseline')}, validation", baseline, "theirs"))
    held.append((f"{metrics.chance.get('name', 'chance')}, validation", chance, "theirs"))
    held = [one for one in held if math.isfinite(one[1])]
    most = 1.0 if metric.higher_is_better else max(score for _, score, _ in held)
    warning = metrics.warning or ""
    if not metric.beyond(valid, chance, metrics.valid_examples):
        warning = "This model is no better than chance. Do not use it."
    elif not warning and not metric.better(valid, baseline):
        warning = f"{metrics.baseline.get('name')} does as well. More trials or data may help."
    made.told |= {
        "warning": warning,
        "score": metrics.test[name] if metrics.test else valid,
        "interval": metrics.test_interval if metrics.test else metrics.valid_interval,
        "bars": [(what, score, 100 * score / most, kind) for what, score, kind in held],
        "higher": metric.higher_is_better,
    }


def progress(made: Page, facts: Facts, rows: Sequence[Row], metrics: Metrics | None) -> None:
    metric = facts.metric
    order = {trial.number: (trial.datetime_complete is None, trial.datetime_complete, trial.number)
             for trial in facts.trials}  # fmt: skip
    spent, ended, corners = 0.0, [], []
    best: Row | None = None
    for row in sorted(rows, key=lambda row: (order[row.trial][0], str(order[row.trial][1]), row.trial)):
        spent += row.seconds
        if row.score is None:
            continue
        ended.append((row, spent))
        if row.state == "finished" and (
            best is None or metric.better(row.score, best.score or 0.0)
        ):
            best = row
            corners.append((spent, row.score))
    marks = {}
    for told in (metrics.baseline, metrics.chance) if metrics else ():
        score = float(told.get(metric.name, math.nan))
        if math.isfinite(score):
            marks[str(told.get("name", "baseline"))] = score
    made.plots["progress"] = figures.progress(ended, corners, marks, metric)
    made.told["leader"] = best
    made.told["found_after"] = corners[-1][0] if corners else None


def learning(made: Page, facts: Facts, scored: Sequence[Scored], metrics: Metrics | None) -> None:
    early = [one for one in scored if one.trial.state != TrialState.COMPLETE]
    halts = Counter(len(curve_of(one.trial)) for one in early)
    rungs = sorted(epoch for epoch, count in halts.most_common(6))
    if all(len(curve_of(one.trial)) < 2 for one in scored):
        return
    delivered = metrics.trial if metrics else None
    made.plots["curves"] = figures.curves(scored, delivered, rungs, facts.metric)
    made.told["halts"] = [(epoch, halts[epoch]) for epoch in rungs]
    made.told["early"] = len(early)


def knobs(made: Page, facts: Facts, rows: Sequence[Row], scored: Sequence[Scored]) -> None:
    metric = facts.metric
    space = facts.space.all_knobs()
    found = importance(scored, space, metric.higher_is_better)
    met: dict[str, Hole] = {  # in the order of the space
        name: hole for name, hole in space.items() if any(name in one.trial.params for one in scored)
    }
    had = Counter(name for one in scored for name in one.trial.params)
    ranked = [*found, *sorted((name for name in met if name not in found), key=lambda n: -had[n])]
    top = best_of(scored, metric.higher_is_better)
    made.told["importance"] = [
        (name, share) for name, share in list(found.items())[:NAMED] if share >= 0.005
    ]
    made.told["slices"] = []
    if len(scored) >= FEWEST:
        pairs = list(zip(scored, sorted((r for r in rows if r.score is not None), key=lambda r: r.trial), strict=True))  # fmt: skip
        for number, name in enumerate(ranked[:SLICED]):
            made.plots[f"slice{number}"] = figures.slice_of(name, met[name], pairs, metric)
            made.told["slices"].append((f"slice{number}", name))
        joined = {name: met[name] for name in met if name in ranked[:JOINED]}
        if joined:
            made.plots["parallel"] = figures.parallel(scored, top, joined, metric)
            made.told["top"] = len(top)
    made.told["hint"] = len(scored) < SURE
    made.told["knobs"] = len(met)


def tradeoffs(made: Page, facts: Facts, rows: Sequence[Row]) -> None:
    """The front is of finished trials; what others cost in training is not known."""
    made.told["tradeoffs"] = []
    made.told["front"] = [row.trial for row in rows if row.front]
    for cost, what in COSTS.items():
        known = [row for row in rows if row.score is not None and getattr(row, cost)]
        if cost == "seconds":
            known = [row for row in known if row.state == "finished"]
        points = [(float(getattr(row, cost)), row) for row in known]
        done = [point for point in points if point[1].state == "finished"]
        if len(points) >= FEWEST and done:
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
    if not model.labels:
        made.told["sample"] = model.generate(length=600, temperature=0.8, seed=1)
        return
    looked = examples.look(model, facts.data) if facts.data else None
    counts, of = metrics.confusion, "test"
    if counts is None and looked:
        counts, of = looked.confusion, "validation"
    if counts and len(counts) == len(model.labels):
        made.plots["confusion"] = figures.confusion(counts, model.labels)
        made.told["confusion_of"] = of
        made.told["confused"] = examples.confused(counts, model.labels)
        made.told["counted"] = len(counts) <= figures.COUNTED  # the plot says it, too
    if metrics.classes:
        worst = sorted(metrics.classes, key=lambda one: one.f1 if one.f1 is not None else 1.0)
        made.told["classes"] = worst[:LISTED]
        made.told["all_classes"] = len(worst)
    if metrics.calibration and metrics.calibration.bins:
        made.plots["calibration"] = figures.reliability(metrics.calibration)
    if looked:
        made.told["looked"] = looked
        made.told["sample"] = looked.sample


def chosen(trial: FrozenTrial | None) -> list[tuple[str, str]]:
    """The values of a trial's knobs, floats in a few digits."""
    values = trial.params if trial else {}
    return [
        (name, f"{value:.4g}" if isinstance(value, float) else str(value))
        for name, value in values.items()
    ]


def endings(rows: Sequence[Row], of: dict[int, FrozenTrial]) -> list[tuple[str, str, int, int, str]]:
    """How trials ended that did not finish: state, reason, count, and one of them with details.

    Numbers are taken out of the reasons, so that those alike are counted together.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.state != "finished":
            reason = re.sub(r"\d+(\.\d+)?", "…", row.reason)
            if row.state == "paused":
                reason = "waits for its turn; the same command goes on"
            found.setdefault((row.state, reason), []).append(row)
    told = []
    for (state, reason), some in sorted(found.items(), key=lambda item: -len(item[1])):
        one = min(some, key=lambda row: row.trial)
        detail = str(of[one.trial].user_attrs.get("detail", "")) or one.reason
        told.append((state, reason, len(some), one.trial, detail))
    return told[: 2 * LISTED]


def render(made: Page) -> str:
    """The template with its style, its scripts and their hashes."""
    loader = FileSystemLoader(HERE)
    env = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=tidy,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"score": score, "lasted": lasted, "breakable": breakable}
    scripts = [(HERE / "page.js").read_text(encoding="utf-8")] if made.plots else []
    if made.plots:
        from plotly.offline import get_plotlyjs

        scripts.insert(0, get_plotlyjs())
    sums = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in sums)
    drawn = {
        f"plot-{name}": {"data": plot.traces, "layout": plot.layout}
        for name, plot in made.plots.items()
    }
    text = env.get_template("page.html").render(
        **made.told,
        plots=made.plots,
        contents=made.contents(),
        figures=finite(drawn),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        scripts=[Markup(script) for script in scripts],  # noqa: S704 (ours and Plotly's)
        hashes=Markup(hashes or "'none'"),  # noqa: S704 (base64)
    )
    return text.encode("utf-8", "replace").decode()


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
