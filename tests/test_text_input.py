"""Claims about tokens: learned from the training split alone, saved with the model, never lost."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from automl.config import Config, Input
from automl.data import UNSCORED, Data, Ragged, Split, Windows
from automl.errors import DataError, SpaceError
from automl.inputs.text import (
    PAD,
    PIECE,
    SPECIAL,
    UNKNOWN,
    TextInput,
    Texts,
    Tokens,
    Words,
    cut,
    pack,
    unpack,
)
from automl.results.generation import Draw, written

KINDS = [name for name, part in Input.members().items() if issubclass(part, TextInput)]
SPELLING = [name for name in KINDS if "prose" in Input.members()[name].turns]
TEXTS = [
    "Hello, World! don't  stop\n\nnow",
    "a b c hello world",
    "",
    "x <unk> <pad> y",
    "é 世界 é",
] * 8


def classes(texts: list[str], heard: list[str] | None = None) -> Data:
    """Texts to train on, and others to validate."""
    train, valid = (
        Split(pack(some), torch.zeros(len(some), dtype=torch.long))
        for some in (texts, heard or texts)
    )
    return Data(train, valid, Texts(), ("a", "b"), "fingerprint")


def prose(text: str) -> Data:
    raw = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    split = Split(raw, torch.zeros(0, dtype=torch.long))
    return Data(split, split, Texts(prose=True), (), "fingerprint")


def fitted(kind: str, data: Data, **knobs: Any) -> Tokens:
    made = Input.of({"name": kind, **knobs}).fit(data)
    assert isinstance(made, Tokens)
    return made


@given(st.text())
def test_cutting_a_text_into_pieces_loses_nothing(text: str) -> None:
    assert "".join(PIECE.findall(text)) == text


@pytest.mark.parametrize("run", ["a", "a'", "-", " ", "\n", "ि", "😀"])
def test_no_piece_is_long(run: str) -> None:
    assert max(map(len, PIECE.findall("a" * 256))) == 256
    assert max(map(len, PIECE.findall(run * 9999))) <= 11 * 256


WHOLE = ["don't", "snake_case9", "हिन्दी", "กำลัง", "مَرْحَبًا", "nai\u0308ve", "1½", "☺️"]


@pytest.mark.parametrize("word", WHOLE)
def test_a_word_is_one_piece_with_its_accents_and_vowel_signs(word: str) -> None:
    assert PIECE.findall(f"{word} {word}\n") == [word, f" {word}", "\n"]


@pytest.mark.parametrize("plane", range(17))
def test_every_character_is_cut_alike_by_the_library(plane: int) -> None:
    cuts = Words().tokenizer({}, []).pre_tokenizer
    for start in range(plane * 2**16, (plane + 1) * 2**16, 2**11):
        if not 0xD800 <= start < 0xE000:  # halves of characters
            text = "".join(f"a{c} {c}'b" for c in map(chr, range(start, start + 2**11)))
            theirs = [piece for piece, _ in cuts.pre_tokenize_str(text)]
            assert theirs == [piece.strip() for piece in PIECE.findall(text) if piece.strip()]


ODD = st.sampled_from(
    [*"aZ_'²ΣİÅ= -\t\n\x1c\x85\u0301\u0307\u0338\u093f\u200dⅣ①‿❤\ufe0f각\u11a8😀𝒜", "J\u030c"]
)
RUNS = st.tuples(ODD | st.characters(codec="utf-8"), st.sampled_from([1, 1, 2, 300]))
HARD = st.lists(RUNS, max_size=8).map(lambda runs: "".join(c * n for c, n in runs))


@pytest.fixture(scope="module")
def learned() -> Tokens:
    return fitted("bpe", classes(["हिन्दी nai\u0308ve 각\u11a8 ❤\ufe0fyou 'a'a 1² -- = \n\n" * 9]))


@given(HARD)
def test_a_tokenizer_json_alone_makes_our_tokens_of_every_text(learned: Tokens, text: str) -> None:
    data, x = classes([text]), pack([text])
    assert fitted("words", data, seen=1).alike(x) == (1, 1)
    assert fitted("characters", data).alike(x) == learned.alike(x) == (1, 1)


def test_bpe_learns_words_of_every_script_whole() -> None:
    read = fitted("bpe", classes(["नमस्ते हिन्दी दुनिया"] * 9)).read(" हिन्दी दुनिया").x
    assert isinstance(read, Ragged)
    assert read.lengths.tolist() == [2]


def test_words_are_the_same_composed_or_not() -> None:
    read = fitted("words", classes(["naïve Zoë"] * 2)).read("nai\u0308ve ZOE\u0308").x
    assert isinstance(read, Ragged)
    assert read.values.tolist() == [2, 3]


@given(st.lists(st.text(), min_size=1))
def test_texts_come_back_as_they_were(texts: list[str]) -> None:
    told = [text.encode("utf-8", "replace").decode() for text in texts]
    assert unpack(pack(texts)) == told


@pytest.mark.parametrize("kind", SPELLING)
def test_what_can_spell_spells_what_it_was_given(kind: str) -> None:
    inputs = fitted(kind, classes(TEXTS))
    encoded = inputs.encode(classes(TEXTS).train).x
    assert isinstance(encoded, Ragged)
    for number, text in enumerate(TEXTS):
        assert inputs.spell(encoded[torch.tensor([number])].values.tolist()) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_knows_nothing_of_the_validation_split(kind: str) -> None:
    alone = fitted(kind, classes(TEXTS))
    beside = fitted(kind, classes(TEXTS, ["zebra Ω quartz"] * 40))
    assert alone.files() == beside.files()


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_what_was_not_seen_is_unknown_and_never_padding(kind: str) -> None:
    inputs = fitted(kind, classes(TEXTS))
    split = inputs.read("Ω")
    assert isinstance(split.x, Ragged)
    assert split.x.values.tolist() == [UNKNOWN]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_makes_a_special_token(kind: str) -> None:
    encoded = fitted(kind, classes(TEXTS)).encode(classes(TEXTS).train).x
    assert isinstance(encoded, Ragged)
    assert not (encoded.values == PAD).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_alone_reads_as_it_does_among_others(kind: str) -> None:
    inputs = fitted(kind, classes(TEXTS), length=12)
    together = inputs.encode(classes(TEXTS).train).x
    assert isinstance(together, Ragged)
    assert together.lengths.max() <= 12
    for number, text in enumerate(TEXTS):
        alone = inputs.read(text).x
        assert isinstance(alone, Ragged)
        assert torch.equal(alone.values, together[torch.tensor([number])].values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_alone_reads_a_tokenizer_json_alike(kind: str) -> None:
    from tokenizers import Tokenizer

    inputs = fitted(kind, classes(TEXTS))
    theirs = Tokenizer.from_str(inputs.files()["tokenizer.json"])
    for text in TEXTS:
        encoded = inputs.read(text).x
        assert isinstance(encoded, Ragged)
        assert theirs.encode(text).ids == encoded.values.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_comes_back(kind: str) -> None:
    inputs = fitted(kind, classes(TEXTS))
    part = Input.of({"name": kind})
    again = part.restore(json.dumps(inputs.facts()), lambda name: inputs.files()[name])
    assert isinstance(again, Tokens)
    assert again.facts() == inputs.facts()
    assert again.tokenize(TEXTS) == inputs.tokenize(TEXTS)


HOSTILE = {
    "a number twice": lambda held: held["vocab"].update(dict.fromkeys(held["vocab"], 0)),
    "a number too many": lambda held: held["vocab"].update({"more": 10**9}),
    "no special tokens": lambda held: held["vocab"].pop(SPECIAL[0]),
    "merges of nothing": lambda held: held.update(merges=[["never", "seen"]]),
}


@pytest.mark.parametrize("damage", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_that_does_not_fit_is_refused(kind: str, damage: str) -> None:
    inputs = fitted(kind, classes(TEXTS))
    whole = json.loads(inputs.files()["tokenizer.json"])
    HOSTILE[damage](whole["model"])
    with pytest.raises(DataError, match=r"tokenizer.json: want \d+ tokens, numbered"):
        Input.of({"name": kind}).restore(json.dumps(inputs.facts()), lambda _: json.dumps(whole))


def test_a_small_vocabulary_is_the_beginning_of_a_larger_one() -> None:
    data = classes(["the cat sat on the mat and the rat ran"] * 9)
    small, large = fitted("bpe", data, vocab=300), fitted("bpe", data, vocab=2000)
    assert small.size <= 300 < 256 + len(SPECIAL) + 50
    ours = json.loads(small.files()["tokenizer.json"])["model"]["merges"]
    theirs = json.loads(large.files()["tokenizer.json"])["model"]["merges"]
    assert ours == theirs[: len(ours)]


def test_texts_are_cut_once_for_each_way_to_read_them() -> None:
    data, before = classes([*TEXTS, "these alone"]), cut.cache_info().misses
    for kind in ("words", "bpe", "words", "bpe"):
        fitted(kind, data).encode(data.train)
    assert cut.cache_info().misses == before + 2


def test_words_that_are_rare_are_not_told_apart() -> None:
    data = classes(["often often once", "often"])
    assert fitted("words", data, seen=2).size == 3
    assert fitted("words", data, seen=1).size == 4


class Table(list[str]):
    """What goes through its headers, as a data frame of pandas does."""

    ndim = 2


@pytest.mark.parametrize(
    "raw", [7, ["a", 7], [], None, np.array("a"), {"text": ["a", "b"]}, Table(["text"])]
)
def test_what_is_no_text_is_told(raw: Any) -> None:
    with pytest.raises(DataError, match=r"text: got .*; want a text or a list of texts"):
        fitted("words", classes(TEXTS)).read(raw)


# Batches.


def test_padding_is_zero_and_rows_are_whole() -> None:
    rows = [torch.arange(1, n + 1) for n in (3, 1, 0, 5)]
    ragged = Ragged.of(rows)
    padded = ragged.padded(torch.tensor([3, 0, 2]), 5)
    assert padded.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0], [0] * 5]
    assert ragged[torch.tensor([True, False, False, True])].lengths.tolist() == [3, 5]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_gives_no_row_twice_and_leaves_out_less_than_a_batch(
    lengths: list[int], size: int, seed: int
) -> None:
    split = Split(
        Ragged.of(torch.full((n,), i + 1) for i, n in enumerate(lengths)),
        torch.arange(len(lengths)),
    )
    size = min(size, len(lengths))
    batches = list(split.epoch(size, torch.Generator().manual_seed(seed)))
    seen = torch.cat([y for _, y in batches]).tolist()
    assert len(set(seen)) == len(seen) == len(lengths) // size * size
    for x, y in batches:
        for row, i in zip(x.tolist(), y.tolist(), strict=True):
            assert row == [i + 1] * lengths[i] + [0] * (x.shape[1] - lengths[i])


def test_every_row_has_its_epochs_whatever_its_length() -> None:
    rows = Ragged.of(torch.ones(n) for n in range(1, 28))
    split, draw = Split(rows, torch.arange(27)), torch.Generator().manual_seed(0)
    seen = torch.cat([y for _ in range(100) for _, y in split.epoch(10, draw)]).bincount()
    assert seen.min() > 50, "of 100, of which a row has 74 in the mean"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 200))
def test_a_sweep_gives_every_row_once_within_its_budget(lengths: list[int], budget: int) -> None:
    rows = Ragged.of(torch.ones(n, dtype=torch.int32) for n in lengths)
    index = []
    for rows_of, x, _ in Split(rows, torch.arange(len(lengths))).sweep(budget):
        index += rows_of.tolist()
        assert x.sum(1).tolist() == [lengths[row] for row in rows_of.tolist()]
        assert len(x) == 1 or x.numel() <= budget
    assert sorted(index) == list(range(len(lengths)))


def test_a_sweep_reads_little_padding_in_few_batches() -> None:
    lengths = torch.randint(1, 200, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    split = Split(Ragged.of(torch.ones(n) for n in lengths), torch.zeros(2000, dtype=torch.long))
    batches = [x for _, x, _ in split.sweep(2**20)]
    padding = sum(int((x == 0).sum()) for x in batches) / sum(x.numel() for x in batches)
    assert padding < 0.2
    assert len(batches) < 15


def test_batches_hold_texts_of_nearly_one_length() -> None:
    lengths = torch.randint(1, 200, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    split = Split(Ragged.of(torch.ones(n) for n in lengths), torch.zeros(2000, dtype=torch.long))
    batches = [x for x, _ in split.epoch(20, torch.Generator().manual_seed(0))]
    padding = sum(int((x == 0).sum()) for x in batches) / sum(x.numel() for x in batches)
    assert padding < 0.05
    longest = [x.shape[1] for x in batches]
    assert longest != sorted(longest), "lengths come in random order"


@given(st.integers(2, 400), st.integers(2, 40))
def test_every_token_of_a_text_but_the_first_is_judged_once(tokens: int, length: int) -> None:
    split = Split(Windows(torch.arange(tokens), length, tokens), torch.zeros(0))
    judged = torch.cat([y[y != UNSCORED] for _, _, y in split.sweep(100)])
    assert judged.sort().values.tolist() == list(range(1, tokens))


@given(st.integers(2, 400), st.integers(2, 40), st.integers(0, 50))
def test_windows_of_training_say_what_comes_next(tokens: int, length: int, seed: int) -> None:
    split = Split(Windows(torch.arange(tokens), length, tokens), torch.zeros(0))
    for x, y in split.epoch(1, torch.Generator().manual_seed(seed)):
        scored = y != UNSCORED
        assert (y[scored] == x[scored] + 1).all()
        assert scored.any()


@given(st.integers(2, 4000), st.integers(2, 40), st.integers(1, 64), st.integers(0, 50))
def test_an_epoch_of_windows_has_all_its_batches(
    tokens: int, length: int, most: int, seed: int
) -> None:
    split = Split(Windows(torch.arange(tokens), length, tokens), torch.zeros(0))
    steps = -(-split.rows // most)
    size = split.rows // steps
    batches = list(split.epoch(size, torch.Generator().manual_seed(seed)))
    assert len(batches) >= steps, "as many as the schedule counts"
    assert all(len(x) == size for x, _ in batches)


def test_a_text_counts_by_characters() -> None:
    assert len(prose("héllo").train) == 5
    assert len(fitted("bpe", prose("héllo" * 9)).encode(prose("héllo").train)) == 5


# What is written.


class Few(Tokens):
    def spell(self, tokens: list[int]) -> str:
        assert len(tokens) <= 4, "a token costs the same however much was written"
        return super().spell(tokens)


class Even(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 1, 1)


@given(st.lists(st.integers(0, 14), max_size=30))
def test_characters_are_written_when_all_their_bytes_are_there(
    learned: Tokens, drawn: list[int]
) -> None:
    parts = learned.tokenize(["a😀é€ि\ufffd"])[0]  # many of these make no character
    told, ends = [parts[i % len(parts)] for i in drawn], learned.tokenize(["a"])[0]
    want = learned.spell(told + ends)
    few, rest = Few(learned.size, 20, True, learned.tokenizer), iter(told + ends)
    pieces = written(Even(), few, "", len(want), lambda _: next(rest), torch.device("cpu"))
    assert "".join(pieces) == want


def test_a_model_that_ends_no_character_still_comes_to_an_end(learned: Tokens) -> None:
    byte = learned.tokenize(["é"])[0][-1]
    pieces = written(Even(), learned, "", 9, lambda _: byte, torch.device("cpu"))
    assert "".join(pieces) == "\ufffd" * 9


def test_the_likeliest_token_may_always_be_drawn() -> None:
    draw = Draw(1e6, 0, 1e-300, torch.Generator())
    assert draw(torch.tensor([9.0, 9.0, 1.0, 2.0])) == 3


# Who reads what is known before there is data.


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"input": "words"}, "input: words reads texts; digits gives images; want pixels"),
        ({"model": "rnn"}, "model: rnn reads next tokens and tokens; "),
    ],
)
def test_parts_that_do_not_go_together_are_told(told: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError) as error:
        Config.of({"task": "digits", "model": "mlp", **told})
    assert message in str(error.value)
