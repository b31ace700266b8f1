"""What tasks share that read the user's own files, one folder a class."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from automl.data import Split
from automl.errors import DataError
from automl.tasks.source import Parts, sought, with_test

log = logging.getLogger("automl")

SPLITS = ("val", "dev", "eval", "test")  # so begin names of folders that are taken for a split


def home(task: str, path: str, root: Path | None, want: str) -> Path:
    """The folder that holds train/; a path counts from the data folder or the working folder."""
    places = sought(task, path, root)
    for place in places:
        if (place / "train").is_dir():
            return place
    raise DataError(
        f"{task}: no folder train/ in {' or '.join(str(p) for p in places)}; "
        f"want train/<class>/<{want}>"
    )


def labels(place: Path) -> tuple[str, ...]:
    """The classes, at least two, as the folders of train/ name them."""
    found = tuple(folder.name for folder in _classes(place / "train"))
    if len(found) < 2:
        raise DataError(f"{place / 'train'}: got {len(found)} class folders; want at least 2")
    for name in found:
        if name != name.encode("utf-8", "replace").decode():  # no file could hold such a label
            raise DataError(f"{place / 'train'}: got the class folder {name!r}; want UTF-8 names")
    return found


def parts(place: Path) -> dict[str, str]:
    """Part to folder, of those that exist."""
    found = [name for name in ("valid", "val", "test") if (place / name).is_dir()]
    if {"valid", "val"} <= set(found):
        raise DataError(f"{place}: holds both valid/ and val/; want one of them")
    return {"train": "train"} | {"valid" if name == "val" else name: name for name in found}


def listed(place: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    """All files of these kinds, sorted, by `<folder>/<class>/<name>`; says what else lies there."""
    known, over = labels(place), list[Path]()
    files: dict[str, Path] = {}
    for folder in parts(place).values():
        classes = _classes(place / folder)
        loose = [path for path in _visible(place / folder) if not path.is_dir()]
        over += [path for path in loose if path.suffix.lower() in suffixes]
        if not classes:
            want = f"want {folder}/<class>/, or no {folder}/"
            raise DataError(f"{place / folder}: got no class folders; {want}")
        for label in classes:
            if label.name not in known:
                raise DataError(
                    f"{label}: class {label.name!r} is not in train/, which has {', '.join(known)}"
                )
            held = _visible(label)
            found = [path for path in held if path.suffix.lower() in suffixes]
            over += [path for path in held if path.suffix.lower() not in suffixes]
            if not found:
                raise DataError(f"{label}: holds no {what}; want {' '.join(suffixes)}")
            files |= {f"{folder}/{label.name}/{path.name}": path for path in found}
    if over:
        told = f"{place}: passing over {len(over):,} of {len(over) + len(files):,} entries"
        want = f"{' '.join(suffixes)} in folders of classes"
        log.warning("%s, the first: %s; want %s", told, over[0], want)
    for path in _classes(place):
        name = path.name.lower()
        if name.startswith(SPLITS) and name not in parts(place).values():
            log.warning("%s: passing over the folder; want it called valid/ or test/", path)
    return files


def splits(
    place: Path,
    parts: Mapping[str, str],
    labels: Sequence[str],
    names: Iterable[str],
    x: Tensor,
    readable: Tensor,
    groups: Tensor | None = None,
) -> Parts:
    """Examples by part. `names` and `groups` are of all files `listed`, `x` of the `readable`."""
    paths = [name.split("/") for name in names]
    numbers = {label: number for number, label in enumerate(labels)}
    y = torch.tensor([numbers[label] for _, label, _ in paths])[readable]
    whole = Split(x, y, None if groups is None else groups[readable])
    made = {}
    for part, folder in parts.items():
        made[part] = whole[torch.tensor([first == folder for first, _, _ in paths])[readable]]
    return with_test(place, made, labels)


def _classes(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    """What lies there and is not hidden, sorted. Raises DataError."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
