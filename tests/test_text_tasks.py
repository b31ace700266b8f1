"""Claims about text data: read as published, split once, what must not be seen is not."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import automl
from automl.cli import app
from automl.config import Config, Input, Task
from automl.data import Data, Metric, Split
from automl.errors import DataError, OptionError
from automl.inputs.text import Texts, pack, unpack
from automl.results.delivery import Delivery, Training
from automl.tasks import shakespeare, source, texts
from automl.tasks.agnews import AgNews, clean
from automl.tasks.imdb import Imdb
from automl.tasks.newsgroups import Newsgroups, stripped
from automl.tasks.sst2 import Sst2
from automl.tasks.texts import ProseTask, TextTask, by_frequency, by_ngrams, written
from automl.tasks.trec import Trec
from automl.training import train
from automl.training.loop import encoded

pytestmark = pytest.mark.usefixtures("all_forked")

CLASSES = [name for name, task in Task.members().items() if issubclass(task, TextTask)]
PROSE = [name for name, task in Task.members().items() if issubclass(task, ProseTask)]
WORDS = ["good", "bad", "fine", "poor", "film", "plot", "the", "a", "of", "is"]
REAL = os.environ.get("AUTOML_DATA")  # conftest hides it from the tests themselves


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache of its own, and no network."""

    def refused(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refused)


def review(number: int, label: int) -> str:
    return f"{number} {WORDS[label]} {WORDS[2 + label]} {WORDS[4 + number % 6]}"


def table(part: str, films: int, each: int) -> str:
    """As imdb's train.csv, with a rating that gives the answer away."""
    file = io.StringIO()
    out = csv.writer(file)
    out.writerow(["id", "label", "rating", "movie", "text"])
    for number in range(films * each):
        label = number % 2
        text = f"{review(number, label)}<br /><br />{part}"
        film, told = f"tt{number // each}", ("neg", "pos")[label]
        out.writerow([f"{told}/{number}", told, "RATING", film, text])
    return file.getvalue()


def items(part: str, count: int) -> str:
    """As agnews has them: class, title, description."""
    rows = [
        f'"{n % 4 + 1}","{part} {n}","{WORDS[n % 4]} for  #36;{n}\\and ""{WORDS[n % 7]}"""\n'
        for n in range(count)
    ]
    return "".join(rows)


def posts(part: str, count: int) -> str:
    """As 20newsgroups has them: label, id, text."""
    file = io.StringIO()
    out = csv.writer(file)
    out.writerow(["label", "id", "text"])
    for n in range(count):
        label = Newsgroups.labels[n % 20]
        body = f"{part} {n} {label.replace('.', '')}"
        text = f"From: HEADER\n\nA man writes:\n> QUOTE\n{body}\n\n--\nFOOTER\n"
        out.writerow([label, n, text])
    return file.getvalue()


