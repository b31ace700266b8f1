"""What image tasks share: decoding, and a baseline. Knows no models and no terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from automl.data import Data, Raw, Rows, Split, pieces
from automl.errors import DataError
from automl.inputs.images import UNREADABLE, Images, picture
from automl.tasks.classes import ClassTask, drawn, fitting
from automl.tasks.source import Published

log = logging.getLogger("automl")

CORRUPT = 0.01  # share of the images of a set that may be unreadable


class ImageTask(ClassTask):
    """Images in classes."""

    gives: ClassVar[str] = "images"
    input: ClassVar[str] = "pixels"

    def measured(self, raw: Raw, train: Split) -> Images:
        assert isinstance(train.x, Tensor)
        return Images.measure(train.x)

    def baseline(self, data: Data) -> tuple[str, float]:
        """Logistic regression on at most 5,000 training images, shrunk to at most 8x8 pixels."""
        from sklearn.linear_model import LogisticRegression

        assert isinstance(data.inputs, Images)
        height, width = (min(8, side) for side in data.inputs.shape[1:])

        def features(x: Rows) -> Tensor:
            assert isinstance(x, Tensor)
            shrunk = [F.adaptive_avg_pool2d(part.float(), (height, width)) for part in pieces(x)]
            return torch.cat(shrunk).flatten(1)

        train = data.train[drawn(data.train.y, 5000)]
        x, y = features(train.x), train.y
        mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1)  # 1: a step of one grey level
        with fitting():
            model = LogisticRegression(max_iter=50).fit((x - mean) / std, y)
        guesses = torch.from_numpy(model.predict((features(data.valid.x) - mean) / std))
        score = self.judged(guesses, data.valid.y)
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
    """uint8 (N, C, H, W) of the images that can be read, and bool (all,) that says which.

    Up to one in a hundred may be corrupt: one line of the log names them, and says what is wrong
    with the first. Beyond: DataError.
    Threads halve the time of photographs on 2 cores, and double that of 32x32 pixels.
    """
    x = torch.empty((len(images), *shape), dtype=torch.uint8)
    given = list(images.values())

    def read(number: int) -> str:
        """What is wrong with it."""
        try:
            x[number] = picture(given[number], shape)
        except UNREADABLE as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", UserWarning)  # odd, but readable
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        faults = list(pool.map(read, range(len(given))))

    readable = torch.tensor([not fault for fault in faults])
    corrupt = [name for name, fault in zip(images, faults, strict=True) if fault]
    if corrupt:
        named = ", ".join(corrupt[:5]) + (", ..." if len(corrupt) > 5 else "")
        told = f"{place}: {len(corrupt):,} of {len(given):,} images cannot be read: {named}"
        why = f"the first: {next(filter(None, faults))}"
        if len(corrupt) > CORRUPT * len(given):
            raise DataError(f"{told}; want at most {CORRUPT:.0%}; {why}")
        log.warning("%s; going on without them; %s", told, why)
    return (x[readable] if corrupt else x), readable
