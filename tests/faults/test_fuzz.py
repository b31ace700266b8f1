"""What fuzzing found, and files to begin with: each is read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import CORPUS, TARGETS, read

FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of old records
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_was_found_once_is_read_or_refused(file: Path, tmp_path: Path) -> None:
    read(file.parent.name, file.read_bytes(), tmp_path)


def test_every_reader_has_files_to_begin_with() -> None:
    assert {file.parent.name for file in FILES} == set(TARGETS)