def make(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, **knobs: Any) -> Any:
    """The task, with small data of its kind below the root."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    match name:
        case "trec":
            monkeypatch.setattr(Trec, "counts", {"train": 120, "test": 30})
            for part, count in Trec.counts.items():
                lines = [f"{Trec.labels[n % 6]}:x {part} {review(n, n % 2)}" for n in range(count)]
                (folder / f"{part}.txt").write_text("\n".join(lines) + "\n", "latin-1")
        case "sst2":
            monkeypatch.setattr(Sst2, "counts", {"train": 80, "valid": 20, "test": 20})
            for part, file in (("train", "train"), ("valid", "dev"), ("test", "test")):
                lines = [f"{part} {review(n, n % 2)}\t{n % 2}" for n in range(Sst2.counts[part])]
                (folder / f"{file}.tsv").write_text("\n".join(lines) + "\n")
        case "imdb":
            monkeypatch.setattr(Imdb, "counts", {"train": 120, "test": 60})
            (folder / "imdb.tar.xz").write_bytes(
                packed({f"imdb/{p}.csv": table(p, n // 4, 4) for p, n in Imdb.counts.items()})
            )
        case "imdb-lm":
            monkeypatch.setattr(Imdb, "counts", {"train": 400, "test": 60})
            (folder / "imdb.tar.xz").write_bytes(
                packed({f"imdb/{p}.csv": table(p, n // 4, 4) for p, n in Imdb.counts.items()})
            )
        case "agnews":
            monkeypatch.setattr(AgNews, "counts", {"train": 200, "test": 80})
            for part, count in AgNews.counts.items():
                (folder / f"{part}.csv").write_text(items(part, count))
        case "20newsgroups":
            monkeypatch.setattr(Newsgroups, "counts", {"train": 200, "test": 40})
            counts = Newsgroups.counts.items()
            tables = {f"20newsgroups/{part}.csv": posts(part, count) for part, count in counts}
            (folder / "20newsgroups.tar.xz").write_bytes(packed(tables))
        case "textcsv":
            lines = [f"{review(n, n % 2)},{WORDS[n % 2]}" for n in range(200)]
            (folder / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
            knobs.setdefault("path", str(folder / "train.csv"))
        case "shakespeare":
            (folder / "input.txt").write_text(PLAY)
        case "textfile":
            (folder / "mine.txt").write_text(PLAY)
            knobs["path"] = str(folder / "mine.txt")
        case _:
            pytest.fail(f"no small data for {name}: add some here")
    return Task.of({"name": name, **knobs})


def packed(files: Mapping[str, str | bytes]) -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as tar:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return file.getvalue()


PLAY = "".join(f"{chr(65 + n % 26)}: to be é or not {n}\n" for n in range(600))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda name, **knobs: (make(name, tmp_path, monkeypatch, **knobs), tmp_path)


@pytest.mark.parametrize("name", CLASSES)
def test_a_task_hands_out_what_it_announces(name: str, small: Any) -> None:
    task, root = small(name)
    raw, labels = task.shape(root)
    data, test = task.load(root), task.test(root)
    assert tuple(data.labels) == labels
    assert data.inputs == raw
    assert data.sealed == len(test)
    for split in (data.train, data.valid, test):
        assert split.y.dtype == torch.int64
        assert split.y.unique().tolist() == list(range(len(labels)))
    seen = [set(unpack(split.x)) for split in (data.train, data.valid, test)]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize("name", CLASSES + PROSE)
def test_the_same_task_gives_the_same_data_and_never_opens_the_test_split(
    name: str, small: Any, tmp_path: Path
) -> None:
    task, root = small(name)
    data = task.load(root)
    (path,) = (tmp_path / "cache").glob("*/test.safetensors")
    path.write_bytes(b"would be noticed if opened")
    again = task.load(root)
    assert path.read_bytes() == b"would be noticed if opened"
    assert again.fingerprint == data.fingerprint
    assert unpack(again.valid.x) == unpack(data.valid.x)


@pytest.mark.parametrize("name", CLASSES + PROSE)
def test_the_baseline_is_better_than_chance_and_the_same_twice(name: str, small: Any) -> None:
    task, root = small(name)
    data = task.load(root)
    called, score = task.baseline(data)
    assert task.baseline(data) == (called, score)
    assert task.metric.better(score, task.chance(data)[1])


def test_the_baseline_reads_so_many_texts_and_some_of_every_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 400 texts three are of the other class."""
    train = Split(pack(["aa bb"] * 397 + ["cc dd"] * 3), torch.tensor([0] * 397 + [1] * 3))
    valid = Split(pack(["aa bb", "cc dd"]), torch.tensor([0, 1]))
    data = Data(train, valid, Texts(), ("one", "other"), "few")
    read: list[int] = []
    monkeypatch.setattr(texts, "MOST", 10)
    monkeypatch.setattr(texts, "unpack", lambda x: read.append(len(x)) or unpack(x))
    assert Task.of("trec").baseline(data)[1] == 1
    assert read == [10, 2]


def test_a_film_is_on_one_side_of_the_split(small: Any) -> None:
    task, root = small("imdb", valid=0.3)
    data = task.load(root)
    assert not set(data.train.groups.tolist()) & set(data.valid.groups.tolist())
    assert 0.2 < len(data.valid) / 120 < 0.4


def test_nothing_of_a_rating_is_in_the_data(small: Any) -> None:
    task, root = small("imdb")
    data = task.load(root)
    texts = unpack(data.train.x) + unpack(data.valid.x) + unpack(task.test(root).x)
    assert not any("RATING" in text for text in texts)
    assert all("\n" in text and "<br />" not in text for text in texts)


def test_the_original_form_of_imdb_gives_the_same_reviews(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, root = small("imdb")
    first = task.load(root)
    theirs = tmp_path / "theirs" / "imdb" / "aclImdb"
    for part, count in Imdb.counts.items():
        films: dict[str, list[str]] = {"neg": [], "pos": []}
        for number in range(count):
            end = ("neg", "pos")[number % 2]
            file = theirs / part / end / f"{len(films[end])}_7.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{review(number, number % 2)}<br /><br />{part}")
            films[end].append(f"tt{number // 4}")
        for end, urls in films.items():
            (theirs / part / f"urls_{end}.txt").write_text("\n".join(urls))
    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "another"))
    second = task.load(tmp_path / "theirs")
    ours, other = ({*unpack(d.train.x), *unpack(d.valid.x)} for d in (first, second))
    assert ours == other
    assert not set(second.train.groups.tolist()) & set(second.valid.groups.tolist())


