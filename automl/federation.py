"""Who holds the training examples, and how what several learn becomes one model.

Clients are simulated on one machine. What they hold is not hidden from it: an input part learns its
mean, deviation or vocabulary from all training examples together, and so are classes counted.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from automl.config import Federation
from automl.data import Split
from automl.errors import SpaceError

Whole = NDArray[np.int64]

LEAST = 2  # examples of a client: batch norm wants two


class Central(Federation):
    """All examples lie in one place."""

    name: Literal["none"] = "none"


class FedAvg(Federation):
    """Clients train by themselves, and their weights are averaged (McMahan et al. 2017).

    With `proximal` it is FedProx (Li et al. 2020), with `server_momentum` FedAvgM (Hsu et al.
    2019). An epoch is a round then, and `train.average` averages the server's weights over rounds.
    """

    name: Literal["fedavg"] = "fedavg"
    clients: int | None = Field(
        default=10,
        ge=1,
        le=10_000,
        description="how many hold the training examples; null: one for each group that the task"
        " holds apart, such as speakers",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Dirichlet concentration of each client's classes: a small one gives them few;"
        " null: examples are drawn evenly",
    )
    fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of the clients that take part in a round"
    )
    local_epochs: int = Field(
        default=1, ge=1, le=100, description="passes of a client over its examples in a round"
    )
    proximal: float = Field(
        default=0.0, ge=0, le=100, description="pull of clients to the global weights; 0: off"
    )
    server_lr: float = Field(
        default=1.0, gt=0, le=10, description="step towards the average of the clients' weights"
    )
    server_momentum: float = Field(
        default=0.0, ge=0, le=0.999, description="share of the server's last step kept"
    )

    @model_validator(mode="after")
    def _groups_are_as_they_are(self) -> Self:
        if self.clients is None and self.alpha is not None:
            told = f"got {self.alpha:g} with clients: null; groups hold what they hold, want null"
            raise PydanticCustomError("groups", "{told}", {"told": told, "key": "alpha"})
        return self

    def taking_part(self, clients: int) -> int:
        """How many of so many train in a round."""
        return max(1, round(self.fraction * clients))

    @property
    def passes(self) -> float:
        share = self.taking_part(self.clients) / self.clients if self.clients else self.fraction
        return self.local_epochs * share

    def held(self, split: Split, seed: int) -> list[Tensor]:
        """The examples of each client, by index, ascending int64 (n,): each is with one of them.

        Depends on `clients`, `alpha`, the seed, and of the examples on their number and classes; or
        on groups alone. Numbers of examples differ by 1 at most, but for those of groups. Raises
        SpaceError where somebody would hold too few.
        """
        if self.clients is None:
            return _by_group(split)
        count = len(split)
        if self.clients > count // LEAST:
            told = f"got {self.clients:,} for {count:,} training examples; want at most"
            raise SpaceError(f"federation.clients: {told} {count // LEAST:,}, with {LEAST} each")
        rng = np.random.default_rng(seed)
        order = rng.permutation(count)
        if self.alpha is not None:
            order = order[_by_class(split.y.numpy()[order], self.clients, self.alpha, rng)]
        return [torch.from_numpy(np.sort(part)) for part in np.array_split(order, self.clients)]


def _by_group(split: Split) -> list[Tensor]:
    if split.groups is None:
        told = "got null, and the task, as it is set, holds no groups such as speakers apart"
        raise SpaceError(f"federation.clients: {told}; want a number")
    names, counts = split.groups.unique(return_counts=True)
    if (few := int((counts < LEAST).sum())) > 0:
        told = f"got null, and {few:,} of {len(names):,} groups have fewer than {LEAST} training"
        raise SpaceError(f"federation.clients: {told} examples; want a number")
    return [(split.groups == name).nonzero().flatten() for name in names]


def _by_class(y: Whole, clients: int, alpha: float, rng: np.random.Generator) -> Whole:
    """Examples with classes `y` in an order of which each client takes the next part.

    Each draws shares of classes from a Dirichlet distribution around those of all, with `alpha` as
    the mean parameter, and then examples by these shares (Hsu et al. 2019). Where a class is used
    up its share goes to the others.
    """
    found, inverse, left = np.unique(y, return_inverse=True, return_counts=True)
    shelves = [np.flatnonzero(inverse == k) for k in range(len(found))]
    parameters = alpha * len(found) * left / left.sum()
    order = []
    for part in np.array_split(y, clients):
        shares = rng.dirichlet(parameters)
        wanted = np.zeros_like(left)
        while (lacking := len(part) - wanted.sum()) > 0:
            open_ = np.where(wanted < left, shares, 0.0)
            if not open_.sum():  # none of its classes has any more: of what there is
                open_ = left - wanted
            wanted += rng.multinomial(lacking, open_ / open_.sum())
            wanted = np.minimum(wanted, left)
        for k, count in enumerate(wanted):
            order.append(shelves[k][left[k] - count : left[k]])
        left = left - wanted
    return np.concatenate(order)
