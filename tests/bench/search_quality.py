"""How good is a search, in minutes: the tool's own driver on tables and recorded curves.

    python tests/bench/search_quality.py lcbench NAME [--target val_cross_entropy] [--workers 4]
    python tests/bench/search_quality.py tables NAME
    python tests/bench/search_quality.py replay CURVES NAME [--workers 4] [--timed]
    python tests/bench/search_quality.py asking [--trials 1000]
    python tests/bench/search_quality.py report lcbench|tables|replay|unseen|timed|CURVES
    python tests/bench/search_quality.py plot lcbench|replay|unseen|timed|CURVES FILE.svg

NAME is one of ours (`automl`, `automl_no_promotion`, ...) or a peer (`random`, `optuna_tpe`, ...).
Everything of ours is the tool itself but the engine, which looks scores up (`lookup.py`). `lcbench`
and `tables` need HPOBENCH, the folder of the harness, whose signature `automl_search(task, seed)`
has. A run that is there already is not done again. CURVES: digits, fashion5k or questions, or of
`unseen`, which no choice of the search was made on, photographs, news or sentences; with `--timed`
an epoch costs what it took, as budget and to the search, and not 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))  # whoever imports this file from elsewhere
from asking import ask
from lookup import search_table
from picture import Line, draw
from replay import (
    CHOSEN_ON,
    RECORDED,
    UNSEEN,
    Recording,
    Replay,
    Spent,
    by_chance,
    optuna_default,
    optuna_tpe,
    ours,
)

ROOT = Path(__file__).parents[2]
OUT = ROOT / "studies" / "quality"
PORTFOLIO = Path(__file__).with_name("portfolio.json")
TRAININGS = [5, 10, 25, 50, 100]  # budgets that are reported, in full trainings
REPLAYED = [2, 5, 10, 20, 40]

DRAWN = {  # the best that each tool has, what Optuna does by default, and ours
    "automl": "automl",
    "automl_no_portfolio": "automl, no portfolio",
    "automl_no_promotion": "automl, no promotion",
    "automl_no_model": "automl, no model",
    "optuna_gp": "Optuna, GP",
    "optuna_tpe": "Optuna, TPE",
    "optuna_tpe_median": "Optuna, TPE + median",
    "optuna_default": "Optuna, TPE + median",
    "neps_priorband": "NePS, PriorBand",
    "smac_mf": "SMAC3",
    "bohb": "BOHB",
    "dehb": "DEHB",
    "hyperopt_tpe": "hyperopt, TPE",
    "syne_asha": "Syne Tune, ASHA",
    "random": "random search",
}

Search = Callable[[Any, int], None]


def automl_search(task: Any, seed: int, **how: Any) -> None:
    """With what make_portfolio.py learned from other instances; without, where knobs differ."""
    names = {param.name for param in task.space}
    first = [c for c in json.loads(PORTFOLIO.read_text()) if c.keys() == names]
    search_table(task, seed, first=first, **how)


def automl_search_no_portfolio(task: Any, seed: int, **how: Any) -> None:
    search_table(task, seed, **how)


OURS: dict[str, Search] = {
    "automl": automl_search,
    "automl_no_portfolio": automl_search_no_portfolio,
    "automl_no_promotion": partial(automl_search_no_portfolio, pruner="none"),
    "automl_no_model": partial(automl_search_no_portfolio, sampler="random"),
}
REPLAYS: dict[str, Search] = {
    "automl": partial(ours, elsewhere=True),
    "automl_no_portfolio": ours,
    "automl_beginnings": partial(ours, beginnings=True),
    "automl_good_prior": partial(ours, prior=(0.0, 0.1)),
    "automl_wrong_prior": partial(ours, prior=(0.9, 1.0)),
    "automl_no_promotion": partial(ours, pruner="none"),
    "automl_no_model": partial(ours, sampler="random"),
    "optuna_default": optuna_default,
    "optuna_tpe": optuna_tpe,
    "random": by_chance,
}


def harness(name: str) -> Any:
    """A module of the harness."""
    folder = os.environ.get("HPOBENCH")
    if not folder or not Path(folder, "bench.py").is_file():
        sys.exit(f"HPOBENCH: got {folder!r}; want the folder of the harness, with bench.py")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def optimizer(name: str, workers: int) -> Search:
    """Ours or a peer, with the harness's signature."""
    if name in OURS:
        return partial(OURS[name], slots=workers) if workers > 1 else OURS[name]
    peers = harness("peers.optuna_opts").OPTS | harness("peers.random_search").OPTS
    if name not in peers:
        sys.exit(f"no optimizer is called {name!r}; known: {', '.join([*OURS, *peers])}")
    return peers[name]


