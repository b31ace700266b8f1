"""Models of boxes: what they learn from, what they are worth, and what is found with them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import automl
from automl.boxes import shared
from automl.config import Config, Export, Input, Model, Task
from automl.data import Data, Split
from automl.errors import DataError, ExportError, OptionError, SpaceError
from automl.exports.verified import export
from automl.exports.whole import Whole
from automl.inputs.canvas import GREY, Canvas
from automl.models.fcos import placed
from automl.results import artifact
from automl.results.artifact import Artifact
from automl.results.judgement import Judgement, judge
from automl.space import measure
from automl.tasks import boxes as tasks
from automl.tasks.bccd import Bccd
from automl.tasks.boxes import PLACES, BoxTask, losses, windows
from automl.training import checkpoint, train

pytestmark = pytest.mark.usefixtures("all_forked")

CPU = torch.device("cpu")
SHAPE = (3, 64, 96)
LABELS = ("red", "blue")
SMALL = {
    "name": "cnn-fcos",
    "stem": {"channels": 8, "stride": 2},
    "stages": [{"name": "plain", "channels": 16}, {"name": "plain", "channels": 32}] * 2,
    "head": {"width": 16},
}
FAMILIES: dict[str, Any] = {
    "cnn-fcos": SMALL,
    "one map": {**SMALL, "stages": SMALL["stages"][:2], "head": {"width": 8, "depth": 0}},
    "group": {**SMALL, "norm": "group", "head": {"width": 16, "finest": 16}},
    "efficientnet-fcos": {"name": "efficientnet-fcos", "stages": 5, "head": {"width": 16}},
}
families = pytest.mark.parametrize("model", FAMILIES.values(), ids=list(FAMILIES))


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """A picture (3, 64, 96) of noise with one to three squares in it, and its boxes (3, 6)."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    x = torch.randint(60, 120, SHAPE, generator=generator).to(torch.uint8)
    y = torch.full((3, 6), -1.0)
    for number in range(whole(1, 4)):
        side, label = whole(14, 28), whole(0, 2)
        left, top = 32 * number + whole(0, 32 - side + 1), whole(0, 64 - side)
        x[:, top : top + side, left : left + side] = 30
        x[2 * label, top : top + side, left : left + side] = 240
        y[number] = torch.tensor([label, left, top, left + side, top + side, 1])
    return x, y


def split(count: int, first: int = 0) -> Split:
    x, y = zip(*map(drawn, range(first, first + count)), strict=True)
    return Split(torch.stack(x), torch.stack(y))


def data_of(count: int = 64) -> Data:
    training = split(count)
    assert isinstance(training.x, Tensor)
    return Data(training, split(16, 1000), Canvas.measure(training.x), LABELS, "squares")


def config_of(model: Any = SMALL, **knobs: Any) -> Config:
    return Config.of(
        {
            "task": "bccd",
            "model": model,
            "optimizer": {"name": "adamw", "lr": 5e-3},
            "train": {"epochs": 12, "batch_size": 8, **knobs},
        }
    )


def made(folder: Path, config: Config, data: Data) -> Artifact:
    """The config, trained and delivered."""
    file = folder / "checkpoint"
    [*train(config, data, device=CPU, checkpoint=file)]
    state = checkpoint.load(file)
    assert state
    (best := folder / "best").mkdir()
    weights = {**state["model"], **(state["averaged"] or {})}
    artifact.write(best, config, weights, config.input.fit(data), data.labels)
    artifact.describe(best, {"metric": "map", "data": data.fingerprint}, "")
    return artifact.load(best)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made(tmp_path_factory.mktemp("squares"), config_of(), data_of())


def cells(boxes: Tensor, labels: Tensor, sure: float = 12.0) -> Tensor:
    """What a model would tell that finds these boxes (N, K, 4), of classes (N, K), and no more."""
    classes = torch.nn.functional.one_hot(labels, 2) * 2 * sure - sure
    return torch.cat([classes.float(), boxes], 2)


# --- the loss


