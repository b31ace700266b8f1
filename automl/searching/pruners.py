"""Who decides, after every epoch, whether a trial goes on.

Optuna's own pruners are not used: with their defaults they decide at the first epoch, where ranks
say nothing of the end, and a median of five finished trials never comes in a short search.
"""

from __future__ import annotations

import math
import statistics
from typing import Literal

from pydantic import Field

from automl.config import Pruner


class Auto(Pruner):
    """Rungs at growing shares of the training; at each, only the best third goes on.

    Asynchronous successive halving (Li et al. 2020) without its brackets. The first rung is near a
    ninth of the training: earlier ranks mislead. A trial counts by its best epoch so far.
    """

    name: Literal["auto"] = "auto"
    first: float = Field(
        default=1 / 9, gt=0, le=1, description="first rung, as a share of all epochs"
    )
    factor: float = Field(
        default=3.0, ge=1.5, le=10, description="of each rung one in this many goes on"
    )
    wait: int = Field(
        default=3, ge=1, le=100, description="trials a rung must have seen before it stops one"
    )

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which is decided."""
        found: list[int] = []
        share = self.first
        while (rung := math.ceil(share * epochs)) < epochs:
            found.append(rung)
            share *= self.factor
        return sorted(set(found))

    def stop(self, curve: list[float], others: list[list[float]], epochs: int) -> str | None:
        rung = len(curve)
        if rung not in self.rungs(epochs):
            return None
        rivals = [max(other[:rung]) for other in others if len(other) >= rung]
        if len(rivals) < self.wait:
            return None
        best = max(curve)
        rank = 1 + sum(rival >= best for rival in rivals)  # a tie is no reason to spend more
        goes_on = max(1, math.floor((len(rivals) + 1) / self.factor))
        if rank <= goes_on:
            return None
        return f"rank {rank} of {len(rivals) + 1} at epoch {rung}"


class Median(Pruner):
    """Stops what is below the median of the others at the same epoch (Golovin et al. 2017)."""

    name: Literal["median"] = "median"
    warmup: int = Field(default=3, ge=1, le=1000, description="epochs before the first decision")
    wait: int = Field(default=3, ge=1, le=100, description="trials to compare with, at least")

    def stop(self, curve: list[float], others: list[list[float]], epochs: int) -> str | None:
        rung = len(curve)
        rivals = [max(other[:rung]) for other in others if len(other) >= rung]
        if rung < self.warmup or len(rivals) < self.wait:
            return None
        median = statistics.median(rivals)
        if max(curve) >= median:
            return None
        return f"below the median {median:.4g} at epoch {rung}"


class Never(Pruner):
    """Every trial trains to its end."""

    name: Literal["none"] = "none"

    def stop(self, curve: list[float], others: list[list[float]], epochs: int) -> str | None:
        return None
