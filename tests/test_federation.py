"""Clients that hold the examples learn by themselves, and their weights become one model's."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_driver import Table, opened
from test_training import CPU, EPOCHS, busy, config, same, told
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from automl.config import Config, Federation, Task
from automl.data import Data, Epoch, Split
from automl.engines import Event, Job, patience
from automl.errors import AutomlError, OptionError, SpaceError
from automl.results.delivery import Delivery, Training, fit
from automl.searching.run import search
from automl.space import Space
from automl.training import checkpoint, graphs, train
from automl.training.loop import encoded
from automl.training.rounds import Local, Rounds, sent
from automl.training.run import Run

pytestmark = pytest.mark.usefixtures("all_forked")

DATA = os.environ.get("AUTOML_DATA")


@pytest.fixture(scope="module")
def data() -> Data:
    return Task.of({"name": "digits", "per_class": 12}).load(None)


@pytest.fixture(scope="module")
def digits() -> Split:
    return Task.of("digits").load(None).train


def fedavg(**knobs: Any) -> dict[str, Any]:
    return {"name": "fedavg", "clients": 4} | knobs


def held(split: Split, seed: int = 0, **knobs: Any) -> list[Tensor]:
    return Federation.of(fedavg(**knobs)).held(split, seed)


# Who holds what.


@pytest.mark.parametrize("clients", [1, 7, 500])
@pytest.mark.parametrize("alpha", [None, 100.0, 0.3, 1e-3])
def test_every_example_is_with_exactly_one_client(
    clients: int, alpha: float | None, digits: Split
) -> None:
    parts = held(digits, clients=clients, alpha=alpha)
    assert torch.cat(parts).sort().values.equal(torch.arange(len(digits)))
    sizes = {len(part) for part in parts}
    assert len(parts) == clients
    assert max(sizes) - min(sizes) <= 1


def skew(split: Split, parts: list[Tensor]) -> float:
    """How far the classes of a client are from those of all: 0 alike, nearly 1 one class each."""
    everybody = split.y.bincount(minlength=10) / len(split)
    shares = [split.y[part].bincount(minlength=10) / len(part) for part in parts]
    return sum(float((share - everybody).abs().sum()) / 2 for share in shares) / len(parts)


def test_clients_differ_the_more_the_smaller_alpha_is(digits: Split) -> None:
    alphas = None, 100.0, 1.0, 0.3, 0.05
    skews = [skew(digits, held(digits, clients=20, alpha=alpha)) for alpha in alphas]
    assert skews[1] == pytest.approx(skews[0], abs=0.05), "a large one is close to even"
    assert skews[1:] == sorted(skews[1:])
    assert skews[0] < 0.2
    assert skews[-1] > 0.6


def test_what_clients_hold_is_drawn_by_the_seed_alone(digits: Split) -> None:
    for alpha in None, 0.3:
        first, again, other = (held(digits, seed, alpha=alpha) for seed in (1, 1, 2))
        assert all(map(torch.equal, first, again))
        assert not all(map(torch.equal, first, other))
        knobs = {"fraction": 0.5, "local_epochs": 3, "proximal": 1.0, "server_lr": 0.5}
        assert all(map(torch.equal, first, held(digits, 1, alpha=alpha, **knobs)))


def test_a_rare_class_is_shared_out_too(digits: Split) -> None:
    few = digits[torch.cat([(digits.y > 0).nonzero().flatten(), torch.tensor([0])])]
    assert len(torch.cat(held(few, clients=30, alpha=0.01)).unique()) == len(few)


def grouped(split: Split, *sizes: int) -> Split:
    groups = torch.tensor([7 * n for n, size in enumerate(sizes) for _ in range(size)])
    return replace(split[torch.arange(len(groups))], groups=groups)


def test_groups_are_clients_as_they_are(digits: Split) -> None:
    parts = held(grouped(digits, 3, 2, 9), clients=None)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4], [*range(5, 14)]]


# the recordings are no part of the project, whose tests pass without them
@pytest.mark.skipif(not DATA, reason="AUTOML_DATA names no folder with spoken digits")
def test_speakers_are_clients() -> None:
    task = Task.of({"name": "spoken-digits", "speaker_out": "theo"})
    train = task.load(Path(DATA or ".")).train
    parts = held(train, clients=None)
    assert [len(part) for part in parts] == [500] * 4  # of six one is to test, one to validate
    assert train.groups is not None
    assert all(len(train.groups[part].unique()) == 1 for part in parts)


# What a round does.


class By:
    """Clients that learn nothing: each leaves all that is sent at a number of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, leaves: Callable[[int, int], float]):
        self.seen: list[int] = []

        def epoch(client: Local, number: int) -> tuple[float, int]:
            self.seen.append(client.split.rows)
            with torch.no_grad():
                for one in (each for many in sent(client.run.model) for each in many):
                    one.fill_(leaves(client.split.rows, number))
            return float(client.split.rows), client.split.rows

        monkeypatch.setattr(Local, "epoch", epoch)


