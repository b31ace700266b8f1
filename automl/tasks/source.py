"""What tasks share: find the files, decode them once into a checked cache, split them.

Nothing is unpickled and nothing is unpacked: archives are read as a stream, member by member.
Knows no models and no terminal.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.client
import io
import json
import logging
import re
import tarfile
import tempfile
import urllib.request
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from automl import cache
from automl.config import Task
from automl.data import Data, Ragged, Rows, Split
from automl.errors import DataError
from automl.places import here

log = logging.getLogger("automl")

LARGEST = 2**28  # bytes of a download
TEST = 0.15  # share of the training examples of a user who has none to test
CORRUPT = 0.01  # share of the files of a set that may be unreadable
PURPOSES = {"train": "train with", "valid": "validate with", "test": "test with"}  # of parts
SPELLED = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}  # parts, by users
FORMAT = 6  # of the cache; raise it when the same files are to give other examples

Parts = dict[str, Split]  # "train", "test" and, where the data comes with one, "valid"
Reader = Callable[[Path], Parts]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A data set that was found: what tells it from any other, and how to read it whole."""

    identity: object  # plain values, for the name of the cache folder
    decode: Callable[[], Parts]


class SourceTask(Task):
    """Data that is found on disk or downloaded, and cached once it is decoded."""

    @abstractmethod
    def source(self, root: Path | None) -> Source:
        """The data, not read yet. Raises DataError."""

    def test(self, root: Path | None) -> Split:
        _, labels = self.shape(root)
        return cached(self.name, self.source(root), labels, "test")[0]


class Unlabelled(SourceTask):
    """Such data without classes, whose splits come from its source."""

    def load(self, root: Path | None) -> Data:
        source = self.source(root)
        train, about = cached(self.name, source, (), "train")
        valid, _ = cached(self.name, source, (), "valid")
        return Data(
            train=train,
            valid=valid,
            inputs=self.shape(root)[0],
            labels=(),
            fingerprint=hashlib.sha256(json.dumps(about["digests"]).encode()).hexdigest(),
            sealed=about["counts"]["test"],
        )


class Published(SourceTask):
    """A data set all have the same copy of: found on disk, else downloaded, and counted."""

    labels: ClassVar[tuple[str, ...]]  # a text to go on with has none, and no counts
    counts: ClassVar[Mapping[str, int]]  # examples in "train" and "test"
    folders: ClassVar[Sequence[str]] = ()  # where it lies if not in one of its own name
    pickles: ClassVar[Sequence[str]] = ()  # the forms of the set that are not read

    @abstractmethod
    def places(self) -> Mapping[str, Reader]:
        """Where it may lie in a folder, best first: an archive, or an entry of its own folder."""

    @abstractmethod
    def download(self, folder: Path) -> None:
        """Fetch it, with checksum, so that it lies in one of the places."""

    def source(self, root: Path | None) -> Source:
        downloads = cache.folder() / "downloads"
        names = (self.name, *self.folders, ".")
        folders = [*([root / name for name in names] if root else []), downloads / self.name]
        folders.append(downloads)
        found = self._find(folders)
        if found is None:
            failure = self._download(downloads)
            found = self._find(folders[-2:])
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
        _, labels = self.shape(root)  # those of the knobs

        def decode() -> Parts:
            log.info("%s: reading %s", self.name, place)
            parts = reader(place)
            for split in parts.values():
                known = labels and split.y.ndim == 1  # boxes have rows that are none
                if known and not 0 <= split.y.min() <= split.y.max() < len(labels):
                    raise DataError(
                        f"{place}: got labels {split.y.min()} to {split.y.max()}; "
                        f"want 0 to {len(labels) - 1}"
                    )
            return parts

        paths = sorted(place.rglob("*")) if place.is_dir() else [place]
        return Source(traces(paths), decode)

    def count(self, place: Path, part: str, got: int) -> None:
        """Raises DataError unless the part has as many examples as were published."""
        if got != self.counts[part]:
            raise DataError(
                f"{place}: got {got:,} {part} examples of {self.name}; want {self.counts[part]:,}"
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


def fetch(url: str, sha256: str, path: Path, *, gzipped: bool = False) -> None:
    """A file from the network, whole and as published, or not at all. Raises OSError.

    Of a gzipped one what it holds is kept, and has that checksum.
    """
    with urllib.request.urlopen(url, timeout=60) as answer:
        raw = answer.read(LARGEST + 1)
    if gzipped:
        try:
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(LARGEST + 1)
        except (EOFError, zlib.error) as error:
            raise OSError(f"{url}: cannot be read to its end: {error}") from error
    got = hashlib.sha256(raw).hexdigest()
    if got != sha256:
        raise OSError(f"{url}: got sha256 {got}; want {sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def fetch_archive(
    url: str, sha256: str, path: Path, read: Callable[[Path], Mapping[str, bytes]]
) -> None:
    """An archive that is packed anew for every download, or nothing. Raises OSError.

    What has the checksum is that which `read` finds in it, see `digest`.
    """
    with urllib.request.urlopen(url, timeout=60) as answer:
        raw = answer.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise OSError(f"{url}: got more than {LARGEST:,} bytes")
    path.write_bytes(raw)
    try:
        got = digest(read(path))
    except DataError as error:
        raise OSError(f"{url}: {error}") from error
    if got != sha256:
        raise OSError(f"{url}: got files of sha256 {got}; want {sha256}")


def digest(found: Mapping[str, bytes]) -> str:
    """sha256 over the name, a zero byte and the bytes of each file, by name, wherever it lies."""
    named = {PurePosixPath(path).name: content for path, content in found.items()}
    sha = hashlib.sha256()
    for name in sorted(named):
        sha.update(name.encode() + b"\0" + named[name])
    return sha.hexdigest()


def cached(
    task: str, source: Source, labels: Sequence[str], part: str
) -> tuple[Split, dict[str, Any]]:
    """A part of the decoded data, and what is known of all; only this part's file is opened."""
    key = hashlib.sha256(json.dumps([FORMAT, source.identity, labels]).encode()).hexdigest()[:16]
    folder = cache.folder() / f"{task}-{key}"
    path = folder / f"{part}.safetensors"
    try:
        return cache.read(path, part)
    except FileNotFoundError:
        pass
    except cache.DAMAGED as error:
        log.warning("%s is damaged (%s); reading the data again", path, error)

    parts = source.decode()
    about = {
        "labels": labels,
        "counts": {name: len(split) for name, split in parts.items()},
        "digests": {name: cache.digest(split) for name, split in parts.items()},
    }
    try:
        cache.write(folder, parts, json.dumps(about))
    except cache.DAMAGED as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); name another folder in AUTOML_CACHE"
        ) from error
    return parts[part], about


