"""What a search looks like. Progress goes to standard error, results to standard output."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from automl import amounts
from automl.config import clipped, printable
from automl.data import Metric
from automl.holes import Choice, Hole
from automl.results.card import sure
from automl.results.leaderboard import Row, counted, measures, trained_again
from automl.searching.driver import Closed, Paused, Trained
from automl.searching.finals import Retrained
from automl.searching.run import Finished, Opened, Told
from automl.size import Size
from automl.space import Space
from automl.training.loop import UNBALANCED

if TYPE_CHECKING:
    from automl.exports.verified import Exported

TOP = 5  # rows of the leaderboard at the end
ROOM = 28  # columns of a terminal, below which what a model is stands below its row
SHOWN = {"macs": "MACs", "latency_ms": "ms"}  # second goals with a column in place of params
LINE = "{} {:>5}  {:>8}  {:>6}  {:>6}  {:>6}  {:>6}  {:<24} {}"


class Screen:
    """Show the events of a search as they come."""

    def __init__(self, *, quiet: bool, as_json: bool, command: str) -> None:
        self.quiet, self.as_json, self.command = quiet, as_json, command
        self.out = Console(stderr=True, quiet=quiet, highlight=False)
        self.opened: Opened | None = None
        self.forecast_told = False
        self.again = ""  # what is to be said of trainings after the search
        self.under_way: dict[int, Trained] = {}
        self.bar = Progress(
            TextColumn("{task.completed}/{task.total} trials"),
            BarColumn(40),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[now]}"),
            console=self.out,
            transient=True,
            disable=quiet or not self.out.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, left="", now="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, event: Told) -> None:
        match event:
            case Opened():
                self.opened = event
                self._open(event)
            case Trained():
                self.under_way[event.trial] = event
                now = (
                    f"trial {e.trial} epoch {e.epoch.number}/{e.epochs}"
                    for e in self.under_way.values()
                )
                self.bar.update(self.task, now="   ".join(now))
            case Paused():
                self.under_way.pop(event.trial, None)
            case Retrained():
                self.under_way.clear()  # what time cut off is not gone on with
                self._again(event)
            case Closed():
                self.under_way.pop(event.row.trial, None)
                self._close(event)
            case Finished():
                self.bar.stop()
                self._finish(event)

    @property
    def _cost(self) -> str:
        """What of a row stands in the column that a second goal may take."""
        cost = self.opened.cost if self.opened else None
        return cost if cost in SHOWN else "params"

    def line(self, text: str, style: str = "") -> None:
        """One line, cut to the width of a terminal; whole where it goes to a file."""
        shown = Text.from_markup(text, style=style)
        if self.out.is_terminal:
            self.out.print(shown, no_wrap=True, overflow="ellipsis")
        else:
            self.out.print(shown, soft_wrap=True)

    def leaving(self) -> None:
        """Said when Ctrl-C or SIGTERM is heard for the first time."""
        seconds = [event.epoch.seconds for event in self.under_way.values()]
        about = f", about {duration(max(seconds))} each" if seconds else ""
        self.out.print(f"\nfinishing the epochs under way, to save them{about}; Ctrl-C again: now")

    def interrupted(self) -> None:
        """Said last when Ctrl-C or SIGTERM ended the search."""
        self.out.print("\nstopped; nothing is lost. This goes on from here:\n")
        self.out.print(f"  {self.command}\n", markup=False, soft_wrap=True)  # whole, to be copied

    def _open(self, event: Opened) -> None:
        data, study = event.data, event.study
        name, score = event.baseline
        metric = study.task.metric.name
        workers = amounts.plural(event.workers, "worker")
        kind = (
            f"{data.inputs.summary}, {len(data.labels)} classes"
            if data.labels
            else data.inputs.summary
        )
        classes = study.task.tells == "classes"
        unit = "" if classes else f"{study.task.unit} "
        knobs = amounts.plural(event.knobs, "knob")
        if event.configs is not None:
            knobs += f", {amounts.plural(event.configs, 'config')} in all"
        facts = {
            "device": f"{event.device}, {workers}",
            "data": f"{study.task.summary}: {kind}; {len(data.train):,} {unit}"
            f"to train, {len(data.valid):,} to validate, {data.sealed:,} sealed for the test",
            "to beat": f"{metric} {event.chance[1]:.3f} by chance, {score:.3f} by {name}",
            "space": f"{knobs}, {short(event.params[0])} to {short(event.params[1])} parameters, "
            f"{study.path / 'space.yaml'}",
            "live": shlex.join(["automl", "dashboard", study.name, *studies_option(study.path)]),
        }
        if event.first[1]:
            facts["first"] = "{} of the space, then {} that did well elsewhere".format(*event.first)
        if classes:
            counts = data.train.y.bincount(minlength=len(data.labels))
            few, most = int(counts.min()), int(counts.max())
            if most >= UNBALANCED * few:
                facts["classes"] = (
                    f"unbalanced, {few:,} to {most:,} to train: rare ones count for more in the"
                    " loss, unless train.class_weights says otherwise"
                )
        if event.done or event.resumed:
            of = f" of {event.trials}" if event.done <= event.trials else ""  # fewer are asked for
            facts["goes on"] = f"{event.done}{of} trials done, {event.resumed} under way"
        for what, told in facts.items():
            self.line(f"[bold]{what:<8}[/] {escape(told)}")
        if event.done < event.trials:
            self.out.print()
            params = SHOWN.get(event.cost or "", "params")
            columns = "trial", metric, "best", "epochs", params, "time", "state", "what it is"
            self.line(LINE.format(" ", *columns), "dim")
        self.bar.update(self.task, total=event.trials, completed=event.done)

    def _close(self, event: Closed) -> None:
        row = event.row
        state = row.reason if row.state == "stopped" else row.ending
        cells = (
            "[bold green]*[/]" if event.is_best else " ",
            row.trial,
            "-" if row.score is None else f"{row.score:.4f}",
            "-" if event.best is None else f"{event.best:.4f}",
            row.epochs,
            measured(getattr(row, self._cost)),
            duration(row.seconds),
            state,
            escape(row.summary),
        )
        self.line(LINE.format(*cells), "" if row.state == "finished" else "dim")
        told = event.forecast
        left = f"about {duration(told.seconds)} left" if told else ""
        self.bar.update(self.task, completed=event.done, left=left)
        if told and not self.forecast_told and self.opened and event.done < self.opened.trials:
            self.line(f"forecast: {amounts.plural(told.trials, 'trial')}, {left}", "dim")
            self.forecast_told = True

    def _again(self, event: Retrained) -> None:
        training = event.training
        if event.done == 1:
            self._told_again()
        what = "on the validation split too" if training.whole else "from fresh seeds"
        short = "" if event.done == event.of else f" of {event.of}, for time was up"
        all_ = " training" if event.of == 1 else " trainings"
        self.again = f"trained again {what}: {event.done}{short or all_}"
        score = event.reason if event.score is None else f"{event.score:.4f}"
        told = f"trial {training.trial} seed {training.config.seed} {score}"
        self.bar.update(self.task, left="", now=f"{event.done} of {event.of} again   {told}")

    def _told_again(self) -> None:
        if self.again:
            self.line(self.again, "dim")
        self.again = ""

    def _finish(self, event: Finished) -> None:
        self._told_again()
        study, metric = event.study, event.study.task.metric
        rows = study.leaderboard
        if self.as_json:
            print(json.dumps(result(event, rows)))
            return
        if event.metrics is None or self.opened is None:
            print(nothing(rows, self.opened), *page(event), sep="\n")
            return
        print()
        front = [row for row in rows if row.front]
        made = [row for row in rows if row.front or row.trial == event.metrics["trial"]]
        table(made if front else rows[:TOP], metric)
        again = " this time" if self.opened.done or self.opened.resumed else ""
        print(f"\n{counted(rows)}, in {duration(event.seconds)}{again}")
        best = event.metrics
        valid = best["valid"][metric.name]
        print(*answer(best, study.task.unit), sep="\n")
        if "warning" in best:
            print(f"warning: the best model is {best['warning']}")
        elif told := metric.matched(valid, *self.opened.baseline):
            print(f"warning: {told}; more trials or data may help")
        if len(rows) < self.opened.trials or any(row.state == "paused" for row in rows):
            print(f"time is up; this goes on from here: {self.command}")
        if event.metrics.get("ensemble"):
            gain = event.metrics["ensemble"]["gain"]
            better = "which are more exact" if gain > 0 else "with better probabilities"
            print(f"several models together, {better}: {study.path / 'ensemble'}")
        if front:
            print(f"those marked *, trained and not tested: {study.path / 'front'}")
        took = f"all of the study takes {amounts.told(study.megabytes)} MB"
        print(
            f"saved in {study.path / 'best'}; {took}",
            *page(event),
            "",
            loading(study.path),
            sep="\n",
        )


def page(event: Finished) -> list[str]:
    return [f"all of it as one page: {event.report}"] if event.report else []


def nothing(rows: Sequence[Row], opened: Opened | None) -> str:
    """Why a search has no model to hand over, and what can be done."""
    scored = any(row.score is not None and row.state != "infeasible" for row in rows)
    lost = "no trial that was scored has its weights any more" if scored else "no trial was scored"
    ended = sum(row.state not in ("paused", "waiting") for row in rows)
    over = opened is None or ended >= opened.trials
    late = "time was up; the same command goes on, best with more --time"
    what = "more --trials try others" if over else late
    return f"{lost}; {counted(rows)}; {what}"


def answer(best: dict[str, Any], unit: str) -> list[str]:
    """What metrics.json tells of the best model, in a few lines; splits are counted in `unit`."""
    name = best["metric"]
    told = []
    if best["finalists"]:
        first = best["finalists"][0]
        seen, mean, seeds = first["search"], first["mean"], len(first["seeds"])
        luck = (seen - mean) * (1 if best["higher_is_better"] else -1)
        spread = "" if first["spread"] is None else f" ± {first['spread']:.4f}"
        told.append(
            f"trial {first['trial']}: {name} {seen:.4f} in the search, {mean:.4f}{spread} trained"
            f" again from {amounts.plural(seeds, 'seed')}"
            + (f"; {luck:.4f} of it was luck" if f"{luck:.4f}" > "0.0000" else "")
        )
    elif (seen := best.get("search", {}).get("score")) is not None:
        seen = f"{name} {seen:.4f} in the search"
        kept, last = best["epochs"], best["search"].get("epochs", 0)
        older = f"; its weights are of epoch {kept}, that score of {last}" if kept < last else ""
        told.append(
            f"trial {best['trial']}: {seen}, not trained again: some of it may be luck{older}"
        )
    on = f"{best['test_examples']:,} {unit}"
    told.append(f"test {name} {best['test'][name]:.4f} ({sure(best)}) on {on}")
    if bleu := best.get("bleu"):
        told.append(f"test BLEU {bleu['score']:.2f} (13a, greedy) on {bleu['pairs']:,} {unit}")
    if units := best.get("in_units"):
        rmse, mae = amounts.told(units["rmse"]), amounts.told(units["mae"])
        column = printable(clipped(units["column"], 40))
        told.append(
            f"in the unit of {column}: root mean squared error {rmse}, mean absolute error {mae};"
            f" r2 {best['test']['r2']:.4f}"
        )
    told.append(
        f"validation {best['valid'][name]:.4f}, by {best['baseline']['name']}"
        f" {best['baseline'][name]:.4f}, by chance {best['chance'][name]:.4f}"
    )
    trained, loaded = best["proof"]["trained"], best["proof"]["loaded"]
    if loaded is None:
        told.append("warning: a new process could not load the model; see workers.log")
    else:
        same = "the same" if f"{loaded:.4f}" == f"{trained:.4f}" else "NOT THE SAME"
        seen = ", by examples that it was refitted on" if best["refit"] else ""
        now = f"loaded again by a new process {loaded:.4f}"
        told.append(f"as trained {trained:.4f}, {now}: {same}{seen}")
    if joined := best.get("ensemble"):
        score, gain = joined["test"][name], joined["gain"]
        slower = joined["latency_ms"]["1"] / best["latency_ms"]["1"]
        told.append(
            f"ensemble of {len(joined['members'])} models: test {name} {score:.4f}, {gain:+.4f} in"
            f" validation, {slower:.1f} times as slow, {amounts.told(joined['size_mb'])} MB"
        )
    return told


def loading(path: Path) -> str:
    """The Python that loads the best model of the study in this folder."""
    where = "" if path.parent == Path("studies") else f", studies={str(path.parent)!r}"
    return f"import automl\nmodel = automl.load_best({path.name!r}{where})"


def studies_option(path: Path) -> list[str]:
    return [] if path.parent == Path("studies") else ["--studies", str(path.parent)]


def result(event: Finished, rows: list[Row]) -> dict[str, Any]:
    """The outcome of a search for a machine to read."""
    return {
        "study": str(event.study.path),
        "report": str(event.report) if event.report else None,
        "seconds": round(event.seconds, 1),
        "trials": len(rows),
        "states": dict(Counter(row.state for row in rows)),
        "endings": dict(Counter(row.ending for row in rows)),
        "best": event.metrics,
        "test": event.metrics["test"] if event.metrics else None,
        "leaderboard": [asdict(row) for row in rows],
    }


def table(rows: list[Row], metric: Metric) -> None:
    """The leaderboard, on standard output; what is on the front has a star.

    Where a terminal is too narrow for what a model is, that stands below its row.
    """
    known = {k: v for k, v in measures(rows).items() if k in ("macs", "latency_ms")}
    again = ["trained again"] if any(row.seeds for row in rows) else []
    columns = ["rank", "trial", metric.name, *again, "epochs", "params", *known.values()]
    columns += ["time", "state"]
    cells = [
        (
            f"{'* ' if row.front else ''}{row.rank}",
            str(row.trial),
            "-" if row.score is None else f"{row.score:.4f}",
            *(trained_again(row) for _ in again),
            str(row.epochs),
            measured(row.params),
            *(measured(getattr(row, name)) for name in known),
            duration(row.seconds),
            row.state,
        )
        for row in rows
    ]
    wide = None if sys.stdout.isatty() else 160
    console = Console(highlight=False, width=wide, markup=False)
    shown = _grid(columns, cells)
    if console.width - console.measure(shown).maximum >= ROOM:
        told = [(*line, row.summary) for line, row in zip(cells, rows, strict=True)]
        console.print(_grid([*columns, "what it is"], told))
        return
    with console.capture() as taken:
        console.print(shown)
    first, *lines = taken.get().splitlines()
    print(first)
    for line, row in zip(lines, rows, strict=True):
        print(line)
        console.print(Padding(row.summary, (0, 0, 0, 7), expand=False))


def _grid(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        if column == "what it is":
            shown.add_column(column, overflow="fold")
        else:
            side: Literal["left", "right"] = "left" if column == "state" else "right"
            shown.add_column(column, justify=side, no_wrap=True)
    for line in cells:
        shown.add_row(*line)
    return shown


def exported(told: Exported) -> None:
    """A file beside the artifact, and what the proof found."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "MB", "params", "MACs", *(f"ms for {n}" for n in told.latency_ms[0])):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    names = "artifact", f"{told.format} {told.precision}"
    for name, mb, taken in zip(names, told.mb, told.latency_ms, strict=True):
        cost = measured(told.size.params), measured(told.size.macs)
        shown.add_row(name, measured(mb), *cost, *map(measured, taken.values()))
    Console(highlight=False, markup=False).print(shown)
    found = told.compared
    equal = (
        f"{round(found.equal * found.answers):,} of {found.answers:,} validation answers are equal"
    )
    print(f"\n{equal}, {found.numbers} differ by {found.difference:.1e} at most")
    if told.texts:
        print(
            "the tokenizer inside makes the same tokens of {:,} of {:,} texts".format(*told.texts)
        )
    print(f"validation {told.metric} {found.score:.4f} (artifact {found.was:.4f})")
    print(f"saved in {told.file}")