def labelled(name: str, workers: int) -> str:
    return name if workers == 1 else f"{name}_{workers}_workers"


def lcbench(name: str, seeds: list[int], target: str, trainings: int, workers: int) -> None:
    bench = harness("bench")
    search, label = optimizer(name, workers), labelled(name, workers)
    for seed in seeds:
        for instance in bench.OPEN:
            out = OUT / "lcbench" / target / label / f"{instance}_{seed}.npz"
            if out.exists():
                continue
            sign = -1.0 if "cross_entropy" in target else 1.0
            task = bench.Task(instance, trainings * bench.MAX_EPOCH, target=target, sign=sign)
            began = time.process_time()
            run(partial(search, task, seed), bench.BudgetExhausted)
            cpu = time.process_time() - began
            task.save(str(out), cpu, {"cpu": cpu})
            print(f"{label} {instance} seed {seed}: {len(task.configs)} configs, {cpu:.0f} s CPU",
                  flush=True)  # fmt: skip


def tables(name: str, seeds: list[int]) -> None:
    tabular = harness("tabular")
    search = optimizer(name, 1)
    for seed in seeds:
        for file in sorted(Path(tabular.HERE, "data", "tabular").glob("*.npz")):
            out = OUT / "tables" / name / f"{file.stem}_{seed}.json"
            if out.exists():
                continue
            task = tabular.TabTask(str(file))
            began = time.process_time()
            run(partial(search, task, seed), harness("bench").BudgetExhausted)
            keep(out, task.regret().tolist(), began)


def replay(
    curves: str, name: str, seeds: list[int], trainings: int, workers: int, timed: bool
) -> None:
    recording, label = Recording.load(curves), labelled(name, workers)
    search = partial(REPLAYS[name], slots=workers) if workers > 1 else REPLAYS[name]
    for seed in seeds:
        out = OUT / ("timed" if timed else "replay") / curves / label / f"{seed}.json"
        if out.exists():
            continue
        one = Replay(recording, trainings * recording.epochs, timed=timed)
        began = time.process_time()
        run(partial(search, one, seed), Spent)
        keep(out, one.regrets, began)


def run(search: Callable[[], None], spent: type[BaseException]) -> None:
    """To the end of the budget."""
    with contextlib.suppress(spent):
        search()


def keep(out: Path, regrets: list[float], began: float) -> None:
    """Regret after each unit of the budget."""
    cpu = round(time.process_time() - began, 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"cpu": cpu, "regret": [round(r, 5) for r in regrets]}) + "\n")
    print(f"{out.relative_to(OUT)}: {regrets[-1]:.3f}, {cpu:.0f} s CPU", flush=True)


Runs = dict[str, dict[str, Any]]  # by optimizer and benchmark: regret (seeds, points)


def replayed(curves: Iterable[str], kind: str) -> Runs:
    """Regret after every epoch, of the seeds that are there; what ended early stays as it was."""
    found: Runs = {}
    for name in curves:
        for folder in sorted((OUT / kind / name).glob("*")):
            runs = [
                json.loads(file.read_text())["regret"] for file in sorted(folder.glob("*.json"))
            ]
            most = max(map(len, runs))
            found.setdefault(folder.name, {})[name] = np.array(
                [run + run[-1:] * (most - len(run)) for run in runs]
            )
    return found


def tabled() -> Runs:
    found: Runs = {}
    for folder in sorted((OUT / "tables").glob("*")):
        by: dict[str, list[Any]] = {}
        for file in sorted(folder.glob("*.json")):
            regret = json.loads(file.read_text())["regret"]
            whole = regret + regret[-1:] * (100 - len(regret))
            by.setdefault(file.stem.rpartition("_")[0], []).append(whole)
        found[folder.name] = {name: np.array(runs) for name, runs in by.items()}
    return found


