"""What image tasks share: decoding, and a baseline. Knows no models and no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from automl.data import Data, Raw, Rows, Split, pieces
from automl.inputs.images import UNREADABLE, Images, looking, picture
from automl.tasks.classes import ClassTask
from automl.tasks.source import Published, readable

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


class ImageTask(ClassTask):
    """Images in classes."""

    gives: ClassVar[str] = "images"
    input: ClassVar[str] = "pixels"

    def measured(self, raw: Raw, train: Split) -> Images:
        assert isinstance(train.x, Tensor)
        return Images.measure(train.x)

    def baseline(self, data: Data) -> tuple[str, float]:
        """Logistic regression on at most 5,000 training images, shrunk to at most 8x8 pixels."""
        assert isinstance(data.inputs, Images)
        height, width = (min(8, side) for side in data.inputs.shape[1:])

        def features(x: Rows) -> Tensor:
            assert isinstance(x, Tensor)
            shrunk = [F.adaptive_avg_pool2d(part.float(), (height, width)) for part in pieces(x)]
            return torch.cat(shrunk).flatten(1)

        score = self.regressed(data, features, least=1, steps=50)  # 1: a step of one grey level
        return f"logistic regression on {height}x{width} pixels", score


class PublishedImages(Published, ImageTask):
    """Images that all have the same copy of."""

    image: ClassVar[tuple[int, int, int]]  # C, H, W

    def shape(self, root: Path | None) -> tuple[Images, tuple[str, ...]]:
        return Images(self.image), self.labels


def pictures(
    place: Path,
    images: Mapping[str, bytes | Path],
    shape: tuple[int, int, int],
    *,
    threads: int = 1,
) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W) of the images that can be read, and bool (all,), as `readable` gives them.

    Threads halve the time of photographs on 2 cores, and double that of 32x32 pixels.
    """
    x = torch.empty((len(images), *shape), dtype=torch.uint8)
    with looking():
        read = partial(picture, shape=shape)
        return readable(place, "images", images, x, read, UNREADABLE, threads)
