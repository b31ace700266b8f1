"""Boxes that people drew: read from VOC, COCO and YOLO, and refused where they cannot be."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from automl.boxes import occurring
from automl.config import Task
from automl.data import Split
from automl.errors import DataError
from automl.inputs.canvas import Canvas
from automl.tasks import bccd
from automl.tasks.annotations import BOXES, canvas
from automl.tasks.bccd import Bccd
from automl.tasks.source import digest

Side = float | str
Box = tuple[str, Side, Side, Side, Side]


pytestmark = pytest.mark.usefixtures("alone")


def picture(seed: int, width: int = 64, height: int = 48) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def xml(*boxes: Box, width: object = 64, height: object = 48, more: str = "") -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>{more}</object>"
        for name, x1, y1, x2, y2 in boxes
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>../../secret.png</filename>{size}{objects}</annotation>"


CAT, DOG = ("cat", 2.0, 4.0, 32.0, 24.0), ("dog", 10.0, 10.0, 20.0, 40.0)


def voc(place: Path, files: Mapping[str, str | bytes], **knobs: Any) -> Any:
    """The task of a folder with these files; of each XML file without a picture one is drawn."""
    for number, (name, content) in enumerate(files.items()):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if name.endswith(".xml"):
            drawn = place / "JPEGImages" / f"{path.stem}.png"
            drawn.parent.mkdir(exist_ok=True)
            if drawn.name not in {Path(other).name for other in files}:
                drawn.write_bytes(picture(number))
    return Task.of({"name": "voc", "path": str(place), "size": 64, **knobs})


def marked(count: int, first: int = 0) -> dict[str, str | bytes]:
    return {f"Annotations/{n:03}.xml": xml(CAT, DOG) for n in range(first, first + count)}


def lists(**parts: range) -> dict[str, str | bytes]:
    return {
        f"ImageSets/Main/{part}.txt": "".join(f"{n:03}\n" for n in numbers)
        for part, numbers in parts.items()
    }


def told(*images: dict[str, Any], boxes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A file of COCO with the classes cat and dog, by default with a cat in each picture."""
    if boxes is None:
        boxes = [
            {"image_id": image["id"], "category_id": 7, "bbox": [2, 4, 30, 20]} for image in images
        ]
    kinds = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": list(images), "annotations": boxes, "categories": kinds}


def image(number: int, **other: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48, **other}


def coco(place: Path, what: Any, name: str = "mine.json", **knobs: Any) -> Any:
    """The task of such a file, with pictures 0 to 9 beside it."""
    place.mkdir(parents=True, exist_ok=True)
    for number in range(10):
        (place / f"{number}.png").write_bytes(picture(number))
    (place / name).write_text(what if isinstance(what, str) else json.dumps(what))
    return Task.of({"name": "coco", "path": str(place / name), "size": 64, **knobs})


LINES = "1 0.265625 0.2916667 0.46875 0.4166667\n0 0.234375 0.5208333 0.15625 0.625\n"
NAMED = "train: ../train/images\nnames: [dog, cat]\n"  # the boxes of CAT and DOG
LAYOUTS = {
    "ultralytics": "{kind}/{part}",
    "official": "{kind}/{part}2017",
    "roboflow": "{part}/{kind}",
}


def yolo(place: Path, files: Mapping[str, str | bytes], count: int = 10, **knobs: Any) -> Any:
    """The task of a folder with these files, and with pictures 0 to 9 in images/."""
    for number in range(count):
        files = {f"images/{number}.png": picture(number), **files}
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Task.of({"name": "yolo", "path": str(place), "size": 64, **knobs})


def lined(count: int, lines: str = LINES) -> dict[str, str | bytes]:
    return {f"labels/{number}.txt": lines for number in range(count)}


def drawn(split: Split) -> set[bytes]:
    assert isinstance(split.x, torch.Tensor)
    return {x.numpy().tobytes() for x in split.x}


# What is read


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo"])
def test_boxes_are_told_in_pixels_of_the_canvas(kind: str, tmp_path: Path) -> None:
    if kind == "yolo":
        task = yolo(tmp_path, {"data.yaml": NAMED, **lined(8)}, 8)
    elif kind == "voc":
        task = voc(tmp_path, marked(8) | lists(train=range(4), val=range(4, 6), test=range(6, 8)))
    else:
        boxes = [
            {"image_id": n, "category_id": key, "bbox": box}
            for n in range(8)
            for key, box in ((7, [2, 4, 30, 20]), (3, [10, 10, 10, 30]))
        ]
        task = coco(tmp_path, told(*map(image, range(8)), boxes=boxes))
    task = task.model_copy(update={"size": 128})
    inputs, labels = task.shape(None)
    data, test = task.load(None), task.test(None)
    assert labels == tuple(data.labels) == ("cat", "dog")
    assert inputs.shape == data.inputs.shape == (3, 96, 128)
    assert len(data.train) + len(data.valid) + len(test) == 8
    for split in (data.train, data.valid, test):
        assert split.x.dtype == torch.uint8
        assert tuple(split.x.shape) == (len(split), 3, 96, 128)
        assert split.y.dtype == torch.float32
        wanted = torch.tensor([[0.0, 4, 8, 64, 48, 1], [1, 20, 20, 40, 80, 1]])
        assert torch.allclose(split.y[0], wanted, atol=1e-4 if kind == "yolo" else 0)


