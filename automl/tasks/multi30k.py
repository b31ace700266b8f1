"""Captions of photographs in three languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from automl.errors import DataError
from automl.inputs.text import Parallel
from automl.tasks.pairs import PairTask, packed
from automl.tasks.source import Parts, Published, Reader, Source, fetch, files, text

URL = (
    "https://raw.githubusercontent.com/multi30k/dataset/"
    "a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
)
SHA256 = {  # of what the downloads hold
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
}
FILES = {"train": "train", "valid": "val", "test": "test_2016_flickr"}


class Multi30k(Published, PairTask):
    """Captions in English, German (Elliott et al. 2016) and French (2017), split as published.

    The test split is test_2016_flickr.
    """

    name: Literal["multi30k"] = "multi30k"
    origin: ClassVar[str] = "Multi30k (Elliott et al. 2016, 2017); no licence stated"
    counts: ClassVar[Mapping[str, int]] = {"train": 29_000, "valid": 1_014, "test": 1_000}

    languages: Literal["de-en", "de-fr", "en-de", "en-fr", "fr-de", "fr-en"] = Field(
        "de-en", description="from which into which"
    )

    def shape(self, root: Path | None) -> tuple[Parallel, tuple[str, ...]]:
        return Parallel(*self.languages.split("-")), ()

    def places(self) -> Mapping[str, Reader]:
        return {"multi30k-en-de-fr.tar.xz": self.read, "train.en": self.read}

    def download(self, folder: Path) -> None:
        for name, sha256 in SHA256.items():
            fetch(f"{URL}/{name}.gz", sha256, folder / "multi30k" / name, gzipped=True)

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return replace(found, identity=[found.identity, self.languages])

    def read(self, place: Path) -> Parts:
        """A line of `train.de` and the same line of `train.en` are a pair."""
        languages = self.languages.split("-")
        wanted = rf"(multi30k/)?({'|'.join(FILES.values())})\.({'|'.join(languages)})"
        found = files(place, wanted, largest=2**24, most=6)
        held = {name.removeprefix("multi30k/"): raw for name, raw in found.items()}
        parts = {}
        for part, file in FILES.items():
            sides = []
            for language in languages:
                name = f"{file}.{language}"
                if name not in held:
                    raise DataError(f"{place}: holds no {name}")
                lines = text(place, name, held[name]).removesuffix("\n").split("\n")
                self.count(place, part, len(lines))
                sides.append([line.strip() for line in lines])
            parts[part] = packed([*zip(*sides, strict=True)])
        return parts
