"""What a GPU plays again is the step as usual. A tape stands in for its records here.

The tape holds each operation that PyTorch asked a device for, with the very tensors, as a CUDA
graph does, and does them again without our Python: what a record would hold fast, so does a tape.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import CPU, busy, same
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from automl.config import Config, Optimizer, Task
from automl.data import Data, rounded
from automl.training import checkpoint, graphs, train

SHAPES_ONLY = {torch.ops.aten.transpose_.default}  # nothing that a device would do


class Tape(TorchDispatchMode):
    """All operations, and the tensors that they took and gave, in their shapes of then."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, run: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert run is not torch.ops.aten._local_scalar_dense.default, "waits for the device"
        taken = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
        given = run(*args, **(kwargs or {}))
        if run not in SHAPES_ONLY:
            self.done.append((run, *taken, tree_map_only(Tensor, Tensor.detach, given)))
        return given

    @torch.no_grad()
    def play(self) -> None:
        for run, args, kwargs, given in self.done:
            again = run(*args, **kwargs)
            for there, new in zip(tree_leaves(given), tree_leaves(again), strict=True):
                if isinstance(new, Tensor) and there.data_ptr() != new.data_ptr():
                    there.copy_(new)


class Taped:
    """In the place of `graphs.record`: how often it was asked, and what it gave is played."""

    changed: Callable[[], list[Tensor]]  # of the training that runs

    def __init__(self) -> None:
        self.made = self.played = 0

    def __call__(
        self, step: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor, pool: Any
    ) -> Callable[[], None]:
        tensors, random = self.changed(), torch.get_rng_state()
        before = graphs.copied(tensors)
        with Tape() as tape:
            step(x, y)
        graphs.restore(tensors, before)  # a record does nothing yet
        torch.set_rng_state(random)
        self.made += 1

        def play() -> None:
            self.played += 1
            tape.play()

        return play


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> Taped:
    record, take = Taped(), graphs.Replays.take

    def taken(replays: graphs.Replays, step: Any, changed: graphs.Changed, *batch: Tensor) -> None:
        record.changed = changed
        take(replays, step, changed, *batch)

    monkeypatch.setattr(graphs.Replays, "take", taken)
    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "wanted", lambda _device: True)
    return record


IMAGES = {
    "cnn": {"name": "cnn", "stages": [{"name": "residual", "channels": 8, "se": 0.5}]},
    "mlp": {"name": "mlp", "widths": [16]},
    "crnn": {"name": "crnn", "channels": [4], "width": 8},
}
TEXTS = {  # no LSTM: on a CPU it is one operation, which is not the same when done again
    "bag": {"name": "bag", "buckets": 1000},
    "textcnn": {"name": "textcnn", "channels": 8, "embedding": 8, "embedding_dropout": 0.2},
    "gru": {"name": "rnn", "width": 8, "embedding": 8, "direction": "both", "layer_norm": True},
    "vanilla": {"name": "rnn", "cell": "vanilla", "width": 8, "embedding": 8, "pooling": "last"},
    "transformer": {"name": "transformer", "heads": 2, "head": 16, "layers": 1},
}
PROSE = {
    "gru": {"name": "rnn", "width": 8, "embedding": 8},
    "transformer": {"name": "transformer", "heads": 2, "head": 16, "layers": 1},
}


@pytest.fixture(scope="module")
def digits() -> Data:
    return Task.of({"name": "digits", "per_class": 12}).load(None)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Data:
    rows = [
        f"{'good' if n % 2 else 'bad'}{' very' * (n % 23)} film {n},{n % 2}" for n in range(700)
    ]
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]))
    return Task.of("textcsv").load(folder)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("play")
    (folder / "input.txt").write_text("".join(f"{n}: to be or not {n}\n" for n in range(600)))
    return Task.of("shakespeare").load(folder)


def ended(config: Config, data: Data, file: Path, until: int | None = None) -> dict[str, Any]:
    """What a training leaves, but for how long it took."""
    list(train(config, data, device=CPU, checkpoint=file, until=until))
    return told(checkpoint.load(file))


