"""Claims about data: found where users keep it, checked, split once, never mixed."""

from __future__ import annotations

import io
import logging
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from automl import cache
from automl.config import Task
from automl.data import Data, Split
from automl.errors import DataError
from automl.inputs.images import FORMATS, Images
from automl.inputs.text import pack
from automl.tasks import classes
from automl.tasks.cifar import Cifar, Cifar10, Cifar100
from automl.tasks.classes import drawn
from automl.tasks.images import SUFFIXES, ImageTask
from automl.tasks.mnist import FashionMnist, Idx
from automl.tasks.source import digests, stratified

IMAGE_TASKS = [name for name, member in Task.members().items() if issubclass(member, ImageTask)]


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


# Small copies of the published formats: the same files with fewer images.


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def records(task: Cifar) -> dict[str, bytes]:
    """The binary version, with as many images as the test asks for and the classes in turn."""
    files = {}
    for number, (name, part) in enumerate(sorted(task.parts.items())):
        share = sum(other == part for other in task.parts.values())
        count = task.counts[part] // share
        table = noise(count, task.header + 3072, seed=number)
        classes = np.arange(number * count, (number + 1) * count) % len(task.labels)
        table[:, task.header - 1] = classes
        files[name] = table.tobytes()
    return files


def idx(task: Idx) -> dict[str, bytes]:
    files = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        count = task.counts[part]
        head, labels = struct.pack(">4I", 0x803, count, 28, 28), struct.pack(">2I", 0x801, count)
        x, y = noise(count, 28, 28, seed=len(part)), (np.arange(count) % 10).astype(np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = head + x.tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = labels + y.tobytes()
    return files


def jpegs() -> dict[str, bytes]:
    """The image-file version of a CIFAR-10 with 40 training and 20 test images."""
    return {
        f"{part}/{label}/{number:04}.jpg": encoded(noise(32, 32, 3, seed=number), "JPEG")
        for part, count in (("train", 4), ("test", 2))
        for label in Cifar10.labels
        for number in range(count)
    }


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def photographs(folder: Path, *parts: str, each: int = 8, **classes: int) -> Path:
    """An image folder with two classes of `each` images, cats dark and dogs bright."""
    classes = classes or {"cat": each, "dog": each}
    for part in parts or ("train",):
        for brightness, (label, count) in enumerate(classes.items()):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                image = noise(12, 10, 3, seed=number + 1000 * sum(part.encode())) // 2 + 120 * (
                    brightness % 2
                )
                (folder / part / label / f"{number:03}.png").write_bytes(encoded(image))
    return folder


def make(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, **knobs: Any) -> ImageTask:
    """The task, with data of its kind below the root."""
    if name == "imagefolder":
        knobs["path"] = str(photographs(root / "mine", each=40))
    if name == "arrays":
        x = np.random.default_rng(0).integers(0, 256, (80, 12, 10, 3), np.uint8)
        np.savez(root / "images.npz", x=x, y=np.arange(80) % 2)
    task: Any = Task.of({"name": name, **knobs})
    if name in ("cifar10", "cifar100"):
        each = len(task.labels) * 10
        monkeypatch.setattr(Cifar, "counts", {"train": 2 * each, "test": each})
        unpack(root / task.folder, records(task))
    if name in ("mnist", "fashion-mnist"):
        monkeypatch.setattr(Idx, "counts", {"train": 200, "test": 100})
        unpack(root / task.theirs / "raw", idx(task))
    return task


@pytest.fixture
def small(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImageTask]:
    return lambda name, **knobs: make(name, root, monkeypatch, **knobs)


def images(split: Split) -> set[bytes]:
    return {x.numpy().tobytes() for x in split.x}


def cached(tmp_path: Path, part: str) -> Path:
    (path,) = (tmp_path / "cache").glob(f"*/{part}.safetensors")
    return path


