"""Weights alone, for code of one's own in any framework; the header says what they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from automl.config import Config, Export
from automl.exports.whole import Whole
from automl.results.artifact import Artifact
from automl.size import weightless


class Safetensors(Export):
    """safetensors: the weights under PyTorch's names, and the modules as PyTorch prints them."""

    name: Literal["safetensors"] = "safetensors"
    suffix: ClassVar[str] = ".safetensors"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")

    def write(self, whole: Any, file: Path, precision: str) -> None:
        weights = {k: w.clone().contiguous() for k, w in whole.model.state_dict().items()}
        more = {"modules": repr(whole.model), "fitted": json.dumps(whole.inputs.facts())}
        file.write_bytes(save(weights, {**whole.facts, **more}))  # save_file: for its owner alone

    def open(self, file: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
        """The runtime is the model that the config in the header builds."""
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
            names = opened.keys()  # it is no mapping, and cannot be gone through itself
            weights = {name: opened.get_tensor(name) for name in names}
        config, labels = Config.of(json.loads(facts["config"])), json.loads(facts["labels"])
        inputs = config.input.restore(facts["fitted"], facts.__getitem__)
        with weightless():
            model = config.model.build(inputs, len(labels) or inputs.outputs)
        whole = {
            name: weights[name].to(wanted.dtype) for name, wanted in model.state_dict().items()
        }
        model.load_state_dict(whole, assign=True)
        model.eval().requires_grad_(False)
        temperature = float(facts["temperature"])
        return Whole(
            Artifact(config, model, inputs, tuple(labels), {}, temperature=temperature)
        ), facts
