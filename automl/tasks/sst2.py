"""Sentences of film reviews, good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch

from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import pack
from automl.tasks.source import Parts, Reader, fetch, files, text
from automl.tasks.texts import PublishedTexts

URL = (
    "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/"
    "457ffd83de90a9d6d472d8ffc31bbffe40a8b236/data/SST2"
)
SHA256 = {
    "train.tsv": "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
    "dev.tsv": "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
    "test.tsv": "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
}


class Sst2(PublishedTexts):
    """9,613 sentences (Socher et al. 2013), with a validation split of their own."""

    name: Literal["sst2"] = "sst2"
    origin: ClassVar[str] = "Stanford Sentiment Treebank (Socher et al. 2013); no licence stated"
    labels: ClassVar[tuple[str, ...]] = ("negative", "positive")
    counts: ClassVar[Mapping[str, int]] = {"train": 6920, "valid": 872, "test": 1821}

    def places(self) -> Mapping[str, Reader]:
        return {"train.tsv": self.read}

    def download(self, folder: Path) -> None:
        for name, sha256 in SHA256.items():
            fetch(f"{URL}/{name}", sha256, folder / "sst2" / name)

    def read(self, place: Path) -> Parts:
        """Lines of `sentence<TAB>0 or 1`."""
        found = files(place, r"(train|dev|test)\.tsv", largest=2**24, most=3)
        parts = {}
        for name, raw in found.items():
            rows = [line.rpartition("\t") for line in text(place, name, raw).splitlines()]
            if odd := [end for _, _, end in rows if end not in ("0", "1")]:
                raise DataError(f"{place / name}: got the label {odd[0][:60]!r}; want 0 or 1")
            part = "valid" if name == "dev.tsv" else name.removesuffix(".tsv")
            self.count(place, part, len(rows))
            y = torch.tensor([int(end) for _, _, end in rows])
            parts[part] = Split(pack(sentence for sentence, _, _ in rows), y)
        if set(parts) != set(self.counts):
            raise DataError(f"{place}: got {', '.join(found)}; want {', '.join(SHA256)}")
        return parts
