"""What Python holds in memory, to a file that tasks read. Knows no studies."""

from __future__ import annotations

import csv
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from automl import cache, tables
from automl.config import nearest
from automl.errors import DataError
from automl.inputs.images import array_of
from automl.tasks.arrays import KNOWN

NOTHING = ("nan", "nat", "<na>", "none")  # as values that are missing write themselves


def kept(data: Any) -> Path:
    """The file, in the cache and named by what it holds, so that the same data is the same file.

    Arrays by name of which any has three dimensions are images and their classes, for the task
    `arrays`; other columns by name, or a data frame, are a table, for the tasks that read CSV. A
    frame whose rows are called by times has these for its first column. Raises DataError.
    """
    if hasattr(data, "columns"):  # as pandas and polars have
        columns = tables.frame("data", data)
    elif isinstance(data, Mapping):
        columns = dict(data)
    else:
        told = f"data: got {type(data).__name__}"
        raise DataError(f"{told}; want a path, arrays or columns by name, or a data frame")
    if any(_dimensions(column) > 2 for column in columns.values()):
        return _kept(".npz", *_arrays(columns))
    text = _table(columns).encode("utf-8", "replace")
    return _kept(".csv", text, lambda path: path.write_bytes(text))


def _kept(suffix: str, content: bytes, write: Callable[[Path], object]) -> Path:
    path = cache.folder() / "given" / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            fresh = Path(unfinished, path.name)
            write(fresh)
            fresh.replace(path)
    return path


def _dimensions(column: Any) -> int:
    """Of an array, or of what NumPy would make one of; 1 of a list of texts or numbers."""
    known = getattr(column, "ndim", None)
    if known is not None:
        return int(known)
    first = next(iter(column), "") if isinstance(column, Iterable) else column
    return 1 + (0 if isinstance(first, str) else np.ndim(array_of(first)))


def _arrays(columns: Mapping[str, Any]) -> tuple[bytes, Callable[[Path], object]]:
    plain, told = dict[str, Any](), list[str]()
    for name, raw in columns.items():
        if name not in KNOWN:
            raise DataError(f"data: got an array {name!r}{nearest(str(name), KNOWN)}")
        try:
            array = array_of(raw)
        except ValueError as error:
            raise DataError(f"data: {name}: {error}; want one array") from error
        if array.dtype.hasobject and all(isinstance(one, str) for one in array.flat):
            array = array.astype(str)
        if array.dtype.hasobject:
            raise DataError(f"data: {name}: holds Python objects; want numbers or texts")
        plain[name] = array
        sha = hashlib.sha256(array.tobytes()).hexdigest()
        told.append(f"{name} {array.shape} {array.dtype.str} {sha}")
    return "\n".join(told).encode(), lambda path: np.savez(path, **plain)


def _table(columns: Mapping[str, Any]) -> str:
    """As CSV; what is missing is an empty cell."""
    cells = {name: _cells(str(name), column) for name, column in columns.items()}
    lengths = {name: len(column) for name, column in cells.items()}
    if len({*lengths.values()}) != 1:
        told = ", ".join(f"{count:,} of {name!r}" for name, count in lengths.items()) or "nothing"
        raise DataError(f"data: got {told}; want columns with as many rows each")
    if tables.nameless([*map(str, cells)]):  # 0, 1, ... would be taken for the first row
        cells = {"rows": [""] * max(lengths.values())} | cells  # of no number: it is passed over
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(cells)
    writer.writerows(zip(*cells.values(), strict=True))
    return file.getvalue()


def _cells(name: str, column: Any) -> list[str]:
    if not isinstance(column, Iterable) or isinstance(column, str) or _dimensions(column) != 1:
        got = f"got {type(column).__name__}"
        raise DataError(f"data: {name}: {got}; want a column, or images (N, H, W)")
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        column = np.datetime_as_string(column)  # `tolist` makes whole numbers of nanoseconds
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    for value in values:
        if isinstance(value, Iterable) and not isinstance(value, str):
            raise DataError(f"data: {name}: got a {type(value).__name__} in a column; want values")
    return [
        value if isinstance(value, str) else "" if str(value).lower() in NOTHING else str(value)
        for value in values
    ]