def test_a_picture_keeps_its_proportions_top_left_on_a_canvas_for_all(tmp_path: Path) -> None:
    files = {**marked(3), "Annotations/tall.xml": xml(("cat", 1, 2, 3, 4), width=20, height=40)}
    task = voc(tmp_path, {**files, "JPEGImages/tall.png": picture(9, 20, 40)})
    assert task.shape(None)[0].shape == (3, 64, 64)
    data, test = task.load(None), task.test(None)
    seen = [(x, y) for s in (data.train, data.valid, test) for x, y in zip(s.x, s.y, strict=True)]
    (tall,) = [(x, y) for x, y in seen if y[1, 0] < 0]
    assert tall[1][0].tolist() == pytest.approx([0, 1.6, 3.2, 4.8, 6.4, 1])
    assert (tall[0][:, :, 32:] == tall[0][0, 0, 32]).all()  # right of it nothing but grey
    assert tall[0][:, :, :32].float().std() > 20


def test_boxes_fit_pictures_whose_sides_are_rounded(tmp_path: Path) -> None:
    files = {
        f"Annotations/{n}.xml": xml(("cat", 0, 0, 100, 33), width=100, height=33) for n in range(3)
    }
    drawn = {f"JPEGImages/{n}.png": picture(n, 100, 33) for n in range(3)}
    y = voc(tmp_path, files | drawn).load(None).train.y
    assert y[0, 0].tolist() == [0, 0, 0, 64, 21, 1]  # 21.12 by the width's share


def test_the_canvas_is_no_larger_than_the_pictures_need() -> None:
    assert canvas(320, [(640, 480)]) == (3, 256, 320)
    assert canvas(320, [(640, 480), (480, 640)]) == (3, 320, 320)
    assert canvas(300, [(1000, 10)]) == (3, 32, 320)
    assert canvas(320, [(10, 20)]) == (3, 320, 160)
    assert canvas(320, [(2000, 1), (3000, 2)]) == (3, 32, 320)  # less than half a pixel high


def test_what_is_hard_to_see_does_not_count(tmp_path: Path) -> None:
    files = marked(4) | {"Annotations/000.xml": xml(CAT, more="<difficult>1</difficult>")}
    task = voc(tmp_path / "voc", files | lists(train=range(2), val=range(2, 3), test=range(3, 4)))
    assert task.load(None).train.y[..., 5].tolist() == [[0, -1], [1, 1]]
    boxes = [
        {"image_id": n, "category_id": 7, "bbox": [2, 4, 30, 20], "iscrowd": int(n == 3)}
        for n in range(10)
    ]
    task = coco(tmp_path / "coco", told(*map(image, range(10)), boxes=boxes))
    data = task.load(None)
    assert (
        sum(int((s.y[..., 5] == 0).sum()) for s in (data.train, data.valid, task.test(None))) == 1
    )


def test_a_box_is_cut_where_the_picture_ends(tmp_path: Path) -> None:
    files = marked(3) | {"Annotations/000.xml": xml(DOG, ("cat", -5, -0.5, 1e9, 20))}
    task = voc(tmp_path, files | lists(train=range(1), val=range(1, 2), test=range(2, 3)))
    assert task.load(None).train.y[0, 1].tolist() == [0, 0, 0, 64, 20, 1]


def test_a_picture_without_boxes_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = marked(3) | {"Annotations/001.xml": xml(), "Annotations/002.xml": xml()}
    task = voc(tmp_path, files | lists(train=range(2), val=range(2, 3)), split_seed=0)
    data = task.load(None)
    assert tuple(data.valid.y.shape) == (1, 1, 6)
    assert (data.valid.y == -1).all()
    assert caplog.messages == [  # of two to train with, the one that has boxes is to test
        "voc: no box counts in any picture to train with, of 1: nothing is learned",
        "voc: no box counts in any picture to validate with, of 1: every score is 0",
    ]


