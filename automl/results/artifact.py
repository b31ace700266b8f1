"""A trained model as a folder: config.yaml, model.safetensors, metrics.json, card.md.

The weights carry their labels and how raw input is prepared, so that no data set is needed to
predict. Opening a folder runs no code from it: names and shapes are compared before anything loads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from automl.boxes import found
from automl.config import Config, Strict, first_problem, nearest
from automl.data import Inputs, Split
from automl.errors import DataError, OptionError
from automl.inputs.canvas import Canvas
from automl.inputs.series import Lookback
from automl.inputs.text import Paired, texts_of
from automl.places import regular
from automl.reader import as_yaml
from automl.results.generation import WIDEST, Draw, translated, written
from automl.results.judgement import Judgement, judge
from automl.size import weightless
from automl.space import Space
from automl.training.loop import predict

FILES = {"config.yaml", "model.safetensors", "metrics.json", "card.md", "tokenizer.json"}
LARGEST = 2**25  # bytes of a text beside the weights
COLDEST, HOTTEST = 1e-6, 1e6  # divided by these, logits stay finite in float32


class Header(Strict):
    """What the weights file says of itself, checked like all text from outside."""

    inputs: dict[str, Any]  # checked by the config's input part
    labels: list[str] = Field(max_length=100_000)
    temperature: float = Field(1.0, gt=0, le=1000)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise PydanticCustomError("labels", "want no label twice")
        return self


@dataclass(frozen=True)
class Prediction:
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Forecast:
    """The rows ahead, as a model tells them, in the units of its training data."""

    columns: tuple[str, ...]
    values: Tensor  # float32 (horizon, C), or (N, horizon, C) of a batch

    def __getitem__(self, column: str) -> Tensor:
        """(..., horizon) of one column. Raises DataError."""
        if column not in self.columns:
            told = f"no column is called {str(column)[:60]!r}{nearest(str(column), self.columns)}"
            raise DataError(f"forecast: {told}")
        return self.values[..., self.columns.index(column)]


@dataclass(frozen=True)
class Detection:
    """What was found in a picture."""

    label: str
    score: float  # how sure it is, and how well the box fits, 0 to 1
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture as given


LEAST = 0.4  # score of a box that is told; on blood cells 0.4 to 0.45 has the best F1 (validation)
USES = {  # what a model tells, in words, and what it is asked by
    "classes": ("tells classes", "predict"),
    "tokens": ("continues text", "generate"),
    "targets": ("makes a text of another", "translate"),
    "rows": ("tells rows ahead", "forecast"),
    "boxes": ("tells boxes", "detect"),
    "numbers": ("tells numbers", "estimate"),
}


@dataclass(frozen=True)
class Artifact:
    """A model that is ready to use."""

    config: Config
    model: nn.Module
    inputs: Inputs
    labels: tuple[str, ...]
    metrics: dict[str, Any]
    path: Path | None = None
    temperature: float = 1.0  # that logits are divided by, so that probabilities come true

    def predict(self, raw: Any) -> list[Prediction]:
        """One prediction for each example in `raw`, which is one or many.

        Images and sounds are paths or arrays, texts are texts, rows of a table a data frame, a path
        or mappings of columns to values; see `read` of the model's `inputs`.
        Raises DataError for what is none of these, and for a model that tells no classes.
        """
        return predictions(self.probabilities(raw), self.labels)

    def probabilities(self, raw: Any) -> Tensor:
        """(N, K) for the same, on the CPU."""
        self._must_tell("classes")
        split = self.inputs.read(raw).to(self.device)
        found = torch.empty(len(split), len(self.labels))
        for index, logits, _ in predict(self.model, split, self.inputs):
            found[index.cpu()] = (logits / self.temperature).softmax(1).cpu()
        return found

    def estimate(self, raw: Any) -> list[float]:
        """The number for each row in `raw`, in the units of its training data.

        Rows as a data frame, the path of a table, a mapping of columns to values or a list of
        these; see `read` of the model's `inputs`. Raises DataError for what is none of these and
        for a model that tells no numbers.
        """
        self._must_tell("numbers")
        split = self.inputs.read(raw).to(self.device)
        rows = [rows for _, rows, _ in predict(self.model, split, self.inputs)]
        told: list[float] = self.inputs.told(torch.cat(rows)).squeeze(1).tolist()
        return told

    def detect(self, raw: Any, *, least: float = LEAST) -> list[list[Detection]]:
        """What is found in each picture in `raw`, which is one or many, the surest first.

        Pictures are of any size, as paths or arrays; see `read` of the model's `inputs`. Boxes with
        a score below `least` are left out, and there are 100 at most. Raises DataError for what is
        no picture and for a model that tells no boxes, and OptionError.
        """
        self._must_tell("boxes")
        assert isinstance(self.inputs, Canvas)
        if not isinstance(least, int | float) or not 0 <= least <= 1:
            raise OptionError(f"least: got {least!r}; want a number from 0 to 1")
        split = self.inputs.read(raw)
        told = [
            self.inputs.uncovered(found(cells), split.y[index.cpu()].to(cells.device)).cpu()
            for index, cells, _ in predict(self.model, split.to(self.device), self.inputs)
        ]
        return [
            [
                Detection(self.labels[int(label)], score, (x1, y1, x2, y2))
                for label, x1, y1, x2, y2, score in rows
                if label >= 0 and score >= least
            ]
            for rows in torch.cat(told).tolist()
        ]

    def forecast(self, raw: Any) -> Forecast:
        """The rows that follow those in `raw`: one series up to now, or a batch of them.

        A path of a table, a data frame or an array (T, C), or a batch (N, T, C), in the units of
        the training data; see `read` of the model's `inputs`. Raises DataError for what is none of
        these or too short, and for a model that tells no rows.
        """
        self._must_tell("rows")
        assert isinstance(self.inputs, Lookback)
        split = self.inputs.read(raw).to(self.device)
        rows = [rows for _, rows, _ in predict(self.model, split, self.inputs)]
        values = self.inputs.told(torch.cat(rows)).cpu()
        return Forecast(self.inputs.names, values if np.ndim(raw) == 3 else values[0])

    @overload
    def translate(self, raw: str, *, beam: int = 1) -> str: ...  # type: ignore[overload-overlap] # it iterates, too

    @overload
    def translate(self, raw: Iterable[str], *, beam: int = 1) -> list[str]: ...

    def translate(self, raw: str | Iterable[str], *, beam: int = 1) -> str | list[str]:
        """The target of a text, or of each of several: in another language, say.

        The likeliest token again and again, up to the end (greedy); with a `beam` so many
        beginnings are kept at a time, for about as many times the seconds. Raises OptionError,
        and DataError for what is no text and for a model that was not trained on pairs.
        """
        self._must_tell("targets")
        assert isinstance(self.inputs, Paired)
        if not isinstance(beam, int) or not 1 <= beam <= WIDEST:
            raise OptionError(f"beam: got {beam!r}; want a whole number from 1 to {WIDEST}")
        told = translated(self.model, self.inputs, texts_of(raw), self.device, beam)
        return told[0] if isinstance(raw, str) else told

    def generate(
        self,
        prompt: str = "",
        *,
        length: int = 400,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """`length` characters that may follow the prompt. See `stream`."""
        return "".join(
            self.stream(
                prompt, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
            )
        )

    def stream(
        self,
        prompt: str = "",
        *,
        length: int = 400,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The same piece by piece, as it is drawn.

        `temperature` divides the logits, 0 takes the likeliest token; `top_k` draws from so many
        tokens at most, 0 from all; `top_p` from the likeliest that hold this share together
        (Holtzman et al. 2020). Raises OptionError, and DataError for a model of classes or no text.
        """
        self._must_tell("tokens")
        if not isinstance(prompt, str):
            raise DataError(f"prompt: got {type(prompt).__name__}; want a text")
        if odd := re.search("[\ud800-\udfff]", prompt):
            raise DataError(f"prompt: got {odd[0]!r}, which is no character; want a text")
        for option, told in {"length": length, "top_k": top_k, "seed": seed}.items():
            if not isinstance(told, int):
                raise OptionError(f"{option}: got {told!r}; want a whole number")
        for option, share in {"temperature": temperature, "top_p": top_p}.items():
            if not isinstance(share, int | float):
                raise OptionError(f"{option}: got {share!r}; want a number")
        warm = temperature == 0 or COLDEST <= temperature <= HOTTEST
        if length < 1 or not warm or top_k < 0 or not 0 < top_p <= 1 or not 0 <= seed < 2**63:
            raise OptionError(
                f"generate: got length {length}, temperature {temperature}, top_k {top_k}, top_p "
                f"{top_p}, seed {seed}; want length >= 1, temperature 0 or {COLDEST:g} to "
                f"{HOTTEST:g}, top_k >= 0, 0 < top_p <= 1, 0 <= seed < 2**63"
            )
        draw = Draw(temperature, top_k, top_p, torch.Generator().manual_seed(seed))
        return written(self.model, self.inputs, prompt, length, draw, self.device)

    def _must_tell(self, wanted: str) -> None:
        if (tells := self.config.task.tells) != wanted:
            what, by = USES[tells]
            raise DataError(f"{self.path}: {what}; use {by}")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def evaluate(self, split: Split) -> dict[str, float]:
        """Loss and metrics of its task over a split as the task gives it."""
        return self.judge(split).scores

    def judge(self, split: Split) -> Judgement:
        """The same with all answers, and how sure one can be of the scores."""
        encoded = self.inputs.encode(split).to(self.device)
        return judge(self.model, encoded, self.inputs, self.config.task, self.temperature)

    @property
    def params(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())