@pytest.mark.parametrize("name", sorted({*PROSE} - {"imdb-lm"}))
def test_a_text_is_split_by_position(name: str, small: Any) -> None:
    task, root = small(name, valid=0.1, sealed=0.2)
    data, test = task.load(root), task.test(root)
    parts = [unpack(split.x)[0] for split in (data.train, data.valid, test)]
    assert "".join(parts) == PLAY
    assert [len(split) for split in (data.train, data.valid, test)] == [len(p) for p in parts]
    assert [round(len(part) / len(PLAY), 2) for part in parts] == [0.7, 0.1, 0.2]


def test_reviews_to_go_on_with_keep_a_film_on_one_side(small: Any) -> None:
    task, root = small("imdb-lm", valid=0.1, sealed=0.2, reviews=200)
    data, test = task.load(root), task.test(root)
    parts = [unpack(split.x)[0].splitlines() for split in (data.train, data.valid, test)]
    assert sum(map(len, parts)) == 200
    films = [[int(line.split()[0]) // 4 for line in part] for part in parts]
    assert not set(films[0]) & set(films[1])
    assert not set(films[0] + films[1]) & set(films[2])
    assert films[0] != sorted(films[0])
    assert [round(len(part) / 200, 1) for part in parts] == [0.7, 0.1, 0.2]
    assert not any("RATING" in line or line.endswith("test") for part in parts for line in part)


def test_without_its_training_file_agnews_is_the_test_file_split(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, root = small("agnews")
    (root / "agnews" / "train.csv").unlink()
    (root / "agnews").rename(root / "agnews-test")
    monkeypatch.setattr(AgNews, "counts", {"train": 200, "test": 76})
    (root / "agnews-test" / "test.csv").write_text(items("test", 76))
    data, test = task.load(root), task.test(root)
    assert test.y.bincount().tolist() == [4] * 4
    assert len(data.train) + len(data.valid) == 60
    other = task.model_copy(update={"split_seed": 1})
    assert unpack(other.load(root).valid.x) != unpack(data.valid.x)
    assert unpack(other.test(root).x) == unpack(test.x)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a second\\team for the  #36;10 million", "a second\nteam for the $10 million"),
        ("AT amp;T  quot;buys quot;", 'AT&T "buys"'),
        ("&lt;b&gt;fine&lt;/b&gt;", "<b>fine</b>"),
        ("nothing; to see #1", "nothing; to see #1"),
    ],
)
def test_news_are_cleaned(text: str, want: str) -> None:
    assert clean(text) == want


def test_posts_are_stripped_if_so_asked(small: Any) -> None:
    task, root = small("20newsgroups")
    texts = unpack(task.load(root).train.x)
    assert not any(word in text for text in texts for word in ("HEADER", "QUOTE", "FOOTER"))
    whole = task.model_copy(update={"strip": False})
    texts = unpack(whole.load(root).train.x)
    assert all(word in text for text in texts for word in ("HEADER", "QUOTE", "FOOTER"))
    assert stripped("") == ""


def test_the_original_form_of_20newsgroups_is_read(tmp_path: Path, small: Any) -> None:
    task, _ = small("20newsgroups")
    for part, count in Newsgroups.counts.items():
        for n in range(count):
            folder = tmp_path / "theirs" / f"20news-bydate-{part}" / Newsgroups.labels[n % 20]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(n)).write_bytes(f"From: a\n\n{part} caf\xe9 {n}".encode("latin-1"))
    data = task.load(tmp_path / "theirs")
    assert len(data.train) + len(data.valid) == 200
    assert all("train café" in text for text in unpack(data.train.x))


def test_the_kinds_of_questions_can_be_fine(small: Any) -> None:
    task, root = small("trec", fine=True)
    _, labels = task.shape(root)
    assert len(labels) == 50
    for part, count in Trec.counts.items():
        lines = [f"{labels[n % 50]} {part} what {n}" for n in range(count)]
        (root / "trec" / f"{part}.txt").write_text("\n".join(lines) + "\n", "latin-1")
    data = task.load(root)
    assert data.labels == labels
    assert data.train.y.unique().tolist() == list(range(50))
    assert unpack(data.train.x)[0].startswith("train what")


# The user's own table.

GOOD = "\n".join(f"so {n},{'ab'[n % 2]}" for n in range(20))


def own(tmp_path: Path, content: str | bytes, name: str = "mine.csv", **knobs: Any) -> Any:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    return Task.of({"name": "textcsv", "path": str(tmp_path / name), **knobs})


def test_a_table_that_is_taken_for_a_split_and_not_read_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train.csv", "validation.csv", "dev.tsv", "test.csv", "testers.md", "more.csv"):
        (tmp_path / name).write_text(f"text,label\n{GOOD}\n{name},a\n")
    task: Any = Task.of({"name": "textcsv", "path": str(tmp_path)})
    task.source(None)
    assert caplog.messages == [
        f"{tmp_path / name}: passing over the file: of a folder train, valid and test are read"
        for name in ("dev.tsv", "validation.csv")
    ]


