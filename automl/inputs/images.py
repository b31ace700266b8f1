"""Images: files and arrays to pixels of one size, and pixels to what a model reads."""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from automl.config import Input
from automl.data import Data, Inputs, Raw, Split
from automl.errors import DataError

Side = Annotated[int, Field(ge=1, le=4096)]  # pixels
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Images(Inputs):
    """Images of one size, and how raw pixels become what a model reads."""

    shape: tuple[Side, Side, Side]  # C, H, W
    mean: tuple[Finite, ...] = ()  # per channel, of pixels scaled to 0..1; empty: not measured
    std: tuple[Annotated[Finite, Field(gt=0)], ...] = ()

    @classmethod
    def measure(cls, x: Tensor) -> Images:
        """The inputs of a training split, uint8 (N, C, H, W), with its mean and deviation."""
        total = square = torch.zeros(x.shape[1], dtype=torch.float64)
        for chunk in torch.split(x, 256):  # 256: what float32 sums exactly enough
            pixels = chunk.float()
            total = total + pixels.sum((0, 2, 3))
            square = square + pixels.square().sum((0, 2, 3))
        count = x.numel() / x.shape[1]
        mean = torch.as_tensor(total / count / 255)
        std = (torch.as_tensor(square / count / 255**2) - mean.square()).clamp_min(1e-8).sqrt()
        channels, height, width = x.shape[1:]
        return cls((channels, height, width), tuple(mean.tolist()), tuple(std.tolist()))

    def encode(self, split: Split) -> Split:
        """Pixels lie on the device as they are."""
        return split

    def prepare(self, x: Tensor) -> Tensor:
        """uint8 (N, C, H, W) in, float32 of mean 0 and deviation 1 over the training split out."""
        told = 255 * torch.tensor([self.mean, self.std]).view(2, -1, 1, 1)
        mean, std = told.to(x.device, non_blocking=True).unbind()  # waits for no step
        return (x - mean).div_(std).contiguous(memory_format=torch.channels_last)

    def example(self, count: int) -> Tensor:
        return torch.empty(count, *self.shape)

    def recipe(self) -> dict[str, Any]:
        channels, height, width = self.shape
        mode = "L" if channels == 1 else "RGB"
        return {
            "dtype": "uint8",
            "shape": ["N", channels, height, width],
            "how": f"Pillow: ImageOps.exif_transpose(image).convert({mode!r}), resized to "
            f"{(width, height)} by Image.Resampling.BILINEAR if of another size, channels first",
            "then": "x = (x - 255 * mean) / (255 * std), channel by channel",
            "mean": self.mean,
            "std": self.std,
        }

    @property
    def floats(self) -> int:
        return math.prod(self.shape)

    def read(self, raw: Any) -> Split:
        """Anything that is an image or several, to uint8 (N, C, H, W) of this size.

        Takes a path, a PIL image, an array or tensor (H, W), (H, W, C) or (C, H, W) of whole
        numbers 0..255 or of fractions 0..1, a batch of these, or a list of any of them. Files are
        read exactly as for training. Raises DataError where that is not possible.
        """
        if isinstance(raw, np.ndarray | Tensor):
            grey_batch = raw.ndim == 3 and (self.shape[0], *raw.shape[1:]) == self.shape
            one = raw.ndim == 2 or (raw.ndim == 3 and not grey_batch)
        elif isinstance(raw, str | Path | Image.Image):
            one = True
        elif isinstance(raw, Iterable):
            one = False
        else:
            told = f"image: {type(raw).__name__} is no image; give a path, a PIL image or an array"
            raise DataError(told)
        x = torch.stack([self._one(image) for image in ([raw] if one else raw)])
        return Split(x, torch.zeros(len(x), dtype=torch.long))

    def _one(self, raw: Any) -> Tensor:
        if isinstance(raw, Image.Image):
            return pixels(raw, self.shape)
        if not isinstance(raw, str | Path):
            return pixels(drawn(raw), self.shape)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # odd, but readable
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                return picture(Path(raw), self.shape)
        except UNREADABLE as error:
            raise DataError(f"{raw}: cannot be read as an image: {error}") from error

    @property
    def summary(self) -> str:
        channels, height, width = self.shape
        return f"{height}x{width} {'grey' if channels == 1 else 'colour'} images"


UNREADABLE = (  # what PIL raises on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def picture(file: bytes | Path, shape: tuple[int, int, int]) -> Tensor:
    """An image file as uint8 (C, H, W). Raises one of UNREADABLE."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        opened.draft(None, (2 * shape[2], 2 * shape[1]))  # large JPEGs: no more pixels than needed
        return pixels(opened, shape)


def pixels(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """An image as uint8 (C, H, W), the way up it was taken, resized as a whole where it differs."""
    channels, height, width = shape
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: convert() would turn 256 and more white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).view(height, width, channels).permute(2, 0, 1)


def drawn(raw: Any) -> Image.Image:
    """An array or tensor of one image, as PIL has it. Raises DataError."""
    array = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or not array.size:
        raise DataError(f"image: got an array of shape {array.shape}; want (H, W) or (H, W, 3)")
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise DataError("image: the array holds values that are not finite numbers")
    if np.issubdtype(array.dtype, np.floating) and array.max() <= 1:
        array = array * 255
    if array.min() < 0 or array.max() > 255:
        raise DataError(f"image: values reach from {array.min()} to {array.max()}; want 0 to 255")
    return Image.fromarray(array.round().astype(np.uint8))


class Pixels(Input):
    """Every channel scaled to mean 0 and deviation 1."""

    name: Literal["pixels"] = "pixels"
    turns: ClassVar[dict[str, str]] = {"images": "maps"}
    fitted: ClassVar[type[Inputs]] = Images

    def expect(self, raw: Raw) -> Images:
        assert isinstance(raw, Images)
        return raw

    def fit(self, data: Data) -> Images:
        return self.expect(data.inputs)

    def restore(self, facts: str, read: Callable[[str], str]) -> Inputs:
        told = super().restore(facts, read)
        assert isinstance(told, Images)
        channels = told.shape[0]
        if channels not in (1, 3) or not channels == len(told.mean) == len(told.std):
            raise DataError("inputs: want 1 or 3 channels, with a mean and a deviation for each")
        return told
