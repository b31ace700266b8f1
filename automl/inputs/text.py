"""Texts to tokens: characters, words or byte-level BPE, learned from the training split alone.

Every text is first cut into pieces: words with the space before them, runs of marks, white space.
No token crosses a piece, so each distinct piece is tokenized once and looked up ever after. IMDB's
22,507 reviews to train are cut in 2.5 s, once, and made tokens in 2.1 s (words) to 2.6 s (BPE);
tokenizing all 25,000 one by one took 10 s and 17 s (one core of an AMD EPYC).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

from automl import cache
from automl.config import Input
from automl.data import Data, Inputs, Pairs, Ragged, Raw, Rows, Split, Windows
from automl.errors import DataError

PAD, UNKNOWN, SEP, END = 0, 1, 2, 3
SPECIAL = ("<pad>", "<unk>")  # never pieces: marks and letters are cut apart
OF_PAIRS = (*SPECIAL, "<sep>", "<end>")
BETWEEN = "\0"  # a source and its target, as a split holds them
NORMAL = normalizers.Sequence([normalizers.Lowercase(), normalizers.NFC()])  # idempotent
LARGEST = 32_768  # tokens of a vocabulary
LONGEST = 16_384  # tokens of an example

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are one thread each


def _ranges(holds: Callable[[str], bool]) -> str:
    """The characters up to U+FFFF that hold, spelled out: no two engines mean the same by \\w."""
    numbers = (number for number in range(2**16) if holds(chr(number)))
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    found = ([number for _, number in run] for _, run in runs)
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in found)


def _in_words(c: str) -> bool:
    """Letters, their accents and vowel signs, numbers and `_`; not what makes a sign an emoji."""
    upon = unicodedata.category(c) in ("Mn", "Mc") and not "\ufe00" <= c <= "\ufe0f"
    return c.isalnum() or c == "_" or upon


SPACE = _ranges(str.isspace)
BEYOND = "\U00010000-\U0001cfff\U0001d400-\U0001efff\U00020000-\U0003ffff"  # hundreds are slow
WORD = _ranges(_in_words) + BEYOND
LONG = "{1,256}"  # BPE takes time quadratic in the length of a piece
PIECE = re.compile(  # leaves nothing out
    f" ?[{WORD}]{LONG}(?:'[{WORD}]{LONG}){{0,9}}| ?[^{WORD}{SPACE}]{LONG}"
    f"|[{SPACE}]{LONG}(?![^{SPACE}])|[{SPACE}]{LONG}"
)


@dataclass(frozen=True)
class Texts(Raw):
    """Texts, or one text to go on with."""

    prose: bool = False

    @property
    def summary(self) -> str:
        return "text to go on with" if self.prose else "texts"


@dataclass(frozen=True)
class Parallel(Raw):
    """Pairs of texts: of the first, the source, the second is to be made, its target."""

    source: str  # what the two are, in a word
    target: str

    @property
    def summary(self) -> str:
        return f"pairs of texts, {self.source} to {self.target}"


def texts_of(raw: Any) -> list[str]:
    """One text that a user has, or several. Raises DataError."""
    column = getattr(raw, "ndim", 1) == 1  # who goes through a table meets its headers alone
    many = isinstance(raw, Iterable) and column and not isinstance(raw, Mapping)
    texts = [raw] if isinstance(raw, str) else list(raw) if many else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise DataError(f"text: got {type(raw).__name__}; want a text or a list of texts")
    if not texts:
        raise DataError("text: got an empty list; want a text or a list of texts")
    return texts


def pack(texts: Iterable[str]) -> Ragged:
    """Texts as a split holds them."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    values = np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8)
    return Ragged(torch.from_numpy(values), torch.from_numpy(ends))


