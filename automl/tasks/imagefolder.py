"""The user's own images, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from automl.data import Split
from automl.errors import DataError
from automl.inputs.images import Images
from automl.tasks.images import ImageTask, pictures
from automl.tasks.source import Parts, Source, stratified, traces

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


class ImageFolder(ImageTask):
    """`path/train/<class>/*`, and `path/valid/` (or `val/`) and `path/test/` in the same way.

    Images of any size are resized as a whole to a square. Where `valid/` is missing, a share of
    the training images takes its place. Where `test/` is missing, 15 % of each class of `train/`,
    drawn once with seed 0 whatever `split_seed` says, are the test split.
    """

    name: Literal["imagefolder"] = "imagefolder"
    path: str = Field(
        ".",
        min_length=1,
        description="the folder that holds train/; relative to --data or to the working folder",
    )
    size: int = Field(64, ge=8, le=512, description="height and width after resizing, in pixels")
    grey: bool = Field(False, description="drop the colours")

    def shape(self, root: Path | None) -> tuple[Images, tuple[str, ...]]:
        labels = tuple(folder.name for folder in _classes(self._place(root) / "train"))
        if len(labels) < 2:
            raise DataError(
                f"{self._place(root) / 'train'}: got {len(labels)} class folders; want at least 2"
            )
        return Images((1 if self.grey else 3, self.size, self.size)), labels

    def source(self, root: Path | None) -> Source:
        place = self._place(root)
        inputs, labels = self.shape(root)
        parts = {"train": "train", **self._held_out(place)}
        images: dict[str, Path] = {}  # by path below the place
        for folder in parts.values():
            for label in _classes(place / folder):
                found = sorted(p for p in label.iterdir() if _visible(p) and _is_image(p))
                if label.name not in labels:
                    raise DataError(
                        f"{label}: class {label.name!r} is not in train/, which has "
                        f"{', '.join(labels)}"
                    )
                if not found:
                    raise DataError(f"{label}: holds no images; want {' '.join(SUFFIXES)}")
                images |= {f"{folder}/{label.name}/{path.name}": path for path in found}

        def decode() -> Parts:
            x, readable = pictures(place, images, inputs.shape, threads=os.cpu_count() or 1)
            paths = [name.split("/") for name in images]
            y = torch.tensor([labels.index(label) for _, label, _ in paths])[readable]
            splits = {}
            for part, folder in parts.items():
                inside = torch.tensor([first == folder for first, _, _ in paths])[readable]
                splits[part] = Split(x, y)[inside]
            if "test" not in splits:
                splits["train"], splits["test"] = stratified(splits["train"], 0.15, 0, labels)
            return splits

        return Source([inputs.shape, traces(images.values())], decode)

    def _place(self, root: Path | None) -> Path:
        path = Path(self.path).expanduser()
        places = [*([root / path] if root else []), path]
        for place in places:
            if (place / "train").is_dir():
                return place
        raise DataError(
            f"imagefolder: no folder train/ in {' or '.join(str(p) for p in places)}; "
            "want train/<class>/<image>"
        )

    def _held_out(self, place: Path) -> dict[str, str]:
        """Part to folder, of those that exist."""
        found = [name for name in ("valid", "val", "test") if (place / name).is_dir()]
        if {"valid", "val"} <= set(found):
            raise DataError(f"{place}: holds both valid/ and val/; want one of them")
        return {"valid" if name == "val" else name: name for name in found}


def _classes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and _visible(path))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES
