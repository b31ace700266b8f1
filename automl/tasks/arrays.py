"""The user's own images as arrays, in an .npz file as NumPy, Keras and MedMNIST write it."""

from __future__ import annotations

import functools
import json
import logging
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from automl.data import Split
from automl.errors import DataError
from automl.inputs.images import Images, levels
from automl.tasks.images import ImageTask
from automl.tasks.source import Parts, Source, elsewhere, one_file, traces, with_test

NAMES = {  # of images and of their classes, as they are written
    "train": [("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels")],
    "valid": [("x_valid", "y_valid"), ("x_val", "y_val"), ("val_images", "val_labels")],
    "test": [("x_test", "y_test"), ("test_images", "test_labels")],
}
KNOWN = [name for spelled in NAMES.values() for names in spelled for name in names]
LARGEST = 2**33  # bytes of an array
SIDES = 4096  # pixels of a side, at most
CLASSES = 1000  # of which there are more these are no classes
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)

log = logging.getLogger("automl")

Shape = tuple[int, ...]
Found = dict[str, tuple[str, str]]  # part to the names of its two arrays


class Arrays(ImageTask):
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) of 1 or 3 channels, and a class for each.

    Of an .npz file that holds `x` and `y`, or `x_train`, `y_train` and, if you have them, `x_val`,
    `y_val`, `x_test` and `y_test`, or the like in MedMNIST's words (`train_images`, ...). Pixels
    are 0 to 255, or floats 0 to 1; classes are whole numbers or texts. What is missing to validate
    or to test is drawn from what is there to train, as for a folder of images.
    """

    name: Literal["arrays"] = "arrays"
    path: str = Field(
        "images.npz",
        min_length=1,
        description="relative to --data, which may be the file itself, or to the working folder",
    )

    def shape(self, root: Path | None) -> tuple[Images, tuple[str, ...]]:
        path = self._file(root)
        return _known(path, json.dumps(traces([path])))

    def source(self, root: Path | None) -> Source:
        path = self._file(root)
        elsewhere(self.name, root, Path(self.path), path)
        inputs, labels = self.shape(root)
        return Source(traces([path]), lambda: _parts(path, inputs.shape, labels))

    def _file(self, root: Path | None) -> Path:
        return one_file(self.name, self.path, root, "an .npz file with arrays x and y")


@functools.lru_cache(maxsize=8)  # asked for often
def _known(path: Path, _changed: str) -> tuple[Images, tuple[str, ...]]:
    """What the images to train with are, and their classes, without reading the images."""
    shapes = _shapes(path)
    x, y = _found(path, shapes)["train"]
    classes = _classes(path, y)
    labels = tuple(map(str, np.unique(classes).tolist()))
    if not 2 <= len(labels) <= CLASSES:
        told = f"got {len(labels):,} different classes"
        raise DataError(f"{path}: {y}: {told}; want 2 to {CLASSES:,}")
    return Images(_image(path, x, shapes[x])), labels


def _parts(path: Path, image: tuple[int, int, int], labels: tuple[str, ...]) -> Parts:
    shapes = _shapes(path)
    read = {name for names in _found(path, shapes).values() for name in names}
    if over := [name[:60] for name in shapes if name not in read]:
        log.warning("%s: passing over %s", path, ", ".join(over[:8]))
    numbers = {label: number for number, label in enumerate(labels)}
    parts, scales = {}, dict[bool, str]()
    for part, (x, y) in _found(path, shapes).items():
        if _image(path, x, shapes[x]) != image:
            told = f"got images {_image(path, x, shapes[x])}"
            raise DataError(f"{path}: {x}: {told}; want {image} as those to train with")
        named = [str(one) for one in _classes(path, y).tolist()]
        if odd := sorted({*named} - numbers.keys()):
            told = f"got the class {odd[0][:60]!r}, which those to train with have not"
            raise DataError(f"{path}: {y}: {told}")
        found = _read(path, x)
        if len(named) != len(found):
            told = f"got {len(named):,} classes for {len(found):,} images of {x}"
            raise DataError(f"{path}: {y}: {told}; want one for each")
        if len(found) and found.max() > 0:  # of black alone nothing tells
            scales[found.dtype.kind in "bf" and found.max() <= 1] = x
        try:
            pixels = torch.from_numpy(levels(found) if len(found) else found.astype(np.uint8))
        except ValueError as error:
            raise DataError(f"{path}: {x}: {error}") from error
        if not _channels_first(shapes[x]):
            pixels = pixels.reshape(*shapes[x][:3], image[0]).permute(0, 3, 1, 2)
        y_there = torch.tensor([numbers[one] for one in named], dtype=torch.long)
        parts[part] = Split(pixels.contiguous(), y_there)
    if len(scales) > 1:
        told = f"{scales[True]} has values 0 to 1, and {scales[False]} larger ones"
        raise DataError(f"{path}: {told}; want the same scale")
    return with_test(path, parts, labels)


def _found(path: Path, shapes: Mapping[str, Shape]) -> Found:
    """The two arrays of each part that is there."""
    found: Found = {}
    for part, spelled in NAMES.items():
        there = [names for names in spelled if names[0] in shapes]
        if len(there) > 1:
            told = f"holds both {there[0][0]} and {there[1][0]}"
            raise DataError(f"{path}: {told}; want one of them")
        found.update((part, names) for names in there)
    if "train" not in found:
        held = ", ".join(name[:60] for name in list(shapes)[:8]) or "nothing"
        want = "want x and y, or x_train and y_train, or train_images and train_labels"
        raise DataError(f"{path}: holds {held}; {want}")
    for x, y in found.values():
        if y not in shapes:
            raise DataError(f"{path}: holds {x} and no {y}; want a class for each image")
    return found


def _shapes(path: Path) -> dict[str, Shape]:
    """Of all arrays, by name, from the beginning of each. Raises DataError."""
    found: dict[str, Shape] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                if name in found:
                    raise DataError(f"{path}: holds {name[:60]!r} twice")
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    header = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        header = np.lib.format.read_array_header_2_0
                    shape, _, dtype = header(file)
                if dtype.hasobject:
                    told = f"{name[:60]}: holds Python objects, which are never read"
                    raise DataError(f"{path}: {told}; want numbers or texts")
                if math.prod(shape) * dtype.itemsize > LARGEST:
                    told = f"{name[:60]}: an array {shape} of {dtype}"
                    raise DataError(f"{path}: {told}; want at most {LARGEST:,} bytes")
                found[name] = shape
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an .npz file: {error}") from error
    return found


def _read(path: Path, name: str) -> NDArray[Any]:
    """An array whose shape was looked at."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[name]
    except UNREADABLE as error:
        raise DataError(f"{path}: {name}: cannot be read to its end: {error}") from error
    return array


