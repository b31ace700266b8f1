"""What a page reads of a model's metrics.json, as text from outside.

What is not there is None, what is odd is told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from automl.config import first_problem
from automl.errors import DataError


class Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Held(Told):
    """What a model is held against: its name and, by metric, its score."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float]

    name: str

    @property
    def scores(self) -> dict[str, float]:
        return self.__pydantic_extra__


class Finalist(Told):
    trial: int
    search: float | None = None  # its score in the search
    mean: float
    spread: float | None = None
    scores: list[float] = []
    summary: str = ""


class OfClass(Told):
    label: str
    examples: int
    precision: float | None = None
    recall: float | None = None
    recall_interval: tuple[float, float] | None = None
    f1: float | None = None


class OfColumn(Told):
    column: str
    mse: float | None = None
    mae: float | None = None
    mae_in_units: float | None = None


class InUnits(Told):
    """Errors of a model of numbers."""

    column: str
    rmse: float
    mae: float


class OfBoxes(Told):
    label: str
    boxes: int
    map: float | None = None
    map50: float | None = None


class Bleu(Told):
    score: float
    pairs: int


class Bin(Told):
    """Answers given with like confidence: how often they were right."""

    confidence: float
    accuracy: float
    share: float


class Calibration(Told):
    temperature: float = 1.0
    ece_before: float | None = None
    ece_after: float | None = None
    bins: list[Bin] = []


class Proof(Told):
    """The validation score as trained, and of the folder loaded by a new process."""

    trained: float | None = None
    loaded: float | None = None


class Member(Told):
    trial: int
    weight: float


class Ensemble(Told):
    members: list[Member] = []
    test: dict[str, float] = {}
    gain: float | None = None
    latency_ms: dict[str, float] = {}
    size_mb: float | None = None


class Federated(Told):
    clients: int
    taking_part: int  # of them in a round
    rounds: int
    sent_mb: float  # up and down, in all


class Metrics(Told):
    metric: str
    valid: dict[str, float]
    test: dict[str, float] | None = None
    chance: Held | None = None
    baseline: Held | None = None
    train_examples: int
    valid_examples: int
    test_examples: int | None = None
    trial: int | None = None
    params: int
    size_mb: float | None = None
    finalists: list[Finalist] | None = None
    refit: bool | None = None
    test_interval: tuple[float, float] | None = None
    test_interval_by: str | None = None
    valid_interval: tuple[float, float] | None = None
    classes: list[OfClass] | None = None
    confusion: list[list[int]] | None = None
    columns: list[OfColumn] | None = None
    boxes: list[OfBoxes] | None = None
    in_units: InUnits | None = None
    bleu: Bleu | None = None
    calibration: Calibration | None = None
    latency_ms: dict[str, float] | None = None  # by number of examples at once
    proof: Proof | None = None
    ensemble: Ensemble | None = None
    federation: Federated | None = None
    warning: str | None = None

    @model_validator(mode="after")
    def _scored(self) -> Self:
        for key, scores in (("valid", self.valid), ("test", self.test)):
            if scores is not None and self.metric not in scores:
                told = f"got {sorted(scores)}; want {self.metric!r} among them"
                raise PydanticCustomError("scores", "{told}", {"told": told, "key": key})
        for held in (self.chance, self.baseline):
            if held and self.metric not in held.scores:
                told = f"{held.name!r} has no {self.metric!r}"
                raise PydanticCustomError("scores", "{told}", {"told": told})
        return self

    @property
    def score(self) -> float:
        """On the validation split."""
        return self.valid[self.metric]

    @property
    def tested(self) -> float | None:
        return self.test[self.metric] if self.test else None

    @property
    def held(self) -> dict[str, float]:
        """What the model is held against, on the validation split, by name."""
        return {one.name: one.scores[self.metric] for one in (self.baseline, self.chance) if one}

    @classmethod
    def read(cls, path: Path) -> Metrics:
        """Raises DataError with the file, the place in it and what is wrong there."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise DataError(f"{path}: {first_problem(error)}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
