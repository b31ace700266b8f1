"""How large a model is, known before it trains.

Counted on the meta device, where nothing needs memory and nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Size:
    params: int
    macs: int  # multiply-accumulates of matrix products and convolutions, forward, one example


def weigh(model: nn.Module, x: Tensor) -> tuple[Tensor, Size]:
    """What a model on the meta device gives for x (N, ...), and its size.

    The model is of no use after that: its recurrent layers take one step and say it was all.
    """
    counter = FlopCounterMode(display=False)
    layers = [_OneStep(m, counter) for m in model.modules() if isinstance(m, nn.RNNBase)]
    for layer in layers:
        layer.layer.forward = layer  # hundreds of steps would take seconds
    with counter:
        out = model(x)
    flops = counter.get_total_flops() + sum(layer.more for layer in layers)
    params = sum(weight.numel() for weight in model.parameters())
    return out, Size(params, flops // 2 // len(x))


class _OneStep:
    """A recurrent layer's `forward`: one step is run and counts as often as there are steps."""

    def __init__(self, layer: nn.RNNBase, counter: FlopCounterMode) -> None:
        self.layer, self.run, self.counter = layer, layer.forward, counter
        self.more = 0

    def __call__(self, x: Tensor | PackedSequence, state: Any = None) -> Any:
        if isinstance(x, PackedSequence):
            return self.run(x, state)
        time = 1 if self.layer.batch_first and x.ndim == 3 else 0
        before = self.counter.get_total_flops()
        out, last = self.run(x.narrow(time, 0, 1), state)
        steps = x.shape[time]
        self.more += (steps - 1) * (self.counter.get_total_flops() - before)
        return torch.cat([out] * steps, time), last
