"""Convolutions, then recurrence: for spectrograms, whose columns are moments of time."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from automl.config import Model
from automl.data import Inputs
from automl.inputs.images import Images
from automl.models.layers import (
    Activation,
    Cell,
    Dropout,
    Norm,
    Pool,
    Recurrent,
    activation,
    norm,
    turn,
)

Channels = Annotated[int, Field(ge=1, le=1024)]


class Net(nn.Module):
    """What `Crnn` builds."""

    def __init__(self, crnn: Crnn, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        channels, bands, _ = shape
        halve = (2, 2 if crnn.halve == "both" else 1)
        blocks: list[nn.Module] = []
        for wanted in crnn.channels:
            bias = crnn.norm == "none"
            conv = nn.Conv2d(channels, wanted, crnn.kernel, padding="same", bias=bias)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            blocks += [conv, *norm(crnn.norm, wanted, maps=True)]
            blocks += [activation(crnn.activation), nn.MaxPool2d(halve, ceil_mode=True)]
            channels, bands = wanted, (bands + 1) // 2
        self.convolutions = nn.Sequential(*blocks)

        both = crnn.direction == "both"
        width = crnn.width * (2 if both else 1)
        sizes = [channels * bands] + [width] * (crnn.layers - 1)
        self.layers = nn.ModuleList(
            Recurrent(crnn.cell, size, crnn.width, both=both, norm=False, residual=False)
            for size in sizes
        )
        self.dropout = Dropout(crnn.dropout)
        self.pool = Pool(crnn.pooling, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        states = self.convolutions(x).flatten(1, 2).transpose(1, 2)  # (N, T, channels * bands)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=x.device)
        back = turn(mask)
        for layer in self.layers:
            states = layer(self.dropout(states), back)
        logits: Tensor = self.head(self.dropout(self.pool(states, mask)))
        return logits


class Crnn(Model):
    """Convolutions over bands and time, then a recurrent network along time (Choi et al. 2017)."""

    name: Literal["crnn"] = "crnn"
    free: ClassVar[set[str]] = {"dropout"}

    channels: list[Channels] = Field(
        default=[32, 64], min_length=1, max_length=6, description="filters of each convolution"
    )
    kernel: Literal[1, 3, 5, 7] = Field(3, description="side of the filters")
    halve: Literal["bands", "both"] = Field(
        "both", description="what each convolution halves: bands alone, or time with them"
    )
    norm: Norm = Field("batch", description="behind each convolution")
    activation: Activation = Field("relu", description="of each convolution")
    cell: Cell = Field("gru", description="what remembers")
    width: int = Field(64, ge=1, le=1024, description="units of a recurrent layer, each way")
    layers: int = Field(1, ge=1, le=4, description="recurrent ones, one upon the other")
    direction: Literal["forward", "both"] = Field("both", description="which way time is read")
    pooling: Literal["mean", "max", "attention"] = Field("max", description="of all moments to one")
    dropout: float = Field(
        0.0, ge=0, le=0.9, description="share zeroed before each recurrent layer and the head"
    )

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, C, bands, T) float in, (N, outputs) logits out."""
        assert isinstance(inputs, Images)
        return Net(self, inputs.shape, outputs)
