"""Multilayer perceptrons along the rows of a series and across its columns, in turns."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from automl.config import Model
from automl.data import Inputs
from automl.inputs.series import Lookback
from automl.models.layers import Activation, Anchor, Anchored, Dropout, activation


class Mixer(nn.Module):
    """(N, C, length) in and out: along time, then across columns, each beside a shortcut."""

    def __init__(self, form: TsMixer, length: int, columns: int) -> None:
        super().__init__()
        act, drop = activation(form.activation), Dropout(form.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(length) for _ in range(2))
        self.time = nn.Sequential(nn.Linear(length, length), act, drop)
        self.across = nn.Sequential(
            nn.Linear(columns, form.width), act, drop, nn.Linear(form.width, columns), drop
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norms
        x = x + self.time(first(x))
        both: Tensor = x + self.across(second(x).transpose(1, 2)).transpose(1, 2)
        return both


class TsMixer(Model):
    """Mixing along time and across columns (Chen et al. 2023), norms ahead of each part."""

    name: Literal["tsmixer"] = "tsmixer"
    reads: ClassVar[frozenset[str]] = frozenset({"series"})
    free: ClassVar[set[str]] = {"dropout"}

    layers: int = Field(2, ge=1, le=16, description="one upon the other")
    width: int = Field(32, ge=1, le=2048, description="units between columns and columns")
    activation: Activation = Field("relu", description="of both parts")
    anchor: Anchor = Field("scale", description="what a past is moved to 0 by")
    dropout: float = Field(0.1, ge=0, le=0.9, description="share of units zeroed in training")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, length, C) in, (N, horizon, C) out."""
        assert isinstance(inputs, Lookback)
        mixers = [Mixer(self, inputs.length, outputs) for _ in range(self.layers)]
        net = nn.Sequential(*mixers, nn.Linear(inputs.length, inputs.horizon))
        return Anchored(self.anchor, net)