def learned(target: str, points: list[float], cost: str = "epoch") -> Runs:
    """LCBench at these budgets: regret of the incumbent; of other targets its score, negated."""
    score, bench = harness("score"), harness("bench")
    found: Runs = {}
    folders = sorted((OUT / "lcbench" / target).glob("*"))
    if target == "val_accuracy":
        mine = {folder.name for folder in folders}
        folders += [f for f in sorted(Path(score.HERE, "results").glob("*")) if f.name not in mine]
    for folder in folders:
        for instance in bench.OPEN:
            runs = [
                [score.at(trajectory, cost, "final", x) for x in points]
                for file in sorted(folder.glob(f"{instance}_*.npz"))
                for trajectory in [trajectory_of(score, file, instance, target)]
            ]
            if runs:
                found.setdefault(folder.name, {})[instance] = np.array(runs)
    return found


def trajectory_of(score: Any, file: Path, instance: str, target: str) -> Any:
    if target != "val_accuracy":  # the harness has no best and median of it: they cancel in ranks
        score.REFS[instance] |= {"best": 0.0, "median": -1.0, "best_any": 0.0}
    told = score.trajectory(str(file), instance)
    if several := re.search(r"_(\d+)_workers$", file.parent.name):
        log = np.load(file)
        spent = again(log["cfg"].tolist(), log["epoch"].tolist(), int(several[1]))
        told["scratch"] = np.cumsum(spent) / harness("bench").MAX_EPOCH
    return told


def again(configs: list[int], epochs: list[int], workers: int) -> list[int]:
    """Epochs that each call costs where whoever was paused begins anew.

    A training goes on while it has its turn among the workers; the harness takes every call for
    another config than the last one for a new beginning.
    """
    last: dict[int, tuple[int, int]] = {}  # by config: its last call, and to which epoch
    spent = []
    for call, (config, epoch) in enumerate(zip(configs, epochs, strict=True)):
        before, reached = last.get(config, (-workers - 1, 0))
        goes_on = call - before <= workers and epoch > reached
        spent.append(epoch - reached if goes_on else epoch)
        last[config] = call, epoch
    return spent


def at(runs: Any, epochs: int, trainings: float) -> Any:
    """(seeds,): the regret once so many full trainings are spent."""
    return runs[:, min(round(trainings * epochs), runs.shape[1]) - 1]


