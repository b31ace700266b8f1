"""Pictures of a trial as PNG, for pages that show files and draw nothing. Knows no study."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from automl.boxes import matched
from automl.config import clipped
from automl.data import Data, Ragged, Split
from automl.inputs.columns import Table
from automl.inputs.sound import Sounds
from automl.inputs.text import unpack
from automl.results import judgement
from automl.results.artifact import LEAST

PAPER, INK, LINE, BLUE, ORANGE = "#ffffff", "#222222", "#cccccc", (31, 98, 178), (199, 80, 0)
WIDE, HIGH, EDGE = 640, 360, 56  # pixels
SHOWN = 12  # mistakes
THUMB = 96  # pixels of one
NAMED = 24  # classes whose names stand beside the matrix
LETTERS = 90  # of a text


def _sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(13)
    return image, draw


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def curve(scores: Sequence[float], name: str) -> bytes:
    """Scores by epoch."""
    image, draw = _sheet(WIDE, HIGH)
    low, high = min(scores), max(scores)
    right, bottom = WIDE - 16, HIGH - 36
    across, up = (right - EDGE) / max(1, len(scores) - 1), (bottom - 30) / ((high - low) or 1.0)
    points = [(EDGE + i * across, bottom - (score - low) * up) for i, score in enumerate(scores)]
    draw.line([(EDGE, 30), (EDGE, bottom), (right, bottom)], LINE, 1)
    draw.line(points, BLUE, 3)
    for x, y in points:
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], BLUE)
    draw.text((EDGE, 6), name, INK)
    draw.text((4, 24), f"{high:.4g}", INK)
    draw.text((4, bottom - 8), f"{low:.4g}", INK)
    draw.text((EDGE, bottom + 8), "epoch 1", INK)
    draw.text((right, bottom + 8), str(len(scores)), INK, anchor="ra")
    return _png(image)


def confusion(counts: Tensor, labels: Sequence[str]) -> bytes:
    """Rows are what examples are, columns what they are taken for; shaded by shares of rows."""
    side = min(40, -(-WIDE // len(labels)))
    named = len(labels) <= NAMED
    edge = 120 if named else 24
    image, draw = _sheet(edge + side * len(labels) + 8, edge + side * len(labels) + 8)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    ink = 255 - shares.unsqueeze(2) * (255 - torch.tensor(BLUE))
    cells = Image.fromarray(ink.round().to(torch.uint8).numpy())
    across = side * len(labels)
    image.paste(cells.resize((across, across), Image.Resampling.NEAREST), (edge, edge))
    draw.text((4, 4), "is / taken for", INK)
    if not named:
        return _png(image)
    for k, label in enumerate(labels):
        middle = edge + (k + 0.5) * side
        draw.text((edge - 6, middle), _clipped(label, 16), INK, anchor="rm")
        name, write = _sheet(edge - 12, 18)
        write.text((0, 1), _clipped(label, 16), INK)
        image.paste(name.rotate(90, expand=True), (round(middle) - 9, 6))
    for i, j in counts.nonzero().tolist():
        place = edge + (j + 0.5) * side, edge + (i + 0.5) * side
        colour = PAPER if shares[i, j] > 0.5 else INK
        draw.text(place, str(int(counts[i, j])), colour, anchor="mm")
    return _png(image)


def mistakes(data: Data, shares: Tensor) -> bytes | None:
    """The most confident ones in the validation split, by probabilities (N, K).

    None where there is none, and of sounds, which no picture tells.
    """
    said, answers = shares.max(1)
    worst = judgement.mistakes(shares, data.valid.y)[:SHOWN]
    if not len(worst) or isinstance(data.inputs, Sounds):
        return None
    told = [
        f"{_clipped(data.labels[y], 14)}, not {_clipped(data.labels[answer], 14)}"
        f" ({int(100 * share)}%)"  # 99.6 % is not sure
        for y, answer, share in zip(
            data.valid.y[worst].tolist(), answers[worst].tolist(), said[worst].tolist(), strict=True
        )
    ]
    texts, x = list[str](), data.valid.x
    if isinstance(x, Ragged):
        texts = unpack(x[worst])
    elif isinstance(data.inputs, Table):
        assert isinstance(x, Tensor)
        texts = [data.inputs.described(row) for row in x[worst]]
    if texts:
        texts = [_clipped(text, LETTERS) for text in texts]
        image, draw = _sheet(WIDE, 44 * len(texts) + 8)
        for row, (label, text) in enumerate(zip(told, texts, strict=True)):
            draw.text((8, 8 + 44 * row), label, BLUE)
            draw.text((8, 25 + 44 * row), text, INK)
        return _png(image)
    assert isinstance(x, Tensor)
    cell, high = 208, THUMB + 32
    image, draw = _sheet(3 * cell + 8, high * -(-len(told) // 3) + 8)
    for number, (label, pixels) in enumerate(zip(told, x[worst], strict=True)):
        left, top = 8 + cell * (number % 3), 8 + high * (number // 3)
        array = pixels.permute(1, 2, 0).numpy()
        shown = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
        resize = Image.Resampling.NEAREST if max(shown.size) < THUMB else Image.Resampling.LANCZOS
        image.paste(shown.resize((THUMB, THUMB), resize), (left, top))
        draw.text((left, top + THUMB + 4), label, INK)
    return _png(image)


def detections(split: Split, rows: Tensor) -> bytes:
    """What is there in pictures, black, and what is found (N, K, 6): blue if right, else orange."""
    assert isinstance(split.x, Tensor)
    across = WIDE // 2 - 12
    scale = across / split.x.shape[3]
    high = round(scale * split.x.shape[2])
    image, _ = _sheet(WIDE, (high + 12) * -(-len(split) // 2) + 8)
    right = matched(rows, split.y)[..., 0]
    for number, (pixels, y, found) in enumerate(zip(split.x, split.y, rows, strict=True)):
        shown = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        shown = shown.resize((across, high), Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(shown)
        for box in (scale * y[y[:, 5] > 0, 1:5]).tolist():
            draw.rectangle(box, outline=INK)
        told = (found[:, 0] >= 0) & (found[:, 5] >= LEAST)
        boxes = (scale * found[told, 1:5]).tolist()
        for box, fits in zip(boxes, right[number, told].tolist(), strict=True):
            draw.rectangle(box, outline=BLUE if fits else ORANGE, width=2)
        image.paste(shown, (8 + (across + 12) * (number % 2), 8 + (high + 12) * (number // 2)))
    return _png(image)


def _clipped(text: str, most: int) -> str:
    """In one line; half a surrogate pair is no text."""
    return clipped(" ".join(text.encode("utf-8", "replace").decode().split()), most)
