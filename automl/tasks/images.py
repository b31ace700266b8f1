"""What image tasks share: find the files, decode them once into a checked cache, split them.

Nothing is unpickled and nothing is unpacked: archives are read as a stream, member by member.
Knows no models and no terminal.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import tarfile
import tempfile
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from automl.config import Task
from automl.data import UNREADABLE, Data, Images, Split, picture
from automl.errors import DataError

log = logging.getLogger("automl")

FORMAT = 2  # of the cache; raise it when the same files are to give other pixels
CORRUPT = 0.01  # share of the images of a set that may be unreadable

Parts = dict[str, Split]  # "train", "test" and, where the data comes with one, "valid"
Reader = Callable[[Path], Parts]


@dataclass(frozen=True)
class Source:
    """A data set that was found: what tells it from any other, and how to read it whole."""

    identity: object  # plain values, for the name of the cache folder
    decode: Callable[[], Parts]


class ImageTask(Task):
    """Images in classes. A member says where they come from; cache and splits are common."""

    valid: float = Field(
        0.1, ge=0.01, le=0.5, description="share of the training images held out for validation"
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="of the draw of the validation images; 0 to 2^31 - 1"
    )
    per_class: int | None = Field(
        None, ge=2, description="use at most the first so many training images of each class"
    )

    @abstractmethod
    def source(self, root: Path | None) -> Source:
        """The data on disk, found or downloaded, not read yet. Raises DataError."""

    def load(self, root: Path | None) -> Data:
        _, labels = self.shape(root)
        source = self.source(root)
        train, about = cached(self.name, source, labels, "train")

        if self.per_class is not None:
            classes = [(train.y == k).nonzero().flatten() for k in range(len(labels))]
            train = rows(train, torch.cat([members[: self.per_class] for members in classes]))
        if "valid" in about["digests"]:
            valid, _ = cached(self.name, source, labels, "valid")
        else:
            train, valid = stratified(train, self.valid, self.split_seed, labels)

        settings = [about["digests"], labels, self.valid, self.split_seed, self.per_class]
        return Data(
            train=train,
            valid=valid,
            inputs=Images.measure(train.x),
            labels=labels,
            fingerprint=hashlib.sha256(json.dumps(settings).encode()).hexdigest(),
            sealed=about["counts"]["test"],
        )

    def test(self, root: Path | None) -> Split:
        _, labels = self.shape(root)
        return cached(self.name, self.source(root), labels, "test")[0]

    def baseline(self, data: Data) -> tuple[str, float]:
        """Logistic regression on at most 5,000 training images, shrunk to at most 8x8 pixels."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        height, width = (min(8, side) for side in data.inputs.shape[1:])

        def features(x: Tensor) -> Tensor:
            chunks = torch.split(x, 256)  # 5,000 photographs as float would take gigabytes
            shrunk = [F.adaptive_avg_pool2d(chunk.float(), (height, width)) for chunk in chunks]
            return torch.cat(shrunk).flatten(1).cpu()

        drawn = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:5000]
        x, y = features(data.train.x[drawn]), data.train.y[drawn]
        mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1)  # 1: a step of one grey level
        # one thread: on 2 cores shared with other work, two took about twice as long
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 50 steps come close enough
            model = LogisticRegression(max_iter=50).fit((x - mean) / std, y.cpu())
        guesses = torch.from_numpy(model.predict((features(data.valid.x) - mean) / std))
        score = (guesses == data.valid.y.cpu()).double().mean().item()
        return f"logistic regression on {height}x{width} pixels", score


