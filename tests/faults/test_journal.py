"""The journal is cut, torn, planted and refused, and the study goes on or says what is wrong."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_driver import Table, opened
from test_training import Planted
from toy import SPACE, exact

from automl.errors import StudyError
from automl.results import leaderboard
from automl.searching import study
from automl.searching.study import Journal, Study, alone, mend, room


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a whole search of three trials."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    list(opened(folder, Table(), 3).run())
    return folder / "journal.log"


def torn(journal: Path, at: int, folder: Path, tail: bytes = b"") -> None:
    """A study whose journal ends there."""
    folder.mkdir()
    shutil.copy(journal.parent / "manifest.json", folder)
    (folder / "journal.log").write_bytes(journal.read_bytes()[:at] + tail)


def ends(journal: Path) -> Iterator[int]:
    """Where each record ends."""
    at = 0
    for line in journal.read_bytes().splitlines(keepends=True):
        yield (at := at + len(line))


def test_a_journal_cut_between_any_two_records_goes_on_to_exactly_all_trials(
    journal: Path, tmp_path: Path
) -> None:
    for end in [0, *ends(journal)]:
        folder = tmp_path / str(end) / "s"
        folder.parent.mkdir()
        torn(journal, end, folder)
        list(opened(folder, Table(), 3).run())
        exact(folder, 3)


@pytest.mark.parametrize("tail", [b"", b"\n", b"\0\0\0\0"], ids=["", "newline", "zeros"])
def test_a_journal_torn_inside_any_record_goes_on_to_exactly_all_trials(
    tail: bytes, journal: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    for begin_, end in itertools.pairwise([0, *ends(journal)]):
        folder = tmp_path / str(end) / "s"
        folder.parent.mkdir()
        torn(journal, draw.randrange(begin_ + 1, end - 1), folder, tail)
        damaged = (folder / "journal.log").read_bytes()
        list(opened(folder, Table(), 3).run())
        exact(folder, 3)
        assert (folder / "journal.torn").read_bytes() == damaged, "a copy stays"


def test_mending_leaves_a_whole_journal_alone(journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "journal.log"
    shutil.copy(journal, file)
    mend(file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == journal.read_bytes()


def test_a_lock_that_a_dead_driver_left_does_not_hold_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    list(opened(folder, Table(), 1).run())
    (folder / "journal.log.lock").touch()
    list(opened(folder, Table(), 2).run())
    exact(folder, 2)


# A disk, a quota or a network drive may fail at any call.


def failing(at: int, error: int, torn: bool) -> Callable[..., None]:
    """`append_logs` that fails at its k-th call, with or without half of a record written."""
    append, calls = Journal.append_logs, itertools.count(1)

    def failed(self: Journal, logs: list[dict[str, Any]]) -> None:
        if next(calls) == at:
            if torn:
                with open(self.file, "ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:20])
            raise OSError(error, "made up")
        append(self, logs)

    return failed


@pytest.mark.parametrize("half", [False, True], ids=["nothing written", "half a record"])
def test_whichever_write_to_the_storage_fails_the_same_command_goes_on(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in itertools.count(1):
        folder = tmp_path / str(at) / "s"
        folder.parent.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append_logs", failing(at, errno.EIO, half))
            try:
                list(opened(folder, Table(slots=2), 2).run())
            except OSError:
                pass
            else:
                break  # fewer calls than that
        list(opened(folder, Table(slots=2), 2).run())
        exact(folder, 2)
    assert at > 25


@pytest.mark.parametrize(("seconds", "times"), [(math.inf, 1), (0.0, None)])
def test_the_journal_is_forced_to_the_disk_now_and_then(
    seconds: float, times: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[int] = []
    monkeypatch.setattr(study, "FORCED", seconds)
    monkeypatch.setattr(study.os, "fsync", lambda file: forced.append(os.fstat(file).st_ino))
    list(opened(tmp_path / "s", Table(), 2).run())
    journal = tmp_path / "s" / "journal.log"
    records = len(journal.read_bytes().splitlines())
    assert forced.count(journal.stat().st_ino) == (times or records)
    theirs = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    assert len(theirs.trials) == 2


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_that_says_what_to_do(error: int, tmp_path: Path) -> None:
    told = r"s: the disk is full \(.*\); make room, and the same command goes on"
    with pytest.raises(StudyError, match=told), room(tmp_path / "s"):
        raise OSError(error, "no room")


def test_another_failure_of_the_disk_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), room(tmp_path / "s"):
        raise OSError(errno.EIO, "broken")


# Journals from strangers.


def told_of(folder: Path) -> str:
    """What looking at a study says: all rows, or why not, in one line."""
    told = ""
    try:
        return leaderboard.counted(Study.open("s", folder.parent).leaderboard)
    except StudyError as error:
        told = str(error)
    assert told.isprintable()
    assert str(folder) in told
    return told


@pytest.fixture(scope="module")
def stranger(journal: Path) -> Path:
    """A study folder in which only the journal is to be changed."""
    assert told_of(journal.parent) == "3 trials: 3 finished"
    return journal.parent


def changed(stranger: Path, folder: Path, content: bytes) -> Path:
    shutil.copytree(stranger, folder / "s")
    (folder / "s" / "journal.log").write_bytes(content)
    return folder / "s"


def line(**record: Any) -> bytes:
    return json.dumps({"worker_id": "w", **record}).encode() + b"\n"


def attribute(name: str, value: Any) -> Callable[[bytes], bytes]:
    record = line(op_code=8, trial_id=0, user_attr={name: value})
    return lambda raw: raw.replace(b'{"op_code":6', record.strip() + b'\n{"op_code":6', 1)


SCORE = re.compile(rb'("intermediate_value":)[\d.]+')
HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda raw: b"",
    "two studies": lambda raw: line(op_code=0, study_name="t", directions=[1]) + raw,
    "a broken line within": lambda raw: raw[:200] + b"\0" * 9 + raw[209:],
    "an operation that is none": lambda raw: raw + line(op_code=99),
    "a list": lambda raw: raw + b"[1, 2]\n",
    "a number": lambda raw: raw + b"17\n",
    "too deep": lambda raw: raw + b"[" * 100_000 + b"\n" + line(op_code=10),
    "no study": lambda raw: raw.partition(b"\n")[2],
    "a date that is none": lambda raw: raw.replace(b'"datetime_start":"', b'"datetime_start":"9'),
    "a distribution that is none": lambda raw: raw.replace(b"IntDistribution", b"os.system"),
    "a score that is a text": lambda raw: SCORE.sub(rb'\1"<b>"', raw, count=1),
    "a score that is no number": lambda raw: SCORE.sub(rb"\1NaN", raw, count=1),
    "seconds that are a text": attribute("seconds", "many"),
    "seconds without end": attribute("seconds", float("inf")),
    "a curve of texts": attribute("curve", ["a"]),
    "parameters that are a mapping": attribute("params", {"a": 1}),
    "a reason that is a list": attribute("reason", ["x"]),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_journal_that_is_not_ours_is_one_line_that_names_it(
    case: str, stranger: Path, tmp_path: Path
) -> None:
    raw = (stranger / "journal.log").read_bytes()
    assert HOSTILE[case](raw) != raw
    folder = changed(stranger, tmp_path, HOSTILE[case](raw))
    assert "journal.log: damaged, or not written by automl" in told_of(folder)


def test_a_pickle_for_a_journal_is_not_opened(stranger: Path, tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    planted = pickle.dumps(Planted(bait))
    for content in (planted, planted + b"\n", (stranger / "journal.log").read_bytes() + planted):
        folder = changed(stranger, tmp_path / str(len(content)), content)
        told_of(folder)
        with contextlib.suppress(StudyError):  # it may be mended, for a copy is kept
            opened(folder, Table(), 4)
    assert not bait.exists()


def test_a_pickle_in_a_journal_is_not_opened_by_a_sampler(tmp_path: Path) -> None:
    """Optuna's keeps its state so."""
    text = SPACE.replace("random", "cmaes")
    list(opened(tmp_path / "s", Table(), 3, text=text).run())
    file, bait = tmp_path / "s" / "journal.log", tmp_path / "bait"
    attributes = {"cma:optimizer:0": pickle.dumps(Planted(bait)).hex()}
    planted = line(op_code=9, trial_id=0, system_attr=attributes)
    lines = file.read_bytes().splitlines(keepends=True)
    first = next(n for n, one in enumerate(lines) if json.loads(one)["op_code"] == 6)
    file.write_bytes(b"".join([*lines[:first], planted, *lines[first:]]))
    list(opened(tmp_path / "s", Table(), 6, text=text).run())
    exact(tmp_path / "s", 6)
    assert not bait.exists()


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_journal_with_any_change_is_read_or_refused(
    stranger: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = (stranger / "journal.log").read_bytes()
    at = data.draw(st.integers(0, len(raw)))
    gone = data.draw(st.integers(0, 40))
    put = data.draw(st.binary(max_size=20) | st.sampled_from(PIECES))
    told_of(changed(stranger, tmp_path_factory.mktemp("any"), raw[:at] + put + raw[at + gone :]))


PIECES = [b"null", b"-1", b"1e999", b"NaN", b"{}", b"[]", b'"', b"\n", b"true", b"9" * 400, b"0,"]


@pytest.mark.parametrize("where", ["trials", "best", "leaderboard.md.new", "journal.log"])
def test_a_link_in_a_study_is_not_followed(where: str, stranger: Path, tmp_path: Path) -> None:
    folder = changed(stranger, tmp_path, (stranger / "journal.log").read_bytes())
    target = tmp_path / "target"
    target.mkdir()
    if (folder / where).is_dir():
        shutil.rmtree(folder / where)
    (folder / where).unlink(missing_ok=True)
    (folder / where).symlink_to(target)
    with pytest.raises(StudyError, match=f"{where}: is a link; want plain files"), alone(folder):
        pass
    with pytest.raises(StudyError, match=f"{where}: is a link; want plain files"):
        Study.open("s", tmp_path)
    assert not list(target.iterdir())
