"""Handwritten digits of scikit-learn: enough for a first search, in seconds."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

import torch

from automl.data import Split
from automl.inputs.images import Images
from automl.tasks.images import ImageTask
from automl.tasks.source import Parts, Source, stratified

LABELS = tuple("0123456789")


class Digits(ImageTask):
    """1,797 grey images of 8x8 pixels in 10 classes, part of scikit-learn: needs no network.

    A fifth of each class, drawn once with seed 0 whatever `split_seed` says, is the test split.
    From UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
    """

    name: Literal["digits"] = "digits"
    origin: ClassVar[str] = "UCI optical digits (Alpaydin, Kaynak 1998), in scikit-learn; CC BY 4.0"

    def shape(self, root: Path | None) -> tuple[Images, tuple[str, ...]]:
        return Images((1, 8, 8)), LABELS

    def source(self, root: Path | None) -> Source:
        return Source(f"scikit-learn {version('scikit-learn')}", _decode)


def _decode() -> Parts:
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    x = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8)  # stored as 0 to 16
    whole = Split(x.view(-1, 1, 8, 8), torch.from_numpy(y).long())
    train, test = stratified(whole, 0.2, 0, LABELS)
    return {"train": train, "test": test}
