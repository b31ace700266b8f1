"""Recurrent networks over patches of a series, that tell all patches ahead at once."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from automl.config import Model
from automl.data import Inputs
from automl.inputs.series import Lookback
from automl.models.layers import Anchor, Anchored, Cell, Dropout, Recurrent, cut, turn


class Net(nn.Module):
    """What `SegRnn` builds, without its anchor."""

    def __init__(self, form: SegRnn, inputs: Lookback, outputs: int) -> None:
        super().__init__()
        self.patch, self.horizon, width = form.patch, inputs.horizon, form.width
        self.stem = nn.Sequential(nn.Linear(form.patch, width), nn.ReLU())
        self.layers = nn.ModuleList(
            Recurrent(form.cell, width, width, both=False, norm=False, residual=number > 0)
            for number in range(form.layers)
        )
        ahead = -(-inputs.horizon // form.patch)
        self.places = nn.Parameter(torch.randn(ahead, width) / width**0.5)
        self.columns = nn.Parameter(torch.randn(outputs, 1, width) / width**0.5)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), Dropout(form.dropout))
        self.head = nn.Linear(width, form.patch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, length) in, (N, C, horizon) out, each column for itself."""
        count, columns = x.shape[:2]
        states = self.stem(cut(x, self.patch).flatten(0, 1))
        back = turn(torch.ones(states.shape[:2], dtype=torch.bool, device=x.device))
        for layer in self.layers:
            states = layer(states, back)
        last = states[:, -1].view(count, columns, 1, -1).expand(-1, -1, len(self.places), -1)
        where = (self.columns + self.places).expand(count, -1, -1, -1)
        patches: Tensor = self.head(self.mix(torch.cat([last, where], 3)))
        return patches.flatten(2)[:, :, : self.horizon]


class SegRnn(Model):
    """A recurrent network over patches, after SegRNN (Lin et al. 2023).

    Its last state is put beside what says which column and which patch ahead is asked for.
    """

    name: Literal["segrnn"] = "segrnn"
    reads: ClassVar[frozenset[str]] = frozenset({"series"})
    free: ClassVar[set[str]] = {"dropout"}

    cell: Cell = Field("gru", description="what remembers")
    patch: int = Field(24, ge=1, le=512, description="rows that make one step")
    width: int = Field(128, ge=1, le=2048, description="units of a layer")
    layers: int = Field(1, ge=1, le=4, description="one upon the other")
    anchor: Anchor = Field("last", description="what a past is moved to 0 by")
    dropout: float = Field(0.1, ge=0, le=0.9, description="share of units zeroed in training")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, length, C) in, (N, horizon, C) out."""
        assert isinstance(inputs, Lookback)
        return Anchored(self.anchor, Net(self, inputs, outputs))