def knobs(space: Space, sizes: list[Size]) -> str:
    """Every open value of a space in a line of its own, then its size."""
    found = space.knobs()
    width = max((len(name) for name in found), default=0)
    lines = [f"{name:<{width}}  {span(hole)}" for name, hole in found.items()]
    conditions = sum(isinstance(h, Choice) and h.conditional for h in found.values())
    lines.append(
        f"\n{len(found)} knobs, {conditions} of which open others, {len(space.start)} starts"
    )
    if sizes:
        counts = {
            "parameters": [size.params for size in sizes],
            "multiply-accumulates": sorted(size.macs for size in sizes),
        }
        for what, drawn in counts.items():
            tenth, middle = drawn[len(drawn) // 10], drawn[len(drawn) // 2]
            lines.append(
                f"{what} over {len(drawn)} random draws: {drawn[0]:,} to {drawn[-1]:,};"
                f" a tenth below {tenth:,}, half below {middle:,}"
            )
    limits = [name for name in ("max_params", "max_macs") if getattr(space.search, name)]
    if limits:
        over = sum(space.search.excess(size) is not None for size in sizes)
        lines.append(f"{' and '.join(limits)} refuse {over} of these {len(sizes)}")
    return "\n".join(lines)


def span(hole: Hole) -> str:
    if isinstance(hole, Choice):
        return " | ".join(map(str, hole.options))
    more = (
        " (log)" if hole.log else f" in steps of {hole.step}" if hole.step not in (None, 1) else ""
    )
    return f"{hole.low} to {hole.high}{more}"


def short(count: int) -> str:
    """`95k`, `2.1M`."""
    if count < 1000:
        return str(count)
    if count < 999_500:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M"


def measured(value: float | None) -> str:
    if value is None:
        return "-"
    return short(value) if isinstance(value, int) else amounts.told(value)


def duration(seconds: float) -> str:
    """`6.5s`, `14m`, `3h05m`."""
    if seconds < 99.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02d}m"