def test_boxes_without_area_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = ("cat", 5, 5, 5, 9)
    task = voc(tmp_path, marked(60) | {"Annotations/000.xml": xml(CAT, flat)})
    data = task.load(None)
    (line,) = caplog.messages
    assert "1 of 120 boxes have no area in their picture, the first in" in line
    assert "000.xml: x 5 to 5, y 5 to 9; going on without them" in line
    splits = (data.train, data.valid, task.test(None))
    assert sum(occurring(split.y, 2).sum(0) for split in splits).tolist() == [60, 59]

    (tmp_path / "Annotations/001.xml").write_text(xml(("cat", 70, 5, 80, 9)))  # beside the picture
    with pytest.raises(DataError, match=r"2 of 119 boxes have no area .*; want at most 1%"):
        task.load(None)


# Which is for what


def test_lists_say_what_each_picture_is_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = marked(9) | lists(train=range(3, 6), val=range(3), test=range(6, 9))
    task = voc(tmp_path, files)
    both = task.load(None)
    for split, first in ((both.train, 3), (both.valid, 0), (task.test(None), 6)):
        want = Canvas((3, 64, 64)).read([picture(n) for n in range(first, first + 3)]).x[:, :, :64]
        assert torch.equal(split.x, want)
    (tmp_path / "ImageSets/Main/train.txt").write_text("003\n\n")
    assert not caplog.messages
    assert len(task.load(None).train) == 1
    told = "passing over 2 of 9 pictures that are in no list, the first: 004"
    assert caplog.messages == [f"{tmp_path}: {told}"]
    (tmp_path / "ImageSets/Main/train.txt").unlink()  # all that are in no other list
    assert len(task.load(None).train) == 3


def test_without_lists_a_seed_says_what_validates_and_another_what_tests(tmp_path: Path) -> None:
    task = voc(tmp_path, marked(40), valid=0.25)
    data, test = task.load(None), task.test(None)
    assert [len(test), len(data.valid), len(data.train)] == [6, 8, 26]  # 15 %, of the rest 25 %
    assert drawn(task.load(None).valid) == drawn(data.valid)
    assert not drawn(data.train) & drawn(data.valid)
    other = task.model_copy(update={"split_seed": 1})
    assert drawn(other.load(None).valid) != drawn(data.valid)
    assert drawn(other.test(None)) == drawn(test)


def test_too_few_pictures_to_hold_some_out_are_one_line(tmp_path: Path) -> None:
    same = {f"JPEGImages/{n:03}.png": picture(0) for n in range(4)}
    for name, files, count in (("same", marked(4) | same, 4), ("two", marked(2), 1)):
        line = f"got 1 of {count} training pictures that differs from the others; want 2 at least"
        with pytest.raises(DataError, match=line):
            voc(tmp_path / name, files).load(None)


