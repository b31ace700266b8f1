"""Photographs of blood cells, in boxes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch

from automl.data import Split
from automl.inputs.canvas import Canvas, framed
from automl.tasks.boxes import BoxTask
from automl.tasks.source import Parts, Published, Reader, files


class Bccd(Published, BoxTask):
    """364 photographs of blood cells, 4,888 boxes, split as published (BCCD, Shenggan 2017)."""

    name: Literal["bccd"] = "bccd"
    origin: ClassVar[str] = "BCCD (Shenggan 2017); MIT"
    labels: ClassVar[tuple[str, ...]] = ("RBC", "WBC", "Platelets")
    counts: ClassVar[Mapping[str, int]] = {"train": 205, "valid": 87, "test": 72}

    def shape(self, root: Path | None) -> tuple[Canvas, tuple[str, ...]]:
        high = -(-self.size * 3 // 4 // 32) * 32
        return Canvas((3, high, -(-self.size // 32) * 32)), self.labels

    def places(self) -> Mapping[str, Reader]:
        return {"bccd-voc.tar.xz": self.read}

    def download(self, folder: Path) -> None:
        raise OSError("not written yet")

    def read(self, place: Path) -> Parts:
        found = files(place, r"BCCD/.*\.(jpg|xml|txt)", largest=2**24, most=2000)
        canvas, labels = self.shape(None)
        parts = {}
        for part, name in {"train": "train", "valid": "val", "test": "test"}.items():
            names = found[f"BCCD/ImageSets/Main/{name}.txt"].decode().split()
            self.count(place, part, len(names))
            xs, boxes = [], []
            for one in names:
                x, (w, h) = framed(found[f"BCCD/JPEGImages/{one}.jpg"], canvas.shape)
                xs.append(x)
                share = min(canvas.shape[2] / w, canvas.shape[1] / h)
                rows = []
                for o in ET.fromstring(found[f"BCCD/Annotations/{one}.xml"]).iter("object"):
                    b = [
                        float(o.find("bndbox").find(k).text)
                        for k in ("xmin", "ymin", "xmax", "ymax")
                    ]
                    if b[2] > b[0] and b[3] > b[1]:
                        rows.append(
                            [labels.index(o.find("name").text), *(v * share for v in b), 1.0]
                        )
                boxes.append(torch.tensor(rows).view(-1, 6))
            y = torch.full((len(xs), max(map(len, boxes)), 6), -1.0)
            for i, rows in enumerate(boxes):
                y[i, : len(rows)] = rows
            parts[part] = Split(torch.stack(xs), y)
        return parts
