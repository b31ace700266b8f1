"""Rules that turn gradients into steps.

Decay is decoupled everywhere (Loshchilov & Hutter 2019): a step first scales weights by
1 - lr * decay. It spares norms and biases, that is, weights of one dimension. Each group of weights
keeps the learning rate that a schedule scales under "peak". All state is in `state_dict()`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from inspect import unwrap
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.adamw import adamw

from automl.config import Optimizer

DECAY = "decoupled: a step takes lr times this from each weight"


class Sgd(Optimizer):
    """Gradient descent with Nesterov momentum (Sutskever et al. 2013)."""

    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.1, gt=0, le=10, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, le=0.999, description="share of the last step kept")
    weight_decay: float = Field(default=5e-3, ge=0, le=10, description=DECAY)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """At momentum 0.9 a decay of 5e-3 does about what 5e-4 does in `torch.optim.SGD`."""
        groups = _groups(model.parameters(), self.lr, decay=self.weight_decay)
        return DecoupledSGD(groups, momentum=self.momentum, nesterov=self.momentum > 0, fused=True)


class AdamW(Optimizer):
    """Adam with decoupled decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=3e-3, gt=0, le=1, description="peak learning rate")
    beta1: float = Field(default=0.9, ge=0, le=0.999, description="memory of the gradient")
    beta2: float = Field(default=0.999, ge=0, le=0.9999, description="memory of its square")
    weight_decay: float = Field(default=0.05, ge=0, le=10, description=DECAY)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = _groups(model.parameters(), self.lr, weight_decay=self.weight_decay)
        return EagerAdamW(groups, betas=(self.beta1, self.beta2), fused=True)


class Muon(Optimizer):
    """Orthogonal steps for hidden matrices and filters, AdamW for the rest (Jordan et al. 2024)."""

    name: Literal["muon"] = "muon"
    lr: float = Field(default=0.02, gt=0, le=10, description="peak learning rate, hidden weights")
    momentum: float = Field(default=0.95, ge=0, le=0.999, description="share of the last step kept")
    adam_lr: float = Field(
        default=3e-3, gt=0, le=1, description="peak learning rate, first layer, head, norms, biases"
    )
    weight_decay: float = Field(default=0.01, ge=0, le=10, description=DECAY)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Hidden are all weights of two dimensions or more but the first, the last and tables."""
        tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}  # by identity
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        hidden = [p for p in matrices[1:-1] if p not in tables]
        inside = set(hidden)
        rest = [p for p in model.parameters() if p not in inside]
        groups = _groups(rest, self.adam_lr, weight_decay=self.weight_decay)
        for group in _groups(hidden, self.lr, weight_decay=self.weight_decay):
            groups.append({**group, "momentum": self.momentum})
        return MuonAndAdamW(groups, {"fused": True})


def _groups(weights: Iterable[nn.Parameter], lr: float, **decay: float) -> list[dict[str, Any]]:
    """Weights that decay and weights that do not; `decay` is under the optimizer's name for it."""
    trained = [p for p in weights if p.requires_grad]
    shared = {"lr": lr, "peak": lr}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], **shared, **decay},
        {"params": [p for p in trained if p.ndim < 2], **shared, **dict.fromkeys(decay, 0.0)},
    ]
    return [group for group in groups if group["params"]]


class Eager(torch.optim.Optimizer):
    """Methods of PyTorch's as they are, without what keeps `torch.compile` away from them.

    That would import its compiler, which takes two seconds, for steps that are never compiled.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class EagerAdamW(Eager, torch.optim.AdamW):
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class DecoupledSGD(Eager, torch.optim.SGD):
    """SGD whose groups have a decoupled "decay". Its own `weight_decay` stays 0."""

    _descend = unwrap(torch.optim.SGD.step)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # takes no closure
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights and group["decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["decay"])
        self._descend()


class MuonAndAdamW(Eager):
    """Muon for groups with a "momentum", AdamW (betas 0.9 and 0.999) for the others."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # takes no closure
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            if "momentum" in group:
                self._muon(weights, group)
            else:
                self._adamw(weights, group)

    def _muon(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        grads = [p.grad for p in weights if p.grad is not None]
        moments = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        steps = torch._foreach_lerp(grads, moments, group["momentum"])  # Nesterov

        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, step in zip(weights, steps, strict=True):
            matrix = step.flatten(1)  # filters as (out, in * k * k)
            alike[matrix.shape].append((p, matrix))
        for (rows, columns), pairs in alike.items():
            stepwise = group["lr"] * max(1, rows / columns) ** 0.5  # Jordan et al. 2024
            directions = orthogonal(torch.stack([matrix for _, matrix in pairs]))
            for (p, _), direction in zip(pairs, directions, strict=True):
                p.sub_(direction.view_as(p) * stepwise)

    def _adamw(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in weights]
        adamw(
            weights,
            [p.grad for p in weights if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """(B, rows, columns) with its singular values moved to 0.7..1.2; only tiny ones stay below.

    Five Newton-Schulz steps with the coefficients of Jordan et al. 2024; bfloat16 on a GPU.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x.bfloat16() if x.is_cuda else x.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    x = x.mT if tall else x
    return x.to(matrices.dtype)
