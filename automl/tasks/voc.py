"""The user's own pictures with boxes, as Pascal VOC has them."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Literal

from pydantic import Field

from automl.errors import DataError
from automl.tasks.annotations import (
    LISTS,
    Marked,
    MarkedTask,
    Picture,
    content,
    listed,
    visible,
    voc,
)
from automl.tasks.images import SUFFIXES
from automl.tasks.source import sought, text, traces

log = logging.getLogger("automl")


class Voc(MarkedTask):
    """`path/Annotations/*.xml`, with pictures of the same names in `path/JPEGImages/`.

    Which are to train, to validate and to test is told by `path/ImageSets/Main/train.txt`,
    `val.txt` and `test.txt`, a name a line. Where there is no `train.txt` all that are in no other
    list are to train. Where there is no `val.txt` a share of the training pictures takes its place.
    Where there is no `test.txt`, 15 % of them, drawn once with seed 0 whatever `split_seed` says,
    are the test split. Objects that are `difficult` do not count.
    """

    name: Literal["voc"] = "voc"
    path: str = Field(
        ".",
        min_length=1,
        description="the folder with Annotations/; relative to --data or to the working folder",
    )

    def marked(self, root: Path | None) -> Marked:
        place = self._place(root)
        files = _files(place)
        return Marked(place, place, _parts(place, json.dumps(traces(files))), files)

    def _place(self, root: Path | None) -> Path:
        places = sought(self.name, self.path, root)
        for place in places:
            if (place / "Annotations").is_dir():
                return place
        told = " or ".join(map(str, places))
        raise DataError(f"{self.name}: no folder Annotations/ in {told}; want Annotations/*.xml")


@functools.lru_cache(maxsize=2)  # asked for often, and it takes reading all files
def _parts(place: Path, _changed: str) -> dict[str, list[Picture]]:
    pictures = dict[str, Path]()
    for path in visible(place / "JPEGImages", SUFFIXES):
        if path.stem in pictures:
            both = f"{pictures[path.stem].name} and {path.name}"
            raise DataError(f"{path.parent}: got both {both}; want one picture of a name")
        pictures[path.stem] = path
    told = dict[str, Picture]()
    for path in visible(place / "Annotations", (".xml",)):
        if path.stem not in pictures:
            want = f"want {path.stem}{SUFFIXES[0]}, or {', '.join(SUFFIXES[1:])}"
            raise DataError(f"{path}: got no picture of that name in JPEGImages/; {want}")
        told[path.stem] = voc(str(path), content(path), pictures[path.stem])
    if over := sorted(pictures.keys() - told.keys()):
        passed = f"{place}: passing over {len(over):,} of {len(pictures):,} pictures"
        first = pictures[over[0]].name
        log.warning("%s, of which Annotations/ tells nothing, the first: %s", passed, first)
    lists = {}
    for part, path in _lists(place).items():
        lists[part] = text(path.parent, path.name, content(path))
    return listed(place, told, lists)


def _files(place: Path) -> list[Path]:
    """All that is read."""
    annotations = visible(place / "Annotations", (".xml",))
    return [*annotations, *visible(place / "JPEGImages", SUFFIXES), *_lists(place).values()]


def _lists(place: Path) -> dict[str, Path]:
    files = {part: place / f"ImageSets/Main/{name}.txt" for part, name in LISTS.items()}
    return {part: path for part, path in files.items() if path.exists()}
