"""Small transformers over patches of a series."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from automl.config import Model
from automl.data import Inputs
from automl.inputs.series import Lookback
from automl.models.layers import Anchor, Anchored, Attention, Dropout, cut, rotation


class Net(nn.Module):
    """What `PatchTst` builds, without its anchor."""

    def __init__(self, form: PatchTst, inputs: Lookback) -> None:
        super().__init__()
        width, self.patch, self.head_width = form.heads * form.head, form.patch, form.head
        patches = -(-inputs.length // form.patch)
        self.stem = nn.Linear(form.patch, width)
        self.layers = nn.ModuleList(
            Attention(form.heads, form.head, form.expand, form.dropout) for _ in range(form.layers)
        )
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(form.dropout)
        self.head = nn.Linear(patches * width, inputs.horizon)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, length) in, (N, C, horizon) out, each column for itself."""
        states = self.dropout(self.stem(cut(x, self.patch).flatten(0, 1)))
        steps = torch.arange(states.shape[1], device=x.device)
        all_ = torch.ones(1, 1, 1, len(steps), dtype=torch.bool, device=x.device)
        for layer in self.layers:
            states = layer(states, rotation(steps, self.head_width), all_)
        ahead: Tensor = self.head(self.dropout(self.norm(states).flatten(1)))
        return ahead.view(*x.shape[:2], -1)


class PatchTst(Model):
    """Self-attention over patches (Nie et al. 2023), with rotary positions (Su et al. 2021)."""

    name: Literal["patchtst"] = "patchtst"
    reads: ClassVar[frozenset[str]] = frozenset({"series"})
    free: ClassVar[set[str]] = {"dropout"}

    patch: int = Field(16, ge=1, le=512, description="rows that make one step")
    heads: int = Field(4, ge=1, le=32, description="of attention, in each layer")
    head: Literal[4, 8, 16, 32, 64] = Field(
        16, description="width of a head; all heads together are the width of the network"
    )
    layers: int = Field(2, ge=1, le=16, description="one upon the other")
    expand: int = Field(2, ge=1, le=8, description="hidden width in multiples of the outer")
    anchor: Anchor = Field("scale", description="what a past is moved to 0 by")
    dropout: float = Field(0.2, ge=0, le=0.9, description="share of units zeroed in training")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, length, C) in, (N, horizon, C) out."""
        assert isinstance(inputs, Lookback)
        return Anchored(self.anchor, Net(self, inputs))
