"""A training in a group ends where it would alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from automl.config import Config, Model, Optimizer, Task
from automl.data import Data
from automl.inputs.images import Images
from automl.inputs.text import Tokens
from automl.models.layers import CELLS, Unrolled
from automl.training import Diverged, checkpoint, fused, loop, train
from automl.training.precision import Precision

CPU = torch.device("cpu")
EPOCHS = 3
MODELS: dict[str, Any] = {
    "mlp": {"name": "mlp", "widths": [16, 8]},
    "mlp-none": {"name": "mlp", "widths": [16], "norm": "none"},
    "cnn": {
        "name": "cnn",
        "stages": [
            {"name": "plain", "channels": 8, "se": 0.5},
            {"name": "residual", "channels": 8},
        ],
    },
    "cnn-kinds": {
        "name": "cnn",
        "norm": "layer",
        "pool": "max",
        "stages": [
            {"name": "inverted", "channels": 8, "downsample": "stride"},
            {"name": "convnext", "channels": 8, "kernel": 3},
        ],
    },
    **{
        f"crnn-{cell}": {"name": "crnn", "channels": [4], "width": 8, "cell": cell}
        for cell in CELLS
    },
    **{
        f"rnn-{cell}": {"name": "rnn", "embedding": 8, "width": 8, "cell": cell, "direction": way}
        for cell, way in zip(CELLS, ("both", "both", "forward"), strict=True)
    },
    "textcnn": {"name": "textcnn", "embedding": 8, "channels": 8, "pooling": "attention"},
    "transformer": {"name": "transformer", "heads": 2, "head": 16, "layers": 1},
    "bag": {"name": "bag", "width": 8, "buckets": 1000},
    "rnn-next": {"name": "rnn", "embedding": 8, "width": 8},
    "transformer-next": {"name": "transformer", "heads": 1, "head": 16, "layers": 1},
}
DIFFERENT: list[dict[str, Any]] = [  # what members of one group need not share
    {"optimizer": {"name": "adamw", "lr": 3e-3}},
    {
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.8, "weight_decay": 0.1},
        "schedule": "cosine",
        "seed": 5,
        "train": {"label_smoothing": 0.2, "clip": 0.5},
    },
    {
        "optimizer": {"name": "adamw", "lr": 1e-3, "beta1": 0.8, "weight_decay": 0.5},
        "seed": 6,
        "train": {"average": 0.3},
    },
    {"optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.0}, "train": {"epochs": EPOCHS + 2}},
]


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In float64, for AdamW makes steps of what is nothing but rounding.

    Weights of a pixel that is always black, behind which a norm stands, have no other gradients.
    """
    monkeypatch.setattr(loop.Precision, "of", lambda device: Precision(device, False))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def digits() -> Data:
    return Task.of({"name": "digits", "per_class": 12}).load(None)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A table of texts, and one text to go on with."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    rows = []
    for number in range(120):
        words = [f"w{rng.randrange(12) + 6 * (number % 2)}" for _ in range(rng.randrange(1, 9))]
        rows.append(f"{' '.join(words)},{'ab'[number % 2]}")
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "prose.txt").write_text(" ".join(row.partition(",")[0] for row in rows) * 4)
    return {
        "labelled": {"name": "textcsv", "path": str(folder / "rows.csv")},
        "next": {"name": "textfile", "path": str(folder / "prose.txt")},
    }


def config(task: Any, model: Any, **changes: Any) -> Config:
    steps = {"epochs": EPOCHS, "batch_size": 16} | changes.pop("train", {})
    shared: dict[str, Any] = {"task": task, "model": model, "seed": 3}
    if isinstance(task, dict) and task["name"] == "textfile":
        shared["input"] = {"name": "characters", "length": 16}
    return Config.of(shared | changes | {"train": steps})


def solo(config: Config, data: Data, file: Path, until: int | None = None) -> list[Any]:
    return list(train(config, data, device=CPU, checkpoint=file, until=until))


