"""Film reviews, good or bad."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch

from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import Texts, pack
from automl.tasks.source import Parts, Published, Reader, files
from automl.tasks.texts import TextTask

Review = tuple[str, int, str]  # text, 0 or 1, film
URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
MD5 = "7c2ac02c03563afcf9b574c7e56c153a"


class Imdb(Published, TextTask):
    """50,000 reviews (Maas et al. 2011), at most 30 of a film; validation takes whole films.

    The rating that comes with a review gives the answer away and is not read.
    """

    name: Literal["imdb"] = "imdb"
    labels: ClassVar[tuple[str, ...]] = ("negative", "positive")
    counts: ClassVar[Mapping[str, int]] = {"train": 25_000, "test": 25_000}

    def shape(self, root: Path | None) -> tuple[Texts, tuple[str, ...]]:
        return Texts(), self.labels

    def places(self) -> Mapping[str, Reader]:
        original = dict.fromkeys(("aclImdb_v1.tar.gz", "aclImdb"), self.original)
        return {"imdb.tar.xz": self.tables, **original}

    def download(self, folder: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(URL, str(folder), md5=MD5)

    def tables(self, place: Path) -> Parts:
        """`train.csv` and `test.csv` with the columns id, label, movie and text."""
        found = files(place, r"(imdb/)?(train|test)\.csv", largest=2**27, most=2)
        csv.field_size_limit(2**24)
        parts = {}
        for name, raw in found.items():
            rows = csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""))
            if missing := {"label", "movie", "text"} - set(rows.fieldnames or ()):
                raise DataError(f"{place}: {name} has no column {sorted(missing)[0]!r}")
            reviews = [(row["text"], int(row["label"] == "pos"), row["movie"]) for row in rows]
            parts[Path(name).stem] = self.split(place, Path(name).stem, reviews)
        return self.whole(place, parts)

    def original(self, place: Path) -> Parts:
        """`train/pos/0_9.txt` and so on; line i of `train/urls_pos.txt` is review i's film."""
        place = place if place.is_file() else place / "aclImdb"
        wanted = r"(aclImdb/)?(train|test)/(urls_(pos|neg)\.txt|(pos|neg)/\d+_\d+\.txt)"
        found = files(place, wanted, largest=2**24, most=50_004)
        found = {name.removeprefix("aclImdb/"): raw for name, raw in found.items()}

        def reviews(part: str) -> Iterator[Review]:
            for label, end in enumerate(("neg", "pos")):
                films = found.get(f"{part}/urls_{end}.txt", b"").decode().splitlines()
                for name, raw in found.items():
                    if match := re.fullmatch(rf"{part}/{end}/(\d+)_\d+\.txt", name):
                        number = int(match[1])
                        film = films[number] if number < len(films) else name
                        yield raw.decode("utf-8"), label, film

        return self.whole(place, {p: self.split(place, p, list(reviews(p))) for p in self.counts})

    def split(self, place: Path, part: str, reviews: list[Review]) -> Split:
        self.count(place, part, len(reviews))
        films = {
            film: number for number, film in enumerate(dict.fromkeys(f for _, _, f in reviews))
        }
        return Split(
            pack(re.sub(r"(<br />)+", "\n", text) for text, _, _ in reviews),
            torch.tensor([label for _, label, _ in reviews]),
            torch.tensor([films[film] for _, _, film in reviews]),
        )

    def whole(self, place: Path, parts: Parts) -> Parts:
        if set(parts) != set(self.counts):
            raise DataError(f"{place}: got {', '.join(parts) or 'nothing'}; want train and test")
        return parts
