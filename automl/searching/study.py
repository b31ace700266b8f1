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
             workers.log      what the parts printed, the last of it
             bug.yaml         the config that showed the last bug of a part
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import stat
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError

from automl.config import Task, first_problem, shown
from automl.data import Data, Metric
from automl.errors import DataError, SpaceError, StudyError, is_full
from automl.results import artifact, leaderboard
from automl.results.artifact import Artifact, put
from automl.results.leaderboard import Row
from automl.space import Space

DAMAGED = (  # what Optuna raises on a journal that it did not write
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
FORCED = 1.0  # seconds from one time that the journal is forced to the disk to the next
OURS = {"journal.log", "manifest.json", "space.yaml", "report.html", "leaderboard.md",
        "leaderboard.csv", "workers.log"}  # fmt: skip
FORMAT = 3  # raise it when a study that was begun cannot go on with what is new
FULL = "the disk is full ({}); make room, and the same command goes on"
RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(10))}


class Noted(BaseModel):
    """What is read of the attributes of a trial; any others are passed over."""

    model_config = ConfigDict(strict=True)

    params: int | None = None
    macs: int | None = None
    latency_ms: FiniteFloat | None = None
    latency_64_ms: FiniteFloat | None = None
    memory_mb: FiniteFloat | None = None
    train_seconds: FiniteFloat | None = None
    seconds: FiniteFloat = 0.0
    paused: int | None = None
    whole: bool = False
    curve: list[FiniteFloat] = []
    reason: str = ""
    detail: str = ""
    summary: str = ""


Scores, Steps = TypeAdapter(list[FiniteFloat]), TypeAdapter(list[int])


@dataclass(frozen=True)
class Manifest:
    """What a study was begun with. The first four may not change while it goes on."""

    space: str  # digest
    task: str  # name
    data: str  # fingerprint
    seed: int
    device: str
    versions: dict[str, str]
    start_from: str = ""  # another study or a portfolio, if one was named
    format: int = 1  # of what trainings of a study have in common

    def compare(self, begun: Manifest, path: Path, space: Space) -> None:
        """Raises StudyError where the study in that folder cannot go on with this space."""
        name = path.name
        told = {
            "space": "another space",
            "task": "another task",
            "data": "other data",
            "seed": "another seed",
        }
        for key, what in told.items():
            was, now = getattr(begun, key), getattr(self, key)
            if was != now:
                how = f"{key} {was}, now {now}" if key != "space" else _changed(space, path)
                raise StudyError(
                    f"{name}: begun with {what} ({how}); use another --name, or delete the study"
                )
        if self.format != begun.format:
            raise StudyError(f"{name}: begun by another version of automl; use another --name")
        was, now = (Path(one.start_from).name for one in (begun, self))
        if now not in ("", was):  # too late
            began = f"begun with --from {was}" if was else "begun without --from"
            raise StudyError(f"{name}: {began}; got --from {now}; use another --name")


def _changed(space: Space, path: Path) -> str:
    """Where a space is not the one that a study was begun with."""
    file = path / "space.yaml"
    try:
        return f"{space.unlike(Space.load(file))} is not as in {file}"
    except SpaceError:
        return f"see {file}"


