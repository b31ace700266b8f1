"""What a model may cost: counted before it trains, measured by the worker, learned by the sampler.

The driver and the study are the real ones; workers read costs off a table, but where it is said.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from optuna.trial import TrialState
from test_driver import Table, opened, trials, width
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy import SPACE

from automl import size as size_module
from automl.config import Config, Model, Task
from automl.data import Data, Epoch, Split
from automl.engines import Event, Job, Measured, Reason, Request
from automl.engines.worker import work
from automl.errors import SpaceError
from automl.results import leaderboard
from automl.results.leaderboard import Row
from automl.searching.driver import Trained
from automl.searching.run import search
from automl.size import Size, weigh
from automl.space import Space, find, measure, prove
from automl.training.cost import Memory, latency_ms

pytestmark = pytest.mark.usefixtures("all_forked")


def limited(*limits: str, sampler: str = "random") -> str:
    told = ", ".join([f"sampler: {sampler}", "pruner: none", *limits])
    return SPACE.replace("sampler: random, pruner: none", told)


CPU = torch.device("cpu")
# macOS and old kernels have no account that a process may set back
only_where_memory_is_told = pytest.mark.skipif(
    not Memory.known(CPU),
    reason="what a CPU's process held at most can only be told, and set back, by Linux's /proc;"
    " elsewhere max_memory_mb is refused",
)


# Before anything trains.

LAYERS: list[tuple[nn.Module, tuple[int, ...], int]] = [
    (nn.Linear(10, 20), (10,), 10 * 20),
    (nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8), 8 * 8 * 3 * 4 * 9),
    (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), (4, 8, 8), 4 * 4 * 8 * 9),
    (nn.Conv1d(3, 4, 5, padding=2), (3, 16), 16 * 3 * 4 * 5),
    (nn.RNN(10, 16, batch_first=True), (7, 10), 7 * (10 * 16 + 16 * 16)),
    (nn.GRU(10, 16, batch_first=True), (7, 10), 7 * 3 * (10 * 16 + 16 * 16)),
    (nn.LSTM(10, 16, batch_first=True), (7, 10), 7 * 4 * (10 * 16 + 16 * 16)),
]


class First(nn.Module):
    """What a recurrent layer gives, without its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize(("layer", "shape", "macs"), LAYERS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_multiply_accumulates_are_those_of_one_example(
    layer: nn.Module, shape: tuple[int, ...], macs: int, count: int
) -> None:
    out, size = weigh(First(layer).to("meta"), torch.empty(count, *shape, device="meta"))
    assert size == Size(sum(weight.numel() for weight in layer.parameters()), macs)
    assert len(out) == count


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_one_step_of_a_recurrent_layer_counts_as_all_would(
    cell: Callable[..., nn.RNNBase], first: bool, both: bool
) -> None:
    with torch.device("meta"):
        layer = cell(6, 5, num_layers=2, batch_first=first, bidirectional=both)
        x = torch.empty(3, 3, 6)
        with FlopCounterMode(display=False) as whole:
            wanted = layer(x)[0]
        out, size = weigh(First(layer), x)
    assert size.macs == whole.get_total_flops() // 2 // 3
    assert out.shape == wanted.shape


class ByModule(FlopCounterMode):
    """PyTorch's own counter, which counts by module as well."""

    def __init__(self) -> None:
        super().__init__(display=False)

    @property
    def flops(self) -> int:
        return self.get_total_flops()


@pytest.mark.parametrize("name", ["cifar", "digits", "imdb-lm", "spoken", "trec"])
def test_every_model_of_a_space_is_as_large_as_pytorch_counts_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, rng = Space.load(find(name)), random.Random(0)
    raw, labels = space.task.shape(None)
    configs = [config for config, _ in space.probes()] + [space.sample(rng) for _ in range(10)]
    inputs = [config.input.expect(raw) for config in configs]
    pairs = list(zip(configs, inputs, strict=True))
    sizes = [measure(config, inputs, len(labels)) for config, inputs in pairs]
    monkeypatch.setattr(size_module, "Counter", ByModule)
    with torch.device("meta"):
        assert sizes == [measure(config, inputs, len(labels)) for config, inputs in pairs]


@pytest.mark.parametrize("name", ["digits", "imdb-lm", "spoken", "trec"])
def test_a_model_is_as_large_in_inference_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_module.Counter, "seen", {})
    space = Space.load(find(name))
    raw, labels = space.task.shape(None)

    def sizes() -> list[Size]:
        configs = [config for config, _ in space.probes()]
        return [measure(config, config.input.expect(raw), len(labels)) for config in configs]

    with torch.inference_mode():
        inside = sizes()
    assert inside == sizes()
    assert all(size.macs for size in inside)


