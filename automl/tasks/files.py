"""What tasks share that read the user's own tables: a file, or a folder with one for each part."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from automl.errors import DataError
from automl.tasks.folders import SPLITS
from automl.tasks.source import SPELLED, elsewhere, sought

log = logging.getLogger("automl")

ENCODING = "of files without a byte order mark, such as Excel's Unicode text has"


def passed_over(
    task: str, named: str, root: Path | None, parts: dict[str, Path], suffixes: Sequence[str]
) -> None:
    """Says so where other tables lie beside, or these lie in the working folder."""
    train, given = parts["train"], Path(named)
    place = root / given if root else given
    elsewhere(task, root, given, place if place in (train, train.parent) else given)
    for path in _others([*parts.values()], suffixes):
        want = "of a folder train, valid and test are read"
        log.warning("%s: passing over the file: %s", path, want)


def parts(task: str, named: str, root: Path | None, suffixes: Sequence[str]) -> dict[str, Path]:
    """Part to file, of those that exist. Raises DataError."""
    places = sought(task, named, root)
    for place in places:
        if place.is_file():
            if place.suffix.lower() not in suffixes:
                got = f"got the suffix {place.suffix!r}"
                raise DataError(f"{place}: {got}; want {', '.join(suffixes)}")
            return {"train": place}
        found: dict[str, Path] = {}
        for part, names in SPELLED.items():
            files = [place / f"{name}{suffix}" for name in names for suffix in suffixes]
            files = [file for file in files if file.is_file()]
            if len(files) > 1:
                told = f"holds both {files[0].name} and {files[1].name}"
                raise DataError(f"{place}: {told}; want one of them")
            found.update((part, file) for file in files)
        if "train" in found:
            return found
    *some, last = (f"train{suffix}" for suffix in suffixes)
    raise DataError(
        f"{task}: no {', '.join(some)} or {last} in {' or '.join(map(str, places))}; "
        "want one there, or a file with --data"
    )


def _others(read: Collection[Path], suffixes: Sequence[str]) -> list[Path]:
    """Tables beside train.csv that are taken for a split by their names, and are not read."""
    names = {path.name for path in read}
    beside = [path for train in read if train.stem == "train" for path in train.parent.iterdir()]
    tables = sorted(path for path in beside if path.suffix.lower() in suffixes)
    lower = {path: path.name.lower() for path in tables}
    return [path for path in tables if lower[path].startswith(SPLITS) and lower[path] not in names]
