"""Train one model. Knows nothing of studies or terminals.

Read `train` from top to bottom, and in `step.py` what an epoch and a batch do: that is all there
is, but where clients hold the examples, whose epochs are in `rounds.py`. Data lies whole on the
device, batches are slices of it, and the device is waited for once an epoch.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Collection, Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from automl.config import Config, Task
from automl.data import Data, Epoch, Inputs, Split
from automl.training import checkpoint as disk
from automl.training import graphs
from automl.training.rounds import Rounds
from automl.training.run import Run, outputs_of
from automl.training.step import Step

UNBALANCED = 4  # times the smallest class that the largest has, for weights of themselves
KEPT = 2**24  # logits of a validation split that a checkpoint keeps, at most: 64 MB
SAVING = 1 / 30  # largest share of the time that may go into checkpoints


class Diverged(Exception):
    """The loss left the finite numbers: the config's fault, not the machine's."""


def train(
    config: Config,
    data: Data,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    until: int | None = None,
    saves: Collection[int] = (),
) -> Generator[Epoch, bool | None]:
    """Train epoch by epoch; a caller that stops asking stops the training.

    `data` is as its task gives it. With `checkpoint`, epochs already in that file are given again
    without training, and training goes on after them, bitwise as if it had never stopped (on a
    CPU). What another config or other data left in it is written over. It is certainly written
    after the epochs `saves` and the last one, and when the generator is sent True, which gives
    the epoch once more. Stops after epoch `until`, or after the config's epochs. Raises Diverged.

    A batch for which memory does not suffice is cut in halves, again and again, whose gradients add
    up to the same update. Where a model has batch norm it differs a little: each part has its own
    mean and deviation.
    """
    inputs = config.input.fit(data)
    train_split, valid_split = encoded(inputs, data, device)
    run = Run(config, data, inputs, train_split, device)
    state = checkpoint and disk.load(checkpoint)
    if state and state.get("of") == run.of:
        run.load(state)
        for epoch in list(run.history):
            while (yield epoch):
                pass  # it is saved

    augment = config.augment.build(inputs, outputs_of(inputs, data), run.generator)

    def prepare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return augment(inputs.prepare(x), y)

    weights = class_weights(config.train.class_weights, data, device)
    learner: Step | Rounds
    if clients := config.federation.held(data.train, config.seed):
        shares = [train_split[index.to(device)] for index in clients]
        learner = Rounds(run, config, weights, shares, prepare)
    else:
        replayed = graphs.wanted(device)
        learner = Step(run, config, weights, train_split, prepare, replayed=replayed)
    last = min(until or config.train.epochs, config.train.epochs)
    saved, cost = time.perf_counter(), 0.0

    for number in range(len(run.history) + 1, last + 1):
        began = time.perf_counter()
        run.model.train()
        train_loss, examples = learner.epoch(number)

        logits = valid_split.rows * len(data.labels) if config.task.tells == "classes" else 0
        if number == config.train.epochs and 0 < logits <= KEPT:
            run.logits = torch.empty(valid_split.rows, len(data.labels), device=device)
        trained = time.perf_counter()
        with run.evaluated() as model:
            metrics = evaluate(model, valid_split, inputs, config.task, run.logits)
        if not all(map(math.isfinite, (train_loss, *metrics.values()))):
            told = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
            raise Diverged(f"train loss {train_loss:g}, {told} in epoch {number}")
        now = time.perf_counter()
        run.history.append(Epoch(number, train_loss, metrics, now - began, examples, now - trained))
        if checkpoint and (number == last or number in saves or cost < SAVING * (now - saved)):
            disk.save(checkpoint, run.state(), last=run.ended)
            saved, cost = time.perf_counter(), time.perf_counter() - now
        while (yield run.history[-1]):
            if checkpoint:
                disk.save(checkpoint, run.state(), last=run.ended)


@functools.lru_cache(maxsize=2)  # as trials mostly read alike, data goes to the device once
def encoded(inputs: Inputs, data: Data, device: torch.device) -> tuple[Split, Split]:
    """Training and validation split as `inputs` has them, on the device."""
    return inputs.encode(data.train).to(device), inputs.encode(data.valid).to(device)


def class_weights(kind: str, data: Data, device: torch.device) -> Tensor | None:
    """(K,) with mean 1 over the training examples; None: all count alike."""
    if data.train.y.ndim != 1 or not data.labels:
        return None
    counts = data.train.y.bincount(minlength=len(data.labels)).clamp_min(1).double()
    if kind == "auto":
        kind = "root" if counts.max() >= UNBALANCED * counts.min() else "none"
    if kind == "none":
        return None
    weights = counts ** (-0.5 if kind == "root" else -1.0)
    return (weights * counts.sum() / (weights * counts).sum()).float().to(device)


def ended(config: Config, data: Data, file: Path) -> Epoch | None:
    """The last epoch of such a training, if it has come to its end and lies in this checkpoint."""
    state = disk.load(file)
    if not state or state.get("of") != Run.named(config, data):
        return None
    return Run.told(state)[-1] if len(state["history"]) == config.train.epochs else None


def evaluate(
    model: nn.Module, split: Split, inputs: Inputs, task: Task, keep: Tensor | None = None
) -> dict[str, float]:
    """Loss and metrics over an encoded split, in float32. It lies where the model does.

    The logits of classes go to the rows of `keep` (N, K).
    """
    sums: dict[str, Tensor] = {}
    for index, logits, y in predict(model, split, inputs):
        if keep is not None:
            keep[index] = logits
        sums = task.joined(sums, task.tally(logits, y))
    return task.scores(sums, split)


@torch.inference_mode()
def predict(
    model: nn.Module, split: Split, inputs: Inputs
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Index, logits and targets, a batch at a time, in float32."""
    was_training = model.training
    model.eval()
    cpu = split.y.device.type == "cpu"  # what a layer gives shall stay in its cache
    budget = (2**19 if cpu else 2**21) // inputs.floats  # 170 or 682 CIFAR images
    for index, x, y in split.sweep(budget):
        yield index, model(inputs.prepare(x)), y
    model.train(was_training)
