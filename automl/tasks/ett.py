"""Electricity transformer temperatures: the benchmark of long forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from automl.errors import DataError
from automl.inputs.series import Columns, table
from automl.tasks.series import SeriesTask
from automl.tasks.source import Parts, Published, Reader, Source, fetch, files

URL = (
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/"
    "1d16c8f4f943005d613b5bc962e9eeb06058cf07/ETT-small/"
)
SHA256 = {
    "ETTh1": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "ETTh2": "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
}
NAMES = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
ROWS = 17_420
MONTHS = (12 * 30 * 24, 4 * 30 * 24, 4 * 30 * 24)  # hours; what comes behind is not used


class Ett(Published, SeriesTask):
    """Six loads and the oil temperature of a transformer, hour by hour (Zhou et al. 2021).

    12 months to train, 4 to validate, 4 to test.
    """

    name: Literal["ett"] = "ett"
    origin: ClassVar[str] = "ETT-small (Zhou et al. 2021); CC BY-ND 4.0"

    station: Literal["ETTh1", "ETTh2"] = Field("ETTh1", description="which transformer")

    def shape(self, root: Path | None) -> tuple[Columns, tuple[str, ...]]:
        return Columns(NAMES, self.horizon, MONTHS[0]), ()

    def places(self) -> Mapping[str, Reader]:
        return {"ett-hourly.tar.xz": self._read, f"{self.station}.csv": self._read}

    def download(self, folder: Path) -> None:
        for name, sha256 in SHA256.items():
            fetch(f"{URL}{name}.csv", sha256, folder / "ett" / f"{name}.csv")

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return replace(found, identity=[found.identity, self.station, self.horizon])

    def _read(self, place: Path) -> Parts:
        found = files(place, rf"(.*/)?{self.station}\.csv", largest=10**7, most=1)
        for path, raw in found.items():
            values = table(place / path, NAMES, raw.decode("ascii", "replace"))[1]
            if len(values) != ROWS:
                raise DataError(f"{place}: {path}: got {len(values):,} rows; want {ROWS:,}")
            return self.cut(place, NAMES, values, MONTHS)
        raise DataError(f"{place}: holds no {self.station}.csv")
