"""Small transformers over the columns of a table."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from automl.data import Inputs
from automl.inputs.columns import Cells
from automl.models.columns import Encoding, RowModel, Vectors
from automl.models.layers import Attention, Dropout


class Net(nn.Module):
    """What `FtTransformer` builds."""

    def __init__(self, form: FtTransformer, inputs: Cells, outputs: int) -> None:
        super().__init__()
        width = form.heads * form.head
        self.vectors = Vectors(inputs, form.numbers, width, width, form.embedding_dropout)
        columns = inputs.features + len(inputs.named) + len(inputs.texts)
        self.asked = nn.Parameter(torch.zeros(width))  # who hears all and answers
        self.places = nn.Parameter(torch.randn(columns, width) / width**0.5)
        self.layers = nn.ModuleList(
            Attention(form.heads, form.head, form.expand, form.dropout) for _ in range(form.layers)
        )
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(form.dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.cat(self.vectors.parts(x), 1) + self.places
        states = torch.cat([self.asked.expand(x.shape[0], 1, -1).to(states.dtype), states], 1)
        all_ = torch.ones(1, 1, 1, states.shape[1], dtype=torch.bool, device=x.device)
        for layer in self.layers:
            states = layer(states, None, all_)
        told: Tensor = self.head(self.dropout(self.norm(states[:, 0])))
        return told


class FtTransformer(RowModel):
    """Self-attention among the columns of a row, each a vector (Gorishniy et al. 2021)."""

    name: Literal["ft-transformer"] = "ft-transformer"

    heads: int = Field(4, ge=1, le=32, description="of attention, in each layer")
    head: Literal[4, 8, 16, 32, 64] = Field(
        16, description="width of a head; all heads together are the width of the network"
    )
    layers: int = Field(2, ge=1, le=16, description="one upon the other")
    expand: int = Field(2, ge=1, le=8, description="hidden width in multiples of the outer")
    numbers: SerializeAsAny[Encoding] = Field(
        default_factory=lambda: Encoding.of("linear"), description="to vectors"
    )
    dropout: float = Field(0.1, ge=0, le=0.9, description="share of units zeroed in training")

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, columns) in, (N, outputs) out."""
        assert isinstance(inputs, Cells)
        return Net(self, inputs, outputs)
