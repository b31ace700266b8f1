"""Convolutional networks: a stem, stages of blocks, a linear head. ResNets and airbench are points.

Every map keeps ceil(side / 2) when halved, so that no input is too small for any depth.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model, Part, Strict
from automl.data import Inputs, Split
from automl.inputs.images import Images
from automl.models import layers
from automl.models.fcos import Cells, Head, taken

Downsample = Literal["pool", "stride", "none"]
Drop = Annotated[
    float, Field(ge=0, le=0.9, description="share that skips the last block, less in earlier ones")
]
Kernel = Literal[1, 3, 5, 7, 9, 11]  # odd: a map keeps its size
SEEN = 2**23  # numbers in the training images that whitening looks at: 2,730 of CIFAR
FEW = 8  # maps that AVX2 takes at once
STILL = 5e-4  # variance that is added to every direction of a patch, as in airbench


@dataclass(frozen=True)
class Style:
    """What all blocks of one network have in common."""

    activation: layers.Activation
    norm: layers.Norm

    def act(self) -> nn.Module:
        return layers.activation(self.activation)

    def unit(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        down: Downsample = "none",
        groups: int = 1,
    ) -> list[nn.Module]:
        """Convolution and norm. A max pool stands between them, as in airbench (Jordan 2024)."""
        stride = 2 if down == "stride" else 1
        bias = self.norm == "none"
        made = conv(inputs, outputs, kernel, stride=stride, groups=groups, bias=bias)
        pool = [nn.MaxPool2d(2, ceil_mode=True)] if down == "pool" else []
        return [made, *pool, *layers.norm(self.norm, outputs, maps=True)]


class Conv2d(nn.Conv2d):
    """PyTorch's, led around two faults of its gradients of filters (PyTorch 2.14, on a CPU).

    It goes no further in a step than a map is wide, of which one column comes anyway: else those in
    bfloat16 hold what lay in memory before. Strides over few maps are taken ahead of filters of one
    pixel, which else write beyond their memory where a CPU has AVX2 alone (oneDNN, issue 6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        if self.kernel_size == (1, 1) and self.in_channels < FEW and down > 1:
            x, down, right = x[:, :, ::down, ::right], 1, 1
        stride = (down, min(right, x.shape[3]))
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, 1, self.groups)


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """Filters start as in He et al. 2015, by fan-out. An even kernel cuts the border."""
    padding = (kernel - 1) // 2
    made = Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
    nn.init.normal_(made.weight, std=math.sqrt(2 * groups / (outputs * kernel**2)))
    return made


