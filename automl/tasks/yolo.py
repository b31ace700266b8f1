"""The user's own pictures with boxes, as YOLO has them."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Literal

from automl.errors import DataError
from automl.inputs.images import UNREADABLE, looking
from automl.tasks.annotations import (
    BAD,
    Marked,
    MarkedTask,
    Picture,
    classes,
    content,
    visible,
    yolo,
)
from automl.tasks.images import SUFFIXES
from automl.tasks.source import SPELLED, sought, text, traces

log = logging.getLogger("automl")

NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")  # files with those of classes

Folders = tuple[Path, Path]  # of pictures, and of the text files that tell of them


class Yolo(MarkedTask):
    """Pictures, and for each a text file of the same name with a line for each box.

    A line has the number of the class, then the middle of the box, its width and its height in
    shares of those of the picture; or, in the place of the box, the corners of an outline around
    which it is drawn. A picture without a file has nothing in it. `path` is a folder with
    `images/train/` and `labels/train/`, with `train/images/` and `train/labels/`, with `images/`
    and `labels/` alone, or with all side by side; the names of the classes are in `data.yaml`, of
    which nothing else is read, or in `classes.txt`. Where there is no part to validate (`valid` or
    `val`) a share of the training pictures takes its place. Where there is none to test, 15 % of
    them, drawn once with seed 0 whatever `split_seed` says, are the test split.
    """

    name: Literal["yolo"] = "yolo"

    def marked(self, root: Path | None) -> Marked:
        place, folders = self._folders(root)
        files = _files(place, folders)
        parts = _read(place, tuple(folders.items()), json.dumps(traces(files)))
        return Marked(place, place, parts, files)

    def _folders(self, root: Path | None) -> tuple[Path, dict[str, Folders]]:
        """What was found, and of each part the folders."""
        places = sought(self.name, self.path, root)
        for place in places:
            if "train" in (found := _found(place)):
                return place, found
        told = " or ".join(map(str, places))
        raise DataError(
            f"{self.name}: no images/train/, train/images/ or images/ in {told}; want one, and "
            "labels beside it"
        )


def _found(place: Path) -> dict[str, Folders]:
    """Of each part the folders."""
    parts = dict[str, Folders]()
    for part, names in SPELLED.items():
        found = list[Folders]()
        for name in names:
            known = [place / name / "images", *sorted(place.glob(f"images/{name}*"))]
            found += [
                (images, _beside(place, images))
                for images in known
                if images.is_dir() and images.name.rstrip("0123456789") in (name, "images")
            ]
        if len(found) > 1:
            told = " and ".join(str(images.relative_to(place)) for images, _ in found[:2])
            raise DataError(f"{place}: holds both {told}; want one of them")
        parts |= {part: found[0]} if found else {}
    if not parts and (place / "images").is_dir():
        parts["train"] = place / "images", place / "labels"
    elif not parts and (place / "classes.txt").is_file():
        parts["train"] = place, place
    return parts


def _beside(place: Path, images: Path) -> Path:
    """The folder that tells of one of pictures: the last `images` of its path is `labels` there."""
    inside = images.relative_to(place).parts
    return place.joinpath(*("labels" if part == "images" else part for part in inside))


def _files(place: Path, folders: dict[str, Folders]) -> list[Path]:
    """All that is read."""
    names = [place / name for name in NAMES if (place / name).exists()]
    for images, told in folders.values():
        names += [*visible(images, SUFFIXES), *(visible(told, (".txt",)) if told.exists() else [])]
    return names


@functools.lru_cache(maxsize=2)  # asked for often, and it takes reading all files
def _read(
    place: Path, folders: tuple[tuple[str, Folders], ...], _changed: str
) -> dict[str, list[Picture]]:
    found = [place / name for name in NAMES if (place / name).exists()]
    names = classes(found[0], text(place, found[0].name, content(found[0]))) if found else None
    return {part: _told(*each, names) for part, each in folders}


def _told(images: Path, folder: Path, names: dict[int, str] | None) -> list[Picture]:
    """The pictures of a part. Raises DataError."""
    told = {path.stem: path for path in visible(folder, (".txt",)) if path.name not in NAMES}
    pictures, seen = list[Picture](), set[str]()
    bare, odd = list[str](), list[str]()
    with looking():
        for path in visible(images, SUFFIXES):
            if path.stem in seen:
                raise DataError(f"{images}: got several pictures called {path.stem!r}; want one")
            seen.add(path.stem)
            file = told.get(path.stem)
            bare += [] if file else [path.name]
            lines = text(file.parent, file.name, content(file)) if file else ""
            try:
                pictures.append(yolo(str(file or path), lines, path, names))
            except UNREADABLE as error:
                odd.append(f"{path.name}: {str(error)[:100]}")
    if over := sorted(told.keys() - seen):
        want = f"want {over[0]}{SUFFIXES[0]}, or {', '.join(SUFFIXES[1:])}"
        raise DataError(f"{told[over[0]]}: got no picture of that name in {images}; {want}")
    if odd:
        count = f"{images}: {len(odd):,} of {len(seen):,} pictures cannot be read, the first: "
        if len(odd) > BAD * len(seen):
            raise DataError(f"{count}{odd[0]}; want at most {BAD:.0%}")
        log.warning("%s%s; going on without them", count, odd[0])
    if bare:
        count = f"{images}: {len(bare):,} of {len(seen):,} pictures have no file in {folder.name}/"
        log.warning("%s, so that nothing is in them, the first: %s", count, bare[0])
    return pictures
