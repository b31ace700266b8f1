"""Convolutions over a series that reach further back from layer to layer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs
from automl.inputs.series import Lookback
from automl.models.layers import Activation, Anchor, Anchored, Dropout, activation, cut


class Block(nn.Module):
    """Two convolutions that see no later step, beside a shortcut: (N, width, T) in and out."""

    def __init__(self, form: Tcn, dilation: int) -> None:
        super().__init__()
        self.reach = (form.kernel - 1) * dilation
        self.first, self.second = (
            nn.Conv1d(form.width, form.width, form.kernel, dilation=dilation) for _ in range(2)
        )
        self.act, self.dropout = activation(form.activation), Dropout(form.dropout)
        nn.init.kaiming_normal_(self.first.weight)
        for weight in self.second.parameters():
            nn.init.zeros_(weight)  # a shortcut at first (Zhang et al. 2019)

    def forward(self, x: Tensor) -> Tensor:
        told = self.dropout(self.act(self.first(F.pad(x, (self.reach, 0)))))
        both: Tensor = x + self.dropout(self.second(F.pad(told, (self.reach, 0))))
        return both


class Net(nn.Module):
    """What `Tcn` builds, without its anchor."""

    def __init__(self, form: Tcn, inputs: Lookback, outputs: int) -> None:
        super().__init__()
        self.patch, self.together = form.patch, form.columns == "together"
        self.horizon, channels = inputs.horizon, outputs if self.together else 1
        self.stem = nn.Linear(form.patch * channels, form.width)
        self.blocks = nn.Sequential(*(Block(form, 2**n) for n in range(form.layers)))
        self.head = nn.Linear(form.width, inputs.horizon * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, length) in, (N, C, horizon) out: from the last state."""
        count, columns = x.shape[:2]
        patches = cut(x, self.patch)
        # (N, patches, C * patch) or (N * C, patches, patch)
        steps = patches.transpose(1, 2).flatten(2) if self.together else patches.flatten(0, 1)
        states = self.blocks(self.stem(steps).transpose(1, 2))
        ahead: Tensor = self.head(states[:, :, -1]).view(count, columns, self.horizon)
        return ahead


class Tcn(Model):
    """A temporal convolutional network (Bai et al. 2018) over patches of a series."""

    name: Literal["tcn"] = "tcn"
    reads: ClassVar[frozenset[str]] = frozenset({"series"})
    free: ClassVar[set[str]] = {"dropout"}

    patch: int = Field(8, ge=1, le=512, description="rows that make one step")
    width: int = Field(64, ge=1, le=2048, description="channels of each layer")
    layers: int = Field(
        4, ge=1, le=12, description="one upon the other, each with twice the reach of the one below"
    )
    kernel: int = Field(3, ge=2, le=31, description="steps that a convolution sees")
    columns: Literal["alone", "together"] = Field(
        "alone", description="each column read for itself by the same network, or all at once"
    )
    activation: Activation = Field("relu", description="between the two convolutions of a layer")
    anchor: Anchor = Field("scale", description="what a past is moved to 0 by")
    dropout: float = Field(0.1, ge=0, le=0.9, description="share of units zeroed in training")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, length, C) in, (N, horizon, C) out."""
        assert isinstance(inputs, Lookback)
        return Anchored(self.anchor, Net(self, inputs, outputs))
