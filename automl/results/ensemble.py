"""Several models whose probabilities are averaged: who is in it, and the folder it lies in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from automl.config import Strict, Task, first_problem
from automl.data import Split
from automl.errors import DataError
from automl.results import artifact
from automl.results.artifact import Artifact, Prediction, beside, noted, predictions
from automl.results.judgement import Judgement, averaged

ROUNDS = 20  # of the choice; with replacement, so that weights are multiples of a twentieth
MEMBERS = 5  # at most: each costs as much as a model of its own
FEWEST = 50  # validation examples below which nothing can be chosen


class Weights(Strict):
    """What ensemble.json holds: for each folder of a member what its answer counts."""

    members: dict[str, float] = Field(min_length=1, max_length=MEMBERS)


@dataclass(frozen=True)
class Ensemble:
    """Models of one task, ready to use together."""

    members: tuple[Artifact, ...]
    weights: tuple[float, ...]  # shares of 1
    metrics: dict[str, Any]
    path: Path

    @property
    def labels(self) -> tuple[str, ...]:
        return self.members[0].labels

    @property
    def params(self) -> int:
        return sum(member.params for member in self.members)

    def predict(self, raw: Any) -> list[Prediction]:
        """As of one model, see `Artifact.predict`."""
        raw = list(raw) if isinstance(raw, Iterator) else raw  # each member goes through it
        found = [member.probabilities(raw) for member in self.members]
        return predictions(mean(found, self.weights), self.labels)

    def evaluate(self, split: Split) -> dict[str, float]:
        return self.judge(split).scores

    def judge(self, split: Split) -> Judgement:
        """See `Artifact.judge`."""
        found = [member.judge(split).probabilities for member in self.members]
        return averaged(mean(found, self.weights), split.y.cpu(), self.members[0].config.task)


def load(path: Path | str, *, device: str = "cpu") -> Artifact | Ensemble:
    """Open the folder of a model, or of several. Raises AutomlError with the file and its fault."""
    path = Path(path)
    file = path / "ensemble.json"
    if not file.is_file():
        return artifact.load(path, device=device)
    try:
        weights = Weights.model_validate_json(beside(file)).members
    except ValidationError as error:
        raise DataError(f"{file}: {first_problem(error)}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    if not all(name.isdigit() for name in weights) or min(weights.values()) <= 0:
        raise DataError(f"{file}: want members by number, each with a weight above 0")
    members = tuple(artifact.load(path / name, device=device) for name in weights)
    if any(member.labels != members[0].labels or not member.labels for member in members):
        raise DataError(f"{file}: the members do not tell the same classes")
    total = sum(weights.values())
    return Ensemble(
        members, tuple(weight / total for weight in weights.values()), noted(path), path
    )


def mean(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(N, K) of several (N, K)."""
    shares = torch.tensor(weights).view(-1, 1, 1)
    return (torch.stack(list(probabilities)) * shares).sum(0)


def chosen(probabilities: Sequence[Tensor], y: Tensor) -> dict[int, float]:
    """Members and their shares: each next one betters the mean most, and may come again.

    Greedy selection with replacement (Caruana et al. 2004), by the log loss: a few hundred examples
    tell it apart better than they do accuracy. The best prefix is taken.
    """
    places = y.unsqueeze(1)
    shares = [told.double().gather(1, places).squeeze(1) for told in probabilities]
    right = torch.stack(shares).clamp_min(1e-12)  # (M, N): what each gives the right class
    total, order, losses = torch.zeros(len(y), dtype=torch.double), list[int](), list[float]()
    for size in range(1, ROUNDS + 1):
        loss = -((total + right) / size).log().mean(1)
        if len(set(order)) == MEMBERS:
            others = [member for member in range(len(right)) if member not in order]
            loss[others] = torch.inf
        best = int(loss.argmin())
        order.append(best)
        losses.append(float(loss[best]))
        total = total + right[best]
    size = 1 + losses.index(min(losses))
    return {member: order[:size].count(member) / size for member in dict.fromkeys(order[:size])}


@dataclass(frozen=True)
class Gain:
    """What an ensemble is better by than one model."""

    score: float  # of the task's metric, larger than 0 where that grew
    nats: float  # of the log loss, larger than 0 where that fell

    @property
    def worth(self) -> bool:
        return self.nats > 0 and self.score >= 0


def gain(probabilities: Sequence[Tensor], y: Tensor, single: Tensor, task: Task) -> Gain:
    """What choosing as above gives beyond one model (N, K), each half judged by the other's choice.

    What was chosen on an example says nothing about it; so no example is judged by its own choice.
    """
    half = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)) < len(y) // 2
    crossed = torch.empty_like(single)
    for chooses, judges in (half, ~half), (~half, half):
        members = chosen([told[chooses] for told in probabilities], y[chooses])
        told = mean([probabilities[m][judges] for m in members], list(members.values()))
        crossed[judges] = told.to(crossed.dtype)
    together, alone = (averaged(told, y, task).scores for told in (crossed, single))
    name = task.metric.name
    return Gain(together[name] - alone[name], alone["loss"] - together["loss"])
