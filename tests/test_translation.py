"""Pairs of texts: rows of tokens, what is told of them, BLEU, and a search from end to end."""

from __future__ import annotations

import io
import json
import math
import os
import random
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from torch import Tensor, nn

import automl
from automl.config import Config, Input, Task
from automl.data import UNSCORED, Data, Pairs, Ragged
from automl.errors import DataError, OptionError, SpaceError
from automl.inputs.text import END, SEP, UNKNOWN, Paired, Parallel, Tokens, paired
from automl.results import artifact
from automl.results.bleu import bleu, words
from automl.results.generation import translated
from automl.results.judgement import judge
from automl.tasks.multi30k import Multi30k
from automl.tasks.pairs import held_out, packed
from automl.tasks.texts import TokenTask
from automl.training import checkpoint, train
from automl.training.loop import evaluate

pytestmark = pytest.mark.usefixtures("all_forked")

CPU = torch.device("cpu")
REAL = os.environ.get("AUTOML_DATA")  # conftest hides it from the tests themselves
FAMILIES = {
    "rnn": {"name": "rnn", "cell": "gru", "embedding": 32, "width": 64},
    "transformer": {"name": "transformer", "heads": 2, "head": 16, "layers": 2},
}
HOSTILE = "</td><script>alert(1)</script>"

Texts = list[tuple[str, str]]


def shouted(count: int, seed: int = 0) -> Texts:
    """Words of up to five letters, and the same in capitals."""
    rng = random.Random(seed)
    drawn = ("".join(rng.choices("abcdef", k=rng.randint(1, 5))) for _ in range(count))
    return [(word, word.upper()) for word in drawn]


def data_of(train_pairs: Texts, valid_pairs: Texts) -> Data:
    return Data(packed(train_pairs), packed(valid_pairs), Parallel("low", "high"), (), "f")


def config_of(model: str, **knobs: Any) -> Config:
    return Config.of(
        {
            "task": "multi30k",
            "input": {"name": "characters", "length": 16},
            "model": FAMILIES[model],
            "optimizer": {"name": "adamw", "lr": 1e-2},
            "train": {"epochs": 12, "batch_size": 32, "clip": 1.0, **knobs},
        }
    )


# --- rows of tokens


def test_the_source_and_what_is_beyond_the_end_are_told_by_nobody() -> None:
    rows = Ragged.of([torch.tensor([5, 6, SEP, 7, 8, END]), torch.tensor([5, SEP, 9, END])])
    pairs = Pairs(rows, torch.tensor([3, 2]), torch.tensor([3, 2]))
    x, y = pairs.take(torch.tensor([1, 0]), 6)
    no = UNSCORED
    assert x.tolist() == [[5, SEP, 9, END, 0], [5, 6, SEP, 7, 8]]
    assert y.tolist() == [[no, 9, END, no, no], [no, no, 7, 8, END]]


def test_each_pair_comes_once_an_epoch_and_with_others_nearly_as_long() -> None:
    inputs = Input.of({"name": "characters", "length": 40}).fit(data_of(shouted(64), shouted(8)))
    split = inputs.encode(packed(shouted(64)))
    assert (len(split), split.rows) == (64, 64)
    assert isinstance(split.x, Pairs)
    batches = [x for x, _ in split.epoch(8, torch.Generator().manual_seed(0))]
    ends = torch.cat([(x == END).sum(1) + (x[:, -1] != 0) for x in batches])
    assert len(ends) == 64
    spread = [int((x != 0).sum(1).max() - (x != 0).sum(1).min()) for x in batches]
    assert max(spread) <= 2 * 3 < 2 * 4  # lengths are odd numbers of 3 to 11 tokens
    swept = torch.cat([index for index, *_ in split.sweep(100)])
    assert sorted(swept.tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("length", "row", "start", "characters"),
    [
        (12, "ab<sep>wxyz<end>", 3, 5),
        (8, "ab<sep>wxyz<end>", 3, 5),
        (7, "ab<sep>wxyz", 3, 4),  # a target that was cut has no end
        (6, "ab<sep>wxy", 3, 3),
        (4, "a<sep>wx", 2, 2),  # of the source the first half is read, <sep> with it
        (2, "<sep>w", 1, 1),
    ],
)
def test_a_long_source_is_cut_to_half_and_its_target_to_the_rest(
    length: int, row: str, start: int, characters: int
) -> None:
    pairs = [("ab", "wxyz")]
    inputs = Input.of({"name": "characters", "length": length}).fit(data_of(pairs, pairs))
    assert isinstance(inputs, Paired)
    x = inputs.encode(packed(pairs)).x
    assert isinstance(x, Pairs)
    assert inputs.spell(x.tokens.values.tolist()) == row
    assert (x.starts.tolist(), x.characters.tolist()) == ([start], [characters])
    assert inputs.sources(["ab"]) == [x.tokens.values[:start].tolist()]