def every(data: Data, test: Split) -> dict[str, str]:
    """Text to label."""
    splits = (data.train, data.valid, test)
    return {
        text: data.labels[y]
        for split in splits
        for text, y in zip(unpack(split.x), split.y.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.csv", f"text,label\n{GOOD}\n"),
        ("mine.csv", f"\ufefftext,label\r\n{GOOD}".replace("\n", "\r\n")),
        ("mine.csv", f"text;label\n{GOOD.replace(',', ';')}\n\n"),
        ("mine.tsv", f"text\tlabel\n{GOOD}".replace(",", "\t")),
        ("mine.TSV", f"label\ttext\n{GOOD}".replace(",", "\t")),
        ("mine.jsonl", "\n".join(
            json.dumps({"label": "ab"[n % 2], "text": f"so {n}", "more": None}) for n in range(20)
        )),
    ],
    ids=["csv", "windows", "semicolons", "tsv", "other names", "json lines"],
)  # fmt: skip
def test_tables_of_many_kinds_are_the_same_data(name: str, content: str, tmp_path: Path) -> None:
    swapped = content.startswith("label\t")
    knobs = {"text": "label", "label": "text"} if swapped else {}
    task = own(tmp_path, content, name, **knobs)
    found = every(task.load(None), task.test(None))
    assert found == {f"so {n}": "ab"[n % 2] for n in range(20)}


@pytest.mark.parametrize(
    ("written", "encoding"),
    [("utf-16", "utf-8"), ("utf-8-sig", "latin-1"), ("cp1252", "cp1252"), ("latin-1", "latin-1")],
)
def test_a_table_may_be_in_another_encoding(written: str, encoding: str, tmp_path: Path) -> None:
    content = f"text,label\n{GOOD.replace('so', 'naïve')}\n"
    task = own(tmp_path, content.encode(written), encoding=encoding)
    assert every(task.load(None), task.test(None))["naïve 3"] == "b"


def test_cells_may_be_large_quoted_and_of_any_script(tmp_path: Path) -> None:
    large = "wort " * 60_000
    rows = [f'"Ω, ""{n}""\nzwei",{"ab"[n % 2]}' for n in range(20)]
    task = own(tmp_path, "\n".join(["text,label", *rows, f"{large},a"]))
    found = every(task.load(None), task.test(None))
    assert found['Ω, "3"\nzwei'] == "b"
    assert found[large] == "a"


@pytest.mark.parametrize("mark", [",", ";"])
def test_every_cell_may_be_quoted_the_header_too(mark: str, tmp_path: Path) -> None:
    rows = [["text", "label"], *([f"so, {n}; so", "ab"[n % 2]] for n in range(20))]
    content = "\n".join(mark.join(f'"{cell}"' for cell in row) for row in rows)
    task = own(tmp_path, content)
    assert every(task.load(None), task.test(None))["so, 3; so"] == "b"


def test_a_label_may_be_a_number_or_a_truth_in_json(tmp_path: Path) -> None:
    for values, want in (((0, 1), ("0", "1")), ((True, False), ("false", "true"))):
        lines = [json.dumps({"text": f"so {n}", "label": values[n % 2]}) for n in range(20)]
        task = own(tmp_path, "\n".join(lines), "mine.jsonl")
        assert task.shape(None)[1] == want


def test_the_data_may_be_named_as_a_file(tmp_path: Path) -> None:
    own(tmp_path, f"text,label\n{GOOD}", "reviews.csv")
    assert Task.of("textcsv").load(tmp_path / "reviews.csv").labels == ("a", "b")
    (tmp_path / "novel").write_text(PLAY)
    assert PLAY.startswith(unpack(Task.of("textfile").load(tmp_path / "novel").train.x)[0])
    with pytest.raises(DataError, match=r"textcsv: no train.csv, train.tsv or train.jsonl in "):
        Task.of("textcsv").load(tmp_path)


