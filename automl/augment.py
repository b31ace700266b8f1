"""Random changes to training batches: whole batches at once, drawn from one generator."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from automl.boxes import PADDING, area
from automl.config import Augment, Augmentation
from automl.data import Inputs
from automl.inputs.images import Images

SEEN = 0.25  # share of a box that is to be left for it to count
LEAST = 1e-6  # square pixels, where there are none

Colour = Annotated[
    float, Field(ge=0, le=1, description="largest change of brightness, contrast, saturation")
]


class Unchanged(Augment):
    """Batches as they are."""

    name: Literal["none"] = "none"

    def build(self, inputs: Inputs, outputs: int, generator: Generator) -> Augmentation:
        return lambda x, y: (x, y)


class ImageChanges(Augment):
    """Flip, crop, colour, cutout, mixup: each image by draws of its own. All are off at first."""

    name: Literal["images"] = "images"
    reads: ClassVar[frozenset[str]] = frozenset({"maps"})
    flip: bool = Field(default=False, description="mirror half of the images left to right")
    crop: int = Field(
        default=0,
        ge=0,
        le=128,
        description="pixels an image may move, its border mirrored; at most half of its side",
    )
    colour: Colour = 0.0
    cutout: int = Field(
        default=0,
        ge=0,
        le=256,
        description="side in pixels of a square set to the mean; at most half of the image's",
    )
    mixup: float = Field(
        default=0.0, ge=0, le=10, description="alpha of the Beta that weighs two images; 0: off"
    )

    def build(self, inputs: Inputs, outputs: int, generator: Generator) -> Augmentation:
        """(N, C, H, W) float of mean 0 and classes (N,) in; the same, or shares (N, outputs), out.

        The generator lives on the device of the batches.
        """
        assert isinstance(inputs, Images)
        _, height, width = inputs.shape
        half = min(height, width) // 2

        def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if self.flip or self.crop:
                x = moved(x, min(self.crop, half), flip=self.flip, generator=generator)
            if self.colour:
                x = coloured(x, self.colour, generator)
            if self.cutout:
                x = cut(x, min(self.cutout, half), generator)
            if self.mixup:
                return mixed(x, F.one_hot(y, outputs).to(x.dtype), self.mixup, generator)
            return x, y

        return augment


class PictureChanges(Augment):
    """Mirror, zoom, shift, colour of pictures with their boxes. All are off at first.

    A box is cut where its picture leaves the canvas. One of which less than a quarter is left does
    not count any more: it is not to be learned, and not to be held against who finds it.
    """

    name: Literal["pictures"] = "pictures"
    reads: ClassVar[frozenset[str]] = frozenset({"pictures"})
    flip: bool = Field(default=False, description="mirror half of the pictures left to right")
    upend: bool = Field(default=False, description="mirror half of the pictures top to bottom")
    zoom: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="largest share that a picture grows by; it shrinks as often",
    )
    shift: float = Field(
        default=0.0, ge=0, le=0.5, description="largest share of its sides that a picture is moved"
    )
    colour: Colour = 0.0

    def build(self, inputs: Inputs, outputs: int, generator: Generator) -> Augmentation:
        """(N, C, H, W) float of mean 0 and boxes (N, M, 6) in and out, in pixels.

        The generator lives on the device of the batches.
        """

        def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if self.flip:
                x, y = flipped(x, y, 3, generator)
            if self.upend:
                x, y = flipped(x, y, 2, generator)
            if self.zoom or self.shift:
                x, y = placed(x, y, self.zoom, self.shift, generator)
            if self.colour:
                x = coloured(x, self.colour, generator)
            return x, y

        return augment


class SpectrogramChanges(Augment):
    """Masks, shift, gain, mixup: each recording by draws of its own. All are off at first."""

    name: Literal["spectrogram"] = "spectrogram"
    reads: ClassVar[frozenset[str]] = frozenset({"maps"})
    time_mask: float = Field(
        default=0.0, ge=0, le=0.5, description="largest share of the frames that a mask hides"
    )
    frequency_mask: float = Field(
        default=0.0, ge=0, le=0.5, description="largest share of the bands that a mask hides"
    )
    masks: int = Field(default=1, ge=1, le=2, description="masks of either kind")
    shift: float = Field(
        default=0.0, ge=0, le=0.5, description="largest share of its length a recording is moved"
    )
    gain: float = Field(
        default=0.0, ge=0, le=2, description="deviations it is made louder or softer at most"
    )
    mixup: float = Field(
        default=0.0, ge=0, le=10, description="alpha of the Beta that weighs two; 0: off"
    )

    def build(self, inputs: Inputs, outputs: int, generator: Generator) -> Augmentation:
        """(N, C, bands, frames) float of mean 0 and classes (N,) in; as ImageChanges gives out.

        The generator lives on the device of the batches.
        """
        assert isinstance(inputs, Images)
        _, bands, frames = inputs.shape

        def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if self.shift:
                x = shifted(x, int(self.shift * frames), generator)
            if self.gain:
                x = x + self.gain * (2 * _uniform(x, generator).view(-1, 1, 1, 1) - 1)
            for _ in range(self.masks):
                if self.time_mask:
                    x = masked(x, int(self.time_mask * frames), 3, generator)
                if self.frequency_mask:
                    x = masked(x, int(self.frequency_mask * bands), 2, generator)
            if self.mixup:
                return mixed(x, F.one_hot(y, outputs).to(x.dtype), self.mixup, generator)
            return x, y

        return augment


def _uniform(x: Tensor, generator: Generator) -> Tensor:
    """A number in 0..1 for each example, (N,)."""
    return torch.rand(len(x), generator=generator, device=x.device).to(x.dtype)


def shifted(x: Tensor, reach: int, generator: Generator) -> Tensor:
    """Each spectrogram moved by up to `reach` frames either way.

    What comes in is as quiet as it ever was in each band: speech cut off would come in as a hum.
    """
    count, _, _, frames = x.shape
    draw = torch.randint(-reach, reach + 1, (count, 1), generator=generator, device=x.device)
    places = torch.arange(frames, device=x.device) + draw  # (N, frames)
    inside = ((places >= 0) & (places < frames)).view(count, 1, 1, frames)
    places = places.clamp(0, frames - 1).view(count, 1, 1, frames)
    return torch.where(inside, x.gather(3, places.expand(x.shape)), x.amin(3, keepdim=True))


def masked(x: Tensor, widest: int, dim: int, generator: Generator) -> Tensor:
    """0 to `widest` neighbours of a dimension set to 0, the mean (SpecAugment; Park et al. 2019).

    Each example draws a width and a place of its own.
    """
    size, ends = x.shape[dim], (len(x), 1)
    width = torch.randint(widest + 1, ends, generator=generator, device=x.device)
    room = size - width + 1
    first = (torch.rand(ends, generator=generator, device=x.device) * room).long()
    places = torch.arange(size, device=x.device)
    hidden = (places >= first) & (places < first + width)  # (N, size)
    return torch.where(hidden.view(len(x), 1, *((size, 1) if dim == 2 else (1, size))), 0, x)


def moved(x: Tensor, reach: int, *, flip: bool, generator: Generator) -> Tensor:
    """Each image moved by up to `reach` pixels each way, half of them mirrored; channels last.

    Crop and flip are one gather of whole pixels, without a padded copy.
    """
    count, _, height, width = x.shape
    draw = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator, device=x.device)
    rows = mirrored(torch.arange(height, device=x.device) + draw[0], height)  # (N, H)
    columns = mirrored(torch.arange(width, device=x.device) + draw[1], width)  # (N, W)
    if flip:
        flipped = torch.rand(count, 1, generator=generator, device=x.device) < 0.5
        columns = torch.where(flipped, width - 1 - columns, columns)

    shown = pixels(x)
    taken = shown.flatten(0, 2).index_select(0, places(x, rows, columns))
    return taken.view_as(shown).permute(0, 3, 1, 2)


def flipped(x: Tensor, y: Tensor, dim: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Half of the pictures and their boxes (N, M, 6) mirrored along a dimension, 2 or 3."""
    some = torch.rand(len(x), 1, 1, generator=generator, device=x.device) < 0.5
    low, high = (2, 4) if dim == 2 else (1, 3)
    there = y.clone()
    there[..., low], there[..., high] = x.shape[dim] - y[..., high], x.shape[dim] - y[..., low]
    boxes = torch.where(some & (y[..., :1] >= 0), there, y)
    return torch.where(some.unsqueeze(3), x.flip(dim), x), boxes


