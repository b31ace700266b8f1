"""A trained model as one module, from raw batches to answers. Knows no file format."""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call

from automl.errors import ExportError
from automl.inputs.text import Tokens
from automl.results.artifact import Artifact

KEPT = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RECURRENT = ("rnn_tanh", "gru", "lstm")  # as PyTorch calls their operators
FRAMES = 17  # of what is traced; no other size of a model is likely to be the same


class Whole(nn.Module):
    """Preprocessing, the model, its temperature; softmax, units of numbers, or what is found.

    Weights may be kept in half precision; arithmetic is in float32 always, on every device and in
    every runtime, so that what half precision costs is the rounding of the weights and no more.
    """

    def __init__(self, artifact: Artifact, precision: str = "float32") -> None:
        super().__init__()
        self.artifact, self.inputs = artifact, artifact.inputs
        self.temperature = artifact.temperature
        self.model = copy.deepcopy(artifact.model).cpu().eval()
        self.rounded = KEPT.get(precision, torch.float32) != torch.float32
        if self.rounded:
            for weight in self.model.parameters():
                weight.data = weight.data.to(KEPT[precision])

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (N, classes), or of the next token (N, T, tokens); rows; numbers; boxes."""
        if x.dtype == torch.int64:  # tokens, which lie in a split as int32
            x = x.int()
        x = self.inputs.prepare(x)
        if self.rounded:
            weights = {name: weight.float() for name, weight in self.model.named_parameters()}
            logits = functional_call(self.model, weights, (x,))
        else:
            logits = self.model(x)
        return self.inputs.told(logits / self.temperature)

    @property
    def output(self) -> str:
        """What it gives, as a name."""
        tells = self.artifact.config.task.tells
        return tells if tells in ("rows", "boxes", "numbers") else "probabilities"

    @property
    def facts(self) -> dict[str, str]:
        """What a file says of itself, as texts. The tokenizer is inside: one file, none to lose."""
        told = self.artifact
        return {
            "model": told.config.summary,
            "labels": json.dumps(told.labels),
            "input": json.dumps(self.inputs.recipe()),
            "temperature": str(self.temperature),
            "config": told.config.model_dump_json(),
            **self.inputs.files(),
        }

    def blank(self, count: int, length: int | None = None) -> Tensor:
        """A raw batch without content; of tokens at full length unless told otherwise."""
        recipe = self.inputs.recipe()
        free = {"N": count, "T": length or getattr(self.inputs, "length", 0)}
        shape = [free.get(side, side) for side in recipe["shape"]]
        return torch.ones(shape, dtype=getattr(torch, recipe["dtype"]))

    def traced(self) -> ExportedProgram:
        """As a graph in which the number of examples, and the length of texts, are free.

        A recurrent layer is one node, of the operator that PyTorch has for it but in our namespace:
        PyTorch's own would be unrolled to as many steps as the example has. Raises ExportError.
        """
        x = self.blank(5, FRAMES)
        free = (
            {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
            if isinstance(self.inputs, Tokens)
            else {0: Dim.DYNAMIC}
        )
        self(x)  # what is computed once is there, and no part of the graph
        try:
            with _one_node(self.model), quiet():
                return torch.export.export(self, (x,), dynamic_shapes=(free,), strict=False)
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"torch.export: {reason(error)}") from error


LIBRARY = torch.library.Library("automl", "DEF")


def _shapes(x: Tensor, state: Any, *_: Any) -> tuple[Tensor, ...]:
    states = state if isinstance(state, list | tuple) else [state]
    out = x.new_empty(x.shape[0], x.shape[1], states[0].shape[2])
    return (out, *(torch.empty_like(one) for one in states))


for _name in RECURRENT:
    _native = getattr(torch.ops.aten, _name).input
    LIBRARY.define(str(_native._schema).removeprefix("aten::").replace(".input(", "(", 1))
    LIBRARY.impl(_name, _native, "CompositeExplicitAutograd")
    torch.library.register_fake(f"automl::{_name}", _shapes, lib=LIBRARY)


class _Node:
    """A recurrent layer's `forward` as one call of our operator, from a state of zeros."""

    def __init__(self, layer: nn.RNNBase) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        layer = self.layer
        zeros = x.new_zeros(1, x.shape[0], layer.hidden_size)
        state = [zeros, zeros.clone()] if isinstance(layer, nn.LSTM) else zeros
        weights = [getattr(layer, name) for name in layer._flat_weights_names]
        call = getattr(torch.ops.automl, layer.mode.lower())
        told: tuple[Tensor, ...] = call(x, state, weights, True, 1, 0.0, False, False, True)
        return told


@contextmanager
def _one_node(model: nn.Module) -> Iterator[None]:
    """Recurrent layers of the kind that ours are: one layer, one way, batches first."""
    ours = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.RNNBase)
        and layer.mode.lower() in RECURRENT
        and (layer.batch_first, layer.bias, layer.bidirectional) == (True, True, False)
        and (layer.num_layers, layer.proj_size) == (1, 0)
    ]
    for layer in ours:
        layer.forward = _Node(layer)
    try:
        yield
    finally:
        for layer in ours:
            del layer.forward


@contextmanager
def quiet() -> Iterator[None]:
    """What exporters print, log and warn of is for their developers: graphs, advice, hopes."""
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


def reason(error: BaseException) -> str:
    """One line of what an exporter says: the operator or the code that it names, and its fault."""
    causes = [error]
    while causes[-1].__cause__:
        causes.append(causes[-1].__cause__)
    told = re.sub(r"\x1b\[\d*m", "", "\n".join(map(str, reversed(causes))))
    first = next(line.strip() for line in told.splitlines() if line.strip())
    if "specialized it to be a constant" in told:
        first = "the model's code fixes the number of examples or tokens, which must be free"
    if place := re.search(r'raised this error:\s+File "(.+)", line (\d+), .*\n *(.+)', told):
        first = f"{place[1]}:{place[2]}: {place[3]}: {first}"
    named = re.search(r"OpOverload\(op='([\w.:]+)'", told)
    named = named or re.search(r"\b((?:aten|automl|prims)(?:\.|::)\w+(?:\.\w+)?)", told)
    return f"operator {named[1]}: {first}" if named else first
