"""The user's own pictures with boxes, as COCO has them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from automl.errors import DataError
from automl.tasks.annotations import Marked, MarkedTask, Picture, coco
from automl.tasks.source import SPELLED, sought, traces


class Coco(MarkedTask):
    """A JSON file of COCO and a folder of pictures, or such files for each part.

    `path` is the file, with its pictures in `images/` beside it or beside it themselves. Or it is a
    folder with `train.json` and, if you have them, `valid.json` and `test.json`, and all pictures
    in `images/`; with `train/_annotations.coco.json` and so on, each with its pictures beside it;
    or with `annotations/instances_train2017.json` and `train2017/`, whatever the year. Where there
    is no part to validate a share of the training pictures takes its place. Where there is none to
    test, 15 % of them, drawn once with seed 0 whatever `split_seed` says, are the test split. What
    is `iscrowd` does not count.
    """

    name: Literal["coco"] = "coco"
    path: str = Field(
        ".",
        min_length=1,
        description="the file or the folder; relative to --data or to the working folder",
    )

    def marked(self, root: Path | None) -> Marked:
        place, files = self._files(root)
        parts = _read(files)
        pictures = [one.file for part in parts.values() for one in part]
        paths = [path for path, _ in files.values()] + [p for p in pictures if isinstance(p, Path)]
        return Marked(place, files["train"][0], parts, paths)

    def _files(self, root: Path | None) -> tuple[Path, dict[str, tuple[Path, Path]]]:
        """What was found, and of each part the file and the folder of its pictures."""
        places = sought(self.name, self.path, root)
        for place in places:
            if place.is_file():
                if place.suffix.lower() != ".json":
                    raise DataError(f"{place}: got the suffix {place.suffix!r}; want .json")
                beside = place.parent / "images"
                return place, {"train": (place, beside if beside.is_dir() else place.parent)}
            if "train" in (found := _found(place)):
                return place, found
        told = " or ".join(map(str, places))
        raise DataError(
            f"{self.name}: no train.json, train/_annotations.coco.json or "
            f"annotations/instances_train2017.json in {told}; want one, or a file in task.path"
        )


def _found(place: Path) -> dict[str, tuple[Path, Path]]:
    """Of each part that lies in a folder the file and the folder of its pictures."""
    parts = dict[str, tuple[Path, Path]]()
    for part, names in SPELLED.items():
        found = list[tuple[Path, Path]]()
        for name in names:
            known = [
                (place / f"{name}.json", place / "images"),
                (place / name / "_annotations.coco.json", place / name),
            ]
            found += [each for each in known if each[0].is_file()]
            for path in sorted(place.glob(f"annotations/instances_{name}[0-9]*.json")):
                found.append((path, place / path.stem.removeprefix("instances_")))
        if len(found) > 1:
            told = " and ".join(str(path.relative_to(place)) for path, _ in found[:2])
            raise DataError(f"{place}: holds both {told}; want one of them")
        parts |= {part: found[0]} if found else {}
    return parts


def _read(files: dict[str, tuple[Path, Path]]) -> dict[str, list[Picture]]:
    told = {part: _told(*each, json.dumps(traces([each[0]]))) for part, each in files.items()}
    taken = dict[Path | bytes, str]()
    for part in told:
        for picture in told[part]:
            if picture.file in taken:
                raise DataError(
                    f"{picture.where}: file_name: got a picture of {taken[picture.file]}, too"
                )
            taken[picture.file] = files[part][0].name
    return told


@functools.lru_cache(maxsize=3)  # asked for often, and it takes reading the whole file
def _told(path: Path, folder: Path, _changed: str) -> list[Picture]:
    return coco(path, folder)