def test_a_character_that_was_never_seen_counts_as_one_where_its_target_is_cut() -> None:
    data = data_of([("ab", "cd")], [("ab", "cd\u00e9\u00e9\u00e9cd")])
    inputs = Input.of({"name": "characters", "length": 8}).fit(data)
    x = inputs.encode(data.valid).x
    assert isinstance(x, Pairs)
    assert x.tokens.values.tolist()[-3:] == [UNKNOWN] * 3
    assert x.characters.tolist() == [5]


def test_both_sides_share_a_vocabulary_that_is_learned_from_training_pairs_alone() -> None:
    train_pairs = [("aab aab", "bba bba")] * 9
    data = data_of(train_pairs, [("zzq zzq", "zzq")] * 9)
    inputs = Input.of({"name": "bpe", "vocab": 300}).fit(data)
    assert inputs.tokenizer.token_to_id("aab") is not None
    assert inputs.tokenizer.token_to_id("bba") is not None
    assert inputs.tokenizer.token_to_id("zz") is None
    first = [inputs.tokenizer.id_to_token(number) for number in range(4)]
    assert first == ["<pad>", "<unk>", "<sep>", "<end>"]
    full = Input.of({"name": "bpe", "vocab": 300}).fit(data_of(shouted(500), shouted(9)))
    assert full.size == 300


def test_no_text_can_say_where_it_ends() -> None:
    pairs = [("a <sep> b <end>", "<end> c"), ("\u00e9\U0001f642", "<pad>")]
    inputs = Input.of({"name": "bpe", "vocab": 300}).fit(data_of(pairs, pairs))
    for (source, target), row in zip(pairs, _rows(inputs, pairs), strict=True):
        assert (row.count(SEP), row.count(END), row[-1]) == (1, 1, END)
        middle = row.index(SEP)
        assert inputs.spell(row[:middle]) == source
        assert inputs.spell(row[middle + 1 : -1]) == target
    assert inputs.alike(packed(pairs).x) == (2, 2)


def _rows(inputs: Any, pairs: Texts) -> list[list[int]]:
    tokens = inputs.encode(packed(pairs)).x.tokens
    return [row.tolist() for row in tokens.values.split(tokens.lengths.tolist())]


@pytest.mark.parametrize("name", ["bpe", "characters"])
def test_a_tokenizer_of_pairs_is_saved_and_read_again(name: str) -> None:
    part = Input.of({"name": name, "vocab": 300, "length": 20})
    inputs = part.fit(data_of(shouted(99), shouted(9)))
    again = part.restore(json.dumps(inputs.facts()), inputs.files().__getitem__)
    assert type(again) is Paired
    assert again.summary == inputs.summary == f"pairs of up to 20 tokens out of {inputs.size:,}"
    assert _rows(again, shouted(9, 1)) == _rows(inputs, shouted(9, 1))
    torn = inputs.files()["tokenizer.json"].replace('"<end>"', '"<ende>"')
    with pytest.raises(DataError, match=r"want .* tokens, numbered, .*'<sep>', '<end>'"):
        part.restore(json.dumps(inputs.facts()), lambda _: torn)


def test_words_are_refused_for_they_cannot_spell() -> None:
    with pytest.raises(SpaceError, match="words reads texts; multi30k gives pairs; want bpe or ch"):
        Config.of({"task": "multi30k", "input": "words", "model": "rnn"})
    with pytest.raises(SpaceError, match=r"textcnn reads tokens; .* want rnn or transformer"):
        Config.of({"task": "multi30k", "model": "textcnn"})


# --- the loss


