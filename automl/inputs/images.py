"""Images: files and arrays to pixels of one size, and pixels to what a model reads."""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from automl.config import Input
from automl.data import Data, Inputs, Raw, Split, pieces
from automl.errors import DataError
from automl.places import regular

# PIL knows many more, of which some run a program: EPS is PostScript, and Ghostscript's to draw
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
Side = Annotated[int, Field(ge=1, le=4096)]  # pixels
T = TypeVar("T")
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
        for chunk in pieces(x):  # so few that float32 sums them exactly enough
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
        x = torch.empty(count, *self.shape)
        return x.contiguous(memory_format=torch.channels_last)  # of one channel it stays as it is

    def recipe(self) -> dict[str, Any]:
        channels, height, width = self.shape
        mode = "L" if channels == 1 else "RGB"
        return {
            "dtype": "uint8",
            "shape": ["N", channels, height, width],
            "how": f"Pillow: image.draft(None, {(2 * width, 2 * height)}), for JPEG alone; "
            "ImageOps.exif_transpose(image); in modes I;16, I;16B, ..., in a PGM file and in mode "
            "I beyond 255: value >> 8; in mode F: round(255 * value) if none is above 1, else "
            "round(value); if image.has_transparency_data: "
            "Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image.convert('RGBA')); "
            f"image.convert({mode!r}), resized to {(width, height)} by Image.Resampling.BILINEAR "
            "if of another size, channels first",
            "then": "x = (x - 255 * mean) / (255 * std), channel by channel",
            "mean": self.mean,
            "std": self.std,
        }

    @property
    def floats(self) -> int:
        return math.prod(self.shape)

    def read(self, raw: Any) -> Split:
        """Anything that is an image or several, to uint8 (N, C, H, W) of this size.

        Takes a path, the bytes of a file, a PIL image, an array or tensor (H, W), (H, W, C) or
        (C, H, W) of numbers 0..255, fractions 0..1 or truth values, a batch of these, or a list of
        any of them. Files are read exactly as for training, large JPEGs at a lower resolution than
        PIL opens them.
        Raises DataError where that is not possible.
        """
        x = torch.stack([self._one(image) for image in listed(raw, self.shape)])
        return Split(x, torch.zeros(len(x), dtype=torch.long))

    def _one(self, raw: Any) -> Tensor:
        return taken(raw, partial(picture, shape=self.shape), partial(pixels, shape=self.shape))

    @property
    def summary(self) -> str:
        channels, height, width = self.shape
        return f"{height}x{width} {'grey' if channels == 1 else 'colour'} images"