def together(configs: list[Config], data: Data, folder: Path, epochs: int = EPOCHS) -> list[Any]:
    """Trained so many epochs more as one group; the members."""
    members = [
        loop.Training(each, data, device=CPU, checkpoint=folder / str(number))
        for number, each in enumerate(configs)
    ]
    for _ in range(epochs):
        fused.epoch(members, [each.train.epochs for each in configs])
    return members


def close(ours: Any, theirs: Any) -> None:
    """However deep, within what is rounded."""
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            close(ours[key], theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    else:
        assert ours == theirs


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Two states of a training, but for the time it took and what dropout would draw next."""
    for state in (ours, theirs):
        for epoch in state["history"]:
            epoch["seconds"] = 0.0
        state.pop("random")
    close(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_a_member_ends_as_it_would_alone(
    name: str, digits: Data, texts: dict[str, Any], tmp_path: Path
) -> None:
    model = MODELS[name]
    if "maps" in Model.of(model).reads:
        task, data = "digits", digits
    else:
        task = texts["next" if name.endswith("next") else "labelled"]
        data = Task.of(task).load(None)
    configs = [config(task, model, **changes) for changes in DIFFERENT]
    members = together(configs, data, tmp_path)
    for member, each in zip(members, configs, strict=True):
        solo(each, data, tmp_path / "alone", until=EPOCHS)
        alone = checkpoint.load(tmp_path / "alone")
        assert alone is not None
        same(member.run.state(), alone)


def test_members_join_and_leave_between_epochs(digits: Data, tmp_path: Path) -> None:
    first, second = (config("digits", "mlp", **changes) for changes in DIFFERENT[:2])
    (left,) = together([first], digits, tmp_path, epochs=1)
    left, right = (
        loop.Training(each, digits, device=CPU, checkpoint=tmp_path / name)
        for each, name in ((first, "0"), (second, "1"))
    )
    left.saves = right.saves = range(EPOCHS)
    fused.epoch([left, right], [EPOCHS, EPOCHS])
    for each, name in ((first, "0"), (second, "1")):
        whole = solo(each, digits, tmp_path / name)  # goes on with what the group has left
        alone = solo(each, digits, tmp_path / "alone")
        for ours, theirs in zip(whole, alone, strict=True):
            close(ours.metrics, theirs.metrics)


def test_each_member_has_its_own_share_of_dropout(digits: Data, tmp_path: Path) -> None:
    model = {"name": "mlp", "widths": [16], "dropout": 0.0}
    configs = [config("digits", model | {"dropout": share}) for share in (0.0, 0.9, 0.0)]
    members = together(configs, digits, tmp_path, epochs=1)
    losses = [member.run.history[-1].train_loss for member in members]
    plain = solo(configs[0], digits, tmp_path / "alone", until=1)[-1].train_loss
    assert losses[::2] == pytest.approx([plain, plain], rel=1e-4)
    assert losses[1] > 1.2 * plain
    x = torch.ones(4, 50_000)
    shares = torch.tensor([0.0, 0.25, 0.5, 0.9])
    dropout = fused.Dropout(0.0)

    def dropped(p: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(dropout, {"p": p}, (x,))

    made = torch.vmap(dropped, randomness="different")(shares, x)
    torch.testing.assert_close((made == 0).double().mean(1), shares.double(), rtol=0.05, atol=0)
    torch.testing.assert_close(made.mean(1), torch.ones(4), rtol=0.05, atol=0)


def test_one_that_diverges_leaves_the_others_alone(digits: Data, tmp_path: Path) -> None:
    model = {"name": "mlp", "widths": [64] * 3, "norm": "none", "activation": "silu"}
    wild = {"name": "sgd", "lr": 10.0, "momentum": 0.99}
    configs = [config("digits", model), config("digits", model, optimizer=wild)]
    members = [loop.Training(each, digits, device=CPU) for each in configs]
    for number in range(1, EPOCHS + 1):
        calm, lost = fused.epoch(members, [EPOCHS, EPOCHS])
        assert calm.number == number
        if isinstance(lost, Diverged):
            break
    else:
        pytest.fail("it did not diverge")
    alone = solo(configs[0], digits, tmp_path / "alone", until=number)
    close(calm.metrics, alone[-1].metrics)


def test_trying_which_is_faster_changes_nothing(digits: Data, tmp_path: Path) -> None:
    model = {"name": "mlp", "widths": [8], "dropout": 0.5}
    members = [loop.Training(config("digits", model), digits, device=CPU) for _ in range(2)]
    random_state = torch.get_rng_state()
    before = [copy.deepcopy(member.run.state()) for member in members]
    fused.TRIED.clear()
    assert isinstance(fused.pays(members), bool)
    assert torch.equal(torch.get_rng_state(), random_state)
    for member, state in zip(members, before, strict=True):
        close(member.run.state(), state)


class Odd(nn.Module):
    """Asks for a number, which vmap cannot give."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum().item() > 0 else -x.flatten(1)


def test_what_vmap_cannot_read_trains_alone(digits: Data) -> None:
    members = [loop.Training(config("digits", "mlp"), digits, device=CPU) for _ in range(2)]
    for member in members:
        member.run.model[0] = Odd()
    fused.TRIED.clear()
    assert not fused.pays(members)


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"optimizer": {"name": "sgd", "lr": 0.5}}, True),
        ({"model": {"name": "mlp", "dropout": 0.3}}, True),
        ({"augment": {"name": "images", "crop": 1}}, True),
        ({"seed": 9}, True),
        ({"model": {"name": "mlp", "widths": [256, 255]}}, False),
        ({"train": {"batch_size": 17}}, False),
        ({"train": {"average": 0}}, False),
        ({"optimizer": "muon"}, False),
    ],
)
def test_what_makes_a_group(changes: dict[str, Any], alike: bool) -> None:
    plain = fused.structure(config("digits", "mlp"))
    other = fused.structure(config("digits", **({"model": "mlp"} | changes)))
    assert plain is not None
    assert (plain == other) == alike


