"""Every optimizer and every schedule keeps the promises a trainer relies on."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from automl.config import Optimizer, Schedule
from automl.errors import SpaceError
from automl.optimizers import orthogonal

optimizers = pytest.mark.parametrize("name", Optimizer.members())
schedules = pytest.mark.parametrize("name", Schedule.members())


def toy() -> nn.Module:
    """Two filters and a tall matrix between the first layer and the head; norms and biases."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 64),
        nn.LayerNorm(64),
        nn.Linear(64, 3),
    )


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(64, 1, 8, 8, generator=draw)
    return x, x.flatten(1)[:, :3].argmax(1)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    x, y = batch()
    losses = []
    for _ in range(count):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@optimizers
def test_ten_steps_lower_the_loss(name: str) -> None:
    net = toy()
    losses = steps(net, Optimizer.of(name).build(net), 10)
    assert losses[-1] < 0.7 * losses[0]


@optimizers
def test_every_weight_has_a_group_with_its_peak_learning_rate(name: str) -> None:
    net = toy()
    groups = Optimizer.of(name).build(net).param_groups
    held = [p for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(net.parameters()))
    assert all(group["peak"] == group["lr"] > 0 for group in groups)


@optimizers
def test_frozen_weights_stay(name: str) -> None:
    net = toy()
    net[2].weight.requires_grad_(False)
    before = net[2].weight.clone()
    steps(net, Optimizer.of(name).build(net), 2)
    assert torch.equal(net[2].weight, before)


@optimizers
def test_decay_shrinks_matrices_and_filters_and_spares_norms_and_biases(name: str) -> None:
    net = toy()
    optimizer = Optimizer.of({"name": name, "weight_decay": 0.5}).build(net)
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    before = {p: p.detach().clone() for p in net.parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p in net.parameters():
        shrunk = before[p] * (1 - rate[p] * 0.5) if p.ndim >= 2 else before[p]
        torch.testing.assert_close(p.detach(), shrunk, rtol=1e-6, atol=0)


@optimizers
def test_a_learning_rate_of_zero_changes_nothing(name: str) -> None:
    net = toy()
    optimizer = Optimizer.of({"name": name, "weight_decay": 0.5}).build(net)
    before = [p.detach().clone() for p in net.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * 0.0
    steps(net, optimizer, 1)
    assert all(torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True))


@optimizers
def test_a_saved_optimizer_goes_on_bit_by_bit(name: str) -> None:
    net = toy()
    optimizer = Optimizer.of(name).build(net)
    steps(net, optimizer, 3)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)

    saved = torch.load(file, weights_only=True)
    other = toy()
    resumed = Optimizer.of(name).build(other)
    other.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["optimizer"])

    assert steps(net, optimizer, 3) == steps(other, resumed, 3)
    assert all(map(torch.equal, net.parameters(), other.parameters()))
    assert [group["peak"] for group in resumed.param_groups] == [
        group["peak"] for group in optimizer.param_groups
    ]


@optimizers
def test_the_layout_of_filters_in_memory_does_not_matter(name: str) -> None:
    net = toy()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for model in (net, other):
        steps(model, Optimizer.of(name).build(model), 2)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@optimizers
def test_weights_without_a_gradient_are_left_alone(name: str) -> None:
    net = toy()
    optimizer = Optimizer.of(name).build(net)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True))


def test_sgd_without_momentum_is_plain_descent() -> None:
    net = toy()
    knobs = {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}
    optimizer = Optimizer.of(knobs).build(net)
    before = [p.detach().clone() for p in net.parameters()]
    steps(net, optimizer, 1)
    for p, was in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), was - 0.5 * p.grad)


