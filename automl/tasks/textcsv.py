"""The user's own texts, a row each: with a label, or with the text that is to be made of it."""

from __future__ import annotations

import functools
import io
import json
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from automl import tables
from automl.config import nearest
from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import Parallel, Texts, pack
from automl.tasks.files import ENCODING, parts, passed_over
from automl.tasks.pairs import PairTask, held_out, packed, sources
from automl.tasks.source import Parts, Source, repeated, traces, with_test
from automl.tasks.texts import TextTask

log = logging.getLogger("automl")

SUFFIXES = (".csv", ".tsv", ".jsonl")
CLASSES = 1000  # a column with more of them is another one
NAMED = (
    "Name the columns in task.text and task.label, those of pairs in task.source_column and "
    "task.target_column."
)

Row = tuple[str, str]  # text and label, or source and target
Found = tuple[int, Row | str]  # line, and what it holds or what is wrong with it


class TextCsv(TextTask):
    """A CSV, TSV or JSON lines file with a column of texts and one of labels.

    Or a folder with `train.csv` and, if you have them, `valid.csv` and `test.csv` (or .tsv, or
    .jsonl). Where there is no file to validate, a share of the training rows takes its place. Where
    there is none to test, 15 % of each class, drawn once with seed 0 whatever `split_seed` says,
    are the test split.
    """

    name: Literal["textcsv"] = "textcsv"
    path: str = Field(
        ".",
        min_length=1,
        description="file, or folder with train.csv; relative to --data or to the working folder",
    )
    text: str = Field("text", min_length=1, description="the column of texts")
    label: str = Field("label", min_length=1, description="the column of labels")
    encoding: tables.Encoding = Field("utf-8", description=ENCODING)

    def shape(self, root: Path | None) -> tuple[Texts, tuple[str, ...]]:
        path = parts(self.name, self.path, root, SUFFIXES)["train"]
        return Texts(), _labels(path, *self._columns, json.dumps(traces([path])))

    def source(self, root: Path | None) -> Source:
        found = parts(self.name, self.path, root, SUFFIXES)
        passed_over(self.name, self.path, root, found, SUFFIXES)
        _, labels = self.shape(root)
        numbers = {label: number for number, label in enumerate(labels)}

        def decode() -> Parts:
            splits = {}
            for part, path in found.items():
                rows = _rows(path, *self._columns, warn=log.warning)
                if odd := sorted({label for _, label in rows} - numbers.keys()):
                    told = f"got the label {odd[0][:60]!r}, which is not in {found['train'].name}"
                    raise DataError(f"{path}: {told}{nearest(odd[0], labels)}")
                y = torch.tensor([numbers[label] for _, label in rows])
                splits[part] = Split(pack(text for text, _ in rows), y)
            return with_test(found["train"], splits, labels)

        return Source([*self._columns, traces(found.values())], decode)

    @property
    def _columns(self) -> tuple[str, str, str]:
        return self.text, self.label, self.encoding


class TextPairs(PairTask):
    """A CSV, TSV or JSON lines file with a column of sources and one of targets.

    Or a folder with `train.csv` and, if you have them, `valid.csv` and `test.csv` (or .tsv, or
    .jsonl). Where there is no file to validate or to test, a share of the training rows takes its
    place, drawn once; all rows with the same source are on one side.
    """

    name: Literal["textpairs"] = "textpairs"
    path: str = Field(
        ".",
        min_length=1,
        description="file, or folder with train.csv; relative to --data or to the working folder",
    )
    source_column: str = Field("source", min_length=1, description="the column of sources")
    target_column: str = Field("target", min_length=1, description="the column of targets")
    encoding: tables.Encoding = Field("utf-8", description=ENCODING)
    valid: float = Field(
        0.1, ge=0.01, le=0.4, description="share of the training pairs to validate, without a file"
    )
    sealed: float = Field(
        0.1, ge=0.01, le=0.4, description="share of the training pairs to test, without a file"
    )

    def shape(self, root: Path | None) -> tuple[Parallel, tuple[str, ...]]:
        return Parallel(self.source_column, self.target_column), ()

    def source(self, root: Path | None) -> Source:
        found = parts(self.name, self.path, root, SUFFIXES)
        columns = self.source_column, self.target_column

        def decode() -> Parts:
            splits = {}
            for part, path in found.items():
                splits[part] = packed(_rows(path, *columns, self.encoding, log.warning, _pair))
            for part, share, seed in (("test", self.sealed, 0), ("valid", self.valid, 1)):
                if part not in splits:
                    held = held_out(found["train"], splits["train"], share, seed)
                    splits["train"], splits[part] = held
            repeated(found["train"], splits, "sources", sources)
            return splits

        passed_over(self.name, self.path, root, found, SUFFIXES)
        knobs = [columns, self.encoding, self.valid, self.sealed]
        return Source([knobs, traces(found.values())], decode)


