"""Steps that are recorded on a GPU and played again without Python (CUDA graphs).

A record holds what a step asked of the device and the addresses of the tensors it used. It is made
once for each shape of a batch, when that has come often enough, and held against the same step as
usual: where it differs, or cannot be made, steps are as usual from there on.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

WARM = 3  # steps of a shape before it is recorded: what is made at first use is there then
MOST = 64  # records of a training: each takes some memory
CLOSE = 1e-2  # largest difference of a tensor, over its largest number: bfloat16 has 8 bits

Replay = Callable[[], None]
Step = Callable[[Tensor, Tensor], None]
Changed = Callable[[], list[Tensor]]  # gives all tensors that a step changes, but for gradients
Shapes = tuple[torch.Size, torch.Size]

log = logging.getLogger("automl")


class Replays:
    """Records of a step, by the shapes of its batch."""

    def __init__(self) -> None:
        self.seen = Counter[Shapes]()
        self.records: dict[Shapes, tuple[Replay, Tensor, Tensor]] = {}
        self.pool: Any = None  # of memory that all records share, one after the other
        self.off = False

    def take(self, step: Step, changed: Changed, x: Tensor, y: Tensor) -> None:
        """Take the step of a batch.

        The step is not kept: its owner holds this, and would live on with all its memory.
        """
        shapes = x.shape, y.shape
        if shapes in self.records:
            replay, x_there, y_there = self.records[shapes]
            x_there.copy_(x)
            y_there.copy_(y)
            replay()
            return
        self.seen[shapes] += 1
        with aside(x.device):
            if self.off or self.seen[shapes] <= WARM or len(self.records) == MOST:
                step(x, y)
            else:
                self._record(step, changed(), x.clone(), y.clone())

    def _record(self, step: Step, tensors: list[Tensor], x: Tensor, y: Tensor) -> None:
        """Record the step, which changes these tensors, and take it."""
        random, before = random_state(x.device), copied(tensors)
        step(x, y)
        if self.pool is None and x.is_cuda:
            self.pool = torch.cuda.graph_pool_handle()
        usual, after = copied(tensors), random_state(x.device)
        restore(tensors, before)
        set_random_state(x.device, random)
        try:
            replay = record(step, x, y, self.pool)
            replay()
        except RuntimeError as error:
            told = f"steps cannot be recorded: {str(error).splitlines()[0]}"
        else:
            if all(map(alike, tensors, usual)):
                self.records[x.shape, y.shape] = replay, x, y
                return
            told = "a recorded step differs from one as usual: none is recorded"
        log.warning(told)
        self.off, self.records = True, {}
        for tensor in tensors:
            tensor.grad = None  # what the record asked for
        restore(tensors, usual)
        if x.is_cuda:  # after a record that failed some PyTorch takes its generator for recorded
            generator = torch.cuda.default_generators[x.device.index]
            generator.graphsafe_set_state(generator.clone_state())
        set_random_state(x.device, after)


def wanted(device: torch.device) -> bool:
    """Only where asked for: what they bring was measured, but not yet in a whole search."""
    return device.type == "cuda" and os.environ.get("AUTOML_GRAPHS") == "1"


def copied(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(tensors, values)


@torch.no_grad()
def alike(a: Tensor, b: Tensor) -> bool:
    difference = (a.double() - b.double()).abs().max()
    return bool(difference <= CLOSE * b.double().abs().max())


def random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@functools.cache
def side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """On a stream of our own: libraries take memory for each, which a record must not ask for."""
    if device.type != "cuda":
        yield
        return
    usual = torch.cuda.current_stream(device)
    side(device).wait_stream(usual)
    with torch.cuda.stream(side(device)):
        yield
    usual.wait_stream(side(device))


def record(step: Step, x: Tensor, y: Tensor, pool: Any) -> Replay:
    """Record what a step asks of the GPU; nothing is done yet. Raises RuntimeError."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream(x.device)
    with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
        step(x, y)
    return graph.replay
