"""The plots of a report, as Plotly draws them: plain values, without Plotly.

Colours are names of page.css, which page.js looks up for light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automl.data import Metric
from automl.holes import Choice, Hole, Int
from automl.results.leaderboard import Row, curve_of
from automl.results.report.knobs import Scored, ends_told, place_of
from automl.results.report.metrics import Calibration, Finalist

Trace = dict[str, Any]

UNUSED = -0.17  # where a knob that a config does not have is drawn, left of 0
LONGEST = 48  # characters of a name in a plot
LABELLED = 24  # classes whose names stand beside the confusion matrix
COUNTED = 12  # classes whose counts stand in it


@dataclass(frozen=True)
class Plot:
    """What Plotly needs, and the height of the plot in pixels."""

    traces: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 340
    outside: int = 0  # marks beyond its axes


def plain(value: object) -> str:
    """Any text as Plotly shows it literally: it takes a few tags and entities for markup."""
    text = " ".join(str(value).split())
    return html.escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…", quote=False)


def unit_of(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits so many, and its name."""
    for length, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * length:
            return length, name
    return 1.0, "seconds"


def progress(
    ended: Sequence[tuple[Row, float]],
    best: Sequence[tuple[float, float]],
    marks: Mapping[str, float],
    metric: Metric,
) -> Plot:
    """Scores by the device seconds that were spent by then, and the best so far as a line.

    `ended` are scored trials with these seconds, `best` the corners of the line, `marks` scores to
    hold them against, by name.
    """
    last = max(seconds for _, seconds in ended)
    values = [row.score or 0.0 for row, _ in ended]
    focus = focus_on(values, metric)
    length, unit = unit_of(last)
    traces = [
        dots(
            [(seconds / length, row) for row, seconds in ended if (row.state == "finished") == done],
            name,
            look,
        )
        for done, name, look in ((False, "not trained to the end", OTHERS), (True, "finished", ENDED))
    ]
    if best:
        corners = [*best, (last, best[-1][1])]
        traces.append(
            {
                "x": [seconds / length for seconds, _ in corners],
                "y": [score for _, score in corners],
                "mode": "lines",
                "line": {"shape": "hv", "color": "orange", "width": 2.5},
                "name": "best so far",
                "hovertemplate": "best so far %{y:.4f}<extra></extra>",
            }
        )
    for (name, score), dash in zip(marks.items(), ("dash", "dot"), strict=False):
        if outside([score], focus):
            continue
        traces.append(
            {
                "x": [0, last / length],
                "y": [score, score],
                "mode": "lines",
                "line": {"dash": dash, "color": "muted", "width": 1.5},
                "name": plain(name),
                "hovertemplate": "%{y:.4f}<extra></extra>",
            }
        )
    axes = {"xaxis": {"title": {"text": f"{unit} of training"}, "rangemode": "tozero"}}
    layout = {**axes, "yaxis": scores(metric, focus)}
    return Plot(traces, layout, outside=outside(values, focus))


MANY = 150  # marks or lines, from which on they are drawn thinner
OTHERS = {"size": 7, "color": "muted", "symbol": "circle-open", "line": {"width": 1.2}}
ENDED = {"size": 8, "color": "blue", "symbol": "circle"}


def dots(points: Sequence[tuple[Any, Row]], name: str, look: dict[str, Any]) -> Trace:
    """Trials by their score over something."""
    if len(points) > MANY:
        look = look | {"size": 5, "opacity": 0.6}
    return {
        "x": [x for x, _ in points],
        "y": [row.score for _, row in points],
        "customdata": [[row.trial, row.epochs] for _, row in points],
        "mode": "markers",
        "marker": look,
        "name": name,
        "hovertemplate": "trial %{customdata[0]}, epoch %{customdata[1]}: %{y:.4f}<extra></extra>",
    }


def scores(metric: Metric, focus: tuple[float, float] | None = None) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": metric.name.replace("_", " ")}}
    return axis if focus is None else axis | {"range": list(focus)}


