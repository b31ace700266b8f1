"""Tables: what is read of them, what models make of a row, what is told of it."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from test_sequence_models import stirred
from torch import Tensor, nn

import automl
from automl import cache
from automl.config import Config, Model, Optimizer, Task
from automl.data import Data, Split
from automl.errors import DataError, SpaceError
from automl.given import kept
from automl.inputs.columns import Cells, Row, Table, quantities, quantity, word
from automl.models.columns import Bins
from automl.models.tabm import Net
from automl.results import artifact
from automl.results.artifact import Artifact
from automl.results.judgement import judge
from automl.results.report import examples
from automl.tasks import tablecsv
from automl.training import train

pytestmark = pytest.mark.usefixtures("all_forked")

CPU = torch.device("cpu")
HEADER = ["size", "colour", "day", "empty", "name", "target"]


def table(count: int = 200, seed: int = 0) -> list[list[Any]]:
    """The target is said by the size, the colour and the day; nothing by the name."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        size, colour, day = (
            rng.gauss(50, 10),
            rng.choice(["red", "blue", "green"]),
            rng.randrange(28),
        )
        value = size / 10 + 3 * (colour == "red") + day / 7
        shown = "" if rng.random() < 0.1 else f"{size:.3f}"
        rows.append([shown, colour, f"2024-02-{day + 1:02d}", "", f"row {number}", f"{value:.4f}"])
    return rows


