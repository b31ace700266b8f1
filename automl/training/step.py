"""What an epoch, and a batch, does to the weights of a model.

Small nets leave a GPU waiting for Python. There a step can be recorded once for each shape of a
batch, as a CUDA graph, and played again without Python: see `graphs.py`. A record holds numbers as
they were, so what changes from step to step, learning rates and the pace of averages, is read from
tensors then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from automl.config import Augmentation, Config
from automl.data import UNSCORED, Split
from automl.training import graphs
from automl.training.precision import Precision
from automl.training.run import Run

log = logging.getLogger("automl")


class Step:
    """What the batches of a split do to the weights of a run."""

    averages = True  # of the weights, behind each step

    def __init__(
        self,
        run: Run,
        config: Config,
        weights: Tensor | None,
        split: Split,
        prepare: Augmentation,
        *,
        passes: int = 1,
        replayed: bool = False,
    ) -> None:
        """`weights` are of classes, `passes` over the split make an epoch; `prepare` makes of a
        batch what the model reads. With `replayed`, steps become records.
        """
        self.run, self.config, self.weights = run, config, weights
        self.split, self.prepare, self.passes, self.replayed = split, prepare, passes, replayed
        batches = math.ceil(split.rows / config.train.batch_size)
        self.batches = max(1, min(batches, split.rows // 2))  # batch norm wants two examples
        self.size = split.rows // self.batches  # all alike: at most `batches` - 1 examples wait
        self.steps = steps = passes * self.batches  # of an epoch
        self.precision = Precision.of(run.device)
        self.losses = torch.zeros((), device=run.device)  # of the batches of an epoch, summed
        self.parts = 1  # of a batch, one after the other
        self.share: float | Tensor = 0.0  # of the weights now in their average
        self.replays = None
        if replayed:
            total = range(steps * config.train.epochs)
            groups = run.optimizer.param_groups
            paces = torch.tensor([self.pace(number) for number in total], device=run.device)
            self.paces, self.pace_now = paces, paces[0].clone()
            *rates, self.share = self.pace_now.unbind()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
                group["capturable"] = True  # what AdamW asks of who records it
            self.replays = graphs.Replays()

    def epoch(self, number: int) -> tuple[float, int]:
        """The `number`-th of all, from 1: mean loss of its batches, and examples trained with."""
        self.losses.zero_()
        done = (number - 1) * self.steps
        for passed in range(self.passes):
            batches = self.split.epoch(self.size, self.run.generator, few=self.replayed)
            for i, (x, y) in enumerate(islice(batches, self.batches)):
                self(done + passed * self.batches + i, *self.prepare(x, y))
        loss = self.losses.item() / self.steps  # the device is waited for
        return loss, self.passes * len(self.split)

    def __call__(self, number: int, x: Tensor, y: Tensor) -> None:
        """The `number`-th step of all, from 0, on a batch as the model reads it."""
        if self.replays is not None:
            self.pace_now.copy_(self.paces[number])
            self.replays.take(self.update, self.changed, x, y)
            return
        *rates, self.share = self.pace(number)
        for group, rate in zip(self.run.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.update(x, y)

    def pace(self, number: int) -> list[float]:
        """The learning rate of each group in a step, and the share of it in averages."""
        progress = (number + 0.5) / (self.steps * self.config.train.epochs)  # amid the step
        factor = self.config.schedule.factor(progress)
        rates = [group["peak"] * factor for group in self.run.optimizer.param_groups]
        return [*rates, self.run.share(number, self.steps)]

    def update(self, x: Tensor, y: Tensor) -> None:
        while (loss := spared(self.gradients, x, y, self.parts)) is None:
            self.run.optimizer.zero_grad(set_to_none=True)
            self.parts *= 2
            log.warning("memory does not suffice: micro-batches of %d", len(x) // self.parts)
        self.losses += loss
        if self.config.train.clip:
            nn.utils.clip_grad_norm_(self.run.model.parameters(), self.config.train.clip)
        self.run.optimizer.step()
        self.run.optimizer.zero_grad(set_to_none=True)
        if self.averages:
            self.run.average(self.share)

    def gradients(self, x: Tensor, y: Tensor, parts: int) -> Tensor:
        """The mean loss over a batch, whose gradients the weights then have."""
        told, whole = [], counting(y, self.weights) if parts > 1 else None
        smoothing = self.config.train.label_smoothing
        for x_part, y_part in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            with self.precision.autocast():
                logits = self.run.model(x_part)
            loss = self.config.task.loss(logits, y_part, smoothing, self.weights)
            if whole is not None:
                loss = loss * (counting(y_part, self.weights) / whole)
            loss.backward()
            told.append(loss.detach())
        return torch.stack(told).sum() if parts > 1 else told[0]

    def changed(self) -> list[Tensor]:
        """All tensors that a step changes."""
        state = [value for of in self.run.optimizer.state.values() for value in of.values()]
        own = self.run.model.state_dict(keep_vars=True).values()
        averages = (mean for mean, _ in self.run.pairs)
        kept = [value for value in state if isinstance(value, Tensor)]
        return [*own, *averages, *kept, self.losses]


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
    """Also what torch says of a CPU that is full, and libraries of a GPU that is."""
    told = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return told or any(words in str(error) for words in ("can't allocate memory", "ALLOC_FAILED"))


def counting(y: Tensor, weights: Tensor | None) -> Tensor:
    """How much a batch counts in a mean loss, from its targets and the weights of classes."""
    if y.is_floating_point():  # shares of classes, or numbers; NaN counts nowhere
        return (~y.isnan()).sum()
    scored = y[y != UNSCORED]
    return weights[scored].sum() if weights is not None else (y != UNSCORED).sum()