def placed(
    x: Tensor, y: Tensor, zoom: float, shift: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Each picture larger or smaller about its middle, by up to 1 + `zoom`, and then moved.

    By up to a share `shift` of its sides; 0 comes in. Boxes (N, M, 6) as in `PictureChanges`.
    """
    draw = 2 * torch.rand(3, len(x), generator=generator, device=x.device) - 1
    scale = (math.log1p(zoom) * draw[0]).exp()
    move = 2 * shift * draw[1:].T  # (N, 2), in halves of a side, as a grid counts
    back = torch.zeros(len(x), 2, 3, device=x.device)
    back[:, 0, 0] = back[:, 1, 1] = 1 / scale
    back[:, :, 2] = -move / scale.unsqueeze(1)
    places = F.affine_grid(back, [*x.shape], align_corners=False).to(x.dtype)
    shown = F.grid_sample(x, places, align_corners=False)
    shown = shown.contiguous(memory_format=torch.channels_last)

    half = torch.tensor(x.shape[:1:-1], dtype=y.dtype).to(y.device, non_blocking=True).repeat(2) / 2
    boxes = (y[..., 1:5] - half) * scale.view(-1, 1, 1)
    boxes = boxes + half * (1 + move.repeat(1, 2).unsqueeze(1))
    cut = boxes.clamp_min(0).minimum(2 * half)
    left = area(cut) / area(boxes).clamp_min(LEAST)
    label = torch.where(left > 0, y[..., 0], PADDING)
    counts = torch.where(left < SEEN, 0, y[..., 5])
    told = torch.cat([label.unsqueeze(2), cut, counts.unsqueeze(2)], 2)
    return shown, torch.where(label.unsqueeze(2) >= 0, told, PADDING)


def pixels(x: Tensor) -> Tensor:
    """(N, H, W, C), as channels-last images lie: on a CPU the fast way to what changes pixels."""
    return x.permute(0, 2, 3, 1).contiguous()


def places(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Which pixels of a batch (N * H * W) lie in these rows and columns (N, ...) of each image."""
    count, _, height, width = x.shape
    rows = rows + height * torch.arange(count, device=x.device).view(-1, 1)
    return ((rows * width).unsqueeze(2) + columns.unsqueeze(1)).flatten()


def mirrored(places: Tensor, size: int) -> Tensor:
    """Places in 0..size - 1; those up to size - 1 beyond an end come back from it."""
    return size - 1 - (size - 1 - places.abs()).abs()


def coloured(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Brightness moved by up to `strength` deviations, contrast and saturation scaled by 1 ± it."""
    draw = torch.rand(3, len(x), 1, 1, 1, generator=generator, device=x.device, dtype=x.dtype)
    bright, contrast, saturation = (strength * (2 * draw - 1)).unbind()
    x = torch.lerp(x.mean(1, keepdim=True), x, 1 + saturation)
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, 1 + contrast)
    return x + bright


def cut(x: Tensor, side: int, generator: Generator) -> Tensor:
    """A square of each image, wholly inside it, set to 0 (DeVries & Taylor 2017)."""

    def inside(size: int) -> Tensor:
        ends = (len(x), 1)
        first = torch.randint(size - side + 1, ends, generator=generator, device=x.device)
        return first + torch.arange(side, device=x.device)  # (N, side)

    shown, (height, width) = pixels(x), x.shape[2:]
    left = shown.flatten(0, 2).index_fill(0, places(x, inside(height), inside(width)), 0.0)
    return left.view_as(shown).permute(0, 3, 1, 2)


def mixed(x: Tensor, y: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Images and shares (N, K) blended in pairs by Beta(alpha, alpha) (Zhang et al. 2018)."""
    # torch's Beta takes no generator: a / (a + b) of two gammas is one. Those of small alphas are
    # below the least float, so in logarithms: of one of alpha + 1 and a uniform number's root
    # (Marsaglia & Tsang 2000).
    more = torch.full((2, len(x)), alpha + 1, device=x.device)
    root = (1 - torch.rand(more.shape, generator=generator, device=x.device)).log() / alpha
    ours, theirs = (torch._standard_gamma(more, generator=generator).log() + root).unbind()
    share = (ours - theirs).sigmoid().to(x.dtype)
    other = torch.randperm(len(x), generator=generator, device=x.device)
    shown = pixels(x)
    shown = torch.lerp(shown.index_select(0, other), shown, share.view(-1, 1, 1, 1))
    return shown.permute(0, 3, 1, 2), torch.lerp(y[other], y, share.view(-1, 1))
