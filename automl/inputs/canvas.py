"""Pictures of any size: each keeps its proportions, on a canvas that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor

from automl.boxes import found
from automl.data import ANY, Inputs, Split
from automl.inputs.images import Channels, Images, listed, opened, pixels, taken

GREY = 114  # of what a picture leaves free, as YOLO has it
STEP = 32  # pixels that the sides of a canvas are a multiple of
TURNED = {5, 6, 7, 8}  # the orientations in EXIF that swap width and height
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Canvas(Images):
    """Pictures on a canvas, and how their pixels become what a model of boxes reads."""

    def answers(self, count: int, outputs: int) -> tuple[int, ...]:
        return count, ANY, outputs + 4

    def told(self, logits: Tensor) -> Tensor:
        """What is found (N, 100, 6), see `found`, in pixels of the canvas."""
        return found(logits)

    def uncovered(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (N, K, 6) in pixels of the pictures, widths and heights (N, 2), and cut to them."""
        told = []
        for of, (width, height) in zip(rows, sizes.tolist(), strict=True):
            covered = of.new_tensor(fitting(width, height, self.shape)).repeat(2)
            size = of.new_tensor([width, height]).repeat(2)
            boxes = (of[:, 1:5] * size / covered).clamp_min(0).minimum(size)
            told.append(torch.cat([of[:, :1], boxes, of[:, 5:]], 1))
        return torch.stack(told)

    def recipe(self) -> dict[str, Any]:
        _, height, width = self.shape
        told = super().recipe()
        how = (
            f"{told['how'].split(f', resized to {(width, height)}')[0]}, resized by "
            "Image.Resampling.BILINEAR to the largest size of these proportions within "
            f"{(width, height)}, top left on a canvas of that size filled with {GREY}, channels "
            "first; boxes are x1, y1, x2, y2 in pixels of the canvas"
        )
        return told | {"how": how}

    def read(self, raw: Any) -> Split:
        """Anything that is a picture or several, see `Images.read`, on the canvas.

        y float32 (N, 2) is the width and height of each as it was given, in pixels.
        """
        read = [self._framed(one) for one in listed(raw, self.shape)]
        sizes = torch.tensor([size for _, size in read], dtype=torch.float32)
        return Split(torch.stack([x for x, _ in read]), sizes)

    def _framed(self, raw: Any) -> tuple[Tensor, tuple[int, int]]:
        return taken(raw, partial(framed, shape=self.shape), partial(placed, shape=self.shape))

    @property
    def summary(self) -> str:
        return f"pictures on {self.shape[2]}x{self.shape[1]} pixels"


def fitting(width: float, height: float, shape: tuple[int, int, int]) -> tuple[int, int]:
    """The largest width and height of these proportions, about, that a canvas (C, H, W) holds."""
    share = min(shape[2] / width, shape[1] / height)
    return max(1, round(width * share)), max(1, round(height * share))


def upright(file: bytes | Path) -> tuple[int, int]:
    """Width and height of an image file as `placed` has it. Raises one of UNREADABLE."""
    with opened(file) as image:
        return _upright(image)


def _upright(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if image.getexif().get(ORIENTATION) in TURNED else image.size


def framed(file: bytes | Path, shape: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """An image file as `placed` has it. Raises one of UNREADABLE."""
    with opened(file) as image:
        size = _upright(image)  # a draft has another
        image.draft(None, (2 * shape[2], 2 * shape[1]))  # large JPEGs: no more pixels than needed
        return placed(image, shape)[0], size


def placed(image: Image.Image, shape: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """A picture on a canvas, uint8 (C, H, W), top left; and its own width and height.

    Raises one of UNREADABLE.
    """
    upright = ImageOps.exif_transpose(image)
    upright.format = image.format
    width, height = fitting(*upright.size, shape)
    x = torch.full(shape, GREY, dtype=torch.uint8)
    x[:, :height, :width] = pixels(upright, (shape[0], height, width))
    return x, upright.size


class OnCanvas(Channels):
    """Pictures as large as the canvas allows, every channel scaled to mean 0 and deviation 1."""

    name: Literal["canvas"] = "canvas"
    turns: ClassVar[dict[str, str]] = {"pictures": "pictures"}
    fitted: ClassVar[type[Inputs]] = Canvas