def test_copies_of_a_picture_are_on_one_side(tmp_path: Path) -> None:
    same = {f"JPEGImages/{n:03}.png": picture(n // 4) for n in range(40)}
    task = voc(tmp_path, marked(40) | same)
    data, test = task.load(None), task.test(None)
    sides = [drawn(split) for split in (data.train, data.valid, test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 10


def test_a_picture_in_two_lists_or_twice_in_the_data_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = marked(6) | {"JPEGImages/000.png": picture(7), "JPEGImages/005.png": picture(7)}
    task = voc(tmp_path, files | lists(train=range(3), val=range(3, 5), test=range(5, 6)))
    task.load(None)
    assert "1 of 1 examples to test with are in another split, too" in caplog.text
    (tmp_path / "ImageSets/Main/val.txt").write_text("003\n002\n")
    with pytest.raises(DataError, match=r"val\.txt:2: got '002', which is in train\.txt, too"):
        task.load(None)


def test_pictures_that_nothing_is_told_of_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voc(tmp_path, marked(6) | {"JPEGImages/more.png": picture(0)}).load(None)
    assert "passing over 1 of 7 pictures, of which Annotations/ tells nothing" in caplog.text


@pytest.mark.parametrize("layout", ["parts", "roboflow", "official"])
def test_coco_is_found_as_it_is_spread(layout: str, tmp_path: Path) -> None:
    for part, name, numbers in (("train", "train", range(4)), ("val", "valid", range(4, 6))):
        file, folder = {
            "parts": (f"{name}.json", "images"),
            "roboflow": (f"{name}/_annotations.coco.json", name),
            "official": (f"annotations/instances_{part}2017.json", f"{part}2017"),
        }[layout]
        for path in (tmp_path / file, tmp_path / folder / "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (tmp_path / folder / f"{number}.png").write_bytes(picture(number))
        (tmp_path / file).write_text(json.dumps(told(*map(image, numbers))))
    task = Task.of({"name": "coco", "path": str(tmp_path), "size": 64})
    data = task.load(None)
    assert [len(data.train), len(data.valid), len(task.test(None))] == [3, 2, 1]
    assert tuple(data.labels) == ("cat",)  # of dogs there are none


@pytest.mark.parametrize("layout", LAYOUTS)
def test_yolo_is_found_as_it_is_spread(layout: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"data.yaml": NAMED}
    other = "valid" if layout == "roboflow" else "val"
    for part, numbers in (("train", range(4)), (other, range(4, 6)), ("test", range(6, 9))):
        for number in numbers:
            images, labels = (LAYOUTS[layout].format(kind=k, part=part) for k in KINDS)
            files |= {f"{images}/{number}.png": picture(number), f"{labels}/{number}.txt": LINES}
    task = yolo(tmp_path, files, 0)
    (tmp_path / "images/training").mkdir(parents=True, exist_ok=True)  # none of ours
    data = task.load(None)
    assert [len(data.train), len(data.valid), len(task.test(None))] == [4, 2, 3]
    assert tuple(data.labels) == ("cat", "dog")
    (tmp_path / images.replace("test", "train9")).mkdir(parents=True)
    if layout != "roboflow":
        with pytest.raises(
            DataError, match=r"holds both images/train.* and images/train[0-9]+; want"
        ):
            task.load(None)


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        ({"data.yaml": "names: {1: big cat, 0: dog}"}, ("big cat", "dog")),
        ({"data.yaml": "names:\n  0: dog\n  1: *a"}, None),
        ({"data.yaml": "a: &a cat\nnames: [dog, *a]"}, ("cat", "dog")),
        ({"classes.txt": "dog\ncat\n\n"}, ("cat", "dog")),
        ({"obj.names": "dog\r\ncat"}, ("cat", "dog")),
        ({}, ("0", "1")),
    ],
)
def test_classes_are_called_as_the_file_has_it(
    files: dict[str, str | bytes], labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    task = yolo(tmp_path, files | lined(10))
    if labels is None:
        with pytest.raises(DataError, match=r"data\.yaml: is no YAML: found undefined alias"):
            task.shape(None)
        return
    assert task.shape(None)[1] == labels


def test_all_may_lie_side_by_side(tmp_path: Path) -> None:
    files = {f"{n}.png": picture(n) for n in range(9)} | {f"{n}.txt": LINES for n in range(9)}
    data = yolo(tmp_path, {**files, "classes.txt": "dog\ncat"}, 0).load(None)
    assert len(data.train) + len(data.valid) + data.sealed == 9


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo"])
def test_data_of_the_working_folder_is_said_to_be_that(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "yolo":
        task = yolo(tmp_path / "mine", lined(10))
    elif kind == "voc":
        task = voc(tmp_path / "mine", marked(8))
    else:
        task = coco(tmp_path / "mine", told(*map(image, range(8))), "train.json")
    monkeypatch.chdir(tmp_path)
    relative = Path(task.path).relative_to(tmp_path)
    task.model_copy(update={"path": str(relative)}).load(tmp_path / "other")
    assert f"{kind}: not in {tmp_path / 'other' / relative}; reading " in caplog.text


def test_an_outline_is_the_box_around_it(tmp_path: Path) -> None:
    corners = "0 0.25 0.25 0.75 0.25 0.5 0.5"
    task = yolo(tmp_path, lined(10, corners))
    y = task.load(None).train.y
    assert y[:, 0].tolist() == [[0, 16, 12, 48, 24, 1]] * len(y)


def test_a_class_without_a_name_has_a_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels/0\.txt:1: got the class -1, which has no name$"):
        yolo(tmp_path, lined(10, "-1 0.5 0.5 0.5 0.5")).load(None)


def test_shares_are_of_the_picture_as_it_stands(tmp_path: Path) -> None:
    """Turned by EXIF, and grey: its first number is not its width."""
    turned = Image.Exif()
    turned[0x0112] = 6
    images = list[bytes]()
    for grey in (50, 90, 130):
        file = io.BytesIO()
        Image.fromarray(np.full((64, 32), grey, np.uint8)).save(file, "JPEG", exif=turned)
        images.append(file.getvalue())
    lines = {f"labels/{n}.txt": "0 0.5 0.5 1 0.5" for n in range(3)}
    files = {f"images/{n}.jpg": raw for n, raw in enumerate(images)}
    task = yolo(tmp_path, {**files, **lines}, 0)
    assert task.shape(None)[0].shape == (3, 32, 64)
    assert task.load(None).train.y[0].tolist() == [[0, 0, 8, 64, 24, 1]]


def test_a_picture_without_a_file_has_nothing_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = yolo(tmp_path, {**lined(8), "labels/9.txt": "\n"}).load(None)
    counts = [(split.y[:, :, 5] > 0).sum().item() for split in (data.train, data.valid)]
    assert len(data.train) + len(data.valid) + data.sealed == 10
    assert sum(counts) <= 16
    assert "1 of 10 pictures have no file in labels/, so that nothing is in them, the first: 8" in (
        caplog.text
    )


def test_one_unreadable_picture_in_a_hundred_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = yolo(tmp_path, {**lined(101), "images/7.png": b"\x89PNG"}, 101)
    data = task.load(None)
    assert len(data.train) + len(data.valid) + data.sealed == 100
    assert "images: 1 of 101 pictures cannot be read, the first: 7.png: " in caplog.text
    (tmp_path / "images/8.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"2 of 101 pictures cannot .* is none of .*; want at most"):
        task.load(None)


# What is refused, in one line


KINDS = ("images", "labels")
YOLO: dict[str, tuple[dict[str, str | bytes], str]] = {
    "four cells": ({"labels/0.txt": "0 1 2 3"}, r"labels/0\.txt:1: got 4 cells; want 5, or 7, 9"),
    "a confidence": ({"labels/0.txt": "0 1 1 1 1 0.9"}, "0.txt:1: got 6 cells; want 5"),
    "no number": ({"labels/0.txt": "\n0 1 x 1 1"}, r"0\.txt:2: could not convert .* 'x'; want"),
    "no class": ({"labels/0.txt": "cat 1 1 1 1"}, r":1: invalid literal .* 'cat'; want a class"),
    "not finite": ({"labels/0.txt": "0 1 1 nan 1"}, "got '0 1 1 nan 1'; want finite numbers$"),
    "below": ({"labels/0.txt": "-1 1 1 1 1"}, "got the class -1, which has no name$"),
    "without a name": ({"labels/0.txt": "2 1 1 1 1"}, "got the class 2, which has no name$"),
    "pixels": ({"labels/0.txt": "0 30 20 5 5"}, "1 of 19 boxes have no area in their picture"),
    "no picture": ({"labels/x.txt": LINES}, r"labels/x\.txt: got no picture of that name in "),
    "two pictures": ({"images/0.jpg": picture(0)}, "images: got several pictures called '0'; want"),
    "no text": ({"labels/0.txt": b"\xff"}, r"0\.txt cannot be read to its end"),
    "no YAML": ({"data.yaml": "names: [a"}, r"data\.yaml: is no YAML: while parsing"),
    "YAML that is deep": ({"data.yaml": "[" * 100_000}, r"yaml: is no YAML: maximum recursion"),
    "no names": ({"data.yaml": "nc: 3"}, r"got no names of classes; want names: \[...\]$"),
    "a list of lists": ({"data.yaml": "names: [[a]]"}, "names: '0': want a number and its name$"),
    "no numbers": ({"data.yaml": "names: {a: b}"}, "names: 'a': want a number and its name$"),
    "a name twice": ({"data.yaml": "names: [a, a]"}, "a class or a name twice; want each once$"),
    "an empty name": ({"data.yaml": "names: ['', a]"}, "class 0: name: got ''; want 1 to 100"),
    "a large file": ({"data.yaml": "#" * 2**19}, r"data\.yaml: got more than 262,144 bytes; want"),
}  # fmt: skip


@pytest.mark.parametrize("case", YOLO)
def test_files_of_yolo_that_cannot_be_read_are_one_line(case: str, tmp_path: Path) -> None:
    files, line = YOLO[case]
    with pytest.raises(DataError, match=line) as caught:
        yolo(tmp_path, {"data.yaml": NAMED, **lined(10), **files}).load(None)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


VOC: dict[str, tuple[dict[str, str | bytes], str]] = {
    "a document type": (
        {"Annotations/000.xml": f'<!DOCTYPE a [<!ENTITY b "cc">]>{xml(CAT)}'},
        r"000\.xml: got a DOCTYPE; want XML without one$",
    ),
    "one in UTF-16": (
        {"Annotations/000.xml": f"<!DOCTYPE annotation>{xml(CAT)}".encode("utf-16")},
        r"000\.xml: got a DOCTYPE; want XML without one$",
    ),
    "an entity": (
        {"Annotations/000.xml": xml(("&b;", 1, 2, 3, 4))},
        r"000\.xml: is no XML: undefined entity",
    ),
    "no XML": ({"Annotations/000.xml": b"\x89PNG"}, r"000\.xml: is no XML: not well-formed"),
    "an end too early": ({"Annotations/000.xml": xml(CAT)[:-5]}, "is no XML: no element|unclosed"),
    "an unknown encoding": (
        {"Annotations/000.xml": '<?xml version="1.0" encoding="of-mine"?>' + xml(CAT)},
        "is no XML: unknown encoding",
    ),
    "too much": (
        {"Annotations/000.xml": xml(CAT) + " " * 2**22},
        "000.xml: got more than 1,048,576 bytes; want 1",
    ),
    "another root": ({"Annotations/000.xml": "<html/>"}, "got <html>; want <annotation>"),
    "no size": ({"Annotations/000.xml": "<annotation/>"}, r"000\.xml: got no size/width$"),
    "no such size": (
        {"Annotations/000.xml": xml(CAT, width=0)},
        "000.xml: width: got 0.0 pixels; want 1 to 65,536$",
    ),
    "a giant": ({"Annotations/000.xml": xml(CAT, height=1e300)}, "height: got 1e.300 pixels; want"),
    "half a pixel": ({"Annotations/000.xml": xml(CAT, height=8.5)}, "height: got 8.5 pixels; want"),
    "no number": (
        {"Annotations/000.xml": xml(("cat", 1, 2, 3, "x" * 999))},
        rf"000\.xml: object 1: bndbox/ymax: got '{'x' * 60}'; want a number$",
    ),
    "not finite": (
        {"Annotations/000.xml": xml(CAT, ("cat", 1, 2, float("nan"), 4))},
        "000.xml: object 2: bndbox/xmax: got 'nan'; want a number$",
    ),
    "infinite": (
        {"Annotations/000.xml": xml(CAT, width="inf")},
        "size/width: got 'inf'; want a num",
    ),
    "no name": ({"Annotations/000.xml": xml((" ", 1, 2, 3, 4))}, "object 1: got no name$"),
    "an odd name": (
        {"Annotations/000.xml": xml(("a&#x202e;b", 1, 2, 3, 4))},
        r"object 1: name: got 'a\\u202eb'; want 1 to 100 letters$",
    ),
    "hard": (
        {"Annotations/000.xml": xml(CAT, more="<difficult>yes</difficult>")},
        "difficult: got 'yes'; want 0 or 1$",
    ),
    "many": (
        {"Annotations/000.xml": xml(*[CAT] * (BOXES + 1))},
        "got 1,001 boxes in one picture; want 1,000 at most$",
    ),
    "two pictures": (
        {"JPEGImages/000.jpg": picture(0)},
        r"JPEGImages: got both 000\.jpg and 000\.png; want one picture of a name$",
    ),
    "another picture": (
        {"JPEGImages/000.png": picture(0, 48, 64)},
        r"1 of 8 pictures cannot be read: .*000\.xml; .*is of \(48, 64\) pixels; want \(64, 48\)",
    ),
    "no image": (
        {"JPEGImages/000.png": b"x"},
        r"1 of 8 pictures cannot be read: .*is none of JPEG",
    ),
    "a class of its own": (
        {"Annotations/007.xml": xml(("cats", 1, 2, 3, 4)), **lists(test=range(7, 8))},
        r"007\.xml: got the class 'cats', which is not among those to train with; did you mean",
    ),
    "no boxes": (
        {f"Annotations/{n:03}.xml": xml() for n in range(8)},
        "got 0 classes to train with; want 1 to 1,000$",
    ),
    "no such name": (
        {"ImageSets/Main/train.txt": "000\n../001\n"},
        r"ImageSets/Main/train\.txt:2: got '\.\./001', of which Annotations/ tells nothing",
    ),
    "names that are no text": ({"ImageSets/Main/val.txt": b"\xff"}, r"val\.txt cannot be read to"),
    "nothing to train with": (
        lists(test=range(8)),
        "got no pictures to train with; want 1 at least",
    ),
    "nothing to validate with": (
        {"ImageSets/Main/val.txt": ""},
        "got no readable picture to validate with; want 1 at least$",
    ),
}


@pytest.mark.parametrize("case", VOC)
def test_a_voc_folder_that_cannot_be_read_is_one_line(case: str, tmp_path: Path) -> None:
    files, line = VOC[case]
    with pytest.raises(DataError, match=line) as caught:
        voc(tmp_path, marked(8) | files).load(None)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_picture_that_is_missing_is_one_line(tmp_path: Path) -> None:
    task = voc(tmp_path / "voc", marked(4))
    (tmp_path / "voc/JPEGImages/002.png").unlink()
    with pytest.raises(DataError, match=r"002\.xml: got no picture of that name in JPEGImages/; w"):
        task.load(None)
    task = coco(tmp_path / "coco", told(*map(image, range(9, 12))))
    with pytest.raises(DataError, match=r"images\[1\]: file_name: got '10\.png', which is not in "):
        task.load(None)


@pytest.mark.parametrize("kind", ["voc", "coco", "yolo"])
def test_a_folder_without_annotations_is_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"{kind}: no (folder Annotations/|train.json, .*|images/.*) in .*; want"
    ):
        Task.of({"name": kind, "path": str(tmp_path)}).load(tmp_path)


IMAGES = [image(n) for n in range(8)]


def boxed(**other: Any) -> dict[str, Any]:
    return told(*IMAGES, boxes=[{"image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4], **other}])


COCO: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", r"mine\.json: is no JSON: Expecting"),
    "too deep": ("[" * 100_000, r"mine\.json: is no JSON: maximum recursion"),
    "a number without end": ('{"images": ' + "9" * 5000 + "}", r"mine\.json: is no JSON: Exceeds"),
    "a list": ([], r"mine\.json: got list; want an object of lists$"),
    "no images": ({}, r"mine\.json: categories: got NoneType; want a list$"),
    "no object": ({**told(), "images": ["x"]}, r"images\[0\]: got str; want an object$"),
    "no id": (
        told({"file_name": "0.png", "width": 1, "height": 1}, boxes=[]),
        r"\[0\]: id: got None",
    ),
    "an id twice": (told(image(1), image(1, file_name="2.png")), r"images\[1\]: id: got 1 twice$"),
    "a name twice": (told(image(1), image(2, file_name="./1.png")), r"_name: got '1\.png' twice$"),
    "no width": (told(image(1, width=None)), r"images\[0\]: width: got None; want a whole number$"),
    "a true width": (told(image(1, width=True)), "width: got True; want a whole number$"),
    "a giant": (told(image(1, height=10**4000)), "height: got 1000.*0 pixels; want 1 to 65,536$"),
    "no name": (told(image(1, file_name=3)), "file_name: got 3; want a text$"),
    "elsewhere": (told(image(1, file_name="../mine/0.png")), "got '../mine/0.png'; want a file in"),
    "absolute": (told(image(1, file_name="/etc/passwd")), "got '/etc/passwd'; want a file in"),
    "a zero byte": (told(image(1, file_name="a\0b")), r"got 'a\\x00b'; want a file in"),
    "a long name": (told(image(1, file_name="a" * 5000)), "file_name: got 'a*'; want a file in"),
    "lines": (told(image(1, file_name="a\nb")), r"got 'a\\nb', which is not in"),
    "another picture": (
        boxed(image_id=99),
        r"annotations\[0\]: image_id: got 99, which is the id of",
    ),
    "no class": (boxed(category_id="7"), "category_id: got '7', which is the id of none$"),
    "a list for an id": (boxed(image_id=[0]), "image_id: got .0.; want a text or a whole number$"),
    "three numbers": (boxed(bbox=[1, 2, 3]), r"\[0\]: bbox: got \[1, 2, 3\]; want 4 numbers$"),
    "no numbers": (boxed(bbox=[1, 2, "3", 4]), r"bbox: got \[1, 2, '3', 4\]; want 4 numbers$"),
    "a truth": (boxed(bbox=[1, 2, True, 4]), "bbox: got .1, 2, True, 4.; want 4 numbers$"),
    "not finite": (
        boxed(bbox=[1, 2, float("nan"), 4]),
        "bbox: got .1, 2, nan, 4.; want 4 numbers$",
    ),
    "no float": (boxed(bbox=[1, 2, 10**400, 4]), "bbox: got .1, 2, 1000.*; want 4 numbers$"),
    "crowded": (boxed(iscrowd="no"), "iscrowd: got 'no'; want 0 or 1$"),
    "turned": (boxed(bbox=[9, 9, -3, 4]), "1 of 1 boxes have no area in their picture, the first"),
    "a class twice": (
        {**told(), "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": " cat"}]},
        r"categories\[1\]: name: got 'cat' twice$",
    ),
    "no boxes": (told(*IMAGES, boxes=[]), "got 0 classes to train with; want 1 to 1,000$"),
    "another size": (
        told(*IMAGES[:7], image(7, width=65)),
        r"is of \(64, 48\) pixels; want \(65, 48",
    ),
}


@pytest.mark.parametrize("case", COCO)
def test_a_coco_file_that_cannot_be_read_is_one_line(case: str, tmp_path: Path) -> None:
    what, line = COCO[case]
    with pytest.raises(DataError, match=line) as caught:
        coco(tmp_path / "mine", what).load(None)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.csv: got the suffix '\.csv'; want \.json$"):
        coco(tmp_path, told(*IMAGES), "mine.csv").load(None)


def test_the_file_may_be_named_as_the_data(tmp_path: Path) -> None:
    path = Path(coco(tmp_path, told(*IMAGES)).path)
    assert Task.of({"name": "coco", "size": 64}).shape(path)[1] == ("cat",)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(0))
    task = coco(tmp_path / "mine", told(*IMAGES[:3], image(33), image(34)))
    (tmp_path / "mine/33.png").symlink_to("0.png")  # one inside is
    (tmp_path / "mine/34.png").symlink_to(secret)
    with pytest.raises(DataError, match=r"images\[4\]: file_name: got '34\.png'; want a file in"):
        task.load(None)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    task = voc(tmp_path, marked(4))
    os.mkfifo(tmp_path / "Annotations/pipe.xml")
    os.mkfifo(tmp_path / "JPEGImages/pipe.png")
    with pytest.raises(DataError, match=r"pipe\.xml: cannot be read: is no file"):
        task.load(None)


def test_a_picture_that_blows_up_is_unreadable(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    boxes = xml(CAT, width=10_000, height=10_000)
    files = {**marked(4), "Annotations/big.xml": boxes, "JPEGImages/big.png": file.getvalue()}
    with pytest.raises(
        DataError, match=r"1 of 5 pictures cannot be read: .*big\.xml; .*decompress"
    ):
        voc(tmp_path, files).load(None)


def test_a_change_to_a_box_is_other_data(tmp_path: Path) -> None:
    task = voc(tmp_path, marked(8))
    first = task.load(None).fingerprint
    assert task.load(None).fingerprint == first
    (tmp_path / "Annotations/003.xml").write_text(xml(CAT))
    assert task.load(None).fingerprint != first


# The published set


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr(Bccd, "counts", {"train": 4, "valid": 2, "test": 3})
    monkeypatch.setattr(bccd, "SIZE", (64, 48))
    files = {}
    for number in range(9):
        box = ("RBC", 2, 4, 32, 24) if number else ("WBC", 2, 4, 32, 24)
        files[f"BCCD/Annotations/Blood_{number}.xml"] = xml(box).encode()
        files[f"BCCD/JPEGImages/Blood_{number}.jpg"] = picture(number)
    for name, numbers in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 9))):
        content = "".join(f"Blood_{number}\n" for number in numbers)
        files[f"BCCD/ImageSets/Main/{name}.txt"] = content.encode()
    return files


def packed(path: Path, files: Mapping[str, bytes], mode: Any = "w:xz") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_blood_cells_are_found_packed_and_unpacked(few: dict[str, bytes], tmp_path: Path) -> None:
    packed(tmp_path / "a/bccd-voc.tar.xz", few)
    for name, content in few.items():
        (tmp_path / "b/bccd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b/bccd" / name).write_bytes(content)
    task = Task.of({"name": "bccd", "size": 64})
    data, again = task.load(tmp_path / "a"), task.load(tmp_path / "b")
    assert data.fingerprint == again.fingerprint
    assert [len(data.train), len(data.valid), len(task.test(tmp_path / "b"))] == [4, 2, 3]
    assert data.train.y[:2, 0].tolist() == [[1, 2, 4, 32, 24, 1], [0, 2, 4, 32, 24, 1]]
    assert data.inputs.shape == (3, 64, 64)
    larger = Task.of({"name": "bccd", "size": 128}).load(tmp_path / "a")
    assert larger.train.y[0, 0].tolist() == [1, 4, 8, 64, 48, 1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"BCCD/ImageSets/Main/val.txt": b"Blood_4\n"}, "got 1 valid examples of bccd; want 2$"),
        ({"BCCD/ImageSets/Main/val.txt": None}, "got 0 valid examples of bccd; want 2$"),
        ({"BCCD/JPEGImages/Blood_5.jpg": None}, "holds no Blood_5.jpg$"),
        ({"BCCD/JPEGImages/more.jpg": b""}, "holds more than the 21 files of the data set$"),
        ({"BCCD/Annotations/Blood_7.xml": xml(CAT).encode()}, r"_7\.xml: got the class 'cat', wh"),
    ],
)
def test_blood_cells_that_are_not_as_published_are_one_line(
    change: dict[str, bytes | None], line: str, few: dict[str, bytes], tmp_path: Path
) -> None:
    files = {name: raw for name, raw in (few | change).items() if raw is not None}
    packed(tmp_path / "bccd-voc.tar.xz", files)
    with pytest.raises(DataError, match=line):
        Task.of("bccd").load(tmp_path)