def test_the_loss_is_of_targets_alone_and_the_same_on_every_device() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(3, 5, 7, requires_grad=True), torch.randint(0, 7, (3, 5))
    y[0, :3] = y[2, 4:] = UNSCORED
    task = Multi30k()
    for smoothing in (0.0, 0.1):
        told = task.loss(logits, y, smoothing)
        on_a_gpu = TokenTask.loss(task, logits, y, smoothing)
        assert told.item() == pytest.approx(on_a_gpu.item())
    (slope,) = torch.autograd.grad(told, logits)
    assert slope[y == UNSCORED].abs().sum() == 0
    assert slope[y != UNSCORED].abs().sum(-1).min() > 0


def test_bits_are_of_characters_of_targets_and_each_end_counts_as_one() -> None:
    pairs = [("abc", "de"), ("a", "fgh")]
    inputs = Input.of({"name": "characters", "length": 16}).fit(data_of(pairs, pairs))
    split = inputs.encode(packed(pairs))
    size = inputs.outputs

    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(*x.shape, size)

    scores = evaluate(Even(), split, inputs, Multi30k())
    assert scores["loss"] == pytest.approx(math.log(size))
    assert scores["bits_per_character"] == pytest.approx(math.log2(size))  # a token a character
    assert isinstance(split.x, Pairs)
    assert split.x.characters.tolist() == [2 + 1, 3 + 1]


def test_an_interval_of_pairs_holds_that_tokens_have_more_and_fewer_characters() -> None:
    """All tokens are alike to this model: what varies is how many a character takes."""
    rng = random.Random(0)
    seen = [(f"s{n}", rng.choice(["abcabcabcabc", "zyxwvu"])) for n in range(200)]
    inputs = Input.of({"name": "bpe", "vocab": 300, "length": 32}).fit(
        data_of([("s", "abcabcabcabc")] * 200, seen)
    )
    split, size = inputs.encode(packed(seen)), inputs.outputs
    assert isinstance(split.x, Pairs)

    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(*x.shape, size)

    found = judge(Even(), split, inputs, Multi30k())
    assert found.scores == pytest.approx(evaluate(Even(), split, inputs, Multi30k()))
    assert found.interval is not None
    told = (split.x.lengths - split.x.starts).double() * math.log2(size)
    long = split.x.characters.double()
    score = float(told.sum() / long.sum())
    error = float((told - score * long).std() / long.mean() / math.sqrt(len(long)))
    width = (found.interval.high - found.interval.low) / 2
    assert width == pytest.approx(1.96 * error, rel=0.1)
    assert found.interval.low < score < found.interval.high


# --- training and telling


def trained(model: str, folder: Path) -> tuple[nn.Module, Paired]:
    """The family, having learned to shout."""
    config, data = config_of(model), data_of(shouted(2000), shouted(200, 1))
    list(train(config, data, device=CPU, checkpoint=folder / "c"))
    inputs = config.input.fit(data)
    net = config.model.build(inputs, inputs.outputs)
    state = checkpoint.load(folder / "c")
    assert state is not None
    net.load_state_dict({**state["model"], **state["averaged"]})
    assert isinstance(inputs, Paired)
    return net.eval(), inputs


@pytest.fixture(scope="module", params=FAMILIES)
def learned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, Paired]:
    return trained(request.param, tmp_path_factory.mktemp(request.param))


def test_each_family_learns_to_say_what_it_was_told(learned: tuple[nn.Module, Paired]) -> None:
    pairs = shouted(200, 2)
    told = translated(*learned, [source for source, _ in pairs], CPU)
    right = sum(said == target for said, (_, target) in zip(told, pairs, strict=True))
    assert right >= 190


def test_an_answer_hangs_on_no_other(learned: tuple[nn.Module, Paired]) -> None:
    texts = [source for source, _ in shouted(150, 3)]
    together = translated(*learned, texts, CPU)
    assert together == [translated(*learned, [text], CPU)[0] for text in texts]
    assert translated(*learned, texts[::-1], CPU) == together[::-1]


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("model", FAMILIES)
def test_a_model_without_steps_tells_the_same(model: str, beam: int) -> None:
    """Of weights that say nothing sure, so that beginnings come and go."""
    torch.manual_seed(0)
    inputs = config_of(model).input.fit(data_of(shouted(99), shouted(9)))
    assert isinstance(inputs, Paired)
    net = config_of(model).model.build(inputs, inputs.outputs).eval()
    for weight in net.parameters():
        weight.data += 0.5 * torch.randn_like(weight)

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net(x)
            return logits

    texts = [source for source, _ in shouted(40, 4)]
    told = translated(net, inputs, texts, CPU, beam)
    assert told == translated(Whole(), inputs, texts, CPU, beam)
    assert told == [translated(net, inputs, [text], CPU, beam)[0] for text in texts]
    assert len(set(told)) > 10


