"""A model as a table of its layers, as they are and not as the config says. Needs no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from automl.config import Config, clipped
from automl.data import Inputs
from automl.size import weigh, weightless

LONGEST = 100  # characters of what a layer says of itself


@dataclass(frozen=True)
class Layer:
    name: str  # in the weights file; a dot is the model itself
    kind: str
    output: list[int]  # shape for one example; texts at their full length
    params: int


def layers(config: Config, inputs: Inputs, outputs: int) -> list[Layer]:
    """In the order in which an example meets them: those with weights, or of another shape.

    A layer that is met twice is told once.
    """
    with weightless():
        model, x = config.model.build(inputs, outputs).eval(), inputs.example(2)
    found: dict[str, Layer] = {}

    def watched(name: str) -> Any:
        def told(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            out = out[0] if isinstance(out, tuple) else out
            params = sum(weight.numel() for weight in module.parameters(recurse=False))
            same = given and isinstance(given[0], Tensor) and given[0].shape == out.shape
            if params or not same:
                kind = type(module).__name__ if list(module.children()) else repr(module)
                shape = list(out.shape[1:])
                found.setdefault(name, Layer(name or ".", clipped(kind, LONGEST), shape, params))

        return told

    for name, module in model.named_modules():
        owns = next(module.parameters(recurse=False), None) is not None
        if owns or not list(module.children()):
            module.register_forward_hook(watched(name))
    weigh(model, x)
    return list(found.values())
