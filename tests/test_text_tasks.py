"""Claims about text data: read as published, split once, what must not be seen is not."""

from __future__ import annotations

import csv
import io
import math
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import automl
from automl.cli import app
from automl.config import Config, Input, Task
from automl.data import Data, Split
from automl.errors import DataError, OptionError
from automl.inputs.text import unpack
from automl.tasks import shakespeare, source
from automl.tasks.imdb import Imdb
from automl.tasks.sst2 import Sst2
from automl.tasks.texts import ProseTask, TextTask, written
from automl.tasks.trec import Trec
from automl.training import train
from automl.training.loop import encoded

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
        case "shakespeare":
            (folder / "input.txt").write_text(PLAY)
        case "textfile":
            (folder / "mine.txt").write_text(PLAY)
            knobs["path"] = str(folder / "mine.txt")
        case _:
            pytest.fail(f"no small data for {name}: add some here")
    return Task.of({"name": name, **knobs})


def packed(files: dict[str, str]) -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
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


@pytest.mark.parametrize("name", PROSE)
def test_a_text_is_split_by_position(name: str, small: Any) -> None:
    task, root = small(name, valid=0.1, sealed=0.2)
    data, test = task.load(root), task.test(root)
    parts = [unpack(split.x)[0] for split in (data.train, data.valid, test)]
    assert "".join(parts) == PLAY
    assert [len(split) for split in (data.train, data.valid, test)] == [len(p) for p in parts]
    assert [round(len(part) / len(PLAY), 2) for part in parts] == [0.7, 0.1, 0.2]


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
    [("trec", (4906, 546, 500)), ("sst2", (6920, 872, 1821)),
     ("shakespeare", (1_003_855, 55_770, 55_769))],
)  # fmt: skip
def test_the_real_sets_are_as_published(name: str, sizes: tuple[int, int, int]) -> None:
    assert REAL
    task = Task.of(name)
    data = task.load(Path(REAL))
    assert (len(data.train), len(data.valid), data.sealed) == sizes
    assert isinstance(data.train, Split)
    assert task.metric.better(task.baseline(data)[1], task.chance(data)[1])


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
    with pytest.raises(DataError, match="continues no text; use predict"):
        best.generate("a")


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
    assert greedy == best.generate("A: to", length=20, top_p=1e-9)
    assert len(best.generate("Ω☃", length=5)) == 5
    with pytest.raises(DataError, match="has no classes; use generate"):
        best.predict("a")
    with pytest.raises(OptionError, match=r"generate: got length 0.*want length >= 1"):
        best.generate(length=0)

    shown = CliRunner().invoke(
        app,
        ["generate", "mine", "--studies", str(root / "studies"), "--prompt", "A: to",
         "--length", "50", "--seed", "1"],
    )  # fmt: skip
    assert shown.exit_code == 0
    assert shown.stdout == f"A: to{said}\n"