def test_a_folder_may_hold_all_parts_in_any_format(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"text,label\n{GOOD}\n")
    (tmp_path / "val.tsv").write_text("text\tlabel\nv\ta\nw\tb\n")
    (tmp_path / "test.jsonl").write_text('{"text": "t", "label": "a"}\n')
    task = Task.of({"name": "textcsv", "path": "."})
    data = task.load(tmp_path)
    assert (len(data.train), len(data.valid), data.sealed) == (20, 2, 1)
    (tmp_path / "val.tsv").write_text("text\tlabel\nv\ta\nw\tc\n")
    with pytest.raises(DataError, match=r"val.tsv: got the label 'c', which is not in train.csv"):
        task.load(tmp_path)
    (tmp_path / "valid.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"holds both valid.csv and val.tsv; want one of them"):
        task.load(tmp_path)


def test_a_few_bad_rows_are_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"so {n},{'ab'[n % 2]}" for n in range(300)]
    rows[10], rows[20] = ",a", "a text, with a comma,b"
    task = own(tmp_path, "\n".join(["text,label", *rows]))
    data = task.load(None)
    assert len(data.train) + len(data.valid) + data.sealed == 298
    (told,) = [r.getMessage() for r in caplog.records if "of no use" in r.getMessage()]
    assert told == (
        f"{tmp_path / 'mine.csv'}: 2 of 300 rows are of no use: lines 12, 22 (line 12: empty "
        "text); going on without them"
    )


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("m.csv", "", "got no rows"),
        ("m.csv", "text,label\n", "got no rows"),
        ("m.csv", f"texts,label\n{GOOD}",
         "no column is called 'text'; did you mean 'texts'? Known: label, texts. "
         "Name the columns in task.text and task.label, those of pairs"),
        ("m.csv", "text,label,text\na,b,c\n",
         "got 2 columns that are called 'text'; want one"),
        ("m.csv", f"text,label\n{GOOD}\n,a",
         "1 of 21 rows are of no use: line 22 (line 22: empty text); want at most 1%"),
        ("m.csv", f"text,label\nso, \n{GOOD}",
         "1 of 21 rows are of no use: line 2 (line 2: empty label); want at most 1%"),
        ("m.csv", f"text,label\n{GOOD}\nlonely",
         "1 of 21 rows are of no use: line 22 (line 22: got 1 cells, want 2); want at most 1%"),
        ("m.csv", f"text,label\n{GOOD}\nze\0ro,a",
         "1 of 21 rows are of no use: line 22 (line 22: a zero byte); want at most 1%"),
        ("m.csv", f'text,label\n{GOOD}\n"open,a\nb,a',
         "line 22: got a quote that nothing closes"),
        ("m.csv", f'text,label\n"open,a\n{GOOD}\nclosed" odd,a\n' + f"{GOOD}\n" * 90,
         "22 of 1,822 rows are of no use: lines 2, 3, 4, 5, 6, ... (line 2: "),
        ("m.csv", b"text,label\nfine,a\nna\xefve,b\n",
         "line 3: got the byte 0xef; want utf-8 text, or set encoding"),
        ("m.csv", "text,label\nfine,a\ngood,a\n",
         "got 1 different labels in column 'label'; want 2 to 1,000"),
        ("m.csv", "text,label\n" + "\n".join(f"a,{n}" for n in range(1001)),
         "got 1,001 different labels in column 'label'; want 2 to 1,000"),
        ("m.jsonl", '{"text": "fine", "label": "a"}\n{"text": "fi',
         "1 of 2 rows are of no use: line 2 (line 2: no JSON); want at most 1%"),
        ("m.jsonl", "[" * 100_000, "1 of 1 rows are of no use: line 1 (line 1: no JSON)"),
        ("m.jsonl", '{"body": "fine", "label": "a"}',
         "no column is called 'text'; Known: body, label."),
        ("m.jsonl", '{"text": 3, "label": "a"}',
         "1 of 1 rows are of no use: line 1 (line 1: 'text' is no text); want at most 1%"),
        ("m.txt", "text", "got the suffix '.txt'; want .csv, .tsv, .jsonl"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_one_line(
    name: str, content: str | bytes, told: str, tmp_path: Path
) -> None:
    task = own(tmp_path, content, name)
    with pytest.raises(DataError) as error:
        task.load(None)
    assert str(error.value).startswith(f"{tmp_path / name}: {told}")
    assert "\n" not in str(error.value)


def test_a_label_with_one_row_is_told(tmp_path: Path) -> None:
    task = own(tmp_path, f"text,label\n{GOOD}\nalone,c")
    with pytest.raises(DataError, match="class 'c': got 1 readable examples to train"):
        task.load(None)


def test_a_table_that_changed_is_read_again(tmp_path: Path) -> None:
    first = own(tmp_path, f"text,label\n{GOOD}").load(None)
    second = own(tmp_path, f"text,label\n{GOOD}\nnew,c\nnewer,c\nnewest,c").load(None)
    assert first.labels == ("a", "b")
    assert second.labels == ("a", "b", "c")


def test_a_guess_among_all_costs_the_logarithm_of_their_number(small: Any) -> None:
    task, _ = small("shakespeare")
    y = torch.randint(2, 16, (3, 5))
    scores = task.scores(task.tally(torch.zeros(3, 5, 16), y), written("x" * 16))
    assert scores["bits_per_character"] == pytest.approx(4)
    assert scores["perplexity"] == pytest.approx(16)
    assert scores["loss"] == pytest.approx(math.log(16))


def test_tokens_of_many_characters_are_compared_by_the_character(small: Any) -> None:
    task, _ = small("shakespeare")
    y = torch.randint(2, 16, (3, 5))
    scores = task.scores(task.tally(torch.zeros(3, 5, 16), y), written("x" * 31))
    assert scores["bits_per_character"] == pytest.approx(2)


def test_what_cannot_be_spelled_costs_more_than_a_guess(small: Any) -> None:
    task, _ = small("shakespeare")
    known, unknown = torch.full((1, 4), 5), torch.full((1, 4), 1)
    tallies = [task.tally(torch.zeros(1, 4, 16), y)["nats"].item() for y in (known, unknown)]
    assert tallies[1] - tallies[0] == pytest.approx(4 * math.log(0x110000))


@pytest.mark.parametrize(
    ("name", "file", "content", "told"),
    [
        ("trec", "train.txt", "WHAT:x is this\n", "train.txt: got the kind 'WHAT'; want ABBR, "),
        ("trec", "train.txt", "NUM:x how many\n", "got 1 train examples of trec; want 120"),
        ("sst2", "dev.tsv", "fine\t2\n", "dev.tsv: got the label '2'; want 0 or 1"),
        ("shakespeare", "input.txt", "short", "got 5 characters; want at least 1,000"),
    ],
)
def test_wrong_files_are_one_line(
    name: str, file: str, content: str, told: str, small: Any
) -> None:
    task, root = small(name)
    (root / name / file).write_text(content)
    with pytest.raises(DataError) as error:
        task.load(root)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("imdb", "imdb/train.csv"),
        ("imdb", "train/neg/0_1.txt"),
        ("imdb", "train/urls_neg.txt"),
        ("20newsgroups", "20newsgroups/train.csv"),
        ("agnews", "train.csv"),
        ("sst2", "dev.tsv"),
    ],
)
def test_bytes_that_are_no_text_are_one_line(name: str, file: str, small: Any) -> None:
    task, root = small(name)
    folder, content = root / name, "caf\xe9".encode("latin-1")
    if (archive := folder / f"{name}.tar.xz").exists() and file.endswith(".csv"):
        archive.write_bytes(packed({file: content}))
    else:
        archive.unlink(missing_ok=True)
        path = folder / "aclImdb" / file if name == "imdb" else folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}:? cannot be read to its end: 'utf-8' codec"):
        task.load(root)


