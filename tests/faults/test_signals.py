"""Ctrl-C, SIGTERM and limits of the disk, on the command as it is with toy workers."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from optuna.trial import TrialState
from test_driver import Table, opened, trials
from test_engine import TASK, config
from test_search import children, eventually, gone

from automl.engines import Event, Full, Job, Ready, Setup
from automl.engines.local import Local
from automl.errors import StudyError

SPACE = """
task: {name: digits, per_class: 8}
search: {sampler: random, pruner: none, portfolio: 0}
model: {name: mlp, widths: [{int: [1, 64]}]}
optimizer: {name: adamw, lr: {float: [1e-3, 1e-1], log: true}}
train: {epochs: 1000}
"""
# a shell's background jobs start deaf to SIGINT; one that is typed into a terminal does not
PROGRAM = """
import signal
import sys
from pathlib import Path

sys.path[:0] = sys.argv.pop(1).split(":")
signal.signal(signal.SIGINT, signal.default_int_handler)
from automl.searching import run
from toy import Toy

run.Local = lambda setup, slots, log, early: Toy(log.parent, len(slots))
from automl.cli import main

main()
"""
HERE = Path(__file__).parent
SECRET = "postgresql://me:hunter2@db/studies"


class Command:
    """`automl search` of a study whose trials take for ever."""

    def __init__(self, folder: Path, limit: int | None = None, seconds: float = 0.05) -> None:
        (folder / "space.yaml").write_text(SPACE)
        self.folder = folder / "s"
        words = ["search", str(folder / "space.yaml"), "--name", "s", "--studies", str(folder)]
        self.words = [*words, "--trials", "9", "--workers", "2", "--device", "cpu"]

        def bound() -> None:
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, f"{HERE}:{HERE.parent}", *self.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TOY_SECONDS": str(seconds), "DATABASE_URL": SECRET},
            preexec_fn=bound,
        )

    def trained(self) -> list[str]:
        log = self.folder / "trained.log"
        return log.read_text().splitlines() if log.exists() else []

    def reports(self) -> int:
        journal = self.folder / "journal.log"
        return journal.read_bytes().count(b'"intermediate_value"') if journal.exists() else 0


@contextmanager
def under_way(folder: Path, seconds: float = 0.05, reports: int = 4) -> Iterator[Command]:
    """The command once it has told of so many more epochs; killed if the test fails."""
    command = Command(folder, seconds=seconds)
    before = command.reports()
    try:
        eventually(lambda: command.reports() >= before + reports)
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


def ended(command: Command, workers: list[int]) -> str:
    """What it said, without a trace of it left."""
    out, told = command.process.communicate(timeout=300)
    eventually(lambda: all(map(gone, workers)))
    assert command.process.returncode == 130
    assert out == ""
    assert "Traceback" not in told
    assert "hunter2" not in told
    for file in command.folder.rglob("*"):
        assert file.is_dir() or b"hunter2" not in file.read_bytes()
    assert told.strip().splitlines()[-1].strip() == shlex.join(["automl", *command.words])
    return told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_lets_the_epochs_under_way_end_and_the_same_command_goes_on(
    number: int, tmp_path: Path
) -> None:
    with under_way(tmp_path) as command:
        workers = children(command.process.pid)
        command.process.send_signal(number)
        told = ended(command, workers)
        assert "finishing the epochs under way" in told
        assert command.reports() == len(command.trained()), "what was trained is told"
    with under_way(tmp_path) as again:
        again.process.kill()
        again.process.communicate()
        epochs = again.trained()
    assert len(set(epochs)) == len(epochs), "an epoch was trained twice"


def test_two_signals_end_it_now(tmp_path: Path) -> None:
    with under_way(tmp_path, seconds=2.0, reports=1) as command:
        workers, before = children(command.process.pid), len(command.trained())
        command.process.send_signal(signal.SIGINT)
        told = b""
        while b"finishing" not in told:
            more = os.read(stderr(command), 1)  # what comes after it stays to be read
            assert more, told
            told += more
        command.process.send_signal(signal.SIGINT)
        ended(command, workers)
        assert len(command.trained()) <= before + 1, "one may have ended between"


def stderr(command: Command) -> int:
    assert command.process.stderr is not None
    return command.process.stderr.fileno()


def test_a_disk_that_fills_up_ends_the_search_in_one_line_and_it_goes_on_later(
    tmp_path: Path,
) -> None:
    command = Command(tmp_path, limit=20_000)  # bytes of any one file: the journal is the first
    with command.process:
        out, told = command.process.communicate(timeout=300)
    assert command.process.returncode == 2, told
    assert (out, "Traceback" in told) == ("", False)
    want = "the disk is full (File too large); make room, and the same command goes on"
    assert told.strip().splitlines()[-1] == f"automl: {command.folder}: {want}"
    before = command.reports()
    with under_way(tmp_path) as again:
        assert again.reports() > before
        journal = again.folder / "journal.log"
        states = [json.loads(line) for line in journal.read_bytes().splitlines()[:-1]]
    asked = [record for record in states if record["op_code"] == 4]
    assert len(asked) <= 9


class Small(Local):
    """Workers that may write no file above 3,000 bytes."""

    worker: ClassVar[tuple[str, ...]] = (
        "-c",
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
        "runpy.run_module('automl.engines', run_name='__main__')",
    )


def test_a_worker_that_cannot_save_says_so(tmp_path: Path) -> None:
    engine = Small(Setup(TASK, None, "", 1, []), ["cpu"], tmp_path / "log")
    engine.start(0)
    assert eventually(lambda: engine.wait(1.0)) == [(0, Ready())]
    engine.send(0, Job(0, config("mlp"), str(tmp_path / "t" / "c.pt"), 1))
    ((_, told),) = eventually(lambda: engine.wait(1.0))
    engine.close()
    assert isinstance(told, Full)
    assert "File too large" in told.detail


def test_a_search_whose_workers_cannot_save_ends_in_one_line(tmp_path: Path) -> None:
    def full(config: dict[str, Any], epoch: int) -> float | Event:
        return Full("[Errno 28] No space left on device") if epoch == 2 else 0.5

    with pytest.raises(StudyError, match=r"s: the disk is full \(.*\); make room, and the same"):
        list(opened(tmp_path / "s", Table(full), 3).run())
    list(opened(tmp_path / "s", Table(), 3).run())
    assert {trial.state for trial in trials(tmp_path / "s")} == {TrialState.COMPLETE}
