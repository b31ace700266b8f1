"""Tables of strangers, row by row: CSV and TSV files, and what their cells hold. Knows no tasks."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from automl.config import nearest
from automl.errors import DataError

Encoding = Literal["utf-8", "cp1252", "latin-1"]
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LARGEST = 2**29  # bytes of a file
CELL = 2**24  # characters of a cell
COLUMNS = 10_000
CLOSE = 0.01  # share of a column's deviation that rounding may take
BAD = 0.01  # share of the rows of a file that may be of no use
MISSING = {"", "-", "?", "na", "n/a", "<na>", "nan", "nat", "none", "null"}  # in small letters


def content(path: Path, encoding: str | None = None, *, fixed: bool = False) -> str:
    """The text of a file, by its byte order mark where it has one, else UTF-8 unless it is told.

    `fixed`: nobody can tell another one. Raises DataError.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: larger than {LARGEST:,} bytes")
        raw = path.read_bytes()
        marked = (encoded for mark, encoded in MARKS.items() if raw.startswith(mark))
        told = raw.decode(next(marked, encoding or "utf-8"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        got = f"got the byte 0x{error.object[error.start]:02x}; want {error.encoding} text"
        got += ", or set encoding" if encoding and not fixed else ""
        raise DataError(f"{path}: line {line:,}: {got}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not told.strip():
        raise DataError(f"{path}: got no rows")
    return told


def header(path: Path, text: str, wanted: Collection[str] = ()) -> tuple[str, list[str]]:
    """The mark between cells, and the cells of the first row without the space around them.

    Of two marks the one that cuts out the wanted columns, else the one that cuts the second row
    into as many cells, a comma last, which numbers and names may have inside; else the one that
    cuts more. Raises DataError.
    """
    found, fits, faults = dict[str, list[str]](), dict[str, int](), list[csv.Error]()
    for rank, mark in enumerate(_marks(path), 1):
        reader = _reader(text, mark)
        try:
            found[mark] = [cell.strip() for cell in next(filter(None, reader), [])]
        except csv.Error as error:  # of quoted cells all but one mark make nothing
            faults.append(error)
            continue
        with contextlib.suppress(csv.Error, StopIteration):  # `rows` says what is wrong
            fits[mark] = rank * (1 < len(found[mark]) == len(next(filter(None, reader))))
    if not found:
        raise DataError(f"{path}: line 1: {faults[0]}") from faults[0]

    def likely(mark: str) -> tuple[bool, int, int]:
        cells = found[mark]
        return not {*wanted}.isdisjoint(cells), fits.get(mark, 0), len(cells)

    mark = max(found, key=likely)
    if len(found[mark]) > COLUMNS:
        raise DataError(f"{path}: got {len(found[mark]):,} columns; want at most {COLUMNS:,}")
    return mark, found[mark]


def rows(path: Path, text: str, mark: str, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """Line and cells of each row, the first one too; or what is wrong with it. Raises DataError.

    An empty line is no row, unless it lies between rows of one cell.
    """
    reader = _reader(text, mark)
    empty: list[int] | None = None  # lines since the last row
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):  # it took all rows to the end for one cell
                told = "got a quote that nothing closes"
                raise DataError(f"{path}: line {line:,}: {told}") from error
            # a stray quote takes whole rows into its cell: all of these count as bad
            yield from ((lost, str(error)) for lost in range(line, reader.line_num + 1))
            continue
        if not row:
            if empty is not None:
                empty.append(line)
            continue
        yield from ((lost, [""]) for lost in empty or () if width == 1)
        empty = []
        if len(row) != width:
            told = f"got {len(row)} cells, want {width}"
            yield from ((lost, told) for lost in range(line, reader.line_num + 1))
            continue
        yield line, row


def useful(
    path: Path, bad: Sequence[tuple[int, str]], good: int, warn: Callable[..., None] | None
) -> None:
    """Raises DataError where more than one row in a hundred is of no use, or none is left.

    `bad` are their lines, and what is wrong with each; `warn` is told where there are few.
    """
    if not bad and not good:
        raise DataError(f"{path}: got no rows")
    if not bad:
        return
    lines = ", ".join(f"{line:,}" for line, _ in bad[:5]) + (", ..." if len(bad) > 5 else "")
    told = f"{path}: {len(bad):,} of {len(bad) + good:,} rows are of no use: "
    told += f"line{'s' * (len(bad) > 1)} {lines} (line {bad[0][0]:,}: {bad[0][1]})"
    if len(bad) > BAD * (len(bad) + good):
        raise DataError(f"{told}; want at most {BAD:.0%}")
    if warn:
        warn("%s; going on without them", told)


def _marks(path: Path) -> str:
    suffix = path.suffix.lower()
    return "\t" if suffix == ".tsv" else ",;" if suffix == ".csv" else ",;\t"


def _reader(text: str, mark: str) -> Any:  # csv has no name for it
    csv.field_size_limit(CELL)
    return csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)


def nameless(cells: Sequence[str], mark: str = ",") -> bool:
    """Whether a first row is of numbers and dates alone, and so none of names."""
    numbers = [number(cell, mark) for cell in cells]
    if any(one is None and not date(cell) for cell, one in zip(cells, numbers, strict=True)):
        return False
    return any(math.isfinite(one) for one in numbers if one is not None)


def number(cell: str, mark: str) -> float | None:
    """NaN where nothing is known; None where it is no finite number."""
    if cell.lower() in MISSING:
        return math.nan
    if mark == ";" and "." not in cell:
        cell = cell.replace(",", ".")
    try:
        told = float(cell)
    except ValueError:
        return None
    return told if math.isfinite(told) else None


def rounded(values: NDArray[np.float64]) -> str:
    """What to say where float32 does not hold how numbers differ, as 1e9, 1e9 + 1, ...; or none."""
    known = values[~np.isnan(values) & (np.abs(values) < np.finfo(np.float32).max)]
    deviation = known.std() if len(known) else 0.0
    lost = (known - known.astype(np.float32)).std() / deviation if deviation else 0.0
    if lost <= CLOSE:
        return ""
    return f"float32 rounds away {lost:.0%} of what its numbers differ by; take off what all have"


def date(cell: str) -> datetime | None:
    for form in (cell, f"{cell}-01"):  # a month counts, too
        with contextlib.suppress(ValueError):  # no date of this form, and perhaps none at all
            return datetime.fromisoformat(form)
    return None


def single(values: NDArray[Any], where: str) -> Tensor:
    """float32, of numbers that it can hold. Raises DataError."""
    with np.errstate(over="ignore"):
        told = torch.from_numpy(values.astype(np.float32))
    if told.isinf().any():
        raise DataError(f"{where}: got a number beyond {torch.finfo(torch.float32).max:.2g}")
    return told


def frame(where: str, data: Any) -> dict[Any, Any]:
    """The columns of a data frame by name, and before them the times that its rows are called by.

    Raises DataError where two have one name.
    """
    for name, count in Counter(data.columns).items():
        if count > 1:
            raise DataError(f"{where}: {count:,} columns are called {str(name)[:60]!r}; want one")
    columns = {name: data[name] for name in data.columns}
    times: Any = getattr(data, "index", None)
    if hasattr(times, "to_timestamp"):  # periods: the beginning of each
        times = times.to_timestamp()
    if times is not None and len(times) and all(hasattr(time, "isoformat") for time in times):
        columns = {getattr(times, "name", None) or "date": times} | columns
    return columns


def no_column(where: str, wanted: str, columns: Collection[str], hint: str = "") -> DataError:
    told = f"no column is called {wanted[:60]!r}{nearest(wanted, columns)}"
    return DataError(f"{where}: {told}{hint}")
