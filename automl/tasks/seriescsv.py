"""The user's own series, a row for each time."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from automl.inputs.series import Columns, table
from automl.tasks.series import SeriesTask
from automl.tasks.source import Source, elsewhere, one_file, traces


class SeriesCsv(SeriesTask):
    """A CSV or TSV file with a column for each series and a row for each time, oldest first.

    The first rows are to train, the next to validate, the last to test. Empty cells and `NA` are
    gaps. Rows are taken to be evenly spaced; a column of ISO dates is only looked at for their
    order, and of dates in other forms not even that.
    """

    name: Literal["seriescsv"] = "seriescsv"
    path: str = Field(
        "series.csv",
        min_length=1,
        description="relative to --data, which may be the table itself, or to the working folder",
    )
    columns: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field(
        default=[], max_length=1000, description="read and told; none: all that hold numbers"
    )
    valid: float = Field(
        0.1, ge=0.01, le=0.4, description="share of the rows to validate, before those to test"
    )
    sealed: float = Field(0.2, ge=0.01, le=0.4, description="share of the rows to test, the last")

    def shape(self, root: Path | None) -> tuple[Columns, tuple[str, ...]]:
        names, values = self._table(self._file(root))
        return Columns(names, self.horizon, self._counts(len(values))[0]), ()

    def source(self, root: Path | None) -> Source:
        path = self._file(root)
        elsewhere(self.name, root, Path(self.path), path)
        knobs = [self.columns, self.horizon, self.valid, self.sealed]
        names, values = self._table(path)
        counts = self._counts(len(values))
        return Source([traces([path]), knobs], lambda: self.cut(path, names, values, counts))

    def _counts(self, rows: int) -> tuple[int, int, int]:
        """Of so many rows those to train, to validate and to test with."""
        valid, test = (int(rows * share) for share in (self.valid, self.sealed))
        return rows - valid - test, valid, test

    def _table(self, path: Path) -> tuple[tuple[str, ...], Tensor]:
        return _read(path, tuple(self.columns), json.dumps(traces([path])))

    def _file(self, root: Path | None) -> Path:
        return one_file(self.name, self.path, root, "a table, a row for each time")


@functools.lru_cache(maxsize=8)  # asked for often, and it takes reading the whole file
def _read(path: Path, columns: tuple[str, ...], _changed: str) -> tuple[tuple[str, ...], Tensor]:
    return table(path, columns)
