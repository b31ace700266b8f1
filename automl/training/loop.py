"""Train one model. Knows nothing of studies or terminals.

Read `train` from top to bottom: that is all there is. Data lies whole on the device, batches are
slices of it, and the device is waited for once an epoch.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Collection, Generator, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from automl.config import Config, Task
from automl.data import Data, Epoch, Inputs, Split
from automl.training import checkpoint as disk
from automl.training.precision import Precision

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
) -> Generator[Epoch]:
    """Train epoch by epoch; a caller that stops asking stops the training.

    `data` is as its task gives it. With `checkpoint`, epochs already in that file are given again
    without training, and training goes on after them, bitwise as if it had never stopped (on a
    CPU). What another config or other data left in it is written over. It is certainly written
    after the epochs `saves` and the last one. Stops after epoch `until`, or after the config's
    epochs. Raises Diverged.
    """
    training = Training(config, data, device=device, checkpoint=checkpoint, saves=saves)
    run, last = training.run, min(until or config.train.epochs, config.train.epochs)
    yield from run.history

    while len(run.history) < last:
        began = time.perf_counter()
        run.model.train()
        losses = torch.zeros((), device=device)
        for step, (x, y) in training.batches():
            with training.precision.autocast():
                logits = run.model(x)
            loss = training.loss(logits, y)
            loss.backward()
            losses += loss.detach()
            run.learner.step(step, training.steps)

        yield training.scored(losses, time.perf_counter() - began, last)


class Training:
    """A training under way: all of it but how its steps are computed."""

    def __init__(
        self,
        config: Config,
        data: Data,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        saves: Collection[int] = (),
    ) -> None:
        self.config, self.data, self.device = config, data, device
        self.checkpoint, self.saves = checkpoint, saves
        self.inputs = config.input.fit(data)
        self.train_split, self.valid_split = encoded(self.inputs, data, device)
        self.run = Run(config, data, self.inputs, device)
        state = checkpoint and disk.load(checkpoint)
        if state and state["of"] == self.run.of:
            self.run.load(state)

        self.precision = Precision.of(device)
        outputs = outputs_of(self.inputs, data)
        self.augment = config.augment.build(self.inputs, outputs, self.run.generator)
        self.weights = class_weights(config.train.class_weights, data, device)
        rows = self.train_split.rows
        steps = math.ceil(rows / config.train.batch_size)
        self.steps = max(1, min(steps, rows // 2))  # of an epoch; batch norm wants two examples
        self.size = rows // self.steps  # all batches alike: at most steps - 1 examples wait
        self.saved, self.cost = time.perf_counter(), 0.0

    def batches(self) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """The next epoch as the model reads it, each batch with the number of its step."""
        first = len(self.run.history) * self.steps
        epoch = self.train_split.epoch(self.size, self.run.generator)
        for step, (x, y) in enumerate(islice(epoch, self.steps), first):
            yield step, self.augment(self.inputs.prepare(x), y)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.config.task.loss(logits, y, self.config.train.label_smoothing, self.weights)

    def scored(self, losses: Tensor, seconds: float, last: int) -> Epoch:
        """Score the epoch that the sum of its `losses` and these seconds are of, and note it.

        Raises Diverged. A checkpoint is certainly written after the epoch `last`.
        """
        began, run, number = time.perf_counter(), self.run, len(self.run.history) + 1
        valid, labels = self.valid_split, len(self.data.labels)
        if number == self.config.train.epochs and 0 < valid.rows * labels <= KEPT:
            run.logits = torch.empty(valid.rows, labels, device=self.device)
        metrics = evaluate(run.evaluated, valid, self.inputs, self.config.task, run.logits)
        train_loss = losses.item() / self.steps  # with the line above, the only waits in an epoch
        if not math.isfinite(train_loss) or not math.isfinite(metrics["loss"]):
            raise Diverged(f"loss {train_loss} in epoch {number}")
        seconds += time.perf_counter() - began
        run.history.append(Epoch(number, train_loss, metrics, seconds, len(self.data.train)))

        now = time.perf_counter()
        due = number == last or number in self.saves or self.cost < SAVING * (now - self.saved)
        if self.checkpoint and due:
            disk.save(self.checkpoint, run.state())
            self.saved, self.cost = time.perf_counter(), time.perf_counter() - now
        return run.history[-1]


@functools.lru_cache(maxsize=2)  # as trials mostly read alike, data goes to the device once
def encoded(inputs: Inputs, data: Data, device: torch.device) -> tuple[Split, Split]:
    """Training and validation split as `inputs` has them, on the device."""
    return inputs.encode(data.train).to(device), inputs.encode(data.valid).to(device)


def outputs_of(inputs: Inputs, data: Data) -> int:
    """Logits a model must give: one a class or, where there is none, one a token."""
    return len(data.labels) or inputs.outputs


def class_weights(kind: str, data: Data, device: torch.device) -> Tensor | None:
    """(K,) with mean 1 over the training examples; None: all count alike."""
    if not data.labels:
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
    if not state or state["of"] != Run.named(config, data):
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
        batch = task.tally(logits, y)
        sums = {name: sums.get(name, 0) + value for name, value in batch.items()}
    return task.scores(sums, split)


@torch.inference_mode()
def predict(
    model: nn.Module, split: Split, inputs: Inputs
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Index, logits and targets, a batch at a time, in float32."""
    was_training = model.training
    model.eval()
    budget = 2**21 // inputs.floats  # 8 MB of float32 input: 682 CIFAR images
    for index, x, y in split.sweep(budget):
        yield index, model(inputs.prepare(x)), y
    model.train(was_training)


