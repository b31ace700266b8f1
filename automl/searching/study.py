"""A study on disk: who may write it, what it was begun with, and what is in it.

studies/NAME/space.yaml       the space as searched
             manifest.json    versions, seed, data fingerprint, device, space digest
             journal.log      every trial; opens in optuna-dashboard and with optuna.load_study
             leaderboard.md   and .csv
             report.html      all of it as one page
             artifacts/       pictures of the best trials, for optuna-dashboard
             best/            the best model, see automl.load
             front/           of a search for two goals each model that may be the one to take
             ensemble/        several models together, where that is more exact
             finals/          checkpoints of the trainings from fresh seeds
             trials/          checkpoints of the trials under way and of the best few
             workers.log      what the parts printed
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from automl.config import Task
from automl.data import Data, Metric
from automl.errors import StudyError
from automl.results import artifact, leaderboard
from automl.results.artifact import Artifact
from automl.results.leaderboard import Row
from automl.space import Space

RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(10))}


@dataclass(frozen=True)
class Manifest:
    """What a study was begun with. The first four may not change while it goes on."""

    space: str  # digest
    task: str  # name
    data: str  # fingerprint
    seed: int
    device: str
    versions: dict[str, str]

    def compare(self, begun: Manifest, name: str) -> None:
        told = {
            "space": "another space",
            "task": "another task",
            "data": "other data",
            "seed": "another seed",
        }
        for key, what in told.items():
            was, now = getattr(begun, key), getattr(self, key)
            if was != now:
                raise StudyError(
                    f"{name}: begun with {what} ({key} {was}, now {now}); "
                    "use another --name, or delete the study"
                )


def versions() -> dict[str, str]:
    names = ("automl", "optuna", "torch", "torchvision", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def folder(studies: Path, name: str) -> Path:
    """The folder of a study. Raises StudyError for names that are no plain file names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) or name.lower() in RESERVED:
        raise StudyError(f"study {name!r}: want letters, digits, '.', '_', '-', at most 64 of them")
    return studies / name


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the study: one driver at a time. Raises StudyError with the holder's process number."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{path}: cannot be made: {error.strerror}") from error
    lock = filelock.FileLock(path / ".lock")
    owner = path / ".owner"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        pid = owner.read_text() if owner.exists() else "unknown"
        raise StudyError(f"{path}: another search holds this study (process {pid})") from None
    try:
        owner.write_text(str(os.getpid()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def mend(journal: Path) -> None:
    """Cut a last line that a crash left torn; a copy of the file as it was stays beside it.

    Only for the holder of the study: Optuna cannot read a journal that goes on after a torn line.
    """
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)  # its holder is dead
    if not journal.exists():
        return
    raw = journal.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    while whole:  # an entry that was torn and then ended by a newline
        start = whole.rfind(b"\n", 0, -1) + 1
        try:
            json.loads(whole[start:])
            break
        except ValueError:
            whole = whole[:start]
    if whole != raw:
        shutil.copyfile(journal, journal.with_name("journal.torn"))
        fresh = journal.with_name("journal.new")
        fresh.write_bytes(whole)
        os.replace(fresh, journal)


def storage(journal: Path) -> JournalStorage:
    path = str(journal.resolve())  # Optuna's lock follows the working directory otherwise
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def begin(
    path: Path,
    space: Space,
    manifest: Manifest,
    metric: Metric,
    elsewhere: Sequence[tuple[dict[str, Any], str]] = (),
) -> optuna.Study:
    """Create the study, or go on with it if it was begun with the same. The caller holds it.

    Tried first is what the space says, then what did well `elsewhere`: values, and where.
    """
    file = path / "manifest.json"
    if file.exists():
        manifest.compare(read_manifest(path), path.name)
    mend(path / "journal.log")
    directions = [StudyDirection.MAXIMIZE if metric.higher_is_better else StudyDirection.MINIMIZE]
    directions += [StudyDirection.MINIMIZE] if space.search.cost else []
    study = optuna.create_study(
        study_name=path.name,
        storage=storage(path / "journal.log"),
        directions=directions,
        load_if_exists=True,
    )
    if not file.exists():
        names = [metric.name, *([space.search.cost] if space.search.cost else [])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # since Optuna 3.2
            study.set_metric_names(names)  # as the dashboard shall call them
        for values in space.beginnings():
            study.enqueue_trial(values, skip_if_exists=True)
        for values, where in elsewhere:
            study.enqueue_trial(values, {"from": where}, skip_if_exists=True)
        (path / "space.yaml").write_text(space.text, encoding="utf-8")
        write(file, json.dumps(asdict(manifest), indent=2) + "\n")
    return study


def read_manifest(path: Path) -> Manifest:
    try:
        return Manifest(**json.loads((path / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(f"{path / 'manifest.json'}: cannot be read: {error}") from error


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def write_leaderboard(path: Path, rows: list[Row], metric: Metric) -> None:
    write(path / "leaderboard.md", leaderboard.markdown(rows, metric))
    write(path / "leaderboard.csv", leaderboard.table(rows))


@dataclass(frozen=True)
class Study:
    """A study to look at, whether it is still searched or not."""

    path: Path

    @classmethod
    def open(cls, name: str, studies: Path | str = "studies") -> Study:
        """Raises StudyError where there is none of that name."""
        path = folder(Path(studies), name)
        if not (path / "manifest.json").is_file():
            known = sorted(file.parent.name for file in Path(studies).glob("*/manifest.json"))
            told = f"Known: {', '.join(known)}." if known else "There is none yet."
            raise StudyError(f"{studies}: no study is called {name!r}. {told}")
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def best(self) -> Artifact:
        """The best model so far. Raises StudyError while there is none."""
        if not (self.path / "best").is_dir():
            raise StudyError(f"{self.path}: no trial has been scored yet")
        return artifact.load(self.path / "best")

    def report(self, data: Data | None = None, absent: str = "") -> Path:
        """Write report.html, the study as one page, and say where. Raises AutomlError.

        `data` is that of its task, for examples to show; without it the page says why it is
        `absent`.
        """
        from automl.results import report

        space = Space.load(self.path / "space.yaml")
        begun = read_manifest(self.path)
        if data is not None and data.fingerprint != begun.data:
            data, absent = None, "the data is not what was searched with"
        trials = self.optuna.get_trials(deepcopy=False)
        told = report.Facts(self.path, space, asdict(begun), trials, data, absent)
        file = self.path / "report.html"
        write(file, report.page(told))
        return file

    @property
    def task(self) -> Task:
        return Space.load(self.path / "space.yaml").task

    @property
    def optuna(self) -> optuna.Study:
        """As Optuna sees it."""
        found = storage(self.path / "journal.log")
        (begun_as,) = optuna.get_all_study_names(found)  # its folder may have been renamed
        return optuna.load_study(study_name=begun_as, storage=found)

    @property
    def leaderboard(self) -> list[Row]:
        space = Space.load(self.path / "space.yaml")
        study = self.optuna
        finalists = study.user_attrs.get("finalists", [])
        trials = study.get_trials(deepcopy=False)
        return leaderboard.rows(trials, space.task.metric, space.search.cost, finalists)


def asked(study: optuna.Study) -> int:
    """Trials that are or were under way: what `--trials` counts."""
    return len([t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING])


def load_best(name: str, *, studies: Path | str = "studies") -> Artifact:
    """The best model of a study, ready to predict. Raises AutomlError."""
    return Study.open(name, studies).best
