"""One seed trains to one result, whatever is stopped, killed or damaged on the way."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from automl.config import Config, Optimizer, Schedule, Task
from automl.data import Data, Epoch, Split
from automl.inputs.images import Images
from automl.training import Diverged, checkpoint, evaluate, train
from automl.training.loop import class_weights, predict
from automl.training.precision import Precision
from automl.training.run import Run

CPU = torch.device("cpu")
EPOCHS = 4
MLP = {"name": "mlp", "widths": [16]}


def config(**changes: Any) -> Config:
    """A small training; `train` and the other sections may be changed."""
    steps = {"epochs": EPOCHS, "batch_size": 32} | changes.pop("train", {})
    return Config.of({"task": "digits", "model": MLP, "seed": 3} | changes | {"train": steps})


def test_a_gpu_is_asked_itself_whether_it_has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[torch.device] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        now.append(device)
        yield
        now.pop()

    def asked(*, including_emulation: bool) -> bool:
        assert not including_emulation
        return now == [torch.device("cuda:1")]

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    assert Precision.of(torch.device("cuda:1")).bf16
    assert not Precision.of(torch.device("cuda:0")).bf16


def busy(optimizer: str, **changes: Any) -> Config:
    """All that draws random numbers, keeps state or looks at the data ahead, at once."""
    stem, stages = {"whiten": True}, [{"name": "residual", "channels": 8}]
    model = {"name": "cnn", "stem": stem, "stages": stages, "dropout": 0.2}
    told = {
        "model": model | {"stochastic_depth": 0.2},
        "augment": {"name": "images", "flip": True, "crop": 1, "cutout": 2, "mixup": 0.4},
        "optimizer": optimizer,
        "train": {"average": 1.0, "label_smoothing": 0.1, "clip": 1.0},
    }
    return config(**(told | changes))


@pytest.fixture(scope="module")
def data() -> Data:
    return Task.of({"name": "digits", "per_class": 12}).load(None)


def blobs(classes: int, each: int = 20) -> Data:
    """Images that show their class as their brightness."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(classes).repeat(each)
    noise = torch.randint(0, 200 // classes, (len(y), 1, 4, 4), generator=draw)
    x = (y.view(-1, 1, 1, 1) * 200 // classes + noise).to(torch.uint8)
    labels = [f"class {k}" for k in range(classes)]
    split, digits = Split(x, y), Task.of("digits").load(None)
    return replace(digits, train=split, valid=split, inputs=Images.measure(x), labels=labels)


def told(epochs: list[Epoch]) -> list[tuple[Any, ...]]:
    """All but the time that it took."""
    return [(e.number, e.train_loss, sorted(e.metrics.items()), e.examples) for e in epochs]


def run(config: Config, data: Data, file: Path, until: int | None = None) -> list[tuple[Any, ...]]:
    return told(list(train(config, data, device=CPU, checkpoint=file, until=until)))


def test_what_scoring_takes_is_told_and_is_a_part_of_the_epoch(data: Data) -> None:
    epochs = list(train(config(), data, device=CPU))
    assert all(0 < epoch.scoring < epoch.seconds for epoch in epochs)


def weights(file: Path) -> dict[str, Tensor]:
    """What would be delivered."""
    state = checkpoint.load(file)
    assert state is not None
    found: dict[str, Tensor] = state["averaged"] or state["model"]
    return found


def same(a: Any, b: Any) -> bool:
    """Bitwise, however deep."""
    if isinstance(a, Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_the_same_seed_gives_the_same_model_bit_by_bit(data: Data, tmp_path: Path) -> None:
    first, second = (run(busy("adamw"), data, tmp_path / name) for name in "ab")
    assert first == second
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_another_seed_gives_another_model(data: Data, tmp_path: Path) -> None:
    other = busy("adamw").model_copy(update={"seed": 4})
    assert run(busy("adamw"), data, tmp_path / "a") != run(other, data, tmp_path / "b")


@pytest.mark.parametrize("name", Optimizer.members())
def test_going_on_after_any_epoch_is_as_if_never_stopped(
    name: str, data: Data, tmp_path: Path
) -> None:
    undisturbed = run(busy(name), data, tmp_path / "whole")
    run(busy(name), data, tmp_path / "nearly", until=EPOCHS - 1)  # at its end no optimizer is kept
    for stop in range(1, EPOCHS):
        file = tmp_path / f"stopped {stop}"
        assert run(busy(name), data, file, until=stop) == undisturbed[:stop]
        for until, whole in (EPOCHS - 1, "nearly"), (EPOCHS, "whole"):
            torch.manual_seed(99)  # another process would not have our random state
            assert run(busy(name), data, file, until=until) == undisturbed[:until]
            resumed, end = checkpoint.load(file), checkpoint.load(tmp_path / whole)
            assert resumed is not None
            assert end is not None
            for part in ("model", "averaged", "optimizer", "generator", "random"):
                assert same(resumed[part], end[part]), part
        assert resumed["optimizer"] is None


def test_of_what_has_ended_only_what_is_delivered_stays(data: Data, tmp_path: Path) -> None:
    file, wide = tmp_path / "c", config(model={"name": "mlp", "widths": [256]})
    run(wide, data, file, until=EPOCHS - 1)
    before = file.stat().st_size
    assert file.with_suffix(".old").exists()
    undisturbed = run(wide, data, file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_size < 0.6 * before  # weights and their mean, no moments of Adam
    assert run(wide, data, file) == undisturbed


def test_epochs_that_are_in_the_checkpoint_are_told_again(data: Data, tmp_path: Path) -> None:
    first = list(train(config(), data, device=CPU, checkpoint=tmp_path / "c"))
    assert list(train(config(), data, device=CPU, checkpoint=tmp_path / "c")) == first


@pytest.mark.parametrize("stop", range(1, EPOCHS))
def test_who_stops_asking_leaves_a_checkpoint_to_go_on_with(
    stop: int, data: Data, tmp_path: Path
) -> None:
    undisturbed = run(busy("muon"), data, tmp_path / "whole")
    epochs = train(busy("muon"), data, device=CPU, checkpoint=tmp_path / "closed")
    for _ in range(stop):
        next(epochs)
    epochs.close()
    assert checkpoint.load(tmp_path / "closed")
    assert run(busy("muon"), data, tmp_path / "closed") == undisturbed
    assert same(weights(tmp_path / "closed"), weights(tmp_path / "whole"))


class Planted:
    """What a pickle can do to whoever opens it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.file), "w")


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def pickled(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return sealed(buffer.getvalue())


DAMAGES: dict[str, Callable[[bytes, Path], bytes]] = {
    "flipped": lambda raw, _: raw[:900] + bytes([raw[900] ^ 1]) + raw[901:],
    "truncated": lambda raw, _: raw[: len(raw) // 2],
    "its digest cut": lambda raw, _: raw[:-1],
    "empty": lambda raw, _: b"",
    "a list": lambda raw, _: sealed(b"".join(checkpoint.packed([1, 2]))),
    "of torch.save": lambda raw, _: pickled({"history": []}),
    "a planted pickle": lambda raw, bait: sealed(pickle.dumps(Planted(bait), protocol=2)),
    "planted in a state": lambda raw, bait: pickled({"history": Planted(bait)}),
}


STATES = {
    "plain": [None, True, 1, -2.5, "x", (1, 2), [], {}, {"a": 1, 2: "b"}, math.inf, 1e-300],
    "types": [torch.ones(2).to(kind) for kind in (torch.bfloat16, torch.bool, torch.int64)],
    "shapes": [torch.rand(shape) for shape in ((), (0, 3), (2, 3), (1, 2, 3, 1))],
    "layouts": [torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.rand(4, 3).T],
    "parts": [torch.rand(9)[2:5], torch.rand(3, 1).expand(3, 2), torch.rand(6, 6)[::2, ::3]],
}


@pytest.mark.parametrize("name", STATES)
def test_a_checkpoint_gives_back_what_it_was_given(name: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {"all": STATES[name]})
    state = checkpoint.load(tmp_path / "c")
    assert state is not None
    for given, found in zip(STATES[name], state["all"], strict=True):
        assert type(found) is type(given)
        if isinstance(given, Tensor):
            assert (found.dtype, found.shape) == (given.dtype, given.shape)
            assert torch.equal(found, given)
            assert found.untyped_storage().nbytes() == found.nbytes
        else:
            assert found == given
    if name == "layouts":
        assert [t.stride() for t in state["all"]] == [t.stride() for t in STATES[name]]


def test_what_no_checkpoint_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="holds no set"):
        checkpoint.save(tmp_path / "c", {"of": {1}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_read_but_the_one_before(
    damage: str, data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, bait = tmp_path / "c", tmp_path / "bait"
    undisturbed = run(config(), data, tmp_path / "whole")
    run(config(), data, file, until=1)
    run(config(), data, file, until=2)
    file.write_bytes(DAMAGES[damage](file.read_bytes(), bait))

    with caplog.at_level(logging.WARNING, "automl"):
        before = checkpoint.load(file)
    assert before is not None
    assert len(before["history"]) == 1
    assert str(file) in caplog.text
    assert run(config(), data, file) == undisturbed
    assert not bait.exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_starts_afresh_where_no_checkpoint_is_whole(
    damage: str, data: Data, tmp_path: Path
) -> None:
    undisturbed = run(config(), data, tmp_path / "whole")
    file, bait = tmp_path / "c", tmp_path / "bait"
    run(config(), data, file, until=2)
    for each in (file, file.with_suffix(".old")):
        each.write_bytes(DAMAGES[damage]((tmp_path / "whole").read_bytes(), bait))
    assert run(config(), data, file) == undisturbed
    assert not bait.exists()


def test_a_checkpoint_of_another_config_is_not_gone_on_with(data: Data, tmp_path: Path) -> None:
    faster = config(optimizer={"name": "adamw", "lr": 0.03})
    wider = config(model={"name": "mlp", "widths": [17]})
    for other in (faster, wider):
        run(config(), data, tmp_path / "c", until=2)
        assert run(other, data, tmp_path / "c") == told(list(train(other, data, device=CPU)))


def test_a_checkpoint_survives_a_crash_between_its_two_renames(data: Data, tmp_path: Path) -> None:
    file = tmp_path / "c"
    run(config(), data, file, until=2)
    file.rename(file.with_suffix(".old"))
    file.with_suffix(".new").write_bytes(b"half a checkpoi")
    state = checkpoint.load(file)
    assert state is not None
    assert len(state["history"]) == 2


def test_a_removed_checkpoint_leaves_nothing(data: Data, tmp_path: Path) -> None:
    file = tmp_path / "c"
    run(config(), data, file, until=1)
    run(config(), data, file, until=2)
    checkpoint.remove(file)
    assert not list(tmp_path.iterdir())
    checkpoint.remove(file)  # and again


def test_a_loss_that_leaves_the_finite_numbers_is_told(data: Data) -> None:
    wild = config(
        model={"name": "mlp", "widths": [64] * 3, "norm": "none", "activation": "silu"},
        optimizer={"name": "sgd", "lr": 10.0, "momentum": 0.99},
        schedule="constant",
        train={"batch_size": 8},
    )
    with pytest.raises(Diverged, match=r"in epoch \d"):
        list(train(wild, data, device=CPU))


@pytest.mark.parametrize("average", [0.0, 1.0])
def test_the_score_is_that_of_the_weights_delivered(
    average: float, data: Data, tmp_path: Path
) -> None:
    tried = config(train={"average": average})
    last = list(train(tried, data, device=CPU, checkpoint=tmp_path / "c"))[-1]
    model = tried.model.build(data.inputs, len(data.labels))
    model.load_state_dict(weights(tmp_path / "c"))
    assert evaluate(model, data.valid, data.inputs, tried.task) == last.metrics


def test_while_it_is_scored_a_model_has_the_mean_of_its_weights(data: Data) -> None:
    run = Run(config(model={"name": "mlp", "widths": [16] * 3}), data, data.inputs, data.train, CPU)
    one, other = [layer for layer in run.model.modules() if isinstance(layer, nn.Linear)][1:3]
    one.weight = other.weight  # under two names, as in language models
    norm = next(layer for layer in run.model.modules() if isinstance(layer, nn.BatchNorm1d))
    tensors = one.weight.detach(), norm.running_mean
    for tensor in tensors:
        tensor.fill_(1.0)
    own = run.model.state_dict(keep_vars=True).values()
    run.pairs = [(weight.detach().clone(), weight) for weight in own]
    for tensor in tensors:
        tensor.fill_(3.0)
    with suppress(Diverged), run.evaluated() as model:
        assert model is run.model
        assert all(tensor.eq(1).all() for tensor in (one.weight, other.weight, norm.running_mean))
        raise Diverged
    assert all(tensor.eq(3).all() for tensor in (one.weight, other.weight, norm.running_mean))
    run.average(run.share(4, 4))  # half of it is new
    with run.evaluated():
        assert all(tensor.eq(2).all() for tensor in (one.weight, other.weight, norm.running_mean))
    assert all(tensor.eq(3).all() for tensor in (one.weight, other.weight, norm.running_mean))


def test_averaged_weights_are_scored_only_where_asked_for(data: Data, tmp_path: Path) -> None:
    ends = {}
    for average in (0.0, 0.2, 1.0):
        run(config(train={"average": average}), data, tmp_path / str(average))
        ends[average] = checkpoint.load(tmp_path / str(average)) or {}
    assert ends[0.0]["averaged"] is None
    for average in (0.2, 1.0):
        assert same(ends[average]["model"], ends[0.0]["model"]), "averaging must not steer training"
        assert not same(ends[average]["averaged"], ends[average]["model"])
    assert not same(ends[0.2]["averaged"], ends[1.0]["averaged"])


@pytest.fixture
def groups() -> Any:
    """The parameter groups of whatever optimizer steps, copied before each step."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen: list[list[dict[str, Any]]] = []

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.append([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(hook)
    yield seen
    handle.remove()


@pytest.mark.parametrize("name", Optimizer.members())
def test_the_learning_rate_of_the_config_reaches_the_optimizer(
    name: str, data: Data, groups: list[list[dict[str, Any]]]
) -> None:
    tried = config(
        model={"name": "mlp", "widths": [8, 8]},
        optimizer={"name": name, "lr": 0.00123},
        schedule="constant",
    )
    list(train(tried, data, device=CPU, until=1))
    assert all(0.00123 in {group["lr"] for group in step} for step in groups)
    assert groups


@pytest.mark.parametrize("name", Schedule.members())
def test_the_schedule_is_followed_step_by_step_over_a_pause(
    name: str, data: Data, tmp_path: Path, groups: list[list[dict[str, Any]]]
) -> None:
    tried = config(schedule=name, optimizer={"name": "adamw", "lr": 0.01})
    run(tried, data, tmp_path / "c", until=2)
    run(tried, data, tmp_path / "c")
    total = len(groups)
    assert total == EPOCHS * -(-len(data.train) // 32)
    want = [0.01 * tried.schedule.factor((step + 0.5) / total) for step in range(total)]
    assert min(want) > 0, "no step is for nothing"
    assert [step[0]["lr"] for step in groups] == pytest.approx(want)


def test_a_baseline_says_nothing_of_classes_with_hardly_an_example() -> None:
    """Any warning is an error here."""
    name, score = Task.of("digits").baseline(blobs(30, each=1))
    assert name == "logistic regression on 4x4 pixels"
    assert 0 <= score <= 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighed", [False, True])
def test_a_loss_of_classes_is_that_of_pytorch_and_waits_for_no_device(
    smoothing: float, weighed: bool
) -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(40, 5, requires_grad=True), torch.randint(5, (40,))
    weights = torch.rand(5) + 0.1 if weighed else None
    with torch.profiler.profile() as seen:
        loss = Task.of("digits").loss(logits, y, smoothing, weights)
    wanted = F.cross_entropy(logits, y, weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss, wanted)
    for ours, theirs in zip(*(torch.autograd.grad(told, logits) for told in (loss, wanted)),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)
    waits = {"aten::masked_select", "aten::nonzero", "aten::_local_scalar_dense"}
    assert waits.isdisjoint(event.key for event in seen.key_averages())


def test_label_smoothing_makes_a_model_less_sure() -> None:
    sure = {}
    for smoothing in (0.0, 0.4):
        tried = config(train={"label_smoothing": smoothing, "epochs": 60})
        last = list(train(tried, blobs(2), device=CPU))[-1]
        assert last.metrics["accuracy"] == 1
        sure[smoothing] = last.metrics["loss"]  # always measured without smoothing
    assert sure[0.0] < 0.5 * sure[0.4]


@pytest.mark.parametrize(("size", "steps"), [(2, 16), (5, 7), (7, 5), (64, 1), (65_536, 1)])
def test_any_batch_size_trains_on_nearly_all_of_the_data(size: int, steps: int) -> None:
    small = blobs(3, each=11)
    tried = config(
        model={"name": "mlp", "widths": [8], "norm": "none"},
        train={"batch_size": size, "epochs": 1},
    )
    seen: list[int] = []

    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Flatten) and module.training:
            seen.append(len(given[0]))

    handle = register_module_forward_pre_hook(hook)
    list(train(tried, small, device=CPU))
    handle.remove()
    assert len(seen) == steps, "as the schedule counts them"
    assert len(set(seen)) == 1
    assert 33 - steps < sum(seen) <= 33
    assert 2 <= seen[0] <= max(2, size), "batch norm wants two examples"


@pytest.mark.parametrize(
    ("kind", "counts", "told"),
    [
        ("none", (90, 10), None),
        ("inverse", (90, 10), (1 / 1.8, 5.0)),  # 9 times as much
        ("root", (90, 10), (1 / 1.2, 2.5)),  # 3 times
        ("auto", (80, 20), (1 / 1.2, 1 / 0.6)),
        ("auto", (79, 21), None),
    ],
)
def test_rare_classes_count_for_more_and_a_mean_example_for_one(
    kind: str, counts: tuple[int, int], told: tuple[float, float] | None
) -> None:
    data = blobs(2, each=1)
    y = torch.arange(2).repeat_interleave(torch.tensor(counts))
    found = class_weights(kind, replace(data, train=Split(data.train.x[y], y)), CPU)
    assert (None if found is None else found.tolist()) == (told and pytest.approx(told))


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_any_number_of_classes_is_learned(classes: int, tmp_path: Path) -> None:
    few = blobs(classes)
    tried = config(train={"epochs": 30, "batch_size": 20}, optimizer={"name": "adamw", "lr": 0.03})
    last = list(train(tried, few, device=CPU, checkpoint=tmp_path / "c"))[-1]
    assert last.metrics["accuracy"] > 0.9
    assert list(weights(tmp_path / "c").values())[-1].shape == (classes,)


def test_training_leaves_the_data_as_it_was(data: Data) -> None:
    before = data.train.x.clone(), data.valid.x.clone(), data.train.y.clone()
    list(train(busy("sgd"), data, device=CPU, until=1))
    assert same(before, (data.train.x, data.valid.x, data.train.y))


def test_evaluation_gives_the_mean_over_the_split_whatever_its_chunks(data: Data) -> None:
    model = config().model.build(data.inputs, len(data.labels)).eval()
    task = config().task
    often = torch.arange(len(data.train)).repeat(100).sort().values
    many = data.train[often]
    assert len(list(predict(model, many, data.inputs))) > 1
    whole = evaluate(model, many, data.inputs, task)
    with torch.no_grad():
        logits = model(data.inputs.prepare(data.train.x))
    assert whole["loss"] == pytest.approx(task.loss(logits, data.train.y).item(), rel=1e-5)
    hits = (logits.argmax(1) == data.train.y).double().mean().item()
    assert whole["accuracy"] == pytest.approx(hits, abs=1e-12)


def test_on_a_cpu_no_more_is_scored_at_once_than_its_cache_holds() -> None:
    images = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    inputs, split = Images.measure(images), Split(images, torch.zeros(400, dtype=torch.int64))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    assert [len(index) for index, *_ in predict(model, split, inputs)] == [170, 170, 60]


def test_training_begins_at_the_whitened_stem(data: Data, tmp_path: Path) -> None:
    model = {"name": "cnn", "stem": {"channels": 8, "kernel": 2, "whiten": True}}
    still = {"name": "sgd", "lr": 1e-12, "weight_decay": 0.0}
    tried = config(model=model, optimizer=still, train={"epochs": 1})
    run(tried, data, tmp_path / "c")
    begun = tried.model.build(data.inputs, len(data.labels))
    tried.model.begin(begun, data.inputs, data.train)
    state = checkpoint.load(tmp_path / "c")
    assert state is not None
    for kind in "model", "averaged":  # the mean of the weights begins there too
        torch.testing.assert_close(state[kind]["trunk.0.weight"], begun.trunk[0].weight.detach())