@pytest.mark.parametrize("name", Model.members())
def test_knobs_that_cost_nothing_leave_a_model_as_large_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b,target\n1,x,no\n2,y,yes\n3,x,no\n4,y,yes\n")
    table = f"{{name: tablecsv, path: {tmp_path / 'table.csv'}}}"
    family = Model.members()[name]
    spaces = [
        Space.load(find(name)) for name in ("digits", "mnist", "spoken", "sst2", "imdb-lm", "ett")
    ]
    for task, model in (
        ("digits", "efficientnet"),
        ("bccd", "cnn-fcos"),
        ("bccd", "efficientnet-fcos"),
        (table, "tabm"),
        (table, "ft-transformer"),
    ):
        spaces.append(Space.parse(f"task: {task}\nmodel: {model}\n"))
    configs = [(space, config) for space in spaces for config, _ in space.probes()]
    space, config = next(pair for pair in configs if pair[1].model.name == name)
    raw, labels = space.task.shape(None)
    sizes = set()
    for value in (0.01, 0.5, 0.9):
        model = config.model.model_copy(update=dict.fromkeys(family.free, value))
        tried = config.model_copy(update={"model": model})
        sizes.add(measure(tried, config.input.expect(raw), len(labels)))
    assert len(sizes) == 1
    assert family.free <= set(family.model_fields)


def test_all_that_is_made_while_a_model_is_counted_takes_no_memory() -> None:
    class Makes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4)
            self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
            self.drawn = torch.rand(4, device="cpu") + torch.zeros_like(self.scale)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = torch.arange(4) * torch.ones(4, device=x.device) + torch.tensor(2)
            return self.norm(self.layer(x)) * self.scale + self.drawn + places

    with size_module.Counter():
        model = Makes()
        x = torch.ones(2, 3)
    out, size = weigh(model, x)
    assert (tuple(out.shape), size.params, size.macs) == ((2, 4), 16 + 8, 12)
    made = [*model.state_dict().values(), model.scale, model.drawn, x, out]
    assert {tensor.device.type for tensor in made} == {"meta"}


def told_of(out: Any) -> list[Any]:
    tensors = [out] if isinstance(out, torch.Tensor) else out
    return [(x.shape, x.stride(), x.dtype, x.device.type) for x in tensors]