def unpack(x: Rows) -> list[str]:
    """The texts of a split; of one to go on with, the one."""
    if isinstance(x, Tensor):
        return [bytes(x.numpy()).decode("utf-8", "replace")]
    assert isinstance(x, Ragged)
    raw, ends = bytes(x.values.numpy()), x.offsets.tolist()
    return [raw[a:b].decode("utf-8", "replace") for a, b in pairwise(ends)]


def paired(x: Rows) -> list[tuple[str, str]]:
    """Sources and targets of a split."""
    return [(source, target) for source, _, target in (t.partition(BETWEEN) for t in unpack(x))]


@functools.lru_cache(maxsize=8)  # of the training split in every trial, always the same
def sides(x: Rows) -> Ragged:
    """Sources and targets of a split by turns, each a text of its own (2N rows)."""
    return pack(side for pair in paired(x) for side in pair)


@dataclass(frozen=True, eq=False)
class Pieces:
    """Texts cut into pieces: the distinct ones, and for every text their numbers."""

    table: list[str]
    rows: Ragged

    @property
    def counts(self) -> dict[str, int]:
        """How often each occurs."""
        number = self.rows.values.bincount(minlength=len(self.table)).tolist()
        return dict(zip(self.table, number, strict=True))


@functools.lru_cache(maxsize=8)  # training and validation split, asked for in every trial
def cut(x: Rows, normal: bool, /) -> Pieces:  # by name it would be cut, and kept, once more
    """As they are, or as `NORMAL` makes them, which comes first in a tokenizer.json, too."""
    numbers: dict[str, int] = {}
    rows = []
    for text in unpack(x):
        if normal:
            text = text.lower() if text.isascii() else NORMAL.normalize_str(text)
        found = [numbers.setdefault(piece, len(numbers)) for piece in PIECE.findall(text)]
        rows.append(torch.tensor(found, dtype=torch.int32))
    return Pieces(list(numbers), Ragged.of(rows))


