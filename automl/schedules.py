"""How the learning rate moves over a training. Progress is the share of all steps, 0 to 1."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from automl.config import Schedule


def _rise(progress: float, warmup: float) -> float:
    """From 0 to 1 over the warm-up, then 1."""
    return min(1.0, progress / warmup) if warmup else 1.0


class Wsd(Schedule):
    """Warm up, stay, cool down (Hu et al. 2024; linear as in Hägele et al. 2024)."""

    name: Literal["wsd"] = "wsd"
    warmup: float = Field(
        default=0.05, ge=0, le=1, description="share of all steps before the peak learning rate"
    )
    cooldown: float = Field(
        default=0.3, ge=0, le=1, description="share of all steps after the peak learning rate"
    )
    floor: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end as a share of its peak"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (total := self.warmup + self.cooldown) > 1:
            told = f"warmup and cooldown take {total:g} of all steps together; want at most 1"
            raise PydanticCustomError("warmup_cooldown", "{told}", {"told": told})
        return self

    def factor(self, progress: float) -> float:
        left = min(1.0, (1 - progress) / self.cooldown) if self.cooldown else 1.0
        return min(_rise(progress, self.warmup), self.floor + (1 - self.floor) * left)


class Cosine(Schedule):
    """Warm up, then half a cosine down (Loshchilov & Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="share of all steps before the peak learning rate"
    )
    floor: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end as a share of its peak"
    )

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return _rise(progress, self.warmup)
        fall = (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * fall)) / 2


class Linear(Schedule):
    """One triangle: up in a line, down in a line to 0 (as in airbench, Jordan 2024)."""

    name: Literal["linear"] = "linear"
    warmup: float = Field(
        default=0.2, ge=0, lt=1, description="share of all steps before the peak learning rate"
    )

    def factor(self, progress: float) -> float:
        return min(_rise(progress, self.warmup), (1 - progress) / (1 - self.warmup))


class Constant(Schedule):
    """The peak learning rate throughout."""

    name: Literal["constant"] = "constant"

    def factor(self, progress: float) -> float:
        return 1.0