class Trap(nn.Module):
    """Begins with A, which goes on as may be, rather than with B, which surely ends."""

    def __init__(self, inputs: Paired) -> None:
        super().__init__()
        (self.a,), (self.b,) = inputs.tokenize(["A", "B"])
        self.size = inputs.size

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.full((*x.shape, self.size), -9.0)
        logits[..., self.a], logits[..., self.b] = 1.0, 0.5
        after = x[:, -1:]
        logits[:, -1:][after == self.a] = 0.0
        logits[:, -1:, END][after == self.b] = 20.0
        return logits


def test_with_a_beam_what_is_likelier_as_a_whole_is_found() -> None:
    inputs = Input.of({"name": "characters", "length": 10}).fit(data_of(shouted(99), shouted(9)))
    assert isinstance(inputs, Paired)
    model = Trap(inputs)
    assert translated(model, inputs, ["a", "bc"], CPU, 1)[0] != "B"
    assert translated(model, inputs, ["a", "bc"], CPU, 2) == ["B", "B"]


def test_of_a_beam_the_likeliest_for_its_length_is_taken() -> None:
    """Three letters (0.28) are less likely than none (0.36), but not for three and an end."""
    inputs = Input.of({"name": "characters", "length": 10}).fit(data_of(shouted(99), shouted(9)))
    assert isinstance(inputs, Paired)
    (letter,) = inputs.tokenize(["A"])[0]
    share = {0: 0.64, 1: 0.662, 2: 0.662}  # of one more letter, by how many there are

    class Brief(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.full((*x.shape, inputs.size), -30.0)
            for row, seen in enumerate((x == letter).sum(1).tolist()):
                more = share.get(seen, 1e-9)
                logits[row, :, letter], logits[row, :, END] = math.log(more), math.log(1 - more)
            return logits

    none, three = math.log(0.36), math.log(0.64 * 0.662**2)
    assert three < none < three / (9 / 6) ** 0.6
    assert none / (8 / 6) ** 0.6 > three / (11 / 6) ** 0.6  # of the source nothing counts
    assert translated(Brief(), inputs, ["b"], CPU, 3) == ["AAA"]


class Endless(nn.Module):
    """Says one token again and again, behind so many of them an end."""

    def __init__(self, size: int, token: int, end: int) -> None:
        super().__init__()
        self.size, self.token, self.end = size, token, end
        self.given = list[list[int]]()

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x[0].tolist())
        logits = torch.zeros(*x.shape, self.size)
        logits[..., :3] = 9.0  # what spells nothing is never told
        own = int((x[0] == self.token).sum())
        logits[..., END if own == self.end else self.token] = 5.0
        return logits


def test_telling_stops_at_the_end_or_where_there_is_no_more_room() -> None:
    inputs = Input.of({"name": "characters", "length": 10}).fit(data_of(shouted(99), shouted(9)))
    assert isinstance(inputs, Paired)
    (letter,) = inputs.tokenize(["A"])[0]
    for end, said in ((3, "AAA"), (0, ""), (99, "A" * 7)):
        model = Endless(inputs.size, letter, end)
        assert translated(model, inputs, ["bc"], CPU) == [said]
        assert len(model.given) == min(2 + 1 + end, 9)  # nothing is asked for behind an end
    assert translated(model, inputs, ["bcdefa"], CPU) == ["A" * 5]  # four letters of it were read
    assert translated(model, inputs, ["", " \n"], CPU) == ["", ""]


def test_going_on_after_a_stop_is_as_if_never_stopped(tmp_path: Path) -> None:
    config, data = config_of("transformer", epochs=3), data_of(shouted(300), shouted(50, 1))
    through = [e.metrics for e in train(config, data, device=CPU)]
    file = tmp_path / "c"
    stopped = [e.metrics for e in train(config, data, device=CPU, checkpoint=file, until=1)]
    again = [e.metrics for e in train(config, data, device=CPU, checkpoint=file)]
    assert (stopped, again) == (through[:1], through)