@dataclass(frozen=True, eq=False)  # by identity: equal sizes say nothing of equal words
class Tokens(Inputs):
    """Texts as numbers of tokens: 0 pads, 1 is what was not seen in training."""

    size: Annotated[int, Field(ge=3, le=LARGEST)]  # tokens of the vocabulary, with these two
    length: Annotated[int, Field(ge=2, le=LONGEST)]  # most of an example; of a text, a window's
    causal: bool = False  # whether the next token is asked for
    tokenizer: Any = field(default=None, repr=False)
    special: ClassVar[tuple[str, ...]] = SPECIAL  # the first tokens of the vocabulary

    @property
    def summary(self) -> str:
        what = "windows" if self.causal else "texts"
        return f"{what} of up to {self.length} tokens out of {self.size:,}"

    @property
    def outputs(self) -> int:
        return self.size

    def answers(self, count: int, outputs: int) -> tuple[int, ...]:
        return (count, self.length, outputs) if self.causal else (count, outputs)

    @property
    def floats(self) -> int:
        return max(64, self.size // 8) if self.causal else 64

    def example(self, count: int) -> Tensor:
        return torch.ones(count, self.length, dtype=torch.long)

    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "length": self.length, "causal": self.causal}

    def recipe(self) -> dict[str, Any]:
        what = "last" if self.causal else "first"
        return {
            "dtype": "int64",
            "shape": ["N", "T"],
            "how": "tokenizers: Tokenizer.from_str(tokenizer.json).encode_batch(texts) keeps the "
            f"{what} {self.length} tokens of a text and writes 0 behind shorter ones; "
            "where no text has a token, each is one 0",
        }

    def files(self) -> dict[str, str]:
        """The tokenizer as anyone may use it on whole texts: it cuts and pads them, too."""
        alone = Tokenizer.from_str(self.tokenizer.to_str())
        alone.enable_truncation(self.length, direction="left" if self.causal else "right")
        alone.enable_padding(pad_id=PAD, pad_token=SPECIAL[PAD])
        return {"tokenizer.json": alone.to_str(pretty=True) + "\n"}

    def alike(self, x: Rows) -> tuple[int, int]:
        """Texts, as a task gives them, of which tokenizer.json alone makes our tokens; of how many.

        A text to go on with counts as texts of 1,000 characters.
        """
        texts = unpack(x)
        if self.causal:
            texts = [texts[0][i : i + 1000] for i in range(0, len(texts[0]), 1000)]
            x = pack(texts)
        alone = Tokenizer.from_str(self.files()["tokenizer.json"])
        alone.no_padding()
        alone.no_truncation()
        theirs = (found.ids for found in alone.encode_batch_fast(texts))
        whole = self._whole(x)
        ours = (part.tolist() for part in whole.values.split(whole.lengths.tolist()))
        return sum(a == b for a, b in zip(ours, theirs, strict=True)), len(texts)

    def encode(self, split: Split) -> Split:
        """Tokens, at most `length` of each text; of one to go on with, all."""
        whole = self._whole(split.x)
        if self.causal:
            return Split(Windows(whole.values, self.length, len(split)), split.y)
        return Split(whole.cut(self.length), split.y)

    def _whole(self, x: Rows) -> Ragged:
        """All tokens of each text."""
        pieces = cut(x, self.tokenizer.normalizer is not None)
        tokens = self.tokenize(pieces.table)
        table = Ragged.of(torch.tensor(ids, dtype=torch.int32) for ids in tokens)
        long = table[pieces.rows.values.long()]
        return Ragged(long.values, long.offsets[pieces.rows.offsets])

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def read(self, raw: Any) -> Split:
        """One text or several, as tokens."""
        texts = texts_of(raw)
        return self.encode(Split(pack(texts), torch.zeros(len(texts), dtype=torch.long)))

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch_fast(texts)]

    def spell(self, tokens: list[int]) -> str:
        """The text of tokens; one of characters or BPE is what it was before."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def characters(self, told: Tensor) -> int:
        """Of these tokens (T,): each that was never seen is one, whatever its name."""
        return len(self.spell(told[told != UNKNOWN].tolist())) + int((told == UNKNOWN).sum())


@dataclass(frozen=True, eq=False)
class Paired(Tokens):
    """A source, `<sep>`, its target and `<end>` as one row of tokens, of which the target is told.

    Of a source the first half of the length is read, `<sep>` with it, and its target has the rest:
    what does not fit is cut off, and a target that was cut has no `<end>`.
    """

    causal: bool = True
    special: ClassVar[tuple[str, ...]] = OF_PAIRS

    @property
    def summary(self) -> str:
        return f"pairs of up to {self.length} tokens out of {self.size:,}"

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "paired": True}

    def recipe(self) -> dict[str, Any]:
        return {
            **super().recipe(),
            "how": "tokenizers: Tokenizer.from_str(tokenizer.json).encode_batch(sources) ends each "
            f"with <sep>; of a longer one the first {self.length // 2 - 1} tokens and <sep> are "
            "read. What comes next is the target, token by token up to <end>; source and target "
            f"have at most {self.length} tokens together. 0 stands behind shorter ones",
        }

    def files(self) -> dict[str, str]:
        """The tokenizer as anyone may use it on sources, or on pairs as training has them."""
        alone = Tokenizer.from_str(self.tokenizer.to_str())
        marks = [(self.special[mark], mark) for mark in (SEP, END)]
        alone.post_processor = processors.TemplateProcessing(
            single="$A <sep>", pair="$A <sep> $B <end>", special_tokens=marks
        )
        alone.enable_padding(pad_id=PAD, pad_token=SPECIAL[PAD])
        return {"tokenizer.json": alone.to_str(pretty=True) + "\n"}

    def alike(self, x: Rows) -> tuple[int, int]:
        """Pairs of which tokenizer.json alone makes our tokens; of how many."""
        pairs = paired(x)
        alone = Tokenizer.from_str(self.files()["tokenizer.json"])
        alone.no_padding()
        theirs = (found.ids for found in alone.encode_batch_fast(pairs))
        ours = self._whole(sides(x))
        parts = ours.values.split(ours.lengths.tolist())
        whole = (
            [*source.tolist(), SEP, *target.tolist(), END]
            for source, target in zip(parts[::2], parts[1::2], strict=True)
        )
        return sum(a == b for a, b in zip(whole, theirs, strict=True)), len(pairs)

    def encode(self, split: Split) -> Split:
        """Each pair as a row of tokens. Characters that were cut off are not counted."""
        both = self._whole(sides(split.x))
        parts = both.values.split(both.lengths.tolist())
        sep, end = (torch.tensor([mark], dtype=torch.int32) for mark in (SEP, END))
        rows, starts, characters = list[Tensor](), list[int](), list[int]()
        for (_, text), source, target in zip(paired(split.x), parts[::2], parts[1::2], strict=True):
            start = min(len(source), self.length // 2 - 1) + 1
            row = torch.cat([source[: start - 1], sep, target, end])[: self.length]
            whole, told = len(row) == start + len(target) + 1, row[start:]
            rows.append(row)
            starts.append(start)
            characters.append(len(text) + 1 if whole else self.characters(told))
        pairs = Pairs(Ragged.of(rows), torch.tensor(starts), torch.tensor(characters))
        return Split(pairs, split.y)

    def sources(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text as they are read, up to `<sep>`."""
        whole = self._whole(pack(text.strip() for text in texts)).cut(self.length // 2 - 1)
        return [[*row.tolist(), SEP] for row in whole.values.split(whole.lengths.tolist())]


class Vocabulary(BaseModel):
    """The part of a tokenizer.json that is read."""

    vocab: dict[str, int]
    merges: list[tuple[str, str]] = Field(default_factory=list)


class File(BaseModel):
    """A tokenizer.json; what else it holds follows from the config."""

    model: Vocabulary


class TextInput(Input):
    """Tokens of one kind."""

    turns: ClassVar[dict[str, str]] = {
        "texts": "tokens",
        "prose": "next tokens",
        "pairs": "next tokens",
    }
    fitted: ClassVar[type[Inputs]] = Tokens

    vocab: int = Field(8_000, ge=300, le=LARGEST, description="most tokens of the vocabulary")
    length: int = Field(
        256,
        ge=2,
        le=LONGEST,
        description="most tokens of a text; more are cut off at its end. Of a pair, both together",
    )

    @abstractmethod
    def learn(self, x: Rows, most: int) -> tuple[list[str], list[tuple[str, str]]]:
        """At most so many tokens of texts, most frequent first, and the merges of BPE."""

    @abstractmethod
    def tokenizer(self, tokens: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
        """What cuts a text into these tokens."""

    def fit(self, data: Data) -> Tokens:
        return _fitted(self, data)

    def expect(self, raw: Raw) -> Tokens:
        if isinstance(raw, Parallel):
            return Paired(self.vocab, self.length)
        assert isinstance(raw, Texts)
        return Tokens(self.vocab, self.length, raw.prose)

    def restore(self, facts: str, read: Callable[[str], str]) -> Tokens:
        told = super().restore(facts, read)
        assert isinstance(told, Tokens)
        if json.loads(facts).get("paired"):
            told = Paired(told.size, told.length)
        found = File.model_validate_json(read("tokenizer.json")).model
        numbered = sorted(found.vocab.values()) == list(range(told.size))
        special = all(found.vocab.get(name) == i for i, name in enumerate(told.special))
        merged = all({a, b, a + b} <= found.vocab.keys() for a, b in found.merges)
        if not (numbered and special and merged):
            want = f"want {told.size:,} tokens, numbered, {told.special} first"
            raise DataError(f"tokenizer.json: {want}")
        return replace(told, tokenizer=self.tokenizer(found.vocab, found.merges))


@functools.lru_cache(maxsize=4)
def _fitted(part: TextInput, data: Data) -> Tokens:
    empty = part.expect(data.inputs)
    x = sides(data.train.x) if isinstance(empty, Paired) else data.train.x
    tokens, merges = part.learn(x, part.vocab - len(empty.special))
    numbers = {token: i for i, token in enumerate([*empty.special, *tokens])}
    return replace(empty, size=len(numbers), tokenizer=part.tokenizer(numbers, merges))


class Characters(TextInput):
    """Every character a token."""

    name: Literal["characters"] = "characters"
    vocab: int = Field(512, ge=16, le=LARGEST, description="most characters that are told apart")

    def learn(self, x: Rows, most: int) -> tuple[list[str], list[tuple[str, str]]]:
        counts: Counter[str] = Counter()
        for piece, number in cut(x, False).counts.items():
            for character in piece:
                counts[character] += number
        return _most_frequent(counts, most), []

    def tokenizer(self, tokens: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
        made = Tokenizer(models.WordLevel(tokens, unk_token=SPECIAL[UNKNOWN]))
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?m:.)"), "isolated")
        made.decoder = decoders.Fuse()
        return made


class Words(TextInput):
    """Every word and every run of marks a token, small and capital letters alike."""

    name: Literal["words"] = "words"
    turns: ClassVar[dict[str, str]] = {"texts": "tokens"}  # it cannot spell what it has not seen
    vocab: int = Field(20_000, ge=16, le=LARGEST, description="most words that are told apart")
    seen: int = Field(2, ge=1, le=1000, description="times a word must occur to be one")

    def learn(self, x: Rows, most: int) -> tuple[list[str], list[tuple[str, str]]]:
        counts: Counter[str] = Counter()
        for piece, number in cut(x, True).counts.items():
            counts[piece.strip()] += number
        del counts[""]
        often = Counter({word: number for word, number in counts.items() if number >= self.seen})
        return _most_frequent(often, most), []

    def tokenizer(self, tokens: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
        made = Tokenizer(models.WordLevel(tokens, unk_token=SPECIAL[UNKNOWN]))
        made.normalizer = NORMAL
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECE.pattern), "isolated"),
                pre_tokenizers.Split(Regex(f"[{SPACE}]"), "removed"),
            ]
        )
        return made


