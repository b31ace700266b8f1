"""Train one model. Knows nothing of studies or terminals.

Read `train` from top to bottom: that is all there is. Data lies whole on the device, batches are
slices of it, and the device is waited for once an epoch.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from automl.config import Config, Task
from automl.data import UNSCORED, Data, Epoch, Inputs, Split
from automl.training import checkpoint as disk
from automl.training.precision import Precision

UNBALANCED = 4  # times the smallest class that the largest has, for weights of themselves
KEPT = 2**24  # logits of a validation split that a checkpoint keeps, at most: 64 MB
SAVING = 1 / 30  # largest share of the time that may go into checkpoints

log = logging.getLogger("automl")


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

    precision = Precision.of(device)
    augment = config.augment.build(inputs, outputs_of(inputs, data), run.generator)
    weights = class_weights(config.train.class_weights, data, device)
    steps = math.ceil(train_split.rows / config.train.batch_size)
    steps = max(1, min(steps, train_split.rows // 2))  # batch norm wants two examples
    size = train_split.rows // steps  # all batches alike: at most steps - 1 examples wait
    total = steps * config.train.epochs
    last = min(until or config.train.epochs, config.train.epochs)
    saved, cost = time.perf_counter(), 0.0
    parts = 1  # of a batch, one after the other

    def learn(x: Tensor, y: Tensor, parts: int) -> Tensor:
        """The mean loss over a batch, whose gradients the weights then have."""
        told, whole = [], counting(y, weights) if parts > 1 else None
        for x_part, y_part in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            with precision.autocast():
                logits = run.model(x_part)
            loss = config.task.loss(logits, y_part, config.train.label_smoothing, weights)
            if whole is not None:
                loss = loss * (counting(y_part, weights) / whole)
            loss.backward()
            told.append(loss.detach())
        return torch.stack(told).sum() if parts > 1 else told[0]

    for number in range(len(run.history) + 1, last + 1):
        began = time.perf_counter()
        run.model.train()
        losses = torch.zeros((), device=device)
        for i, (x, y) in enumerate(islice(train_split.epoch(size, run.generator), steps)):
            x, y = augment(inputs.prepare(x), y)

            while (loss := spared(learn, x, y, parts)) is None:
                run.optimizer.zero_grad(set_to_none=True)
                parts *= 2
                log.warning("memory does not suffice: micro-batches of %d", len(x) // parts)
            losses += loss

            step = (number - 1) * steps + i
            factor = config.schedule.factor((step + 1) / total)
            for group in run.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            if config.train.clip:
                nn.utils.clip_grad_norm_(run.model.parameters(), config.train.clip)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            run.average(step, steps)

        if number == config.train.epochs and 0 < valid_split.rows * len(data.labels) <= KEPT:
            run.logits = torch.empty(valid_split.rows, len(data.labels), device=device)
        with run.evaluated() as model:
            metrics = evaluate(model, valid_split, inputs, config.task, run.logits)
        train_loss = losses.item() / steps  # with the line above, the only waits for the device
        if not all(map(math.isfinite, (train_loss, *metrics.values()))):
            told = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
            raise Diverged(f"train loss {train_loss:g}, {told} in epoch {number}")
        seconds = time.perf_counter() - began
        run.history.append(Epoch(number, train_loss, metrics, seconds, len(data.train)))

        now = time.perf_counter()
        if checkpoint and (number == last or number in saves or cost < SAVING * (now - saved)):
            disk.save(checkpoint, run.state(), last=run.ended)
            saved, cost = time.perf_counter(), time.perf_counter() - now
        while (yield run.history[-1]):
            if checkpoint:
                disk.save(checkpoint, run.state(), last=run.ended)


def spared(
    learn: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, y: Tensor, parts: int
) -> Tensor | None:
    """The loss; None if memory does not suffice and the batch can be cut further.

    The error ends here: as long as it is handled, its traceback keeps the tensors in the way.
    """
    try:
        return learn(x, y, parts)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or len(x) < 4 * parts:  # batch norm wants two examples
            raise
    if x.is_cuda:
        torch.cuda.empty_cache()
    return None


def out_of_memory(error: BaseException) -> bool:
    """Also what torch says of a CPU that is full."""
    told = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return told or "can't allocate memory" in str(error)


def counting(y: Tensor, weights: Tensor | None) -> Tensor:
    """How much a batch counts in a mean loss, from its targets and the weights of classes."""
    if y.is_floating_point():  # shares of classes: examples count alike
        return torch.tensor(float(len(y)), device=y.device)
    scored = y[y != UNSCORED]
    return weights[scored].sum() if weights is not None else (y != UNSCORED).sum()


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


class Run:
    """All that changes while a model is trained, and therefore all that a checkpoint holds."""

    def __init__(
        self, config: Config, data: Data, inputs: Inputs, split: Split, device: torch.device
    ) -> None:
        self.of = self.named(config, data)
        torch.manual_seed(config.seed)  # weights, and dropout from here on
        model = config.model.build(inputs, outputs_of(inputs, data))
        self.device, self.on_gpu = device, device.type == "cuda"
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # not in its stub
        config.model.begin(self.model, inputs, split)
        self.optimizer = config.optimizer.build(self.model)
        self.generator = torch.Generator(device).manual_seed(config.seed)  # order and augmentation
        self.epochs = config.train.epochs
        self.horizon = config.train.average
        own = self.model.state_dict(keep_vars=True) if self.horizon else {}
        self.averaged = {name: weight.detach().clone() for name, weight in own.items()}
        self.pairs = [(self.averaged[name], weight) for name, weight in own.items()]
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
    def ended(self) -> bool:
        return len(self.history) == self.epochs

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model with the weights that are scored and delivered; afterwards with its own."""
        for other, mine in self.pairs:
            mine.data, other.data = other.data, mine.data
        for layer in self.model.modules() if self.on_gpu else ():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # cuDNN wants them side by side
        try:
            yield self.model
        finally:
            for other, mine in reversed(self.pairs):  # a weight may have two names
                mine.data, other.data = other.data, mine.data

    @torch.no_grad()
    def average(self, step: int, steps: int) -> None:
        """Over the last quarter of all steps, and never more than `horizon` epochs; fading."""
        floats = [pair for pair in self.pairs if pair[0].is_floating_point()]
        if floats:
            share = 1 / (1 + min(step / 4, self.horizon * steps))
            torch._foreach_lerp_([mean for mean, _ in floats], [now for _, now in floats], share)

    def state(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "history": [asdict(epoch) for epoch in self.history],
            "logits": self.logits,
            "model": self.model.state_dict(),
            "averaged": self.averaged or None,
            "optimizer": None if self.ended else self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.on_gpu else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.history = self.told(state)
        self.model.load_state_dict(state["model"])
        for name, weight in self.averaged.items():
            weight.copy_(state["averaged"][name])
        if not self.ended:
            self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