def ranks(values: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean over benchmarks of the place of an optimizer's mean over seeds; 1 is best."""
    found: dict[str, list[float]] = {name: [] for name in values}
    for bench in next(iter(values.values())):
        row = np.array([by[bench] for by in values.values()])
        for name, value in zip(values, row, strict=True):
            found[name].append(float((row < value).sum() + ((row == value).sum() + 1) / 2))
    return {name: float(np.mean(places)) for name, places in found.items()}


def table(runs: Runs, points: list[float], pick: Callable[[str, Any, int], Any]) -> list[str]:
    """Markdown: mean over benchmarks of the mean over seeds, and mean ranks, best at the end first.

    `pick` gives, of a benchmark's runs, those (seeds,) at a number of the points.
    """
    most = max(len(by) for by in runs.values())
    runs = {name: by for name, by in runs.items() if len(by) == most}  # only who has them all
    means = [
        {
            name: {b: float(np.mean(pick(b, r, i))) for b, r in by.items()}
            for name, by in runs.items()
        }
        for i in range(len(points))
    ]
    places = [ranks(at) for at in means]
    head = ["optimizer", "runs", *(f"{x:g}" for x in points), *(f"rank {x:g}" for x in points)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in sorted(runs, key=lambda name: np.mean(list(means[-1][name].values()))):
        count = sum(len(run) for run in runs[name].values())
        cells = [f"{np.mean(list(at[name].values())):.3f}" for at in means]
        cells += [f"{at[name]:.1f}" for at in places]
        shown = f"**{name}**" if name.startswith("automl") else name
        lines.append(f"| {shown} | {count} | " + " | ".join(cells) + " |")
    return lines


def report(what: str, target: str) -> list[str]:
    if what == "lcbench":
        lines = []
        for cost in ("epoch", "scratch"):
            told = "checkpoints kept" if cost == "epoch" else "retrained from scratch"
            runs = learned(target, TRAININGS, cost)
            lines += [f"LCBench, {target}, cost in epochs, {told}", ""]
            lines += [*table(runs, TRAININGS, lambda _b, r, i: r[:, i]), ""]
        return lines
    if what == "tables":
        return table(tabled(), TRAININGS, lambda _b, r, i: at(r, 1, TRAININGS[i]))
    names, kind = chosen(what)
    runs = replayed(names, kind)
    epochs = {name: Recording.load(name).epochs for name in names}
    lines = table(runs, REPLAYED, lambda b, r, i: at(r, epochs[b], REPLAYED[i]))
    for name in names:
        if all(name in runs.get(who, {}) for who in ("automl", "optuna_default", "random")):
            lines += ["", sooner(name, runs, epochs[name])]
    return lines


def chosen(what: str) -> tuple[list[str], str]:
    """Which curves, and whether their epochs count or their seconds."""
    if what in RECORDED:
        return [what], "replay"
    return list(UNSEEN if what == "unseen" else CHOSEN_ON), "replay" if what == "unseen" else what


def sooner(curves: str, runs: Runs, epochs: int) -> str:
    """When we come to where Optuna's default ends, and whether chance is ever better, on means."""
    three = [runs[name][curves] for name in ("automl", "optuna_default", "random")]
    few = min(len(run) for run in three)
    mine, theirs, chance = (run[:few].mean(0) for run in three)
    goal = theirs[-1]
    spent = [
        int(np.argmax(mean <= goal)) + 1 if mean.min() <= goal else None for mean in (mine, theirs)
    ]
    told = (
        f"{curves}, {few} seeds: Optuna's default ends at {goal:.3f}, where it is after {spent[1]}"
    )
    told += " epochs; "
    told += f"automl is there after {spent[0]}" if spent[0] else f"automl ends at {mine[-1]:.3f}"
    most = min(len(mine), len(chance))
    worse = np.flatnonzero(mine[:most] > chance[:most] + 1e-9) + 1
    if len(worse):
        return f"{told}; worse than random at {len(worse)} of {most} budgets, last {worse[-1]}"
    return f"{told}; never worse than random"


def plot(what: str, file: Path, target: str) -> None:
    if what == "lcbench":
        points = np.geomspace(1, 100, 60).tolist()
        runs = learned(target, points)
        most = max(len(by) for by in runs.values())
        means = {
            name: np.mean([r.mean(0) for r in by.values()], 0)
            for name, by in runs.items()
            if len(by) == most
        }
        title = "LCBench, six data sets: mean normalised regret"
    else:
        names, kind = chosen(what)
        epochs = {name: Recording.load(name).epochs for name in names}
        points = np.geomspace(1, REPLAYED[-1], 60).tolist()
        means = {
            name: np.mean([[at(r, epochs[b], x).mean() for x in points] for b, r in by.items()], 0)
            for name, by in replayed(names, kind).items()
            if len(by) == len(names)
        }
        budget = ", seconds as recorded" if kind == "timed" else ""
        title = f"Replayed curves of {', '.join(names)}{budget}: mean normalised regret"
    lines = [
        Line(told, points, means[name].tolist(), ours=name == "automl")
        for name, told in DRAWN.items()
        if name in means
    ]
    file.write_text(draw(lines, title, "budget in full trainings"))


def numbers(text: str) -> list[int]:
    low, _, high = text.partition("-")
    return list(range(int(low), int(high or low) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("lcbench", "tables", "replay"):
        one = commands.add_parser(command)
        if command == "replay":
            one.add_argument("curves", choices=RECORDED)
            one.add_argument("--timed", action="store_true", help="epochs cost what they took")
        one.add_argument("name", choices=REPLAYS if command == "replay" else None)
        one.add_argument("--seeds", type=numbers, default="0-4")
        if command != "tables":
            one.add_argument("--trainings", type=int, default=40 if command == "replay" else 100)
            one.add_argument("--workers", type=int, default=1, help="simulated; for ours only")
        if command == "lcbench":
            one.add_argument("--target", default="val_accuracy")
    one = commands.add_parser("asking")
    one.add_argument("--trials", type=int, default=1000)
    for command in ("report", "plot"):
        one = commands.add_parser(command)
        one.add_argument(
            "what", choices=["lcbench", "tables", "replay", "unseen", "timed", *RECORDED]
        )
        if command == "plot":
            one.add_argument("file", type=Path)
        one.add_argument("--target", default="val_accuracy")
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    command = given.pop("command")
    if command == "report":
        print("\n".join(report(**given)))
    elif command == "asking":
        print(ask(**given))
    else:
        {"lcbench": lcbench, "tables": tables, "replay": replay, "plot": plot}[command](**given)


if __name__ == "__main__":
    main()