@functools.lru_cache(maxsize=8)  # asked for often, and it takes reading the whole file
def _labels(path: Path, text: str, label: str, encoding: str, _changed: str) -> tuple[str, ...]:
    found = sorted({label for _, label in _rows(path, text, label, encoding)})
    if not 2 <= len(found) <= CLASSES:
        told = f"got {len(found):,} different labels in column {label!r}"
        raise DataError(f"{path}: {told}; want 2 to {CLASSES:,}")
    return tuple(found)


def _rows(
    path: Path,
    text: str,
    label: str,
    encoding: str,
    warn: Callable[..., None] | None = None,
    check: Callable[[str, str], Row | str] | None = None,
) -> list[Row]:
    """All rows but the bad ones; up to one in a hundred may be. Beyond: DataError."""
    read = _json_lines if path.suffix.lower() == ".jsonl" else _table
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    for line, found in read(path, tables.content(path, encoding), text, label):
        if not isinstance(found, str):
            found = (check or _checked)(*found)
        if isinstance(found, str):
            bad.append((line, found))
        else:
            rows.append(found)
    tables.useful(path, bad, len(rows), warn)
    return rows


def _checked(text: str, label: str) -> Row | str:
    label = " ".join(label.encode("utf-8", "replace").decode().split())
    if not text.strip():
        return "empty text"
    if not label:
        return "empty label"
    if "\0" in text or "\0" in label:
        return "a zero byte"
    return text, label


def _pair(source: str, target: str) -> Row | str:
    source, target = (side.encode("utf-8", "replace").decode().strip() for side in (source, target))
    if not source or not target:
        return "empty target" if source else "empty source"
    return "a zero byte" if "\0" in source + target else (source, target)


def _table(path: Path, content: str, text: str, label: str) -> Iterator[Found]:
    mark, columns = tables.header(path, content, [text])
    for wanted in (text, label):
        if wanted not in columns:
            raise _no_column(path, wanted, columns)
        if columns.count(wanted) > 1:
            told = f"got {columns.count(wanted):,} columns that are called {wanted[:60]!r}"
            raise DataError(f"{path}: {told}; want one")
    places = columns.index(text), columns.index(label)
    for line, row in islice(tables.rows(path, content, mark, len(columns)), 1, None):
        yield line, row if isinstance(row, str) else (row[places[0]], row[places[1]])


def _json_lines(path: Path, content: str, text: str, label: str) -> Iterator[Found]:
    columns: set[str] = set()
    for line, written in enumerate(io.StringIO(content, newline="\n"), 1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError):
            yield line, "no JSON"
            continue
        if not isinstance(row, dict):
            yield line, "no JSON object"
            continue
        if len(columns) < 100:
            columns |= row.keys()
        said, kind = row.get(text), row.get(label)
        if isinstance(kind, bool):
            kind = "true" if kind else "false"
        if not isinstance(said, str) or len(said) > tables.CELL:
            yield line, f"{text!r} is no text" if text in row else f"no {text!r}"
        elif not isinstance(kind, str | int):
            yield line, f"{label!r} is no text or whole number" if label in row else f"no {label!r}"
        else:
            yield line, (said, str(kind))
    for wanted in (text, label):
        if columns and wanted not in columns:
            raise _no_column(path, wanted, columns)


def _no_column(path: Path, wanted: str, columns: list[str] | set[str]) -> DataError:
    told = f"no column is called {wanted[:60]!r}{nearest(wanted, columns)}"
    return DataError(f"{path}: {told} {NAMED}")