UNREADABLE = (  # what PIL raises on damaged files, and we on numbers that are no levels
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def listed(raw: Any, shape: tuple[int, int, int]) -> list[Any]:
    """One by one what is an image or several, see `Images.read`. Raises DataError."""
    if isinstance(raw, np.ndarray | Tensor):
        grey_batch = shape[1:] == raw.shape[1:] and shape != raw.shape
        column = isinstance(raw, np.ndarray) and raw.ndim == 1 and raw.dtype.kind in "OU"
        one = (raw.ndim < 3 and not column) or (raw.ndim == 3 and not grey_batch)
    elif isinstance(raw, str | Path | bytes | Image.Image):
        one = True
    elif isinstance(raw, Iterable):
        one = False
    else:
        told = f"image: {type(raw).__name__} is no image; give a path, a PIL image or an array"
        raise DataError(told)
    found = [raw] if one else list(raw)
    if not found:
        raise DataError("image: got nothing; want at least one image")
    return found


def taken(raw: Any, file: Callable[[bytes | Path], T], image: Callable[[Image.Image], T]) -> T:
    """What one of these two makes of an image, whatever form it has. Raises DataError."""
    try:
        if not isinstance(raw, str | Path | bytes):
            return image(raw if isinstance(raw, Image.Image) else drawn(raw))
        with looking():
            return file(raw if isinstance(raw, bytes) else Path(raw))
    except UNREADABLE as error:
        named = isinstance(raw, str | Path)
        where = f"{raw}: cannot be read as an image" if named else "image"
        raise DataError(f"{where}: {error}") from error


@contextmanager
def looking() -> Iterator[None]:
    """Where image files are read: a bomb is unreadable, and of what is odd nothing is said."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def opened(file: bytes | Path) -> Image.Image:
    """An image file of a kind that is read, to be closed. Raises one of UNREADABLE."""
    source = io.BytesIO(file) if isinstance(file, bytes) else regular(file)
    try:
        return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"is none of {', '.join(FORMATS)}") from error


def picture(file: bytes | Path, shape: tuple[int, int, int]) -> Tensor:
    """An image file as uint8 (C, H, W). Raises one of UNREADABLE."""
    with opened(file) as image:
        image.draft(None, (2 * shape[2], 2 * shape[1]))  # large JPEGs: no more pixels than needed
        return pixels(image, shape)


def pixels(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """An image as uint8 (C, H, W), the way up it was taken, resized as a whole where it differs.

    What is transparent shows white behind it. For more than 8 bits of grey see `grey`. Raises
    one of UNREADABLE.
    """
    channels, height, width = shape
    deep = image.mode.startswith("I;") or image.format == "PPM"  # which is of mode I, too
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # convert() would turn most of them black or white
        image = grey(np.asarray(image), deep)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).view(height, width, channels).permute(2, 0, 1)


def grey(array: NDArray[Any], deep: bool) -> Image.Image:
    """Numbers (H, W) of more than 8 bits as 256 levels. Raises ValueError.

    Whole numbers are of 16 bits, so that all images have the same scale, if they are `deep` or
    any is above 255, and of 8 bits else; floats are as in `levels`.
    """
    if array.dtype.kind != "f" and (deep or array.max() > 255):
        least, most = array.min(), array.max()
        if least < 0 or most >= 2**16:
            raise ValueError(f"values reach from {least} to {most}; want 0 to 65535")
        array = array >> 8
    return Image.fromarray(levels(array))


def array_of(raw: Any) -> NDArray[Any]:
    """An array, tensor or list as NumPy has it, and bfloat16, which it has not, as float32."""
    if not isinstance(raw, Tensor):
        return np.asarray(raw)
    return (raw.float() if raw.dtype == torch.bfloat16 else raw).detach().cpu().numpy()


def drawn(raw: Any) -> Image.Image:
    """An array or tensor of one image, as PIL has it. Raises ValueError."""
    array = array_of(raw)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or not array.size:
        raise ValueError(f"got an array of shape {array.shape}; want (H, W) or (H, W, 3)")
    return Image.fromarray(levels(array))


def levels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers 0..255, fractions 0..1 or truth values as 256 levels. Raises ValueError for others.

    Floats are fractions if none is above 1. If the largest is above 1 and below 2 nothing tells
    which they are: fractions a little out of range, or levels that are as good as black.
    """
    if array.dtype.kind not in "buif":
        raise ValueError(f"holds {array.dtype}; want real numbers")
    if not np.isfinite(array).all():
        raise ValueError("holds values that are not finite numbers")
    least, most, fractions = array.min(), array.max(), array.dtype.kind == "f"
    if least < 0 or most > 255 or (fractions and 1 < most < 2):
        told = "0 to 255, or fractions 0 to 1" if fractions else "0 to 255"
        raise ValueError(f"values reach from {least} to {most}; want {told}")
    if array.dtype.kind == "b" or (fractions and most <= 1):
        array = array * 255
    return array.round().astype(np.uint8)


class Channels(Input):
    """What inputs of images have in common: all that is learned comes with the data."""

    fitted: ClassVar[type[Inputs]] = Images

    def expect(self, raw: Raw) -> Images:
        assert isinstance(raw, self.fitted)
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


class Pixels(Channels):
    """Every channel scaled to mean 0 and deviation 1."""

    name: Literal["pixels"] = "pixels"
    turns: ClassVar[dict[str, str]] = {"images": "maps"}