def sorted_out(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The same with a class for the target."""
    middle = sorted(float(row[-1]) for row in rows)[len(rows) // 2]
    return [[*row[:-1], "large" if float(row[-1]) > middle else "small"] for row in rows]


def written(
    folder: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER, name: str = "t.csv"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / name


class Frame:
    """As much of a data frame as is looked at."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows, self.columns = rows, list(rows[0])

    def __getitem__(self, name: str) -> Any:
        return np.array([row[name] for row in self.rows], dtype=object)

    def to_numpy(self) -> None:
        """A frame of NumPy's."""


class Twice(Frame):
    """One in which two columns have one name."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        super().__init__(rows)
        self.columns *= 2


class Dated(Frame):
    """One whose rows are called by times, and whose columns are no arrays, as those of polars."""

    index = tuple(datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 31))

    def __getitem__(self, name: str) -> Any:
        return [row[name] for row in self.rows]


class Month:
    """What pandas has for one: a date by its words alone."""

    def __str__(self) -> str:
        return "1970-02"


class Span:
    """What pandas has for a while, which calls itself by two names."""

    def __init__(self, hours: int) -> None:
        self.hours = hours

    def isoformat(self) -> str:
        return f"P0DT{self.hours}H0M0S"

    def __str__(self) -> str:
        return f"0 days {self.hours:02}:00:00"


def classes(path: Path, **knobs: Any) -> Data:
    return Task.of({"name": "tablecsv", **knobs}).load(path)


def regression(path: Path, **knobs: Any) -> Data:
    return Task.of({"name": "regressioncsv", **knobs}).load(path)


def kinds(data: Data) -> tuple[Sequence[str], dict[str, Sequence[str]]]:
    assert isinstance(data.inputs, Table)
    return data.inputs.numbers, dict(zip(data.inputs.named, data.inputs.words, strict=False))


# --- what is read


@pytest.mark.parametrize(
    ("cell", "mark", "told"),
    [
        ("1.5", ",", 1.5),
        ("1,5", ";", 1.5),
        (" 7", ",", 7.0),
        ("1970-01-11", ",", 10.0),
        ("1970-01-01T12:00:00", ",", 0.5),
        ("1970-01-01T12:00:00+12:00", ",", 0.0),
        (np.datetime64("1970-01-02T12:00:00"), ",", 1.5),
        (np.datetime64("NaT"), ",", math.nan),
        (np.timedelta64(3, "D"), ",", None),
        (Month(), ",", 31.0),
        (10**400, ",", None),
        (True, ",", 1.0),
        (np.float32(2.5), ",", 2.5),
        ("red", ",", None),
        ("inf", ",", None),
        (math.inf, ",", None),
        ([1], ",", None),
        *((nothing, ",", math.nan) for nothing in ("", "NA", "?", "null", None, math.nan)),
    ],
)
def test_a_cell_is_a_number_a_date_or_neither(cell: Any, mark: str, told: float | None) -> None:
    found = quantity(cell, mark)
    assert found == told or (found is not None and told is not None and math.isnan(found + told))


@pytest.mark.parametrize(
    "cells",
    [["1", "2.5"], ["1", ""], ["1e400", "1"], ["1_0", "2"], ["0x10", "2"], [1, None], [True, 2.5],
     ["2024-01-31", "1"], [[1, 2], [3, 4]], [math.inf, 1], ["nan", "inf"], ["٣", "1"], [],
     [np.datetime64("2024-01-31T12:00")], [np.timedelta64(1, "D"), 1], [10**400, 1]],
)  # fmt: skip
def test_cells_together_are_what_each_of_them_is(cells: list[Any]) -> None:
    alone = [quantity(cell, ",") for cell in cells]
    told = quantities(cells, ",")
    assert (told is None) == (None in alone)
    assert told is None or np.array_equal(told, np.array(alone, dtype=float), equal_nan=True)


@pytest.mark.parametrize(
    ("cell", "told"),
    [("red", "red"), (" red ", "red"), (3, "3"), (3.0, "3"), ("3.00", "3"), ("3.50", "3.50"),
     ("1.2.0", "1.2.0"), ("-1.0", "-1"), (True, "True"), (None, ""), (math.nan, ""), ("NaN", ""),
     ("<NA>", "")],
)  # fmt: skip
def test_a_word_is_the_same_however_it_is_held(cell: Any, told: str) -> None:
    assert word(cell) == told


def test_columns_are_numbers_or_words_and_some_tell_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = regression(written(tmp_path, table()))
    numbers, words = kinds(data)
    assert numbers == ("size", "day")
    assert words.keys() == {"colour"}
    assert {*words["colour"]} == {"red", "blue", "green"}
    counts = [(data.train.x[:, 2] == place).sum() for place in range(3)]
    assert len(data.train) + len(data.valid) + data.sealed == 200
    assert min(counts) > 20
    assert (
        "passing over 'empty', 'name': nothing but empty cells, or a word of its own" in caplog.text
    )


def test_what_may_surprise_in_a_column_is_said_by_every_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "cache"))
    rows = [[number % 90, 1_700_000_000 + number, 2e9 + number] for number in range(200)]
    rows[-1][0] = "total"
    path = written(tmp_path, rows, ["age", "seen", "target"])
    for _ in range(2):
        tablecsv._shape.cache_clear()
        caplog.clear()
        data = regression(path)
        assert kinds(data)[0] == ("seen",)
        assert (
            "column 'age' is not read as numbers: 1 of 200 cells are none, as line 201: 'total'"
            in (caplog.text)
        )
        for name in ("seen", "target"):
            assert f"column {name!r}: float32 rounds away" in caplog.text


def test_what_is_wanted_is_read_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path, table())
    assert kinds(regression(path, columns=["name", "day"]))[0] == ("day",)
    assert len(kinds(regression(path, columns=["name", "day"]))[1]["name"]) == 200
    assert kinds(regression(path, columns=["size"], names=["size"]))[0] == ()
    grouped = kinds(regression(path, group="colour"))
    assert "colour" not in grouped[1]


def test_a_column_without_a_name_is_the_numbers_of_the_rows(tmp_path: Path) -> None:
    rows = [[number, *row] for number, row in enumerate(table())]
    assert kinds(regression(written(tmp_path, rows, ["", *HEADER])))[0] == ("size", "day")


def test_a_table_may_be_cut_by_semicolons_with_commas_for_points(tmp_path: Path) -> None:
    plain = written(tmp_path, table())
    other = tmp_path / "other.csv"
    lines = [";".join(cell.replace(".", ",") for cell in row) for row in table()]
    other.write_text("\n".join([";".join(HEADER), *lines]))
    one, two = regression(plain), regression(other)
    assert torch.equal(one.train.x.nan_to_num(), two.train.x.nan_to_num())
    assert torch.equal(one.train.y, two.train.y)


def test_words_come_the_most_frequent_first_and_an_empty_cell_is_one(tmp_path: Path) -> None:
    rows = [["a", 1]] * 5 + [["", 2]] * 9 + [["b", 3]] * 6
    words = kinds(classes(written(tmp_path, rows, ["x", "target"])))[1]
    assert words == {"x": ("", "b", "a")}


@pytest.mark.parametrize(
    ("task", "rows", "header", "knobs", "told"),
    [
        ("tablecsv", table(), [*HEADER[:-1], "goal"], {},
         "no column is called 'target'; Known: colour, day, empty, goal, name, size.; name it in "
         "task.target"),
        ("tablecsv", table(), [*HEADER[:-2], "size", "target"], {},
         "2 columns are called 'size'; want one"),
        ("tablecsv", [], HEADER, {}, "got no rows"),
        ("tablecsv", [["", "x"]] * 9, ["a", "target"], {}, "got no column to read"),
        ("tablecsv", [[1, "x"]] * 9, ["a", "target"], {},
         "got 1 different labels in column 'target'; want 2 to 1,000"),
        ("tablecsv", [[n, n] for n in range(1001)], ["a", "target"], {},
         "got 1,001 different labels in column 'target'; want 2 to 1,000; a column of numbers is "
         "told by the task regressioncsv"),
        ("tablecsv", sorted_out(table()), HEADER, {"columns": ["colors"]},
         "no column is called 'colors'; did you mean 'colour'? Known: "),
        ("tablecsv", sorted_out(table()), HEADER, {"group": "person"},
         "no column is called 'person'; "),
        ("tablecsv", [[1, ""]] * 2 + [[1, "x"], [2, "y"]] * 20, ["a", "target"], {},
         "2 of 42 rows are of no use: lines 2, 3 (line 2: no 'target'); want at most 1%"),
        ("regressioncsv", sorted_out(table()), HEADER, {},
         "200 of 200 rows are of no use: lines 2, 3, 4, 5, 6, ... (line 2: 'target' is no numb"),
        ("regressioncsv", [[1, 1e39], [2, 2]], ["a", "target"], {},
         "column 'target': got a number beyond 3.4e+38"),
        ("regressioncsv", [["1e39", 1], [2, 2]], ["a", "target"], {},
         "got a number beyond 3.4e+38"),
        ("regressioncsv", [[n, "1.0" if n % 2 else 1] for n in range(30)], ["a", "target"], {},
         "got 1 in each row of column 'target'; want numbers that differ"),
        ("regressioncsv", table(), HEADER, {"columns": ["size"], "names": ["size", "day"]},
         "column 'day' is named as words or as a text; want it among those to read, too"),
        ("regressioncsv", table(), HEADER, {"columns": ["size"], "texts": ["day"]},
         "column 'day' is named as words or as a text; want it among those to read, too"),
        ("regressioncsv", [[1, n] for n in range(30)], ["a", "target"], {},
         "got 30 rows, all alike or of one group; want two that differ at least, to hold one out"),
        ("regressioncsv", [[n, n, "one"] for n in range(30)], ["a", "target", "who"],
         {"group": "who"}, "got 30 rows, all alike or of one group"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_one_line(
    task: str,
    rows: list[list[Any]],
    header: list[str],
    knobs: dict[str, Any],
    told: str,
    tmp_path: Path,
) -> None:
    path = written(tmp_path, rows, header)
    with pytest.raises(DataError) as caught:
        Task.of({"name": task, **knobs}).load(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_rows_without_a_target_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = table()
    rows[7][-1] = ""
    data = regression(written(tmp_path, rows))
    assert len(data.train) + len(data.valid) + data.sealed == 199
    assert "1 of 200 rows are of no use: line 9 (line 9: no 'target')" in caplog.text


def test_what_columns_are_is_found_once_for_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads = written(tmp_path, table()), []
    was = tablecsv.read

    def read(*given: Any, **more: Any) -> Any:
        reads.append(given)
        return was(*given, **more)

    monkeypatch.setattr(tablecsv, "read", read)
    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "cache"))
    task = Task.of("regressioncsv")
    first = task.shape(path)
    for _ in range(2):  # other processes
        tablecsv._shape.cache_clear()
        assert task.shape(path) == first
    assert len(reads) == 1
    (kept,) = (tmp_path / "cache").glob("regressioncsv-*.json")
    kept.write_text(kept.read_text()[:-9])
    tablecsv._shape.cache_clear()
    assert task.shape(path) == first
    assert len(reads) == 2
    written(tmp_path, table()[:-1])
    assert task.shape(path) == first
    assert len(reads) == 3


# --- texts

SAID = [
    "The plot is great, the cast too",
    "a GREAT film",
    "dull  plot",
    "",
    "But a dull film",
]


def spoken(count: int = 200) -> list[list[Any]]:
    """A text of its own in every row, and one word of it says the class."""
    rng, rows = random.Random(0), list[list[Any]]()
    for number in range(count):
        words = [f"word{rng.randrange(80)}" for _ in range(rng.randrange(3, 12))]
        words.insert(rng.randrange(len(words)), "good" if number % 2 else "Bad!")
        rows.append([rng.gauss(0, 1), " ".join(words), f"yes{number % 2}"])
    return rows


def told_of(path: Path, **knobs: Any) -> dict[str, int]:
    """The columns of texts, and how many words are read of each."""
    table = regression(path, **knobs).inputs
    assert isinstance(table, Table)
    return dict(zip(table.texts, table.lengths, strict=True))


def test_a_column_in_which_words_are_met_again_is_of_texts(tmp_path: Path) -> None:
    rng = random.Random(0)
    titles, names = ["Mr", "Mrs", "Miss", "Dr"], [f"Name{number}" for number in range(40)]
    rows = [
        [
            f"{rng.choice(names)}{number}, {rng.choice(titles)}. {rng.choice(names)}",
            f"id-{number:05}",
            f"{number:x}{number * 7919:x}",
            rng.choice(titles) + " and all",
            number,
        ]
        for number in range(300)
    ]
    path = written(tmp_path, rows, ["name", "id", "hash", "title", "target"])
    assert told_of(path) == {"name": 5}
    assert kinds(regression(path))[1].keys() == {"title"}
    assert told_of(path, texts=["title"]) == {"name": 5, "title": 3}
    assert told_of(path, texts=["title", "id"], length=2) == {"name": 2, "id": 2, "title": 2}
    assert told_of(path, names=["name"]) == {}
    assert told_of(path, columns=["name", "id"]) == {"name": 5}
    assert len(kinds(regression(path, columns=["name", "id"]))[1]["id"]) == 300
    with pytest.raises(DataError, match=r"t\.csv: column 'id' is named as words and as a text$"):
        regression(path, names=["id"], texts=["id"])
    with pytest.raises(DataError, match="no column is called 'tilte'; did you mean 'title'"):
        regression(path, texts=["tilte"])


def test_of_a_text_the_first_words_that_training_has_are_read(tmp_path: Path) -> None:
    rows = [[text, n] for n, text in enumerate(SAID * 9)]
    path = written(tmp_path, rows, ["said", "target"])
    data = regression(path, texts=["said"], length=4)
    table = data.inputs
    assert isinstance(table, Table)
    (words,) = table.words
    assert table.lengths == (4,)
    assert {*words} == {
        *("the", "plot", "is", "great", ",", "cast", "too", "a", "film", "dull", "but")
    }
    assert {*words[:5]} == {"plot", "great", "a", "film", "dull"}  # each in two texts of five
    inputs = fitted(data)
    told = inputs.read([{"said": text} for text in ["A new PLOT, great and dull film!", None, 7]])
    assert isinstance(told.x, Tensor)
    assert told.x[0].tolist() == [words.index(word) for word in ("a", "plot", ",", "great")]
    assert told.x[1:].isnan().all()
    places = inputs.prepare(told.x)
    assert (places[0] > 0).tolist() == [True, True, False, True]  # no comma is among the first
    assert not places[1:].any()
    x = torch.arange(float(len(words))).unsqueeze(1).expand(-1, 4)
    known = [word for word, place in zip(words, inputs.prepare(x)[:, 0], strict=True) if place]
    assert {*known} == {"the", "plot", "is", "great", "a", "film", "dull", "but"}
    assert inputs.prepare(x)[:, 0].unique().tolist() == [*range(9)]
    assert inputs.terms == [8]
    few = fitted(data, text_vocab=3)
    assert few.prepare(x)[:, 0].unique().tolist() == [*range(4)]
    rare = fitted(data, seen=12)
    assert 0 < rare.terms[0] < 8
    shown = table.described(torch.tensor([0.0, 2.0, math.nan, math.nan]))
    assert shown == f"said {words[0]} {words[2]}"
    assert table.described(torch.full((4,), math.nan)) == ""


def test_places_of_words_and_of_texts_lie_one_behind_the_other() -> None:
    x = torch.tensor([[1.0, -2.0, 0.0, 0.0, 0.0, 1.0, 2.0, math.nan, 0.0, 9.0]])
    assert BOTH.prepare(x)[0, 3:].tolist() == [2, 4, 2, 0, 0, 0, 3, 0]
    told = BOTH.recipe()
    assert told["shape"] == ["N", 10]
    assert told["words"] == {"d": ("x", "y", ""), "e": ("z",)}
    assert told["texts"] == {"f": ("p", "q"), "g": ("r",)}
    assert told["lengths"] == {"f": 4, "g": 2}


def test_texts_are_read_alike_from_wherever_they_come(tmp_path: Path) -> None:
    rows = [[text, n % 3, n] for n, text in enumerate([*SAID, "Ünwahr, 'so' — it's 3.50"] * 9)]
    path = written(tmp_path, rows, ["said", "size", "target"])
    data = regression(path, texts=["said"])
    inputs = fitted(data)
    again = Row().restore(json.dumps(inputs.facts()), lambda _: "")
    whole = inputs.read(path).x
    assert isinstance(whole, Tensor)
    assert whole.shape == (54, 1 + 10)
    held = [dict(zip(["said", "size"], row, strict=False)) for row in rows]
    held[3]["said"] = None
    for raw in (held, Frame(held)):
        told = again.read(raw).x
        assert isinstance(told, Tensor)
        assert torch.equal(told.nan_to_num(-9.0), whole.nan_to_num(-9.0))
    seen = {*map(tuple, data.train.x.nan_to_num(-9.0).tolist())}
    assert seen <= {*map(tuple, whole.nan_to_num(-9.0).tolist())}


@pytest.mark.parametrize("model", ["tabm", "ft-transformer"])
def test_a_model_reads_words_in_any_order_and_no_empty_places(model: str) -> None:
    net = stirred(built(model)).eval()
    with torch.no_grad():
        net.vectors.texts.table.weight[0] = 0  # where it begins, and what no gradient moves
    x = drawn(BOTH, 6)

    def told(*places: float) -> Tensor:
        x[:, -6:] = torch.tensor(places)
        answers: Tensor = net(x)
        return answers

    whole = told(1, 2, 0, 0, 3, 0)
    assert torch.allclose(told(0, 2, 0, 1, 0, 3), whole, atol=1e-5)
    assert not torch.allclose(told(0, 2, 0, 2, 0, 3), whole, atol=1e-3)
    vectors, embedded = net.vectors.parts(x)[-1], net.vectors.texts.table.weight
    assert torch.allclose(vectors[:, 0], embedded[2] * math.sqrt(2))
    assert torch.allclose(vectors[:, 1], embedded[3])


@pytest.mark.parametrize("model", ["tabm", "ft-transformer"])
def test_words_of_texts_are_zeroed_in_training(model: str) -> None:
    net = stirred(built({"name": model, "embedding_dropout": 0.9, "dropout": 0.0})).train()
    x = drawn(BOTH, 1).expand(20, -1).clone()
    x[:, -6:] = torch.tensor([1.0, 2, 0, 0, 3, 0])
    assert net(x).std(0).max() > 1e-3
    x[:, -6:] = 0
    assert net(x).std(0).max() < 1e-5


@pytest.mark.parametrize("number", [False, True])
def test_what_a_text_says_is_learned_and_the_baseline_knows_it(
    number: bool, tmp_path: Path
) -> None:
    rows = [[*row[:2], row[2][-1] if number else row[2]] for row in spoken(400)]
    path = written(tmp_path, rows, ["size", "review", "target"])
    kind = "regressioncsv" if number else "tablecsv"
    data, task = (regression if number else classes)(path), Task.of(kind)
    assert data.inputs.summary == "rows of 1 number and 1 text, target to tell"
    least = 0.35 if number else 0.95
    assert task.metric.better(task.baseline(data)[1], least)
    assert task.baseline(data) == task.baseline(data)
    for model in ("tabm", "ft-transformer"):
        part = {"name": model, "embedding_dropout": 0.3}
        last = trained(data, kind, part, epochs=15)[-1].metrics[task.metric.name]
        assert task.metric.better(last, least), model


def test_a_text_is_mixed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = classes(written(tmp_path, spoken(), ["size", "review", "target"]))
    asked = list[Tensor]()

    def evaluate(_model: nn.Module, split: Split, *_: Any) -> dict[str, float]:
        assert isinstance(split.x, Tensor)
        asked.append(split.x.nan_to_num(-1.0))
        return {"accuracy": -float((asked[-1] != asked[0])[:, 1:].sum())}

    monkeypatch.setattr(examples, "evaluate", evaluate)
    config = Config.of({"task": "tablecsv", "model": VARIANTS["one"]})
    model = Artifact(config, nn.Identity(), Row().fit(data), tuple(data.labels), {})
    assert [one.column for one in examples.leaned(model, data)] == ["review"]
    whole, size, review = asked
    assert torch.equal(size[:, 1:], whole[:, 1:])
    assert torch.equal(review[:, 0], whole[:, 0])
    assert sorted(review[:, 1:].tolist()) == sorted(whole[:, 1:].tolist())


def test_a_baseline_does_not_believe_what_it_made_of_words_that_it_had_seen(tmp_path: Path) -> None:
    rng, rows = random.Random(0), list[list[Any]]()
    for _ in range(600):
        words = (f"w{rng.randrange(600)}" for _ in range(8))
        size = rng.gauss(0, 1)
        rows.append([size, " ".join(words), "large" if size + rng.gauss(0, 0.3) > 0 else "small"])
    data = classes(written(tmp_path, rows, ["size", "said", "target"]), valid=0.3)
    assert Task.of("tablecsv").baseline(data)[1] > 0.85


def test_classes_beyond_those_of_a_linear_model_and_texts_without_a_word(tmp_path: Path) -> None:
    rows = [[f"w{n % 60} and w{n % 7}", "." if n < 3 else "", f"c{n % 60}"] for n in range(600)]
    path = written(tmp_path, rows, ["a", "b", "target"])
    data = classes(path, texts=["a", "b"])
    assert Task.of("tablecsv").baseline(data)[1] > 0.5


# --- splits


def folder_of(tmp_path: Path, header: list[str] = HEADER, **parts: list[list[Any]]) -> Path:
    for name, rows in parts.items():
        written(tmp_path, rows, header, f"{name}.csv")
    return tmp_path


@pytest.mark.parametrize("task", ["tablecsv", "regressioncsv"])
def test_a_folder_may_hold_all_parts(task: str, tmp_path: Path) -> None:
    of = sorted_out if task == "tablecsv" else list
    folder = folder_of(
        tmp_path, train=of(table(100)), valid=of(table(40, 1)), test=of(table(30, 2))
    )
    data = Task.of(task).load(folder)
    assert (len(data.train), len(data.valid), data.sealed) == (100, 40, 30)
    assert len(Task.of(task).test(folder)) == 30
    sizes = [float(row[0] or "nan") for row in table(40, 1)]
    assert isinstance(data.valid.x, Tensor)
    assert torch.allclose(data.valid.x[:, 0], torch.tensor(sizes), equal_nan=True)


def test_a_word_or_class_that_training_does_not_have(tmp_path: Path) -> None:
    odd = sorted_out(table(30, 2))
    odd[3][1] = "violet"
    folder = folder_of(tmp_path, train=sorted_out(table(100)), test=odd)
    test = Task.of("tablecsv").test(folder)
    assert isinstance(test.x, Tensor)
    assert test.x[3, 2].isnan()
    odd[4][-1] = "huge"
    folder_of(tmp_path, test=odd)
    told = "got 'huge' in column 'target', which is no class of the rows to train with; "
    with pytest.raises(DataError, match=told):
        Task.of("tablecsv").test(folder)
    odd[4][-1], odd[5][0] = "small", "tall"
    folder_of(tmp_path, test=odd)
    with pytest.raises(DataError, match="column 'size': got 'tall'; want a number"):
        Task.of("tablecsv").test(folder)


@pytest.mark.parametrize("task", ["tablecsv", "regressioncsv"])
def test_what_shares_a_group_is_on_one_side(task: str, tmp_path: Path) -> None:
    rows = [[n, n % 40, "yes" if n % 2 else "no"] for n in range(400)]
    if task == "regressioncsv":
        rows = [[*row[:2], n] for n, row in enumerate(rows)]
    path = written(tmp_path, rows, ["size", "who", "target"])
    part = Task.of({"name": task, "group": "who"})
    data = part.load(path)
    splits = (data.train.x, data.valid.x, part.test(path).x)
    people = [{int(size) % 40 for size in x[:, 0]} for x in splits]
    assert all(people)
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]


def test_each_row_may_be_a_group_of_its_own(tmp_path: Path) -> None:
    rows = [[*row, number] for number, row in enumerate(table(100))]
    data = regression(written(tmp_path, rows, [*HEADER, "who"]), group="who")
    assert (len(data.train), len(data.valid), data.sealed) == (77, 8, 15)


def test_copies_of_a_row_are_on_one_side(tmp_path: Path) -> None:
    path = written(tmp_path, [[n % 50, n % 50] for n in range(400)], ["size", "target"])
    data = regression(path)
    test = Task.of("regressioncsv").test(path)
    sides = [{*x[:, 0].tolist()} for x in (data.train.x, data.valid.x, test.x)]
    assert sum(map(len, sides)) == 50
    assert 0.8 < len(data.train) / 400 * (1 / 0.85) / 0.9 < 1.2


@pytest.mark.parametrize("task", ["tablecsv", "regressioncsv"])
@pytest.mark.parametrize("often", [4, 40])
def test_rows_that_chance_makes_equal_are_on_all_sides(
    often: int, task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those with different targets, and all of a table that says the same again and again."""
    kinds = [(a, b) for a in ("first", "second", "third") for b in ("man", "woman", "child", "?")]
    rng = random.Random(0)
    rows = [[a, b, n if often < 10 else len(a)] for a, b in kinds for n in range(often)]
    rng.shuffle(rows)
    header = ["class", "who", "target"]
    path = written(tmp_path, rows, header)
    part = Task.of({"name": task, "valid": 0.3})
    data, test = part.load(path), part.test(path)
    assert isinstance(data.train.x, Tensor)
    seen = {*map(tuple, data.train.x.nan_to_num().tolist())}
    for split in (data.valid, test):
        assert isinstance(split.x, Tensor)
        again = [tuple(row) in seen for row in split.x.nan_to_num().tolist()]
        assert sum(again) > 0.6 * len(again)
    if often > 10:
        part.load(folder_of(tmp_path / "parts", header, train=rows, test=rows[:50]))
    assert "another split" not in caplog.text


@pytest.mark.parametrize("task", ["tablecsv", "regressioncsv"])
def test_loading_training_data_never_opens_the_test_split(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, sorted_out(table()) if task == "tablecsv" else table())
    first = Task.of(task).load(path)
    opened = []

    def read(file: Path, part: str) -> Any:
        opened.append(part)
        return was(file, part)

    was = cache.read
    monkeypatch.setattr(cache, "read", read)
    again = Task.of(task).load(path)
    assert {*opened} == {"train"}
    assert again.fingerprint == first.fingerprint
    assert Task.of({"name": task, "valid": 0.3}).load(path).fingerprint != first.fingerprint
    assert Task.of({"name": task, "columns": ["day"]}).load(path).fingerprint != first.fingerprint


# --- what a model reads


def fitted(data: Data, **knobs: Any) -> Cells:
    return Row(**knobs).fit(data)


def test_a_number_is_its_distance_from_the_median_and_never_far(tmp_path: Path) -> None:
    rows = [[n, n] for n in range(1, 102)] + [[1e9, 5]]
    data = regression(written(tmp_path, rows, ["size", "target"]), valid=0.01, sealed=0.01)
    inputs = fitted(data)
    assert isinstance(data.train.x, Tensor)
    x = inputs.prepare(data.train.x)
    known = data.train.x[:, 0]
    low, middle, high = torch.quantile(known, torch.tensor([0.25, 0.5, 0.75]))
    z = (known - middle) / (high - low)
    assert torch.allclose(x[:, 0], z / (1 + (z / 3) ** 2).sqrt(), atol=1e-5)
    assert x.abs().max() <= 3


@pytest.mark.parametrize("far", [1e7, 1e20, 1e30, 3e38])
def test_a_number_as_large_as_there_are_is_far_off(far: float, tmp_path: Path) -> None:
    rows = [[n / 1e4, -n, n] for n in range(100)]
    inputs = Row().fit(regression(written(tmp_path, rows, ["small", "below", "target"])))
    told = inputs.prepare(torch.tensor([[far, far], [-far, -far]]))
    assert torch.allclose(told, torch.tensor([[3.0, 3.0], [-3.0, -3.0]]), atol=1e-3)


def test_what_is_not_known_is_0_and_said_to_be_so(tmp_path: Path) -> None:
    data = regression(written(tmp_path, table()))
    inputs = fitted(data)
    assert inputs.gaps == (0,)  # no day is missing
    x = inputs.prepare(torch.tensor([[math.nan, 19_760.0, 0.0], [50.0, math.nan, 1.0]]))
    assert x[0, 0] == 0
    assert x[:, 2].tolist() == [1, 0]
    assert x[1, 1] == 0


def test_rare_words_share_a_place_and_so_does_what_is_no_word(tmp_path: Path) -> None:
    words = ["a"] * 60 + ["b"] * 30 + ["c"] * 10 + ["d"]
    rows = [[word, n % 7, n] for n, word in enumerate(words)]
    folder_of(tmp_path, train=rows, valid=rows[:9], test=rows[:9], header=["x", "z", "target"])
    data = regression(tmp_path, names=["z"])

    def places(of: Sequence[float], **knobs: Any) -> list[float]:
        inputs = fitted(data, **knobs)
        return inputs.prepare(torch.tensor([[place, math.nan] for place in of]))[:, 0].tolist()

    known = [0.0, 1, 2, 3]
    assert places(known) == [1, 2, 3, 0]
    assert places(known, seen=1) == [1, 2, 3, 4]
    assert places(known, vocab=2) == [1, 2, 0, 0]
    assert places([math.nan, -1, 4, 1e9], seen=1) == [0, 0, 0, 0]
    inputs = fitted(data)
    assert inputs.sizes == [4, 8]
    second = inputs.prepare(torch.tensor([[0.0, place] for place in [math.nan, 0, 6, 7]]))[:, 1]
    assert second.tolist() == [4, 5, 11, 4]  # behind those of the first column
    assert max(inputs.prepare(data.train.x)[:, 1]) < sum(inputs.sizes)


def test_a_model_names_the_words_that_it_knows(tmp_path: Path) -> None:
    words = [f"w{k}" for k in range(10) for _ in range(9 * 2 ** (9 - k))]
    rows = [[word, n] for n, word in enumerate(words)]
    data = regression(written(tmp_path, rows, ["x", "target"]), columns=["x"])
    whole, some = (Row.of({"name": "row", "seen": 1, "vocab": most}).fit(data) for most in (99, 3))
    assert len(whole.words[0]) == 10
    assert some.words[0] == whole.words[0][:3]
    x = torch.arange(10.0).unsqueeze(1)
    assert whole.prepare(x).unique().tolist() == [*range(1, 11)]
    assert some.prepare(x).flatten().tolist() == [*some.places[0], *[0] * 7]
    frame = [{"x": word} for word in whole.words[0]]
    assert some.prepare(some.read(frame).x).tolist() == some.prepare(x).tolist()


def test_rows_are_read_alike_from_wherever_they_come(tmp_path: Path) -> None:
    rows = table(60)
    path = written(tmp_path, rows)
    inputs = fitted(regression(path))
    whole = inputs.read(path).x
    assert isinstance(whole, Tensor)
    mappings = [dict(zip(HEADER, row, strict=True)) for row in rows]
    held = [{**row, "size": float(row["size"] or "nan"), "empty": None} for row in mappings]
    for raw in (str(path), mappings, held, Frame(held)):
        told = inputs.read(raw).x
        assert isinstance(told, Tensor)
        assert torch.equal(told.nan_to_num(-9.0), whole.nan_to_num(-9.0)), raw
    assert torch.equal(inputs.read(mappings[0]).x.nan_to_num(), whole[:1].nan_to_num())


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1"])
def test_rows_of_a_file_are_in_the_encoding_of_the_table(encoding: str, tmp_path: Path) -> None:
    text = "größe,target\n" + "".join(f"{'weiß' if n % 2 else 'grün'},{n}\n" for n in range(60))
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    inputs = Row().fit(regression(path, encoding=encoding))
    facts = json.dumps(inputs.facts())
    assert Row().restore(facts, lambda _: "").read(path).x.tolist() == [[n % 2] for n in range(60)]
    for other in ("utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(other))
        assert inputs.read(path).x[1].tolist() == [1]
    path.write_bytes(text.encode("cp1252") + b"\x81,3\n")
    if encoding != "latin-1":  # which has all bytes
        with pytest.raises(DataError, match=r"got the byte 0x[0-9a-f]+; want \S+ text$"):
            inputs.read(path)


def test_no_row_of_a_file_is_left_without_an_answer(tmp_path: Path) -> None:
    inputs = Row().fit(regression(written(tmp_path, table())))
    rows = table()
    rows[4] = [*rows[4], "more"]
    with pytest.raises(DataError, match="line 6: got 7 cells, want 6; want every row whole"):
        inputs.read(written(tmp_path, rows, name="new.csv"))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (3, "rows: got int; want a mapping of columns to values"),
        ([3], "rows: got int; want a mapping"),
        ([], "rows: got none; want one at least"),
        ({"size": 1, "day": 2}, "rows: no column is called 'colour'; Known: day, size."),
        ({"size": "x", "day": 2, "colour": 1}, "rows: column 'size': got 'x'; want a number"),
        ({"size": 1, "day": 2, "colour": ["red", "blue"]},
         "rows: got list in column 'colour'; want a value, or a list of rows"),
        ({"size": 1, "day": 2, "colour": np.array(["red"])},
         "rows: got ndarray in column 'colour'; want a value, or a list of rows"),
        (Twice([{"size": 1}]), "rows: 2 columns are called 'size'; want one"),
        ("none.csv", "none.csv: cannot be read: No such file"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_told(raw: Any, told: str, tmp_path: Path) -> None:
    inputs = fitted(regression(written(tmp_path, table())))
    with pytest.raises(DataError) as caught:
        inputs.read(raw)
    assert told in str(caught.value)


FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fewer medians": lambda facts: facts["middle"].pop(),
    "no deviation": lambda facts: facts.update(std=None),
    "a gap beyond": lambda facts: facts["gaps"].append(9),
    "a place beyond": lambda facts: facts["places"][0].__setitem__(0, 10**9),
    "a place below": lambda facts: facts["places"][0].__setitem__(0, -1),
    "fewer places": lambda facts: facts["places"][0].pop(),
    "no words": lambda facts: facts.update(words=[]),
    "a place of a text beyond": lambda facts: facts["places"][1].__setitem__(0, 10**9),
    "a text without a length": lambda facts: facts.update(lengths=[]),
    "a length without a text": lambda facts: facts.update(texts=[]),
    "nothing": lambda facts: facts.update(
        **{name: [] for name in ("numbers", "middle", "scale", "gaps", "named")},
        **{name: [] for name in ("texts", "lengths", "words", "places")},
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_facts_that_do_not_fit_together_are_refused(case: str, tmp_path: Path) -> None:
    inputs = fitted(regression(written(tmp_path, table()), texts=["name"]))
    facts = json.loads(json.dumps(inputs.facts()))
    assert Row().restore(json.dumps(facts), lambda _: "") == inputs
    FAULTS[case](facts)
    with pytest.raises(DataError, match="row: what is told of numbers and words does not fit"):
        Row().restore(json.dumps(facts), lambda _: "")


# --- models

FAMILIES = [name for name, family in Model.members().items() if "columns" in family.reads]
VARIANTS: dict[str, Any] = {name: name for name in FAMILIES} | {
    "one": {"name": "tabm", "ensemble": 1, "residual": True},
    "periodic": {"name": "tabm", "ensemble": 3, "numbers": "periodic"},
    "piecewise": {"name": "tabm", "ensemble": 1, "numbers": {"name": "piecewise", "bins": 4}},
    "linear": {"name": "tabm", "ensemble": 2, "numbers": "linear", "width": 16, "residual": True},
    "ft-piecewise": {"name": "ft-transformer", "numbers": "piecewise", "layers": 1},
}
variants = pytest.mark.parametrize("model", VARIANTS.values(), ids=list(VARIANTS))
BOTH = Cells(
    *("told", ("a", "b"), (3.0, -2.0), (4.0, 0.5), (1,)),
    *(("d", "e"), (("x", "y", ""), ("z",), ("p", "q"), ("r",)), ((2, 1, 0), (1,), (2, 0), (1,))),
    texts=("f", "g"),
    lengths=(4, 2),
)
ONLY_NUMBERS = replace(BOTH, named=(), words=(), places=(), texts=(), lengths=())
ONLY_WORDS = replace(BOTH, numbers=(), middle=(), scale=(), gaps=(), texts=(), lengths=())
ONLY_WORDS = replace(ONLY_WORDS, words=BOTH.words[:2], places=BOTH.places[:2])
ONLY_TEXTS = replace(BOTH, numbers=(), middle=(), scale=(), gaps=(), named=())
ONLY_TEXTS = replace(ONLY_TEXTS, words=BOTH.words[2:], places=BOTH.places[2:])


STILL = {"dropout": 0.0, "embedding_dropout": 0.0}


def drawn(inputs: Cells, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, inputs.features, generator=generator)
    words = torch.randint(0, max(1, sum(inputs.sizes)), (count, 2), generator=generator)
    texts = torch.randint(0, 4, (count, 6), generator=generator)
    told = words[:, : len(inputs.named)], texts[:, : sum(inputs.lengths)]
    return torch.cat([x, *told], 1)


def built(model: Any, inputs: Cells = BOTH, outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return Model.of(model).build(inputs, outputs)


@variants
@pytest.mark.parametrize("inputs", [BOTH, ONLY_NUMBERS, ONLY_WORDS, ONLY_TEXTS])
def test_a_row_gives_one_logit_a_class(model: Any, inputs: Cells) -> None:
    net = built(model, inputs).eval()
    assert net(drawn(inputs, 7)).shape == (7, 5)
    number = replace(inputs, mean=0.0, std=1.0)
    assert built(model, number, 1).eval()(drawn(inputs, 7)).shape == (7, 1)


@variants
def test_seeds_copies_and_the_meta_device(model: Any) -> None:
    net, same = built(model), built(model)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    other = stirred(built(model))
    other.load_state_dict(net.state_dict())
    x = drawn(BOTH, 6)
    assert torch.equal(net.eval()(x), other.eval()(x))
    with torch.device("meta"):
        bare = Model.of(model).build(BOTH, 5).eval()
        assert bare(x.to("meta")).shape == (6, 5)


@variants
def test_every_weight_learns(model: Any) -> None:
    net = stirred(built(model)).requires_grad_(True).train()
    task, y = Task.of("tablecsv"), torch.arange(32) % 5
    task.loss(net(drawn(BOTH, 32)), y).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


@variants
def test_an_answer_does_not_depend_on_chance_or_on_the_batch(model: Any) -> None:
    net = stirred(built(model)).eval()
    x = drawn(BOTH, 9)
    whole = net(x)
    assert torch.allclose(net(x), whole)
    assert torch.allclose(net(x[3:5]), whole[3:5], atol=1e-5)


@variants
def test_bfloat16_answers_nearly_the_same(model: Any) -> None:
    net = stirred(built(model)).eval()
    x = drawn(BOTH, 16)
    with torch.autocast("cpu", torch.bfloat16):
        told = net(x).float()
    assert (told.softmax(1) - net(x).softmax(1)).abs().max() < 0.05


@variants
def test_biases_and_scales_do_not_decay(model: Any) -> None:
    net = built(model)
    groups = Optimizer.of("adamw").build(net).param_groups
    spared = {id(w) for group in groups if not group["weight_decay"] for w in group["params"]}
    for name, weight in net.named_parameters():
        alone = name.endswith(("bias", "given", "taken", "asked")) or "norm" in name
        assert (id(weight) in spared) == (alone or weight.ndim < 2), name


def test_members_learn_each_for_itself_and_answer_by_the_mean_of_their_shares() -> None:
    net = stirred(built({"name": "tabm", "ensemble": 3, **STILL}))
    x, y = drawn(BOTH, 8), torch.arange(8) % 5
    each = net.train()(x)
    assert each.shape == (8, 3, 5)
    assert torch.allclose(net.eval()(x).exp(), each.softmax(2).mean(1), atol=1e-6)
    loss = Task.of("tablecsv").loss(each, y, 0.1)
    alone = [Task.of("tablecsv").loss(each[:, k], y, 0.1) for k in range(3)]
    assert torch.allclose(loss, torch.stack(alone).mean())
    number = stirred(
        built({"name": "tabm", "ensemble": 3, **STILL}, replace(BOTH, mean=0.0, std=1.0), 1)
    )
    each = number.train()(x)
    assert torch.allclose(number.eval()(x), each.mean(1), atol=1e-6)
    task, came = Task.of("regressioncsv"), torch.randn(8)
    wanted = (each.squeeze(2) - came.unsqueeze(1)).square().mean()
    assert torch.allclose(task.loss(each, came), wanted)


def test_weights_of_classes_count_for_every_member() -> None:
    each, y, weights = torch.randn(6, 3, 4), torch.arange(6) % 4, torch.tensor([1.0, 2.0, 3.0, 4.0])
    task = Task.of("tablecsv")
    alone = [task.loss(each[:, k], y, 0.0, weights) for k in range(3)]
    assert torch.allclose(task.loss(each, y, 0.0, weights), torch.stack(alone).mean())


def test_bins_hold_as_many_training_rows_each() -> None:
    bins = Bins(2, 3, 4)
    x = torch.stack([torch.arange(101.0), torch.tensor([0.0] * 90 + [1.0] * 11)], 1)
    bins.fit(x)
    assert torch.allclose(bins.start[0], torch.tensor([0.0, 25, 50, 75]))
    assert torch.allclose(bins.rate[0], torch.full((4,), 1 / 25))
    assert bins.rate[1].tolist() == [0, 0, 0, 1]  # where all rows are alike there is no bin
    with torch.no_grad():
        bins.linear.weight.copy_(
            torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]])
        )
        bins.linear.bias.zero_()
    told = bins(torch.tensor([[60.0, 1.0], [-5.0, 0.5]]))
    assert torch.allclose(told[0, 0], torch.tensor([2.4, 60.0, 0]))
    assert torch.allclose(told[1, 0], torch.tensor([0.0, -5.0, 0]))


def test_bins_are_learned_ahead_of_the_first_step_and_stay(tmp_path: Path) -> None:
    data = regression(written(tmp_path, table()))
    inputs = fitted(data)
    part = Model.of({"name": "tabm", "numbers": "piecewise"})
    net = part.build(inputs, 1)
    state = torch.get_rng_state()
    part.begin(net, inputs, inputs.encode(data.train))
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(net, Net)
    bins = net.vectors.encoded
    assert isinstance(bins, Bins)
    assert isinstance(data.train.x, Tensor)
    x = inputs.prepare(data.train.x)[:, :2]
    assert torch.allclose(bins.start[:, 0], x.amin(0))
    inside = [(x[:, 1] >= start).float().mean().item() for start in bins.start[1]]
    assert all(abs(a - b) < 0.08 for a, b in zip(inside, np.linspace(1, 1 / 16, 16), strict=True))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"name": "tabm", "ensemble": 0}, "ensemble: got 0; want at least 1"),
        ({"name": "tabm", "numbers": "waves"}, "numbers: no encoding is called 'waves'; "),
        ({"name": "tabm", "numbers": {"name": "piecewise", "bins": 1}}, "bins: got 1; want at"),
        (
            {"name": "ft-transformer", "numbers": None},
            "numbers: got None; want the name of",
        ),
    ],
)
def test_a_wrong_knob_is_told_with_its_place(model: Any, told: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Model.of(model)
    assert told in str(caught.value)


# --- what is told


def trained(data: Data, task: str, model: Any, **knobs: Any) -> list[Any]:
    config = Config.of(
        {
            "task": task,
            "model": model,
            "optimizer": {"name": "adamw", "lr": 5e-3},
            "train": {"epochs": 30, "batch_size": 16, **knobs},
        }
    )
    return list(train(config, data, device=CPU))


@pytest.mark.parametrize("model", ["one", "piecewise", "tabm", "ft-transformer"])
def test_numbers_are_learned_from_numbers_words_and_dates(model: str, tmp_path: Path) -> None:
    data = regression(written(tmp_path, table(400)))
    last = trained(data, "regressioncsv", VARIANTS[model])[-1].metrics
    assert last["rmse"] < 0.55  # of sizes one in ten is not known
    assert last["r2"] > 0.7


def test_classes_are_learned(tmp_path: Path) -> None:
    data = classes(written(tmp_path, sorted_out(table(400))))
    assert trained(data, "tablecsv", VARIANTS["piecewise"])[-1].metrics["accuracy"] > 0.85


def test_the_same_seed_trains_to_the_last_digit(tmp_path: Path) -> None:
    data = regression(written(tmp_path, table()))
    one, two = (trained(data, "regressioncsv", VARIANTS["periodic"], epochs=3) for _ in range(2))
    assert [epoch.metrics for epoch in one] == [epoch.metrics for epoch in two]


@pytest.mark.parametrize("score", ["rmse", "mae"])
def test_errors_are_those_of_scikit_learn(score: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    came, told = rng.normal(size=50), rng.normal(size=50)
    task = Task.of({"name": "regressioncsv", "score": score})
    parts = zip(torch.tensor(told).split(20), torch.tensor(came).split(20), strict=True)
    tally: dict[str, Tensor] = {}
    for some, y in parts:
        tally = task.joined(tally, task.tally(some.unsqueeze(1), y))
    scores = task.scores(tally, Split(torch.zeros(50), torch.zeros(50)))
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(came, told))
    assert scores["mae"] == pytest.approx(mean_absolute_error(came, told))
    assert scores["r2"] == pytest.approx(r2_score(came, told))
    assert scores["loss"] == pytest.approx(
        scores["rmse"] ** 2 if score == "rmse" else scores["mae"]
    )


@pytest.mark.parametrize("count", [2, 18, 1000])
def test_of_targets_that_are_all_alike_no_variance_is_told(count: int) -> None:
    task = Task.of("regressioncsv")
    for target in torch.linspace(-3, 3, 100):  # sums of some round to a variance
        y = target.expand(count)
        assert task.scores(task.tally(torch.zeros(count, 1), y), Split(y, y))["r2"] == 0


@pytest.mark.parametrize(
    ("score", "name"), [("rmse", "telling the mean"), ("mae", "telling the median")]
)
def test_who_learns_nothing_tells_what_costs_least(score: str, name: str, tmp_path: Path) -> None:
    rows = [[n, 0 if n % 4 else 1000 + n] for n in range(400)]
    path = written(tmp_path, rows, ["size", "target"])
    task = Task.of({"name": "regressioncsv", "score": score})
    data = task.load(path)
    y = data.valid.y.double()
    off = y - (data.train.y.double().mean() if score == "rmse" else data.train.y.median())
    wanted = off.square().mean().sqrt() if score == "rmse" else off.abs().mean()
    told = task.chance(data)
    assert told[0] == name
    assert told[1] * data.train.y.double().std(correction=0) == pytest.approx(
        float(wanted), rel=1e-5
    )


@pytest.mark.parametrize("task", ["tablecsv", "regressioncsv"])
def test_the_baseline_learns_and_is_the_same_twice(task: str, tmp_path: Path) -> None:
    path = written(tmp_path, sorted_out(table(600)) if task == "tablecsv" else table(600))
    part = Task.of(task)
    data = part.load(path)
    name, score = part.baseline(data)
    assert name == "gradient boosting"
    assert part.metric.better(score, 0.8 if task == "tablecsv" else 0.6)
    assert part.baseline(data) == (name, score)


def test_a_baseline_knows_columns_of_many_words(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [[f"w{int(rng.paretovariate(0.3)) % 900}", n % 3] for n in range(3000)]
    data = classes(written(tmp_path, rows, ["x", "target"]), columns=["x"])
    assert len(kinds(data)[1]["x"]) > 255
    Task.of("tablecsv").baseline(data)


def test_a_baseline_knows_a_class_of_one_row_among_many(tmp_path: Path) -> None:
    rows = [[n % 977, n % 2] for n in range(14_000)] + [[n, "rare"] for n in (2000, 3000, 4000)]
    data = classes(written(tmp_path, rows, ["x", "target"]))
    assert len(data.train) > 10_000  # from here on it stops early
    assert data.train.y.bincount().tolist()[2] == 1
    Task.of("tablecsv").baseline(data)


class Told(nn.Module):
    """Tells the first number of a row."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


@pytest.mark.parametrize(
    ("score", "degrees", "truth", "least"),
    [
        ("rmse", 0, 1.0, 88),
        ("rmse", 3, math.sqrt(3), 75),
        ("mae", 0, math.sqrt(2 / math.pi), 90),
        ("mae", 3, 2 * math.sqrt(3) / math.pi, 90),
    ],
)
def test_the_interval_holds_the_error_on_all_such_rows(
    score: str, degrees: int, truth: float, least: int
) -> None:
    inputs = Cells("y", ("a",), (0.0,), (1.0,), (), (), (), (), 0.0, 1.0)
    task, held = Task.of({"name": "regressioncsv", "score": score}), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        errors = rng.standard_t(degrees, 150) if degrees else rng.normal(size=150)
        split = Split(torch.zeros(150, 1), torch.from_numpy(errors).float())
        sure = judge(Told(), split, inputs, task).interval
        assert sure is not None
        held += sure.low <= truth <= sure.high
    assert held >= least


@pytest.mark.parametrize("share", [0.05, 0.02, 0.0])
def test_a_few_large_errors_leave_an_interval_that_says_something(share: float) -> None:
    inputs = Cells("y", ("a",), (0.0,), (1.0,), (), (), (), (), 0.0, 1.0)
    task = Task.of("regressioncsv")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scale = np.where(rng.random(100) < share, 1.0, 0.01 if share else 0.0)
        errors = scale * rng.normal(size=100)
        errors[0] = 1.0
        split = Split(torch.zeros(100, 1), torch.from_numpy(errors).float())
        judged = judge(Told(), split, inputs, task)
        assert judged.interval is not None
        score = judged.scores["rmse"]
        assert score < judged.interval.high < 6 * score
        assert 0 < judged.interval.low < score


def test_many_rows_are_as_sure_as_they_are_many() -> None:
    inputs = Cells("y", ("a",), (0.0,), (1.0,), (), (), (), (), 0.0, 1.0)
    task, widths = Task.of("regressioncsv"), []
    for count in (2_000, 50_000):
        y = torch.randn(count, generator=torch.Generator().manual_seed(0))
        sure = judge(Told(), Split(torch.zeros(count, 1), y), inputs, task).interval
        assert sure is not None
        widths.append(sure.high - sure.low)
    assert widths[0] / widths[1] == pytest.approx(5, rel=0.25)
    assert widths[0] == pytest.approx(2 * 1.96 / math.sqrt(2 * 2_000), rel=0.2)


def test_of_few_rows_no_interval_is_told() -> None:
    inputs = Cells("y", ("a",), (0.0,), (1.0,), (), (), (), (), 0.0, 1.0)
    split = Split(torch.zeros(9, 1), torch.arange(9.0))
    assert judge(Told(), split, inputs, Task.of("regressioncsv")).interval is None


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"train": {"label_smoothing": 0.1}}, "label_smoothing: got 0.1; want 0.0"),
        ({"train": {"class_weights": "root"}}, "class_weights: got root; want none"),
        ({"model": "mlp"}, "mlp reads maps; regressioncsv gives records, and row makes them"),
        ({"input": "pixels"}, "pixels reads images; regressioncsv gives records; want row"),
        ({"augment": "images"}, "images reads maps; regressioncsv gives records"),
    ],
)
def test_parts_that_do_not_go_together_are_told(config: dict[str, Any], told: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Config.of({"task": "regressioncsv", "model": "tabm", **config})
    assert told in str(caught.value)


@pytest.mark.parametrize(("task", "alpha"), [("tablecsv", 1.0), ("regressioncsv", None)])
def test_clients_may_hold_the_rows(task: str, alpha: float | None, tmp_path: Path) -> None:
    data = Task.of(task).load(
        written(tmp_path, (list if alpha is None else sorted_out)(table(300)))
    )
    config: dict[str, Any] = {
        "task": task,
        "model": VARIANTS["one"],
        "federation": {"name": "fedavg", "clients": 3, "alpha": alpha},
        "train": {"epochs": 4, "batch_size": 16},
    }
    last = [*train(Config.of(config), data, device=CPU)][-1].metrics
    assert last.get("accuracy", 1.0) > 0.6
    assert last.get("r2", 1.0) > 0.2


# --- a search

MARKUP = "<script>alert(1)</script>"
SPACE = """
version: 1
task: {{name: {task}, path: {path}}}
search: {{portfolio: 0}}
model:
  choice:
    - {{name: tabm, ensemble: {{choice: [1, 2]}}, width: 16, depth: 1}}
    - {{name: ft-transformer, head: 4, layers: 1, numbers: {{name: piecewise, bins: 4}}}}
optimizer: {{name: adamw, lr: {{float: [1e-3, 1e-2], log: true}}}}
train: {{epochs: 6, batch_size: 16}}
"""


@pytest.fixture(scope="module", params=["tablecsv", "regressioncsv"])
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a space and a study of it."""
    folder = tmp_path_factory.mktemp("table")
    rows = sorted_out(table(300)) if request.param == "tablecsv" else table(300)
    rows = [[number % 7, *row] for number, row in enumerate(rows)]
    path = written(folder, rows, [MARKUP, *HEADER])
    (folder / "own.yaml").write_text(SPACE.format(path=path, task=request.param))
    automl.search(folder / "own.yaml", trials=4, workers=1, finalists=1, studies=folder / "studies")
    return folder


def test_what_a_search_delivers_answers_rows(searched: Path, command: Command) -> None:
    model = automl.load_best("own", studies=searched / "studies")
    path, where = searched / "t.csv", ("--studies", searched / "studies")
    rows = [*csv.DictReader(io.StringIO(path.read_text()))]
    task = model.config.task.name
    status, out, _ = command("predict", "own", path, *where)
    assert status == 0
    words = [line.split("  ") for line in out.splitlines()]
    assert [word[:2] for word in words] == [[str(path), str(n)] for n in range(1, 301)]
    as_json = json.loads(command("predict", "own", path, *where, "--json")[1])
    assert [one["row"] for one in as_json] == [*range(1, 301)]
    if task == "tablecsv":
        told = model.predict(path)
        assert told == model.predict(rows)
        assert model.predict(rows[0]) == pytest.approx(told[:1]) or told[0].label
        right = sum(one.label == row["target"] for one, row in zip(told, rows, strict=True))
        assert right > 240
        assert [word[2] for word in words] == [one.label for one in told]
        assert as_json[5]["label"] == told[5].label
        with pytest.raises(DataError, match="tells classes; use predict"):
            model.estimate(path)
        return
    values = model.estimate(path)
    assert values == model.estimate(rows)
    assert model.estimate(rows[0]) == pytest.approx(values[:1], rel=1e-4)
    came = [float(row["target"]) for row in rows]
    assert r2_score(came, values) > 0.5
    assert [float(word[2]) for word in words] == pytest.approx(values, rel=1e-5)
    assert as_json[5]["value"] == values[5]
    with pytest.raises(DataError, match="tells numbers; use estimate"):
        model.predict(path)


def test_what_a_search_knows_of_a_table_is_told(searched: Path) -> None:
    best = searched / "studies" / "own" / "best"
    model, told = artifact.load(best), json.loads((best / "metrics.json").read_text())
    card, page = (best / "card.md").read_text(), (searched / "studies/own/report.html").read_text()
    assert told["baseline"]["name"] == "gradient boosting"
    assert "Which columns it looks at" in page
    assert MARKUP not in page
    assert "what goes together in the training" in card
    if model.config.task.name == "tablecsv":
        assert "Calibration" in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt; " in page  # an example, as people read it
        assert ", colour " in page
        assert 'model.predict("rows.csv")' in card
        return
    assert isinstance(model.inputs, Cells)
    assert model.inputs.std is not None
    for error in ("rmse", "mae"):
        assert told["in_units"][error] == pytest.approx(model.inputs.std * told["test"][error])
    low, high = told["test_interval"]
    assert low < told["test"]["rmse"] < high
    assert "What it tells" in page
    assert "in the unit of" in page
    assert "On the test split, in the unit of target: root mean squared error " in card
    assert 'model.estimate("rows.csv")' in card


def test_a_page_does_without_what_a_stranger_left_out(
    searched: Path, tmp_path: Path, command: Command
) -> None:
    shutil.copytree(searched / "studies" / "own", tmp_path / "own")
    file = tmp_path / "own" / "best" / "metrics.json"
    told = json.loads(file.read_text())
    told["test"].pop("r2", None)
    file.write_text(json.dumps(told))
    status, _, err = command("report", "own", "--studies", tmp_path)
    assert status == 0, err
    assert "of the variance is told" not in (tmp_path / "own" / "report.html").read_text()


def test_a_model_leans_on_columns_that_say_something(searched: Path) -> None:
    model = automl.load_best("own", studies=searched / "studies")
    assert isinstance(model, Artifact)
    told = examples.leaned(model, model.config.task.load(None))
    assert {one.column for one in told[:2]} <= {"size", "colour", "day"}
    assert [one.worse for one in told] == sorted((one.worse for one in told), reverse=True)
    assert told == examples.leaned(model, model.config.task.load(None))


def test_of_many_columns_groups_are_mixed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, names = random.Random(0), [f"c{number}" for number in range(40)]
    rows = [[rng.random() for _ in range(41)] for _ in range(100)]
    data = regression(written(tmp_path, rows, [*names, "target"]))
    asked = list[Tensor]()

    def evaluate(_model: nn.Module, split: Split, *_: Any) -> dict[str, float]:
        assert isinstance(split.x, Tensor)
        asked.append(split.x[:, 17])
        return {"rmse": float((split.x[:, 17] - asked[0]).abs().sum())}

    monkeypatch.setattr(examples, "ALONE", 8)
    monkeypatch.setattr(examples, "evaluate", evaluate)
    config = Config.of({"task": "regressioncsv", "model": VARIANTS["one"]})
    model = Artifact(config, nn.Identity(), Row().fit(data), (), {})
    assert [one.column for one in examples.leaned(model, data)] == ["c17"]
    assert len(asked) == 1 + 8 + 8


@pytest.mark.parametrize("kind", ["tablecsv", "regressioncsv"])
def test_real_tables_are_told_better_than_by_guessing(kind: str, tmp_path: Path) -> None:
    bunch = load_breast_cancer() if kind == "tablecsv" else load_diabetes()
    told = [*map(str, bunch.target)]
    rows = [[*x, y] for x, y in zip(bunch.data.tolist(), told, strict=True)]
    path = written(tmp_path, rows, [*bunch.feature_names, "target"])
    task = Task.of(kind)
    data = task.load(path)
    last = trained(data, kind, VARIANTS["one"], epochs=15)[-1].metrics[task.metric.name]
    assert task.metric.better(last, 0.9 if kind == "tablecsv" else task.chance(data)[1])


def test_a_data_frame_is_a_table(tmp_path: Path) -> None:
    rows = (dict(zip(HEADER, row, strict=True)) for row in table())
    data = regression(kept(Frame([{**row, "target": float(row["target"])} for row in rows])))
    same = regression(written(tmp_path, table()))
    assert torch.equal(data.train.x.nan_to_num(), same.train.x.nan_to_num())


def test_a_frame_that_was_searched_is_one_to_ask_about() -> None:
    frame = Dated([{"size": float(n), "target": n % 7} for n in range(30)])
    data = regression(kept(frame), valid=0.3)
    inputs = Row().fit(data)
    assert inputs.numbers == ("date", "size")
    told = inputs.read(frame).x
    assert isinstance(told, Tensor)
    assert told.tolist() == [[19_723.0 + n, n] for n in range(30)]


def test_truths_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    for true, false in (("TRUE", "FALSE"), ("true", "false"), ("True", "False")):
        rows = [[true if n % 3 else false, n] for n in range(60)]
        inputs = Row().fit(regression(written(tmp_path, rows, ["old", "target"])))
        frame = Frame([{"old": n % 3 > 0} for n in range(60)])  # as pandas reads that file
        assert torch.equal(inputs.read(frame).x, inputs.read(tmp_path / "t.csv").x)


def test_words_of_a_frame_that_was_searched_are_those_of_the_frame() -> None:
    rows = [
        {"took": Span(n % 3), "day": date(2024, 1, 1 + n % 28), "old": n % 2 > 0, "target": n}
        for n in range(60)
    ]
    path = kept(Frame(rows))
    inputs = Row().fit(regression(path))
    assert inputs.named == ("took", "old")
    whole = inputs.read(path).x
    assert isinstance(whole, Tensor)
    assert not whole.isnan().any()
    for raw in (Frame(rows), rows):
        assert torch.equal(inputs.read(raw).x, whole)
