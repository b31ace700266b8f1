"""Multilayer perceptrons."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from automl.config import Model
from automl.data import Inputs
from automl.inputs.images import Images
from automl.models import layers

Width = Annotated[int, Field(ge=1, le=8192)]


class Mlp(Model):
    """Fully connected layers over all pixels."""

    name: Literal["mlp"] = "mlp"
    free: ClassVar[set[str]] = {"dropout"}
    widths: list[Width] = Field(
        default=[256, 256], min_length=1, max_length=8, description="units of each hidden layer"
    )
    activation: layers.Activation = Field(default="relu", description="after each hidden layer")
    norm: layers.Norm = Field(default="batch", description="before each activation")
    dropout: float = Field(
        default=0.0, ge=0, le=0.9, description="share of hidden units zeroed in training"
    )

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """(N, C, H, W) float in, (N, outputs) logits out. Hidden weights as in He et al. 2015."""
        assert isinstance(inputs, Images)
        modules: list[nn.Module] = [nn.Flatten()]
        last = math.prod(inputs.shape)
        for width in self.widths:
            linear = nn.Linear(last, width, bias=self.norm == "none")
            nn.init.kaiming_normal_(linear.weight)
            modules += [linear, *layers.norm(self.norm, width, maps=False)]
            modules += [layers.activation(self.activation), layers.Dropout(self.dropout)]
            last = width
        return nn.Sequential(*modules, nn.Linear(last, outputs))