class Bpe(TextInput):
    """Frequent runs of bytes as tokens, so that all can be spelled (Sennrich et al. 2016)."""

    name: Literal["bpe"] = "bpe"

    def learn(self, x: Rows, most: int) -> tuple[list[str], list[tuple[str, str]]]:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        # a smaller vocabulary is the beginning of a larger one: learned once, then cut off
        merges = _merges(x)[: most - len(alphabet)]
        return [*alphabet, *dict.fromkeys(a + b for a, b in merges)], merges

    def tokenizer(self, tokens: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
        made = Tokenizer(models.BPE(tokens, merges))
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECE.pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made.decoder = decoders.ByteLevel()
        return made


def _most_frequent(counts: Counter[str], most: int) -> list[str]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [token for token, _ in ranked[:most]]


@functools.lru_cache(maxsize=2)
def _merges(x: Rows) -> list[tuple[str, str]]:
    """All merges that any vocabulary may want: 8 s for IMDB, so that they are kept on disk."""
    texts = unpack(x)
    key = hashlib.sha256("\0".join([PIECE.pattern, *texts]).encode()).hexdigest()[:16]
    path = cache.folder() / f"bpe-{key}.json"
    if (kept := cache.read_text(path)) is not None:
        return [(a, b) for a, b in json.loads(kept)]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = Bpe().tokenizer({}, []).pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=LARGEST, show_progress=False, initial_alphabet=alphabet),
    )
    merges = json.loads(made.to_str())["model"]["merges"]
    cache.write_text(path, json.dumps(merges))
    return [(a, b) for a, b in merges]
