"""Boxes that people drew in pictures, to splits: VOC's XML, COCO's JSON and YOLO's lines.

Such files are a stranger's: all that is read is checked here. Knows no models and no terminal.
"""

from __future__ import annotations

import json
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import torch
import yaml
from pydantic import Field
from torch import Tensor

from automl.boxes import PADDING
from automl.config import nearest
from automl.data import Split
from automl.errors import DataError
from automl.inputs.canvas import STEP, Canvas, fitting, framed, upright
from automl.inputs.images import UNREADABLE, looking
from automl.places import regular
from automl.tasks.boxes import BoxTask, held_out
from automl.tasks.source import (
    PURPOSES,
    TEST,
    Parts,
    Source,
    elsewhere,
    readable,
    repeated,
    traces,
)

log = logging.getLogger("automl")

SIDE = 2**16  # pixels of a picture, at most
# bytes of a file
LARGEST = {".xml": 2**20, ".txt": 2**26, ".json": 2**29, ".yaml": 2**18, ".names": 2**18}
BOXES = 1000  # of a picture, and classes of a data set, at most
LISTS = {"train": "train", "valid": "val", "test": "test"}  # of names in VOC's ImageSets/Main
CORNERS = ("xmin", "ymin", "xmax", "ymax")
BAD = 0.01  # share of the boxes that may be of no use

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture
Box = tuple[str, Corners, bool]  # label, and whether it counts


@dataclass(frozen=True)
class Picture:
    """A picture, not read yet, and what is marked in it."""

    where: str  # it is told of, for messages
    file: bytes | Path
    size: tuple[int, int]  # width and height
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Marked:
    """Pictures of a user as they were found."""

    place: Path  # the folder, or the file
    named: Path  # where their classes are from, for messages
    parts: dict[str, list[Picture]]
    files: list[Path]  # all that is read


class MarkedTask(BoxTask):
    """A user's own pictures with boxes."""

    path: str = Field(
        ".", min_length=1, description="the folder; relative to --data or to the working folder"
    )

    @abstractmethod
    def marked(self, root: Path | None) -> Marked:
        """What is told of the pictures, which are not read yet. Raises DataError."""

    def shape(self, root: Path | None) -> tuple[Canvas, tuple[str, ...]]:
        return self._shape(self.marked(root))

    def source(self, root: Path | None) -> Source:
        found = self.marked(root)
        elsewhere(self.name, root, Path(self.path), found.place)
        inputs, known = self._shape(found)
        return Source(
            [inputs.shape, traces(found.files)],
            lambda: splits(found.place, found.parts, known, inputs.shape),
        )

    def _shape(self, found: Marked) -> tuple[Canvas, tuple[str, ...]]:
        sizes = [picture.size for part in found.parts.values() for picture in part]
        return Canvas(canvas(self.size, sizes)), labels(found.named, found.parts["train"])


def voc(where: str, raw: bytes, file: bytes | Path) -> Picture:
    """What an XML file of VOC (Everingham et al. 2010) tells of a picture. Raises DataError.

    Numbers are taken for pixels as they are. What is `difficult` does not count. Of all that the
    file says of names and folders nothing is believed.
    """
    top = _xml(where, raw)
    if top.tag != "annotation":
        raise DataError(f"{where}: got <{top.tag[:60]}>; want <annotation>")
    size = tuple(_number(where, top, f"size/{side}") for side in ("width", "height"))
    boxes = list[Box]()
    for number, each in enumerate(top.findall("object"), 1):
        here = f"{where}: object {number:,}"
        x1, y1, x2, y2 = (_number(here, each, f"bndbox/{c}") for c in CORNERS)
        hard = "0" if each.find("difficult") is None else _text(here, each, "difficult")
        if hard not in ("0", "1"):
            raise DataError(f"{here}: difficult: got {hard[:60]!r}; want 0 or 1")
        boxes.append((_label(here, _text(here, each, "name")), (x1, y1, x2, y2), hard == "0"))
    return _picture(where, file, size, boxes)


def listed(
    place: Path, told: Mapping[str, Picture], lists: Mapping[str, str]
) -> dict[str, list[Picture]]:
    """The pictures of each part, from what is told of each and the lists of their names."""
    parts = dict[str, list[Picture]]()
    taken = dict[str, str]()
    for part, file in ((part, file) for part, file in LISTS.items() if part in lists):
        parts[part] = []
        for line, name in enumerate(map(str.strip, lists[part].splitlines()), 1):
            where = f"{place}: ImageSets/Main/{file}.txt:{line}"
            if not name:
                continue
            if name not in told:
                got = f"got {name[:60]!r}, of which Annotations/ tells nothing"
                raise DataError(f"{where}: {got}{nearest(name, told)}")
            if name in taken:
                raise DataError(f"{where}: got {name!r}, which is in {taken[name]}.txt, too")
            taken[name] = file
            parts[part].append(told[name])
    over = [name for name in told if name not in taken]
    if "train" not in parts:
        parts = {"train": [told[name] for name in over], **parts}
    elif over:
        passed = f"{place}: passing over {len(over):,} of {len(told):,} pictures"
        log.warning("%s that are in no list, the first: %s", passed, over[0])
    if not parts["train"]:
        raise DataError(f"{place}: got no pictures to train with; want 1 at least")
    return parts


