"""Boxes in pictures: what is found, how well it fits, how precise it is. Knows no files and models.

A box is x1, y1, x2, y2 in pixels: left, top, right, bottom. Rows (..., 6) of a split are label,
box, counted, of what was found label, box, score. Padding is -1 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 100  # boxes of a picture that count, as COCO has it
PADDING = -1  # the label of a row that is no box
ALIKE = 0.6  # overlap of two boxes of one class, of which the worse is dropped (Tian et al. 2019)
CANDIDATES = 4  # times the boxes that may be found: so many are looked at for such
ROUNDS = 32  # of dropping, see `kept`; trained models took 7 at most, one at its start 17
STEPS = 10  # of the overlap from which a box is right: 0.50, 0.55, ..., 0.95
RECALLS = 101  # shares of the boxes, 0.00, 0.01, ..., 1.00, at which precision is read


def area(boxes: Tensor) -> Tensor:
    """(..., 4) to (...): square pixels, 0 of a box that is turned inside out."""
    left, top, right, bottom = boxes.unbind(-1)
    return (right - left).clamp_min(0) * (bottom - top).clamp_min(0)  # prod() is slow to learn by


def shared(ours: Tensor, theirs: Tensor) -> Tensor:
    """(..., N, 4) and (..., M, 4) to the areas that both cover (..., N, M)."""
    left, top, right, bottom = ours.unsqueeze(-2).unbind(-1)
    west, north, east, south = theirs.unsqueeze(-3).unbind(-1)
    width = torch.minimum(right, east) - torch.maximum(left, west)
    height = torch.minimum(bottom, south) - torch.maximum(top, north)
    return width.clamp_min(0) * height.clamp_min(0)


def overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union, (..., N, 4) and (..., M, 4) to (..., N, M); 0 of empty boxes."""
    both = shared(ours, theirs)
    union = area(ours).unsqueeze(-1) + area(theirs).unsqueeze(-2) - both
    return both / union.clamp_min(torch.finfo(union.dtype).tiny)