# What holds for every image task.


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_a_task_hands_out_what_it_announces(name: str, root: Path, small: Any) -> None:
    task = small(name)
    inputs, labels = task.shape(root)
    data, test = task.load(root), task.test(root)

    assert tuple(data.labels) == labels
    assert data.inputs.shape == inputs.shape
    assert len(data.inputs.mean) == inputs.shape[0]
    for split in (data.train, data.valid, test):
        assert split.x.dtype == torch.uint8
        assert tuple(split.x.shape) == (len(split), *inputs.shape)
        assert split.y.dtype == torch.int64
        assert split.y.unique().tolist() == list(range(len(labels)))


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_no_image_is_in_two_splits(name: str, root: Path, small: Any) -> None:
    task = small(name)
    data = task.load(root)
    train, valid, test = (images(s) for s in (data.train, data.valid, task.test(root)))
    assert not train & valid
    assert not train & test
    assert not valid & test


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_the_same_seed_gives_the_same_data_and_another_another(
    name: str, root: Path, small: Any
) -> None:
    task = small(name)
    first, again = task.load(root), task.load(root)
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.valid.y, again.valid.y)

    other = task.model_copy(update={"split_seed": 1})
    assert images(other.load(root).valid) != images(first.valid)
    assert images(other.test(root)) == images(task.test(root))


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_validation_takes_its_share_of_every_class(name: str, root: Path, small: Any) -> None:
    data = small(name, valid=0.2).load(root)
    train, valid = data.train.y.bincount(), data.valid.y.bincount()
    assert ((valid - 0.2 * (train + valid)).abs() <= 0.5).all()


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_inputs_are_measured_on_the_training_split_alone(name: str, root: Path, small: Any) -> None:
    data = small(name).load(root)
    mean = data.train.x.double().mean((0, 2, 3)) / 255
    assert data.inputs.mean == pytest.approx(mean.tolist(), abs=1e-6)


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_per_class_leaves_just_so_many_of_each(name: str, root: Path, small: Any) -> None:
    data = small(name, per_class=10).load(root)
    assert (data.train.y.bincount() == 9).all()
    assert (data.valid.y.bincount() == 1).all()


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_loading_training_data_never_opens_the_test_split(
    name: str, root: Path, tmp_path: Path, small: Any
) -> None:
    task = small(name)
    fingerprint = task.load(root).fingerprint
    cached(tmp_path, "test").write_bytes(b"would be noticed if opened")
    assert task.load(root).fingerprint == fingerprint
    assert cached(tmp_path, "test").read_bytes() == b"would be noticed if opened"


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_the_baseline_is_the_same_twice(name: str, root: Path, small: Any) -> None:
    task = small(name)
    data = task.load(root)
    called, score = task.baseline(data)
    assert called == "logistic regression on 8x8 pixels"
    assert 0 <= score <= 1
    assert task.baseline(data) == (called, score)


def test_a_baseline_learns_of_as_many_classes_as_it_sees_examples() -> None:
    y = torch.arange(300).repeat(5)
    assert sorted(y[drawn(y, 300)].tolist()) == list(range(300))
    assert y[drawn(y, 600)].bincount().tolist() == [2] * 300


def test_the_baseline_learns_digits_and_brightness(root: Path, small: Any) -> None:
    for name in ("digits", "imagefolder"):
        task = small(name)
        assert task.baseline(task.load(root))[1] > 0.9


def test_digits_needs_no_data_folder() -> None:
    data, test = Task.of("digits").load(None), Task.of("digits").test(None)
    assert len(data.train) + len(data.valid) + len(test) == 1797
    assert len(test) == 359
    assert data.train.x.max() == 255


# The cache.


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "a pixel": lambda content: flip(content, len(content) - 20_000),
    "a label": lambda content: flip(content, len(content) - 8),
    "the header": lambda content: flip(content, 60),
    "the end": lambda content: content[:-100],
    "everything": lambda content: b"",
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_noticed_and_rebuilt(
    damage: str, part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task.of("digits")
    data, test = task.load(None), task.test(None)
    path = cached(tmp_path, part)
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))

    assert task.load(None).fingerprint == data.fingerprint
    assert torch.equal(task.test(None).x, test.x)
    assert f"{path} is damaged" in caplog.text
    assert len(path.read_bytes()) == len(whole)


def test_a_pipe_in_the_cache_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Task.of("digits").load(None)
    path = cached(tmp_path, "train")
    cache.write_text(tmp_path / "text", "kept")
    for place in (path, tmp_path / "text"):
        place.unlink()
        os.mkfifo(place)
    assert Task.of("digits").load(None).fingerprint == data.fingerprint
    assert f"{path} is damaged" in caplog.text
    assert path.is_file()
    assert cache.read_text(tmp_path / "text") is None


def test_a_flipped_bit_anywhere_in_the_header_does_no_harm(tmp_path: Path) -> None:
    fingerprint = Task.of("digits").load(None).fingerprint
    path = cached(tmp_path, "train")
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(0, header, 31):
        path.write_bytes(flip(whole, place))
        assert Task.of("digits").load(None).fingerprint == fingerprint


def test_no_unfinished_file_stays_in_the_cache(tmp_path: Path) -> None:
    Task.of("digits").load(None)
    names = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert names == ["test.safetensors", "train.safetensors"]


