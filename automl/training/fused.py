"""Several trainings of one structure as one: their weights are stacked, a step is taken by all.

What differs may differ: learning rates and all else of the optimizer, the schedule, smoothing,
clipping, augmentation, dropout, seed. Each keeps its own batches, as when it trains alone, and ends
where it would alone within floating-point noise; but dropout draws other numbers. A group is made
anew for every epoch, so that trainings may join it and leave it there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from automl.config import Config
from automl.data import Epoch
from automl.models.layers import Unrolled
from automl.training.loop import Diverged, Learner, Training

RUNS = 2  # of each way in a trial of both, after one that warms up
Shapes = dict[str, torch.Size]


def structure(config: Config) -> str | None:
    """What trainings must have in common to be one group; None: it trains alone."""
    if not config.optimizer.elementwise:
        return None
    free = dict.fromkeys(config.model.free, 0.0)
    alike = config.model_copy(update={"model": config.model.model_copy(update=free)})
    told = alike.model_dump_json(include={"task", "input", "model"})
    return f"{told} {config.train.batch_size} {config.train.average > 0}"


def epoch(members: Sequence[Training], last: Sequence[int]) -> list[Epoch | Diverged]:
    """Train each for one epoch more, in lock step; a checkpoint is certain after the epoch `last`.

    Seconds are a member's share of the group's, and its own to be scored.
    """
    assert len({structure(member.config) for member in members}) == 1
    began = time.perf_counter()
    group = Group(members)
    losses = torch.zeros(len(members), device=members[0].device)
    for batches in zip(*(member.batches() for member in members), strict=True):
        losses += group.step(*zip(*batches, strict=True))
    group.hand_back()
    seconds = (time.perf_counter() - began) / len(members)

    told: list[Epoch | Diverged] = []
    for member, loss, end in zip(members, losses, last, strict=True):
        try:
            told.append(member.scored(loss, seconds, end))
        except Diverged as diverged:
            told.append(diverged)
    return told


class Group:
    """Models as rows (K, n) of one tensor, with an optimizer for each row."""

    def __init__(self, members: Sequence[Training]) -> None:
        self.members = members
        models = [member.run.model for member in members]
        self.layout = Layout(models[0])
        rows, floats = zip(*map(self.layout.rows, models), strict=True)
        self.rows, self.floats = torch.stack(rows), torch.stack(floats)
        states = [model.state_dict() for model in models]
        names = [*self.layout.floats, *self.layout.counts]
        self.rest = {n: torch.stack([state[n] for state in states]) for n in names}
        self.net, drops = readable(models[0])
        for name in drops:
            modules = [model.get_submodule(name) for model in models]
            shares = [module.p for module in modules if isinstance(module, nn.Dropout)]
            self.rest[f"{name}.p"] = self.rows.new_tensor(shares)
        self.learners = [self._learner(k, member) for k, member in enumerate(members)]
        self.rows.requires_grad_()

    def logits(self, x: Tensor) -> Tensor:
        """(K, N, ...) in, a batch for each member; (K, N, ...) out."""
        tensors = self.rest | split(self.rows, self.layout.weights)

        def one(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            told: Tensor = functional_call(self.net, tensors, (x,))
            return told

        with sdpa_kernel(SDPBackend.MATH):  # vmap has no rule for the others
            return torch.vmap(one, randomness="different")(tensors, x)

    def step(self, numbers: Sequence[int], batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """All members one step further, each by its own batch; their losses (K,)."""
        x, y = zip(*batches, strict=True)
        with self.members[0].precision.autocast():
            logits = self.logits(together(x))
        told = zip(self.members, logits, y, strict=True)
        losses = torch.stack([member.loss(one, targets) for member, one, targets in told])
        (gradients,) = torch.autograd.grad(losses.sum(), self.rows)
        if self.layout.floats:
            moved = [self.rest[name].flatten(1) for name in self.layout.floats]
            torch.cat(moved, 1, out=self.floats)
        wide = self.layout.wide
        for k, (learner, number) in enumerate(zip(self.learners, numbers, strict=True)):
            flat = Flat.of(learner.model)
            flat.wide.grad, flat.thin.grad = gradients[k, None, :wide], gradients[k, wide:]
            learner.step(number, self.members[k].steps)
        return losses.detach()

    def _learner(self, k: int, member: Training) -> Learner:
        """A row with an optimizer that goes on as the member's own would."""
        own, wide = member.run.learner, self.layout.wide
        learner = Learner(member.config, Flat(self.rows[k], self.floats[k], wide))
        if own.averaged is not None and learner.averaged is not None:
            row, floats = self.layout.rows(own.averaged)
            learner.averaged.load_state_dict(Flat(row, floats, wide).state_dict())
        for flat, weights in self.layout.parts(learner.model, own.model):
            states = [own.optimizer.state.get(weight, {}) for weight in weights]
            for key, value in states[0].items():
                if moves(key, value):
                    value = torch.cat([state[key].flatten() for state in states]).view_as(flat)
                learner.optimizer.state[flat][key] = copy.deepcopy(value)
        return learner

    @torch.no_grad()
    def hand_back(self) -> None:
        """Make the members' own models and optimizers what the rows have become."""
        for k, (learner, member) in enumerate(zip(self.learners, self.members, strict=True)):
            own = member.run.learner
            self.layout.fill(own.model, learner.model)
            if own.averaged is not None and learner.averaged is not None:
                self.layout.fill(own.averaged, learner.averaged)
            state = own.model.state_dict()
            for name in self.layout.counts:
                state[name].copy_(self.rest[name][k])
            for flat, weights in self.layout.parts(learner.model, own.model):
                for key, value in learner.optimizer.state[flat].items():
                    if not moves(key, value):
                        for weight in weights:
                            own.optimizer.state[weight][key] = copy.deepcopy(value)
                        continue
                    rows = value.flatten().split([weight.numel() for weight in weights])
                    for weight, row in zip(weights, rows, strict=True):
                        moved = torch.empty_like(weight).copy_(row.view_as(weight))
                        own.optimizer.state[weight][key] = moved
            pairs = zip(own.optimizer.param_groups, learner.optimizer.param_groups, strict=True)
            for ours, theirs in pairs:
                ours["lr"] = theirs["lr"]


