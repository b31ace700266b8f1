"""Whole data sets in memory: what a task hands to the trainer. Knows no files and no models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from automl.errors import DataError


@dataclass(frozen=True)
class Split:
    """Examples and targets, index by index."""

    x: Tensor  # images: uint8 (N, C, H, W)
    y: Tensor  # classes: int64 (N,)

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Split:
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Metric:
    """What a trial is judged by on the validation split."""

    name: str
    higher_is_better: bool = True

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b


@dataclass(frozen=True)
class Images:
    """Images of one size, and how raw pixels become what a model reads."""

    shape: tuple[int, int, int]  # C, H, W
    mean: tuple[float, ...] = ()  # per channel, of pixels scaled to 0..1; empty: not measured
    std: tuple[float, ...] = ()

    @classmethod
    def measure(cls, x: Tensor) -> Images:
        """The inputs of a training split, uint8 (N, C, H, W), with its mean and deviation."""
        chunks = torch.split(x, 4096)  # 60,000 CIFAR images as float64 at once would take 1.4 GB
        total = sum(chunk.double().sum((0, 2, 3)) for chunk in chunks)
        square = sum(chunk.double().square().sum((0, 2, 3)) for chunk in chunks)
        count = x.numel() / x.shape[1]
        mean = torch.as_tensor(total / count / 255)
        std = (torch.as_tensor(square / count / 255**2) - mean.square()).clamp_min(1e-8).sqrt()
        channels, height, width = x.shape[1:]
        return cls((channels, height, width), tuple(mean.tolist()), tuple(std.tolist()))

    def prepare(self, x: Tensor) -> Tensor:
        """uint8 (N, C, H, W) in, float32 of mean 0 and deviation 1 over the training split out."""
        mean = torch.tensor(self.mean, device=x.device).view(-1, 1, 1) * 255
        std = torch.tensor(self.std, device=x.device).view(-1, 1, 1) * 255
        return (x.float() - mean) / std

    def read(self, raw: Any) -> Tensor:
        """Anything that is an image or several, to uint8 (N, C, H, W) of this size.

        Takes a path, a PIL image, an array or tensor (H, W), (H, W, C) or (C, H, W) of whole
        numbers 0..255 or of fractions 0..1, a batch of these, or a list of any of them.
        Raises DataError where that is not possible.
        """
        if isinstance(raw, str | Path | Image.Image):
            return self._one(raw)[None]
        if isinstance(raw, np.ndarray | Tensor):
            if raw.ndim == 4:
                return torch.stack([self._one(image) for image in raw])
            if raw.ndim == 3 and raw.shape[0] not in (1, 3) and raw.shape[-1] not in (1, 3):
                return torch.stack([self._one(image) for image in raw])  # (N, H, W)
            return self._one(raw)[None]
        if isinstance(raw, Iterable):
            return torch.stack([self._one(image) for image in raw])
        raise DataError(f"image: {type(raw).__name__} is no image; give a path, PIL image or array")

    def _one(self, raw: Any) -> Tensor:
        image = raw if isinstance(raw, Image.Image) else _picture(raw)
        return pixels(image, self.shape)

    @property
    def summary(self) -> str:
        channels, height, width = self.shape
        return f"{height}x{width} {'grey' if channels == 1 else 'colour'} images"


def _picture(raw: Any) -> Image.Image:
    if isinstance(raw, str | Path):
        try:
            with Image.open(raw) as image:
                image.load()
                return image
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{raw}: cannot be read as an image: {error}") from error
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


def pixels(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """An image as uint8 (C, H, W) of the given shape; resized as a whole where it differs."""
    channels, height, width = shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).view(height, width, channels).permute(2, 0, 1)


@dataclass(frozen=True)
class Data:
    """All that training may see. It holds no test split: that one stays sealed to the end."""

    train: Split
    valid: Split
    inputs: Images
    labels: Sequence[str]
    fingerprint: str  # sha256 over the pixels, the labels and the split

    def to(self, device: torch.device) -> Data:
        return replace(self, train=self.train.to(device), valid=self.valid.to(device))

    @property
    def outputs(self) -> int:
        return len(self.labels)

    @property
    def chance(self) -> float:
        """The validation accuracy of always answering the most frequent training class."""
        return (self.valid.y == self.train.y.bincount().argmax()).double().mean().item()


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave."""

    number: int  # counted from 1
    train_loss: float
    metrics: dict[str, float]  # on the validation split
    seconds: float
    examples: int