def _classes(path: Path, name: str) -> NDArray[Any]:
    """Whole numbers or texts (N,), of which each is a class."""
    array = _read(path, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    whole = array
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == array.round()).all():
        whole = array.astype(np.int64)
    if array.ndim != 1 or whole.dtype.kind not in "iubU":
        told = f"got an array {array.shape} of {array.dtype}"
        raise DataError(
            f"{path}: {name}: {told}; want (N,) of whole numbers or texts, a class each"
        )
    if whole.dtype.kind == "U":
        texts = [
            " ".join(one.encode("utf-8", "replace").decode().split()) for one in array.tolist()
        ]
        if not all(texts):
            raise DataError(f"{path}: {name}: got an empty text; want the name of a class")
        return np.array(texts, dtype=str)
    return whole


def _channels_first(shape: Shape) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)


def _image(path: Path, name: str, shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width of each image."""
    match shape:
        case (_, height, width):
            channels = 1
        case (_, channels, height, width) if _channels_first(shape):
            pass
        case (_, height, width, channels):
            pass
        case _:
            channels = height = width = 0
    if channels not in (1, 3) or not (0 < height <= SIDES and 0 < width <= SIDES):
        want = f"want (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, sides up to {SIDES:,}"
        raise DataError(f"{path}: {name}: got an array {shape}; {want}")
    return channels, height, width