class Flat(nn.Module):
    """A model as three long tensors; an optimizer of elements cannot tell them from many."""

    def __init__(self, row: Tensor, floats: Tensor, wide: int) -> None:
        super().__init__()
        self.wide = nn.Parameter(row[None, :wide])  # (1, n): of two dimensions, so that it decays
        self.thin = nn.Parameter(row[wide:])
        self.floats = nn.Parameter(floats, requires_grad=False)  # averaged, too

    @classmethod
    def of(cls, model: nn.Module) -> Flat:
        assert isinstance(model, cls)
        return model


class Layout:
    """Where what a model is made of lies in a row: first what decays."""

    def __init__(self, model: nn.Module) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        named.sort(key=lambda pair: pair[1].ndim < 2)
        self.weights: Shapes = {name: p.shape for name, p in named}
        self.decaying = sum(p.ndim >= 2 for _, p in named)
        self.wide = sum(p.numel() for _, p in named[: self.decaying])
        rest = {n: value for n, value in model.state_dict().items() if n not in self.weights}
        self.floats: Shapes = {n: v.shape for n, v in rest.items() if v.is_floating_point()}
        self.counts = [name for name in rest if name not in self.floats]

    def rows(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Its weights, and what else has fractions."""
        state = model.state_dict()
        weights = torch.cat([state[name].flatten() for name in self.weights])
        return weights, torch.cat([weights[:0], *(state[name].flatten() for name in self.floats)])

    def fill(self, model: nn.Module, flat: nn.Module) -> None:
        """Give a model what a flat one has."""
        state, flat = model.state_dict(), Flat.of(flat)
        row = torch.cat([flat.wide[0], flat.thin])
        for name, value in (split(row, self.weights) | split(flat.floats, self.floats)).items():
            state[name].copy_(value)

    def parts(self, flat: nn.Module, model: nn.Module) -> list[tuple[Tensor, list[Tensor]]]:
        """What decays and what does not, each with the weights of the model that it stands for."""
        named, flat = dict(model.named_parameters()), Flat.of(flat)
        weights: list[Tensor] = [named[name] for name in self.weights]
        return [(flat.wide, weights[: self.decaying]), (flat.thin, weights[self.decaying :])]


def split(rows: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """Rows (..., n) as tensors (..., *shape) by name, in the same memory."""
    parts = rows.split([shape.numel() for shape in shapes.values()], -1)
    named = zip(shapes.items(), parts, strict=True)
    return {name: part.view(*rows.shape[:-1], *shape) for (name, shape), part in named}


def moves(key: str, value: Any) -> bool:
    """Whether an optimizer keeps such a value for every element of a weight."""
    return isinstance(value, Tensor) and key != "step"


def together(x: Sequence[Tensor]) -> Tensor:
    """(K, N, ...) of K batches; shorter texts are padded to the longest."""
    if x[0].ndim == 2 and not x[0].is_floating_point():
        longest = max(batch.shape[1] for batch in x)
        x = [F.pad(batch, (0, longest - batch.shape[1])) for batch in x]
    return torch.stack(list(x))


class Dropout(nn.Module):
    """Zeroes a share that is a tensor."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p: Tensor
        self.register_buffer("p", torch.tensor(p))

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand_like(x) >= self.p
        return x * kept / (1 - self.p)


class Embedding(nn.Module):
    """An nn.Embedding over its own weights: vmap spares the padding of the first member alone."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        assert layer.padding_idx is not None
        self.weight, self.padding = layer.weight, layer.padding_idx

    def forward(self, x: Tensor) -> Tensor:
        found, padded = F.embedding(x, self.weight), torch.eq(x, self.padding)
        return torch.where(padded.unsqueeze(-1), found.detach(), found)


def readable(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy that vmap can read, and the names of its dropouts, whose shares may be tensors."""
    net, drops = copy.deepcopy(model).train(), []
    for name, module in list(net.named_modules()):
        made: nn.Module
        if isinstance(module, nn.RNNBase) and Unrolled.can(module):
            made = Unrolled(module)
        elif type(module) is nn.Embedding and module.padding_idx is not None:
            made = Embedding(module)
        elif type(module) is nn.Dropout:
            made = Dropout(module.p)
            drops.append(name)
        else:
            continue
        net.set_submodule(name, made)
    return net, drops


def pays(members: Sequence[Training]) -> bool:
    """Whether a step of all at once takes less time here than one of each: both are tried.

    Nothing of the members changes. What vmap has no rule for, or what does not fit, does not pay.
    """
    key = structure(members[0].config), len(members), members[0].device
    if key not in TRIED:
        try:
            TRIED[key] = faster(members)
        except RuntimeError:
            TRIED[key] = False
    return TRIED[key]


TRIED: dict[tuple[str | None, int, torch.device], bool] = {}


def faster(members: Sequence[Training]) -> bool:
    first = members[0]
    before = [member.run.generator.get_state() for member in members]
    numbers, batches = zip(*(next(iter(member.batches())) for member in members), strict=True)
    for member, state in zip(members, before, strict=True):
        member.run.generator.set_state(state)
    model = copy.deepcopy(first.run.model).train()
    learner, (x, y) = Learner(first.config, model), batches[0]

    def alone() -> None:
        with first.precision.autocast():
            logits = model(x)
        first.loss(logits, y).backward()
        learner.step(numbers[0], first.steps)

    group = Group(members)
    devices = [first.device] if first.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        one = seconds(alone, first.device)
        return seconds(lambda: group.step(numbers, batches), first.device) < one * len(members)


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Of the fastest of a few runs."""
    taken = []
    for _ in range(1 + RUNS):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