def test_a_byte_that_is_no_text_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"a" * 2000 + b"\xff" + b"b")
    task = Task.of({"name": "textfile", "path": str(tmp_path / "mine.txt")})
    with pytest.raises(DataError, match="got the byte 0xff at 2,000; want UTF-8 text"):
        task.load(None)


def test_without_network_the_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sst2: not found in .* and the download failed"):
        Task.of("sst2").load(tmp_path)


def test_a_download_that_is_not_as_published_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"something else"))
    with pytest.raises(OSError, match="got sha256"):
        source.fetch("https://x.org/f", shakespeare.SHA256, tmp_path / "f")
    assert not list(tmp_path.iterdir())


# From data to a model.


def trained(config: dict[str, Any], data: Data) -> list[float]:
    epochs = train(Config.of(config), data, device=torch.device("cpu"))
    return [epoch.metrics[Config.of(config).task.metric.name] for epoch in epochs]


@pytest.mark.parametrize("model", ["textcnn", {"name": "rnn", "direction": "both"}])
def test_models_learn_which_words_matter(model: Any, small: Any) -> None:
    task, root = small("sst2")
    config = {
        "task": task.model_dump(),
        "model": model,
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "train": {"epochs": 6, "batch_size": 8},
    }
    data = task.load(root)
    assert trained(config, data)[-1] == 1.0
    assert trained(config, data) == trained(config, data)


def test_a_recurrent_network_learns_to_go_on(small: Any) -> None:
    task, root = small("textfile")
    config = {
        "task": task.model_dump(),
        "model": {"name": "rnn", "width": 64},
        "input": {"name": "characters", "length": 32},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "train": {"epochs": 6, "batch_size": 8},
    }
    data = task.load(root)
    assert trained(config, data)[-1] < task.chance(data)[1] / 2


@pytest.mark.skipif(not REAL, reason="AUTOML_DATA names no folder with the real sets")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("trec", (4909, 543, 500)), ("sst2", (6920, 872, 1821)), ("agnews", (5400, 600, 1600)),
     ("shakespeare", (1_003_855, 55_770, 55_769))],
)  # fmt: skip
def test_the_real_sets_are_as_published(name: str, sizes: tuple[int, int, int]) -> None:
    assert REAL
    task = Task.of(name)
    data = task.load(Path(REAL))
    assert (len(data.train), len(data.valid), data.sealed) == sizes
    assert isinstance(data.train, Split)
    assert task.metric.better(task.baseline(data)[1], task.chance(data)[1])