@pytest.mark.parametrize("name", ["cifar", "digits", "imdb-lm", "spoken", "trec"])
def test_operations_give_what_pytorch_says_they_give(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = size_module._answer

    def checked(run: Any, args: Any, kwargs: Any) -> Any:
        wanted = None if run._schema.is_mutable else told_of(run(*args, **kwargs))
        out = answer(run, args, kwargs)
        assert wanted is None or told_of(out) == wanted, str(run)
        return out

    monkeypatch.setattr(size_module, "_answer", checked)
    monkeypatch.setattr(size_module.Counter, "seen", {})
    space = Space.load(find(name))
    raw, labels = space.task.shape(None)
    for config, _ in space.probes():
        measure(config, config.input.expect(raw), len(labels))


OPERATIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "of another type": lambda x: x + x.double(),
    "of integers": lambda x: x.long() / 2,
    "a scalar of a higher type": lambda x: x.long() + torch.ones((), dtype=torch.float64),
    "a scalar of a wider type": lambda x: x + torch.ones((), dtype=torch.float64),
    "compared": lambda x: x > 0,
    "wider than each": lambda x: x[:, :1] * x[:1],
    "as the second lies": lambda x: x[:1] + x.t().contiguous().t(),
    "filled": lambda x: x.t().contiguous().t().masked_fill(x > 0, 1.0),
    "in place": lambda x: x.add_(x[:1]),
    "in place, too wide": lambda x: x[:1].add_(x),
    "in place, of a type that does not fit": lambda x: x.long().add_(x),
    "of a type that no CPU takes": lambda x: x & x,
    "that do not fit": lambda x: x + x[:, :2],
    "into another": lambda x: torch.add(x[:1], x, out=torch.empty(4, 3, device="meta")),
    "into two": lambda x: torch.frexp(x),
    "copied": lambda x: x.t().clone(memory_format=torch.contiguous_format),
    "a layer": lambda x: torch.addmm(x[0, :2], x, x[:3, :2]),
    "a layer of another type": lambda x: torch.addmm(
        *(y.double() for y in (x[0, :2], x, x[:3, :2]))
    ),
    "a layer whose bias does not fit": lambda x: torch.addmm(x[0], x, x[:3, :2]),
    "a layer that does not fit": lambda x: torch.addmm(x[0, :2], x, x[:2, :2]),
    "a mean": lambda x: x.mean(1, keepdim=True),
    "a mean of no dimension of it": lambda x: x.mean(2),
    "a mean of integers, which does not fit": lambda x: x.long().mean(1),
    "a mean of integers, in another type": lambda x: x.long().mean(1, dtype=torch.float64),
    "any": lambda x: (x > 0).any(0),
    "side by side": lambda x: torch.cat([x, x[:, :1]], -1),
    "one on the other": lambda x: torch.cat([x, x[:1]]),
    "side by side, of two types": lambda x: torch.cat([x.long(), x], 1),
    "side by side, that do not fit": lambda x: torch.cat([x, x[:2]], 1),
    "in a new dimension": lambda x: torch.stack([x, x], -1),
    "in a new first dimension": lambda x: torch.stack([x, x]),
    "in a new dimension, that do not fit": lambda x: torch.stack([x, x[:2]]),
    "normed": lambda x: torch.native_layer_norm(x, [3], x[0], x[1], 1e-5)[0],
    "normed, that does not fit": lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5)[0],
    "a triangle": lambda x: x.tril(1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_odd_operations_give_what_pytorch_says_they_give(name: str) -> None:
    def of(where: Any) -> Any:
        with where:
            try:
                return told_of(OPERATIONS[name](torch.empty(4, 3, device="meta")))
            except (RuntimeError, IndexError):
                return "it does not fit"

    assert of(size_module.weightless()) == of(torch.device("meta"))
    assert ("fit" in name or "too wide" in name or "no dimension" in name) == (
        of(size_module.weightless()) == "it does not fit"
    )


def test_an_operation_is_known_by_all_that_its_output_depends_on() -> None:
    whole = torch.empty(2, 3, dtype=torch.int64, device="meta")
    with size_module.Counter():
        told = [whole * 1, whole * 1.0, whole.double() * 1, whole[:1] * 1]
        told += [(square * 1) for square in (whole[:, :2], whole[:, :2].t())]
    assert [str(one.dtype)[6:] for one in told[:4]] == ["int64", "float32", "float64", "int64"]
    assert [tuple(one.shape) for one in told] == [(2, 3)] * 3 + [(1, 3)] + [(2, 2)] * 2
    assert told[4].stride() != told[5].stride()


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, (x,))


def test_of_two_branches_the_larger_counts() -> None:
    _, size = weigh(Branches(), torch.empty(4, 4, device="meta"))
    assert size == Size(0, 2 * 4 * 4)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(4), nn.GroupNorm(3, 6), nn.LayerNorm(5), nn.Conv2d(4, 4, 3)],
    ids=str,
)
def test_layers_that_do_not_fit_are_found_on_the_meta_device(layer: nn.Module) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        weigh(layer.to("meta"), torch.empty(2, 5, 6, 6, device="meta"))