def coco(path: Path, folder: Path) -> list[Picture]:
    """What a JSON file of COCO (Lin et al. 2014) tells of the pictures in a folder, all of them.

    A box is x, y, width and height there. What is `iscrowd` does not count. Raises DataError.
    """
    told = _json(path)
    names = dict[int | str, str]()
    for where, each in _listed(path, told, "categories"):
        label = _label(where, _field(where, each, "name", str))
        if label in names.values():
            raise DataError(f"{where}: name: got {label!r} twice")
        _new(where, names, _field(where, each, "id", int | str), label)

    images = dict[int | str, tuple[str, Path, tuple[int, int]]]()
    seen = set[Path]()
    for where, each in _listed(path, told, "images"):
        file = _inside(where, folder, _field(where, each, "file_name", str))
        if file in seen:
            raise DataError(f"{where}: file_name: got {file.name[:60]!r} twice")
        seen.add(file)
        size = _field(where, each, "width", int), _field(where, each, "height", int)
        _new(where, images, _field(where, each, "id", int | str), (where, file, size))

    boxes: dict[int | str, list[Box]] = {key: [] for key in images}
    for where, each in _listed(path, told, "annotations"):
        image = _known(where, "image_id", _field(where, each, "image_id", int | str), boxes)
        label = _known(where, "category_id", _field(where, each, "category_id", int | str), names)
        box = each.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
            raise DataError(f"{where}: bbox: got {_said(box)}; want 4 numbers")
        if each.get("iscrowd", 0) not in (0, 1):
            raise DataError(f"{where}: iscrowd: got {_said(each['iscrowd'])}; want 0 or 1")
        x, y, width, height = map(float, box)
        image.append((label, (x, y, x + width, y + height), not each.get("iscrowd", 0)))
    return [_picture(*images[key], boxes[key]) for key in images]


def yolo(where: str, lines: str, file: Path, names: Mapping[int, str] | None) -> Picture:
    """What a text file of YOLO tells of a picture: a line for each box, see `Yolo`.

    Classes that have no `names` are called by their numbers. Raises DataError, and one of
    UNREADABLE where the picture is.
    """
    width, height = upright(file)
    boxes = list[Box]()
    for line, cells in enumerate(map(str.split, lines.splitlines()), 1):
        if not cells:
            continue
        here = f"{where}:{line}"
        outline = len(cells) >= 7 and len(cells) % 2
        if len(cells) != 5 and not outline:
            want = "want 5, or 7, 9 and so on of an outline"
            raise DataError(f"{here}: got {len(cells)} cells; {want}")
        try:
            number, told = int(cells[0]), [float(cell) for cell in cells[1:]]
        except ValueError as error:
            raise DataError(f"{here}: {str(error)[:100]}; want a class and numbers") from error
        if not all(map(math.isfinite, told)):
            raise DataError(f"{here}: got {' '.join(cells)[:60]!r}; want finite numbers")
        if number < 0 or (names is not None and number not in names):
            raise DataError(f"{here}: got the class {cells[0][:60]}, which has no name")
        if outline:
            x1, x2, y1, y2 = min(told[::2]), max(told[::2]), min(told[1::2]), max(told[1::2])
        else:
            x, y, w, h = told
            x1, x2, y1, y2 = x - w / 2, x + w / 2, y - h / 2, y + h / 2
        label = str(number) if names is None else names[number]
        boxes.append((label, (x1 * width, y1 * height, x2 * width, y2 * height), True))
    return _picture(where, file, (width, height), boxes)


def classes(path: Path, told: str) -> dict[int, str]:
    """The names of classes by number: lines of a text, or `names` of YAML. Raises DataError."""
    if path.suffix != ".yaml":
        lines = [line.strip() for line in told.splitlines()]
        pairs = [(number, name) for number, name in enumerate(lines) if name]
    else:
        pairs = _named(path, told)
    names = {number: _label(f"{path}: class {number}", name) for number, name in pairs}
    if len({*names.values()}) < len(pairs):
        raise DataError(f"{path}: got a class or a name twice; want each once")
    return names