def test_clients_hold_pairs_of_their_own_too() -> None:
    clients = {"name": "fedavg", "clients": 4, "local_epochs": 2}
    knobs = config_of("rnn", epochs=2).dump() | {"federation": clients}
    data = data_of(shouted(200), shouted(50, 1))
    first, last = (e.metrics["loss"] for e in train(Config.of(knobs), data, device=CPU))
    assert last < first
    with pytest.raises(SpaceError, match=r"federation\.alpha: got 0\.5, for classes; want null"):
        Config.of(knobs | {"federation": clients | {"alpha": 0.5}})


# --- BLEU


@pytest.mark.parametrize(
    ("told", "wanted", "score"),
    [  # by sacrebleu 2.6.0, nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp
        (
            ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."],
            ["The dog bit the man.", "It was not unexpected.", "The man bit him first."],
            45.06750632106116,
        ),
        (
            ["A man, 45, rides a red-hot bike (fast).", "Two dogs"],
            ["A man, aged 45, rides a red-hot bike very fast.", "Two dogs run in 1,000 fields."],
            37.20998527481824,
        ),
        (["the the the the the the the"], ["the cat is on the mat"], 7.809849842300641),
        (["a b c d e"], ["a b c d e"], 100.0),
        (["A B C D E"], ["a b c d e"], 0.0),
        (["a b c"], ["a b c"], 0.0),  # no four words
        ([""], ["a b c d"], 0.0),
    ],
)
def test_bleu_is_that_of_sacrebleu(told: list[str], wanted: list[str], score: float) -> None:
    assert bleu(told, wanted) == pytest.approx(score, rel=1e-9)


def test_texts_are_cut_as_13a_has_it() -> None:
    text = 'It\'s 1,000.5 km-long ("no"), 3-4 &quot;x&amp;y&quot; <skipped>A.B,\ufffd\u2013z\n'
    wanted = 'It\'s 1,000.5 km-long ( " no " ) , 3 - 4 " x & y " A . B , \ufffd\u2013z'
    assert words(text) == wanted.split()


# --- tasks


