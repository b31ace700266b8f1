"""Series: tables and arrays to rows in time, and these to the past that a model reads."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from automl import tables
from automl.amounts import plural
from automl.config import Input
from automl.data import Data, Inputs, Raw, Series, Spans, Split
from automl.errors import DataError

log = logging.getLogger("automl")

LONGEST = 16_384  # rows of the past, and of what is told of it
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Columns(Raw):
    """A series of columns, of which the next rows are to be told."""

    names: tuple[str, ...]
    horizon: int
    rows: int  # to train with

    @property
    def summary(self) -> str:
        return (
            f"series of {plural(len(self.names), 'column')}, the next {self.horizon:,} rows to tell"
        )


@dataclass(frozen=True)
class Lookback(Inputs):
    """The last rows of a series, each column on the scale that it has in training."""

    names: tuple[str, ...]
    mean: tuple[Finite, ...]  # per column, of the training split
    std: tuple[Annotated[Finite, Field(gt=0)], ...]
    length: Annotated[int, Field(ge=1, le=LONGEST)]  # rows that are read
    horizon: Annotated[int, Field(ge=1, le=LONGEST)]  # rows that are told

    @property
    def summary(self) -> str:
        columns = plural(len(self.names), "column")
        return f"{self.length:,} rows of {columns}, the next {self.horizon:,} to tell"

    def encode(self, split: Split) -> Split:
        """Every stretch of rows. Gaps are filled with what was known last, targets stay unknown."""
        series = split.x
        assert isinstance(series, Series)
        targets = (series.values.double() - self._scale[0]) / self._scale[1]
        first = max(series.first, self.length)
        spans = Spans(self.filled(series.values), targets.float(), first, self.length, self.horizon)
        return Split(spans, split.y)

    def prepare(self, x: Tensor) -> Tensor:
        """float32 (N, length, C) in; out too, of mean 0 and deviation 1 over the training split."""
        mean, std = self._scale.float().to(x.device, non_blocking=True).unbind()
        return (x - mean) / std

    @property
    def outputs(self) -> int:
        return len(self.names)

    def answers(self, count: int, outputs: int) -> tuple[int, ...]:
        return count, self.horizon, outputs

    def told(self, logits: Tensor) -> Tensor:
        """(N, horizon, C) as the training split has it."""
        mean, std = self._scale.float().to(logits.device).unbind()
        return logits * std + mean

    def untold(self, told: Tensor) -> Tensor:
        return self.prepare(told)

    def filled(self, values: Tensor) -> Tensor:
        """(..., T, C) with what was known last where nothing is known; before that, the mean."""
        known = ~values.isnan()
        rows = torch.arange(values.shape[-2], device=values.device).unsqueeze(1)
        last = torch.where(known, rows, -1).cummax(-2).values
        mean = self._scale[0].float().expand_as(values)
        return torch.where(last < 0, mean, values.gather(-2, last.clamp_min(0)))

    @property
    def _scale(self) -> Tensor:
        """float64 (2, C): mean and deviation."""
        return torch.tensor([self.mean, self.std], dtype=torch.double)

    def read(self, raw: Any) -> Split:
        """The rows up to now, of which the last `length` are read: float32 (N, length, C).

        Takes the path of a table with these columns, a data frame with them, an array (T, C), of
        one column (T,) too, or a batch (N, T, C). NaN is a gap. Raises DataError.
        """
        if isinstance(raw, str | Path):
            told = table(Path(raw), self.names)[1].unsqueeze(0)
        else:
            told = self._array(raw)
        if told.shape[1] < self.length:
            got = f"got {told.shape[1]:,} rows"
            raise DataError(f"series: {got}; want the last {self.length:,}, or more")
        if told.isnan().all(1).any():
            column = self.names[int(told.isnan().all(1).any(0).nonzero()[0])]
            raise DataError(f"series: got nothing but gaps in column {column[:60]!r}")
        x = self.filled(told)[:, -self.length :].contiguous()
        return Split(x, torch.zeros(len(x), dtype=torch.long))

    def _array(self, raw: Any) -> Tensor:
        """float32 (N, T, C)"""
        got = type(raw).__name__
        if hasattr(raw, "columns") and hasattr(raw, "to_numpy"):  # as pandas and polars have
            called = {str(column): column for column in raw.columns}  # in pandas by numbers, too
            for name in self.names:
                if name not in called:
                    raise tables.no_column("series", name, [*called])
            raw = np.asarray(raw[[called[name] for name in self.names]].to_numpy())
            if raw.dtype.hasobject:  # numbers as texts, and what is missing, whatever its name
                missing = [
                    [str(one).strip().lower() in tables.MISSING for one in row] for row in raw
                ]
                raw = np.where(np.array(missing).reshape(raw.shape), math.nan, raw)
        if isinstance(raw, Tensor):
            raw = raw.detach().cpu().float().numpy()  # NumPy knows no bfloat16
        try:
            given: NDArray[Any] = np.ma.asarray(raw, dtype=np.float64).filled(math.nan)
        except (TypeError, ValueError) as error:
            told = f"got {got} that is no array of numbers"
            raise DataError(f"series: {told}; want {self._wanted}") from error
        if given.ndim == 1 and len(self.names) == 1:
            given = given[:, None]
        if given.ndim == 2:
            given = given[None]
        if given.ndim != 3 or given.shape[2] != len(self.names) or not len(given):
            got = f"got an array of shape {given.shape}"
            raise DataError(f"series: {got}; want {self._wanted}")
        return tables.single(given, "series")

    @property
    def _wanted(self) -> str:
        return f"(rows, {plural(len(self.names), 'column')})"

    def example(self, count: int) -> Tensor:
        return torch.zeros(count, self.length, len(self.names))

    def recipe(self) -> dict[str, Any]:
        return {
            "dtype": "float32",
            "shape": ["N", self.length, len(self.names)],
            "how": f"the last {self.length} rows, oldest first, of the columns named here; a gap "
            "holds what was known last in its column, the mean where nothing was",
            "columns": self.names,
            "mean": self.mean,
            "std": self.std,
            "out": f"float32 (N, {self.horizon}, {len(self.names)}): the next rows, the first one "
            "first, in the same columns and units",
        }

    @property
    def floats(self) -> int:
        return 4 * max(self.length, self.horizon) * len(self.names)


class Window(Input):
    """The last rows of a series, all columns on one scale.

    At most as many as leave half of the training rows to learn from.
    """

    name: Literal["window"] = "window"
    turns: ClassVar[dict[str, str]] = {"series": "series"}
    fitted: ClassVar[type[Inputs]] = Lookback

    length: int = Field(
        336, ge=1, le=LONGEST, description="rows of the past that are read; half of few rows"
    )

    def fit(self, data: Data) -> Lookback:
        raw, series = data.inputs, data.train.x
        assert isinstance(raw, Columns)
        assert isinstance(series, Series)
        values = series.values[series.first :].double()
        mean = values.nanmean(0)
        std = (values - mean).square().nanmean(0).sqrt()
        std = torch.where(std > 1e-9 * mean.abs().clamp_min(1e-30), std, 1.0)  # constant: as it is
        return replace(self.expect(raw), mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def expect(self, raw: Raw) -> Lookback:
        assert isinstance(raw, Columns)
        count, most = len(raw.names), max(1, (raw.rows - raw.horizon) // 2)
        scale = (0.0,) * count, (1.0,) * count
        return Lookback(raw.names, *scale, min(self.length, most), raw.horizon)

    def restore(self, facts: str, read: Any) -> Lookback:
        told = super().restore(facts, read)
        assert isinstance(told, Lookback)
        count = len(told.names)
        if not 0 < count == len(told.mean) == len(told.std) or told.length > self.length:
            got = f"{count} names, {len(told.mean)} means, {len(told.std)} deviations"
            raise DataError(f"window: got {got}, {told.length} rows; want {self.length} at most")
        return told


def table(
    path: Path, wanted: Sequence[str] = (), text: str | None = None
) -> tuple[tuple[str, ...], Tensor]:
    """The columns of a table that hold numbers, or those that are wanted, and float32 (T, C).

    Cells are cut by comma, semicolon or tab; behind a semicolon a comma may be the decimal point.
    Columns are called 1, 2, ... where the first row is of numbers and dates alone. Cells without a
    value are NaN, and so is an empty line between others if there is one column. A column of ISO
    dates is no number; its rows must come in order of time. `text` is what the file holds, where
    that was read before. Raises DataError.
    """
    text = text or tables.content(path)
    mark, header = tables.header(path, text, wanted)
    lines, rows = list[int](), list[list[str]]()
    for line, row in tables.rows(path, text, mark, len(header)):
        if isinstance(row, str):  # a row left out would move all rows behind it in time
            raise DataError(f"{path}: line {line:,}: {row}")
        lines.append(line)
        rows.append([cell.strip() for cell in row])
    if tables.nameless(header, mark):
        header = [str(number) for number in range(1, len(header) + 1)]
    else:
        lines, rows = lines[1:], rows[1:]
    if not rows:
        raise DataError(f"{path}: got no rows")
    for name in wanted:
        if name not in header:
            raise tables.no_column(str(path), name, header)
        if wanted.count(name) > 1:
            raise DataError(f"{path}: the column {name[:60]!r} is wanted twice; want it once")
    names, columns = list[str](), list[NDArray[np.float64]]()
    times, dated = Counter(header), False
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        kind = next((cell for cell in cells if cell.lower() not in tables.MISSING), "")
        numbers = kind and tables.number(kind, mark) is not None
        if not dated and not numbers and tables.date(kind):
            dated = True
            _in_order(path, lines, cells)
        if wanted and name not in wanted:
            continue
        if not wanted and not numbers:
            if kind and not tables.date(kind):
                log.warning("%s: passing over the column %r: it holds no numbers", path, name[:60])
            continue
        if times[name] > 1:  # where one of them holds no numbers, too: that may change
            raise DataError(f"{path}: two columns are called {name[:60]!r}; want one")
        found = [tables.number(cell, mark) for cell in cells]
        for line, cell, number in zip(lines, cells, found, strict=True):
            if number is None:
                told = f"column {name[:60]!r}: got {cell[:60]!r}; want a number, or nothing"
                raise DataError(f"{path}: line {line:,}: {told}")
        names.append(name)
        columns.append(np.array(found))
        if told := tables.rounded(columns[-1]):
            log.warning("%s: column %r: %s", path, name[:60], told)
    if not names:
        raise DataError(f"{path}: got no column of numbers; want one at least")
    values = tables.single(np.stack(columns, 1), str(path))
    if not wanted:
        return tuple(names), values
    return tuple(wanted), values[:, [names.index(name) for name in wanted]]


def _in_order(path: Path, lines: Sequence[int], cells: Sequence[str]) -> None:
    """Raises DataError where a date is not behind the one before it."""
    dates = [tables.date(cell) for cell in cells]
    if len({date.tzinfo is None for date in dates if date}) > 1:
        return  # these cannot be compared
    for (before, after), line in zip(pairwise(dates), lines[1:], strict=True):
        if before and after and after <= before:
            told = f"got {after} behind {before}; want rows in order of time, each time once"
            raise DataError(f"{path}: line {line:,}: {told}")
