"""metrics.json of a model, as text from outside: what is not there is None, what is odd is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from automl.config import dotted, problems
from automl.errors import DataError


class Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Searched(Told):
    """What the search saw of the trial."""

    score: float | None = None
    trials: int | None = None
    seconds: float | None = None
    device_seconds: float | None = None


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

    trained: float
    loaded: float


class Member(Told):
    trial: int
    weight: float


class Ensemble(Told):
    members: list[Member] = []
    valid: float | dict[str, float] | None = None
    test: float | dict[str, float] | None = None
    gain: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None


class Metrics(Told):
    metric: str
    valid: dict[str, float]
    test: dict[str, float] | None = None
    chance: dict[str, str | float]
    baseline: dict[str, str | float]
    train_examples: int
    valid_examples: int
    test_examples: int | None = None
    trial: int | None = None
    seed: int | None = None
    epochs: int
    params: int
    macs: int | None = None
    size_mb: float | None = None
    search: Searched | None = None
    finalists: list[Finalist] | None = None
    refit: bool | None = None
    test_interval: tuple[float, float] | None = None
    test_interval_by: str | None = None
    valid_interval: tuple[float, float] | None = None
    classes: list[OfClass] | None = None
    confusion: list[list[int]] | None = None
    calibration: Calibration | None = None
    latency_ms: dict[str, float] | None = Field(None, description="by batch size")
    proof: Proof | None = None
    ensemble: Ensemble | None = None
    environment: dict[str, Any] | None = None
    data: str = ""
    warning: str | None = None

    @classmethod
    def read(cls, path: Path) -> Metrics:
        """Raises DataError with the file, the place in it and what is wrong there."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            place, message = problems(error)[0]
            raise DataError(f"{path}: {dotted(place)}: {message}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
