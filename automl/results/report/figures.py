"""The plots of a report as Plotly takes them, plain values. Knows no Plotly and no page.

Colours are names of page.css, which page.js looks up for light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automl.config import clipped
from automl.data import Metric
from automl.holes import Choice, Hole, Int
from automl.results.report.knobs import Scored, ends_of, place_of
from automl.results.report.metrics import Calibration, Finalist

Trace = dict[str, Any]
Range = tuple[float, float]

LONGEST = 48  # characters of a name in a plot
UNUSED = -0.17  # where a knob that a config does not have is drawn, left of 0
MANY = 150  # marks or lines, from which on they are drawn thinner
LABELLED = 24  # classes whose names stand beside the confusion matrix
COUNTED = 12  # classes whose counts stand in it
SPACED = 50  # classes whose cells have room for a gap between them
DRAWN = 200  # classes that a screen has a pixel for: beyond, no matrix is drawn

EARLY, DONE = "not trained to the end", "finished"
RING = {"size": 7, "color": "muted", "symbol": "circle-open", "line": {"width": 1.2}}
DISC = {"size": 8, "color": "blue", "symbol": "circle"}
DIAMOND = {"size": 11, "color": "orange", "symbol": "diamond"}
CROSS = {"size": 6, "color": "muted", "symbol": "x-thin",
         "line": {"width": 1.3, "color": "muted"}}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """What Plotly needs, and what the page does."""

    traces: list[Trace]
    layout: dict[str, Any]
    height: int  # pixels
    outside: int = 0  # trials beyond its axes


def plain(value: object) -> str:
    """Any text as Plotly shows it literally: it takes a few tags and entities for markup."""
    return html.escape(clipped(" ".join(str(value).split()), LONGEST), quote=False)


def named(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def unit_of(seconds: float) -> tuple[float, str]:
    """The seconds of the unit that suits so many, and its name."""
    for length, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * length:
            return length, name
    return 1.0, "seconds"


def short(value: float) -> str:
    """`0.001`, `20`, `50k`, `2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def focus_on(scored: Iterable[Scored], metric: Metric) -> Range | None:
    """Where to look when a few are so bad that the others would lie on one line; None: at all."""
    ranked = sorted((one.score for one in scored), reverse=metric.higher_is_better)
    if len(ranked) < 10:
        return None
    best, most, worst = ranked[0], ranked[len(ranked) * 9 // 10], ranked[-1]
    if best == most or abs(best - worst) < 3 * abs(best - most):
        return None
    ends = most - (best - most) * 0.2, best + (best - most) * 0.1
    return min(ends), max(ends)


def outside(scores: Iterable[float], focus: Range | None) -> int:
    return 0 if focus is None else sum(not focus[0] <= score <= focus[1] for score in scores)


def score_axis(
    metric: Metric, focus: Range | None = None, scores: Iterable[float] = ()
) -> dict[str, Any]:
    """Of equal `scores` it says no more than is near: Plotly would go from 0 to twice as much."""
    axis: dict[str, Any] = {"title": {"text": named(metric)}}
    if focus is None and len(found := {*scores}) == 1:
        (score,) = found
        pad = 0.05 * abs(score) or 0.05
        focus = score - pad, score + pad
    return axis if focus is None else axis | {"range": list(focus)}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """From one value to another, marked at 1, 2 and 5 or, if it is long, at powers of 10."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    marks = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
    pad = max(0.04 * math.log10(high / low), 0.02)
    return {
        "type": "log",
        "range": [math.log10(low) - pad, math.log10(high) + pad],
        "tickvals": marks,
        "ticktext": [short(mark) for mark in marks],
    }


def marks(points: Sequence[tuple[float, Scored]], name: str, look: dict[str, Any]) -> Trace:
    """Trials by their score over something."""
    if len(points) > MANY:
        look = look | {"size": 5, "opacity": 0.6}
    return {
        "x": [x for x, _ in points],
        "y": [one.score for _, one in points],
        "customdata": [[one.number, one.row.epochs] for _, one in points],
        "mode": "markers",
        "marker": look,
        "name": name,
        "hovertemplate": "trial %{customdata[0]}, epoch %{customdata[1]}: %{y:.4f}<extra></extra>",
    }


def both(points: Sequence[tuple[float, Scored]]) -> list[Trace]:
    """Those that were not trained to the end, and those that were."""
    early = [point for point in points if not point[1].finished]
    done = [point for point in points if point[1].finished]
    return [marks(early, EARLY, RING), marks(done, DONE, DISC)]


def progress(
    points: Sequence[tuple[float, Scored]],
    corners: Sequence[tuple[float, float]],
    held: Mapping[str, float],
    metric: Metric,
) -> Plot:
    """Scores by the device seconds that were spent by then, and the best so far as a line.

    `corners` are those of the line, `held` scores by name to hold them against.
    """
    length, unit = unit_of(points[-1][0])
    end = points[-1][0] / length
    scored = [one for _, one in points]
    focus = focus_on(scored, metric)
    traces = both([(seconds / length, one) for seconds, one in points])
    if corners:
        traces.append(
            {
                "x": [*(seconds / length for seconds, _ in corners), end],
                "y": [*(score for _, score in corners), corners[-1][1]],
                "mode": "lines",
                "line": {"shape": "hv", "color": "orange", "width": 2.5},
                "name": "best so far",
                "hovertemplate": "best so far %{y:.4f}<extra></extra>",
            }
        )
    for (name, score), dash in zip(held.items(), ("dash", "dot"), strict=False):
        if not outside([score], focus):
            traces.append(
                {
                    "x": [0, end],
                    "y": [score, score],
                    "mode": "lines",
                    "line": {"dash": dash, "color": "muted", "width": 1.5},
                    "name": plain(name),
                    "hovertemplate": "%{y:.4f}<extra></extra>",
                }
            )
    layout = {
        "xaxis": {"title": {"text": f"{unit} of training"}, "rangemode": "tozero"},
        "yaxis": score_axis(metric, focus),
    }
    return Plot(traces, layout, 340, outside((one.score for one in scored), focus))


def curves(
    scored: Sequence[Scored], best: int | None, halts: Sequence[int], epochs: int, metric: Metric
) -> Plot:
    """Scores by epoch, of so many. `halts` are those after which trials were stopped, or wait."""
    early = [one for one in scored if not one.finished]
    rest = [one for one in scored if one.number != best]
    hover = "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>"
    traces = []
    for some, name, color, width, opacity in (
        ([one for one in rest if not one.finished], EARLY, "muted", 1.0, 0.55),
        ([one for one in rest if one.finished], DONE, "blue", 1.3, 0.8),
        ([one for one in scored if one.number == best], "the trial delivered", "orange", 3.0, 1.0),
    ):
        x: list[int | None] = []
        y: list[float | None] = []
        for one in some:
            x += [*range(1, len(one.curve) + 1), None]  # None lifts the pen
            y += [*one.curve, None]
        line: Trace = {
            "x": x,
            "y": y,
            "customdata": [one.number for one in some for _ in range(len(one.curve) + 1)],
            "mode": "lines",
            "line": {"color": color, "width": width},
            "opacity": opacity,
            "name": name,
            "hovertemplate": hover,
        }
        traces += [line] if some else []
    traces.append(
        {
            "x": [one.row.epochs for one in early],
            "y": [one.score for one in early],
            "customdata": [one.number for one in early],
            "mode": "markers",
            "marker": CROSS,
            "name": "where it ended",
            "hovertemplate": hover,
        }
    )
    shapes = [
        {"type": "line", "x0": epoch, "x1": epoch, "yref": "paper", "y0": 0, "y1": 1,
         "layer": "below", "line": {"color": "muted", "width": 1, "dash": "dot"}}
        for epoch in halts
    ]  # fmt: skip
    axis: dict[str, Any] = {"title": {"text": "epoch"}, "range": [0.7, epochs + 0.3]}
    if epochs <= 12:
        axis["dtick"] = 1
    return Plot(traces, {"xaxis": axis, "yaxis": score_axis(metric), "shapes": shapes}, 380)


def slice_of(name: str, hole: Hole, scored: Sequence[Scored], metric: Metric) -> Plot:
    """Scores by the values of one knob, of the trials that have it."""
    having = [one for one in scored if name in one.values]
    points: list[tuple[float, Scored]]
    axis: dict[str, Any]
    if isinstance(hole, Choice):
        options = list(hole.options)
        points = [(options.index(one.values[name]) + aside(one.number), one) for one in having]
        axis = {
            "tickvals": list(range(len(options))),
            "ticktext": [plain(option) for option in options],
            "range": [-0.5, len(options) - 0.5],
        }
    else:
        points = [(one.values[name], one) for one in having]
        pad = 0.04 * (hole.high - hole.low) or 0.5
        axis = {"range": [hole.low - pad, hole.high + pad], "nticks": 6}
        if hole.log:
            axis = log_axis(hole.low, hole.high)
        elif isinstance(hole, Int) and (hole.high - hole.low) // hole.step <= 8:
            axis["tickvals"] = list(range(hole.low, hole.high + 1, hole.step))
    focus = focus_on(having, metric)
    level = score_axis(metric, focus, (one.score for one in having))
    layout = {"xaxis": axis, "yaxis": level, "showlegend": False}
    return Plot(both(points), layout, 230, outside((one.score for one in having), focus))


def aside(number: int) -> float:
    """A small shift, the same for every drawing, so that equal values are seen apart."""
    return (number * 0.618034 % 1 - 0.5) * 0.6  # golden ratio: never near the one before


def parallel(
    scored: Sequence[Scored], top: Sequence[Scored], shown: Mapping[str, Hole], metric: Metric
) -> Plot:
    """Every trial as a line from knob to knob, which lie one below the other, and to its score.

    Drawn upright so that long names fit a phone; a config without a knob passes on its left.
    """
    low, high = min(one.score for one in scored), max(one.score for one in scored)
    best = {one.number for one in top}
    traces = []
    for some, name, color, width, opacity in (
        ([one for one in scored if one.number not in best], "the others", "muted", 0.8, 0.25),
        (top[1:], f"the best {len(top)}", "blue", 1.4, 0.75),
        (top[:1], "the best", "orange", 3.0, 1.0),
    ):
        thin = 5 * len(some) > MANY
        x: list[float | None] = []
        told: list[str | None] = []
        for one in some:
            for row, (knob, hole) in enumerate(shown.items()):
                place, text = at(one, knob, hole)
                few = isinstance(hole, Choice | Int) or place == UNUSED
                x.append(round(place + (0.05 * aside(one.number + 7 * row) if few else 0), 4))
                told.append(f"trial {one.number}: {text}")
            x += [round((one.score - low) / (high - low), 4) if high > low else 1.0, None]
            told += [f"trial {one.number}: {one.score:.4f}", None]
        line: Trace = {
            "x": x,
            "y": [*range(len(shown) + 1), None] * len(some),
            "text": told,
            "mode": "lines",
            "line": {"color": color, "width": width * (0.75 if thin else 1)},
            "opacity": opacity * (0.55 if thin else 1),
            "name": name,
            "hovertemplate": "%{text}<extra></extra>",
        }
        traces += [line] if some else []
    axes = {knob: ends_of(hole) for knob, hole in shown.items()}
    axes[named(metric)] = (f"{low:.4g}", f"{high:.4g}")
    shapes = [
        {"type": "line", "x0": 0, "x1": 1, "y0": row, "y1": row,
         "line": {"color": "ink", "width": 1}}
        for row in range(len(axes))
    ]  # fmt: skip
    notes = []
    for row, (knob, (left, right)) in enumerate(axes.items()):
        for place, anchor, up, text, color in (
            (0, "left", 14, knob, "ink"),
            (0, "left", -12, left, "muted"),
            (1, "right", -12, right, "muted"),
        ):
            notes.append(
                {"x": place, "y": row, "xanchor": anchor, "yshift": up, "text": plain(text),
                 "showarrow": False, "font": {"color": color, "size": 12}, "bgcolor": "veil"}
            )  # fmt: skip
    layout = {
        "xaxis": {"visible": False, "range": [UNUSED - 0.05, 1.05], "fixedrange": True},
        "yaxis": {"visible": False, "range": [len(shown) + 0.4, -0.4], "fixedrange": True},
        "shapes": shapes,
        "annotations": notes,
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
    }
    return Plot(traces, layout, 90 + 62 * len(axes))


def at(one: Scored, knob: str, hole: Hole) -> tuple[float, str]:
    """Where a trial crosses a knob, and what it has there."""
    if knob not in one.values:
        return UNUSED, "not used"
    value = one.values[knob]
    return place_of(hole, value), f"{value:.4g}" if isinstance(value, float) else plain(value)


def tradeoff(
    points: Sequence[tuple[float, Scored]], front: Sequence[int], what: str, metric: Metric
) -> Plot:
    """Scores of trials by a cost; those of the `front` are joined."""
    of = {one.number: (cost, one) for cost, one in points}
    joined = {"mode": "lines+markers", "line": {"shape": "hv", "color": "orange", "width": 1.5}}
    traces = both([point for point in points if point[1].number not in front])
    traces.append(marks([of[number] for number in front], "the front", DIAMOND) | joined)
    costs = [cost for cost, _ in points]
    axis: dict[str, Any] = {"rangemode": "tozero"}
    if max(costs) > 4 * min(costs):
        axis = log_axis(min(costs), max(costs))
    focus = focus_on((one for _, one in points), metric)
    layout = {
        "xaxis": {**axis, "title": {"text": what}},
        "yaxis": score_axis(metric, focus, (one.score for _, one in points)),
        "showlegend": False,
    }
    return Plot(traces, layout, 270, outside((one.score for _, one in points), focus))


def front_of(points: Sequence[tuple[float, Scored]], metric: Metric) -> list[int]:
    """Trials that cost less than all that score as well, cheapest first."""
    sign = -1 if metric.higher_is_better else 1
    found: list[int] = []
    least = math.inf
    for _, one in sorted(points, key=lambda p: (p[0], sign * p[1].score, p[1].number)):
        if sign * one.score < least:
            least = sign * one.score
            found.append(one.number)
    return found


def finalists(told: Sequence[Finalist], metric: Metric) -> Plot:
    """Mean and spread of fresh trainings, beside what the search saw."""
    single = [(place, score) for place, one in enumerate(told) for score in one.scores]
    places = list(range(len(told)))
    hover = "%{x:.4f}<extra></extra>"
    traces: list[Trace] = [
        {"x": [score for _, score in single], "y": [place + 0.18 for place, _ in single],
         "mode": "markers", "marker": {"size": 6, "color": "blue", "opacity": 0.5},
         "name": "one training", "hovertemplate": hover},
        {"x": [one.mean for one in told], "y": places, "mode": "markers",
         "marker": {"size": 11, "color": "blue"},
         "error_x": {"type": "data", "array": [one.spread or 0.0 for one in told],
                     "color": "blue", "thickness": 2, "width": 6},
         "name": "mean and spread", "hovertemplate": hover},
        {"x": [one.search for one in told], "y": places, "mode": "markers",
         "marker": {"size": 11, "color": "orange", "symbol": "diamond-open", "line": {"width": 2}},
         "name": "in the search", "hovertemplate": hover},
    ]  # fmt: skip
    names = [f"trial {one.trial}" for one in told]
    axis = {"tickvals": places, "ticktext": names, "range": [len(told) - 0.5, -0.5]}
    seen = [*(score for _, score in single), *(one.mean for one in told)]
    seen += [one.search for one in told if one.search is not None]
    return Plot(
        traces, {"yaxis": axis, "xaxis": score_axis(metric, None, seen)}, 130 + 56 * len(told)
    )


def ahead(past: Sequence[float], came: Sequence[float], told: Sequence[float]) -> Plot:
    """What a model tells of the rows ahead, from 1 on, and what came; NaN where nothing is known.

    The line of what came begins where the past ends.
    """
    rows = list(range(len(came) + 1))
    before = list(range(1 - len(past), 1))
    hover = "row %{x}: %{y:.4g}<extra></extra>"
    traces: list[Trace] = [
        {"x": x, "y": [None if math.isnan(y) else y for y in ys], "mode": "lines",
         "line": {"color": color, "width": width}, "name": name, "hovertemplate": hover}
        for x, ys, color, width, name in (
            (before, past, "muted", 1.2, "past"),
            (rows, [past[-1], *came], "blue", 1.6, "came"),
            (rows[1:], told, "orange", 2.2, "foretold"),
        )
    ]  # fmt: skip
    return Plot(traces, {"xaxis": {"title": {"text": "rows ahead"}}}, 250)


def numbers(told: Sequence[float], came: Sequence[float], name: str) -> Plot:
    """What a model tells of rows beside what came; on the diagonal, the same."""
    ends = [min(*told, *came), max(*told, *came)]
    traces: list[Trace] = [
        {"x": ends, "y": ends, "mode": "lines", "hoverinfo": "skip",
         "line": {"color": "muted", "dash": "dash", "width": 1.5}, "name": "the same"},
        {"x": came, "y": told, "mode": "markers", "name": "a row",
         "marker": {"size": 5, "color": "blue", "opacity": 0.5},
         "hovertemplate": "is %{x:.4g}, told %{y:.4g}<extra></extra>"},
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": plain(clipped(name, 40))}},
        "yaxis": {"title": {"text": "told"}},
        "showlegend": False,
    }
    return Plot(traces, layout, 360)


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Plot:
    """Rows are what examples are, columns what they are taken for; shaded by shares of rows."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    places = list(range(len(counts)))
    names = [plain(label) for label in labels]
    gap = int(len(counts) <= SPACED)
    traces: list[Trace] = [
        {
            "type": "heatmap",
            "z": shares,
            "customdata": [[[names[i], names[j], counts[i][j]] for j in places] for i in places],
            "hovertemplate": "is %{customdata[0]}, taken for %{customdata[1]}: "
            "%{customdata[2]}<extra></extra>",
            "colorscale": [[0, "sunken"], [1, "blue"]],
            "zmin": 0,
            "zmax": 1,
            "showscale": False,
            "xgap": gap,
            "ygap": gap,
        }
    ]
    cells = [(i, j) for i in places for j in places if counts[i][j]]
    for dark, color in ((False, "ink"), (True, "paper")):
        some = [(i, j) for i, j in cells if (shares[i][j] > 0.5) == dark]
        if len(counts) <= COUNTED:
            traces.append(
                {
                    "x": [j for _, j in some],
                    "y": [i for i, _ in some],
                    "text": [str(counts[i][j]) for i, j in some],
                    "mode": "text",
                    "textfont": {"size": 11, "color": color},
                    "hoverinfo": "skip",
                }
            )
    ticks: dict[str, Any] = {"tickvals": [], "showgrid": False}
    if len(counts) <= LABELLED:
        ticks |= {"tickvals": places, "ticktext": [plain(clipped(name, 14)) for name in labels]}
    ends = [-0.5, len(counts) - 0.5]
    layout = {
        "xaxis": {**ticks, "title": {"text": "taken for"}, "range": ends},
        "yaxis": {**ticks, "title": {"text": "is"}, "range": ends[::-1]},
        "showlegend": False,
    }
    return Plot(traces, layout, 440)


def reliability(told: Calibration) -> Plot:
    """How often answers of like confidence are right; on the diagonal, as often as they say."""
    bins = told.bins
    most = max(one.share for one in bins) or 1.0
    traces: list[Trace] = [
        {"x": [0, 1], "y": [0, 1], "mode": "lines", "hoverinfo": "skip",
         "line": {"color": "muted", "dash": "dash", "width": 1.5}, "name": "as often as it says"},
        {"x": [one.confidence for one in bins], "y": [one.accuracy for one in bins],
         "customdata": [round(100 * one.share, 1) for one in bins],
         "mode": "lines+markers", "line": {"color": "blue", "width": 1.5},
         "marker": {"size": [8 + 18 * math.sqrt(one.share / most) for one in bins],
                    "color": "blue"},
         "name": "this model",
         "hovertemplate": "says %{x:.0%}, right in %{y:.0%}; "
         "%{customdata} % of the examples<extra></extra>"},
    ]  # fmt: skip
    axis = {"range": [-0.03, 1.05], "tickformat": ".0%"}
    layout = {
        "xaxis": {**axis, "title": {"text": "confidence"}},
        "yaxis": {**axis, "title": {"text": "share that is right"}},
    }
    return Plot(traces, layout, 340)


def finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
