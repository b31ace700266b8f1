"""Every trial of a study in one row, best first."""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal, cast

from optuna.trial import FrozenTrial, TrialState

from automl import amounts
from automl.data import Metric
from automl.engines import Reason

Ending = Literal["finished", "stopped", Reason, "worker lost", "paused"]  # of every trial

Place = tuple[bool, bool, float, float, int]

STATES = {  # Optuna's words and ours
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "lost",
    TrialState.RUNNING: "paused",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Row:
    rank: int
    front: bool  # no finished trial is better in one goal and as good in the other
    trial: int
    score: float | None  # on the validation split, at the last epoch; None: never measured
    mean: float | None  # of the fresh trainings that a finalist has
    spread: float | None  # their standard deviation; None: there are fewer than two
    seeds: int  # how many there are
    epochs: int
    params: int | None
    macs: int | None  # multiply-accumulates of one example
    latency_ms: float | None  # of one example; None: was not asked for
    latency_64_ms: float | None  # of 64 at once
    memory_mb: float | None  # the most that training took
    seconds: float  # of training
    state: str  # finished, stopped, infeasible, lost, paused
    reason: str
    summary: str

    @cached_property
    def lines(self) -> dict[tuple[str, ...], str]:
        """Lines of tables, by columns, without rank and front: all `_placed` copies share them."""
        return {}

    @property
    def ending(self) -> Ending:
        """How it ended, in one of few words; `reason` says more of what was stopped."""
        told = self.reason if self.state == "infeasible" else self.state
        return cast(Ending, "worker lost" if told == "lost" else told)

    def cost(self, name: str | None) -> float:
        """Of the second goal; infinite where it is not known, and nothing where there is none."""
        if name is None:
            return 0.0
        value = self.seconds if name == "train_seconds" else getattr(self, name)
        return math.inf if value is None else float(value)


def row(trial: FrozenTrial) -> Row:
    curve = curve_of(trial)
    state = "infeasible" if any(v > 0 for v in trial.constraints.values()) else STATES[trial.state]
    told = trial.user_attrs
    return Row(
        rank=0,  # known among others only
        front=False,
        trial=trial.number,
        score=curve[-1] if curve else None,
        mean=None,
        spread=None,
        seeds=0,
        epochs=len(curve),
        params=told.get("params"),
        macs=told.get("macs"),
        latency_ms=told.get("latency_ms"),
        latency_64_ms=told.get("latency_64_ms"),
        memory_mb=told.get("memory_mb"),
        seconds=told.get("seconds", 0.0),
        state=state,
        reason=told.get("reason", ""),
        summary=told.get("summary", ""),
    )


def curve_of(trial: FrozenTrial) -> list[float]:
    """Scores by epoch. Optuna takes no reports for two goals: it is an attribute then."""
    told: list[float] = trial.user_attrs.get("curve", [])
    return told or [value for _, value in sorted(trial.intermediate_values.items())]


class Ranking:
    """Trials in order, best first, without ranks; one more costs little, however many there are.

    Finished trials lead by score, then the others by score, then those without one. With a second
    goal the cheaper of equals leads.
    """

    def __init__(self, metric: Metric, cost: str | None = None) -> None:
        self.sign, self.cost = -1 if metric.higher_is_better else 1, cost
        self.rows: list[Row] = []
        self.places: list[Place] = []  # of the rows
        self.known: set[int] = set()  # trials

    def add(self, row: Row) -> None:
        place = self._place(row)
        at = bisect(self.places, place)
        self.places.insert(at, place)
        self.rows.insert(at, row)
        self.known.add(row.trial)

    def joined(self, trials: Iterable[FrozenTrial]) -> Ranking:
        """With these, too; this one stays as it is."""
        both = copy(self)
        both.rows, both.places, both.known = self.rows[:], self.places[:], {*self.known}
        for trial in trials:
            both.add(row(trial))
        return both

    def index(self, row: Row) -> int:
        return bisect_left(self.places, self._place(row))

    @property
    def front(self) -> set[int]:
        """Finished trials that are cheaper than all that are as good or better."""
        least, found = math.inf, set()
        for entry in self.rows if self.cost is not None else ():
            if entry.state == "finished" and entry.cost(self.cost) < least:
                least = entry.cost(self.cost)
                found.add(entry.trial)
        return found

    def _place(self, row: Row) -> Place:
        score = self.sign * row.score if row.score is not None else 0.0
        return row.state != "finished", row.score is None, score, row.cost(self.cost), row.trial


def rows(
    trials: list[FrozenTrial],
    metric: Metric,
    cost: str | None = None,
    finalists: Sequence[dict[str, Any]] = (),
    ended: Ranking | None = None,
) -> list[Row]:
    """Finalists by their mean, then the others as in a `Ranking`; those on the front are marked.

    Trials that have ended are read once and remembered in `ended`.
    """
    ended = ended or Ranking(metric, cost)
    for trial in trials:
        if trial.state.is_finished() and trial.number not in ended.known:
            ended.add(row(trial))
    ranking = ended.joined(trial for trial in trials if trial.state == TrialState.RUNNING)
    found, front = {entry.trial: entry for entry in ranking.rows}, ranking.front
    again = {told["trial"]: told for told in finalists if told["trial"] in found}
    for trial, told in again.items():
        seeds = len(told["seeds"])
        found[trial] = replace(found[trial], mean=told["mean"], spread=told["spread"], seeds=seeds)
    leading = [found.pop(trial) for trial in again]
    placed = enumerate([*leading, *found.values()], 1)
    return [_placed(row, rank, row.trial in front) for rank, row in placed]


def _placed(row: Row, rank: int, front: bool) -> Row:
    """Like `replace`, in a tenth of its time: there are many rows."""
    made = object.__new__(Row)
    shared = {"lines": row.lines, "rank": rank, "front": front}  # made now, if it was not before
    object.__setattr__(made, "__dict__", vars(row) | shared)
    return made


def measures(rows: list[Row]) -> dict[str, str]:
    """What else is known of some trial, and what its column is called."""
    names = {
        "macs": "MACs",
        "latency_ms": "ms for 1",
        "latency_64_ms": "ms for 64",
        "memory_mb": "MB",
    }
    return {name: told for name, told in names.items() if {*map(attrgetter(name), rows)} - {None}}


def markdown(rows: list[Row], metric: Metric) -> str:
    known, fronted = measures(rows), any(row.front for row in rows)
    again = any(row.seeds for row in rows)
    columns = ["rank", *(["front"] if fronted else []), "trial", metric.name]
    columns += [*(["trained again"] if again else []), "epochs"]
    columns += ["parameters", *known.values(), "seconds", "state", "what it is"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    told = tuple(columns)
    for r in rows:
        if (line := r.lines.get(told)) is None:  # of most rows it was made before
            line = r.lines[told] = _line(r, known, again)
        front = (" * |" if r.front else "  |") if fronted else ""
        lines.append(f"| {r.rank} |{front} {line}")
    return "\n".join(lines) + "\n"


def _line(r: Row, known: dict[str, str], again: bool) -> str:
    """A row from its trial on."""
    cells: list[object] = [r.trial, "" if r.score is None else f"{r.score:.4f}"]
    cells += [*([trained_again(r)] if again else []), r.epochs]
    values = [r.params, *(getattr(r, name) for name in known)]
    cells += ["" if value is None else f"{value:,}" for value in values]
    state = f"{r.state}: {r.reason}" if r.reason else r.state
    cells.append(f"{r.seconds:.1f}")
    cells += [words.replace("|", "\\|") for words in (state, r.summary)]
    return " | ".join(map(str, cells)) + " |"


def counted(rows: Sequence[Row]) -> str:
    """`20 trials: 4 finished, 14 stopped, 2 out of memory`."""
    counts = Counter(row.ending for row in rows).most_common()
    told = ", ".join(f"{count:,} {ending}" for ending, count in counts)
    return f"{amounts.plural(len(rows), 'trial')}: {told or 'none'}"


def trained_again(row: Row) -> str:
    """`0.9712 ± 0.0021 (3)`: mean, standard deviation and number of a finalist's trainings."""
    if row.mean is None:
        return ""
    spread = "" if row.spread is None else f" ± {row.spread:.4f}"
    return f"{row.mean:.4f}{spread} ({row.seeds})"


def as_csv(rows: list[Row]) -> str:
    """All fields of the rows."""
    first, second, *names = (field.name for field in fields(Row))
    told, values, out = tuple(names), attrgetter(*names), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    lines = [",".join((first, second, *names)) + "\n"]
    for r in rows:
        if (line := r.lines.get(told)) is None:
            writer.writerow(values(r))
            line = r.lines[told] = out.getvalue()
            out.seek(0)
            out.truncate()
        lines.append(f"{r.rank},{r.front},{line}")
    return "".join(lines)