def told(state: dict[str, Any] | None) -> dict[str, Any]:
    assert state is not None
    for epoch in state["history"]:
        del epoch["seconds"], epoch["scoring"]
    return state


def unrecorded(config: Config, data: Data, file: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "WARM", 10_000)
        return ended(config, data, file)


def holds(config: Config, data: Data, taped: Taped, folder: Path) -> None:
    """Whether a training of recorded steps is the same, bit by bit, as one without any."""
    usual = unrecorded(config, data, folder / "usual")
    assert not taped.made
    assert same(ended(config, data, folder / "taped"), usual)
    assert taped.played > 2 * taped.made


@pytest.mark.parametrize("name", Optimizer.members())
def test_recorded_steps_are_the_steps_as_usual(
    name: str, digits: Data, taped: Taped, tmp_path: Path
) -> None:
    holds(busy(name), digits, taped, tmp_path)
    assert taped.made == 1
    ended(busy(name), digits, tmp_path / "stopped", until=1)  # later no warmer, yet the same
    assert same(
        ended(busy(name), digits, tmp_path / "stopped"),
        ended(busy(name), digits, tmp_path / "taped"),
    )


@pytest.mark.parametrize("model", IMAGES.values(), ids=list(IMAGES))
def test_of_images(model: Any, digits: Data, taped: Taped, tmp_path: Path) -> None:
    holds(busy("adamw", model=model), digits, taped, tmp_path)


@pytest.mark.parametrize("model", TEXTS.values(), ids=list(TEXTS))
def test_of_texts(model: Any, reviews: Data, taped: Taped, tmp_path: Path) -> None:
    plain = {"task": "textcsv", "input": "words", "augment": "none"}
    steps = {"epochs": 8, "label_smoothing": 0.1, "clip": 1.0}  # a length comes once in most
    holds(busy("adamw", **plain, model=model, train=steps), reviews, taped, tmp_path)
    assert taped.made > 1  # batches of several lengths


@pytest.mark.parametrize("model", PROSE.values(), ids=list(PROSE))
def test_of_what_comes_next(model: Any, play: Data, taped: Taped, tmp_path: Path) -> None:
    plain = {"task": "shakespeare", "input": "characters", "augment": "none"}
    steps = {"epochs": 2, "batch_size": 4}
    holds(busy("adamw", **plain, model=model, train=steps), play, taped, tmp_path)


LSTM = {"name": "rnn", "cell": "lstm", "width": 8, "embedding": 8}
ON_GPU: dict[str, tuple[str, Any]] = {
    **{name: ("digits", model) for name, model in IMAGES.items()},
    **{name: ("reviews", model) for name, model in (TEXTS | {"lstm": LSTM}).items()},
    **{f"{name} of prose": ("play", model) for name, model in PROSE.items()},
}


only_on_a_gpu = pytest.mark.skipif(  # only CUDA has graphs; the tape of other tests needs none
    not torch.cuda.is_available(), reason="CUDA graphs want a GPU, and there is none here"
)


