"""A whole search, from a checked space to the best model tested and saved."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from automl import amounts
from automl.config import load_plugin
from automl.data import Data, Split
from automl.engines import Setup
from automl.engines.local import Local, devices
from automl.errors import AutomlError, DataError, OptionError, SpaceError
from automl.given import kept
from automl.places import root
from automl.results import artifact
from automl.results.delivery import Delivery, Joined, Training, latencies, sealed
from automl.results.leaderboard import Row
from automl.searching import portfolio
from automl.searching import study as on_disk
from automl.searching.dashboard import PICTURED, illustrate
from automl.searching.driver import Closed, Driver, Paused, Trained
from automl.searching.finals import SHARE, USUAL, Decision, Finals, Rerun, Retrained, decide
from automl.searching.study import Manifest, Study
from automl.space import Space, find, prove
from automl.training import precision
from automl.training.cost import Memory
from automl.training.rounds import refuse_records

log = logging.getLogger("automl")

SAVING = 1 / 30  # largest share of the time that may go into leaderboards; the last is written
EARLY = 2.0  # seconds that an early worker is waited for, before all else goes on
FINISH = 15.0  # seconds kept for the last steps: load again 5, time six models 6, the page 3


@dataclass(frozen=True)
class Opened:
    """The search is about to begin: all that is known before the first trial."""

    study: Study
    device: str
    workers: int
    data: Data
    baseline: tuple[str, float]
    chance: tuple[str, float]
    knobs: int
    configs: int | None  # that the space has, if fewer than the trials asked for
    params: tuple[int, int]  # fewest and most, over the probes of the space, up to its limit
    done: int  # trials closed by earlier runs of the same command
    trials: int
    resumed: int  # trials that earlier runs left under way
    first: tuple[int, int]  # configs tried first: of the space itself, and from elsewhere
    cost: str | None = None  # the second goal


@dataclass(frozen=True)
class Finished:
    """The search is over."""

    study: Study
    metrics: dict[str, Any] | None  # as metrics.json holds them; None: there is no model
    report: Path | None  # None: it could not be written, which was logged
    seconds: float


Told = Opened | Trained | Paused | Closed | Retrained | Finished


def run(
    space: Space,
    *,
    name: str,
    studies: Path = Path("studies"),
    trials: int = 100,
    seconds: float | None = None,
    data: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    workers_per_gpu: int | None = None,
    seed: int = 0,
    plugins: Sequence[Path] = (),
    start_from: str | Path | None = None,
    finals: Finals = USUAL,
    disk: int | None = None,
    leave: Callable[[], bool] = lambda: False,
    began: float | None = None,
    early: list[subprocess.Popen[bytes]] | None = None,
) -> Generator[Told]:
    """Search, and tell what happens. `trials` counts all of a study, those of earlier runs too.

    Nothing is written before space, data and options are checked. Raises AutomlError. `began` is
    the start of the time budget by time.monotonic(); now, if it is not given. `start_from` is a
    study, by name or folder, or the file of a portfolio: a new study tries its best configs first.
    `finals` take their time from the end of the budget. The study takes at most `disk` bytes, as
    far as there are checkpoints to delete. When `leave` says so the epochs under way are trained to
    their end and saved, and KeyboardInterrupt is raised. `early` workers, of `launch.early`, are
    taken from their list.
    """
    began = time.monotonic() if began is None else began
    if trials < 1:
        raise OptionError(f"--trials: got {trials}; want at least 1")
    if not 0 <= seed < 2**31:
        raise OptionError(f"--seed: got {seed}; want 0 to {2**31 - 1}")
    if seconds is not None and not FINISH < seconds < math.inf:
        raise OptionError(f"--time: got {seconds:g} s; want more than {FINISH:g} s")
    if disk is not None and disk < 1:
        raise OptionError(f"--disk: got {disk:,} bytes; want at least 1")
    finals.check()
    where = precision.pick(device)
    if space.search.max_memory_mb and not Memory.known(where):
        told = f"max_memory_mb: cannot be measured on {where} of this system"
        raise SpaceError(f"{space.source}: search: {told}")
    slots = devices(where, workers, workers_per_gpu)
    path = on_disk.folder(studies, name)
    task = space.task
    loaded = task.load(data)
    params = prove(space, len(loaded.labels), lambda part: part.fit(loaded), loaded.train)
    for config, _ in space.probes():
        refuse_records(config, where)
    configs = None
    if space.search.sampler.recalls:
        count = space.count(trials)
        configs, trials = count if count < trials else None, count
    slots = slots[:trials]

    manifest = Manifest(
        space=space.digest,
        task=task.name,
        data=loaded.fingerprint,
        seed=seed,
        device=precision.describe(where),
        versions=on_disk.versions(),
        start_from=str(start_from or ""),
        format=on_disk.FORMAT,
    )
    first = []
    if (path / "manifest.json").exists():  # before the folder is touched
        manifest.compare(on_disk.read_manifest(path), path, space)
    else:
        first = portfolio.first(space, loaded, start_from, studies)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    with on_disk.room(path), on_disk.alone(path), contextlib.ExitStack() as stack:
        study = on_disk.begin(path, space, manifest, task.metric, first)
        setup = Setup(
            task=task.model_dump(mode="json"),
            data=str(data.resolve()) if data else None,
            device="",
            threads=threads(where),
            plugins=[str(plugin.resolve()) for plugin in plugins],
            fingerprint=loaded.fingerprint,
        )
        engine = Local(setup, slots, path / "workers.log", early)
        stack.callback(engine.close)
        driver = Driver(
            study,
            space,
            engine,
            folder=path,
            data=loaded,
            trials=trials,
            seed=seed,
            deadline=None if seconds is None else began + seconds - FINISH,
            chance=task.hopeless(loaded),
            after=lambda rows: finals.reserve(rows, len(slots), SHARE * (seconds or math.inf)),
            disk=disk,
            leave=leave,
        )
        crowded = stack.enter_context(contextlib.ExitStack())
        # Beside workers, which have the cores, several threads wait at each step for the one that
        # has none just then: on two cores that six to eight processes wanted a proposal took 13 to
        # 48 s, and with one thread 0.6 to 2.4. Where the cores are free a search takes the same.
        crowded.enter_context(precision.on_threads(1))
        done, resumed = driver.done, len(driver.waiting) + len(driver.paused)
        heard: list[Trained | Paused | Closed] = []
        if not driver.over:
            driver.start()  # workers import and load while the baseline is found
            if early is not None:  # one of them is all but ready, and trains meanwhile
                heard += [*driver.step(EARLY), *driver.step(0.0)]
        baseline = task.baseline(loaded)
        delivery = Delivery(path / "best", name, loaded, baseline)
        found = Study(path)
        yield Opened(
            study=found,
            device=manifest.device,
            workers=len(slots),
            data=loaded,
            baseline=baseline,
            chance=task.chance(loaded),
            knobs=len(space.knobs()),
            configs=configs,
            params=params,
            done=done,
            trials=trials,
            resumed=resumed,
            first=(len(space.beginnings()), len(first)),
            cost=space.search.cost,
        )

        written, wrote = time.monotonic(), 0.0  # when, and seconds that it took
        for event in itertools.chain(heard, driver.run()):
            if isinstance(event, Closed):
                if event.is_best:
                    delivery.write(driver.training(event.row.trial))
                if wrote < SAVING * (time.monotonic() - written):
                    written = time.monotonic()
                    on_disk.write_leaderboard(path, driver.rows(), task.metric)
                    wrote, written = time.monotonic() - written, time.monotonic()
            yield event

        decided = yield from decide(driver, Rerun(engine, loaded, driver), finals)
        if decided:
            study.set_user_attr("finalists", [one.told() for one in decided.finalists])
        engine.close()  # the test needs the device
        crowded.close()

        rows = found.leaderboard
        on_disk.write_leaderboard(path, rows, task.metric)
        front = {f"{row.trial:04d}": driver.training(row.trial) for row in rows if row.front}
        for one in (path / "front").glob("*"):
            if one.name not in front:  # any more, if the search went on
                shutil.rmtree(one, ignore_errors=True)
        for number, made in front.items():
            if made.file.exists():  # else what was written of it before stays
                replace(delivery, folder=path / "front" / number).write(made)
        if decided:
            deliver(delivery, decided, driver, rows, manifest)
        proof = delivery.metrics.get("proof", {}).get("loaded")
        if decided and (proof is None or "latency_ms" not in delivery.metrics):  # known last
            split = sealed(task, data, loaded)
            with loaded_again(found, data, where, plugins) as reader:
                finish(delivery, decided, split, where, reader)
        best = [row.trial for row in rows if row.state == "finished"][:PICTURED]
        page = reported(found, [driver.training(trial) for trial in best], loaded)
        if disk is not None and (size := on_disk.taken(path)) > disk:
            took, most = amounts.told(size / 1e6), amounts.told(disk / 1e6)
            stays = "the model, weights of finalists and what tells of the search are never deleted"
            log.warning("--disk: the study takes %s MB, more than %s: %s", took, most, stays)
        held = delivery.metrics  # of an earlier end, where nothing can be decided any more
        metrics = held if held.get("test") else None
        yield Finished(found, metrics, page, time.monotonic() - began)


def deliver(
    delivery: Delivery, decided: Decision, driver: Driver, rows: list[Row], manifest: Manifest
) -> None:
    """The winner into its folder, unless it lies there, with what the search spent."""
    trial = next(row for row in rows if row.trial == decided.made.trial)
    finalists = [one.told() for one in decided.finalists]
    about = {
        "score": trial.score,
        "epochs": trial.epochs,
        "trials": len(rows),
        "states": dict(Counter(row.state for row in rows)),
        "device_seconds": round(sum(row.seconds for row in rows), 1),
        "foretold_within": driver.costs.error,  # times the seconds of an epoch
        "memory_foretold_within": driver.memory.error,
    }
    if not delivery.holds(decided.made, finalists):
        delivery.write(
            decided.made,
            decided.validated,
            finalists=finalists,
            search=about,
            environment={**manifest.versions, "device": manifest.device},
        )
    elif delivery.metrics.get("search", {}).get("states") != about["states"]:  # it went on
        delivery.note(search=about)


def finish(
    delivery: Delivery,
    decided: Decision,
    split: Split,
    device: torch.device,
    reader: subprocess.Popen[bytes],
) -> None:
    """The one test of what is delivered, while a new process reads it back.

    Models are timed when that process has ended, and nothing else of the search runs.
    """
    delivery.test(split, device)
    joined = delivery.folder.with_name("ensemble")
    shutil.rmtree(joined, ignore_errors=True)
    told: dict[str, Any] = {}
    if decided.members and decided.gain:
        ensemble = Joined(decided.members, decided.gain)
        told["ensemble"] = ensemble.write(replace(delivery, folder=joined), split, device)
    proof = delivery.metrics["proof"] | {"loaded": answer(reader)}
    if told:
        told["ensemble"]["latency_ms"] = latencies(joined, device)
        artifact.note(joined, told["ensemble"])
    delivery.note(**told, proof=proof, latency_ms=latencies(delivery.folder, device))


def reported(study: Study, best: Sequence[Training], data: Data) -> Path | None:
    """Report and pictures; a search that has its model does not fail for want of them."""
    try:
        illustrate(study, best, data)
        return study.report(data)
    except (AutomlError, OSError) as error:
        log.warning("%s: no report: %s", study.name, error)
        return None


def loaded_again(
    study: Study, data: Path | None, device: torch.device, plugins: Sequence[Path]
) -> subprocess.Popen[bytes]:
    """A new process that opens the best model and evaluates it as `automl verify` does."""
    options = ["--studies", str(study.path.parent), "--device", str(device), "--json"]
    options += ["--data", str(data)] if data else []
    options += [word for plugin in plugins for word in ("--plugin", str(plugin))]
    command = [sys.executable, "-P", "-m", "automl.cli", "verify", study.name, *options]
    with (study.path / "workers.log").open("ab") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)


def answer(reader: subprocess.Popen[bytes]) -> float | None:
    """The validation score that it found; None where it found none."""
    lines = reader.communicate()[0].splitlines()  # the last one, behind whatever parts print
    return float(json.loads(lines[-1])["now"]) if lines and reader.returncode == 0 else None


def search(
    space: str | Path | Space,
    *,
    name: str | None = None,
    studies: str | Path = "studies",
    trials: int = 100,
    time: float | str | None = None,
    data: Any = None,
    device: str = "auto",
    workers: int | None = None,
    workers_per_gpu: int | None = None,
    seed: int = 0,
    plugins: str | Path | Sequence[str | Path] = (),
    start_from: str | Path | None = None,
    finalists: int = 3,
    seeds: int = 3,
    refit: bool = False,
    disk: int | str | None = None,
) -> Study:
    """Search a space, given by name, by file or loaded; `automl search` without a screen.

    `data` is a file or folder, or what Python holds: images x and classes y by name, for the task
    `arrays`, or columns by name or a data frame, for the tasks that read a table. `time` is in
    seconds or as the command has it, `1h30m`, and `disk` in bytes or as `5GB`.
    `plugins` are files with parts of your own, for the workers must know them too. `start_from` is
    another study, by name or folder, or the file of a portfolio: a new study tries its best configs
    first. Returns the study: `.best` is the model, `.leaderboard` the trials. The same call again
    goes on with a study that is not finished. The best `finalists` are trained again from so many
    fresh `seeds`; with `refit` what is delivered trains on the validation split, too. The study
    takes no more than `disk`, as far as there are checkpoints to delete. Raises AutomlError.
    """
    numbers = {"trials": trials, "seed": seed, "workers": workers, "finalists": finalists,
               "workers_per_gpu": workers_per_gpu, "seeds": seeds}  # fmt: skip
    for option, told in numbers.items():
        if told is not None and not isinstance(told, int):
            raise OptionError(f"{option}: got {told!r}; want a whole number")
    files = [Path(p) for p in ([plugins] if isinstance(plugins, str | Path) else plugins)]
    for file in files:
        load_plugin(file)
    if not isinstance(space, Space):
        space = Space.load(find(str(space)))
    name = Path(space.source).stem if name is None else name
    if not isinstance(data, str | Path | None):
        if "path" not in type(space.task).model_fields:  # as digits, which would not even look
            got = f"got some for {space.task.name}, which brings its own"
            raise DataError(f"data: {got}; want one of your own, such as arrays or tablecsv")
        data = kept(data)
    for _ in run(
        space,
        name=name,
        studies=Path(studies),
        trials=trials,
        seconds=amounts.seconds(time) if isinstance(time, str) else time,
        data=root(data),
        device=device,
        workers=workers,
        workers_per_gpu=workers_per_gpu,
        seed=seed,
        plugins=files,
        start_from=start_from,
        finals=Finals(finalists, seeds, refit),
        disk=amounts.size(disk) if isinstance(disk, str) else disk,
    ):
        pass
    return Study.open(name, studies)


def threads(device: torch.device) -> int:
    """Of a worker. On a CPU one, so that a training is the same however many workers there are."""
    return 1 if device.type == "cpu" else 4