def captions(folder: Path, counts: dict[str, int], packed_as: str) -> None:
    """As multi30k has them: a line for a pair in a file for a language."""
    files = {}
    for file, count in counts.items():
        for language in ("de", "en", "fr"):
            lines = [f"{file} {n} {language}." for n in range(count)]
            files[f"{file}.{language}"] = ("\n".join(lines) + "\n").encode()
    if packed_as == "folder":
        for name, raw in files.items():
            (folder / name).write_bytes(raw)
        return
    with tarfile.open(folder / "multi30k-en-de-fr.tar.xz", "w:xz") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(f"multi30k/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    def refused(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setattr(Multi30k, "counts", {"train": 20, "valid": 4, "test": 3})
    return {"train": 20, "val": 4, "test_2016_flickr": 3, "test_2017_flickr": 5}


@pytest.mark.parametrize("packed_as", ["archive", "folder"])
def test_lines_of_two_languages_are_pairs(
    packed_as: str, few: dict[str, int], tmp_path: Path
) -> None:
    captions(tmp_path, few, packed_as)
    task = Task.of({"name": "multi30k", "languages": "fr-de"})
    data, test = task.load(tmp_path), task.test(tmp_path)
    assert (len(data.train), len(data.valid), data.sealed) == (20, 4, 3)
    assert paired(data.train.x)[19] == ("train 19 fr.", "train 19 de.")
    assert paired(test.x)[0] == ("test_2016_flickr 0 fr.", "test_2016_flickr 0 de.")
    assert data.inputs.summary == "pairs of texts, fr to de"
    other = Task.of("multi30k").load(tmp_path)
    assert paired(other.valid.x)[1] == ("val 1 de.", "val 1 en.")
    assert other.fingerprint != data.fingerprint


def test_what_a_model_is_held_against_reads_no_source() -> None:
    task = Multi30k()
    data = data_of([("x", "ab"), ("y", "a")], [("x", "a")])
    name, chance = task.chance(data)  # a, b and ends occur 2, 1 and 2 times, each one more
    assert (name, chance) == ("characters by their frequency", pytest.approx(-math.log2(3 / 9)))
    said = ["a dog runs", "two dogs run", "a cat sleeps"] * 50
    data, other = (data_of([(f"{k}", t) for t in said], [("", said[k])]) for k in (0, 2))
    name, baseline = task.baseline(data)
    assert name == "a 6-gram model of targets alone"
    assert baseline < task.chance(data)[1]
    rest = Data(packed([("z", t) for t in said]), data.valid, data.inputs, (), "f")
    assert task.baseline(rest)[1] == baseline != task.baseline(other)[1]


def test_multi30k_that_is_not_as_published_is_one_line(few: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found in .* as multi30k-en-de-fr\.tar\.xz, tr"):
        Task.of("multi30k").load(tmp_path)
    captions(tmp_path, few | {"val": 5}, "folder")
    with pytest.raises(DataError, match="got 5 valid examples of multi30k; want 4"):
        Task.of("multi30k").load(tmp_path)
    (tmp_path / "val.de").unlink()
    with pytest.raises(DataError, match=r"holds no val\.de"):
        Task.of("multi30k").load(tmp_path)


def test_what_was_compressed_is_downloaded_whole_or_not_at_all(
    few: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip
    import hashlib

    from automl.tasks import source

    raw = b"eins\nzwei\n"
    good = hashlib.sha256(raw).hexdigest()
    for sent in (gzip.compress(raw), gzip.compress(raw)[:-9], b"<html>"):
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, s=sent, **__: io.BytesIO(s))
        if sent == gzip.compress(raw):
            source.fetch("https://x/a.gz", good, tmp_path / "a", gzipped=True)
            assert (tmp_path / "a").read_bytes() == raw
            continue
        with pytest.raises(OSError, match=r"https://x/a\.gz|[Gg]zip"):
            source.fetch("https://x/a.gz", good, tmp_path / "b", gzipped=True)
    assert not (tmp_path / "b").exists()


def table(folder: Path, pairs: Texts, name: str = "train.csv") -> Path:
    file = folder / name
    lines = [json.dumps({"source": s, "target": t}) for s, t in pairs]
    if file.suffix == ".csv":
        lines = ["source,target", *(f"{s},{t}" for s, t in pairs)]
    file.write_text("\n".join(lines) + "\n")
    return file


def own(path: Path, **knobs: Any) -> Any:
    return Task.of({"name": "textpairs", "path": str(path), **knobs})


def test_all_pairs_of_a_source_are_on_one_side(tmp_path: Path) -> None:
    pairs = [(f"s{n % 40}", f"t{n}") for n in range(200)]
    task = own(table(tmp_path, pairs), valid=0.2, sealed=0.1)
    data, test = task.load(None), task.test(None)
    parts = [paired(split.x) for split in (data.train, data.valid, test)]
    assert sorted(pair for part in parts for pair in part) == sorted(pairs)
    of = [{source for source, _ in part} for part in parts]
    assert len(of[0] | of[1] | of[2]) == sum(map(len, of)) == 40
    assert [len(part) for part in parts] == [145, 35, 20]
    assert task.load(None).fingerprint == data.fingerprint
    assert own(tmp_path, valid=0.3, sealed=0.1).test(None).x.values.equal(test.x.values)


def test_a_large_source_is_not_held_out(tmp_path: Path) -> None:
    split = packed([("a", "b")] * 50 + [("c", "d")])
    for seed in range(8):
        stays, drawn = held_out(tmp_path, split, 0.1, seed)
        assert (len(stays), paired(drawn.x)) == (50, [("c", "d")])


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_files_of_a_folder_are_the_splits(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part, pairs in (("train", shouted(30)), ("val", [("x", "y")]), ("test", [("x", "z")])):
        table(tmp_path, pairs, f"{part}.{suffix}")
    data = own(tmp_path).load(None)
    assert paired(data.train.x) == shouted(30)
    assert paired(data.valid.x) == [("x", "y")]
    assert "1 of 1 sources to test with are in another split, too" in caplog.text


def test_columns_are_named_and_cells_may_hold_anything_but_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mine.tsv"
    rows = [f"{n}\t s{n} \tt{n},\u00e4" for n in range(300)] + ["300\tleft\t "]
    file.write_text("id\ta\tb\n" + "\n".join(rows) + "\n")
    task = own(file, source_column="a", target_column="b")
    assert task.shape(None)[0].summary == "pairs of texts, a to b"
    data = task.load(None)
    assert all(s == s.strip() and t.endswith(",\u00e4") for s, t in paired(data.train.x))
    assert "1 of 301 rows are of no use: line 302 (line 302: empty target)" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "source,targe\na,b\n",
            "no column is called 'target'; did you mean 'targe'",
        ),
        ("source,target\na,b\n", "got too few sources; want one to train with and one"),
        ("source,target\na,b\nc,d\n", "got too few sources; want one to train with and one"),
        ("source,target\n", "got no rows"),
        ("source,target\n,b\nc,d\n", "1 of 2 rows are of no use: line 2 .*empty source"),
        ("source,target\na,b\0\nc,d\n", "a zero byte"),
        ("source,target,target\na,b,c\n", "got 2 columns that are called 'target'"),
        ('source,target\n"a,b\n', "got a quote that nothing closes"),
        ("", "got no rows"),
    ],
)
def test_a_table_that_holds_no_pairs_is_one_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=told) as raised:
        own(tmp_path).load(None)
    assert "\n" not in str(raised.value)


