"""Changes to batches do what they say, by whole batches, from one generator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from automl.augment import coloured, cut, masked, mirrored, mixed, moved, shifted
from automl.boxes import area
from automl.config import Augment
from automl.inputs.canvas import Canvas
from automl.inputs.images import Images

EVERYTHING = {
    "name": "images",
    "flip": True,
    "crop": 2,
    "colour": 0.3,
    "cutout": 3,
    "mixup": 0.5,
}
SPEECH = {
    "name": "spectrogram",
    "time_mask": 0.4,
    "frequency_mask": 0.4,
    "shift": 0.3,
    "gain": 0.5,
    "mixup": 0.5,
}
ONE_EACH = [
    {"name": of["name"], knob: of[knob]} for of in (EVERYTHING, SPEECH) for knob in list(of)[1:]
]
CONFIGS: list[Any] = [*Augment.members(), EVERYTHING, SPEECH, {**SPEECH, "masks": 2}, *ONE_EACH]

configs = pytest.mark.parametrize("config", CONFIGS, ids=str)


def draw(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int = 16, shape: tuple[int, int, int] = (3, 9, 7)) -> Tensor:
    return torch.randn(count, *shape, generator=draw(9))


def applied(config: Any, x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(x)) % 4
    return Augment.of(config).build(Images(tuple(x.shape[1:])), 4, draw(seed))(x, y)


@configs
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (3, 2, 2)], ids=str)
def test_changed_images_keep_shape_and_type(config: Any, shape: tuple[int, int, int]) -> None:
    for x in (images(5, shape), images(1, shape), images(5, shape).bfloat16()):
        before = x.clone()
        changed, y = applied(config, x)
        assert changed.shape == x.shape
        assert changed.dtype == x.dtype
        assert changed.isfinite().all()
        assert y.shape in [(len(x),), (len(x), 4)]
        assert torch.equal(x, before)  # the data set is not touched


@configs
def test_the_generator_fixes_the_changes(config: Any) -> None:
    torch.manual_seed(0)
    one, one_y = applied(config, images(), seed=1)
    torch.manual_seed(1)  # the global generator plays no part
    same, same_y = applied(config, images(), seed=1)
    assert torch.equal(one, same)
    assert torch.equal(one_y, same_y)


@pytest.mark.parametrize("config", [EVERYTHING, SPEECH, *ONE_EACH], ids=str)
def test_another_draw_gives_other_changes(config: Any) -> None:
    x = images()
    assert not torch.equal(applied(config, x, seed=1)[0], x)
    assert not torch.equal(applied(config, x, seed=1)[0], applied(config, x, seed=2)[0])


@pytest.mark.parametrize("config", ["none", "images", "spectrogram"])
def test_nothing_changes_where_all_is_off(config: str) -> None:
    x = images()
    changed, y = applied(config, x)
    assert torch.equal(changed, x)
    assert torch.equal(y, torch.arange(len(x)) % 4)


def test_flip_mirrors_about_half_of_the_images() -> None:
    x = images(1000)
    changed, _ = applied({"name": "images", "flip": True}, x)
    kept = (changed == x).flatten(1).all(1)
    flipped = (changed == x.flip(3)).flatten(1).all(1)
    assert (kept ^ flipped).all()
    assert 400 < flipped.sum() < 600


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_crop_is_a_window_of_the_image_with_a_mirrored_border(layout: torch.memory_format) -> None:
    x, reach = images(200), 3
    changed = moved(x.to(memory_format=layout), reach, flip=False, generator=draw())
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    found = set()
    for image, new in zip(padded, changed, strict=True):
        windows = {
            (row, column): image[:, row : row + 9, column : column + 7]
            for row in range(2 * reach + 1)
            for column in range(2 * reach + 1)
        }
        same = [place for place, window in windows.items() if torch.equal(window, new)]
        assert len(same) == 1
        found.add(same[0])
    assert {row for row, _ in found} == {column for _, column in found} == set(range(7))


def test_crop_and_flip_do_not_disturb_each_other() -> None:
    x = images(300)
    changed = moved(x, 2, flip=True, generator=draw())
    padded = F.pad(x, (2,) * 4, mode="reflect").unfold(2, 9, 1).unfold(3, 7, 1)  # every window
    both = torch.stack([padded, padded.flip(5)], 1)
    same = (both == changed[:, None, :, None, None]).all(-1).all(-1).all(2).flatten(1)
    assert same.any(1).all()


def test_mirrored_places_come_back_from_the_border() -> None:
    assert mirrored(torch.arange(-3, 7), 4).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]


def test_a_crop_is_at_most_half_of_the_image() -> None:
    x = images(4, (1, 8, 8))
    far, _ = applied({"name": "images", "crop": 128}, x)
    half, _ = applied({"name": "images", "crop": 4}, x)
    assert torch.equal(far, half)


def test_cutout_sets_one_whole_square_of_each_image_to_the_mean() -> None:
    x = images(500)
    changed = cut(x, 3, draw())
    hole = changed == 0
    assert (hole.all(1) == hole.any(1)).all()  # in all channels alike
    assert (hole[:, 0].sum((1, 2)) == 9).all()
    assert torch.equal(changed[~hole], x[~hole])
    rows, columns = hole[:, 0].any(2), hole[:, 0].any(1)
    assert (rows.sum(1) == 3).all()
    assert (columns.sum(1) == 3).all()
    assert rows.any(0).all()  # no place is spared
    assert columns.any(0).all()


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.2, 1.0, 5.0])
def test_mixup_shares_sum_to_one_and_follow_the_beta(alpha: float) -> None:
    classes = F.one_hot(torch.arange(4000) % 4, 4).float()
    x = classes[:, :, None, None]  # an image is its class: both must be mixed alike
    changed, shares = mixed(x, classes, alpha, draw())
    torch.testing.assert_close(shares.sum(1), torch.ones(len(x)))
    torch.testing.assert_close(changed[:, :, 0, 0], shares)
    assert (shares >= 0).all()
    ours = shares[torch.arange(len(x)), torch.arange(len(x)) % 4]
    pairs = ours[ours < 1 - 1e-6] if alpha >= 0.2 else ours  # others had a partner of their class
    if alpha >= 0.2:
        variance = 1 / (4 * (2 * alpha + 1))
        assert pairs.mean().item() == pytest.approx(0.5, abs=0.1)
        assert pairs.var().item() == pytest.approx(variance, rel=0.25)
    else:
        assert ((pairs < 0.01) | (pairs > 0.99)).float().mean() > 0.9  # nearly a coin


def test_mixup_gives_targets_as_shares() -> None:
    _, shares = applied({"name": "images", "mixup": 1.0}, images())
    assert shares.shape == (16, 4)
    assert shares.is_floating_point()


def test_colour_changes_each_image_in_one_way_and_within_its_strength() -> None:
    x = images(300)
    changed = coloured(x, 0.2, draw())
    inner = changed - changed.mean((1, 2, 3), keepdim=True)
    before = x - x.mean((1, 2, 3), keepdim=True)
    grey = inner.mean(1).flatten(1).norm(dim=1) / before.mean(1).flatten(1).norm(dim=1)
    assert (grey > 0.799).all()
    assert (grey < 1.201).all()
    assert grey.std() > 0.05
    moved_by = (changed - x).mean((1, 2, 3))
    assert moved_by.abs().max() < 0.201
    assert moved_by.std() > 0.05


def test_colour_leaves_grey_images_grey() -> None:
    x = images(4)[:, :1].expand(-1, 3, -1, -1)
    changed = coloured(x, 0.5, draw())
    torch.testing.assert_close(changed[:, 0], changed[:, 2])


def test_colour_changes_saturation_apart_from_contrast() -> None:
    x = images(300)
    changed = coloured(x, 0.2, draw())

    def spread(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)).flatten(1).norm(dim=1)  # of colours around grey

    def contrast(x: Tensor) -> Tensor:
        grey = x.mean(1).flatten(1)
        return (grey - grey.mean(1, keepdim=True)).norm(dim=1)

    saturation = (spread(changed) / spread(x)) / (contrast(changed) / contrast(x))
    assert (saturation > 0.799).all()
    assert (saturation < 1.201).all()
    assert saturation.std() > 0.05


# Spectrograms: (N, 1, bands, frames).


@pytest.mark.parametrize("dim", [2, 3])
def test_a_mask_hides_neighbours_of_one_kind_up_to_its_width(dim: int) -> None:
    x = images(500, (1, 10, 12))
    changed = masked(x, 4, dim, draw())
    hole = changed == 0
    assert torch.equal(changed[~hole], x[~hole])
    other = 5 - dim
    assert (hole.all(other) == hole.any(other)).all()  # whole bands, or whole frames
    lines = hole.all(other)[:, 0]  # (N, size)
    assert set(lines.sum(1).tolist()) == set(range(5))  # each draws its own width
    assert (lines.int().diff(dim=1).abs().sum(1) <= 2).all()  # side by side
    assert lines.any(0).all()  # no place is spared


def test_masks_cover_at_most_their_share() -> None:
    x = images(300, (1, 20, 30))
    one, _ = applied({"name": "spectrogram", "time_mask": 0.2}, x)
    two, _ = applied({"name": "spectrogram", "time_mask": 0.2, "masks": 2}, x)
    assert (one == 0).all(2)[:, 0].sum(1).max() == 6
    assert 6 < (two == 0).all(2)[:, 0].sum(1).max() <= 12


def test_a_shift_moves_whole_frames_and_brings_in_quiet_ones() -> None:
    x, reach = images(300, (1, 5, 12)), 3
    changed = shifted(x, reach, draw())
    quiet = x.amin(3, keepdim=True).expand(-1, -1, -1, reach)
    padded = torch.cat([quiet, x, quiet], 3).unfold(3, 12, 1)  # (N, 1, 5, 7, 12)
    same = (padded == changed.unsqueeze(3)).all(4).all(2)[:, 0]  # (N, 7)
    assert (same.sum(1) == 1).all()
    assert same.any(0).all()  # every way, and not at all


def test_gain_is_one_number_for_each_recording() -> None:
    x = images(300, (1, 5, 12))
    changed, _ = applied({"name": "spectrogram", "gain": 0.5}, x)
    louder = (changed - x).flatten(1)
    torch.testing.assert_close(louder.amin(1), louder.amax(1), atol=1e-5, rtol=0)
    assert louder.abs().max() <= 0.5001
    assert louder[:, 0].std() > 0.2


MOVES = {"flip": True, "upend": True, "zoom": 0.5, "shift": 0.2}


def boxed(count: int, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    """Pictures that are 1 in their box and 0 elsewhere; before its row comes one of padding."""
    corners = torch.rand(count, 2, generator=draw(3)) * torch.tensor([width - 40, height - 40])
    low = corners.round()
    high = low + torch.randint(16, 40, (count, 2), generator=draw(4))
    x = torch.zeros(count, 3, height, width)
    for one, (left, top), (right, bottom) in zip(x, low.int(), high.int(), strict=True):
        one[:, top:bottom, left:right] = 1
    box = torch.cat([torch.full((count, 1), 2.0), low, high, torch.ones(count, 1)], 1)
    return x, torch.stack([torch.full_like(box, -1), box], 1)


def in_boxes(config: dict[str, Any], x: Tensor, y: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    augment = Augment.of({"name": "pictures", **config})
    return augment.build(Canvas(tuple(x.shape[1:])), 3, draw(seed))(x, y)


@pytest.mark.parametrize("config", [MOVES, *({knob: MOVES[knob]} for knob in MOVES)], ids=str)
def test_a_box_stays_around_what_is_in_it(config: dict[str, Any]) -> None:
    x, y = boxed(200)
    before = x.clone(), y.clone()
    changed, boxes = in_boxes(config, x, y)
    assert torch.equal(x, before[0])  # the data set is not touched
    assert torch.equal(y, before[1])
    assert changed.shape == x.shape
    assert (boxes[:, 0] == -1).all()  # padding stays it
    assert not torch.equal(boxes, y)
    limit = torch.tensor([96, 64, 96, 64])
    seen = 0
    for picture, (label, *box, counts) in zip(changed[:, 0], boxes[:, 1].tolist(), strict=True):
        bright = picture > 0.5
        if label < 0:
            assert not bright.any()
            continue
        assert label == 2
        rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
        if counts:
            got = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert box == pytest.approx([float(side) for side in got], abs=1)
            seen += 1
        assert (torch.tensor(box) >= 0).all()
        assert (torch.tensor(box) <= limit).all()
    assert seen > 150


def test_mirrored_pictures_are_mirrored_exactly() -> None:
    x, y = boxed(50)
    x = x + torch.randn(x.shape, generator=draw(5))
    changed, boxes = in_boxes({"flip": True}, x, y)
    turned = (boxes[:, 1] != y[:, 1]).any(1)
    assert 10 < turned.sum() < 40
    assert torch.equal(changed[~turned], x[~turned])
    assert torch.equal(changed[turned], x[turned].flip(3))
    assert torch.equal(boxes[turned, 1, 1], 96 - y[turned, 1, 3])
    up, _ = in_boxes({"upend": True}, x, y)
    assert torch.equal(up[turned], x[turned].flip(2))


def test_of_what_is_moved_out_little_does_not_count_and_nothing_is_no_box() -> None:
    x, y = boxed(400)
    _, boxes = in_boxes({"shift": 0.5}, x, y, seed=1)
    rows, was = boxes[:, 1], y[:, 1]
    share = area(rows[:, 1:5]) / area(was[:, 1:5])  # nothing grows
    gone = rows[:, 0] == -1
    assert 5 < gone.sum() < 100
    assert (rows[gone] == -1).all()
    assert ((rows[:, 5] > 0) == (share >= 0.25))[~gone].all()
    assert ((share > 0) & (share < 0.25) & ~gone).sum() > 5


def test_a_picture_grows_as_often_as_it_shrinks() -> None:
    x, y = boxed(400)
    _, boxes = in_boxes({"zoom": 1.0}, x, y)
    inside = (boxes[:, 1, 1:3] > 0).all(1) & (boxes[:, 1, 3:5] < torch.tensor([96, 64])).all(1)
    grown = (area(boxes[:, 1, 1:5]) / area(y[:, 1, 1:5])).sqrt()
    assert 0.5 <= grown[inside].min() < 0.55
    assert 1.5 < grown[inside].max() <= 2
    assert (grown < 1).float().mean() == pytest.approx(0.5, abs=0.1)


def test_the_generator_fixes_what_becomes_of_boxes() -> None:
    x, y = boxed(20)
    torch.manual_seed(0)
    one = in_boxes({**MOVES, "colour": 0.3}, x, y)
    torch.manual_seed(1)  # the global generator plays no part
    same, other = (in_boxes({**MOVES, "colour": 0.3}, x, y, seed) for seed in (0, 1))
    for changed, again, another in zip(one, same, other, strict=True):
        assert torch.equal(changed, again)
        assert not torch.equal(changed, another)
    assert torch.equal(in_boxes({"colour": 0.3}, x, y)[1], y)