class Learner:
    """Weights and what moves them: optimizer, schedule and average of a config."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        self.config, self.model = config, model
        self.optimizer = config.optimizer.build(model)
        self.horizon = config.train.average
        self.averaged = copy.deepcopy(model).requires_grad_(False) if self.horizon else None
        ours = self.averaged.state_dict().values() if self.averaged is not None else ()
        pairs = zip(ours, model.state_dict().values(), strict=False)
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        self.averages, self.floats = [a for a, _ in floats], [b for _, b in floats]

    def step(self, step: int, steps: int) -> None:
        """Take the step of this number with the gradients that are there; an epoch has `steps`."""
        train = self.config.train
        factor = self.config.schedule.factor((step + 1) / (steps * train.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        if train.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages:  # over the last quarter of all steps, at most `horizon` epochs; fading
            share = 1 / (1 + min(step / 4, self.horizon * steps))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.floats, share)


class Run:
    """All that changes while a model is trained, and therefore all that a checkpoint holds."""

    def __init__(self, config: Config, data: Data, inputs: Inputs, device: torch.device) -> None:
        self.of = self.named(config, data)
        torch.manual_seed(config.seed)  # weights, and dropout from here on
        model = config.model.build(inputs, outputs_of(inputs, data))
        self.device, self.on_gpu = device, device.type == "cuda"
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # not in its stub
        self.learner = Learner(config, self.model)
        self.generator = torch.Generator(device).manual_seed(config.seed)  # order and augmentation
        self.history: list[Epoch] = []
        self.logits: Tensor | None = None  # (N, K) of the validation split, at the very end

    @staticmethod
    def named(config: Config, data: Data) -> str:
        """What tells a training from any other."""
        return f"{config.model_dump_json()} {data.fingerprint}"

    @staticmethod
    def told(state: dict[str, Any]) -> list[Epoch]:
        return [Epoch(**epoch) for epoch in state["history"]]

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are scored and delivered."""
        averaged = self.learner.averaged
        return averaged if averaged is not None else self.model

    def state(self) -> dict[str, Any]:
        averaged = self.learner.averaged
        return {
            "of": self.of,
            "history": [asdict(epoch) for epoch in self.history],
            "logits": self.logits,
            "model": self.model.state_dict(),
            "averaged": None if averaged is None else averaged.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.on_gpu else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.history = self.told(state)
        self.model.load_state_dict(state["model"])
        if self.learner.averaged is not None:
            self.learner.averaged.load_state_dict(state["averaged"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
