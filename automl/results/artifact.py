"""A trained model as a folder: config.yaml, model.safetensors, metrics.json, card.md.

The weights carry their labels and how raw input is prepared, so that no data set is needed to
predict. Opening a folder runs no code from it: names and shapes are compared before anything loads.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from automl.config import Config, Strict, dotted, problems
from automl.data import Data, Images, Split
from automl.errors import DataError
from automl.space import Space
from automl.training.loop import evaluate, predict

FILES = {"config.yaml", "model.safetensors", "metrics.json", "card.md"}
Side = Annotated[int, Field(ge=1, le=4096)]  # pixels


class Header(Strict):
    """What the weights file says of itself, checked like all text from outside."""

    shape: list[Side] = Field(min_length=3, max_length=3)  # C, H, W
    mean: list[float] = Field(max_length=3)
    std: list[Annotated[float, Field(gt=0)]] = Field(max_length=3)
    labels: list[str] = Field(min_length=1, max_length=100_000)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        channels = self.shape[0]
        if channels not in (1, 3) or not channels == len(self.mean) == len(self.std):
            told = "want 1 or 3 channels, with a mean and a deviation for each"
            raise PydanticCustomError("channels", "{told}", {"told": told})
        if len(set(self.labels)) < len(self.labels):
            raise PydanticCustomError("labels", "want no label twice")
        return self


@dataclass(frozen=True)
class Prediction:
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Artifact:
    """A model that is ready to use."""

    config: Config
    model: nn.Module
    inputs: Images
    labels: tuple[str, ...]
    metrics: dict[str, Any]
    path: Path | None = None

    def predict(self, raw: Any) -> list[Prediction]:
        """One prediction for each image in `raw`: paths, PIL images, arrays, tensors; one or many.

        See `Images.read` for what is taken. Raises DataError for what is no image.
        """
        x = self.inputs.read(raw)
        empty = Split(x, torch.zeros(len(x), dtype=torch.long))
        logits = torch.cat([part for part, _ in predict(self.model, empty, self.inputs)])
        return [self._prediction(shares) for shares in logits.softmax(1)]

    def _prediction(self, shares: Tensor) -> Prediction:
        probabilities = dict(zip(self.labels, shares.tolist(), strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        return Prediction(label, probabilities[label], probabilities)

    def evaluate(self, split: Split) -> dict[str, float]:
        """Loss and metrics of its task over a split."""
        return evaluate(self.model, split, self.inputs, self.config.task)

    @property
    def params(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())


def write(
    path: Path,
    config: Config,
    weights: dict[str, Tensor],
    data: Data,
    metrics: dict[str, Any],
    card: str,
) -> None:
    """The folder, whole or not at all; one that was there before is replaced."""
    fresh, stale = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    for folder in (fresh, stale):
        shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir(parents=True)
    header = Header(
        shape=list(data.inputs.shape),
        mean=list(data.inputs.mean),
        std=list(data.inputs.std),
        labels=list(data.labels),
    )
    whole = {name: weight.contiguous() for name, weight in weights.items()}
    (fresh / "model.safetensors").write_bytes(save(whole, {"automl": header.model_dump_json()}))
    (fresh / "config.yaml").write_text(yaml.safe_dump(config.dump(), sort_keys=False))
    (fresh / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (fresh / "card.md").write_text(card)
    if path.exists():
        os.replace(path, stale)
    os.replace(fresh, path)
    shutil.rmtree(stale, ignore_errors=True)


def load(path: Path | str, *, device: str = "cpu") -> Artifact:
    """Open a folder. Raises AutomlError with the file and what is wrong with it."""
    path = Path(path)
    config = Space.load(path / "config.yaml").config()
    file = path / "model.safetensors"
    try:
        with safe_open(file, "pt", device="cpu") as weights:
            header = Header.model_validate_json((weights.metadata() or {}).get("automl", ""))
            channels, height, width = header.shape
            inputs = Images((channels, height, width), tuple(header.mean), tuple(header.std))
            with torch.device("meta"):
                model = config.model.build(inputs, len(header.labels))
            wanted = {name: tuple(w.shape) for name, w in model.state_dict().items()}
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
            if wanted != found:
                odd = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
                raise DataError(f"{file}: {odd!r} does not fit the model in config.yaml")
            state = {name: weights.get_tensor(name) for name in wanted}
        for name, weight in model.state_dict().items():
            if state[name].dtype != weight.dtype:
                told = f"{name!r} holds {state[name].dtype}; want {weight.dtype}"
                raise DataError(f"{file}: {told}")
        metrics = json.loads((path / "metrics.json").read_text())
        if not isinstance(metrics, dict):
            raise DataError(f"{path / 'metrics.json'}: want a mapping of scores")
    except ValidationError as error:
        place, message = problems(error)[0]
        raise DataError(f"{file}: no model of automl: {dotted(place)}: {message}") from error
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a model: {error}") from error
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    model.to(device)
    return Artifact(config, model, inputs, tuple(header.labels), metrics, path)