@pytest.mark.parametrize("foretold", [by_frequency, by_ngrams])
def test_a_baseline_gives_all_characters_that_there_are_no_more_than_1(
    foretold: Callable[[str, str], float],
) -> None:
    """What was never seen is spelled out, as models are charged for it."""
    train = "abba" * 50
    share = {character: 2 ** -foretold(train, character) for character in "abz"}
    assert 0.99 < share["a"] + share["b"] < 1
    assert share["a"] + share["b"] + (0x110000 - 2) * share["z"] <= 1 + 1e-9


def test_vocabularies_of_one_size_are_not_mistaken_for_each_other(small: Any) -> None:
    task, root = small("trec")
    data = task.load(root)
    device, size = torch.device("cpu"), 20
    words = Input.of({"name": "words", "vocab": size, "seen": 1, "length": 30}).fit(data)
    letters = Input.of({"name": "characters", "vocab": size, "length": 30}).fit(data)
    assert words.outputs == letters.outputs
    first, second = (encoded(inputs, data, device)[0] for inputs in (words, letters))
    assert not torch.equal(first.x.lengths, second.x.lengths)


# From a space to answers, in real processes.

LABELS = """
task: sst2
input: {name: words, vocab: 200, length: 12, seen: 1}
model:
  choice:
    - {name: textcnn, embedding: 16, channels: {int: [8, 16]}}
    - {name: rnn, embedding: 16, width: {int: [8, 16]}, direction: both}
optimizer: {name: adamw, lr: {float: [5e-3, 5e-2], log: true}}
train: {epochs: 4, batch_size: 8}
"""
GOES_ON = """
task: shakespeare
input: {choice: [{name: characters, length: 32}, {name: bpe, vocab: 320, length: 32}]}
model: {name: rnn, embedding: 32, width: {int: [32, 48]}, cell: {choice: [gru, lstm, vanilla]}}
optimizer: {name: adamw, lr: 1e-2}
train: {epochs: 3, batch_size: 8}
"""


def searched(text: str, root: Path, trials: int) -> Any:
    (root / "mine.yaml").write_text(text)
    return automl.search(
        root / "mine.yaml", trials=trials, data=root, studies=root / "studies", workers=1
    )


@pytest.mark.skipif(not REAL, reason="AUTOML_DATA names no folder with the real sets")
def test_a_search_over_texts_ends_with_a_model_that_reads_texts(tmp_path: Path) -> None:
    (tmp_path / "sst2").symlink_to(Path(REAL or "") / "sst2")
    text = LABELS.replace("task: sst2", "task: {name: sst2, per_class: 300}")
    study = searched(text, tmp_path, 4)
    best = automl.load_best("mine", studies=tmp_path / "studies")
    texts = ["a fine film", "bad", "", "an unheard-of Ωmega"]
    together = best.predict(texts)
    assert [best.predict(text)[0].label for text in texts] == [told.label for told in together]
    assert (best.path / "tokenizer.json").is_file()
    tested = best.evaluate(study.task.test(tmp_path))
    assert tested["accuracy"] == pytest.approx(best.metrics["test"]["accuracy"], abs=1e-6)
    with pytest.raises(DataError, match="tells classes; use predict"):
        best.generate("a")