def generalized(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of pairs (..., 4): overlap, less the share of what surrounds both that neither covers.

    -1 to 1; of boxes that do not meet it tells how far apart they are (Rezatofighi et al. 2019).
    """
    (a, b), (c, d) = ours.split(2, -1), theirs.split(2, -1)
    both = area(torch.cat([torch.maximum(a, c), torch.minimum(b, d)], -1))
    hull = area(torch.cat([torch.minimum(a, c), torch.maximum(b, d)], -1))
    union = area(ours) + area(theirs) - both
    tiny = torch.finfo(union.dtype).tiny
    return both / union.clamp_min(tiny) + union / hull.clamp_min(tiny) - 1


def found(outputs: Tensor, most: int = MOST) -> Tensor:
    """What a model gives (N, cells, C + 4), logits of classes and a box, to rows (N, most, 6).

    The best first. Each class of a cell is a candidate with the sigmoid of its logit for a score;
    of those of one class that overlap the best stays (greedy non-maximum suppression). In tensor
    operations of fixed shapes alone, so that exports hold the same.
    """
    outputs = outputs.float()
    classes = outputs.shape[2] - 4
    scores = outputs[..., :classes].sigmoid().flatten(1)
    scores, index = scores.topk(min(CANDIDATES * most, scores.shape[1]))
    cells = (index // classes).unsqueeze(2).expand(-1, -1, 4)
    boxes = outputs[..., classes:].gather(1, cells)
    return chosen(index % classes, boxes, scores, most)


def chosen(labels: Tensor, boxes: Tensor, scores: Tensor, most: int = MOST) -> Tensor:
    """Of candidates (N, K), the best first, what is found: rows (N, most, 6)."""
    stays = kept(boxes, labels)
    order = torch.where(stays, scores, -1.0).topk(min(most, scores.shape[1]))[1]
    rows = torch.cat([labels.unsqueeze(2), boxes, scores.unsqueeze(2)], 2)
    rows = torch.where(stays.unsqueeze(2), rows, PADDING)
    rows = rows.gather(1, order.unsqueeze(2).expand(-1, -1, 6))
    return F.pad(rows, (0, 0, 0, most - rows.shape[1]), value=PADDING)


def kept(boxes: Tensor, labels: Tensor) -> Tensor:
    """Which of boxes (N, K, 4), the best first, have no better one of their class over them.

    One that is dropped drops no others. What that comes to is found in rounds, for all boxes at
    once (Zheng et al. 2020, Cluster-NMS): each round settles one more link of every chain of boxes
    that hang on each other, and of one that is longer than there are rounds some stay.
    """
    places = torch.arange(boxes.shape[1], device=boxes.device)
    better = places.unsqueeze(1) < places
    alike = labels.unsqueeze(2) == labels.unsqueeze(1)
    drops = ((overlap(boxes, boxes) > ALIKE) & alike & better).float()
    stays = torch.ones_like(boxes[..., 0])
    for _ in range(ROUNDS):
        stays = (torch.einsum("nk,nkj->nj", stays, drops) == 0).float()
    return stays > 0


def limits(device: torch.device) -> Tensor:
    """The overlaps from which a box is right, float64 (STEPS,), to the bit those of COCO's code."""
    step = (0.95 - 0.5) / (STEPS - 1)
    return 0.5 + step * torch.arange(STEPS, dtype=torch.float64, device=device)


def matched(rows: Tensor, wanted: Tensor) -> Tensor:
    """What was found (N, K, 6), the best first, against what is there (N, M, 6).

    int8 (N, K, STEPS), one for each of `limits`: 1 right, 0 wrong, -1 neither. As COCO matches
    (Lin et al. 2014): each box that was found takes, of those there of its class that none before
    took, the one that it overlaps most. One that takes none, but lies in a box that does not count,
    as far as the limit says, is neither right nor wrong.
    """
    ours, theirs = rows[..., 1:5].double(), wanted[..., 1:5].double()
    counted = wanted[..., 5] > 0
    within = shared(ours, theirs) / area(ours).unsqueeze(2).clamp_min(1e-12)
    fits = torch.where(counted.unsqueeze(1), overlap(ours, theirs), within)
    alike = (rows[..., :1] == wanted[..., 0].unsqueeze(1)) & (wanted[..., 0] >= 0).unsqueeze(1)
    fits = torch.where(alike, fits, -1.0)

    least = limits(rows.device).unsqueeze(1)
    count, length = wanted.shape[0], wanted.shape[1]
    free = counted.unsqueeze(1).expand(-1, STEPS, -1).clone()
    outside = ~counted.unsqueeze(1)
    places = torch.arange(length, device=rows.device)
    told = []
    for fit in fits.unbind(1):
        reaches = fit.unsqueeze(1) >= least  # (N, STEPS, M)
        able = reaches & free
        # of two that fit equally well the later one, as COCO's own code does
        best = length - 1 - torch.where(able, fit.unsqueeze(1), -2.0).flip(2).argmax(2)
        right = able.any(2)
        free &= ~((places == best.unsqueeze(2)) & right.unsqueeze(2))
        neither = (reaches & outside).any(2) & ~right
        told.append(right.to(torch.int8) - neither.to(torch.int8))
    return torch.stack(told, 1) if told else rows.new_zeros(count, 0, STEPS, dtype=torch.int8)


def precision(labels: Tensor, scores: Tensor, told: Tensor, occur: Tensor) -> Tensor:
    """Average precision of each class, float64 (C, STEPS); NaN of one that does not occur.

    Of all that was found in a split: labels (D,), scores (D,), what `matched` says (D, STEPS), and
    how often each class occurs and counts (C,). Interpolated at 101 recalls, as COCO does (Lin et
    al. 2014); where scores are equal the first comes first.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]  # class by class, the best of each first
    counts = labels.long().bincount(minlength=len(occur)).tolist()
    levels = 0.01 * torch.arange(RECALLS, dtype=torch.float64, device=told.device)
    levels = levels.expand(STEPS, -1).contiguous()
    values = []
    by_class = told[order].T.split(counts, 1)  # what is of no class that is asked for comes last
    for mine, there in zip(by_class, occur.tolist(), strict=False):
        right = (mine > 0).cumsum(1, dtype=torch.float64)
        wrong = (mine == 0).cumsum(1, dtype=torch.float64)
        share = right / (right + wrong).clamp_min(1)
        share = share.flip(1).cummax(1).values.flip(1)  # the best at this recall or a greater one
        share = torch.cat([share, share.new_zeros(STEPS, 1)], 1)
        at = torch.searchsorted(right / max(there, 1), levels)
        read = share.gather(1, at).mean(1)
        values.append(read if there else torch.full_like(read, torch.nan))
    return torch.stack(values)


def occurring(wanted: Tensor, classes: int) -> Tensor:
    """How often each class is there and counts: rows (..., M, 6) to int64 (..., classes)."""
    counts = (wanted[..., 0] >= 0) & (wanted[..., 5] > 0)
    told = torch.zeros((*counts.shape[:-1], classes), dtype=torch.long, device=wanted.device)
    return told.scatter_add_(-1, wanted[..., 0].long().clamp_min(0), counts.long())