def stratified(
    split: Split, share: float, seed: int, labels: Sequence[str], first: Tensor | None = None
) -> tuple[Split, Split]:
    """What stays and what is drawn: the share of every class, at least one example on either side.

    Examples that are the same are on one side, and of a class no more than the share of those that
    are not is drawn; but where a class has no two that differ, from each other and from those of
    classes before it, each is drawn alone. Where the examples have groups, whole groups are drawn
    instead, with the share met about, and of each class at least one example stays. `first` says
    which are the same where that is not all that `firsts` finds.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(split), dtype=torch.bool)
    first = firsts(split.x) if first is None else first.clone()
    classes = [(split.y == k).nonzero().flatten() for k in range(len(labels))]
    for label, members in zip(labels, classes, strict=True):
        if len(members) < 2:
            raise DataError(
                f"class {label!r}: got {len(members)} readable examples to train and validate "
                "with; want at least 2 of each class, and one more where some are held out to test"
            )
        if (first[members] == members).sum() < 2:  # the same again and again, or in others, too
            first[members] = members
    copies = first.bincount(minlength=len(split))
    for members in classes:
        own = members[first[members] == members]
        own = own[torch.randperm(len(own), generator=generator)]
        drawn[chosen(own.tolist(), copies[own].tolist(), share)] = True
    drawn = drawn[first]
    if split.groups is not None:
        drawn = _whole_groups(split.groups, split.y, share, seed)
    return split[~drawn], split[drawn]


def apart(split: Split, first: Tensor, share: float, seed: int) -> tuple[Split, Split]:
    """What stays and what is drawn: the share about, examples of the same `first` on one side.

    `first` int64 (N,) is of two values at least.
    """
    own = first.unique()
    own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))]
    copies = first.bincount()
    drawn = torch.zeros_like(copies, dtype=torch.bool)
    drawn[chosen(own.tolist(), copies[own].tolist(), share)] = True
    drawn = drawn[first]
    return split[~drawn], split[drawn]


def chosen(order: list[int], copies: list[int], share: float) -> list[int]:
    """The first of these that are no more than the share of them, and of all with their copies.

    One at least, and not all.
    """
    most, room = (max(1, round(share * count)) for count in (len(order), sum(copies)))
    chosen = list[int]()
    for one, count in zip(order[:-1], copies, strict=False):
        if count <= room and len(chosen) < most:
            chosen.append(one)
            room -= count
    return chosen or [min(zip(copies, order, strict=True))[1]]


def firsts(x: Rows) -> Tensor:
    """For each example the number of the first that is the same, int64 (N,)."""
    numbers: dict[bytes, int] = {}
    return torch.tensor([numbers.setdefault(told, n) for n, told in enumerate(digests(x))])


def digests(x: Rows) -> list[bytes]:
    """What tells each example from all that are not the same: its sha256."""
    if isinstance(x, Ragged):
        raw, ends = x.values.numpy().data, x.offsets.tolist()
        return [hashlib.sha256(raw[a:b]).digest() for a, b in pairwise(ends)]
    assert isinstance(x, Tensor)
    return [hashlib.sha256(row.data).digest() for row in x.contiguous().numpy()]


def with_test(place: Path, parts: Parts, labels: Sequence[str]) -> Parts:
    """The parts; where none is to test, a share of each class to train, drawn with seed 0."""
    for part, split in parts.items():
        if not len(split):
            told = f"got no readable example to {PURPOSES[part]}; want at least 1"
            raise DataError(f"{place}: {told}")
    if "test" not in parts:
        train, test = stratified(parts["train"], TEST, 0, labels)
        parts = {**parts, "train": train, "test": test}
    repeated(place, parts)
    return parts


def repeated(
    place: Path,
    parts: Parts,
    what: str = "examples",
    told_by: Callable[[Rows], Sequence[Any]] = digests,
) -> None:
    """Counts in one line of the log what is in two parts: a score on it says little."""
    seen = set[Any]()
    for part in (part for part in PURPOSES if part in parts):
        found = told_by(parts[part].x)
        if again := sum(one in seen for one in found):
            told = f"{again:,} of {len(found):,} {what} to {PURPOSES[part]} are in another split"
            log.warning("%s: %s, too: no score on them tells of new ones", place, told)
        seen.update(found)


def _whole_groups(groups: Tensor, y: Tensor, share: float, seed: int) -> Tensor:
    """Which examples are drawn, bool (N,): groups at random, classes as even as they allow.

    Every class keeps some. Raises DataError where that cannot be.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    number = len(groups.unique())
    if number < 2:
        raise DataError("all training examples are of one group; want at least 2, to hold one out")
    folds = StratifiedGroupKFold(min(number, round(1 / share)), shuffle=True, random_state=seed)
    # a class with fewer examples than folds
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for stays, held in folds.split(y, y, groups):
            if len(y[stays].unique()) == len(y.unique()):
                drawn = torch.zeros(len(y), dtype=torch.bool)
                drawn[held] = True
                return drawn
    raise DataError(
        f"{number} groups of training examples: each one held out takes a class with it; "
        "want every class in two groups at least"
    )


