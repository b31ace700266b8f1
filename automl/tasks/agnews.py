"""News items by topic."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch

from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import pack
from automl.tasks.source import Parts, Reader, fetch, files, stratified
from automl.tasks.texts import PublishedTexts

URL = (
    "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/"
    "555590db4219b1243abb1918effd6a7425a2d75f/data/ag_news_csv/"
)
SHA256 = {
    "train.csv": "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e",
    "test.csv": "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
}
# the & before an entity is gone: nothing or a space stands in its place
ENTITY = re.compile(r"(?:[ &]|\b|^)(#\d{1,5}|amp|quot|lt|gt|nbsp);")


class AgNews(PublishedTexts):
    """127,600 items (Zhang et al. 2015) in 4 equal classes; 7,600 are the test split.

    Where only `test.csv` is found, it is a small set of its own: 1,600 of its items are the test
    split, drawn with seed 0, and the other 6,000 the training split.
    """

    name: Literal["agnews"] = "agnews"
    origin: ClassVar[str] = "AG's News (Zhang et al. 2015); for research, not for commerce"
    labels: ClassVar[tuple[str, ...]] = ("World", "Sports", "Business", "Sci/Tech")
    counts: ClassVar[Mapping[str, int]] = {"train": 120_000, "test": 7_600}
    folders: ClassVar[Sequence[str]] = ("agnews-test",)

    def places(self) -> Mapping[str, Reader]:
        return {"train.csv": self.whole, "test.csv": self.small}

    def download(self, folder: Path) -> None:
        for name, sha256 in SHA256.items():
            fetch(URL + name, sha256, folder / "agnews" / name)

    def whole(self, place: Path) -> Parts:
        found = files(place, r"(train|test)\.csv", largest=2**26, most=2)
        if len(found) < 2:
            raise DataError(f"{place}: got train.csv alone; want test.csv, too")
        return {part: self.read(place, part, found[f"{part}.csv"]) for part in self.counts}

    def small(self, place: Path) -> Parts:
        found = files(place, r"test\.csv", largest=2**26, most=1)
        given = self.read(place, "test", found["test.csv"])
        train, test = stratified(given, 4 / 19, 0, self.labels)  # 1,600 of 7,600
        return {"train": train, "test": test}

    def read(self, place: Path, part: str, raw: bytes) -> Split:
        """Rows of class from 1 to 4, title, description; no header."""
        csv.field_size_limit(2**24)
        path = place / f"{part}.csv"
        texts, y = [], []
        try:
            rows = csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True)
            for row in rows:
                if len(row) != 3 or row[0] not in ("1", "2", "3", "4"):
                    got = ",".join(row)[:60]
                    told = f"got {got!r}; want a class from 1 to 4, title, description"
                    raise DataError(f"{path}: line {rows.line_num}: {told}")
                texts.append(f"{clean(row[1])}\n{clean(row[2])}")
                y.append(int(row[0]) - 1)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read to its end: {error}") from error
        self.count(place, part, len(texts))
        return Split(pack(texts), torch.tensor(y))


def clean(text: str) -> str:
    """Without what the way through several formats left: `\\` for a line's end, ` #36;` for $."""
    return html.unescape(ENTITY.sub(r"&\1;", text)).replace("\\", "\n").strip()
