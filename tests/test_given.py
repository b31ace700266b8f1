"""Images in arrays, in files as NumPy, Keras and MedMNIST write them; and data in memory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import automl
from automl.config import Task
from automl.data import Data
from automl.errors import DataError
from automl.given import kept
from automl.inputs.images import Images
from automl.inputs.series import Columns
from automl.inputs.text import unpack
from automl.tasks.arrays import LARGEST

pytestmark = pytest.mark.usefixtures("all_forked")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "cache"))


def pictures(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def classes(count: int) -> NDArray[np.int64]:
    return np.arange(count) % 3


def told(path: Path, **arrays: Any) -> Data:
    """What the task makes of a file of these arrays."""
    np.savez(path, **arrays)
    return Task.of("arrays").load(path)


SPELLED = {
    "numpy": ("x", "y", "x_valid", "y_valid", "x_test", "y_test"),
    "keras": ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
    "medmnist": (
        *("train_images", "train_labels", "val_images", "val_labels"),
        *("test_images", "test_labels"),
    ),
}


@pytest.mark.parametrize("names", SPELLED.values(), ids=SPELLED)
def test_arrays_are_known_by_the_names_that_others_give_them(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    parts = {n: pictures(30, 9, 8, seed=n) for n in range(3)}
    held: dict[str, Any] = {}
    for number, (x, y) in enumerate(zip(names[::2], names[1::2], strict=True)):
        held |= {x: parts[number], y: classes(30)[:, None]}  # a column, as MedMNIST has it
    data = told(tmp_path / "a.npz", **held)
    test = Task.of("arrays").test(tmp_path / "a.npz")
    for part, split in zip(parts.values(), (data.train, data.valid, test), strict=True):
        assert isinstance(split.x, torch.Tensor)
        assert np.array_equal(split.x[:, 0].numpy(), part)
        assert split.y.tolist() == classes(30).tolist()
    assert data.labels == ("0", "1", "2")
    assert isinstance(data.inputs, Images)
    assert data.inputs.shape == (1, 9, 8)


def test_what_is_missing_to_validate_and_to_test_is_drawn(tmp_path: Path) -> None:
    data = told(tmp_path / "a.npz", x=pictures(300, 8, 8), y=classes(300))
    test = Task.of("arrays").test(tmp_path / "a.npz")
    assert (len(data.train), len(data.valid), len(test)) == (231, 24, 45)  # of 85 of a class 8
    assert data.sealed == 45


LAYOUTS: dict[str, Callable[[NDArray[np.uint8]], NDArray[Any]]] = {
    "channels last": lambda x: x,
    "channels first": lambda x: x.transpose(0, 3, 1, 2),
    "column by column": np.asfortranarray,
    "other end first": lambda x: x.astype(">i4"),
    "floats": lambda x: x.astype(np.float64),
    "fractions": lambda x: (x / 255).astype(np.float32),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_pixels_are_the_same_however_they_lie(
    layout: Callable[[NDArray[np.uint8]], NDArray[Any]], tmp_path: Path
) -> None:
    x = pictures(60, 9, 8, 3)
    data = told(tmp_path / "a.npz", x=layout(x), y=classes(60), x_val=layout(x), y_val=classes(60))
    assert isinstance(data.valid.x, torch.Tensor)
    assert np.array_equal(data.valid.x.numpy(), x.transpose(0, 3, 1, 2))


def test_pictures_that_are_all_black_have_any_scale(tmp_path: Path) -> None:
    x = pictures(60, 8, 8).astype(np.float64)
    data = told(tmp_path / "a.npz", x=x, y=classes(60), x_val=0 * x, y_val=classes(60))
    assert isinstance(data.valid.x, torch.Tensor)
    assert not data.valid.x.any()


def test_truth_values_are_black_and_white(tmp_path: Path) -> None:
    x = pictures(60, 8, 8) > 127
    data = told(tmp_path / "a.npz", x=x, y=classes(60), x_val=x, y_val=classes(60))
    assert isinstance(data.valid.x, torch.Tensor)
    assert np.array_equal(data.valid.x[:, 0].numpy(), 255 * x)


LABELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "not from 0 on": (classes(60) * 5 + 7, ("7", "12", "17")),  # by number: 12 before 7 by text
    "below 0": (classes(60) - 1, ("-1", "0", "1")),
    "whole floats": (classes(60).astype(np.float32), ("0", "1", "2")),
    "texts": (np.array(["cat", "a  dog", "cow"])[classes(60)], ("a dog", "cat", "cow")),
    "truth values": (classes(60) > 0, ("False", "True")),
}


@pytest.mark.parametrize(("y", "labels"), LABELS.values(), ids=LABELS)
def test_classes_are_numbers_or_texts(y: Any, labels: tuple[str, ...], tmp_path: Path) -> None:
    x = pictures(60, 8, 8)
    data = told(tmp_path / "a.npz", x=x, y=y, x_val=x, y_val=y)
    assert data.labels == labels
    named = [" ".join(str(int(one) if y.dtype.kind == "f" else one).split()) for one in y]
    assert [data.labels[k] for k in data.valid.y] == named


X, Y = pictures(60, 8, 8), classes(60)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"y": Y}, "holds y; want x and y, or x_train and y_train, or train_images and"),
    "no classes": ({"x": X}, "holds x and no y; want a class for each image"),
    "both": ({"x": X, "y": Y, "x_train": X}, "holds both x and x_train; want one of them"),
    "rows": ({"x": X[:, 0], "y": Y}, r"x: got an array \(60, 8\); want \(N, H, W\), "),
    "alpha": ({"x": pictures(60, 8, 8, 4), "y": Y}, r"x: got an array \(60, 8, 8, 4\); want \(N"),
    "no height": ({"x": X[:, :0], "y": Y}, r"x: got an array \(60, 0, 8\); want \(N, H, W\), "),
    "one-hot": ({"x": X, "y": np.eye(3)[Y]}, r"y: got an array \(60, 3\) of float64; want \(N,\)"),
    "halves": ({"x": X, "y": Y / 2}, r"y: got an array \(60,\) of float64; want \(N,\) of whole"),
    "one class": ({"x": X, "y": 0 * Y}, "y: got 1 different classes; want 2 to 1,000"),
    "an empty text": ({"x": X, "y": np.array(["a", " ", "b"])[Y]}, "y: got an empty text; want"),
    "fewer classes": ({"x": X, "y": Y[1:]}, "y: got 59 classes for 60 images of x; want one for"),
    "no example": ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, "no readable example to te"),
    "a new class": (
        {"x": X, "y": Y, "x_test": X, "y_test": Y + 1},
        "y_test: got the class '3', which those to train with have not",
    ),
    "other images": (
        {"x": X, "y": Y, "x_test": pictures(60, 9, 8), "y_test": Y},
        r"x_test: got images \(1, 9, 8\); want \(1, 8, 8\) as those to train with",
    ),
    "other scales": (
        {"x": X / 255, "y": Y, "x_test": X, "y_test": Y},
        "x has values 0 to 1, and x_test larger ones; want the same scale",
    ),
    "16 bits": ({"x": X.astype(np.uint16) * 9, "y": Y}, "x: values reach from .*; want 0 to 255"),
    "below 0": ({"x": X - 128.0, "y": Y}, "x: values reach from -128.0 to 127.0; want 0 to 255"),
    "not a number": ({"x": X * np.nan, "y": Y}, "x: holds values that are not finite numbers"),
    "complex": ({"x": X * 1j, "y": Y}, "x: holds complex128; want real numbers"),
    "objects": ({"x": X, "y": Y.astype(object)}, "y: holds Python objects, which are never read"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
def test_arrays_that_cannot_be_used_are_one_line(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        told(tmp_path / "a.npz", **arrays)
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


def written(array: NDArray[Any], shape: tuple[int, ...] | None = None) -> bytes:
    """A .npy file, which may claim another shape."""
    file = io.BytesIO()
    np.save(file, array)
    if shape is None:
        return file.getvalue()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cannot be read as an .npz file"),
    "no archive": (b"PK" + b"\0" * 99, "cannot be read as an .npz file"),
    "no arrays": (archive(x=b"hello", y=written(Y)), "cannot be read as an .npz file"),
    "one array": (written(X), "cannot be read as an .npz file"),
    "a claim": (
        archive(x=written(X, (10**6, 4096, 4096)), y=written(Y)),
        f"x: an array .* of uint8; want at most {LARGEST:,} bytes",
    ),
    "a shorter one": (
        archive(x=written(X, (61, 8, 8)), y=written(np.append(Y, 0))),
        "x: cannot be read to its end",
    ),
    "a negative one": (archive(x=written(X, (-60, 8, 8)), y=written(Y)), "a.npz: x"),
    "code": (
        archive(x=written(X).replace(b"'shape': (60, ", b"'shape': (exit", 1), y=written(Y)),
        "cannot be read as an .npz file",
    ),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_files_of_others_are_hostile(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Task.of("arrays").load(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    named = f"arrays: no file {tmp_path / 'images.npz'} or {tmp_path} or images.npz; want an .npz"
    with pytest.raises(DataError, match=named):
        Task.of("arrays").load(tmp_path)


def test_arrays_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told(tmp_path / "a.npz", x=X, y=Y, weights=Y)
    assert caplog.messages == [f"{tmp_path / 'a.npz'}: passing over weights"]


def test_arrays_in_memory_are_kept_once_by_what_they_hold(tmp_path: Path) -> None:
    x, y = torch.rand(60, 3, 8, 8), np.array(["cat", "dog"] * 30, dtype=object)
    path = kept({"x": x, "y": y})
    before = path.stat()
    assert kept({"x": x.numpy(), "y": y.tolist()}) == path
    assert kept({"x": [*x], "y": y}) == path
    assert path.stat() == before
    assert kept({"x": 1 - x, "y": y}) != path
    assert kept({"x": x, "y": y[::-1]}) != path
    assert kept({"x_train": x, "y_train": y}) != path
    assert Task.of("arrays").load(path).labels == ("cat", "dog")
    assert len(list((tmp_path / "cache/given").iterdir())) == 4


@dataclass
class Frame:
    """As much of a data frame as is asked of one."""

    held: dict[Any, Any]
    index: Any = range(3)

    @property
    def columns(self) -> list[Any]:
        return list(self.held)

    def __getitem__(self, name: Any) -> Any:
        return self.held[name]


class Periods(list[str]):
    """As much of an index of periods as is asked of one."""

    def to_timestamp(self) -> list[date]:
        return [date.fromisoformat(f"{month}-01") for month in self]


DAYS = [date(2024, 1, 30), date(2024, 1, 31), date(2024, 2, 1)]
TABLES: dict[str, tuple[Any, list[str]]] = {
    "texts": (
        {"text": ["so, it", 'a "b"\nc', ""], "label": np.array([1, 0, 1])},
        ["text,label", '"so, it",1', '"a ""b""', 'c",0', ",1"],
    ),
    "numbers": (
        {"a": torch.tensor([0.5, 1, 2]), "b": np.array([0.1, np.nan, 1e9]), "c": (None, 1, True)},
        ["a,b,c", "0.5,0.1,", "1.0,,1", "2.0,1000000000.0,True"],
    ),
    "times": (
        {"t": np.array(DAYS, dtype="datetime64[ns]"), "d": DAYS},
        [
            "t,d",
            *(f"{day}T00:00:00.000000000,{day}" for day in DAYS),
        ],
    ),
    "a frame": (Frame({"a": [1, 2, 3]}), ["a", "1", "2", "3"]),
    "a frame without names": (
        Frame({0: [1, 2, 3], 1: [4, 5, None]}),
        ["rows,0,1", ",1,4", ",2,5", ",3,"],
    ),
    "a frame of times": (
        Frame({"a": [1, 2, 3]}, DAYS),
        ["date,a", "2024-01-30,1", "2024-01-31,2", "2024-02-01,3"],
    ),
    "a frame of periods": (
        Frame({"a": [Decimal("NaN"), 2]}, Periods(["2024-01", "2024-02"])),
        ["date,a", "2024-01-01,", "2024-02-01,2"],
    ),
}


@pytest.mark.parametrize(("data", "lines"), TABLES.values(), ids=TABLES)
def test_columns_in_memory_are_kept_as_a_table(data: Any, lines: list[str]) -> None:
    path = kept(data)
    assert path.suffix == ".csv"
    assert path.read_text().splitlines() == lines
    assert kept(data) == path


def test_a_table_from_memory_is_read_as_one_from_a_file() -> None:
    texts = [f"so it is {n}" for n in range(40)]
    task = Task.of("textcsv")
    data, test = (
        of(kept({"text": texts, "label": ["no", "yes"] * 20})) for of in (task.load, task.test)
    )
    assert data.labels == ("no", "yes")
    told = [text for split in (data.train, data.valid, test) for text in unpack(split.x)]
    assert sorted(told) == sorted(texts)
    rows = Task.of({"name": "seriescsv", "horizon": 2}).load(kept({"a": np.arange(400.0)}))
    assert isinstance(rows.inputs, Columns)
    assert rows.inputs.names == ("a",)
    called = Frame({2019: np.arange(400.0), 2020: np.arange(400.0)})  # by numbers, as in pandas
    rows = Task.of({"name": "seriescsv", "horizon": 2}).load(kept(called))
    assert isinstance(rows.inputs, Columns)
    assert rows.inputs.names == ("2019", "2020")
    assert rows.inputs.rows == 280


GIVEN: dict[str, tuple[Any, str]] = {
    "a number": (5, "data: got int; want a path, arrays or columns by name, or a data frame"),
    "a pair": ((X, Y), "data: got tuple; want a path, arrays"),
    "nothing": ({}, "data: got nothing; want columns with as many rows each"),
    "a misspelled name": ({"x": X, "x_tset": X}, "data: got an array 'x_tset'; did you mean 'x_te"),
    "objects": ({"x": X, "y": [None] * 60}, "data: y: holds Python objects; want numbers or texts"),
    "images of all sizes": ({"x": [X[0], X[0, 1:]], "y": Y[:2]}, "data: x: .*; want one array"),
    "rows of numbers": ({"a": X[:, 0]}, r"data: a: got ndarray; want a column, or images \(N, H, "),
    "a text": ({"a": "abc"}, "data: a: got str; want a column"),
    "lists now and then": ({"a": [1, [2]]}, "data: a: got a list in a column; want values"),
    "lengths": ({"a": [1, 2], "b": [1]}, "data: got 2 of 'a', 1 of 'b'; want columns with as many"),
}


@pytest.mark.parametrize(("data", "message"), GIVEN.values(), ids=GIVEN)
def test_what_cannot_be_used_in_memory_is_one_line(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        kept(data)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_arrays_in_memory_are_searched(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text(
        "task: arrays\nmodel: {name: mlp, widths: [{int: [4, 8]}]}\ntrain: {epochs: 9}\n"
    )
    y = classes(300)
    x = (pictures(300, 8, 8) // 4 + 90 * y[:, None, None]).astype(np.uint8)

    def study() -> automl.Study:
        return automl.search(
            space, data={"x": x, "y": y}, trials=2, studies=tmp_path, workers=1, device="cpu",
            finalists=0,
        )  # fmt: skip

    best = study().best
    assert [one.label for one in best.predict(x[:3])] == ["0", "1", "2"]
    assert study().best.metrics == best.metrics  # the same call goes on with the same data


def test_what_lies_in_memory_is_not_passed_over_by_a_task_with_data_of_its_own(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="data: got some for digits, which brings its own; want"):
        automl.search("digits", data={"x": X, "y": Y}, trials=1, studies=tmp_path)
    assert not any(tmp_path.iterdir())
