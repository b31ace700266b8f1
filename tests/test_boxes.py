"""Boxes that were found against boxes that are there: the measure of COCO, and what overlaps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from automl import boxes

# What COCO's own code says of `drawn(seed)`: pycocotools 2.0.11, AP of COCOeval, and at 0.5
PUBLISHED = {
    0: (0.098640473310, 0.317576867890),
    1: (0.105214994151, 0.221184988002),
    2: (0.089333934115, 0.184694793009),
    3: (0.216263399175, 0.448320477963),
    4: (0.086183326172, 0.306713395699),
    5: (0.195508462731, 0.388335022473),
}


def drawn(seed: int, *, coarse: bool = False) -> tuple[Tensor, Tensor]:
    """What was found (N, K, 6) and what is there (N, M, 6), drawn at random, in four classes.

    Coarse: on a grid and with few scores, so that overlaps and scores are often equal.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    count, there, tries = 12, 7, 4
    grid = 8 if coarse else 1 / 64  # whole numbers of these: exact in float32
    corners = (uniform(count, there, 2) * 200 / grid).round() * grid
    sides = ((5 + 75 * uniform(count, there, 2)) / grid).ceil() * grid
    labels = (uniform(count, there, 1) * 3).floor()  # the fourth class is never there
    counted = (uniform(count, there, 1) > 0.2).float()
    wanted = torch.cat([labels, corners, corners + sides, counted], 2)
    wanted[uniform(count, there) < 0.3] = boxes.PADDING

    near = torch.cat([labels, corners, corners + sides], 2).repeat_interleave(tries, 1)
    moves = ((uniform(*near.shape[:2], 4) - 0.5) * 24 / grid).round() * grid
    near[..., 1:] += moves * (uniform(*near.shape[:2], 1) < 0.9)
    near[..., 3:] = torch.maximum(near[..., 3:], near[..., 1:3] + grid)
    other = uniform(*near.shape[:2]) < 0.15
    near[..., 0] = torch.where(other, (uniform(*near.shape[:2]) * 4).floor(), near[..., 0])
    scores = (uniform(*near.shape[:2]) * 20).floor() / 20
    if not coarse:
        scores = uniform(*near.shape[:2])
    rows = torch.cat([near, scores.unsqueeze(2)], 2)
    rows[uniform(*near.shape[:2]) < 0.4] = boxes.PADDING
    order = rows[..., 5].argsort(dim=1, descending=True, stable=True)
    return rows.gather(1, order.unsqueeze(2).expand(-1, -1, 6)), wanted


def judged(rows: Tensor, wanted: Tensor, classes: int) -> Tensor:
    told = boxes.matched(rows, wanted)
    real = rows[..., 0] >= 0
    occur = boxes.occurring(wanted, classes).sum(0)
    return boxes.precision(rows[real][:, 0], rows[real][:, 5], told[real], occur)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers]).view(1, -1, 6)


@pytest.mark.parametrize(("seed", "whole", "half"), [(s, *p) for s, p in PUBLISHED.items()])
def test_precision_is_what_the_code_of_coco_says(seed: int, whole: float, half: float) -> None:
    values = judged(*drawn(seed, coarse=seed % 2 == 1), 4)
    assert values[3].isnan().all()  # never there: it does not count
    assert values.nanmean().item() == pytest.approx(whole, abs=1e-9)
    assert values[:, 0].nanmean().item() == pytest.approx(half, abs=1e-9)


def test_all_found_is_one_and_nothing_found_is_nought() -> None:
    wanted = drawn(0)[1]
    wanted[..., 5] = torch.where(wanted[..., 0] >= 0, 1.0, -1.0)
    assert (judged(wanted, wanted, 3) == 1).all()
    assert (judged(torch.full((len(wanted), 5, 6), -1.0), wanted, 3) == 0).all()


def test_a_box_is_found_once() -> None:
    there = row(0, 0, 0, 10, 10, 1)
    twice = row(0, 0, 0, 10, 10, 0.9, 0, 0, 0, 10, 9, 0.8)
    told = boxes.matched(twice, there)
    assert told[0, 0].tolist() == [1] * boxes.STEPS
    assert told[0, 1].tolist() == [0] * boxes.STEPS


