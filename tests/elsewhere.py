"""What runs on a GPU mixes no devices and waits for none, as far as a pretended one can tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_detection
import test_series
import test_sound
import test_tables
import test_text_input
import test_translation
import torch
from pretended import DEVICE, There, pretended
from test_exports import PLACES, SMALL, made
from test_federation import fedavg
from test_sequence_models import stirred
from test_training import busy, told
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from automl.config import Config, Model, Task
from automl.data import Data, Epoch
from automl.results.artifact import Artifact
from automl.training import train
from automl.training.cost import latency_ms
from automl.training.loop import encoded
from automl.training.precision import Precision
from automl.training.step import Step

CPU = torch.device("cpu")
INPUTS: dict[str, Any] = {
    "maps": "pixels",
    "pictures": "canvas",
    "sounds": {"name": "logmel", "mels": 16},
    "tokens": "words",
    "next tokens": {"name": "characters", "length": 16},
    "pairs": "characters",
    "series": {"name": "window", "length": 24},
    "columns": "row",
    "numbers": "row",
}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, reads, {}) for name, one in Model.members().items() for reads in sorted(one.reads)),
    ("cnn", "sounds", {}),
    ("rnn", "tokens", {"cell": "lstm", "direction": "both", "pooling": "attention"}),
    ("rnn", "pairs", {"cell": "vanilla"}),
    ("transformer", "pairs", {}),
    ("tabm", "columns", {"ensemble": 1}),
    ("tabm", "numbers", {"numbers": "periodic"}),
    ("ft-transformer", "numbers", {"numbers": "piecewise"}),
]
CHANGES: dict[str, Any] = {
    "maps": {"name": "images", "flip": True, "crop": 1, "cutout": 2, "mixup": 0.4},
    "pictures": {"name": "pictures", "flip": True},
    "sounds": {"name": "spectrogram"},
}
IDS = [" ".join([name, reads, *map(str, knobs.values())]) for name, reads, knobs in CASES]
ROW = {"a": 1, "b": 2, "c": None, "d": "x", "e": "?", "f": "p r"}
TOLD = {  # what a model is asked, by what it reads
    "maps": lambda model: model.probabilities(np.full((2, 9, 9, 3), 100, np.uint8)),
    "sounds": lambda model: model.probabilities([torch.linspace(-1, 1, 4000)]),
    "tokens": lambda model: model.probabilities(["a b c", "", "g h"]),
    "next tokens": lambda model: model.generate("abc", length=8, temperature=0),
    "pairs": lambda model: [model.translate("abc"), model.translate(["ab", "c"], beam=2)],
    "series": lambda model: model.forecast(np.linspace(0, 9, 60).reshape(30, 2)).values,
    "columns": lambda model: model.probabilities(
        {"a": 1, "b": 2, "c": None, "d": "x", "e": "?", "f": "p r"}
    ),
    "numbers": lambda model: model.estimate(
        {"a": 1, "b": 2, "c": None, "d": "x", "e": "?", "f": "p r"}
    ),
    "pictures": lambda model: model.detect(np.full((50, 70, 3), 90, np.uint8), least=0.0),
}


@pytest.fixture(autouse=True)
def _as_on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Precision, "of", classmethod(lambda cls, device: cls(device, False)))
    yield
    encoded.cache_clear()


def data_of(reads: str, folder: Path) -> Data:
    """A few examples."""
    match reads:
        case "pictures":
            return test_detection.data_of(6)
        case "sounds":
            return test_sound.data(12)
        case "tokens":
            return test_text_input.classes(test_text_input.TEXTS[:20])
        case "next tokens":
            return test_text_input.prose("the quick brown fox jumps. " * 12)
        case "pairs":
            pairs = test_translation.shouted(20)
            return test_translation.data_of(pairs[:14], pairs[14:])
        case "series":
            return test_series.data_of(test_series.waves(90), 4, 60, 30)
        case "columns":
            rows = test_tables.sorted_out(test_tables.table(40))
            return test_tables.classes(test_tables.written(folder, rows), texts=["name"])
        case "numbers":
            return test_tables.regression(test_tables.written(folder, test_tables.table(40)))
    return Task.of({"name": "digits", "per_class": 4}).load(None)


def config_of(name: str, reads: str, **knobs: Any) -> Config:
    model = {"name": name} | SMALL.get(name, {}) | knobs
    chances = {"dropout", "embedding_dropout"} & Model.members()[name].model_fields.keys()
    model |= dict.fromkeys(chances, 0.0)
    return Config.of(
        {
            "task": PLACES[reads],
            "input": INPUTS[reads],
            "model": model,
            "augment": CHANGES.get(reads, "none"),
            "optimizer": {"name": "sgd", "lr": 0.01},  # Adam makes much of the last digit
            "train": {"epochs": 2, "batch_size": 6},
        }
    )


def run(config: Config, data: Data, there: torch.device, **options: Any) -> list[Epoch]:
    encoded.cache_clear()
    with sdpa_kernel(SDPBackend.MATH):  # a CPU has another, which rounds otherwise
        return list(train(config, data, device=there, **options))


@pytest.mark.parametrize(("name", "reads", "knobs"), CASES, ids=IDS)
def test_a_training_is_the_same_there_and_waits_once_an_epoch(
    name: str, reads: str, knobs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = data_of(reads, tmp_path), config_of(name, reads, **knobs)
    here, waited = run(config, data, CPU), list[int]()
    epoch = Step.epoch

    def counted(self: Step, number: int) -> tuple[float, int]:
        found.waits.clear()
        try:
            return epoch(self, number)
        finally:
            waited.append(found.waits.total())

    monkeypatch.setattr(Step, "epoch", counted)
    with pretended() as found:
        there = run(config, data, DEVICE)
    assert waited[-1] == 1, "what the loss is, and nothing else"
    for one, other in zip(here, there, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, abs=1e-6)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)


FIRST = {reads: name for name, reads, _ in reversed(CASES)}


@pytest.mark.parametrize("reads", TOLD)
def test_what_a_model_tells_there_it_tells_here(reads: str) -> None:
    name = FIRST[reads]
    model = made({"name": name} | SMALL.get(name, {}), reads)
    here = TOLD[reads](model)
    with pretended():
        model.model.to(DEVICE)
        there = TOLD[reads](model)
        assert latency_ms(model.model, model.inputs, 2, DEVICE) > 0
    if isinstance(here, Tensor):
        assert not isinstance(there, There)
        torch.testing.assert_close(there, here)
    elif reads == "numbers":
        assert there == pytest.approx(here)
    else:
        assert there == here


@pytest.mark.parametrize("reads", TOLD)
def test_what_is_judged_there_is_judged_as_here(reads: str, tmp_path: Path) -> None:
    data, config = data_of(reads, tmp_path), config_of(FIRST[reads], reads)
    inputs = config.input.fit(data)
    net = stirred(config.model.build(inputs, len(data.labels) or inputs.outputs)).eval()
    model = Artifact(config, net, inputs, tuple(data.labels), {})
    here = model.judge(data.valid)
    with pretended():
        net.to(DEVICE)
        there = model.judge(data.valid)
    assert there.scores == pytest.approx(here.scores, rel=1e-4)
    ends = [astuple(one.interval)[:2] if one.interval else () for one in (here, there)]
    assert ends[1] == pytest.approx(ends[0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "muon"},
        {"federation": fedavg(server_momentum=0.5)},
        {"train": {"class_weights": "inverse"}},
    ],
    ids=str,
)
def test_a_training_goes_on_there_as_if_never_stopped(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    data = Task.of({"name": "digits", "per_class": 4}).load(None)
    config = busy(**({"optimizer": "adamw"} | changes))
    with pretended():
        whole = told(run(config, data, DEVICE))
        half = told(run(config, data, DEVICE, checkpoint=tmp_path / "c", until=2))
        again = told(run(config, data, DEVICE, checkpoint=tmp_path / "c"))
    assert half == whole[:2]
    assert again == whole
