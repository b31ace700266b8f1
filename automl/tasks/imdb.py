"""Film reviews, good or bad, and as a text to go on with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import pack, unpack
from automl.tasks.source import Parts, Published, Reader, Source, files, table, text
from automl.tasks.texts import ProseTask, PublishedTexts, written

Review = tuple[str, int, str]  # text, 0 or 1, film
URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
MD5 = "7c2ac02c03563afcf9b574c7e56c153a"


class Imdb(PublishedTexts):
    """50,000 reviews (Maas et al. 2011), at most 30 of a film; validation takes whole films.

    The rating that comes with a review gives the answer away and is not read.
    """

    name: Literal["imdb"] = "imdb"
    origin: ClassVar[str] = "Large Movie Review Dataset (Maas et al. 2011); no licence stated"
    labels: ClassVar[tuple[str, ...]] = ("negative", "positive")
    counts: ClassVar[Mapping[str, int]] = {"train": 25_000, "test": 25_000}

    def places(self) -> Mapping[str, Reader]:
        original = dict.fromkeys(("aclImdb_v1.tar.gz", "aclImdb"), self.original)
        return {"imdb.tar.xz": self.tables, **original}

    def download(self, folder: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(URL, str(folder), md5=MD5)

    def tables(self, place: Path) -> Parts:
        """`train.csv` and `test.csv` with the columns id, label, movie and text."""
        found = files(place, r"(imdb/)?(train|test)\.csv", largest=2**27, most=2)
        parts = {}
        for name, raw in found.items():
            rows = table(place, name, raw, {"label", "movie", "text"})
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
                urls = f"{part}/urls_{end}.txt"
                films = text(place, urls, found.get(urls, b"")).splitlines()
                for name, raw in found.items():
                    if match := re.fullmatch(rf"{part}/{end}/(\d+)_\d+\.txt", name):
                        number = int(match[1])
                        film = films[number] if number < len(films) else name
                        yield text(place, name, raw), label, film

        return self.whole(place, {p: self.split(place, p, list(reviews(p))) for p in self.counts})

    def split(self, place: Path, part: str, reviews: list[Review]) -> Split:
        self.count(place, part, len(reviews))
        films = {
            film: number for number, film in enumerate(dict.fromkeys(f for _, _, f in reviews))
        }
        return Split(
            pack(re.sub(r"(<br />)+", "\n", review) for review, _, _ in reviews),
            torch.tensor([label for _, label, _ in reviews]),
            torch.tensor([films[film] for _, _, film in reviews]),
        )

    def whole(self, place: Path, parts: Parts) -> Parts:
        if set(parts) != set(self.counts):
            raise DataError(f"{place}: got {', '.join(parts) or 'nothing'}; want train and test")
        return parts


class ImdbProse(Published, ProseTask):
    """Training reviews, a line each, in random order but those of a film one behind the other.

    Films are not cut: each is on one side of a split, which therefore meets the shares about.
    """

    name: Literal["imdb-lm"] = "imdb-lm"
    origin: ClassVar[str] = "Large Movie Review Dataset (Maas et al. 2011); no licence stated"
    reviews: int = Field(5_000, ge=100, le=25_000, description="how many, about 1,300 bytes each")

    folders: ClassVar[tuple[str, ...]] = ("imdb",)

    def places(self) -> Mapping[str, Reader]:
        def prose(read: Reader) -> Reader:
            return lambda place: self.lines(place, read(place)["train"])

        return {name: prose(read) for name, read in Imdb().places().items()}

    def download(self, folder: Path) -> None:
        Imdb().download(folder)

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        settings = [self.reviews, self.valid, self.sealed]
        return replace(found, identity=[found.identity, settings])

    def lines(self, place: Path, given: Split) -> Parts:
        """Each film goes to the part that its first character is in."""
        assert given.groups is not None
        order = torch.randperm(
            int(given.groups.max()) + 1, generator=torch.Generator().manual_seed(0)
        )
        kept = order[given.groups].argsort(stable=True)[: self.reviews]
        drawn = given[kept]
        assert drawn.groups is not None
        texts = [" ".join(review.split("\n")) + "\n" for review in unpack(drawn.x)]
        ends = [sum(map(len, texts)) * (1 - s) for s in (self.valid + self.sealed, self.sealed)]
        parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
        place_of: dict[int, str] = {}  # film to part
        before = 0
        for film, review in zip(drawn.groups.tolist(), texts, strict=True):
            part = ("train", "valid", "test")[sum(before >= end for end in ends)]
            parts[place_of.setdefault(film, part)].append(review)
            before += len(review)
        if empty := [part for part, held in parts.items() if not held]:
            told = f"got no film for the {empty[0]} split; want a larger share or more reviews"
            raise DataError(f"{place}: {told}")
        return {part: written("".join(held)) for part, held in parts.items()}