@pytest.mark.parametrize("reached", range(boxes.STEPS))
def test_a_box_is_right_from_each_overlap_on(reached: int) -> None:
    """Also where it is that very one: 0.85 is no less than 0.50 and 7 steps of 0.05."""
    told = boxes.matched(row(0, 0, 0, 10, 10 + reached, 0.9), row(0, 0, 0, 10, 20, 1))
    assert told[0, 0].tolist() == [step <= reached for step in range(boxes.STEPS)]


def test_what_lies_in_a_box_that_does_not_count_is_neither_right_nor_wrong() -> None:
    there = row(0, 0, 0, 100, 100, 0, 0, 200, 0, 210, 10, 1)
    inside = row(0, 10, 10, 20, 20, 0.9, 0, 30, 30, 40, 40, 0.8, 1, 10, 10, 20, 20, 0.7)
    told = boxes.matched(inside, there)[0, :, 0]
    assert told.tolist() == [-1, -1, 0]  # of another class it is wrong
    assert boxes.occurring(there, 2).tolist() == [[1, 0]]
    both = row(0, 0, 0, 100, 100, 0, 0, 10, 10, 20, 20, 1)
    assert boxes.matched(inside, both)[0, :, 0].tolist() == [1, -1, 0]  # right is right in it, too


def greedy(rows: Tensor, labels: Tensor) -> list[bool]:
    stays: list[int] = []
    for new in range(len(rows)):
        over = boxes.overlap(rows[new : new + 1], rows[stays])[0] > boxes.ALIKE
        if not (over & (labels[stays] == labels[new])).any():
            stays.append(new)
    return [place in stays for place in range(len(rows))]


@pytest.mark.parametrize("crowd", [20.0, 100.0, 400.0])
def test_of_boxes_that_overlap_the_best_stays(crowd: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 300, 2, generator=generator) * crowd
    sides = 20 + 40 * torch.rand(3, 300, 2, generator=generator)
    rows = torch.cat([corners, corners + sides], 2)
    labels = torch.randint(2, (3, 300), generator=generator)
    stays = boxes.kept(rows, labels)
    assert stays.tolist() == [greedy(*each) for each in zip(rows, labels, strict=True)]


def test_what_one_that_was_dropped_would_drop_stays() -> None:
    """Three in a row, each over the next alone: the first drops the second, the third stays."""
    rows = torch.tensor([[[0.0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10]]])
    assert boxes.kept(rows, torch.zeros(1, 3)).tolist() == [[True, False, True]]


def test_a_chain_of_thirty_boxes_that_hang_on_each_other_is_followed_to_its_end() -> None:
    corners = torch.arange(30.0).unsqueeze(1) * torch.tensor([2.0, 0.0])
    rows = torch.cat([corners, corners + 10], 1).unsqueeze(0)
    assert boxes.kept(rows, torch.zeros(1, 30))[0].tolist() == [True, False] * 15


def test_what_is_found_comes_best_first_and_is_padded() -> None:
    outputs = torch.tensor(
        [
            [
                [-3.0, 2.0, 0, 0, 10, 10],
                [-3.0, 1.0, 1, 0, 10, 10],  # dropped by the first
                [1.5, -3.0, 0, 0, 10, 10],  # of another class
                [-4.0, -4.0, 50, 50, 60, 60],
            ]
        ]
    )
    rows = boxes.found(outputs, most=20)[0]
    scores = torch.tensor([2.0, 1.5, -4.0, -4.0]).sigmoid().tolist()
    there = rows[:, 0] >= 0
    assert rows[there][:, 5].tolist() == pytest.approx(scores)
    assert rows[0, :5].tolist() == [1, 0, 0, 10, 10]
    assert rows[1, :5].tolist() == [0, 0, 0, 10, 10]
    assert (rows[~there] == boxes.PADDING).all()
    assert not there[len(rows[there]) :].any()  # padding comes last


def test_no_more_is_found_than_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.cat(
        [
            torch.randn(2, 50, 3, generator=generator),
            99 * torch.rand(2, 50, 4, generator=generator),
        ],
        2,
    )
    rows = boxes.found(outputs, most=5)
    assert rows.shape == (2, 5, 6)
    assert torch.equal(rows, boxes.found(outputs, most=30)[:, :5])


def test_overlap_of_boxes() -> None:
    ours = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0, 0], [5, 5, 4, 4]])
    theirs = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2]])
    shares = boxes.overlap(ours, theirs)
    assert shares.tolist() == [[pytest.approx(1 / 7), 1], [0, 0], [0, 0]]
    assert all(math.isfinite(share) for share in boxes.overlap(ours, ours).flatten().tolist())