def test_texts_are_counted_at_their_full_length() -> None:
    def of(length: int) -> int:
        config = Config.of({
            "task": "trec", "input": {"name": "words", "length": length}, "model": "rnn",
        })  # fmt: skip
        raw, labels = Task.of({"name": "trec"}).shape(None)
        return measure(config, config.input.expect(raw), len(labels)).macs

    step, head = (of(64) - of(32)) // 32, of(32) - (of(64) - of(32))
    assert step > 1000 > head
    assert of(128) == head + 128 * step


@pytest.mark.parametrize(
    ("limit", "has"),
    [("max_params: 10", "86 parameters"), ("max_macs: 10", "74 multiply-accumulates")],
)
def test_a_limit_below_all_models_is_refused_in_one_line(limit: str, has: str) -> None:
    space = Space.parse(limited(limit), "my.yaml")
    raw, labels = space.task.shape(None)
    with pytest.raises(SpaceError) as caught:
        prove(space, len(labels), lambda part: part.expect(raw))
    assert str(caught.value) == f"my.yaml: search: the smallest model has {has}; {limit}"


@pytest.mark.parametrize(("most", "told"), [(99, 99), (10**6, 76 * 1000 + 10)])
def test_no_more_parameters_are_told_of_than_may_be(most: int, told: int) -> None:
    space = Space.parse(limited(f"max_params: {most}").replace("64]", "1000]"), "my.yaml")
    raw, labels = space.task.shape(None)
    assert prove(space, len(labels), lambda part: part.expect(raw)) == (86, told)


def test_the_largest_model_of_every_branch_is_told_of() -> None:
    space = Space.parse(
        "task: digits\nmodel:\n  choice:\n"
        "    - {name: mlp, widths: {repeat: 2, each: {int: [8, 512]}}}\n"
        "    - {name: cnn, stem: {channels: {int: [4, 8]}}}\n"
    )
    raw, labels = space.task.shape(None)
    _, most = prove(space, len(labels), lambda part: part.expect(raw))
    wide = Config.of({"task": "digits", "model": {"name": "mlp", "widths": [512, 512]}})
    assert most == measure(wide, wide.input.expect(raw), len(labels)).params


@pytest.mark.parametrize("limit", ["max_params: 770", "max_macs: 740"])
def test_what_breaks_a_limit_is_not_even_proposed(limit: str, tmp_path: Path) -> None:
    table = Table(slots=2)
    driver = opened(tmp_path / "s", table, 14, text=limited(limit, sampler="auto"))
    list(driver.run())
    assert len(table.jobs) == 14
    assert {row.state for row in driver.rows()} == {"finished"}
    assert max(row.macs or 0 for row in driver.rows()) <= 740
    assert all(row.macs == 74 * width(driver.config(row.trial).dump()) for row in driver.rows())


def test_a_tight_limit_is_kept_from_the_first_trial_on(tmp_path: Path) -> None:
    text = limited("max_params: 1200", sampler="auto")
    narrow = "{int: [4, 512]}"
    text = text.replace("[{int: [1, 64]}]", f"[{narrow}, {narrow}, {narrow}]")
    driver = opened(tmp_path / "s", Table(lambda config, epoch: 0.5), 12, text=text)
    list(driver.run())
    assert [row.reason for row in driver.rows() if row.state == "infeasible"] == []
    widths = [told.params.values() for told in trials(tmp_path / "s")]
    assert min(len(set(layer)) for layer in zip(*widths, strict=True)) > 1


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_sampler_without_a_model_has_them_refused_untrained(sampler: str, tmp_path: Path) -> None:
    table = Table()
    driver = opened(tmp_path / "s", table, 14, text=limited("max_macs: 740", sampler=sampler))
    list(driver.run())
    refused = [row for row in driver.rows() if row.state == "infeasible"]
    assert len(refused) == 14 - len(table.jobs) > 0
    assert {(row.reason, row.epochs) for row in refused} == {("too large", 0)}
    told = trials(tmp_path / "s")[refused[0].trial].user_attrs["detail"]
    assert told == f"{refused[0].macs:,} multiply-accumulates; max_macs: 740"