@only_on_a_gpu
@pytest.mark.parametrize(("kind", "model"), ON_GPU.values(), ids=list(ON_GPU))
@pytest.mark.parametrize("optimizer", Optimizer.members())
def test_on_a_gpu(
    optimizer: str,
    kind: str,
    model: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: dict[str, Any] = {"model": model}
    if kind != "digits":
        task, text = ("textcsv", "words") if kind == "reviews" else ("shakespeare", "characters")
        steps = {"epochs": 8, "label_smoothing": 0.1, "clip": 1.0}
        changes |= {"task": task, "input": text, "augment": "none", "train": steps}
    config, data = busy(optimizer, **changes), request.getfixturevalue(kind)
    losses, made, record = [], [], graphs.record

    def counted(*told: Any) -> Callable[[], None]:
        made.append(record(*told))
        return made[-1]

    monkeypatch.setattr(graphs, "record", counted)
    monkeypatch.setattr(graphs, "wanted", lambda _device: True)
    for warm in 10_000, graphs.WARM:
        monkeypatch.setattr(graphs, "WARM", warm)
        epochs = list(train(config, data, device=torch.device("cuda:0")))
        losses.append([epoch.train_loss for epoch in epochs])
    assert made
    assert not caplog.messages
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_rates_in_tensors_train_as_rates_in_numbers(
    digits: Data, taped: Taped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = busy("sgd", model=IMAGES["mlp"], augment="none")
    played = ended(config, digits, tmp_path / "taped")
    monkeypatch.setattr(graphs, "wanted", lambda _device: False)
    usual = ended(config, digits, tmp_path / "usual")
    for name in ("model", "averaged"):
        for weight, other in zip(played[name].values(), usual[name].values(), strict=True):
            torch.testing.assert_close(weight, other)


def idle(taped: Taped, *told: Any) -> Callable[[], None]:
    """A record that does nothing."""
    taped(*told)
    return lambda: None


def failing(taped: Taped, step: Any, *batch: Any) -> Callable[[], None]:
    """What cannot be recorded, half way: gradients are there already."""
    taped(lambda *_: None, *batch)
    step(*batch[:2])
    for tensor in taped.changed():
        tensor.grad = torch.ones_like(tensor) if tensor.requires_grad else None
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


WRONG = {
    "differs from one as usual": idle,
    "cannot be recorded: operation not permitted when stream is capturing": failing,
}


@pytest.mark.parametrize(("said", "wrong"), WRONG.items(), ids=["idle", "failing"])
def test_a_wrong_record_leaves_steps_as_usual(
    said: str,
    wrong: Callable[..., Any],
    digits: Data,
    taped: Taped,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usual = unrecorded(busy("adamw"), digits, tmp_path / "usual")
    monkeypatch.setattr(graphs, "record", partial(wrong, taped))
    assert same(ended(busy("adamw"), digits, tmp_path / "taped"), usual)
    assert taped.made == 1  # it is not tried again
    assert said in caplog.text


def test_what_records_hold_stays_where_it_is(digits: Data, taped: Taped, tmp_path: Path) -> None:
    places = []
    for _ in train(busy("muon"), digits, device=CPU, checkpoint=tmp_path / "c"):
        places.append([tensor.data_ptr() for tensor in taped.changed()])
    assert places[0] == places[1] == places[2]


@only_on_a_gpu  # a CPU's generator takes part in no record that could fail
def test_on_a_gpu_chance_goes_on_after_a_record_that_failed() -> None:
    gpu = torch.device("cuda", 0)
    total = torch.zeros((), device=gpu)

    def step(x: Tensor, y: Tensor) -> None:
        total.add_(torch.dropout(x, 0.5, True).sum().item() * 0 + y.sum())  # waits: no record

    replays, batch = graphs.Replays(), torch.ones(8, device=gpu)
    for _ in range(graphs.WARM + 3):
        replays.take(step, lambda: [total], batch, batch)
    assert replays.off
    assert total.item() == 8 * (graphs.WARM + 3)


def test_who_ends_a_recorded_training_has_its_memory_back(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "wanted", lambda _device: True)
    monkeypatch.setattr(graphs, "WARM", 10_000)
    seen: list[weakref.ref[Any]] = []
    adamw = Optimizer.members()["adamw"]
    build = adamw.build

    def watched(part: Any, model: Any) -> Any:
        seen.append(weakref.ref(model))
        return build(part, model)

    monkeypatch.setattr(adamw, "build", watched)
    gc.disable()  # nothing may wait for it
    try:
        epochs = train(busy("adamw"), digits, device=CPU)
        next(epochs)
        assert seen[0]() is not None
        epochs.close()
        del epochs
        assert seen[0]() is None
    finally:
        gc.enable()


def test_batches_have_few_lengths() -> None:
    lengths = [rounded(length) for length in range(1, 1025)]
    assert lengths[:16] == list(range(1, 17))
    assert all(n <= to <= n * 9 / 8 for n, to in enumerate(lengths, 1))
    assert len(set(lengths)) == 15 + 6 * 8 + 1
