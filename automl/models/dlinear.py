"""Linear maps from the past of a series to what comes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model
from automl.data import Inputs
from automl.inputs.series import Lookback
from automl.models.layers import Anchor, Anchored, Dropout


class Line(nn.Module):
    """(N, C, length) to (N, C, horizon), one map for all columns or one for each."""

    def __init__(self, length: int, horizon: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((columns, length, horizon), 1 / length))
        self.bias = nn.Parameter(torch.zeros(columns, 1, horizon))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return x @ self.weight[0] + self.bias[0]
        return (x.transpose(0, 1) @ self.weight + self.bias).transpose(0, 1)


class Net(nn.Module):
    """What `DLinear` builds, without its anchor."""

    def __init__(self, form: DLinear, inputs: Lookback, outputs: int) -> None:
        super().__init__()
        columns = 1 if form.shared else outputs
        self.kernel = form.trend
        self.rest = Line(inputs.length, inputs.horizon, columns)
        self.trend = Line(inputs.length, inputs.horizon, columns) if self.kernel > 1 else None
        self.dropout = Dropout(form.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        if self.trend is None:
            told: Tensor = self.rest(x)
            return told
        before, behind = (self.kernel - 1) // 2, self.kernel // 2
        sums = F.pad(F.pad(x, (before, behind), "replicate").cumsum(2), (1, 0))
        trend = (sums[:, :, self.kernel :] - sums[:, :, : -self.kernel]) / self.kernel
        both: Tensor = self.rest(x - trend) + self.trend(trend)
        return both


class DLinear(Model):
    """Linear maps of the past, of its moving mean and of the rest (Zeng et al. 2023)."""

    name: Literal["dlinear"] = "dlinear"
    reads: ClassVar[frozenset[str]] = frozenset({"series"})
    free: ClassVar[set[str]] = {"dropout"}

    trend: int = Field(25, ge=1, le=1001, description="rows of the moving mean; 1: no own map")
    shared: bool = Field(True, description="one map for all columns, not one for each")
    anchor: Anchor = Field("last", description="what a past is moved to 0 by")
    dropout: float = Field(0.0, ge=0, le=0.9, description="share of the past zeroed in training")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, length, C) in, (N, horizon, C) out."""
        assert isinstance(inputs, Lookback)
        return Anchored(self.anchor, Net(self, inputs, outputs))
