"""Blood cells in photographs (BCCD, Shenggan 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from automl.errors import DataError
from automl.inputs.canvas import Canvas
from automl.tasks.annotations import LISTS, canvas, listed, splits, voc
from automl.tasks.boxes import BoxTask
from automl.tasks.source import Parts, Published, Reader, Source, fetch_archive, files, text

COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"
URL = f"https://codeload.github.com/Shenggan/BCCD_Dataset/tar.gz/{COMMIT}"
SHA256 = "b0c2f3497d73d842d3770fa85d058498e29daf01691d44493ec43a21889beced"  # as `digest` has it
ARCHIVE = "bccd-dataset.tar.gz"
SIZE = 640, 480  # width and height of all


class Bccd(Published, BoxTask):
    """364 photographs of blood cells, 640 pixels wide and 480 high, split as published.

    Of 4,888 boxes 4,155 are of red cells (RBC), 372 of white ones (WBC), 361 of platelets. Two have
    no area and are left out. Red cells at the rim and in clumps are often not marked.
    """

    name: Literal["bccd"] = "bccd"
    origin: ClassVar[str] = "BCCD (Shenggan 2017); MIT"
    labels: ClassVar[tuple[str, ...]] = ("RBC", "WBC", "Platelets")
    counts: ClassVar[Mapping[str, int]] = {"train": 205, "valid": 87, "test": 72}
    folders: ClassVar[Sequence[str]] = ("BCCD_Dataset",)

    def shape(self, root: Path | None) -> tuple[Canvas, tuple[str, ...]]:
        return Canvas(canvas(self.size, [SIZE])), self.labels

    def places(self) -> Mapping[str, Reader]:
        return {"bccd-voc.tar.xz": self.read, "BCCD/Annotations": self.read, ARCHIVE: self.read}

    def download(self, folder: Path) -> None:
        fetch_archive(URL, SHA256, folder / ARCHIVE, self._files)

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return replace(found, identity=[found.identity, self.shape(root)[0].shape])

    def read(self, place: Path) -> Parts:
        found = self._files(place)
        held: dict[str, dict[str, bytes]] = {"jpg": {}, "xml": {}, "txt": {}}
        for path, raw in found.items():
            name, _, kind = PurePosixPath(path).name.rpartition(".")
            held[kind][name] = raw
        told = {}
        for name, raw in held["xml"].items():
            if name not in held["jpg"]:
                raise DataError(f"{place}: holds no {name}.jpg")
            told[name] = voc(f"{place}: {name}.xml", raw, held["jpg"][name])
        lists = {
            part: text(place, f"{name}.txt", held["txt"][name])
            for part, name in LISTS.items()
            if name in held["txt"]
        }
        parts = listed(place, told, lists)
        for part in self.counts:
            self.count(place, part, len(parts.get(part, [])))
        return splits(place, parts, self.labels, self.shape(None)[0].shape)

    def _files(self, place: Path) -> dict[str, bytes]:
        wanted = r"Annotations/\w+\.xml|JPEGImages/\w+\.jpg|ImageSets/Main/(train|val|test)\.txt"
        folder = r"(BCCD_Dataset-\w+/)?(BCCD/)?"
        most = 2 * sum(self.counts.values()) + len(LISTS)
        return files(place, f"{folder}({wanted})", largest=2**20, most=most)