# --- a search


SPACE = """
version: 1
task: {{name: textpairs, path: {path}, valid: 0.2, sealed: 0.2}}
input: {{name: bpe, vocab: {{choice: [300, 320]}}, length: 32}}
model:
  choice:
    - {{name: rnn, cell: gru, embedding: 16, width: 32}}
    - {{name: transformer, heads: 2, head: 16, layers: 1}}
optimizer: {{name: adamw, lr: {{float: [3e-3, 1e-2], log: true}}}}
train: {{epochs: 3, batch_size: 32}}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a space and a study of it."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [(f"{' '.join(s + s)} {HOSTILE}", " ".join(t + t)) for s, t in shouted(400)]
    (folder / "loud.yaml").write_text(SPACE.format(path=table(folder, pairs)))
    automl.search(
        folder / "loud.yaml", trials=4, workers=1, finalists=1, studies=folder / "studies"
    )
    return folder


def test_a_search_delivers_what_makes_a_text_of_another(searched: Path) -> None:
    model = automl.load_best("loud", studies=searched / "studies")
    one = model.translate("abc")
    assert isinstance(one, str)
    assert model.translate(["abc", "", "fed"])[:2] == [one, ""]
    assert model.translate(iter(["abc"])) == [one]
    with pytest.raises(DataError, match="makes a text of another; use translate"):
        model.predict("abc")
    with pytest.raises(DataError, match="makes a text of another; use translate"):
        model.generate("abc")
    number: Any = 3
    with pytest.raises(DataError, match="got int; want a text or a list of texts"):
        model.translate(number)
    with pytest.raises(DataError, match="got an empty list"):
        model.translate([])
    assert isinstance(model.translate("abc", beam=4), str)
    beams: list[Any] = [0, 65, 2.0]
    for beam in beams:
        with pytest.raises(OptionError, match=f"beam: got {beam}; want a whole number from 1 to"):
            model.translate("abc", beam=beam)


def test_a_model_whose_inputs_are_no_pairs_is_refused(searched: Path, tmp_path: Path) -> None:
    model = automl.load_best("loud", studies=searched / "studies")
    own = model.inputs
    other = Tokens(own.size, own.length, True, own.tokenizer)
    artifact.write(tmp_path, model.config, model.model.state_dict(), other, ())
    with pytest.raises(DataError, match=r"inputs windows of up to 32 tokens .* for textpairs"):
        automl.load(tmp_path)


def test_what_a_search_knows_of_pairs_is_told(searched: Path) -> None:
    best = searched / "studies" / "loud" / "best"
    told = json.loads((best / "metrics.json").read_text())
    assert told["metric"] == "bits_per_character"
    count = told["test_examples"]
    assert (75 <= count <= 80, told["bleu"]["pairs"]) == (True, count)
    assert told["baseline"]["name"] == "a 6-gram model of targets alone"
    model = automl.load(best)
    test = paired(model.config.task.test(None).x)
    said = model.translate([source for source, _ in test])
    assert told["bleu"]["score"] == bleu(said, [target for _, target in test]) > 0
    card = (best / "card.md").read_text()
    assert f"| test BLEU, 0 to 100 ({count} pairs; 13a, the likeliest token each time) |" in card
    assert 'model.translate("a text")' in card
    assert f"{count} to test" in " ".join(card.split())
    page = (searched / "studies" / "loud" / "report.html").read_text()
    assert "What it makes of texts" in page
    assert "one pass through it takes" in page  # a target takes one for each token
    assert f"(13a, greedy) on {count} test pairs" in page
    assert HOSTILE not in page
    assert "&lt;/td&gt;&lt;script&gt;alert(1)" in page


def test_texts_are_translated_from_the_shell(
    searched: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--studies", searched / "studies")
    model = automl.load_best("loud", studies=searched / "studies")
    wanted = model.translate(["abc", "de"])
    status, out, _ = command("translate", "loud", "abc", "de", *where)
    assert (status, out.splitlines()) == (0, wanted)
    status, out, _ = command("translate", "loud", "abc", "de", *where, "--json")
    assert json.loads(out) == wanted
    status, out, _ = command("translate", "loud", "abc", "de", *where, "--beam", 4)
    assert out.splitlines() == model.translate(["abc", "de"], beam=4)

    def given(raw: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    given(b"abc\n\nde\n")
    status, out, _ = command("translate", "loud", *where)
    assert (status, out.split("\n")) == (0, [wanted[0], "", wanted[1], ""])
    given(b"\xef\xbb\xbfabc\r\nde")  # as Windows pipes it
    status, out, _ = command("translate", "loud", *where)
    assert (status, out.splitlines()) == (0, wanted)
    given(b"")
    assert command("translate", "loud", *where)[:2] == (0, "")
    given(b"")
    assert json.loads(command("translate", "loud", *where, "--json")[1]) == []
    given(b"abc\n\xff\n")
    status, _, err = command("translate", "loud", *where)
    assert status == 2
    assert "standard input: line 2: want UTF-8 text" in err


def test_a_model_of_pairs_is_verified(searched: Path, command: Command) -> None:
    status, out, _ = command("verify", "loud", "--studies", searched / "studies")
    assert status == 0
    assert "bits_per_character" in out


@pytest.mark.parametrize("to", ["pt2", "onnx", "safetensors"])
def test_a_model_of_pairs_is_exported(
    to: str, searched: Path, command: Command, tmp_path: Path
) -> None:
    where = ("--studies", searched / "studies")
    file = tmp_path / f"m.{to}"
    status, out, err = command("export", "loud", "--to", to, "--out", file, *where)
    assert status == 0, err
    assert "probabilities differ by" in out
    if to == "pt2":  # greedy, by what the file holds alone
        from tokenizers import Tokenizer

        facts = {"tokenizer.json": ""}
        whole = torch.export.load(file, extra_files=facts).module()
        tokenizer = Tokenizer.from_str(facts["tokenizer.json"])
        sep, end = map(tokenizer.token_to_id, ("<sep>", "<end>"))
        row = tokenizer.encode("fade").ids
        assert row[-1] == sep
        said = list[int]()
        while len(said) < 20 and (not said or said[-1] != end):
            shares = whole(torch.tensor([row + said]))[0, -1]
            shares[: sep + 1] = 0
            said.append(int(shares.argmax()))
        model = automl.load_best("loud", studies=searched / "studies")
        told = tokenizer.decode([one for one in said if one != end], skip_special_tokens=False)
        assert told.strip() == model.translate("fade")


# --- the benchmark


# the captions are no part of the project, whose tests pass without them
@pytest.mark.skipif(not REAL, reason="AUTOML_DATA names no folder with the real sets")
def test_multi30k_is_as_it_was_published() -> None:
    assert REAL is not None
    root = Path(REAL)
    data = Task.of("multi30k").load(root)
    assert (len(data.train), len(data.valid), data.sealed) == (29_000, 1_014, 1_000)
    assert paired(data.train.x)[0] == (
        "Zwei junge wei\u00dfe M\u00e4nner sind im Freien in der N\u00e4he vieler B\u00fcsche.",
        "Two young, White males are outside near many bushes.",
    )
    other = Task.of({"name": "multi30k", "languages": "en-fr"}).test(root)
    assert paired(other.x)[0][0] == "A man in an orange hat starring at something."
    chance, baseline = Multi30k().chance(data)[1], Multi30k().baseline(data)[1]
    assert chance == pytest.approx(4.319, abs=1e-3)
    assert baseline == pytest.approx(1.426, abs=1e-3)