def test_others_may_read_the_cache_as_they_may_read_any_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Task.of("digits").load(None)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").glob("*/*")} == {0o640}


def test_a_cache_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .*; name another folder in AUTOML"):
        Task.of("digits").load(None)


# The fingerprint.


@pytest.mark.parametrize("knobs", [{"valid": 0.2}, {"split_seed": 1}, {"per_class": 50}])
def test_other_splits_have_other_fingerprints(knobs: dict[str, Any]) -> None:
    plain = Task.of("digits").load(None)
    assert Task.of({"name": "digits", **knobs}).load(None).fingerprint != plain.fingerprint


def test_a_split_that_is_drawn_otherwise_has_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by another version: what a study trained on must not be what it validates on."""
    task = Task.of("digits")
    plain = task.load(None).fingerprint
    monkeypatch.setattr(
        classes, "stratified", lambda x, share, seed, *more: stratified(x, share, seed + 1, *more)
    )
    assert task.load(None).fingerprint != plain


@pytest.mark.parametrize("change", ["train pixel", "test pixel", "label", "class name"])
def test_other_data_has_another_fingerprint(change: str, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "test")
    task = Task.of({"name": "imagefolder", "path": str(folder)})
    before = task.load(None).fingerprint
    match change.split():
        case [part, "pixel"]:
            (folder / part / "cat" / "000.png").write_bytes(encoded(noise(12, 10, 3, seed=99)))
        case ["label"]:
            (folder / "train/cat/000.png").rename(folder / "train/dog/999.png")
        case _:
            for part in ("train", "test"):
                (folder / part / "cat").rename(folder / part / "cow")
    assert task.load(None).fingerprint != before


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path: Path) -> None:
    here, there = (photographs(tmp_path / place) for place in ("here", "there"))
    tasks = [Task.of({"name": "imagefolder", "path": str(path)}) for path in (here, there)]
    first, second = (task.load(None).fingerprint for task in tasks)
    assert first == second


# Where the published sets may lie.


def same(one: Data, other: Data) -> bool:
    return one.fingerprint == other.fingerprint


def test_cifar_is_found_as_folder_and_as_archive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cifar, "counts", {"train": 40, "test": 20})
    task, content = Cifar10(), records(Cifar10())
    folder = unpack(root / "a/cifar-10-batches-bin", content).parent
    packed = archive(
        root / "b/cifar10/cifar-10-binary.tar.gz",
        {f"cifar-10-batches-bin/{name}": file for name, file in content.items()},
    ).parents[1]
    assert same(task.load(folder), task.load(packed))


def test_cifar_as_image_files_is_found_as_folder_and_as_archive(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cifar, "counts", {"train": 40, "test": 20})
    folder = unpack(root / "a/cifar10", jpegs()).parent
    packed = archive(root / "b/cifar10/cifar10-jpeg.tar.xz", jpegs()).parents[1]
    assert same(Cifar10().load(folder), Cifar10().load(packed))


def test_fashion_is_found_as_folder_and_as_archive(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Idx, "counts", {"train": 40, "test": 20})
    task, content = FashionMnist(), idx(FashionMnist())
    theirs = unpack(root / "a/FashionMNIST/raw", content).parents[1]
    plain = unpack(root / "b/fashion-mnist", content).parent
    packed = archive(root / "c/fashion-mnist/fashion-mnist-idx.tar.xz", content).parents[1]
    assert same(task.load(theirs), task.load(plain))
    assert same(task.load(theirs), task.load(packed))


def test_cifar100_learns_the_fine_label(root: Path, small: Any) -> None:
    task = small("cifar100")
    record = np.frombuffer((root / task.folder / "test.bin").read_bytes(), np.uint8)[:3074]
    test = task.test(root)
    assert test.y[0] == record[1]
    assert test.x[0].flatten().tolist() == record[2:].tolist()
    assert len(set(Cifar100.labels)) == 100
    assert list(Cifar100.labels) == sorted(Cifar100.labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_missing_data_is_one_line_that_says_where_and_what_to_do(name: str, root: Path) -> None:
    for place in (None, root):
        with pytest.raises(DataError) as caught:
            Task.of(name).load(place)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{name}: not found in ")
        assert "no network" in message
        assert "--data or AUTOML_DATA" in message
        assert place is None or str(place) in message


def test_a_failed_download_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        Task.of("mnist").load(None)
    assert list((tmp_path / "cache/downloads").iterdir()) == []


def test_a_download_is_read_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(url: str, folder: Path, md5: str) -> None:
        fetched.append(url)
        archive(folder / "cifar-10-binary.tar.gz", records(Cifar10()))

    monkeypatch.setattr(Cifar, "counts", {"train": 40, "test": 20})
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    Cifar10().load(None)
    Cifar10().test(None)
    assert fetched == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]


def test_pickles_are_named_and_not_read(root: Path) -> None:
    (root / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="cifar-10-batches-py is a pickle, which is never read"):
        Task.of("cifar10").load(root)


# Wrong and hostile files.


def test_links_and_paths_that_lead_elsewhere_are_passed_over(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cifar, "counts", {"train": 40, "test": 20})
    plain = archive(root / "a/cifar10-jpeg.tar.xz", jpegs()).parent
    evil = encoded(noise(32, 32, 3, seed=7), "JPEG")
    hostile = {
        "../train/cat/1.jpg": evil,
        "/train/cat/2.jpg": evil,
        "train/cat/../../../3.jpg": evil,
        "train/tiger/4.jpg": evil,
        "train/cat/.5.jpg": evil,
        "train/cat/6.py": evil,
    }
    packed = archive(root / "b/cifar10-jpeg.tar.xz", {**jpegs(), **hostile})
    with tarfile.open(packed) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(packed, "w:xz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo(f"train/cat/link{kind!r}.jpg")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}

    assert same(Cifar10().load(plain), Cifar10().load(packed.parent))
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before


def packed_with(root: Path, files: dict[str, bytes]) -> None:
    archive(root / "cifar10-jpeg.tar.xz", {**jpegs(), **files})


def packed_twice(root: Path) -> None:
    path = archive(root / "cifar10-jpeg.tar.xz", jpegs())
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w:xz") as tar:
        for member, content in [members[0], *members[:-1]]:
            tar.addfile(member, io.BytesIO(content))


def cut(root: Path) -> None:
    path = archive(root / "cifar10-jpeg.tar.xz", jpegs())
    path.write_bytes(path.read_bytes()[:-2000])


def batches(root: Path, change: Callable[[bytes], bytes]) -> None:
    content = records(Cifar10())
    content["test_batch.bin"] = change(content["test_batch.bin"])
    unpack(root / "cifar-10-batches-bin", content)


def idx_with(root: Path, name: str, content: bytes) -> None:
    unpack(root / "fashion-mnist", {**idx(FashionMnist()), name: content})


WRONG: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "huge": (
        "cifar10",
        lambda root: packed_with(root, {"train/cat/0000.jpg": bytes(1_000_001)}),
        r"train/cat/0000.jpg has 1,000,001 bytes; want at most 1,000,000",
    ),
    "many": (
        "cifar10",
        lambda root: packed_with(root, {"train/cat/9.jpg": b""}),
        "holds more than the 60 files of the data set",
    ),
    "twice": (
        "cifar10",
        lambda root: packed_twice(root),
        "holds train/airplane/0000.jpg twice",
    ),
    "cut": ("cifar10", cut, "cannot be read to its end"),
    "no archive": (
        "cifar10",
        lambda root: (root / "cifar10-jpeg.tar.xz").write_bytes(b"<html>") and None,
        "cannot be read to its end",
    ),
    "too few": (
        "cifar10",
        lambda root: unpack(root / "cifar10/train/cat", {"1.jpg": b""}) and None,
        r"cifar10: got 1 train examples of cifar10; want 40",
    ),
    "odd size": (
        "cifar10",
        lambda root: batches(root, lambda content: content[:-1]),
        r"test_batch.bin has 61,459 bytes; want 3,073 for each image",
    ),
    "short": (
        "cifar10",
        lambda root: batches(root, lambda content: content[:-3073]),
        "got 19 test examples of cifar10; want 20",
    ),
    "label": (
        "cifar10",
        lambda root: batches(root, lambda content: b"\x0a" + content[1:]),
        "got labels 0 to 10; want 0 to 9",
    ),
    "idx magic": (
        "fashion-mnist",
        lambda root: idx_with(root, "t10k-labels-idx1-ubyte", b"\x80\x04" + bytes(26)),
        "t10k-labels-idx1-ubyte: got 28 bytes that begin with 8004.*; want 28 that begin with "
        "0000080100000014, the IDX file of fashion-mnist",
    ),
    "idx label": (
        "fashion-mnist",
        lambda root: idx_with(
            root, "t10k-labels-idx1-ubyte", struct.pack(">2I", 0x801, 20) + b"\xff" * 20
        ),
        "got labels 255 to 255; want 0 to 9",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_one_line(case: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cifar, "counts", {"train": 40, "test": 20})
    monkeypatch.setattr(Idx, "counts", {"train": 40, "test": 20})
    name, spoil, message = WRONG[case]
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        Task.of(name).load(root)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(root))


# The user's own images.


def folder_task(path: Path, **knobs: Any) -> Task:
    return Task.of({"name": "imagefolder", "path": str(path), **knobs})


def test_few_corrupt_images_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = photographs(tmp_path / "mine", each=100)
    (folder / "train/cat/007.png").write_bytes(b"no image")
    (folder / "train/dog/link.jpg").symlink_to("nowhere")
    with caplog.at_level(logging.WARNING, "automl"):
        task = folder_task(folder)
        data, test = task.load(None), task.test(None)
    assert len(data.train) + len(data.valid) + len(test) == 199
    (line,) = caplog.messages
    assert "2 of 201 images cannot be read: train/cat/007.png, train/dog/link.jpg" in line


def test_many_corrupt_images_are_refused(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", each=100)
    for number in range(9):
        (folder / f"train/cat/{number:03}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9 of 200 images .*004.png, \.\.\.; want at most 1%"):
        folder_task(folder).load(None)


def test_an_image_that_would_fill_the_memory_counts_as_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = photographs(tmp_path / "mine", each=100)
    (folder / "train/cat/big.png").write_bytes(encoded(noise(40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder_task(folder).load(None)
    assert "1 of 201 images cannot be read: train/cat/big.png" in caplog.text


def first_cat(folder: Path, **knobs: Any) -> torch.Tensor:
    """The first training image of an image folder whose other splits are given."""
    data = folder_task(folder, **knobs).load(None)
    return data.train.x[data.train.y == 0][0]


KINDS = {
    "grey": lambda image: image.convert("L"),
    "palette": lambda image: image.convert("P"),
    "transparent": lambda image: image.convert("RGBA"),
    "grey, transparent": lambda image: image.convert("LA"),
    "black and white": lambda image: image.convert("1"),
    "16 bit": lambda image: Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_read(kind: str, grey: bool, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    flat = Image.new("RGB", (20, 16), (255, 255, 255))
    flat.paste((0, 0, 0), (0, 0, 10, 16))
    KINDS[kind](flat).save(folder / "train/cat/000.png")
    x = first_cat(folder, size=8, grey=grey)
    assert x.shape == (1 if grey else 3, 8, 8)
    assert x[:, :, :3].max() == 0
    assert x[:, :, 5:].min() == 255


DEEP: dict[str, tuple[str, float, str, int]] = {  # a file's name, value and type, and the level
    "16 bits": ("000.png", 51 * 257, "uint16", 51),
    "16 bits, all dark": ("000.png", 255, "uint16", 0),
    "16 bits as PIL has a PGM": ("000.ppm", 255, "int32", 0),
    "16 of 32 bits": ("000.tif", 51 * 257, "int32", 51),
    "8 of 32 bits": ("000.tif", 51, "int32", 51),
    "fractions": ("000.tif", 0.2, "float32", 51),
    "all white": ("000.tif", 1, "float32", 255),
    "levels as floats": ("000.tif", 50.8, "float32", 51),
}


@pytest.mark.parametrize("case", DEEP)
def test_more_than_eight_bits_keep_their_levels(case: str, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    name, value, dtype, level = DEEP[case]
    (folder / "train/cat/000.png").unlink()
    Image.fromarray(np.full((9, 9), value, dtype)).save(folder / "train/cat" / name)
    assert (first_cat(folder, size=8) == level).all()


@pytest.mark.parametrize(
    ("shape", "count"),
    [((3, 8, 8), 1), ((8, 8, 3), 1), ((3, 9, 9), 1), ((5, 8, 8), 5), ((1, 8, 8), 1), ((8, 8), 1)],
)
def test_an_array_of_three_axes_is_one_image_or_a_batch_of_grey_ones(
    shape: tuple[int, ...], count: int
) -> None:
    assert len(Images((3, 8, 8)).read(np.zeros(shape, np.uint8))) == count
    assert len(Images((3, 8, 8)).read(torch.zeros(shape))) == count


OUTSIDE: dict[str, tuple[list[float], str, str]] = {
    "height in metres": ([-3, 4095], "float32", "from -3.0 to 4095.0; want 0 to 255, or fractions"),
    "no number": ([0, np.nan], "float32", "holds values that are not finite numbers"),
    "overshot": ([0, 1.25], "float32", "from 0.0 to 1.25; want 0 to 255, or fractions 0 to 1"),
    "32 bits": ([0, 70_000], "int32", "values reach from 0 to 70000; want 0 to 65535"),
    "negative": ([-1, 200], "int32", "values reach from -1 to 200; want 0 to 255"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_numbers_that_are_no_levels_are_told_with_the_file(case: str, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine")
    values, dtype, told = OUTSIDE[case]
    file = folder / "train/cat/000.tif"
    Image.fromarray(np.array([values] * 8, dtype)).save(file)
    with pytest.raises(DataError, match=rf"images cannot be read: train/cat/000.tif; .*{told}"):
        folder_task(folder).load(None)
    with pytest.raises(DataError, match=rf"^{file}: cannot be read as an image: .*{told}"):
        Images((3, 8, 8)).read(file)
    with Image.open(file) as opened, pytest.raises(DataError, match=rf"^image: .*{told}"):
        Images((3, 8, 8)).read(opened)


def half_seen(mode: str) -> Image.Image:
    """Black, of which the right half is transparent."""
    image = Image.new("LA", (20, 16), (0, 0))
    image.paste((0, 255), (0, 0, 10, 16))
    if mode == "P":
        image = image.getchannel("A").point(lambda alpha: alpha // 255)
        image.putpalette([0, 0, 0] * 2)
        image.info["transparency"] = 0
        return image
    return image.convert(mode)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode: str, grey: bool, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    half_seen(mode).save(folder / "train/cat/000.png")
    x = first_cat(folder, size=8, grey=grey)
    assert x[:, :, :3].max() == 0
    assert x[:, :, 5:].min() == 255
    shape = (1 if grey else 3, 8, 8)
    assert torch.equal(Images(shape).read(half_seen(mode)).x[0], x)


def test_truth_values_are_black_and_white() -> None:
    seen = noise(9, 8) > 127
    want = Images((1, 8, 8)).read(seen.astype(np.uint8) * 255).x
    assert torch.equal(Images((1, 8, 8)).read(seen).x, want)
    for same in torch.from_numpy(seen), torch.from_numpy(seen).bfloat16():
        assert torch.equal(Images((1, 8, 8)).read(same).x, want)
    with pytest.raises(DataError, match=r"image: got an array of shape \(\); want"):
        Images((1, 8, 8)).read(np.array(1))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (np.ones((8, 8), complex), "image: holds complex128; want real numbers"),
        (b"GIF", "image: is none of JPEG, PNG"),
        (np.array([["a"]]), "image: holds <U1; want real numbers"),
        ([], "image: got nothing; want at least one image"),
        (np.zeros((0, 8, 8)), "image: got nothing; want at least one image"),
        (np.zeros((2, 8)) - 0.5, "image: values reach from -0.5 to -0.5; want 0 to 255, or frac"),
        (Image.new("La", (8, 8)), "image: conversion from La to "),
        ([[[0, 1], [0]]], "image: "),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_holds_no_image_is_one_line(raw: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        Images((3, 8, 8)).read(raw)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_print_colours_are_read(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    Image.new("CMYK", (20, 20), (0, 0, 0, 255)).save(folder / "train/cat/000.jpg")
    (folder / "train/cat/000.png").unlink()
    assert first_cat(folder, size=8).max() < 10


def test_photographs_stand_upright(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    turned = Image.new("L", (400, 400))
    turned.paste(255, (0, 0, 200, 400))  # its left half, which is the top once turned
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    turned.save(folder / "train/cat/000.jpg", exif=exif)
    (folder / "train/cat/000.png").unlink()
    x = first_cat(folder, size=8, grey=True)[0]
    assert x[:3].min() > 250
    assert x[5:].max() < 5


def test_prediction_sees_the_pixels_that_training_saw(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    data = folder_task(folder, size=16).load(None)
    read = data.inputs.read([folder / "train/cat/000.png", folder / "train/cat/001.png"]).x
    assert torch.equal(read, data.train.x[:2])


@pytest.mark.parametrize("called", ["valid", "val"])
def test_a_validation_folder_is_the_validation_split(called: str, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "test")
    photographs(folder, called, each=3)
    task = folder_task(folder)
    data = task.load(None)
    assert [len(data.train), len(data.valid), len(task.test(None))] == [16, 6, 16]


def test_without_a_test_folder_15_percent_are_set_aside(tmp_path: Path) -> None:
    task = folder_task(photographs(tmp_path / "mine", cat=100, dog=40))
    assert task.test(None).y.bincount().tolist() == [15, 6]
    data = task.load(None)
    assert len(data.train) + len(data.valid) == 119


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=30),
    st.floats(0.01, 0.5),
    st.integers(0, 99),
)
def test_examples_that_are_the_same_are_on_one_side_of_a_split(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    """Each class of the three has two examples of its own besides, and one that it repeats."""
    rows = [*rows, *((k, 10 + 3 * n + k) for k in range(3) for n in (0, 1, 1))]
    y, x = torch.tensor(rows).unbind(1)
    for examples in (x.view(-1, 1).int(), pack(map(str, x.tolist()))):
        sides = stratified(Split(examples, y), share, seed, ("a", "b", "c"))
        assert sum(map(len, sides)) == len(rows)
        assert [side.y.unique().tolist() for side in sides] == [[0, 1, 2]] * 2
        assert not set.intersection(*(set(digests(side.x)) for side in sides))


def test_a_class_of_one_example_again_and_again_is_split_all_the_same() -> None:
    x = torch.tensor([1, 1, 1, 1, 2, 3, 1, 1]).view(-1, 1)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    stays, drawn = stratified(Split(x, y), 0.2, 0, ("a", "b", "c"))
    assert stays.y.tolist() == [0, 0, 0, 1, 2]
    assert drawn.y.tolist() == [0, 1, 2]


def test_a_class_that_is_mostly_one_example_keeps_most_of_its_others() -> None:
    x, y = torch.tensor([0] * 90 + [*range(1, 21)]).view(-1, 1), torch.tensor([0] * 100 + [1] * 10)
    stays, drawn = stratified(Split(x, y), 0.2, 0, ("a", "b"))
    assert [side.x[side.y == 0].unique().numel() for side in (stays, drawn)] == [9, 2]
    assert [side.y.bincount().tolist() for side in (stays, drawn)] == [[98, 8], [2, 2]]


def test_what_is_in_two_parts_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = photographs(tmp_path / "mine", "train", "test", each=4)
    folder_task(folder).load(None)
    assert not caplog.messages
    for part, number in (("test", "000"), ("valid", "001"), ("valid", "002")):
        same = (folder / "train" / "dog" / f"{number}.png").read_bytes()
        unpack(folder, {f"{part}/cat/again.png": same, f"{part}/dog/{number}.png": same})
    task = folder_task(folder)
    task.load(None)
    task.test(None)
    told = "with are in another split, too: no score on them tells of new ones"
    assert caplog.messages == [
        f"{folder}: 3 of 3 examples to validate {told}",
        f"{folder}: 2 of 9 examples to test {told}",
    ]


def test_files_of_every_suffix_are_read() -> None:
    formats = {Image.registered_extensions()[suffix] for suffix in SUFFIXES}
    assert formats == set(FORMATS)


def test_a_photograph_with_more_behind_it_is_read_as_that(tmp_path: Path) -> None:
    """As telephones store them, under .jpg: PIL calls it MPO."""
    first, second = (Image.fromarray(noise(40, 40, 3, seed=n)) for n in (0, 1))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "b.jpg", "JPEG")
    both = Images((3, 40, 40)).read([tmp_path / "a.jpg", tmp_path / "b.jpg"]).x
    assert torch.equal(both[0], both[1])


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine")
    unpack(folder / "train", {"cat/.hidden.png": b"", "cat/notes.txt": b"", ".git/1.png": b""})
    data = folder_task(folder).load(None)
    assert tuple(data.labels) == ("cat", "dog")


def test_a_path_may_be_relative_to_here_to_home_or_to_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    at_root = folder_task(Path("mine")).load(tmp_path)
    at_home = folder_task(Path("~/mine")).load(None)
    monkeypatch.chdir(tmp_path)
    here = folder_task(Path("mine")).load(None)
    assert same(at_root, at_home)
    assert same(at_root, here)


@pytest.mark.parametrize("name", ["imagefolder", "audiofolder", "textcsv", "textfile"])
def test_data_that_is_read_from_the_working_folder_in_place_of_the_named_one_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, named = tmp_path / "here", tmp_path / "named"
    photographs(here)
    for label in ("cat", "dog"):
        unpack(here / "train" / label, {"a.wav": b""})
    table = b"text,label\n" + b"so,a\nit,b\n" * 9
    unpack(here, {"train.csv": table, "text.txt": b"so it is. " * 99})
    named.mkdir()
    monkeypatch.chdir(here)
    given = Path("text.txt" if name == "textfile" else ".")
    task: Any = Task.of(name)
    for root in (None, here, Path(), named):
        task.source(root)
    if name.startswith("text"):
        task.source(Path("train.csv"))
    for root in (None, Path(), named):
        Task.of({"name": name, "path": str(here / given)}).source(root)
    said = [message for message in caplog.messages if "passing over" not in message]
    assert said == [f"{name}: not in {named / given}; reading {given.absolute()}"]


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "mine", "train", "valid", "test")
    task = folder_task(folder)
    assert len(task.load(None).train) == 16
    (folder / "train/cat/new.png").write_bytes(encoded(noise(9, 9, 3)))
    assert len(task.load(None).train) == 17


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda path: None, r"no folder train/ in .*; want train/<class>/<image>"),
    "no class": (lambda path: (path / "train").mkdir(parents=True), "got 0 class folders; want at"),
    "one class": (lambda path: photographs(path, cat=9), "got 1 class folders; want at least 2"),
    "empty class": (lambda path: photographs(path, cat=9, dog=0), r"dog: holds no images; want \."),
    "one image": (lambda path: photographs(path, cat=9, dog=1), "class 'dog': got 1 readable"),
    "unknown class": (
        lambda path: (photographs(path), photographs(path, "test", cat=2, cow=2)),
        "test/cow: class 'cow' is not in train/, which has cat, dog",
    ),
    "a name in Latin-1": (
        lambda path: photographs(path, **{"cat": 9, os.fsdecode(b"caf\xe9"): 9}),
        r"train: got the class folder 'caf\\udce9'; want UTF-8 names",
    ),
    "nothing to validate": (
        lambda path: (photographs(path), (path / "valid").mkdir()),
        r"valid: got no class folders; want valid/<class>/, or no valid/$",
    ),
    "test without classes": (
        lambda path: (photographs(path), unpack(path / "test", {"1.png": encoded(noise(9, 9, 3))})),
        r"test: got no class folders; want test/<class>/, or no test/$",
    ),
    "nothing readable to test": (
        lambda path: (
            photographs(path, each=60),
            unpack(path / "test", {"cat/1.png": b"damaged"}),
        ),
        r"mine: got no readable example to test with; want at least 1",
    ),
    "valid and val": (
        lambda path: photographs(path, "train", "valid", "val"),
        r"holds both valid/ and val/; want one of them",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_be_used_is_one_line(case: str, tmp_path: Path) -> None:
    build, message = FOLDERS[case]
    build(tmp_path / "mine")
    with pytest.raises(DataError, match=message) as caught:
        folder_task(tmp_path / "mine").load(None)
    assert "\n" not in str(caught.value)


def test_what_a_folder_of_images_holds_besides_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = photographs(tmp_path / "mine")
    task = Task.of({"name": "imagefolder", "path": str(place)})
    task.load(None)
    assert not caplog.messages
    (place / "train" / "cat" / "more").mkdir()
    (place / "train" / "dog" / "a.heic").write_bytes(b"")
    (place / "train" / "dog" / ".hidden").touch()
    task.load(None)
    told = f"{place}: passing over 2 of 18 entries, the first: {place}/train/cat/more; want .jpg"
    assert [message[: len(told)] for message in caplog.messages] == [told]
    caplog.clear()
    (place / "train" / "a.png").write_bytes(b"")
    (place / "train" / "labels.csv").write_bytes(b"")
    for name in ("validation", "Test", "studies"):
        (place / name).mkdir()
    task.load(None)
    entries, *folders = caplog.messages
    assert entries.startswith(f"{place}: passing over 3 of 19 entries, the first: {place}/train/a.")
    assert folders == [
        f"{place / name}: passing over the folder; want it called valid/ or test/"
        for name in ("Test", "validation")
    ]


def test_a_folder_task_without_a_path_reads_the_data_folder(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
    assert Task.of("imagefolder").shape(tmp_path)[1] == ("a", "b")


# The real sets, where they are.

REAL = Path(os.environ.get("AUTOML_DATA") or "/nowhere")
real = pytest.mark.skipif(
    not (REAL / "cifar10").is_dir(),
    reason="AUTOML_DATA names no folder with the real data sets",
)


@real
def test_cifar10_is_cifar10() -> None:
    task = Task.of("cifar10")
    data, test = task.load(REAL), task.test(REAL)
    assert [len(data.train), len(data.valid), len(test)] == [45_000, 5_000, 10_000]
    assert data.labels[0] == "airplane"
    assert data.labels[9] == "truck"
    assert test.y.bincount().tolist() == [1000] * 10
    pixels = torch.cat([data.train.x, data.valid.x]).float()
    assert (pixels.mean((0, 2, 3)) / 255).tolist() == pytest.approx(
        [0.4913, 0.4821, 0.4465], abs=1e-4
    )
    assert (pixels.std((0, 2, 3)) / 255).tolist() == pytest.approx(
        [0.2452, 0.2428, 0.2606], abs=1e-4
    )
    assert task.baseline(data)[1] > 0.3


@real
def test_fashion_mnist_is_fashion_mnist() -> None:
    task = Task.of("fashion-mnist")
    data, test = task.load(REAL), task.test(REAL)
    assert [len(data.train), len(data.valid), len(test)] == [54_000, 6_000, 10_000]
    assert data.labels[9] == "Ankle boot"
    pixels = torch.cat([data.train.x, data.valid.x]).float() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)
    assert task.baseline(data)[1] > 0.75


@real
def test_hymenoptera_is_a_folder_of_photographs(tmp_path: Path) -> None:
    with tarfile.open(REAL / "hymenoptera/hymenoptera-256.tar.xz") as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):  # 3.11.2 has no filter="data" yet
            file, content = tmp_path / member.name, tar.extractfile(member)
            file.parent.mkdir(parents=True, exist_ok=True)
            assert content is not None
            file.write_bytes(content.read())
    task = folder_task(tmp_path / "hymenoptera_data")
    data, test = task.load(None), task.test(None)
    assert tuple(data.labels) == ("ants", "bees")
    assert len(data.valid) == 153
    assert len(data.train) + len(test) == 244
    assert len(test) == 36
