"""Which kind of answer a question asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import Texts, pack
from automl.tasks.source import Parts, Reader, fetch, files
from automl.tasks.texts import PublishedTexts

URL = "https://cogcomp.seas.upenn.edu/Data/QA/QC"
SHA256 = {
    "train.txt": "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
    "test.txt": "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
}
FINE = """
ABBR:abb ABBR:exp DESC:def DESC:desc DESC:manner DESC:reason ENTY:animal ENTY:body ENTY:color
ENTY:cremat ENTY:currency ENTY:dismed ENTY:event ENTY:food ENTY:instru ENTY:lang ENTY:letter
ENTY:other ENTY:plant ENTY:product ENTY:religion ENTY:sport ENTY:substance ENTY:symbol ENTY:techmeth
ENTY:termeq ENTY:veh ENTY:word HUM:desc HUM:gr HUM:ind HUM:title LOC:city LOC:country LOC:mount
LOC:other LOC:state NUM:code NUM:count NUM:date NUM:dist NUM:money NUM:ord NUM:other NUM:perc
NUM:period NUM:speed NUM:temp NUM:volsize NUM:weight
"""


class Trec(PublishedTexts):
    """5,952 questions in 6 kinds, from ABBR (86 to train) to ENTY (1,250). Li and Roth 2002."""

    name: Literal["trec"] = "trec"
    origin: ClassVar[str] = "TREC questions (Li and Roth 2002); no licence stated"
    fine: bool = Field(False, description="50 kinds, such as NUM:date, of which 42 are in the test")

    labels: ClassVar[tuple[str, ...]] = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    counts: ClassVar[Mapping[str, int]] = {"train": 5452, "test": 500}

    def shape(self, root: Path | None) -> tuple[Texts, tuple[str, ...]]:
        return Texts(), tuple(FINE.split()) if self.fine else self.labels

    def places(self) -> Mapping[str, Reader]:
        return {"train.txt": self.read}

    def download(self, folder: Path) -> None:
        fetch(f"{URL}/train_5500.label", SHA256["train.txt"], folder / "trec" / "train.txt")
        fetch(f"{URL}/TREC_10.label", SHA256["test.txt"], folder / "trec" / "test.txt")

    def read(self, place: Path) -> Parts:
        """Lines of `KIND:more question`, in Latin-1."""
        _, labels = self.shape(None)
        found = files(place, r"(train|test)\.txt", largest=2**22, most=2)
        parts = {}
        for name, raw in found.items():
            lines = raw.decode("latin-1").splitlines()
            kinds = [line.partition(" " if self.fine else ":")[0] for line in lines]
            if odd := sorted(set(kinds) - set(labels)):
                told = f"got the kind {odd[0][:60]!r}; want {', '.join(labels)}"
                raise DataError(f"{place / name}: {told}")
            part = name.removesuffix(".txt")
            self.count(place, part, len(lines))
            texts = pack(line.partition(" ")[2] for line in lines)
            parts[part] = Split(texts, torch.tensor([labels.index(kind) for kind in kinds]))
        if set(parts) != set(self.counts):
            raise DataError(f"{place}: got {', '.join(found)}; want train.txt and test.txt")
        return parts