def focus_on(values: Sequence[float], metric: Metric) -> tuple[float, float] | None:
    """Where to look when a few are so bad that the others would lie on one line; None: at all."""
    ranked = sorted(values, reverse=metric.higher_is_better)
    best, worst, most = ranked[0], ranked[-1], ranked[len(ranked) * 9 // 10]
    if len(ranked) < 10 or best == most or abs(best - worst) < 3 * abs(best - most):
        return None
    low, high = most - (best - most) * 0.2, best + (best - most) * 0.1
    return min(low, high), max(low, high)


def outside(values: Sequence[float], focus: tuple[float, float] | None) -> int:
    return 0 if focus is None else sum(not focus[0] <= value <= focus[1] for value in values)


def numbers(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from one value to another, marked at 1, 2 and 5 or at powers of 10."""
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


def short(value: float) -> str:
    """`0.001`, `20`, `50k`, `2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def curves(scored: Sequence[Scored], best: int | None, halts: Sequence[int], metric: Metric) -> Plot:
    """Scores by epoch. `halts` are epochs after which trials were stopped, or wait."""
    done = [one for one in scored if one.trial.state.name == "COMPLETE" and one.number != best]
    early = [one for one in scored if one.trial.state.name != "COMPLETE"]
    rest = [one for one in early if one.number != best]
    traces = []
    for some, name, color, width, opacity in (
        (rest, "not trained to the end", "muted", 1.0, 0.55),
        (done, "finished", "blue", 1.3, 0.8),
        ([one for one in scored if one.number == best], "the one delivered", "orange", 3.0, 1.0),
    ):
        x: list[int | None] = []
        y: list[float | None] = []
        trial: list[int | None] = []
        for one in some:
            curve = curve_of(one.trial)
            x += [*range(1, len(curve) + 1), None]  # None lifts the pen
            y += [*curve, None]
            trial += [one.number] * (len(curve) + 1)
        if not some:
            continue
        traces.append(
            {
                "x": x,
                "y": y,
                "customdata": trial,
                "mode": "lines",
                "line": {"color": color, "width": width},
                "opacity": opacity,
                "name": name,
                "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
            }
        )
    if early:
        ends = [(len(curve_of(one.trial)), one) for one in early]
        traces.insert(
            1 if rest else 0,
            {
                "x": [epoch for epoch, _ in ends],
                "y": [one.score for _, one in ends],
                "customdata": [one.number for _, one in ends],
                "mode": "markers",
                "marker": {"color": "muted", "symbol": "x-thin", "size": 6,
                           "line": {"width": 1.3, "color": "muted"}},
                "name": "where it ended",
                "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
            },
        )  # fmt: skip
    shapes = [
        {"type": "line", "x0": epoch, "x1": epoch, "yref": "paper", "y0": 0, "y1": 1,
         "layer": "below", "line": {"color": "muted", "width": 1, "dash": "dot"}}
        for epoch in halts
    ]  # fmt: skip
    longest = max(len(curve_of(one.trial)) for one in scored)
    axis: dict[str, Any] = {"title": {"text": "epoch"}, "range": [0.7, longest + 0.3]}
    if longest <= 12:
        axis["dtick"] = 1
    return Plot(traces, {"xaxis": axis, "yaxis": scores(metric), "shapes": shapes}, 380)


def slice_of(name: str, hole: Hole, rows: Sequence[tuple[Scored, Row]], metric: Metric) -> Plot:
    """Scores by the values of one knob, of the trials that have it."""
    axis: dict[str, Any]
    having = [(one.trial.params[name], row) for one, row in rows if name in one.trial.params]
    focus = focus_on([row.score or 0.0 for _, row in having], metric) if having else None
    if isinstance(hole, Choice):
        options = list(hole.options)
        axis = {
            "tickvals": list(range(len(options))),
            "ticktext": [plain(option) for option in options],
            "range": [-0.5, len(options) - 0.5],
        }
        having = [(options.index(value) + spread(row.trial), row) for value, row in having]
    elif hole.log:
        axis = numbers(hole.low, hole.high)
    else:
        pad = 0.04 * (hole.high - hole.low) or 0.5
        axis = {"range": [hole.low - pad, hole.high + pad], "nticks": 6}
        if isinstance(hole, Int) and (hole.high - hole.low) // hole.step <= 8:
            axis["tickvals"] = list(range(hole.low, hole.high + 1, hole.step))
    traces = [
        dots([point for point in having if (point[1].state == "finished") == done], name, look)
        for done, name, look in ((False, "not trained to the end", OTHERS), (True, "finished", ENDED))
    ]
    layout = {"xaxis": axis, "yaxis": scores(metric, focus), "showlegend": False}
    return Plot(traces, layout, 230, outside([row.score or 0.0 for _, row in having], focus))


def spread(number: int) -> float:
    """A small shift aside, the same for every drawing, so that equal points are seen apart."""
    return (number * 0.618034 % 1 - 0.5) * 0.6  # golden ratio: never near the one before


def parallel(
    scored: Sequence[Scored],
    top: Sequence[Scored],
    shown: Mapping[str, Hole],
    metric: Metric,
) -> Plot:
    """Every trial as a line from knob to knob, which lie one below the other, and to its score.

    Drawn upright so that long names fit a phone; a config without a knob passes on its left.
    """
    low, high = (pick(one.score for one in scored) for pick in (min, max))
    best = {one.number for one in top}
    first = top[0].number if top else None
    groups = (
        ([one for one in scored if one.number not in best], "the others", "muted", 0.8, 0.25),
        ([one for one in top if one.number != first], f"the best {len(top)}", "blue", 1.4, 0.75),
        ([one for one in top if one.number == first], "the best", "orange", 3.0, 1.0),
    )
    traces = []
    rows = len(shown)
    for some, name, color, width, opacity in groups:
        if MANY < 5 * len(some):
            width, opacity = width * 0.75, opacity * 0.55
        x: list[float | None] = []
        y: list[int | None] = []
        told: list[str | None] = []
        for one in some:
            for row, (knob, hole) in enumerate(shown.items()):
                value = one.trial.params.get(knob)
                known = knob in one.trial.params
                aside = 0.05 * spread(one.number + 7 * row)
                x.append(round((place_of(hole, value) if known else UNUSED) + aside, 4))
                y.append(row)
                told.append(f"{value:.4g}" if isinstance(value, float) else plain(value) if known else "not used")
            x += [round((one.score - low) / (high - low), 4) if high > low else 1.0, None]
            y += [rows, None]
            told += [f"{one.score:.4f}", None]
        if not some:
            continue
        traces.append(
            {
                "x": x,
                "y": y,
                "text": told,
                "mode": "lines",
                "line": {"color": color, "width": width},
                "opacity": opacity,
                "name": name,
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    axes = {knob: ends_told(hole) for knob, hole in shown.items()}
    axes[metric.name.replace("_", " ")] = (f"{low:.4g}", f"{high:.4g}")
    shapes = [
        {"type": "line", "x0": 0, "x1": 1, "y0": row, "y1": row,
         "line": {"color": "ink", "width": 1}}
        for row in range(len(axes))
    ]  # fmt: skip
    notes = []
    for row, (knob, ends) in enumerate(axes.items()):
        places = ((0, "left", 14, plain(knob), "ink"), (0, "left", -12, plain(ends[0]), "muted"))
        for x0, side, up, text, color in (*places, (1, "right", -12, plain(ends[1]), "muted")):
            notes.append(
                {"x": x0, "y": row, "xanchor": side, "yshift": up, "text": text, "showarrow": False,
                 "font": {"color": color, "size": 12}, "bgcolor": "veil"}
            )  # fmt: skip
    layout = {
        "xaxis": {"visible": False, "range": [UNUSED - 0.05, 1.05], "fixedrange": True},
        "yaxis": {"visible": False, "range": [rows + 0.4, -0.4], "fixedrange": True},
        "shapes": shapes,
        "annotations": notes,
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        "hovermode": "closest",
    }
    return Plot(traces, layout, 90 + 62 * len(axes))


def tradeoff(
    points: Sequence[tuple[float, Row]], front: Sequence[int], what: str, metric: Metric
) -> Plot:
    """Scores of trials by a cost; those of the `front` are joined."""
    focus = focus_on([row.score or 0.0 for _, row in points], metric)
    rest = [point for point in points if point[1].trial not in front]
    ends = [next(point for point in points if point[1].trial == trial) for trial in front]
    best = {"size": 11, "color": "orange", "symbol": "diamond"}
    traces = [
        dots([p for p in rest if p[1].state != "finished"], "not trained to the end", OTHERS),
        dots([p for p in rest if p[1].state == "finished"], "finished", ENDED),
        dots(ends, "the front", best)
        | {"mode": "lines+markers", "line": {"shape": "hv", "color": "orange", "width": 1.5}},
    ]
    costs = [cost for cost, _ in points]
    axis: dict[str, Any] = {"rangemode": "tozero"}
    if max(costs) > 4 * min(costs):
        axis = numbers(min(costs), max(costs))
    layout = {
        "xaxis": {**axis, "title": {"text": what}},
        "yaxis": scores(metric, focus),
        "showlegend": False,
    }
    return Plot(traces, layout, 270, outside([row.score or 0.0 for _, row in points], focus))


def front_of(points: Sequence[tuple[float, Row]], metric: Metric) -> list[int]:
    """Trials that cost less than all that score as well, cheapest first."""
    sign = -1 if metric.higher_is_better else 1
    found: list[int] = []
    least = math.inf
    for cost, row in sorted(points, key=lambda p: (p[0], sign * (p[1].score or 0.0), p[1].trial)):
        if sign * (row.score or 0.0) < least:
            least = sign * (row.score or 0.0)
            found.append(row.trial)
    return found


def finalists(told: Sequence[Finalist], metric: Metric) -> Plot:
    """Mean and spread of fresh trainings, beside what the search saw."""
    places = list(range(len(told)))
    single = [(place, score) for place, one in zip(places, told, strict=True) for score in one.scores]
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
    return Plot(traces, {"yaxis": axis, "xaxis": scores(metric)}, 130 + 56 * len(told))


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Plot:
    """Rows are what examples are, columns what they were taken for; each row is shaded as a whole."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    places = list(range(len(counts)))
    names = [plain(label) for label in labels]
    short = [name if len(name) <= 14 else name[:13] + "…" for name in map(str, labels)]
    trace: Trace = {
        "type": "heatmap",
        "z": shares,
        "customdata": [[[names[i], names[j], counts[i][j]] for j in places] for i in places],
        "hovertemplate": "is %{customdata[0]}, taken for %{customdata[1]}: "
        "%{customdata[2]}<extra></extra>",
        "colorscale": [[0, "sunken"], [1, "blue"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    traces = [trace]
    if len(counts) <= COUNTED:  # in two colours, for cells light and dark
        cells = [(i, j) for i in places for j in places if counts[i][j]]
        for dark, ink in ((False, "ink"), (True, "paper")):
            some = [(i, j) for i, j in cells if (shares[i][j] > 0.5) == dark]
            traces.append(
                {
                    "x": [j for _, j in some],
                    "y": [i for i, _ in some],
                    "text": [str(counts[i][j]) for i, j in some],
                    "mode": "text",
                    "textfont": {"size": 11, "color": ink},
                    "hoverinfo": "skip",
                }
            )
    ticks: dict[str, Any] = {"tickvals": [], "showgrid": False}
    if len(counts) <= LABELLED:
        ticks |= {"tickvals": places, "ticktext": [plain(name) for name in short], "showgrid": False}
    layout = {
        "xaxis": {**ticks, "title": {"text": "taken for"}, "range": [-0.5, len(counts) - 0.5]},
        "yaxis": {**ticks, "title": {"text": "is"}, "range": [len(counts) - 0.5, -0.5]},
        "showlegend": False,
    }
    return Plot(traces, layout, 440)


def reliability(told: Calibration) -> Plot:
    """How often answers of like confidence are right; on the diagonal, as often as they say."""
    bins = told.bins
    most = max(one.share for one in bins)
    sizes = [8 + 18 * math.sqrt(one.share / most) for one in bins]
    traces: list[Trace] = [
        {"x": [0, 1], "y": [0, 1], "mode": "lines", "hoverinfo": "skip",
         "line": {"color": "muted", "dash": "dash", "width": 1.5}, "name": "as often as it says"},
        {"x": [one.confidence for one in bins], "y": [one.accuracy for one in bins],
         "customdata": [round(100 * one.share, 1) for one in bins],
         "mode": "lines+markers", "line": {"color": "blue", "width": 1.5},
         "marker": {"size": sizes, "color": "blue"}, "name": "this model",
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