def test_steps_that_are_no_elements_are_not_fused() -> None:
    names = {name for name, rule in Optimizer.members().items() if rule.elementwise}
    assert names == {"adamw", "sgd"}


@pytest.mark.parametrize("name", Model.members())
def test_a_free_knob_is_known_to_dropouts_alone(name: str) -> None:
    family = Model.members()[name]
    assert family.free <= set(family.model_fields)
    inputs = Images((1, 8, 8)) if "maps" in family.reads else Tokens(size=30, length=20)
    some, other = (
        Model.of({"name": name, **dict.fromkeys(family.free, share)}).build(inputs, 5)
        for share in (0.1, 0.6)
    )
    pairs = zip(some.named_modules(), other.named_modules(), strict=True)
    for (place, one), (_, two) in pairs:
        facts = [
            {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple)}
            for module in (one, two)
        ]
        assert facts[0] == facts[1] or isinstance(one, nn.Dropout), place


@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_is_as_the_layer_itself(cell: str) -> None:
    torch.manual_seed(0)
    layer = CELLS[cell](5, 7, batch_first=True)
    x = torch.randn(3, 6, 5)
    told = {}
    for name, module in {"whole": layer, "steps": Unrolled(layer)}.items():
        out = module(x)[0]
        layer.zero_grad()
        out.square().sum().backward()
        told[name] = [out.detach(), *(weight.grad.clone() for weight in layer.parameters())]
    for ours, theirs in zip(told["steps"], told["whole"], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert Unrolled(layer).state_dict().keys() == layer.state_dict().keys()


@pytest.mark.parametrize(
    "knobs",
    [
        {"num_layers": 2},
        {"bidirectional": True},
        {"batch_first": False},
        {"bias": False},
    ],
)
def test_other_recurrent_layers_are_left_as_they_are(knobs: dict[str, Any]) -> None:
    layer = nn.GRU(5, 7, **({"batch_first": True} | knobs))
    net, _ = fused.readable(nn.Sequential(layer))
    assert isinstance(net[0], nn.GRU)
