"""Searches with toy workers: processes that are killed, hang and print, and start at once.

As a program it searches while it kills: `python toy.py FOLDER TRIALS SLOTS WORKER_EVERY
DRIVER_EVERY SEED`, seconds in the mean from one `kill -9` of a worker, or of the driver, to the
next. The time of a driver begins with its workers', but one in five dies as it begins. Drivers are
forked, so that nothing is imported again. It prints how often it killed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import ClassVar

import optuna
import torch
from optuna.trial import TrialState
from toy_worker import score

from automl.data import Data, Metric, Split
from automl.engines import Engine, Setup
from automl.engines.local import Local
from automl.inputs.images import Images
from automl.searching.driver import Closed, Driver
from automl.searching.study import Manifest, alone, begin, storage, write_leaderboard
from automl.space import Space, measure

ACCURACY, EPOCHS = Metric("accuracy"), 3
SPACE = """
task: digits
search: {sampler: random, pruner: none}
model: {name: mlp, widths: [{int: [1, 64]}]}
optimizer: {name: adamw, lr: {float: [1e-3, 1e-1], log: true}}
train: {epochs: 3}
"""
NOTHING = Split(torch.zeros(0, 1), torch.zeros(0))
DIGITS = Data(NOTHING, NOTHING, Images((1, 8, 8)), list("0123456789"), "fingerprint")


class Toy(Local):
    """The engine as it is, with workers of `toy_worker.py`."""

    worker: ClassVar[tuple[str, ...]] = (str(Path(__file__).with_name("toy_worker.py")),)

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(Setup({}, None, "", 1, []), ["cpu"] * slots, folder / "workers.log")


def opened(folder: Path, engine: Engine, trials: int, text: str = SPACE, seed: int = 0) -> Driver:
    """A driver on a study, begun or gone on with; its workers are not started."""
    space = Space.parse(text)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(space.digest, "digits", "fingerprint", seed, "cpu", {})
    study = begin(folder, space, manifest, ACCURACY)
    return Driver(study, space, engine, folder=folder, data=DIGITS, trials=trials, seed=seed)


def search(folder: Path, trials: int, slots: int, text: str = SPACE) -> Driver:
    """As the command does it, the model apart."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with alone(folder):
        engine = Toy(folder, slots)
        try:
            driver = opened(folder, engine, trials, text)
            driver.start()
            for event in driver.run():
                if isinstance(event, Closed):
                    write_leaderboard(folder, driver.rows(), ACCURACY)
        finally:
            engine.close()
    return driver


def exact(folder: Path, count: int, text: str = SPACE) -> None:
    """`count` finished trials on disk, each with the curve of its own config and no other."""
    study = optuna.load_study(study_name=folder.name, storage=storage(folder / "journal.log"))
    found = study.get_trials(deepcopy=False)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * count
    space = Space.parse(text)
    for trial in found:
        config = space.with_values(trial.params).dump()
        want = {epoch: score(config, epoch) for epoch in range(1, space.epochs + 1)}
        assert trial.intermediate_values == want
        assert trial.value == want[space.epochs]


def begun(folder: Path) -> int:
    """Epochs that workers began, those that were lost again too."""
    return len((folder / "begun.log").read_text().splitlines())


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def storm(
    folder: Path,
    trials: int,
    slots: int,
    worker_every: float,
    driver_every: float,
    seed: int,
    text: str = SPACE,
) -> dict[str, int]:
    """Search to the end under fire; how many workers and drivers it took."""
    draw, killed = random.Random(seed), {"workers": 0, "drivers": 0}

    def after(every: float) -> float:
        return time.monotonic() + draw.expovariate(1 / every) if every else math.inf

    measure(Space.parse(text).with_values({}), DIGITS.inputs, 10)  # imports for all of them
    while True:
        driver = os.fork()
        if not driver:
            status = 1
            try:
                search(folder, trials, slots, text)
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        worker_next, driver_next = after(worker_every), math.inf
        if driver_every and draw.random() < 0.2:
            driver_next = after(0.1)  # as it begins
        while not (ended := os.waitpid(driver, os.WNOHANG))[0]:
            time.sleep(0.005)
            if driver_next == math.inf and driver_every and children(driver):
                driver_next = after(driver_every)
            if time.monotonic() > worker_next and (pids := children(driver)):
                os.kill(draw.choice(pids), signal.SIGKILL)
                killed["workers"] += 1
                worker_next = after(worker_every)
            if time.monotonic() > driver_next:
                os.kill(driver, signal.SIGKILL)
                killed["drivers"] += 1
                driver_next = 1e9
        if ended[1] == 0:
            return killed
        assert os.WIFSIGNALED(ended[1]), "the driver failed by itself"


if __name__ == "__main__":
    where, count, slots, *rest = sys.argv[1:]
    worker_every, driver_every, seed = map(float, rest)
    print(json.dumps(storm(Path(where), int(count), int(slots), worker_every, driver_every,
                           int(seed))))  # fmt: skip