# While it trains.


class Costly(Table):
    """Workers whose models cost more the wider they are."""

    def __init__(self, *, warmup: float = 0.0, slots: int = 1) -> None:
        super().__init__(slots=slots)
        self.warmup = warmup

    def send(self, slot: int, request: Request) -> None:
        if isinstance(request, Job) and request.timed:
            self.jobs.append(request)
            self.at[slot] = request, 0
            milliseconds = width(request.config) / 10
            self.pending[slot] = Measured(milliseconds, 20 * milliseconds)
        else:
            super().send(slot, request)

    def _answer(self, job: Job, epoch: int) -> Event:
        told = super()._answer(job, epoch)
        assert isinstance(told, Epoch)
        seconds = width(job.config) / 3 + (self.warmup if epoch == 1 else 0)
        megabytes = 100.0 + width(job.config)
        return replace(told, seconds=seconds, scoring=seconds / 10, memory_mb=megabytes)


def searched(folder: Path, table: Table, text: str, count: int = 14) -> list[Row]:
    driver = opened(folder, table, count, text=text)
    list(driver.run())
    rows = sorted(driver.rows(), key=lambda row: row.trial)
    assert len(rows) == count
    return rows


LIMITS = {  # each refuses what is wider than 32: the limit, why, after how many epochs
    "max_latency_ms: 3.25": ("too slow", 0, "ms for one example; max_latency_ms: 3.25"),
    "max_memory_mb: 132.5": ("too large", 1, "MB; max_memory_mb: 132.5"),
    "max_train_seconds: 32.5": ("too slow", 2, "s to its end; max_train_seconds: 32.5"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_what_is_measured_above_a_limit_is_infeasible(limit: str, tmp_path: Path) -> None:
    reason, epochs, detail = LIMITS[limit]
    rows = searched(tmp_path / "s", Costly(slots=2), limited(limit))
    found = trials(tmp_path / "s")
    assert reason in get_args(Reason)
    wide = [row for row in rows if found[row.trial].params["model.widths[0]"] > 32]
    assert 0 < len(wide) < 14
    assert {(row.state, row.reason, row.epochs) for row in wide} == {("infeasible", reason, epochs)}
    assert {row.state for row in rows if row not in wide} == {"finished"}
    for row in wide:
        assert found[row.trial].state == TrialState.PRUNED
        assert found[row.trial].user_attrs["detail"].endswith(detail)
        assert bool(row.seconds) == bool(epochs), "what was spent on it counts"


def test_the_model_learns_to_keep_within_a_measured_limit(tmp_path: Path) -> None:
    text = limited("max_latency_ms: 3.25", sampler="auto")
    states = [row.state for row in searched(tmp_path / "s", Costly(), text, 30)]
    assert "infeasible" in states[:15]
    assert states[15:].count("infeasible") <= 4, "half of all configs are"


def test_the_first_epoch_warms_up_and_foretells_nothing(tmp_path: Path) -> None:
    limit = limited("max_train_seconds: 100")
    rows = searched(tmp_path / "s", Costly(warmup=35), limit)
    assert {row.state for row in rows} == {"finished"}, "64 + 35 s at most; not 3 * (64 / 3 + 35)"
    rows = searched(tmp_path / "t", Costly(warmup=101), limit)
    assert {(row.reason, row.epochs) for row in rows} == {("too slow", 1)}, "it is over already"


@pytest.mark.parametrize("limit", ["max_train_seconds: 200", "max_train_seconds: 32.5"])
def test_a_first_epoch_does_not_say_what_the_test_will_take(limit: str, tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Costly(warmup=20), 14, text=limited(limit))
    two = Split(torch.zeros(2, 1), torch.zeros(2))
    driver.data = replace(driver.data, valid=two, sealed=50)
    list(driver.run())
    scored = [width(driver.config(r.trial).dump()) for r in driver.rows() if r.score is not None]
    assert 0 < driver.pace <= max(scored) / 30 / 2, "seconds an example, without the warm-up"
    driver.deadline = 1000.0
    assert driver.ends == pytest.approx(1000 - driver.pace * (50 + 2 * 2))


def test_latency_is_measured_where_it_is_limited_and_once_a_trial(tmp_path: Path) -> None:
    unlimited = Costly()
    searched(tmp_path / "s", unlimited, limited())
    assert not any(job.timed for job in unlimited.jobs)

    text = limited("max_latency_ms: 100")
    whole = len(list(opened(tmp_path / "whole", Costly(), 3, text=text).run()))
    for stop in range(whole):
        folder = tmp_path / str(stop)
        before, after = Costly(), Costly()
        events = opened(folder, before, 3, text=text).run()
        told = list(itertools.islice(events, stop))
        events.close()
        driver = opened(folder, after, 3, text=text)
        list(driver.run())
        scored = {event.trial for event in told if isinstance(event, Trained)}
        assert not any(job.timed for job in after.jobs if job.trial in scored)
        for row in driver.rows():
            wide = width(driver.config(row.trial).dump())
            assert (row.latency_ms, row.latency_64_ms) == (wide / 10, 2 * wide)
            assert row.state == "finished"


def test_the_leaderboard_shows_what_is_known_and_no_empty_column(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Costly(), 3, text=limited("max_latency_ms: 100"))
    list(driver.run())
    rows = driver.rows()
    head, _, first, *_ = leaderboard.markdown(rows, driver.metric).splitlines()
    assert "| parameters | MACs | ms for 1 | ms for 64 | MB | seconds |" in head
    best = rows[0]
    assert f"| {best.macs:,} | {best.latency_ms} | {best.latency_64_ms} |" in first

    plain = [replace(row, latency_ms=None, latency_64_ms=None, memory_mb=None) for row in rows]
    head, rule, *lines = leaderboard.markdown(plain, driver.metric).splitlines()
    assert "| parameters | MACs | seconds |" in head
    cells = [line.replace("\\|", "").count("|") for line in (head, rule, *lines)]
    assert set(cells) == {10}


# By a real worker.


def job(folder: Path, **given: Any) -> Job:
    model = {"name": "mlp", "widths": [given.pop("width", 16), 1024]}
    config = {"task": {"name": "digits", "per_class": 20}, "model": model, "train": {"epochs": 2}}
    return Job(0, Config.of(config).dump(), str(folder / "checkpoint.pt"), 2, **given)


@pytest.fixture(scope="module")
def digits() -> Data:
    return Task.of({"name": "digits", "per_class": 20}).load(None)


def test_a_timed_job_tells_its_latency_first_and_trains_as_any_other(
    digits: Data, tmp_path: Path
) -> None:
    plain = list(work(job(tmp_path / "a"), digits, CPU, Memory(CPU)))
    told, *timed = work(job(tmp_path / "b", timed=True), digits, CPU, Memory(CPU))
    assert isinstance(told, Measured)
    assert told.latency_ms > 0
    assert told.latency_64_ms > 0
    assert len(plain) == 2
    for a, b in zip(plain, timed, strict=True):
        assert isinstance(a, Epoch)
        assert isinstance(b, Epoch)
        assert (a.train_loss, a.metrics) == (b.train_loss, b.metrics)


@only_where_memory_is_told
def test_the_memory_of_a_training_is_that_of_its_weights_and_more(
    digits: Data, tmp_path: Path
) -> None:
    def peak(name: str, wide: int) -> float:
        *_, last = work(job(tmp_path / name, width=wide), digits, CPU, memory)
        assert isinstance(last, Epoch)
        assert last.memory_mb is not None
        return last.memory_mb

    memory = Memory(CPU)
    peak("warm", 16)
    small, large = peak("small", 16), peak("large", 8192)
    weights = 4 * 1024 * 8192 / 1e6  # 34 MB
    assert large - small > 4 * weights, "itself, its gradient, two moments of AdamW, an average"
    assert large - small < 12 * weights
    assert peak("again", 16) < small + weights, "the larger one before it is gone"


def test_latency_is_that_of_one_thread() -> None:
    seen, before = [], torch.get_num_threads()

    class Counting(nn.Flatten):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    try:
        torch.set_num_threads(2)
        assert latency_ms(Counting(), Task.of("digits").shape(None)[0], 4, CPU) > 0
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


@only_where_memory_is_told
def test_a_megabyte_is_a_million_bytes_of_memory_as_on_disk() -> None:
    memory = Memory(CPU)
    memory.restart()
    many = torch.ones(100_000_000)
    peak = memory.peak_mb()
    del many
    assert peak is not None
    assert 399 < peak < 415  # 381 of 2**20 bytes


@only_where_memory_is_told
def test_what_one_training_has_freed_counts_for_the_next_one() -> None:
    memory = Memory(CPU)
    for _ in range(3):
        memory.restart()
        many = [torch.ones(5_000) for _ in range(5_000)]  # small ones stay with the process
        del many
        peak = memory.peak_mb()
        assert peak is not None
        assert 95 < peak < 135


def test_a_real_search_refuses_what_is_too_slow(tmp_path: Path) -> None:
    space = Space.parse(limited("max_latency_ms: 1.0e-6"))
    rows = search(space, name="s", studies=tmp_path, trials=2, workers=1).leaderboard
    assert [(row.state, row.reason) for row in rows] == [("infeasible", "too slow")] * 2
    assert all(row.latency_ms and row.latency_64_ms for row in rows)


@pytest.mark.parametrize(("limit", "may"), [("max_train_seconds: 1", False),
                         ("max_memory_mb: 4", False), ("max_params: 1_000_000", True)])  # fmt: skip
def test_a_config_that_is_foretold_to_take_far_too_much_is_not_proposed(
    limit: str, may: bool, tmp_path: Path
) -> None:
    driver = opened(tmp_path / "s", Costly(), 9, text=limited(limit))
    values = {"model.widths[0]": 8, "optimizer.lr": 0.01}
    size = driver._measure(driver.space.with_values(values))
    assert driver._feasible(values), "nothing is known yet"
    for trial, cost in enumerate([9.0, 10.0, 11.0, 10.0]):
        driver.costs.learn(trial, size, 1, cost)
        driver.memory.learn(trial, size, 1, cost)
    assert driver._feasible(values) == may


def test_what_trainings_take_is_learned_by_the_next_driver_too(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Costly(), 12, text=limited())
    list(driver.run())
    again = opened(tmp_path / "s", Costly(), 13, text=limited())
    for one in driver, again:
        for wide in 8, 64:
            values = {"model.widths[0]": wide, "optimizer.lr": 0.01}
            size = one._measure(one.space.with_values(values))
            assert one.costs.foretell(size, 1) == pytest.approx(wide / 3, rel=0.3)
            assert one.memory.foretell(size, 1) == pytest.approx(100 + wide, rel=0.1)


def test_how_much_of_a_model_is_trained_is_known_to_the_next_driver_too(tmp_path: Path) -> None:
    text = "task: digits\nmodel: {name: efficientnet, stages: 3, tuned: {choice: [0, 1, 9]}}\n"
    text += "search: {sampler: random, pruner: none}\n"
    driver = opened(tmp_path / "s", Table(lambda _, epoch: epoch / 100), 8, text=text)
    list(driver.run())
    again = opened(tmp_path / "s", Table(), 9, text=text)
    assert again.costs.points == driver.costs.points
    assert len({point for point, _ in driver.costs.points.values()}) == 3


def test_a_config_that_is_foretold_to_end_after_the_search_is_not_proposed(tmp_path: Path) -> None:
    table = Costly()
    driver = opened(tmp_path / "s", table, 9)
    values = {"model.widths[0]": 8, "optimizer.lr": 0.01}
    size = driver._measure(driver.space.with_values(values))
    for trial in range(4):
        driver.costs.learn(trial, size, 1, 10.0)
    for left, may in (9.0 * driver.space.epochs, False), (900.0 * driver.space.epochs, True):
        driver.deadline = table.now() + left
        assert driver._feasible(values) == may