class PublishedTask(ImageTask):
    """A data set all have the same copy of: found on disk, else downloaded, and counted."""

    labels: ClassVar[tuple[str, ...]]
    image: ClassVar[tuple[int, int, int]]  # C, H, W
    counts: ClassVar[Mapping[str, int]]  # images in "train" and "test"
    pickles: ClassVar[Sequence[str]] = ()  # the forms of the set that are not read

    @abstractmethod
    def places(self) -> Mapping[str, Reader]:
        """Where it may lie in a folder, best first: an archive, or an entry of its own folder."""

    @abstractmethod
    def download(self, folder: Path) -> None:
        """Fetch it, with checksum, so that it lies in one of the places."""

    def shape(self, root: Path | None) -> tuple[Images, tuple[str, ...]]:
        return Images(self.image), self.labels

    def source(self, root: Path | None) -> Source:
        downloads = cache() / "downloads"
        folders = [*([root / self.name, root] if root else []), downloads]
        found = self._find(folders)
        if found is None:
            failure = self._download(downloads)
            found = self._find([downloads])
        if found is None:
            pickles = [folder / name for folder in folders for name in self.pickles]
            pickles = [path for path in pickles if path.exists()]
            raise DataError(
                f"{self.name}: not found in {', '.join(map(str, folders))} as "
                f"{', '.join(self.places())}, and the download failed ({failure}); give the folder "
                "that holds it with --data or AUTOML_DATA"
                + (f"; {pickles[0]} is a pickle, which is never read" if pickles else "")
            )
        place, reader = found

        def decode() -> Parts:
            log.info("%s: reading %s", self.name, place)
            parts = reader(place)
            for split in parts.values():
                if not 0 <= split.y.min() <= split.y.max() < len(self.labels):
                    raise DataError(
                        f"{place}: got labels {split.y.min()} to {split.y.max()}; "
                        f"want 0 to {len(self.labels) - 1}"
                    )
            return parts

        paths = sorted(place.rglob("*")) if place.is_dir() else [place]
        return Source(traces(paths), decode)

    def count(self, place: Path, part: str, got: int) -> None:
        """Raises DataError unless the part has as many images as were published."""
        if got != self.counts[part]:
            raise DataError(
                f"{place}: got {got:,} {part} images of {self.name}; want {self.counts[part]:,}"
            )

    def _find(self, folders: Iterable[Path]) -> tuple[Path, Reader] | None:
        for folder in folders:
            for name, reader in self.places().items():
                path = folder / name
                if path.exists():
                    return path if ".tar." in path.name else path.parent, reader
        return None

    def _download(self, downloads: Path) -> str:
        """What went wrong. Arrives whole or not at all, even if two processes fetch at once."""
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=downloads) as unfinished:
                self.download(Path(unfinished))
                for item in Path(unfinished).iterdir():
                    item.replace(downloads / item.name)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            return " ".join(str(error).split())  # torchvision's messages have line breaks
        return "it brought nothing"


def cache() -> Path:
    """The folder of downloads and decoded data."""
    if named := os.environ.get("AUTOML_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "automl"


def cached(
    task: str, source: Source, labels: Sequence[str], part: str
) -> tuple[Split, dict[str, Any]]:
    """A part of the decoded data, and what is known of all; only this part's file is opened."""
    key = hashlib.sha256(json.dumps([FORMAT, source.identity, labels]).encode()).hexdigest()[:16]
    folder = cache() / f"{task}-{key}"
    path = folder / f"{part}.safetensors"
    try:
        return _read(path, part)
    except FileNotFoundError:
        pass
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        log.warning("%s is damaged (%s); reading the data again", path, error)

    parts = source.decode()
    about = {
        "labels": labels,
        "counts": {name: len(split) for name, split in parts.items()},
        "digests": {name: digest(split) for name, split in parts.items()},
    }
    try:
        _write(folder, parts, json.dumps(about))
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); name another folder in AUTOML_CACHE"
        ) from error
    return parts[part], about