def test_muon_steps_are_nearly_orthogonal_for_filters_too() -> None:
    net = toy()
    optimizer = Optimizer.of({"name": "muon", "lr": 1.0, "weight_decay": 0.0}).build(net)
    before = net[2].weight.detach().clone()
    steps(net, optimizer, 1)
    step = (before - net[2].weight.detach()).flatten(1)
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_steps_hidden_matrices_as_torch_does() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 3))
    other = copy.deepcopy(net)
    knobs = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}
    ours = Optimizer.of({"name": "muon", **knobs}).build(net)
    theirs = torch.optim.Muon([other[1].weight, other[2].weight], **knobs)
    for _ in range(3):
        for mine, copied in zip(net.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            copied.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for layer in (1, 2):
        gap = net[layer].weight - other[layer].weight
        assert gap.norm() < 0.02 * other[layer].weight.norm()  # theirs is in bfloat16


def test_muon_leaves_the_first_layer_the_head_norms_and_biases_to_adamw() -> None:
    net = toy()
    optimizer = Optimizer.of("muon").build(net)
    hidden = [p for g in optimizer.param_groups if "momentum" in g for p in g["params"]]
    assert set(hidden) == {net[2].weight, net[4].weight, net[6].weight}


def test_muon_leaves_tables_to_adamw() -> None:
    net = nn.Sequential(*(nn.Embedding(9, 4) for _ in range(3)), nn.Linear(4, 4), nn.Linear(4, 3))
    optimizer = Optimizer.of("muon").build(net)
    hidden = [p for g in optimizer.param_groups if "momentum" in g for p in g["params"]]
    assert set(hidden) == {net[3].weight}


def test_muon_steps_the_rest_exactly_as_adamw() -> None:
    net, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(net.state_dict())
    decay = {"weight_decay": 0.1}
    ours = Optimizer.of({"name": "muon", "adam_lr": 0.01, **decay}).build(net)
    theirs = Optimizer.of({"name": "adamw", "lr": 0.01, **decay}).build(other)
    x = torch.randn(5, 4)
    for _ in range(3):
        for model, optimizer in ((net, ours), (other, theirs)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)


@pytest.mark.parametrize("shape", [(64, 576), (128, 9), (32, 32)], ids=str)
def test_orthogonal_keeps_the_directions_of_each_matrix(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rows, columns = shape
    rank = min(shape)
    u = torch.linalg.qr(torch.randn(3, rows, rank)).Q
    v = torch.linalg.qr(torch.randn(3, columns, rank)).Q
    matrices = (u * torch.linspace(0.1, 10, rank)) @ v.mT
    found = u.mT @ orthogonal(matrices) @ v  # diagonal, in the matrices' own directions
    values = found.diagonal(dim1=1, dim2=2)
    assert (values > 0.3).all()
    assert (values < 1.3).all()
    assert (found - torch.diag_embed(values)).abs().max() < 1e-3


def test_orthogonal_takes_a_matrix_of_zeros() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


@schedules
def test_a_schedule_stays_between_nothing_and_the_peak_and_reaches_it(name: str) -> None:
    schedule = Schedule.of(name)
    factors = [schedule.factor(step / 1000) for step in range(1001)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1)


@pytest.mark.parametrize(
    ("knobs", "points"),
    [
        ({"name": "constant"}, {0.0: 1, 0.5: 1, 1.0: 1}),
        ({"name": "wsd"}, {0.0: 0, 0.025: 0.5, 0.05: 1, 0.7: 1, 0.85: 0.5, 1.0: 0}),
        ({"name": "wsd", "warmup": 0, "cooldown": 0}, {0.0: 1, 0.5: 1, 1.0: 1}),
        ({"name": "wsd", "warmup": 0.4, "cooldown": 0.6}, {0.2: 0.5, 0.4: 1, 0.7: 0.5, 1.0: 0}),
        ({"name": "wsd", "warmup": 0, "cooldown": 1, "floor": 0.2}, {0.0: 1, 0.5: 0.6, 1.0: 0.2}),
        ({"name": "wsd", "warmup": 1, "cooldown": 0}, {0.0: 0, 0.5: 0.5, 1.0: 1}),
        ({"name": "cosine", "warmup": 0.2}, {0.0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.5, 1.0: 0}),
        ({"name": "cosine", "warmup": 0, "floor": 0.1}, {0.0: 1, 1.0: 0.1}),
        ({"name": "linear"}, {0.0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.5, 1.0: 0}),
        ({"name": "linear", "warmup": 0}, {0.0: 1, 0.5: 0.5, 1.0: 0}),
    ],
    ids=str,
)
def test_a_schedule_goes_through_its_points(knobs: Any, points: dict[float, float]) -> None:
    schedule = Schedule.of(knobs)
    assert {at: schedule.factor(at) for at in points} == pytest.approx(points, abs=1e-9)


def test_warmup_and_cooldown_must_fit_into_the_training() -> None:
    with pytest.raises(SpaceError, match=r"take 1\.2 of all steps together; want at most 1"):
        Schedule.of({"name": "wsd", "warmup": 0.5, "cooldown": 0.7})
    Schedule.of({"name": "wsd", "warmup": 0.7, "cooldown": 0.3})
    Schedule.of({"name": "wsd", "warmup": 0.9, "cooldown": 0.1})