def sought(task: str, named: str, root: Path | None) -> list[Path]:
    """Where a path may lead: below --data, then from the working folder on. Raises DataError."""
    path = here(named, f"{task}: path", DataError)
    return [*([root / path] if root else []), path]


def one_file(task: str, named: str, root: Path | None, want: str) -> Path:
    """The file below --data, --data itself, or the one in the working folder. Raises DataError."""
    places = sought(task, named, root)
    if root:
        places.insert(1, root)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"{task}: no file {' or '.join(map(str, places))}; want {want}")
    return found


def elsewhere(task: str, root: Path | None, given: Path, found: Path) -> None:
    """Says so where data is found from the working folder on, and not in the one that was named."""
    if root and root / given != given == found:
        log.warning("%s: not in %s; reading %s", task, root / given, given.absolute())


def traces(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file, to notice that one is not what it was."""
    found = []
    for path in paths:
        try:
            status = path.stat()
            found.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
        except OSError:  # a link to nowhere: counted among the unreadable files later
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


def readable(
    place: Path,
    what: str,
    files: Mapping[str, T],
    x: Tensor,
    read: Callable[[T], Tensor],
    faults: tuple[type[Exception], ...],
    threads: int,
) -> tuple[Tensor, Tensor]:
    """Of `x` (all, ...), filled with what `read` gives of each file, the rows that could be read.

    And bool (all,) that says which. Up to one in a hundred may raise one of `faults`: one line of
    the log names them, and says what is wrong with the first. Beyond: DataError.
    """
    given = list(files.values())

    def fault(number: int) -> str:
        try:
            x[number] = read(given[number])
        except faults as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(fault, range(len(given))))
    else:  # small files: handing each to another thread takes as long as reading it
        found = list(map(fault, range(len(given))))

    fine = torch.tensor([not told for told in found], dtype=torch.bool)
    corrupt = [name for name, told in zip(files, found, strict=True) if told]
    if not corrupt:
        return x, fine
    named = ", ".join(corrupt[:5]) + (", ..." if len(corrupt) > 5 else "")
    told = f"{place}: {len(corrupt):,} of {len(given):,} {what} cannot be read: {named}"
    why = f"the first: {next(filter(None, found))}"
    if len(corrupt) > CORRUPT * len(given):
        raise DataError(f"{told}; want at most {CORRUPT:.0%}; {why}")
    log.warning("%s; going on without them; %s", told, why)
    return x[fine], fine


def text(place: Path, name: str, raw: bytes) -> str:
    """What a file that was found holds. Raises DataError where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: {name} cannot be read to its end: {error}") from error


def table(place: Path, name: str, raw: bytes, columns: set[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns; cells that a row lacks are empty."""
    csv.field_size_limit(2**24)
    rows = csv.DictReader(io.StringIO(text(place, name, raw), newline=""), restval="")
    try:
        if missing := columns - set(rows.fieldnames or ()):
            raise DataError(f"{place}: {name} has no column {sorted(missing)[0]!r}")
        return list(rows)
    except csv.Error as error:
        raise DataError(f"{place}: {name} cannot be read to its end: {error}") from error


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