def _named(path: Path, told: str) -> list[tuple[int, str]]:
    """`names` of a YAML file, a list or a mapping, of which nothing else is made."""
    try:
        top = yaml.compose(told, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())[:100]
        raise DataError(f"{path}: is no YAML: {line}") from error
    held = top.value if isinstance(top, yaml.MappingNode) else []
    names = next((value for key, value in held if key.value == "names"), None)
    if isinstance(names, yaml.SequenceNode):
        pairs = [(str(number), node) for number, node in enumerate(names.value)]
    elif isinstance(names, yaml.MappingNode):
        pairs = [(str(key.value), node) for key, node in names.value]
    else:
        raise DataError(f"{path}: got no names of classes; want names: [...]")
    for number, node in pairs:
        if not number.isdecimal() or not isinstance(node, yaml.ScalarNode):
            raise DataError(f"{path}: names: {number[:60]!r}: want a number and its name")
    return [(int(number), node.value) for number, node in pairs]


def visible(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of these kinds that are not hidden, sorted. Raises DataError."""
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted(path for path in found if not path.name.startswith("."))


def content(path: Path) -> bytes:
    """A file of one of these kinds. Raises DataError."""
    most = LARGEST[path.suffix.lower()]
    try:
        with regular(path).open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > most:
        raise DataError(f"{path}: got more than {most:,} bytes; want {most:,} at most")
    return raw


def labels(place: Path, pictures: Iterable[Picture]) -> tuple[str, ...]:
    """The classes of what is marked in the pictures to train with, sorted. Raises DataError."""
    found = {label for picture in pictures for label, _, _ in picture.boxes}
    if not 1 <= len(found) <= BOXES:
        raise DataError(f"{place}: got {len(found):,} classes to train with; want 1 to {BOXES:,}")
    return tuple(sorted(found))


def canvas(size: int, pictures: Iterable[tuple[int, int]]) -> tuple[int, int, int]:
    """C, H, W of the smallest canvas on which each of these sizes is `size` pixels long."""
    side = _up(size)
    ends = [(side * w / max(w, h), side * h / max(w, h)) for w, h in pictures]
    width, height = (_up(max(1, round(max(sides)))) for sides in zip(*ends, strict=True))
    return 3, height, width


def splits(
    place: Path,
    parts: Mapping[str, Sequence[Picture]],
    labels: Sequence[str],
    shape: tuple[int, int, int],
) -> Parts:
    """The pictures of each part on a canvas with their boxes; 15 % to test where no part is.

    A box is cut where the picture ends. One that has no area there is of no use, which one in a
    hundred may be, as one in a hundred pictures may be unreadable. Raises DataError.
    """
    whole = [picture for part in parts.values() for picture in part]
    odd = {label for picture in whole for label, _, _ in picture.boxes} - {*labels}
    for picture in whole:
        for label, _, _ in picture.boxes:
            if label in odd:
                told = f"got the class {label!r}, which is not among those to train with"
                raise DataError(f"{picture.where}: {told}{nearest(label, labels)}")
    _useless(place, whole)

    x = torch.empty((len(whole), *shape), dtype=torch.uint8)
    with looking():
        given = {picture.where: picture for picture in whole}
        threads = os.cpu_count() or 1
        x, fine = readable(
            place, "pictures", given, x, lambda one: _drawn(one, shape), UNREADABLE, threads
        )
    numbers = {label: float(number) for number, label in enumerate(labels)}
    rows = [_rows(picture, numbers, shape) for picture in whole]
    of = torch.tensor([number for number, part in enumerate(parts.values()) for _ in part])
    made = Parts()
    for number, part in enumerate(parts):
        mine = (fine & (of == number)).nonzero().flatten().tolist()
        if not mine:
            raise DataError(
                f"{place}: got no readable picture to {PURPOSES[part]}; want 1 at least"
            )
        most = max(1, *(len(rows[one]) for one in mine))
        y = torch.full((len(mine), most, 6), float(PADDING))
        for row, one in enumerate(mine):
            y[row, : len(rows[one])] = rows[one]
        made[part] = Split(x[of[fine] == number], y)
    if "test" not in made:
        made["train"], made["test"] = held_out(made["train"], TEST, 0)
    repeated(place, made)
    return made


def _drawn(picture: Picture, shape: tuple[int, int, int]) -> Tensor:
    x, size = framed(picture.file, shape)
    if size != picture.size:
        raise ValueError(f"is of {size} pixels; want {picture.size}, for which its boxes are told")
    return x


def _rows(picture: Picture, numbers: Mapping[str, float], shape: tuple[int, int, int]) -> Tensor:
    """float32 (boxes, 6) in pixels of the canvas: label, x1, y1, x2, y2, whether it counts."""
    share = [
        now / was for now, was in zip(fitting(*picture.size, shape), picture.size, strict=True)
    ]
    return torch.tensor(
        [
            [numbers[label], *(c * s for c, s in zip(corners, share * 2, strict=True)), counts]
            for label, box, counts in picture.boxes
            if (corners := _cut(picture, box))
        ]
    ).view(-1, 6)


def _cut(picture: Picture, box: Corners) -> Corners | None:
    """What of a box lies in the picture, if any of it does."""
    (width, height), (x1, y1, x2, y2) = picture.size, box
    x1, y1, x2, y2 = max(0.0, x1), max(0.0, y1), min(width, x2), min(height, y2)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _useless(place: Path, pictures: Sequence[Picture]) -> None:
    """Counts in one line of the log the boxes without any area. Raises DataError where many are."""
    bad = [
        (picture.where, box)
        for picture in pictures
        for _, box, _ in picture.boxes
        if not _cut(picture, box)
    ]
    count = sum(len(picture.boxes) for picture in pictures)
    if not bad:
        return
    where, box = bad[0]
    told = f"{place}: {len(bad):,} of {count:,} boxes have no area in their picture, the first in "
    told += f"{where}: x {box[0]:g} to {box[2]:g}, y {box[1]:g} to {box[3]:g}"
    if len(bad) > BAD * count:
        raise DataError(f"{told}; want at most {BAD:.0%}")
    log.warning("%s; going on without them", told)


def _picture(
    where: str,
    file: bytes | Path,
    size: Sequence[float],
    boxes: Sequence[Box],
) -> Picture:
    for name, side in zip(("width", "height"), size, strict=True):
        if not (1 <= side <= SIDE and side == int(side)):
            raise DataError(f"{where}: {name}: got {_said(side)} pixels; want 1 to {SIDE:,}")
    if len(boxes) > BOXES:
        raise DataError(f"{where}: got {len(boxes):,} boxes in one picture; want {BOXES:,} at most")
    width, height = map(int, size)
    return Picture(where, file, (width, height), tuple(boxes))


def _label(where: str, name: str) -> str:
    label = " ".join(name.encode("utf-8", "replace").decode().split())
    if not label or len(label) > 100 or not label.isprintable():
        raise DataError(f"{where}: name: got {name[:60]!r}; want 1 to 100 letters")
    return label


def _up(pixels: int) -> int:
    return -(-pixels // STEP) * STEP


# XML


def _xml(where: str, raw: bytes) -> Element:
    """What the file says; with a document type, which may name other files or blow up, nothing."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refused(*_: object) -> None:
        raise DataError(f"{where}: got a DOCTYPE; want XML without one")

    parser.StartDoctypeDeclHandler = refused  # entities can be declared nowhere else
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{where}: is no XML: {error}") from error
    return builder.close()


def _text(where: str, element: Element, path: str) -> str:
    told = (element.findtext(path) or "").strip()
    if not told:
        raise DataError(f"{where}: got no {path}")
    return told


def _number(where: str, element: Element, path: str) -> float:
    written = _text(where, element, path)
    try:
        number = float(written)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: {path}: got {written[:60]!r}; want a number")
    return number


# JSON


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(content(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {str(error)[:100]}") from error
    if not isinstance(told, dict):
        raise DataError(f"{path}: got {type(told).__name__}; want an object of lists")
    return told


def _listed(path: Path, told: dict[str, Any], name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    found = told.get(name)
    if not isinstance(found, list):
        raise DataError(f"{path}: {name}: got {type(found).__name__}; want a list")
    for number, each in enumerate(found):
        if not isinstance(each, dict):
            got = type(each).__name__
            raise DataError(f"{path}: {name}[{number}]: got {got}; want an object")
        yield f"{path}: {name}[{number}]", each


def _field(where: str, each: dict[str, Any], name: str, kind: Any) -> Any:
    value = each.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        want = {str: "a text", int: "a whole number"}.get(kind, "a text or a whole number")
        raise DataError(f"{where}: {name}: got {_said(value)}; want {want}")
    return value


def _new(where: str, held: dict[Any, Any], key: object, value: object) -> None:
    if key in held:
        raise DataError(f"{where}: id: got {_said(key)} twice")
    held[key] = value


def _known(where: str, name: str, key: Any, held: Mapping[Any, Any]) -> Any:
    if key not in held:
        raise DataError(f"{where}: {name}: got {_said(key)}, which is the id of none")
    return held[key]


def _said(value: object) -> str:
    try:
        return repr(value)[:60]
    except RecursionError:
        return type(value).__name__


def _finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _inside(where: str, folder: Path, name: str) -> Path:
    """The file of that name in the folder or below it; never one elsewhere."""
    path = PurePosixPath(name)
    try:
        told = folder / path
        fine = not path.is_absolute() and ".." not in path.parts and path.name
        if fine and told.resolve().is_relative_to(folder.resolve()):
            if told.exists():
                return told
            raise DataError(f"{where}: file_name: got {name[:60]!r}, which is not in {folder}")
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a ring
        pass
    raise DataError(f"{where}: file_name: got {name[:60]!r}; want a file in {folder}")
