"""What a trial costs beside its training, part by part, when a study is long.

CPU-milliseconds and, of all, milliseconds by the clock, which waits for the disk as well.

    python tests/bench/overhead.py [--trials 1000,10000] [--sampler auto] [--pruner none]

Driver, study on disk, space, models and checkpoints are those of `automl search`, and so is how
often the leaderboard is written; nothing is trained and nothing is evaluated. All is done by one
process, so that its CPU-seconds are those of driver and worker together, whatever else the machine
does.
"""

from __future__ import annotations

import argparse
import functools
import gc
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from asking import closed
from lookup import Lookup
from optuna.trial import TrialState

from automl.cli import SELDOM
from automl.config import Config, Pruner, Sampler
from automl.data import Data
from automl.engines import Event, Job, Request, decode, encode
from automl.searching import study as on_disk
from automl.searching.driver import Closed, Driver
from automl.searching.run import SAVING
from automl.space import Space
from automl.training import checkpoint
from automl.training.run import Run

DIGITS = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"
CPU = torch.device("cpu")


class Ledger:
    """Seconds by part; what one part calls of another is not its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.since = time.process_time()

    def turn(self) -> None:
        now = time.process_time()
        self.seconds[self.open[-1] if self.open else "the rest"] += now - self.since
        self.since = now

    def of(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **knobs: Any) -> Any:
            self.turn()
            self.open.append(part)
            try:
                return call(*args, **knobs)
            finally:
                self.turn()
                self.open.pop()

        return timed


class Idle(Lookup):
    """A worker that builds the model and saves it, and learns nothing."""

    def __init__(self, data: Data, ledger: Ledger, rng: random.Random) -> None:
        super().__init__(lambda _job, _epoch: rng.random())
        self.data = data
        self.build = ledger.of("build", Run)
        self.save = ledger.of("checkpoint", checkpoint.save)
        self.over = ledger.of("messages", lambda message: decode(encode(message)))

    def send(self, slot: int, request: Request) -> None:
        request = self.over(request)
        if isinstance(request, Job):
            config, file = Config.of(request.config), Path(request.checkpoint)
            file.parent.mkdir(parents=True, exist_ok=True)
            inputs = config.input.fit(self.data)
            run = self.build(config, self.data, inputs, self.data.train, CPU)
            self.save(file, run.state())
        super().send(slot, request)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        return [(slot, self.over(event)) for slot, event in super().wait(timeout)]


def cost(trials: int, sampler: str, pruner: str, count: int) -> tuple[dict[str, float], float]:
    """Milliseconds by part, and by the clock: means over `count` trials, after so many others."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, rng, ledger = Space.load(DIGITS), random.Random(0), Ledger()
    search = space.search.model_copy(
        update={"sampler": Sampler.of(sampler), "pruner": Pruner.of(pruner)}
    )
    space = replace(space, search=search)
    data = space.task.load(None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        manifest = on_disk.Manifest(space.digest, space.task.name, "none", 0, "cpu", {})
        study = on_disk.begin(path, space, manifest, space.task.metric)
        while study.trials and study.trials[-1].state == TrialState.WAITING:
            study.tell(study.ask(), state=TrialState.FAIL)  # what is tried first
        study.add_trials([closed(space, rng) for _ in range(trials - len(study.trials))])
        driver = Driver(
            study,
            space,
            Idle(data, ledger, rng),
            folder=path,
            data=data,
            trials=trials + count + 1,
            seed=0,
        )
        study.ask = ledger.of("ask", study.ask)
        driver._opened = ledger.of("ask", driver._opened)
        driver._tell = ledger.of("tell", driver._tell)
        driver._ended = ledger.of("rank and tidy", driver._ended)
        rows = ledger.of("leaderboard", driver.rows)
        write = ledger.of("leaderboard", on_disk.write_leaderboard)
        driver.start()
        done, written, wrote = 0, time.monotonic(), 0.0
        for event in driver.run():
            if isinstance(event, Closed):
                if wrote < SAVING * (time.monotonic() - written):
                    written = time.monotonic()
                    write(path, rows(), space.task.metric)
                    wrote, written = time.monotonic() - written, time.monotonic()
                ledger.turn()
                if not done:  # the model has seen all at once, and libraries were loaded
                    ledger.seconds.clear()
                    began = time.perf_counter()
                done += 1
    parts = {part: 1000 * seconds / count for part, seconds in ledger.seconds.items()}
    return parts, 1000 * (time.perf_counter() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", default="1000,10000")
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--pruner", default="none")
    parser.add_argument("--count", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    gc.set_threshold(*SELDOM)  # as the command does
    for trials in map(int, given.trials.split(",")):
        parts, clock = cost(trials, given.sampler, given.pruner, given.count)
        told = ", ".join(f"{part} {ms:.1f}" for part, ms in sorted(parts.items()))
        whole = f"{sum(parts.values()):.0f} ms a trial ({clock:.0f} by the clock)"
        print(f"{trials:,} trials, {given.sampler}, {given.pruner}: {whole}: {told}")


if __name__ == "__main__":
    main()