def _read(path: Path, part: str) -> tuple[Split, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # copied, for they are views of the file: what is checked here must not change later
        split = Split(file.get_tensor("x").clone(), file.get_tensor("y").clone())
    if hashlib.sha256(metadata["about"].encode()).hexdigest() != metadata["sha256"]:
        raise ValueError("its description does not match its checksum")
    about: dict[str, Any] = json.loads(metadata["about"])
    if digest(split) != about["digests"][part]:
        raise ValueError("its images do not match their checksum")
    return split, about


def _write(folder: Path, parts: Parts, about: str) -> None:
    """Each file appears whole or not at all, even if two processes write at once."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"about": about, "sha256": hashlib.sha256(about.encode()).hexdigest()}
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        for part, split in parts.items():
            path = Path(unfinished, f"{part}.safetensors")
            save_file({"x": split.x, "y": split.y}, path, metadata)
            path.replace(folder / path.name)


def digest(split: Split) -> str:
    """sha256 over the shape, the pixels and the labels."""
    sha = hashlib.sha256(f"{tuple(split.x.shape)} {split.x.dtype} {split.y.dtype}".encode())
    sha.update(split.x.contiguous().numpy().data)
    sha.update(split.y.contiguous().numpy().data)
    return sha.hexdigest()


def rows(split: Split, index: Tensor) -> Split:
    return Split(split.x[index], split.y[index])


def stratified(split: Split, share: float, seed: int, labels: Sequence[str]) -> tuple[Split, Split]:
    """What stays and what is drawn: the share of every class, at least one image on either side."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(split), dtype=torch.bool)
    for k, label in enumerate(labels):
        members = (split.y == k).nonzero().flatten()
        if len(members) < 2:
            raise DataError(
                f"class {label!r}: got {len(members)} readable training images; want at least 2, "
                "for a share of each class is held out"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        drawn[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return rows(split, ~drawn), rows(split, drawn)


def traces(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file, to notice that one is not what it was."""
    found = []
    for path in paths:
        try:
            status = path.stat()
            found.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
        except OSError:  # a link to nowhere: counted among the unreadable images later
            found.append((str(path.absolute()), 0, 0))
    return found


def files(place: Path, wanted: str, *, largest: int, most: int) -> dict[str, bytes]:
    """The files of a folder or tar archive whose whole path matches `wanted`, by path, sorted.

    All else is passed over: links, devices, paths that lead elsewhere. More than `most` files,
    one above `largest` bytes or one path given twice is a DataError.
    """
    found: dict[str, bytes] = {}
    try:
        for path, size, read in _entries(place):
            path = path.removeprefix("./")
            if not re.fullmatch(wanted, path):
                continue
            if size > largest:
                raise DataError(f"{place}: {path} has {size:,} bytes; want at most {largest:,}")
            if path in found:
                raise DataError(f"{place}: holds {path} twice")
            if len(found) == most:
                raise DataError(f"{place}: holds more than the {most:,} files of the data set")
            found[path] = read()
    except (OSError, EOFError, ValueError, tarfile.TarError, LZMAError, zlib.error) as error:
        raise DataError(f"{place}: cannot be read to its end: {error}") from error
    return dict(sorted(found.items()))


def _entries(place: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    if place.is_dir():
        for path in place.rglob("*"):
            if path.is_file():
                yield path.relative_to(place).as_posix(), path.stat().st_size, path.read_bytes
        return
    with tarfile.open(place, "r|*") as archive:  # a stream: going back in .xz takes seconds a time
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file:
                yield member.name, member.size, file.read


def pictures(
    place: Path,
    images: Mapping[str, bytes | Path],
    shape: tuple[int, int, int],
    *,
    threads: int = 1,
) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W) of the images that can be read, and bool (all,) that says which.

    Up to one in a hundred may be corrupt: one line of the log names them. Beyond: DataError.
    Threads halve the time of photographs on 2 cores, and double that of 32x32 pixels.
    """
    x = torch.empty((len(images), *shape), dtype=torch.uint8)
    given = list(images.values())

    def read(number: int) -> bool:
        try:
            x[number] = picture(given[number], shape)
        except UNREADABLE:
            return False
        return True

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", UserWarning)  # odd, but readable
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        readable = torch.tensor(list(pool.map(read, range(len(given)))))

    corrupt = [name for name, fine in zip(images, readable.tolist(), strict=True) if not fine]
    if corrupt:
        named = ", ".join(corrupt[:5]) + (", ..." if len(corrupt) > 5 else "")
        told = f"{place}: {len(corrupt):,} of {len(given):,} images cannot be read: {named}"
        if len(corrupt) > CORRUPT * len(given):
            raise DataError(f"{told}; want at most {CORRUPT:.0%}")
        log.warning("%s; going on without them", told)
    return (x[readable] if corrupt else x), readable