def test_a_download_of_blood_cells_must_be_as_published(
    few: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {f"BCCD_Dataset-{bccd.COMMIT}/{name}": raw for name, raw in few.items()}
    raw = packed(tmp_path / "theirs.tar.gz", theirs, "w:gz").read_bytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(raw))
    with pytest.raises(DataError, match="got files of sha256"):
        Task.of("bccd").load(None)
    assert not list((tmp_path / "cache").glob("**/*.tar.gz"))
    monkeypatch.setattr(bccd, "SHA256", digest(theirs))
    assert len(Task.of("bccd").load(None).train) == 4


REAL = Path(os.environ.get("AUTOML_DATA") or "/nowhere")


@pytest.mark.skipif(  # the photographs are no part of the project, whose tests pass without them
    not (REAL / "bccd").is_dir(), reason="AUTOML_DATA names no folder with the real data sets"
)
def test_blood_cells_are_blood_cells(caplog: pytest.LogCaptureFixture) -> None:
    task = Bccd()
    data, test = task.load(REAL), task.test(REAL)
    counts = [occurring(split.y, 3).sum(0).tolist() for split in (data.train, data.valid, test)]
    assert counts == [[2381, 214, 209], [967, 87, 83], [805, 71, 69]]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # two without area
    assert data.inputs.shape == (3, 256, 320)
    assert data.train.y[..., 1:5].max() == 320
    found = task._files(REAL / "bccd/bccd-voc.tar.xz")
    assert digest(found) == bccd.SHA256
