"""What a model says to validation examples, and examples as a page shows them."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from automl.config import clipped
from automl.data import Data, Ragged, Split
from automl.inputs.columns import Cells, Table, spans
from automl.inputs.sound import Sounds
from automl.inputs.text import paired, unpack
from automl.results.artifact import LEAST, Artifact
from automl.results.judgement import mistakes
from automl.training.loop import evaluate, predict

SEEN = 2_000  # validation examples that are looked at: seconds on a CPU
ALONE = 200  # columns of a table that are mixed one by one, and groups of more
SHOWN = 12  # mistakes on the page
TRANSLATED = 6  # pairs on the page
DETECTED = 6  # pictures with boxes on the page
WIDEST = 640  # pixels of a side of one
BYTES = 4_000_000  # of all examples on the page
LETTERS = 320  # of a text that are shown
VERDICTS = {1: "right", 0: "wrong", -1: "neither"}  # as `boxes.matched` has them
SMALL = 96  # pixels of a side, below which an image is enlarged


@dataclass(frozen=True)
class Example:
    """An example with its answer, ready to be shown, of one of three kinds."""

    number: int  # in the validation split
    label: str
    answer: str
    probability: float  # of the answer
    picture: str = ""  # data URI of a PNG
    size: tuple[int, int] = (0, 0)  # width and height of the picture on the page
    sound: str = ""  # data URI of a WAV
    text: str = ""

    @property
    def right(self) -> bool:
        return self.label == self.answer


@dataclass(frozen=True)
class Looked:
    """What came of looking at the validation split."""

    seen: int
    wrong: int
    sample: Example
    mistakes: list[Example]  # the most confident first
    confusion: list[list[int]]  # rows are classes, columns answers


@dataclass(frozen=True)
class Translation:
    """A pair of the validation split, and what the model makes of its source."""

    source: str
    told: str
    target: str


def translations(model: Artifact, data: Data) -> list[Translation]:
    """Of a few validation pairs, drawn once and for all."""
    pairs = paired(data.valid[_drawn(data, TRANSLATED)].x)
    told = model.translate([source for source, _ in pairs])
    return [
        Translation(*(clipped(text, LETTERS) for text in (source, said, target)))
        for (source, target), said in zip(pairs, told, strict=True)
    ]


@dataclass(frozen=True)
class Box:
    """A box in a picture, in pixels of that."""

    label: str
    left: float
    top: float
    width: float
    height: float
    score: float | None = None  # None: of one that is there
    verdict: str = ""  # right, wrong or neither, of one that was found


@dataclass(frozen=True)
class Detected:
    """A picture of the validation split, what is in it and what the model finds there."""

    number: int  # in the split
    picture: str  # data URI of a PNG
    size: tuple[int, int]  # width and height in pixels
    there: list[Box]
    found: list[Box]

    def count(self, verdict: str) -> int:
        return sum(box.verdict == verdict for box in self.found)


def detections(model: Artifact, data: Data) -> list[Detected]:
    """In a few validation pictures, drawn once and for all; what it is sure enough of to tell."""
    drawn = _drawn(data, DETECTED)
    split = data.valid[drawn]
    sums = model.judge(split).sums
    assert sums is not None
    assert isinstance(split.x, Tensor)

    height, width = split.x.shape[2:]
    share = min(1.0, WIDEST / max(height, width))
    size = round(share * width), round(share * height)

    def box(label: float, *corners: float, **more: Any) -> Box:
        x1, y1, x2, y2 = (share * one for one in corners)
        return Box(model.labels[int(label)], x1, y1, x2 - x1, y2 - y1, **more)

    told = []
    for place, number in enumerate(drawn.tolist()):
        rows, right = sums["rows"][place].tolist(), sums["right"][place, :, 0].tolist()
        found = [
            box(*row[:5], score=row[5], verdict=VERDICTS[verdict])
            for row, verdict in zip(rows, right, strict=True)
            if row[0] >= 0 and row[5] >= LEAST
        ]
        there = [box(*row[:5]) for row in split.y[place].tolist() if row[0] >= 0 and row[5]]
        picture = split.x[place] if share == 1 else smaller(split.x[place], size)
        told.append(Detected(number, png(picture)[0], size, there, found))
    return told


@dataclass(frozen=True)
class Leaned:
    """How much worse a score is without what a column says."""

    column: str
    score: float
    worse: float


def leaned(model: Artifact, data: Data) -> list[Leaned]:
    """Of each column of a table, mixed among validation rows (Breiman 2001), the most first.

    Only those without which the score is worse. Of more than `ALONE`, groups are mixed first, and
    alone those of the groups that matter most: each of 5,000 columns had taken half an hour.
    """
    assert isinstance(model.inputs, Cells)
    split = data.valid[_drawn(data)]
    assert isinstance(split.x, Tensor)
    task, generator = model.config.task, torch.Generator().manual_seed(0)
    metric, lying = task.metric, spans(model.inputs)
    names, cells = [*lying], torch.arange(split.x.shape[1])

    def scored(x: Tensor) -> float:
        encoded = model.inputs.encode(Split(x, split.y))
        return evaluate(model.model, encoded, model.inputs, task)[metric.name]

    def mixed(columns: Tensor) -> float:
        assert isinstance(split.x, Tensor)
        x = split.x.clone()
        places = torch.cat([cells[lying[names[column]]] for column in columns.tolist()])
        x[:, places] = x[torch.randperm(len(x), generator=generator)][:, places]
        return scored(x)

    whole, told = scored(split.x), list[Leaned]()
    alone = torch.arange(len(names))
    if len(names) > ALONE:
        groups = [(mixed(group), group) for group in alone.chunk(ALONE)]
        groups.sort(key=lambda one: one[0], reverse=not metric.higher_is_better)
        alone = torch.cat([group for _, group in groups])[:ALONE]
    for place in alone.split(1):
        score = mixed(place)
        if metric.better(whole, score):
            told.append(Leaned(names[int(place)], score, abs(whole - score)))
    return sorted(told, key=lambda one: -one.worse)


def numbers(model: Artifact, data: Data) -> tuple[list[float], list[float]]:
    """What is told of validation rows, and what came, in its unit."""
    split = data.valid[_drawn(data)]
    batches = predict(model.model, model.inputs.encode(split), model.inputs)
    told = model.inputs.told(torch.cat([rows for _, rows, _ in batches])).squeeze(1)
    return told.tolist(), split.y.tolist()


def _drawn(data: Data, most: int = SEEN) -> Tensor:
    """Which validation examples are looked at, once and for all."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(len(data.valid), generator=generator)[:most].sort().values