def predictions(probabilities: Tensor, labels: Sequence[str]) -> list[Prediction]:
    told = []
    for row in probabilities.tolist():
        shares = dict(zip(labels, row, strict=True))
        label = max(shares, key=lambda name: shares[name])
        told.append(Prediction(label, shares[label], shares))
    return told


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `path` when it is whole, and not before."""
    fresh, stale = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    for folder in (fresh, stale):
        shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    if path.exists():
        os.replace(path, stale)
    os.replace(fresh, path)
    shutil.rmtree(stale, ignore_errors=True)


def write(
    folder: Path,
    config: Config,
    weights: dict[str, Tensor],
    inputs: Inputs,
    labels: Sequence[str],
    temperature: float = 1.0,
) -> None:
    """Into an empty folder. What is known of the model comes beside it, see `describe`."""
    header = Header(inputs=inputs.facts(), labels=list(labels), temperature=temperature)
    whole = {name: weight.clone().contiguous() for name, weight in weights.items()}  # none shared
    (folder / "model.safetensors").write_bytes(save(whole, {"automl": header.model_dump_json()}))
    for name, content in inputs.files().items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "config.yaml").write_text(as_yaml(config.dump()))


def describe(folder: Path, metrics: dict[str, Any], card: str) -> None:
    """What is known of a model, for machines and for people."""
    note(folder, metrics)
    put(folder / "card.md", card)


def note(folder: Path, metrics: dict[str, Any]) -> None:
    put(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def put(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # or a power cut may leave a name without what it names
    os.replace(fresh, path)


def noted(folder: Path) -> dict[str, Any]:
    """What metrics.json holds. Raises DataError."""
    try:
        metrics = json.loads(beside(folder / "metrics.json"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder}: cannot be read as a model: {error}") from error
    if not isinstance(metrics, dict):
        raise DataError(f"{folder / 'metrics.json'}: want a mapping of scores")
    return metrics


def beside(file: Path) -> str:
    """A text of the folder. Raises DataError for one that no model has."""
    if regular(file).stat().st_size > LARGEST:
        raise DataError(f"{file}: larger than {LARGEST:,} bytes")
    return file.read_text(encoding="utf-8")


def load(path: Path | str, *, device: str = "cpu") -> Artifact:
    """Open a folder. Raises AutomlError with the file and what is wrong with it."""
    path = Path(path)
    file = path / "model.safetensors"
    try:
        config = Space.load(regular(path / "config.yaml")).config()
        with safe_open(regular(file), "pt", device="cpu") as weights:
            header = Header.model_validate_json((weights.metadata() or {}).get("automl", ""))
            if bool(header.labels) != (config.task.tells in ("classes", "boxes")):
                raise DataError(f"{file}: got {len(header.labels)} labels for {config.task.name}")
            facts = json.dumps(header.inputs)
            try:
                inputs = config.input.restore(facts, lambda name: beside(path / name))
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
            if isinstance(inputs, Paired) != (config.task.tells == "targets"):
                raise DataError(f"{file}: inputs {inputs.summary} for {config.task.name}")
            with weightless():
                model = config.model.build(inputs, len(header.labels) or inputs.outputs)
            wanted = {name: tuple(w.shape) for name, w in model.state_dict().items()}
            names = weights.keys()  # it is no mapping, and cannot be gone through itself
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in names}
            if wanted != found:
                odd = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
                raise DataError(f"{file}: {odd!r} does not fit the model in config.yaml")
            state = {name: weights.get_tensor(name) for name in wanted}
        for name, weight in model.state_dict().items():
            if state[name].dtype != weight.dtype:
                told = f"{name!r} holds {state[name].dtype}; want {weight.dtype}"
                raise DataError(f"{file}: {told}")
    except ValidationError as error:
        raise DataError(f"{file}: no model of automl: {first_problem(error)}") from error
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a model: {error}") from error
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    model.to(device)
    labels = tuple(header.labels)
    return Artifact(config, model, inputs, labels, noted(path), path, header.temperature)