def test_a_text_model_at_chance_level_ends_with_a_warning_that_says_so(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [f"{' '.join(draw.choices(WORDS, k=6))},{draw.choice('ab')}" for _ in range(400)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "mine.yaml").write_text(LABELS.replace("task: sst2", "task: textcsv"))
    words = ["search", str(tmp_path / "mine.yaml"), "--trials", "3", "--workers", "1"]
    words += ["--data", str(tmp_path), "--studies", str(tmp_path / "studies")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "warning: the best model is no better than chance; do not use it" in shown.stdout
    card = (tmp_path / "studies" / "mine" / "best" / "card.md").read_text()
    assert "**This model is no better than chance; do not use it.**" in card


@pytest.mark.parametrize(
    ("metric", "score", "examples", "beyond"),
    [
        (Metric("accuracy"), 0.28, 600, False),  # of four classes: luck gets as far
        (Metric("accuracy"), 0.32, 600, True),
        (Metric("accuracy"), 0.28, 20_000, True),
        (Metric("accuracy"), 1.0, 4, False),  # a guess is all right in one of 256 splits
        (Metric("accuracy"), 1.0, 5, True),
        (Metric("bits_per_character", higher_is_better=False), 0.24, 600, True),
        (Metric("bits_per_character", higher_is_better=False), 0.25, 600, False),
    ],
)
def test_luck_is_not_taken_for_skill(
    metric: Metric, score: float, examples: int, beyond: bool
) -> None:
    assert metric.beyond(score, 0.25, examples) == beyond


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt: got NoneType; want a text"),
    ({"prompt": b"a"}, "prompt: got bytes; want a text"),
    ({"prompt": ["a"]}, "prompt: got list; want a text"),
    ({"prompt": "a\udcff"}, r"prompt: got '\udcff', which is no character; want a text"),
    ({"length": 10.5}, "length: got 10.5; want a whole number"),
    ({"top_k": 2.5}, "top_k: got 2.5; want a whole number"),
    ({"seed": None}, "seed: got None; want a whole number"),
    ({"temperature": "1"}, "temperature: got '1'; want a number"),
    ({"top_p": None}, "top_p: got None; want a number"),
    (
        {"length": 0},
        "generate: got length 0, temperature 1.0, top_k 0, top_p 1.0, seed 0; want leng",
    ),
    (
        {"seed": 10**23},
        f"generate: got length 400, temperature 1.0, top_k 0, top_p 1.0, seed {10**23}",
    ),
]


def test_a_search_over_prose_ends_with_a_model_that_writes(small: Any) -> None:
    _, root = small("shakespeare")
    searched(GOES_ON, root, 4)
    best = automl.load_best("mine", studies=root / "studies")
    again = automl.load_best("mine", studies=root / "studies")
    said = best.generate("A: to", length=50, temperature=0.8, seed=1)
    assert len(said) == 50
    assert said == again.generate("A: to", length=50, temperature=0.8, seed=1)
    assert said != best.generate("A: to", length=50, temperature=0.8, seed=2)
    greedy = best.generate("A: to", length=20, temperature=0)
    assert greedy == best.generate("A: to", length=20, top_k=1)
    assert greedy == best.generate("A: to", length=20, top_p=1e-300)
    assert len(best.generate(length=5, top_k=10**30)) == 5
    assert len(best.generate("Ω☃", length=5)) == 5
    with pytest.raises(DataError, match="continues text; use generate"):
        best.predict("a")
    for wrong, message in WRONG:
        with pytest.raises((DataError, OptionError)) as error:
            best.stream(**wrong)
        assert str(error.value).startswith(message)
    for temperature in (1e-6, 1e6):
        assert len(best.generate("A: to", length=5, temperature=temperature)) == 5

    shown = CliRunner().invoke(
        app,
        ["generate", "mine", "--studies", str(root / "studies"), "--prompt", "A: to",
         "--length", "50", "--seed", "1"],
    )  # fmt: skip
    assert shown.exit_code == 0
    assert shown.stdout == f"A: to{said}\n"

    for odd in ("nan", "inf", "1e-40", "-1"):
        shown = CliRunner().invoke(
            app, ["generate", "mine", "--studies", str(root / "studies"), "--temperature", odd]
        )
        assert isinstance(shown.exception, OptionError)
        told = f"generate: got length 400, temperature {float(odd)}, top_k 0, top_p 1.0, seed 0; "
        want = "want length >= 1, temperature 0 or 1e-06 to 1e+06, "
        assert str(shown.exception).startswith(told + want)


def test_a_refit_is_delivered_with_the_words_that_it_was_trained_on(tmp_path: Path) -> None:
    """Words of the validation split are among them then, and make the model larger."""
    lines = ["text,label", *(f"w{n // 2} {WORDS[n % 2]},{n % 2}" for n in range(200))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    told = {"task": {"name": "textcsv", "path": str(tmp_path / "train.csv")}, "model": "bag"}
    config = Config.of(told | {"train": {"epochs": 1}})
    data = config.task.load(None)
    fresh, refit = (
        Training(0, config, tmp_path / name, whole) for name, whole in (("a", False), ("b", True))
    )
    for made, seen in (fresh, data), (refit, data.whole()):
        list(train(config, seen, device=torch.device("cpu"), checkpoint=made.file))
    Delivery(tmp_path / "best", "s", data, ("none", 0.5)).write(refit, fresh)
    found = automl.load(tmp_path / "best")
    assert found.inputs.files() == config.input.fit(data.whole()).files()
    assert found.metrics["params"] == found.params


def test_each_text_has_its_own_answer_however_many_are_asked_at_once(tmp_path: Path) -> None:
    lines = ["text,label", *(f"{WORDS[n % 2]} film,{n % 2}" for n in range(200))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    told = {"task": {"name": "textcsv", "path": str(tmp_path / "train.csv")}, "model": "bag"}
    config = Config.of(told | {"train": {"epochs": 1}})
    data, made = config.task.load(None), Training(0, config, tmp_path / "a")
    list(train(config, data, device=torch.device("cpu"), checkpoint=made.file))
    Delivery(tmp_path / "best", "s", data, ("none", 0.5)).write(made)
    model = automl.load(tmp_path / "best")
    asked = ["good film", "bad", "film", "bad film bad film bad", "", "good good good"]
    each = torch.cat([model.probabilities(text) for text in asked])
    assert torch.allclose(model.probabilities(asked), each, atol=1e-6)
    assert len(each.unique(dim=0)) == len(asked)