@torch.no_grad()
def whiten(first: nn.Conv2d, inputs: Inputs, split: Split) -> None:
    """Filters whose maps of training images are uncorrelated and of variance 1 (Jordan 2024).

    They are the eigenvectors of the covariance of patches, that of largest variance first, and then
    the same negated, for activations that let only one side pass. As airbench has them, but trained
    on. What is left of more filters than that stays as it was.
    """
    kernel, stride, padding = first.kernel_size, first.stride, (first.kernel_size[0] - 1) // 2
    size = first.weight[0].numel()  # of a patch, C * k * k
    covariance, count = torch.zeros(size, size, dtype=torch.float64), 0
    seen = min(len(split), max(1, SEEN // inputs.floats))
    rows = torch.linspace(0, len(split) - 1, seen, device=split.y.device).long()  # of all classes
    for _, x, _ in split[rows].sweep(2**18 // inputs.floats):  # 1 MB of images, k * k of patches
        patches = F.unfold(inputs.prepare(x), kernel, padding=padding, stride=stride)
        patches = patches.transpose(0, 1).flatten(1)  # (C * k * k, N * places)
        covariance += (patches @ patches.T).cpu()
        count += patches.shape[1]

    values, vectors = torch.linalg.eigh(covariance / count)
    filters = (vectors / (values + STILL).sqrt()).T.flip(0)
    filters = torch.cat([filters, -filters])[: len(first.weight)]
    first.weight[: len(filters)] = filters.view(-1, *first.weight.shape[1:]).to(first.weight)


class SqueezeExcite(nn.Module):
    """Every channel gated by what all channels hold on average (Hu et al. 2018)."""

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        squeezed = max(1, round(channels * share))
        self.gate = nn.Sequential(
            conv(channels, squeezed), nn.ReLU(), conv(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x.mean((2, 3), keepdim=True))  # (N, C, 1, 1)
        return x * gate


class LayerScale(nn.Module):
    """A gain for each channel, at first 0.1: right for up to 18 blocks (Touvron et al. 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.view(-1, 1, 1)


class Sum(nn.Module):
    """Shortcut plus branch. Training drops it for a share of the examples (Huang et al. 2016)."""

    def __init__(self, shortcut: nn.Module, branch: nn.Module, *, drop: float) -> None:
        super().__init__()
        self.shortcut, self.branch, self.drop = shortcut, branch, drop

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        branch: Tensor = self.branch(x)
        if self.training and self.drop:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            branch = branch * (kept / (1 - self.drop)).to(branch.dtype)
        return shortcut + branch


def start_at_zero(branch: list[nn.Module]) -> list[nn.Module]:
    """The branch, with a last layer that adds nothing at first.

    That layer is a norm (Goyal et al. 2017) or, without norms, a convolution (Zhang et al. 2019).
    """
    for weights in branch[-1].parameters():
        nn.init.zeros_(weights)
    return branch


class Stage(Part):
    """A row of blocks of one kind and one width."""

    home: ClassVar[str] = "automl.models.cnn"

    channels: int = Field(default=64, ge=1, le=2048, description="width of each block")
    depth: int = Field(default=1, ge=1, le=16, description="number of blocks")
    kernel: Kernel = Field(default=3, description="side of the spatial filters in pixels")
    downsample: Downsample = Field(default="pool", description="how its first block halves the map")
    se: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="squeeze-excite width as a share of the block's; 0: off",
    )

    def build(self, inputs: int, style: Style, drops: list[float]) -> nn.Module:
        """(N, inputs, H, W) in, (N, channels, H, W) out, or half the H and W. One drop a block."""
        first = self.block(inputs, style, self.downsample, drops[0])
        rest = [self.block(self.channels, style, "none", drop) for drop in drops[1:]]
        return nn.Sequential(first, *rest)

    @abstractmethod
    def block(self, inputs: int, style: Style, down: Downsample, drop: float) -> nn.Module:
        """One block; with `drop`, the share of examples that skip its residual branch."""

    @property
    def summary(self) -> str:
        return f"{self.name} {self.depth}x{self.channels}"

    def excite(self, channels: int) -> list[nn.Module]:
        return [SqueezeExcite(channels, self.se)] if self.se else []


class Plain(Stage):
    """Convolution, norm, activation."""

    name: Literal["plain"] = "plain"

    def block(self, inputs: int, style: Style, down: Downsample, drop: float) -> nn.Module:
        unit = style.unit(inputs, self.channels, self.kernel, down=down)
        return nn.Sequential(*unit, style.act(), *self.excite(self.channels))


class Residual(Stage):
    """Two convolutions beside a shortcut, itself a 1x1 where shapes differ (He et al. 2016)."""

    name: Literal["residual"] = "residual"

    def block(self, inputs: int, style: Style, down: Downsample, drop: float) -> nn.Module:
        width = self.channels
        changes = down != "none" or inputs != width
        shortcut = nn.Sequential(*(style.unit(inputs, width, down=down) if changes else []))
        enter = style.unit(inputs, width, self.kernel, down=down)
        leave = start_at_zero(style.unit(width, width, self.kernel))
        branch = nn.Sequential(*enter, style.act(), *leave, *self.excite(width))
        return nn.Sequential(Sum(shortcut, branch, drop=drop), style.act())


class Inverted(Stage):
    """Widen, filter each channel alone, narrow (MobileNetV2, Sandler et al. 2018)."""

    name: Literal["inverted"] = "inverted"
    expand: int = Field(default=4, ge=1, le=8, description="inner width in multiples of the outer")

    def block(self, inputs: int, style: Style, down: Downsample, drop: float) -> nn.Module:
        inner = inputs * self.expand
        widen = [*style.unit(inputs, inner), style.act()] if self.expand > 1 else []
        filters = style.unit(inner, inner, self.kernel, down=down, groups=inner)
        narrow = style.unit(inner, self.channels)
        body = [*widen, *filters, style.act(), *self.excite(inner)]
        if down != "none" or inputs != self.channels:
            return nn.Sequential(*body, *narrow)
        return Sum(nn.Identity(), nn.Sequential(*body, *start_at_zero(narrow)), drop=drop)


class Convnext(Stage):
    """Filter each channel alone, widen, narrow, scale, beside a shortcut (Liu et al. 2022).

    A convolution of its own goes ahead where the width changes or the map is halved.
    """

    name: Literal["convnext"] = "convnext"
    kernel: Kernel = Field(default=7, description="side of the spatial filters in pixels")
    expand: int = Field(default=4, ge=1, le=8, description="inner width in multiples of the outer")

    def block(self, inputs: int, style: Style, down: Downsample, drop: float) -> nn.Module:
        width, inner = self.channels, self.channels * self.expand
        changes = down != "none" or inputs != width
        enter = style.unit(inputs, width, 1 if down == "none" else 3, down=down) if changes else []
        branch = nn.Sequential(
            *style.unit(width, width, self.kernel, groups=width),
            conv(width, inner),
            style.act(),
            *self.excite(inner),
            conv(inner, width),
            LayerScale(width),
        )
        return nn.Sequential(*enter, Sum(nn.Identity(), branch, drop=drop))


class Stem(Strict):
    """The first convolution, with norm and activation."""

    channels: int = Field(default=32, ge=1, le=2048, description="width")
    kernel: int = Field(
        default=3, ge=1, le=8, description="side in pixels; even ones cut the border"
    )
    stride: int = Field(default=1, ge=1, le=4, description="step in pixels")
    whiten: bool = Field(
        default=False,
        description="filters start as those that whiten patches of training images",
    )


class Net(nn.Module):
    """What `Cnn` builds."""

    def __init__(self, trunk: nn.Sequential, head: nn.Module, cnn: Cnn) -> None:
        super().__init__()
        self.trunk, self.dropout, self.head = trunk, layers.Dropout(cnn.dropout), head
        self.pool, self.logit_scale = cnn.pool, cnn.logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        x = x.mean((2, 3)) if self.pool == "avg" else x.amax((2, 3))  # (N, C)
        logits: Tensor = self.head(self.dropout(x))
        return logits * self.logit_scale


class Trunk(Model):
    """What convolutional networks have in common, whatever their head tells."""

    stem: Stem = Field(default=Stem(), description="the first convolution")
    stages: list[SerializeAsAny[Stage]] = Field(
        default=[Plain(channels=channels, depth=2) for channels in (32, 64, 128)],
        min_length=1,
        max_length=8,
        description="rows of blocks, from the stem to the head",
    )
    activation: layers.Activation = Field(default="relu", description="in the stem and all blocks")
    norm: layers.Norm = Field(default="batch", description="in the stem and all blocks")

    def trunk(self, inputs: Images, drop: float) -> nn.Sequential:
        """A convolution, its norm and activation, then the stages; `drop` skip the last block."""
        style, stem = Style(self.activation, self.norm), self.stem
        bias = self.norm == "none"
        first = conv(inputs.shape[0], stem.channels, stem.kernel, stride=stem.stride, bias=bias)
        modules = [first, *layers.norm(self.norm, stem.channels, maps=True), style.act()]

        total = sum(stage.depth for stage in self.stages)
        drops = iter(drop * (i + 1) / total for i in range(total))
        channels = stem.channels
        for stage in self.stages:
            modules.append(stage.build(channels, style, list(islice(drops, stage.depth))))
            channels = stage.channels
        return nn.Sequential(*modules)

    def begin(self, model: nn.Module, inputs: Inputs, split: Split) -> None:
        if self.stem.whiten:
            assert isinstance(model, Net | Boxes)
            first = model.trunk[0]
            assert isinstance(first, nn.Conv2d)
            whiten(first, inputs, split)


class Cnn(Trunk):
    """Convolutional networks."""

    name: Literal["cnn"] = "cnn"
    free: ClassVar[set[str]] = {"dropout", "logit_scale", "stochastic_depth"}
    pool: Literal["avg", "max"] = Field(
        default="avg", description="over the places of the last map"
    )
    dropout: float = Field(default=0.0, ge=0, le=0.9, description="share zeroed before the head")
    stochastic_depth: Drop = 0.0
    logit_scale: float = Field(default=1.0, gt=0, le=10, description="factor on the logits")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, C, H, W) float in, (N, outputs) logits out."""
        assert isinstance(inputs, Images)
        return Net(
            self.trunk(inputs, self.stochastic_depth),
            nn.Linear(self.stages[-1].channels, outputs),
            self,
        )


class Boxes(nn.Module):
    """What `CnnFcos` builds."""

    def __init__(self, trunk: nn.Sequential, cells: Cells, taken: list[int]) -> None:
        super().__init__()
        self.trunk, self.cells, self.taken = trunk, cells, taken

    def forward(self, x: Tensor) -> Tensor:
        told: Tensor = self.cells(taken(self.trunk, self.taken, x))
        return told


class CnnFcos(Trunk):
    """Convolutional networks whose maps tell boxes (FCOS, Tian et al. 2019)."""

    name: Literal["cnn-fcos"] = "cnn-fcos"
    reads: ClassVar[frozenset[str]] = frozenset({"pictures"})
    free: ClassVar[set[str]] = {"stochastic_depth"}
    head: Head = Field(default=Head(), description="which maps tell boxes, and how")
    stochastic_depth: Drop = 0.0

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, C, H, W) float in, (N, cells, outputs + 4) out."""
        assert isinstance(inputs, Images)
        trunk = self.trunk(inputs, self.stochastic_depth)
        stride = self.stem.stride
        maps = [(stride, self.stem.channels)] * (len(trunk) - len(self.stages))
        for stage in self.stages:
            stride *= 1 if stage.downsample == "none" else 2
            maps.append((stride, stage.channels))
        return Boxes(trunk, *self.head.build(maps, outputs, self.norm, self.activation))
