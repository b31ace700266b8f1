"""What to try first on the tables of search_quality.py: tests/bench/portfolio.json.

    HPOBENCH=path python tests/bench/make_portfolio.py

Of 300 random configs and of the best that short searches find on each of the harness's instances
for learning, those that `automl portfolio build` would take. What is scored is never looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from search_quality import automl_search_no_portfolio

from automl.searching.portfolio import choose, shares

RANDOM, FOUND, FULL_TRAININGS, ENTRIES = 300, 15, 15, 7
OUT = Path(__file__).with_name("portfolio.json")


def main() -> None:
    sys.path.insert(0, os.environ["HPOBENCH"])
    import bench

    torch.set_num_threads(1)
    rng = random.Random(0)
    space = bench.Task(bench.LEARN[0]).space
    learn = [name for name in bench.LEARN if name in bench.Task(bench.LEARN[0]).sur.instances]
    pool = [{p.name: p.from_unit(rng.random()) for p in space} for _ in range(RANDOM)]
    for instance in learn:
        task = bench.Task(instance, FULL_TRAININGS * bench.MAX_EPOCH)
        with contextlib.suppress(bench.BudgetExhausted):
            automl_search_no_portfolio(task, 0)
        ends = [float(curve[-1]) for curve, _ in task.cache.values()]
        best = np.argsort(ends)[::-1][:FOUND]
        configs = list(task.cache)
        pool += [dict(zip(task.names, configs[i], strict=True)) for i in best]
        print(instance, len(configs), max(ends), flush=True)

    rows = []
    for instance in learn:
        task = bench.Task(instance, 10**9)
        ends = np.array([task.evaluate(config, bench.MAX_EPOCH) for config in pool])
        rows.append(shares(ends, np.median(ends[:RANDOM]), ends.max()))
    chosen = choose(np.array(rows), np.ones(len(pool)), ENTRIES)
    for count in range(1, len(chosen) + 1):
        print(
            count, np.array(rows)[:, chosen[:count]].max(1).mean().round(3), pool[chosen[count - 1]]
        )
    OUT.write_text("[\n" + ",\n".join(json.dumps(rounded(pool[i])) for i in chosen) + "\n]\n")


def rounded(config: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in config.items()}


if __name__ == "__main__":
    main()