def test_to_tell_what_is_there_costs_least() -> None:
    y = split(4).y[:, :1]
    told = cells(y[..., 1:5], y[..., 0].long())
    best = losses(told, y)
    assert best.max() < 1e-3
    aside, other = told.clone(), told.clone()
    aside[..., 2:] += 4.0
    other[..., :2] = other[..., :2].flip(2)
    more = torch.cat([told, told[:, :1] + torch.tensor([0.0] * 2 + [40.0] * 4)], 1)
    for worse in (aside, other, more):
        assert (losses(worse, y) > best + 0.1).all()


def test_a_box_that_is_missed_by_far_pulls() -> None:
    y = torch.tensor([[[0.0, 60, 40, 80, 60, 1]]])
    boxes = torch.tensor([[[0.0, 0, 10, 10]]], requires_grad=True)
    classes = torch.zeros(1, 1, 2)
    losses(torch.cat([classes, boxes], 2), y).sum().backward()
    assert boxes.grad is not None
    assert (boxes.grad[..., 2:] < 0).all()  # its right and lower sides move there


def test_rows_that_are_no_box_and_their_order_change_nothing() -> None:
    y = split(6).y
    told = torch.randn(6, 40, 6, generator=torch.Generator().manual_seed(0)) * 20 + 30
    told[..., 4:] += 30
    whole = losses(told, y)
    assert torch.allclose(losses(told, y.flip(1)), whole)
    assert torch.allclose(losses(told, torch.cat([y, torch.full((6, 5, 6), -1.0)], 1)), whole)
    halves = torch.cat([losses(told[:3], y[:3]), losses(told[3:], y[3:])])
    assert torch.equal(halves, whole)  # so that parts of a batch make the update of all