def versions() -> dict[str, str]:
    names = ("automl", "optuna", "torch", "torchvision", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def folder(studies: Path, name: str) -> Path:
    """The folder of a study. Raises StudyError for names that are no plain file names."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) and not name.endswith(".")
    if not plain or name.lower().partition(".")[0] in RESERVED:  # Windows has con.txt for con
        want = "want letters, digits, '.', '_', '-', at most 64 of them"
        raise StudyError(f"study {shown(name)}: {want}, and no name that Windows keeps for itself")
    return studies / name


def below(path: Path) -> Iterator[Path]:
    """Files and folders below a folder; some may go while this looks."""
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in (*folders, *files))


def only_plain(path: Path) -> None:
    """Raises StudyError where a study has what is neither a file nor a folder in its place.

    To write to a link is to write elsewhere, and who reads a pipe waits without end.
    """
    for entry in below(path):
        with suppress(FileNotFoundError):
            mode = entry.lstat().st_mode
            plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
            if not plain or (entry.parent == path and entry.name in OURS and stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "no plain file"
                raise StudyError(f"{entry}: is {what}; want plain files and folders in a study")


def taken(path: Path) -> int:
    """Bytes of the files below a folder. One that goes while this looks counts as gone."""
    total = 0
    for file in below(path):
        with suppress(FileNotFoundError):
            total += 0 if file.is_dir() else file.stat().st_size
    return total


@contextmanager
def room(path: Path) -> Iterator[None]:
    """A full disk is no bug: StudyError says so, and what to do."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StudyError(f"{path}: {FULL.format(error.strerror)}") from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the study: one driver at a time. Raises StudyError with the holder's process number."""
    only_plain(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{path}: cannot be made: {error.strerror}") from error
    lock = filelock.FileLock(path / ".lock")
    owner = path / ".owner"
    try:
        lock.acquire(timeout=0)
        owner.write_text(str(os.getpid()))
    except filelock.Timeout:
        pid = (owner.exists() and owner.read_text()) or "not told yet"
        raise StudyError(f"{path}: another search holds this study (process {pid})") from None
    except OSError as error:
        lock.release()
        if is_full(error):
            raise
        raise StudyError(f"{path}: cannot be written: {error.strerror}") from error
    try:
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
        with fresh.open("wb") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, journal)


class Journal(JournalFileBackend):
    """Optuna's, forced to the disk once a second: some thirty records a trial take ms each.

    Who dies has written all the same. A power cut takes the last second, which is trained again.
    """

    def __init__(self, file: str) -> None:
        self.file, self.lock = file, JournalFileOpenLock(file)
        super().__init__(file, self.lock)
        self.forced = -math.inf

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self.lock.acquire()
        try:
            with open(self.file, "ab") as file:
                file.write(lines.encode())
                file.flush()
                if time.monotonic() - self.forced >= FORCED:
                    os.fsync(file.fileno())
                    self.forced = time.monotonic()
        finally:
            self.lock.release()


def storage(journal: Path) -> JournalStorage:
    """All of a journal, read. Raises StudyError for one that is damaged."""
    path = str(journal.resolve())  # Optuna's lock follows the working directory otherwise
    try:
        return JournalStorage(Journal(path))
    except DAMAGED as error:
        raise _damaged(journal, f"{type(error).__name__}: {error}") from error


def _damaged(journal: Path, what: str) -> StudyError:
    told = shown(" ".join(what.split()))
    return StudyError(f"{journal}: damaged, or not written by automl ({told})")


def checked(study: optuna.Study, journal: Path) -> optuna.Study:
    """The study, if what its trials say of themselves is what ours say. Raises StudyError."""
    for trial in study.get_trials(deepcopy=False):
        try:
            Noted.model_validate(trial.user_attrs)
            Scores.validate_python([*trial.intermediate_values.values(), *(trial.values or [])])
            Steps.validate_python(list(trial.intermediate_values))
            ranges = (
                name
                for name, knob in trial.distributions.items()
                if not isinstance(knob, CategoricalDistribution)
            )
            Scores.validate_python([trial.params[name] for name in ranges])
        except ValidationError as error:
            raise _damaged(journal, f"trial {trial.number}: {first_problem(error)}") from error
    return study


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
        manifest.compare(read_manifest(path), path, space)
    journal = path / "journal.log"
    mend(journal)
    directions = [StudyDirection.MAXIMIZE if metric.higher_is_better else StudyDirection.MINIMIZE]
    directions += [StudyDirection.MINIMIZE] if space.search.cost else []
    kept = storage(journal)
    known = _only(kept, journal)
    if known is None and (path / "best").exists():  # that model would be replaced
        raise _damaged(journal, "got 0 studies; want one")
    study = optuna.create_study(
        study_name=known or path.name,
        storage=kept,
        directions=directions,
        load_if_exists=True,
    )
    checked(study, journal)
    if study.user_attrs.get("space", manifest.space) != manifest.space:
        raise _damaged(journal, "it is of another space")
    if not file.exists():
        study.set_user_attr("space", manifest.space)
        names = [metric.name, *([space.search.cost] if space.search.cost else [])]
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(names)  # as the dashboard shall call them
        for values in space.beginnings():
            study.enqueue_trial(values, {"from": "the space"}, skip_if_exists=True)
        for values, where in elsewhere:
            study.enqueue_trial(values, {"from": where}, skip_if_exists=True)
        (path / "space.yaml").write_text(space.text, encoding="utf-8")
        put(file, json.dumps(asdict(manifest), indent=2) + "\n")
    return study


def read_manifest(path: Path) -> Manifest:
    try:
        return Manifest(**json.loads((path / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StudyError(f"{path / 'manifest.json'}: cannot be read: {error}") from error


def write_leaderboard(path: Path, rows: list[Row], metric: Metric) -> None:
    told = f"{leaderboard.markdown(rows, metric)}\n{leaderboard.counted(rows)}\n"
    put(path / "leaderboard.md", told)
    put(path / "leaderboard.csv", leaderboard.as_csv(rows))


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
        only_plain(path)
        return cls(path)

    @property
    def megabytes(self) -> float:
        """What it takes on disk."""
        return taken(self.path) / 1e6

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def best(self) -> Artifact:
        """The best model so far. Raises StudyError while there is none."""
        return self.model()

    def model(self, device: str = "cpu") -> Artifact:
        """The best model so far, there. Raises StudyError while there is none."""
        if not (self.path / "best").is_dir():
            ended = any(row.state == "finished" for row in self.leaderboard)
            why = "the same search writes it again" if ended else "no trial has come to its end yet"
            raise StudyError(f"{self.path / 'best'}: there is no model: {why}")
        return artifact.load(self.path / "best", device=device)

    def report(self, data: Data | None = None, absent: str = "") -> Path:
        """Write report.html, the study as one page, and say where. Raises AutomlError.

        `data` is that of its task, for examples to show; without it the page says why it is
        `absent`.
        """
        from automl.results import report

        begun = self.manifest
        if data is not None and data.fingerprint != begun.data:
            data, absent = None, "the data is not what was searched with"
        trials = self.optuna.get_trials(deepcopy=False)
        told = report.Facts(self.path, self.space, asdict(begun), trials, data, absent)
        file, page = self.path / "report.html", report.page(told)
        try:
            put(file, page)
        except OSError as error:
            raise StudyError(f"{file}: cannot be written: {error.strerror}") from error
        return file

    @property
    def space(self) -> Space:
        """As searched."""
        return Space.load(self.path / "space.yaml")

    @property
    def task(self) -> Task:
        return self.space.task

    @property
    def manifest(self) -> Manifest:
        """What it was begun with."""
        return read_manifest(self.path)

    def data(self, root: Path | None) -> Data:
        """What it was searched with, read again. Raises DataError where that is not the same."""
        task = self.task
        data = task.load(root)
        if data.fingerprint != self.manifest.data:
            raise DataError(f"{task.name}: is not the data that {self.name} was begun with")
        return data

    @property
    def optuna(self) -> optuna.Study:
        """As Optuna sees it."""
        journal = self.path / "journal.log"
        if not journal.is_file():  # who reads it would make it
            raise StudyError(f"{journal}: is missing")
        found = storage(journal)
        name = _only(found, journal)
        if name is None:
            raise _damaged(journal, "got 0 studies; want one")
        return checked(optuna.load_study(study_name=name, storage=found), journal)

    @property
    def leaderboard(self) -> list[Row]:
        space, study = self.space, self.optuna
        finalists = study.user_attrs.get("finalists", [])
        trials = study.get_trials(deepcopy=False)
        return leaderboard.rows(trials, space.task.metric, space.search.cost, finalists)


def _only(kept: JournalStorage, journal: Path) -> str | None:
    """The name of the study in it, whose folder may have been renamed. Raises StudyError."""
    names = optuna.get_all_study_names(kept)
    if len(names) > 1:
        raise _damaged(journal, f"got {len(names)} studies; want one")
    return names[0] if names else None


def asked(study: optuna.Study) -> int:
    """Trials that are or were under way: what `--trials` counts."""
    return len([t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING])


def load_best(name: str, *, studies: Path | str = "studies") -> Artifact:
    """The best model of a study, ready to predict. Raises AutomlError."""
    return Study.open(name, studies).best