def look(model: Artifact, data: Data) -> Looked:
    """Answers to validation examples."""
    drawn = _drawn(data)
    split = data.valid[drawn]
    judged = model.judge(split)
    told, answers = judged.probabilities.max(1)
    wrong = mistakes(judged.probabilities, split.y).tolist()

    def example(place: int) -> Example:
        kind = _shown(split, place, data)
        label, answer = (model.labels[int(of[place])] for of in (split.y, answers))
        return Example(int(drawn[place]), label, answer, float(told[place]), **kind)

    worst = list(_fitting(example(place) for place in wrong[:SHOWN]))
    return Looked(len(drawn), len(wrong), example(0), worst, judged.confusion.tolist())


def _fitting(found: Iterator[Example]) -> Iterator[Example]:
    """As many as the page has room for."""
    room = BYTES
    for one in found:
        room -= len(one.picture) + len(one.sound)
        if room < 0:
            return
        yield one


def _shown(split: Split, place: int, data: Data) -> dict[str, Any]:
    """One example of a split as its task gives it, as fields of an Example."""
    if isinstance(split.x, Ragged):
        (text,) = unpack(split.x[torch.tensor([place])])
        return {"text": clipped(text, LETTERS)}
    assert isinstance(split.x, Tensor)
    if isinstance(data.inputs, Table):
        return {"text": clipped(data.inputs.described(split.x[place]), LETTERS)}
    if isinstance(data.inputs, Sounds):
        return {"sound": wav(split.x[place], data.inputs.rate)}
    return dict(zip(("picture", "size"), png(split.x[place]), strict=True))


def smaller(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (3, H, W) of this width and height."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    array = np.array(image.resize(size, Image.Resampling.LANCZOS))
    return torch.from_numpy(array).permute(2, 0, 1)


def png(pixels: Tensor) -> tuple[str, tuple[int, int]]:
    """uint8 (C, H, W) as a data URI, and width and height to show it at."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    longest = max(image.size)
    scale = max(1, SMALL // longest) if longest <= SMALL else SMALL * 1.5 / longest
    return _uri("image/png", out.getvalue()), (
        round(image.width * scale),
        round(image.height * scale),
    )


def wav(samples: Tensor, rate: int) -> str:
    """int16 (samples,) as a data URI."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.numpy().astype("<i2").tobytes())
    return _uri("audio/wav", out.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def confused(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[tuple[str, str, int]]:
    """Class, what it was taken for, and how often; the most frequent first, at most eight."""
    pairs = [
        (labels[i], labels[j], count)
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:8]
