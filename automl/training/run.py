"""All that changes while a model is trained: what a step works on, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from automl.config import Config
from automl.data import Data, Epoch, Inputs, Split


def outputs_of(inputs: Inputs, data: Data) -> int:
    """Logits a model must give: one a class or, where there is none, one a token."""
    return len(data.labels) or inputs.outputs


class Run:
    """One training, as far as it has come."""

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
        held = self.model.state_dict(keep_vars=True) if self.horizon else {}
        fixed = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        own = {name: weight for name, weight in held.items() if name not in fixed}
        self.averaged = {name: weight.detach().clone() for name, weight in own.items()}
        self.pairs = [(self.averaged[name], weight) for name, weight in own.items()]
        if self.on_gpu and self.pairs:
            with self.evaluated():
                for layer in self.model.modules():
                    if isinstance(layer, nn.RNNBase):
                        layer.flatten_parameters()  # cuDNN wants averages side by side, too
        self.server: dict[str, Tensor] = {}  # momentum of a federation, by weight
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
        try:
            yield self.model
        finally:
            for other, mine in reversed(self.pairs):  # a weight may have two names
                mine.data, other.data = other.data, mine.data

    def share(self, step: int, steps: int) -> float:
        """Of the weights now in their average, behind a step of so many an epoch.

        That is over the last quarter of all steps, and never more than `horizon` epochs; fading.
        """
        return 1 / (1 + min(step / 4, self.horizon * steps))

    @torch.no_grad()
    def average(self, share: float | Tensor) -> None:
        floats = [pair for pair in self.pairs if pair[0].is_floating_point()]
        if not floats:
            return
        means, now = map(list, zip(*floats, strict=True))
        if isinstance(share, float):
            torch._foreach_lerp_(means, now, share)
        else:
            ahead = torch._foreach_sub(now, means)
            torch._foreach_mul_(ahead, share)
            torch._foreach_add_(means, ahead)

    def state(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "history": [asdict(epoch) for epoch in self.history],
            "logits": self.logits,
            "model": self.model.state_dict(),
            "averaged": self.averaged or None,
            "optimizer": None if self.ended else self.optimizer.state_dict(),
            "server": None if self.ended else self.server,
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
            self.server = {name: w.to(self.device) for name, w in state["server"].items()}
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
