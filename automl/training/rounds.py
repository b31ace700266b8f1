"""What an epoch is where clients hold the examples: a round of federated learning.

Clients train one after the other, each from the global weights and with an optimizer of its own;
the server goes to the average of what they come to. The schedule is that of all rounds: a client's
steps in a round go through the share of it that the round has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from automl.config import Augmentation, Config
from automl.data import Data, Inputs, Split
from automl.errors import OptionError
from automl.federation import FedAvg
from automl.size import weightless
from automl.training import graphs
from automl.training.graphs import copied, restore
from automl.training.run import Run, outputs_of
from automl.training.step import Step


class Local(Step):
    """A client's steps, pulled to the global weights by a term in the loss (Li et al. 2020).

    It is mu / 2 times their squared distance, whose gradient is mu times the way.
    """

    averages = False
    mu = 0.0
    pulls: Sequence[tuple[Tensor, Tensor]] = ()  # each weight, and the global one

    def gradients(self, x: Tensor, y: Tensor, parts: int) -> Tensor:
        loss = super().gradients(x, y, parts)
        for weight, begun in self.pulls:
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - begun, alpha=self.mu)
        return loss


class Rounds:
    """Rounds of clients with these shares of the training split."""

    def __init__(
        self,
        run: Run,
        config: Config,
        weights: Tensor | None,
        shares: Sequence[Split],
        prepare: Augmentation,
    ) -> None:
        """`weights` are of classes, by their counts over all clients."""
        assert isinstance(config.federation, FedAvg)
        refuse_records(config, run.device)
        self.run, self.config, self.federation = run, config, config.federation
        self.weights, self.norms = sent(run.model)
        self.begun = copied(self.weights)  # the global weights, as a round begins with them
        self.norms_begun = copied(self.norms)
        if self.federation.server_momentum and not run.server:
            names = (name for name, p in run.model.named_parameters() if p.requires_grad)
            run.server = dict(zip(names, map(torch.zeros_like, self.weights), strict=True))
        passes, mu = self.federation.local_epochs, self.federation.proximal
        pulls = list(zip(self.weights, self.begun, strict=True)) if mu else []
        self.clients = [Local(run, config, weights, one, prepare, passes=passes) for one in shares]
        for client in self.clients:
            client.mu, client.pulls = mu, pulls

    def epoch(self, number: int) -> tuple[float, int]:
        """The `number`-th round, from 1: mean loss of its clients, and examples trained with."""
        chosen = self._taking_part()
        total = sum(client.split.rows for client in chosen)
        own, begun = [*self.weights, *self.norms], [*self.begun, *self.norms_begun]
        restore(begun, own)
        means = [torch.zeros_like(one) for one in begun]
        mean, seen = 0.0, 0
        for client in chosen:
            restore(own, begun)
            loss, examples = client.epoch(number)
            share = client.split.rows / total
            for one, weight in zip(means, own, strict=True):
                one.add_(weight.detach(), alpha=share)
            mean, seen = mean + share * loss, seen + examples
            self.run.optimizer = self.config.optimizer.build(self.run.model)  # nothing is kept
        restore(own, means)
        self._step()
        self.run.average(self.run.share(number - 1, 1))  # over rounds, not steps
        return mean, seen

    def _taking_part(self) -> list[Local]:
        count = self.federation.taking_part(len(self.clients))
        if count == len(self.clients):
            return self.clients
        generator = self.run.generator
        order = torch.randperm(len(self.clients), generator=generator, device=generator.device)
        return [self.clients[i] for i in order[:count].tolist()]

    @torch.no_grad()
    def _step(self) -> None:
        """The server's, from the global weights towards the mean ones, which the model has now.

        Means and deviations of batch norm stay as averaged: a variance beyond may be below 0.
        """
        rate, momentum = self.federation.server_lr, self.federation.server_momentum
        ways = moves = [mean - begun for mean, begun in zip(self.weights, self.begun, strict=True)]
        if momentum:
            moves = list(self.run.server.values())
            for move, way in zip(moves, ways, strict=True):
                move.mul_(momentum).add_(way)
        for weight, move, way in zip(self.weights, moves, ways, strict=True):
            weight.add_(rate * move - way)  # exactly 0 with a rate of 1 and no momentum


def refuse_records(config: Config, device: torch.device) -> None:
    """Raises OptionError where steps of clients were to be records."""
    if config.federated and graphs.wanted(device):
        told = "a record holds one optimizer, and each client of a federation has its own"
        raise OptionError(f"AUTOML_GRAPHS=1: {told}; want it unset")


def told(config: Config, data: Data, inputs: Inputs, rounds: int) -> dict[str, Any] | None:
    """Who took part in a training of so many rounds, and the megabytes that were sent.

    Those are of float32 and of all these rounds: each client that takes part gets all that is
    trained, and gives it back. None where no clients hold the examples.
    """
    clients = config.federation.held(data.train, config.seed)
    if not clients:
        return None
    assert isinstance(config.federation, FedAvg)
    taking_part = config.federation.taking_part(len(clients))
    with weightless():
        weights, norms = sent(config.model.build(inputs, outputs_of(inputs, data)))
    numbers = sum(one.numel() for one in (*weights, *norms))
    return {
        "clients": len(clients),
        "taking_part": taking_part,
        "rounds": rounds,
        "sent_mb": round(4 * numbers * taking_part * rounds * 2 / 1e6, 6),
    }


def sent(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What goes between server and clients: weights, as far as they are trained, and the means
    and deviations of batch norm that follow the batches.
    """
    weights: list[Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
    norms: list[Tensor] = []
    for layer in model.train().modules():
        if layer.training and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            norms += [one for one in (layer.running_mean, layer.running_var) if one is not None]
    return weights, norms
