"""The user's own images, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from automl.inputs.images import Images
from automl.tasks import folders
from automl.tasks.images import SUFFIXES, ImageTask, pictures
from automl.tasks.source import Parts, Source, elsewhere, traces


class ImageFolder(ImageTask):
    """`path/train/<class>/*`, and `path/valid/` (or `val/`) and `path/test/` in the same way.

    Images of any size are resized as a whole to a square; behind what is transparent lies white.
    Where `valid/` is missing, a share of the training images takes its place. Where `test/` is
    missing, 15 % of each class of `train/`, drawn once with seed 0 whatever `split_seed` says, are
    the test split.
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
        labels = folders.labels(self._place(root))
        return Images((1 if self.grey else 3, self.size, self.size)), labels

    def source(self, root: Path | None) -> Source:
        place = self._place(root)
        elsewhere(self.name, root, Path(self.path), place)
        inputs, labels = self.shape(root)
        parts = folders.parts(place)
        images = folders.listed(place, SUFFIXES, "images")

        def decode() -> Parts:
            x, readable = pictures(place, images, inputs.shape, threads=os.cpu_count() or 1)
            return folders.splits(place, parts, labels, images, x, readable)

        return Source([inputs.shape, traces(images.values())], decode)

    def _place(self, root: Path | None) -> Path:
        return folders.home(self.name, self.path, root, "image")