def rounds(data: Data, sizes: tuple[int, ...], **knobs: Any) -> tuple[Run, Rounds]:
    """Clients with the first examples, so many each."""
    average = knobs.pop("average", 0.0)
    made = config(federation=fedavg(**knobs), train={"average": average}, schedule="constant")
    inputs = made.input.fit(data)
    split, _ = encoded(inputs, data, CPU)
    run = Run(made, data, inputs, split, CPU)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    shares = [split[torch.arange(a, b)] for a, b in pairwise(ends)]
    return run, Rounds(run, made, None, shares, lambda x, y: (inputs.prepare(x), y))


def numbers(model: nn.Module) -> tuple[set[float], set[float]]:
    weights, norms = sent(model)
    told, also = ({n for one in many for n in one.flatten().tolist()} for many in (weights, norms))
    return told, also


def test_weights_and_norms_are_averaged_by_the_examples_of_clients(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = rounds(data, (8, 24))
    by = By(monkeypatch, lambda rows, _: float(rows))
    assert made.epoch(1) == (8 / 4 + 24 * 3 / 4, 32)
    assert numbers(run.model) == ({20.0}, {20.0})
    assert by.seen == [8, 24]


def test_the_server_goes_part_of_the_way_with_what_it_kept_of_the_last(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = rounds(data, (8, 8), server_lr=0.5, server_momentum=0.75)
    for one in sent(run.model)[0]:
        one.detach().zero_()
    By(monkeypatch, lambda _, number: float(8 * number))
    made.epoch(1)
    assert numbers(run.model) == ({0.5 * 8}, {8.0}), "norms are averaged alone"
    made.epoch(2)
    moved = 0.75 * 8 + (16 - 4)
    assert numbers(run.model) == ({4 + 0.5 * moved}, {16.0})


def test_averages_are_over_rounds(data: Data) -> None:
    run, made = rounds(data, (20, 20), average=1.0)
    after = []
    for number in 1, 2:
        made.epoch(number)
        after.append([one.detach().clone() for one in sent(run.model)[0]])
    with run.evaluated() as model:
        for first, second, mean in zip(*after, sent(model)[0], strict=True):
            torch.testing.assert_close(mean.detach(), first + 0.8 * (second - first))


def test_so_many_of_the_clients_take_part_and_others_each_time(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = tuple(range(2, 12))
    _, made = rounds(data, sizes, fraction=0.3)
    by = By(monkeypatch, lambda *_: 0.0)
    for number in range(1, 9):
        made.epoch(number)
    chosen = [frozenset(by.seen[at : at + 3]) for at in range(0, 24, 3)]
    assert all(len(three) == 3 and three <= set(sizes) for three in chosen)
    assert len(set(chosen)) > 4


def test_clients_begin_with_the_global_weights_and_an_optimizer_of_their_own(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = rounds(data, (20, 20, 20))
    begun: list[list[Tensor]] = []
    learn = Local.epoch

    def epoch(client: Local, number: int) -> tuple[float, int]:
        begun.append([one.detach().clone() for many in sent(client.run.model) for one in many])
        assert not client.run.optimizer.state
        before = learn(client, number)
        assert client.run.optimizer.state
        return before

    monkeypatch.setattr(Local, "epoch", epoch)
    made.epoch(1)
    made.epoch(2)
    assert same(begun[0], begun[1])
    assert same(begun[3], begun[5])
    assert not same(begun[0], begun[3])
    assert not run.optimizer.state, "a checkpoint holds none"


def test_the_schedule_is_that_of_all_rounds(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    update = Local.update

    def noted(client: Local, x: Tensor, y: Tensor) -> None:
        rates.append(client.run.optimizer.param_groups[0]["lr"])
        update(client, x, y)

    monkeypatch.setattr(Local, "update", noted)
    knobs = fedavg(clients=2, local_epochs=2)
    schedule, steps = {"name": "wsd", "warmup": 0.5, "cooldown": 0.5}, {"epochs": 2}
    made = config(federation=knobs, schedule=schedule, optimizer="sgd", train=steps)
    list(train(made, data, device=CPU))
    up = [0.1 * 2 * (step + 0.5) / 8 for step in range(4)]  # four steps a client and round
    assert rates == pytest.approx([*up, *up, *up[::-1], *up[::-1]])


def far(data: Data, mu: float) -> float:
    """How far clients come from the global weights in a round."""
    run, made = rounds(data, (50, 50), proximal=mu, local_epochs=4)
    before = [one.detach().clone() for one in sent(run.model)[0]]
    made.epoch(1)
    pairs = zip(sent(run.model)[0], before, strict=True)
    return math.sqrt(sum(float((now.detach() - then).square().sum()) for now, then in pairs))


def test_the_proximal_term_holds_clients_near_the_global_weights(data: Data) -> None:
    near, *others = (far(data, mu) for mu in (100.0, 1.0, 0.01, 0.0))
    assert near < 0.8 * others[0] < 0.8 * others[1] < 0.8 * 1.25 * others[2]


@pytest.mark.parametrize("parts", [1, 2])
def test_its_gradient_is_mu_times_the_way(parts: int, data: Data) -> None:
    """Whatever parts memory wants a batch in."""
    gradients = []
    for mu in 0.0, 0.5:
        run, made = rounds(data, (20, 20), proximal=mu)
        (client, _), (weights, _) = made.clients, sent(run.model)
        with torch.no_grad():
            for weight in weights:
                weight.add_(2.0)
        client.gradients(*client.prepare(*next(client.split.epoch(20, run.generator))), parts)
        gradients.append([weight.grad.clone() for weight in weights if weight.grad is not None])
    for plain, pulled in zip(*gradients, strict=True):
        torch.testing.assert_close(pulled - plain, torch.ones_like(plain), rtol=1e-3, atol=1e-3)


class Frozen(nn.Module):
    """A norm that keeps what it has, as of a network that was trained before, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.BatchNorm1d(3).requires_grad_(False), nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("scale", torch.ones(5))

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.before.eval()
        return self


def test_what_is_frozen_is_not_sent() -> None:
    net = Frozen()
    weights, norms = sent(net)
    assert same(weights, [net.after.weight, net.after.bias, net.norm.weight, net.norm.bias])
    assert [id(one) for one in norms] == [id(net.norm.running_mean), id(net.norm.running_var)]


# Whole trainings.


def epochs(made: Config, data: Data, file: Path, until: int | None = None) -> list[Any]:
    return told(list(train(made, data, device=CPU, checkpoint=file, until=until)))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_one_client_with_all_examples_is_a_training_whose_optimizer_forgets(
    optimizer: str, data: Data, tmp_path: Path
) -> None:
    """Bit by bit: weights, batch norm and scores."""
    changes: dict[str, Any] = {"train": {"average": 0.0, "clip": 1.0}, "schedule": "cosine"}
    alone = busy(optimizer, federation=fedavg(clients=1), **changes)
    federated = epochs(alone, data, tmp_path / "f")
    central, file = busy(optimizer, **changes), tmp_path / "c"
    for until in range(1, EPOCHS + 1):
        found = epochs(central, data, file, until)
        state = checkpoint.load(file)
        assert state is not None
        if until < EPOCHS:
            assert state["optimizer"]["state"]
            state["optimizer"]["state"] = {}
            checkpoint.save(file, state)
    assert federated == found
    other = checkpoint.load(tmp_path / "f")
    assert other is not None
    counts = [name for name in state["model"] if name.endswith("num_batches_tracked")]
    for name in counts:
        del state["model"][name], other["model"][name]  # batches that nobody asks for
    for part in ("model", "logits", "generator", "random"):
        assert same(state[part], other[part]), part


def test_a_round_that_was_stopped_after_goes_on_as_if_nothing_had_been(
    data: Data, tmp_path: Path
) -> None:
    knobs = {"alpha": 0.5, "fraction": 0.5, "local_epochs": 2, "proximal": 0.1}
    made = busy("adamw", federation=fedavg(server_momentum=0.9, server_lr=0.5, **knobs))
    undisturbed = epochs(made, data, tmp_path / "whole")
    epochs(made, data, tmp_path / "nearly", until=EPOCHS - 1)
    for stop in range(1, EPOCHS):
        file = tmp_path / f"stopped {stop}"
        assert epochs(made, data, file, until=stop) == undisturbed[:stop]
        for until, whole in (EPOCHS - 1, "nearly"), (EPOCHS, "whole"):
            torch.manual_seed(99)
            assert epochs(made, data, file, until=until) == undisturbed[:until]
            resumed, end = checkpoint.load(file), checkpoint.load(tmp_path / whole)
            assert resumed is not None
            assert end is not None
            for part in ("model", "averaged", "server", "generator", "random"):
                assert same(resumed[part], end[part]), part
            assert bool(resumed["server"]) == (until < EPOCHS), "at its end nothing is kept of it"


@pytest.fixture
def trained_with() -> Iterator[list[int]]:
    """How many examples each batch of a training has."""
    sizes: list[int] = []

    def note(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(layer, nn.Flatten) and layer.training:
            sizes.append(len(given[0]))

    hook = register_module_forward_pre_hook(note)
    yield sizes
    hook.remove()


def test_a_round_tells_how_many_examples_it_has_trained_with(
    data: Data, trained_with: list[int]
) -> None:
    made = config(federation=fedavg(clients=5, fraction=0.4, local_epochs=3), train={"epochs": 2})
    rounds_told = [epoch.examples for epoch in train(made, data, device=CPU)]
    assert rounds_told == [sum(trained_with[:6]), sum(trained_with[6:])]
    share = len(data.train) * made.federation.passes
    assert rounds_told == pytest.approx([share] * 2, abs=2 * 3)


def test_classes_that_are_rare_among_all_count_more_with_every_client(data: Data) -> None:
    rare = torch.cat(
        [(data.train.y > 4).nonzero().flatten()[:20], (data.train.y < 5).nonzero()[:, 0]]
    )
    few = replace(data, train=data.train[rare])
    made = {kind: config(federation=fedavg(), train={"class_weights": kind, "epochs": 1})
            for kind in ("none", "auto", "root")}  # fmt: skip
    losses = {k: [e.train_loss for e in train(c, few, device=CPU)] for k, c in made.items()}
    assert losses["auto"] == losses["root"] != losses["none"]


# What is refused.

SPACE = """
task: {name: digits, per_class: 30}
model: {name: mlp, widths: [16]}
train: {epochs: 3, batch_size: 16}
"""
LINES = {
    "no clients": ("{name: fedavg, clients: 0}", "federation.clients: got 0; want at least 1"),
    "nobody takes part": (
        "{name: fedavg, fraction: 0.0}",
        "federation.fraction: got 0.0; want more than 0.0",
    ),
    "unknown": ("fedprox", "federation: no federation is called 'fedprox'; Known: fedavg, none."),
    "skewed groups": (
        "{name: fedavg, clients: null, alpha: 0.5}",
        "federation.alpha: got 0.5 with clients: null; groups hold what they hold, want null",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_what_makes_no_sense_is_one_line(name: str) -> None:
    knobs, line = LINES[name]
    with pytest.raises(SpaceError) as error:
        Space.parse(f"{SPACE}federation: {knobs}\n")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_to_go_on_with_has_no_examples_to_share_out() -> None:
    text = "task: shakespeare\nmodel: rnn\nfederation: fedavg\n"
    line = "federation: fedavg shares out examples; shakespeare gives prose; want none"
    with pytest.raises(SpaceError, match=line):
        Space.parse(text)


TOO_FEW = {
    "{name: fedavg, clients: 136}": "clients: got 136 for 270 training examples; want at most 135",
    "{name: fedavg, clients: {int: [2, 136]}}": "clients: got 136 for 270 training examples",
    "{name: fedavg, clients: null}": "clients: got null, and the task, as it is set, holds",
}


@pytest.mark.parametrize("knobs", TOO_FEW)
def test_a_search_with_too_little_for_its_clients_begins_nothing(
    knobs: str, tmp_path: Path
) -> None:
    space = Space.parse(f"{SPACE}federation: {knobs}\n")
    with pytest.raises(SpaceError, match=TOO_FEW[knobs]):
        search(space, name="s", studies=tmp_path, trials=2, workers=1)
    assert not list(tmp_path.iterdir())


def test_groups_of_one_example_are_refused(digits: Split) -> None:
    with pytest.raises(SpaceError, match="1 of 3 groups have fewer than 2 training examples"):
        held(grouped(digits, 3, 1, 9), clients=None)


def test_steps_of_clients_are_no_records(
    data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(graphs, "wanted", lambda device: True)
    with pytest.raises(OptionError, match=r"AUTOML_GRAPHS=1: .*want it unset"):
        next(train(config(federation=fedavg()), data, device=CPU))
    space = Space.parse(f"{SPACE}federation: {{choice: [none, fedavg]}}\n")
    with pytest.raises(AutomlError, match="AUTOML_GRAPHS=1"):
        search(space, name="s", studies=tmp_path, trials=2, workers=1)


# Searches.

KNOBS = """
federation:
  choice:
    - none
    - name: fedavg
      clients: {int: [2, 6]}
      alpha: {float: [0.1, 10], log: true}
      fraction: {choice: [0.5, 1.0]}
      local_epochs: {int: [1, 2]}
      proximal: {choice: [0.0, 0.1]}
      server_lr: {float: [0.5, 1.0]}
      server_momentum: {choice: [0.0, 0.5]}
start:
  - federation:
      {name: fedavg, clients: 4, alpha: 1.0, fraction: 0.5, local_epochs: 2, proximal: 0.1,
       server_lr: 1.0, server_momentum: 0.5}
"""


def test_a_search_over_the_knobs_says_how_its_model_was_trained(tmp_path: Path) -> None:
    text = SPACE + "search: {portfolio: 0}" + KNOBS
    study = search(Space.parse(text), name="s", studies=tmp_path, trials=4, workers=1)
    assert [row.reason for row in study.leaderboard if row.state == "infeasible"] == []
    alone = tmp_path / "s" / "one"
    made = study.space.with_values(study.space.start[0])
    list(fit(made, alone, root=None, device=CPU))
    card = (alone / "card.md").read_text()
    numbers = 64 * 16 + 16 * 2 + 16 * 10 + 10 + 16 * 2  # the last are means and deviations
    sent_mb = numbers * 4 * 2 * 2 * 3 / 1e6  # float32, two clients, down and up, three rounds
    assert (
        f"4 clients held the examples, of which\n2 trained in each of 3 rounds, and {sent_mb:.3g}"
        f" MB went up and down in all" in card
    )


def test_a_model_that_was_cut_off_tells_of_the_rounds_that_it_had(tmp_path: Path) -> None:
    made = Config.of({**config().dump(), "federation": {"name": "fedavg", "clients": 4}})
    data, file = made.task.load(None), tmp_path / "checkpoint.pt"
    for whole in (1, EPOCHS):
        list(train(made, data, device=CPU, checkpoint=file, until=whole))
        delivery = Delivery(tmp_path / "best", "s", data, ("nothing", 0.0))
        delivery.write(Training(0, made, file))
        told = delivery.metrics["federation"]
        assert (told["rounds"], delivery.metrics["epochs"]) == (whole, whole)
        if whole == 1:
            once = told["sent_mb"]
    assert told["sent_mb"] == pytest.approx(EPOCHS * once)


def test_the_page_tells_of_clients(tmp_path: Path) -> None:
    text = SPACE + "federation: {name: fedavg, clients: 4, alpha: {float: [1, 9]}, fraction: 0.5}"
    study = search(Space.parse(text), name="s", studies=tmp_path, trials=2, workers=1, finalists=0)
    page = (tmp_path / "s" / "report.html").read_text()
    assert "4 clients, 2 in each of 3 rounds; " in page
    seen = sum(row.epochs for row in study.leaderboard) * 270 // 2
    assert f"up to {seen:,} examples seen" in page


class PassesTake(Table):
    """Workers whose epochs take a hundred seconds for each pass over the training split."""

    def _answer(self, job: Job, epoch: int) -> Event:
        told = super()._answer(job, epoch)
        assert isinstance(told, Epoch)
        return replace(told, seconds=100 * Config.of(job.config).federation.passes)


def test_what_an_epoch_will_take_is_told_by_how_much_it_trains_with(tmp_path: Path) -> None:
    text = SPACE + "search: {sampler: random, pruner: none}\n"
    text += "federation: {name: fedavg, clients: 4, fraction: 0.5, local_epochs: {int: [1, 16]}}"
    table = PassesTake(lambda _, epoch: epoch / 100)
    driver = opened(tmp_path / "s", table, 8, text=text)
    list(driver.run())
    again = opened(tmp_path / "s", Table(), 9, text=text)
    size = driver._measure(driver.space.with_values({}))
    for one in driver, again:
        assert one.costs.foretell(size, 1) == pytest.approx(100)
        one.deadline = one.engine.now() + 1000.0
        assert one._feasible({"federation.local_epochs": 6}), "three passes, three rounds"
        assert not one._feasible({"federation.local_epochs": 7})
    passes = [Config.of(job.config).federation.passes for job in table.jobs]
    waits = [patience(100 * max(passes[: n + 1])) for n in range(1, 8)]
    assert [job.patience for job in table.jobs[1:]] == pytest.approx(waits)