class Largest(TorchDispatchMode):
    """The most numbers that a tensor held which came into being meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made: object = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                held = one.untyped_storage().nbytes() // one.element_size()
                self.numbers = max(self.numbers, held)
        return made


def crowded(pictures: int, boxes: int) -> Tensor:
    """Boxes (N, M, 6) of one class, most of which count."""
    generator = torch.Generator().manual_seed(0)
    corners, sides, counts = (
        torch.rand(pictures, boxes, n, generator=generator) for n in (2, 2, 1)
    )
    corners, counts = 60 * corners, (counts < 0.9).float()
    label = torch.zeros(pictures, boxes, 1)
    return torch.cat([label, corners, corners + 4 + 30 * sides, counts], 2)


@pytest.mark.parametrize("room", [1, 2_000, 2**22])
def test_of_crowded_pictures_no_more_is_held_than_there_is_room_for(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, told = crowded(4, 300), crowded(4, 200).requires_grad_()
    whole = losses(told, y)
    whole.sum().backward()
    pulled, told.grad = told.grad, None
    right = Bccd().compared(y[:, :100], y, 2)["right"]

    monkeypatch.setattr(tasks, "PIECE", room)
    with Largest() as largest:
        again = losses(told, y)
        again.sum().backward()
    assert torch.equal(again, whole)
    assert told.grad is not None
    assert torch.equal(told.grad, pulled)
    assert largest.numbers <= 4 * max(room, 4 * 200 * 6)  # of a box four numbers

    with Largest() as largest:
        assert torch.equal(Bccd().compared(y[:, :100], y, 2)["right"], right)
    assert largest.numbers <= max(room, 300 * 100)


def test_a_picture_without_boxes_is_learned_from() -> None:
    told = torch.zeros(1, 5, 6, requires_grad=True)
    loss = losses(told, torch.full((1, 1, 6), -1.0)).sum()
    loss.backward()
    assert told.grad is not None
    assert (told.grad[..., :2] > 0).all()
    assert (told.grad[..., 2:] == 0).all()


def test_what_does_not_count_is_neither_learned_nor_held_against_a_cell() -> None:
    y = torch.tensor([[[0.0, 0, 0, 20, 20, 0], [1.0, 50, 30, 70, 50, 1]]])
    boxes = torch.tensor([[[1.0, 1, 19, 19], [50, 30, 70, 50], [80, 0, 95, 20.0]]])
    told = torch.cat([torch.zeros(1, 3, 2), boxes], 2).requires_grad_()
    losses(told, y).sum().backward()
    assert told.grad is not None
    assert told.grad[0, 0].abs().sum() == 0
    assert (told.grad[0, 1:, :2].abs() > 0).all()


# --- the models


@families
def test_cells_lie_where_they_are_and_tell_four_strides(model: Any) -> None:
    torch.manual_seed(0)
    config = config_of(model)
    inputs = data_of(8).inputs
    assert isinstance(inputs, Canvas)
    net = config.model.build(inputs, 2).eval()
    told = net(inputs.example(3).zero_())
    size = measure(config, inputs, 2)
    assert size.params == sum(weight.numel() for weight in net.parameters())
    strides = net.cells.strides
    count = sum(math.prod(-(-side // stride) for side in SHAPE[1:]) for stride in strides)
    assert told.shape == (3, count, 6)
    low, high = told[..., 2:4], told[..., 4:]
    middle, side = (low + high) / 2, high - low
    first = strides[0]
    assert torch.allclose(middle[:, 0], torch.full((3, 2), first / 2), atol=first)
    assert torch.allclose(middle[:, 1, 0] - middle[:, 0, 0], torch.tensor(1.0 * first), atol=first)
    assert 2 * first < side[:, 0].mean() < 8 * first
    assert told[..., :2].sigmoid().mean() < 0.05


@families
def test_every_weight_learns(model: Any) -> None:
    torch.manual_seed(0)
    inputs = data_of(8).inputs
    assert isinstance(inputs, Canvas)
    net = Model.of(model).build(inputs, 2)
    some = split(8)
    assert isinstance(some.x, Tensor)
    losses(net(inputs.prepare(some.x)), some.y).mean().backward()
    assert all(weight.grad is not None for weight in net.parameters())


def test_a_box_lies_as_far_from_its_cell_as_is_told_in_strides() -> None:
    told = torch.zeros(1, 6, 2, 3)  # 2 logits, where the middle is, the logarithms of the sides
    told[0, 2:, 1, 2] = torch.tensor([0.5, -1.0, math.log(2), math.log(3)])
    rows = placed(told, 8)
    assert rows[0, 0].tolist() == [0, 0, 0, 0, 8, 8]
    assert rows[0, 4].tolist() == [0, 0, 8, 8, 16, 16]
    assert rows[0, 5].tolist() == pytest.approx([0, 0, 16, -8, 32, 16], abs=1e-4)


def test_maps_that_are_all_too_fine_are_one_line() -> None:
    coarse = {**SMALL, "stages": SMALL["stages"][:1], "head": {"finest": 8}}
    told = "its last map has a stride of 4; want a head.finest of that at most, got 8"
    with pytest.raises(SpaceError, match=told):
        measure(config_of(coarse), Canvas(SHAPE), 2)


def test_a_model_of_classes_and_one_of_boxes_are_told_apart() -> None:
    with pytest.raises(SpaceError, match=r"model: cnn reads maps; bccd gives pictures.*cnn-fcos"):
        config_of("cnn")
    with pytest.raises(SpaceError, match="model: cnn-fcos reads pictures; digits gives images"):
        Config.of({"task": "digits", "model": "cnn-fcos"})
    with pytest.raises(SpaceError, match="input: pixels reads images; bccd gives pictures"):
        Config.of({"task": "bccd", "model": "cnn-fcos", "input": "pixels"})
    with pytest.raises(SpaceError, match=r"label_smoothing: got 0.1; want 0.0, for bccd tells box"):
        config_of(label_smoothing=0.1)


# --- training


def test_squares_are_found(model: Artifact) -> None:
    judged = model.judge(split(32, 2000))
    assert judged.scores["map50"] > 0.9
    assert judged.scores["map"] > 0.5
    assert judged.interval
    assert judged.interval.low < judged.scores["map"] < judged.interval.high


@pytest.mark.parametrize("stopped", [1, 2])
def test_going_on_is_as_if_never_stopped(stopped: int, tmp_path: Path) -> None:
    config, data = config_of(epochs=3), data_of(24)
    whole = [*train(config, data, device=CPU)]
    file = tmp_path / "checkpoint"
    [*train(config, data, device=CPU, checkpoint=file, until=stopped)]
    again = [*train(config, data, device=CPU, checkpoint=file)]
    assert [e.metrics for e in again] == [e.metrics for e in whole]
    assert [e.train_loss for e in again] == [e.train_loss for e in whole]
    state = checkpoint.load(file)
    assert state
    assert state["logits"] is None  # of classes alone


def test_the_validation_split_may_hold_more_boxes_than_the_other() -> None:
    one, many = split(2), split(2, 7)
    fewer = Split(one.x, one.y[:, :1])
    for whole in (fewer.joined(many), many.joined(fewer)):
        assert whole.y.shape == (4, 3, 6)
        assert (whole.y[..., 0] >= 0).sum() == (fewer.y[..., 0] >= 0).sum() + (
            many.y[..., 0] >= 0
        ).sum()


def test_chance_is_what_other_pictures_hold_and_no_trial_begins_below_it() -> None:
    data, task = data_of(), Task.of("bccd")
    name, score = task.chance(data)
    assert name == "the boxes of other pictures"
    assert 0 < score < 0.2
    assert task.hopeless(data) == 0
    same = Data(data.valid, data.valid, data.inputs, LABELS, "same")
    assert task.chance(same)[1] == pytest.approx(1)


def test_windows_that_slide_find_squares_of_one_size() -> None:
    data, task = data_of(), Task.of("bccd")
    name, score = task.baseline(data)
    assert name == "logistic regression on windows of 8x8 pixels"
    assert task.chance(data)[1] < 0.2 * score < 0.2
    only = torch.where(data.train.y[..., :1] == 1, -1.0, data.train.y)  # no blue one to learn from
    one = Data(Split(data.train.x, only), data.valid, data.inputs, LABELS, "red")
    assert 0 < task.baseline(one)[1] < score
    none = Split(data.train.x, torch.full_like(data.train.y, -1.0))
    told = Data(none, data.valid, data.inputs, LABELS, "none")
    assert task.baseline(told) == task.chance(told)


def test_windows_lie_where_their_boxes_say() -> None:
    x = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    x[:, :, 20:40, 30:60] = 255
    seen, boxes = windows(x, torch.tensor([30.0, 20.0]))
    share = (seen.mean(2) + 1) / 2
    there = torch.tensor([[[30.0, 20, 60, 40]]])
    both = shared(boxes.unsqueeze(0), there)[0, :, 0] / 600
    assert (share[0] - both).abs().max() < 0.15
    assert boxes[:, 2].max() <= 96
    assert boxes[:, 3].max() <= 64


def test_of_things_as_small_as_dots_there_are_not_millions_of_windows() -> None:
    x = torch.zeros(1, 3, 256, 320, dtype=torch.uint8)
    for sides in ([1.0, 1.0], [300.0, 1.0], [1.0, 40.0]):
        assert len(windows(x, torch.tensor(sides))[1]) <= 1.1 * PLACES
    seen, boxes = windows(x, torch.tensor([20.0, 30.0]))
    assert ((boxes[:, 2:] - boxes[:, :2]).sub(torch.tensor([20.0, 30.0])).abs() < 0.5).all()
    assert seen.shape == (1, len(boxes), 192)


def test_chance_finds_no_more_boxes_than_a_model() -> None:
    data = data_of()
    x = data.train.x
    many = Split(x, crowded(len(x), 150))
    crowd = Data(many, many, data.inputs, LABELS, "crowd")
    most = Data(Split(x, many.y[:, :100]), many, data.inputs, LABELS, "most")
    assert Bccd().chance(crowd) == Bccd().chance(most)


def test_scores_do_not_hang_on_how_pictures_come_in_batches(model: Artifact) -> None:
    task, some = model.config.task, split(12, 3000)
    assert isinstance(some.x, Tensor)
    with torch.inference_mode():
        told = model.model(model.inputs.prepare(some.x))
    whole = task.scores(task.tally(told, some.y), some)
    parts: dict[str, Tensor] = {}
    for cells, y in zip(told.split(5), some.y.split(5), strict=True):
        parts = task.joined(parts, task.tally(cells, y))
    assert task.scores(parts, some) == pytest.approx(whole)
    assert model.evaluate(some) == pytest.approx(whole, abs=1e-4)


def test_of_few_pictures_no_interval_is_told(model: Artifact) -> None:
    encoded = model.inputs.encode(split(5, 3000))
    assert judge(model.model, encoded, model.inputs, model.config.task).interval is None


class Told(nn.Module):
    """What it finds in the picture whose pixels are all its number."""

    def __init__(self, cells: Tensor) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        return self.cells[x[:, 0, 0, 0].long()]


def judged(told: Tensor, y: Tensor) -> Judgement:
    """Of boxes (N, M, 6) that are there, when cells (N, cells, C + 4) tell these."""
    x = torch.arange(len(y), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    as_it_is = Canvas((3, 32, 32), (0.0,) * 3, (1 / 255,) * 3)
    return judge(Told(told), Split(x.contiguous(), y), as_it_is, Bccd())


@pytest.mark.parametrize("sure", [12.0, -12.0])
def test_where_all_is_found_or_nothing_the_interval_has_a_width(sure: float) -> None:
    y = split(20).y
    there = cells(y[..., 1:5], y[..., 0].long().clamp_min(0))
    there[..., :2] = torch.where(y[..., :1] >= 0, there[..., :2], -12.0)
    shown = there if sure > 0 else there + torch.tensor([0.0, 0, 90, 90, 90, 90])
    found = judged(shown, y)
    assert found.scores["map"] == (1 if sure > 0 else 0)
    assert found.interval is not None
    assert found.interval.by == "Wilson"
    width = found.interval.high - found.interval.low
    assert 0.05 < width < 0.2
    assert found.scores["map"] in (found.interval.low, found.interval.high)
    assert judged(shown, torch.full_like(y, -1.0)).interval is None  # nothing is there


def test_the_interval_lies_about_the_score_where_classes_have_few_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    y = crowded(100, 8)
    y[..., 0] = torch.randint(80, (100, 8), generator=generator)
    y[..., 5] = 1
    told = torch.full((100, 8, 84), -9.0)
    told[..., 80:] = y[..., 1:5] + torch.randn(100, 8, 4, generator=generator)
    sure = torch.randn(100, 8, 1, generator=generator)
    told.scatter_(2, y[..., :1].long(), sure)
    wrong = told.clone()
    wrong[..., 80:] += 200
    wrong[..., :80] += 0.5 * torch.randn(100, 8, 1, generator=generator)
    found = judged(torch.cat([told, wrong], 1), y)
    assert found.interval is not None
    assert found.interval.by == "halves"
    score = found.scores["map"]
    assert found.interval.low < score <= found.interval.high
    assert (found.interval.low + found.interval.high) / 2 < score  # more pictures would tell less


# --- what is found


def enlarged(x: Tensor, width: int, height: int) -> Image.Image:
    return Image.fromarray(x.permute(1, 2, 0).numpy()).resize((width, height))


def test_boxes_are_told_in_pixels_of_the_picture(model: Artifact, tmp_path: Path) -> None:
    x, y = drawn(2001)
    there = y[y[:, 0] >= 0]
    for times in (1, 3):
        picture = enlarged(x, 96 * times, 64 * times)
        picture.save(file := tmp_path / f"{times}.png")
        for raw in (picture, file, str(file), file.read_bytes(), np.asarray(picture)):
            (found,) = model.detect(raw, least=0.4)
            assert len(found) == len(there)
            for one in found:
                off = (there[:, 1:5] * times - torch.tensor(one.box)).abs().amax(1)
                assert off.min() < 4 * times
                assert one.label == LABELS[int(there[off.argmin(), 0])]
        assert found == sorted(found, key=lambda one: -one.score)


def test_a_picture_that_lies_on_its_side_is_turned(model: Artifact) -> None:
    x, _ = drawn(2001)
    upright = enlarged(x, 192, 128)
    (want,) = model.detect(upright, least=0.4)
    exif = Image.Exif()
    exif[0x0112] = 6  # as a camera saves it that was turned: rotate by 270 to see it upright
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    (found,) = model.detect(file.getvalue(), least=0.4)
    assert [one.box for one in found] == [one.box for one in want]


def test_a_tall_picture_keeps_its_proportions() -> None:
    tall = Image.new("RGB", (50, 100), "white")
    told = Canvas(SHAPE, (0.5,) * 3, (0.2,) * 3).read([tall, tall.resize((300, 200))])
    assert isinstance(told.x, Tensor)
    assert told.y.tolist() == [[50, 100], [300, 200]]
    assert (told.x[0, :, :, :32] == 255).all()
    assert (told.x[0, :, :, 32:] == GREY).all()
    assert (told.x[1] == 255).all()


def test_no_box_is_told_outside_the_picture() -> None:
    inputs = Canvas(SHAPE)
    rows = torch.tensor([[[0.0, -5, 10, 40, 70, 0.9], [-1.0, -1, -1, -1, -1, -1]]])
    told = inputs.uncovered(rows, torch.tensor([[50.0, 100.0]]))
    assert told[0, 0].tolist() == pytest.approx([0, 0, 15.625, 50, 100, 0.9])
    assert told[0, 1, 0] == -1


def test_what_is_no_picture_and_no_share_is_one_line(model: Artifact, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        model.detect([])
    with pytest.raises(DataError, match=r"no\.png: cannot be read as an image"):
        model.detect(tmp_path / "no.png")
    with pytest.raises(OptionError, match="least: got 2; want a number from 0 to 1"):
        model.detect(drawn(0)[0], least=2)
    with pytest.raises(DataError, match="tells boxes; use detect"):
        model.predict(drawn(0)[0])


def test_a_model_of_classes_finds_no_boxes(tmp_path: Path) -> None:
    config = Config.of({"task": "digits", "model": "mlp", "train": {"epochs": 1}})
    data = config.task.load(None)
    told = made(tmp_path, config, data)
    with pytest.raises(DataError, match="tells classes; use predict"):
        told.detect(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize("name", ["pixels", "canvas"])
@pytest.mark.parametrize(("channels", "known"), [(4, 4), (3, 1), (1, 3)])
def test_what_a_model_says_of_its_channels_is_checked(name: str, channels: int, known: int) -> None:
    facts = {"shape": [channels, 32, 32], "mean": [0.5] * known, "std": [0.2] * known}
    with pytest.raises(DataError, match="want 1 or 3 channels, with a mean and a deviation for"):
        Input.of(name).restore(json.dumps(facts), lambda _file: "")


# --- exports


@pytest.mark.parametrize("to", sorted(Export.members()))
def test_a_file_finds_what_the_artifact_finds(
    to: str, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of()
    monkeypatch.setattr(BoxTask, "load", lambda _task, _root: data)
    part = Export.of(to)
    told = export(model, part, tmp_path / f"m{part.suffix}", precision="float32", root=None)
    assert told.compared.numbers == "boxes"
    assert told.compared.equal == 1
    assert told.compared.score == pytest.approx(told.compared.was)
    assert told.compared.was == pytest.approx(model.evaluate(data.valid)["map"], abs=1e-6)
    run, facts = part.open(told.file)
    assert json.loads(facts["labels"]) == list(LABELS)
    assert isinstance(data.valid.x, Tensor)
    assert run(data.valid.x[:3]).shape == (3, 100, 6)


def test_a_file_is_compared_where_no_picture_has_a_box(
    model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of()
    bare = replace(data.valid, y=torch.full_like(data.valid.y, -1))
    monkeypatch.setattr(BoxTask, "load", lambda _task, _root: replace(data, valid=bare))
    part = Export.of("safetensors")
    told = export(model, part, tmp_path / "m.safetensors", precision="float32", root=None)
    assert told.compared.equal == 1


@pytest.mark.parametrize("wrong", [lambda rows: rows + 0.02, lambda rows: rows[:, :50]])
def test_a_file_that_finds_something_else_is_not_written(
    wrong: Callable[[Tensor], Tensor],
    model: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = data_of()
    monkeypatch.setattr(BoxTask, "load", lambda _task, _root: data)
    part = Export.of("safetensors")
    own = Whole(model)

    def opened(_part: Export, _file: Path) -> Any:
        return lambda x: wrong(own(x)), own.facts

    monkeypatch.setattr(type(part), "open", opened)
    with pytest.raises(ExportError):
        export(model, part, tmp_path / "m.safetensors", precision="float32", root=None)
    assert not [*tmp_path.iterdir()]


# --- from end to end


def folder(path: Path, count: int) -> list[Path]:
    """Pictures of many sizes with boxes, as VOC has them."""
    (path / "Annotations").mkdir(parents=True)
    (path / "JPEGImages").mkdir()
    for seed in range(count):
        x, y = drawn(seed)
        times = 1 + seed % 3
        enlarged(x, 96 * times, 64 * times).save(path / "JPEGImages" / f"{seed}.png")
        objects = "".join(
            f"<object><name>{LABELS[int(label)]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for label, x1, y1, x2, y2 in (
                (row[0], *(times * side for side in row[1:5])) for row in y.tolist() if row[0] >= 0
            )
        )
        size = f"<size><width>{96 * times}</width><height>{64 * times}</height></size>"
        told = f"<annotation>{size}{objects}</annotation>"
        (path / "Annotations" / f"{seed}.xml").write_text(told)
    return sorted((path / "JPEGImages").iterdir())


def test_a_search_finds_a_model_that_finds_boxes(tmp_path: Path, command: Command) -> None:
    pictures = folder(tmp_path / "data", 60)
    space = {
        "task": {"name": "voc", "size": 96},
        "model": {**SMALL, "head": {"width": {"choice": [8, 16]}}},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "augment": {"name": "pictures", "flip": True, "colour": 0.1},
        "train": {"epochs": 8, "batch_size": 8},
    }
    (tmp_path / "own.yaml").write_text(json.dumps(space))
    where = ("--studies", tmp_path / "studies")
    words = ("--trials", 2, "--workers", 1, "--finalists", 1, "--seeds", 1, "--refit")
    data = ("--data", tmp_path / "data")
    code, out, noted = command("search", tmp_path / "own.yaml", *words, *where, *data)
    assert code == 0, noted
    assert "41 pictures to train, 10 to validate, 9 sealed for the test" in " ".join(noted.split())
    assert "by logistic regression on windows of 8x8 pixels" in noted

    code, out, _ = command("predict", "own", pictures[0], pictures[1], *where)
    assert code == 0
    assert {line.split("  ")[0] for line in out.splitlines()} == {*map(str, pictures[:2])}
    code, out, _ = command("predict", "own", pictures[0], *where, "--json")
    (told,) = json.loads(out)
    model = automl.load_best("own", studies=tmp_path / "studies")
    assert isinstance(model, Artifact)
    (found,) = model.detect(pictures[0])
    assert told["input"] == str(pictures[0])
    assert [one["box"] for one in told["boxes"]] == [[*one.box] for one in found]

    metrics = model.metrics
    assert metrics["refit"]
    assert [one["label"] for one in metrics["boxes"]] == ["blue", "red"]
    assert metrics["test"]["map"] == pytest.approx(
        sum(one["map"] for one in metrics["boxes"]) / 2, abs=1e-6
    )
    card = (tmp_path / "studies/own/best/card.md").read_text()
    assert 'model.detect("photo.jpg")' in card
    assert "| class | boxes | average precision | at 0.50 |" in card
    assert "pictures of `voc`" in card


def test_a_picture_in_which_nothing_is_found_is_told(
    model: Artifact, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randint(60, 120, SHAPE, generator=torch.Generator().manual_seed(0))
    enlarged(noise.to(torch.uint8), 96, 64).save(file := tmp_path / "empty.png")
    monkeypatch.setattr("automl.cli._study", lambda *_: SimpleNamespace(best=model))
    assert command("predict", "any", file) == (0, f"{file}  nothing\n", "")
    _, out, _ = command("predict", "any", file, "--json")
    assert json.loads(out) == [{"input": str(file), "boxes": []}]
