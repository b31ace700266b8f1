"""Tables: cells to numbers, words and texts, and a row of these to what a model reads.

Knows no tasks.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from functools import cached_property
from itertools import accumulate, chain, compress, repeat
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from automl import tables
from automl.amounts import plural
from automl.config import Input
from automl.data import Data, Inputs, Raw, Split
from automl.errors import DataError
from automl.inputs.text import NORMAL, PIECE

MOST = 10_000  # words of a column that are told apart
FEW = 20  # rows, of which a column may have a word for each
EVERYWHERE = 0.9  # share of the texts of a column beyond which a word tells nothing
LONGEST = 1024  # words of a text
STRAY = 0.1  # share of the cells of a column that are no numbers, where that is said
CLIP = 3.0  # quartile ranges from the median, about: what lies further off is drawn near
FAR = 1e6  # of them: beyond, drawing near comes to the same, but squares may overflow
DAY = 86_400  # seconds
TIMES = {np.datetime64, np.timedelta64}  # of NumPy, numbers of whatever unit to itself
TRUTHS = ("TRUE", "FALSE", "true", "false")
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
Names = tuple[str, ...]
Words = Mapping[str, Sequence[Any]]  # cells by column


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table as it was written."""

    path: Path
    lines: list[int]  # where its rows begin
    columns: dict[str, list[str]]
    mark: str  # between cells

    def kept(self, rows: Sequence[bool]) -> Sheet:
        """The rows for which this says so."""
        if all(rows):
            return self
        some = {name: [*compress(cells, rows)] for name, cells in self.columns.items()}
        return replace(self, lines=[*compress(self.lines, rows)], columns=some)

    def kinds(
        self,
        wanted: Collection[str],
        named: Collection[str],
        spoken: Collection[str],
        others: Collection[str],
        warn: Callable[[str], object],
    ) -> tuple[Names, dict[str, Names], dict[str, tuple[Names, int]]]:
        """The columns of numbers or dates, and those of words and of texts with their words.

        Words come the most frequent first; of texts is said how many the longest has. Those that
        are `wanted`, else all but what tells nothing: columns without a cell, and those in which
        nearly every row has a word of its own, which are texts if their words are met again.
        Columns that are `named` are of words and those `spoken` of texts whatever they hold, and
        `others` are none of these. `warn` is told what may surprise. Raises DataError.
        """
        for name in (*wanted, *named, *spoken, *others):
            if name not in self.columns:
                raise tables.no_column(str(self.path), name, [*self.columns])
        if both := {*named} & {*spoken}:
            raise DataError(f"{self.path}: column {min(both)!r} is named as words and as a text")
        if wanted and (left := {*named, *spoken} - {*wanted}):
            told = "is named as words or as a text; want it among those to read, too"
            raise DataError(f"{self.path}: column {min(left)!r} {told}")
        numbers, passed = list[str](), list[str]()
        words, texts = dict[str, Names](), dict[str, tuple[Names, int]]()
        asked = {*wanted, *named}
        for name, cells in self.columns.items():
            if name in others or (wanted and name not in wanted):
                continue
            counts = Counter(cells)
            known = sum(1 for cell in counts if word(cell))
            if not known:
                passed.append(name)
                continue
            if name in spoken:
                texts[name], _ = _said(counts)
                continue
            if name not in named:
                amounts = quantities([*counts], self.mark)
                if amounts is not None:
                    numbers.append(name)
                    if lost := tables.rounded(amounts):
                        warn(f"column {name[:60]!r}: {lost}")
                    continue
                if stray := self._stray(name, counts):
                    warn(f"column {name[:60]!r} is not read as numbers: {stray}")
            own = FEW <= len(cells) < 2 * known
            if own and name not in named:
                said, again = _said(counts)
                if again:
                    texts[name] = said
                    continue
            if own and name not in asked:
                passed.append(name)
            else:
                found = Counter[str]()
                for cell, count in counts.items():
                    found[word(cell)] += count
                words[name] = tuple(one for one, _ in found.most_common(MOST))
        if passed:
            told = "nothing but empty cells, or a word of its own in nearly every row"
            warn(f"passing over {', '.join(map(repr, passed))[:200]}: {told}")
        if not numbers and not words and not texts:
            raise DataError(f"{self.path}: got no column to read; want one at least")
        return tuple(numbers), words, texts

    def _stray(self, name: str, counts: Mapping[str, int]) -> str:
        """The first cell of a column that is no number, where nearly all are; else nothing."""
        odd = [cell for cell in counts if quantity(cell, self.mark) is None]
        known = sum(count for cell, count in counts.items() if word(cell))
        if (strays := sum(counts[cell] for cell in odd)) > STRAY * known:
            return ""
        line = self.lines[self.columns[name].index(odd[0])]
        return f"{strays:,} of {known:,} cells are none, as line {line:,}: {odd[0][:60]!r}"


@dataclass(frozen=True)
class Table(Raw):
    """Rows of numbers, words and texts, of which another column is to be told."""

    target: str
    number: bool  # whether that is one
    numbers: Names  # columns
    named: Names  # columns of words
    words: tuple[Names, ...]  # of each, the most frequent first; "" where cells are empty
    encoding: tables.Encoding = "utf-8"  # of files without a byte order mark
    texts: Names = ()  # columns, whose words are behind those of `named`
    lengths: tuple[int, ...] = ()  # words of each that are read, the first

    @property
    def summary(self) -> str:
        return f"rows of {_counted(self)}, {self.target} to tell"

    def described(self, row: Tensor) -> str:
        """A row (columns,) as people read it; what is not known is left out."""
        lists, told = _lists(self), list[str]()
        for name, place in spans(self).items():
            cells = [cell for cell in row[place].tolist() if not math.isnan(cell)]
            words = lists.get(name)
            if shown := [words[int(cell)] if words else f"{cell:.6g}" for cell in cells]:
                told.append(f"{name} {' '.join(shown)}")
        return ", ".join(told)


@dataclass(frozen=True)
class Cells(Inputs):
    """A row: numbers on the scale that they have in training, words as places in a list."""

    target: str
    numbers: Names
    middle: tuple[Finite, ...]  # per column of numbers, the median in training
    scale: tuple[Positive, ...]  # between the quartiles
    gaps: tuple[int, ...]  # columns of numbers that have empty cells in training
    named: Names
    words: tuple[Names, ...]  # as a task gives them, up to the last that training has
    places: tuple[tuple[int, ...], ...]  # of each word, from 1; 0: training hardly has it
    mean: Finite | None = None  # of the target in training, where that is a number
    std: Positive | None = None
    encoding: tables.Encoding = "utf-8"  # of files to read that have no byte order mark
    texts: Names = ()  # columns, whose words and places are behind those of `named`
    lengths: tuple[Annotated[int, Field(ge=1, le=LONGEST)], ...] = ()  # words that are read

    @property
    def summary(self) -> str:
        return f"rows of {_counted(self)}"

    @property
    def features(self) -> int:
        """Numbers that a model reads, those that say whether a cell is empty too."""
        return len(self.numbers) + len(self.gaps)

    @property
    def sizes(self) -> list[int]:
        """Words of each column that a model can tell apart, the unknown one too."""
        return [max(places, default=0) + 1 for places in self.places[: len(self.named)]]

    @property
    def terms(self) -> list[int]:
        """Words of each column of texts that a model can tell apart."""
        return [max(places, default=0) for places in self.places[len(self.named) :]]

    def encode(self, split: Split) -> Split:
        """Targets that are numbers come to mean 0 and deviation 1 of the training split."""
        if self.mean is None or self.std is None:
            return split
        y = (split.y.double() - self.mean) / self.std
        return Split(split.x, y.float(), split.groups)

    def prepare(self, x: Tensor) -> Tensor:
        """float32 (N, columns) in, (N, features + named + lengths) out.

        Of a number its distance from the median in quartile ranges, drawn near beyond about three
        (Holzmüller et al. 2024), 0 where it is not known; of a word its place among those of all
        columns, one behind the other, and of the words of texts the same from 1, 0 where training
        hardly has them.
        """
        if x.device not in self._ready:
            self._ready[x.device] = self._constants(x.device)
        middle, scale, first, last, places, gaps = self._ready[x.device]
        numbers, words = x.tensor_split([len(self.numbers)], 1)
        empty = numbers.isnan()
        off = ((numbers - middle) / scale).masked_fill(empty, 0.0).clamp(-FAR, FAR)
        parts = [off / (1 + (off / CLIP).square()).sqrt()]
        if self.gaps:
            parts.append(empty[:, gaps].float())
        if self.places:
            place = torch.where(words.isnan() | (words < 0), last, first + words)
            parts.append(places[torch.minimum(place, last).long()])
        return torch.cat(parts, 1)

    @cached_property
    def _ready(self) -> dict[torch.device, tuple[Tensor, ...]]:
        return {}

    def _constants(self, device: torch.device) -> tuple[Tensor, ...]:
        """Medians and ranges; where the list of each column of words begins and ends, and all;
        which columns have gaps.

        The last of each list is the place of what is none of its words.
        """
        before = [*accumulate([0, *self.sizes])][:-1], [*accumulate([0, *self.terms])][:-1]
        lists = [
            [of + place if place or number < len(self.named) else 0 for place in (*places, 0)]
            for number, (of, places) in enumerate(zip(chain(*before), self.places, strict=True))
        ]
        ends = [*accumulate(map(len, lists))]
        often = [1] * len(self.named) + [*self.lengths]
        first = [end - len(places) for end, places in zip(ends, lists, strict=True)]
        firsts, lasts = (
            [*chain(*map(repeat, of, often))] for of in (first, [end - 1 for end in ends])
        )
        rows = self.middle, self.scale, firsts, lasts, [*chain(*lists)]
        with torch.inference_mode(False):  # for what trains, too
            told = [torch.tensor(row, dtype=torch.float, device=device) for row in rows]
            return *told, torch.tensor(self.gaps, dtype=torch.long, device=device)

    def read(self, raw: Any) -> Split:
        """Rows as a table on disk, a data frame, a mapping for one of them or a list of mappings.

        Columns are found by their names, others are passed over. None and NaN are gaps. Raises
        DataError, for a file with a row of more or fewer cells, too: each is to have an answer. A
        file is in the encoding that the table to train with was in.
        """
        if isinstance(raw, str | Path):
            sheet = read(Path(raw), self.encoding, [*spans(self)], every=True)
            x = rows(str(raw), self, sheet.columns, sheet.mark)
        else:
            x = rows("rows", self, _cells(raw), ",")
        return Split(x, torch.zeros(len(x), dtype=torch.long))

    @property
    def outputs(self) -> int:
        return int(self.mean is not None)

    def told(self, logits: Tensor) -> Tensor:
        """Shares of classes (N, K), or numbers (N, 1) as the training split has them."""
        if self.mean is None or self.std is None:
            return super().told(logits)
        return logits * self.std + self.mean

    def untold(self, told: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return super().untold(told)
        return (told - self.mean) / self.std

    def example(self, count: int) -> Tensor:
        return torch.zeros(count, self.features + len(self.named) + sum(self.lengths))

    def recipe(self) -> dict[str, Any]:
        words = _lists(self)
        told: dict[str, Any] = {
            "dtype": "float32",
            "shape": ["N", len(self.numbers) + len(self.named) + sum(self.lengths)],
            "how": "of each row the columns of numbers named here, a date as its days since 1970;"
            " then of each column of words the place of the word in its list, from 0, an empty cell"
            " being the word of no letters; NaN where a number is not known or a word not listed",
            "numbers": self.numbers,
            "words": {name: words[name] for name in self.named},
        }
        if self.texts:
            told["how"] += (
                "; then of each text the places of its first words that are listed, as many as"
                " `lengths` has for its column, and NaN behind the last: what `pieces` finds in it"
                " in small letters and NFC, without the space around each"
            )
            told["texts"] = {name: words[name] for name in self.texts}
            told["lengths"] = dict(zip(self.texts, self.lengths, strict=True))
            told["pieces"] = PIECE.pattern
        if self.mean is None:
            return told
        return told | {"out": f"float32 (N, 1): {self.target}", "std": self.std}

    @property
    def floats(self) -> int:
        return 512 + 64 * (self.features + len(self.named) + sum(self.lengths))


class Row(Input):
    """Numbers, words and texts of a row, as training has them."""

    name: Literal["row"] = "row"
    turns: ClassVar[dict[str, str]] = {"records": "columns"}
    fitted: ClassVar[type[Inputs]] = Cells

    vocab: int = Field(
        1000, ge=1, le=MOST, description="words of a column that are told apart, the most frequent"
    )
    text_vocab: int = Field(
        MOST, ge=1, le=MOST, description="words of a column of texts that are told apart"
    )
    seen: int = Field(
        2, ge=1, le=1000, description="times that training has a word; a rarer one is unknown"
    )

    def fit(self, data: Data) -> Cells:
        raw, x, y = data.inputs, data.train.x, data.train.y
        assert isinstance(raw, Table)
        assert isinstance(x, Tensor)
        numbers, *words = x.split([len(raw.numbers), *[1] * len(raw.named), *raw.lengths], 1)
        places = tuple(map(self._places, words, raw.words, self._most(raw)))
        scales = [_scale(column) for column in numbers.double().T.numpy()]
        target: tuple[float | None, float | None] = None, None
        if raw.number:
            deviation = y.double().std(correction=0).item()
            target = y.double().mean().item(), deviation or 1.0
        return Cells(
            raw.target,
            raw.numbers,
            tuple(middle for middle, _ in scales),
            tuple(scale for _, scale in scales),
            tuple(numbers.isnan().any(0).nonzero().flatten().tolist()),
            raw.named,
            tuple(some[: len(of)] for some, of in zip(raw.words, places, strict=True)),
            places,
            *target,
            raw.encoding,
            raw.texts,
            raw.lengths,
        )

    def _most(self, of: Table | Cells) -> list[int]:
        """Words of each column of words or texts that are told apart."""
        return [self.vocab] * len(of.named) + [self.text_vocab] * len(of.texts)

    def _places(self, column: Tensor, words: Names, most: int) -> tuple[int, ...]:
        """Of the words of a column (N, L), by how often they are met; up to the last that is known.

        A model is to name them all, and no file of weights has a header beyond 100 MB.
        """
        met = column[~column.isnan()].long().bincount(minlength=len(words))
        known = met.argsort(descending=True, stable=True)[:most]
        known = known[met[known] >= self.seen]
        places = torch.zeros(len(words), dtype=torch.long)
        places[known] = torch.arange(1, len(known) + 1)
        return tuple(places[: 1 + int(known.max())].tolist() if len(known) else ())

    def expect(self, raw: Raw) -> Cells:
        assert isinstance(raw, Table)
        count = len(raw.numbers)
        places = (range(1, len(words) + 1) for words in raw.words)
        known = zip(places, self._most(raw), strict=True)
        mean, std = (0.0, 1.0) if raw.number else (None, None)
        return Cells(
            raw.target,
            raw.numbers,
            (0.0,) * count,
            (1.0,) * count,
            tuple(range(count)),
            raw.named,
            raw.words,
            tuple(tuple(place * (place <= most) for place in some) for some, most in known),
            mean,
            std,
            raw.encoding,
            raw.texts,
            raw.lengths,
        )

    def restore(self, facts: str, read: Any) -> Cells:
        told = super().restore(facts, read)
        assert isinstance(told, Cells)
        count, listed = len(told.numbers), len(told.named) + len(told.texts)
        lists = [*zip(told.words, told.places, self._most(told), strict=False)]
        if not (
            count == len(told.middle) == len(told.scale)
            and listed == len(told.words) == len(told.places)
            and len(told.texts) == len(told.lengths)
            and count + listed > 0
            and all(0 <= gap < count for gap in told.gaps)
            and all(len(words) == len(places) for words, places, _ in lists)
            and all(0 <= place <= most for _, places, most in lists for place in places)
            and (told.mean is None) == (told.std is None)
        ):
            raise DataError("row: what is told of numbers and words does not fit together")
        return told


def read(
    path: Path,
    encoding: str | None = None,
    wanted: Collection[str] = (),
    warn: Callable[..., None] | None = None,
    *,
    every: bool = False,
) -> Sheet:
    """A table with a first row of names; a column without one is none. Raises DataError.

    Up to one row in a hundred may have more or fewer cells, and is passed over, unless `every` row
    is wanted.
    """
    text = tables.content(path, encoding, fixed=every)
    mark, header = tables.header(path, text, wanted)
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            raise DataError(f"{path}: {count:,} columns are called {name[:60]!r}; want one")
    lines, found, bad = list[int](), list[list[str]](), list[tuple[int, str]]()
    for line, row in tables.rows(path, text, mark, len(header)):
        if isinstance(row, str):
            bad.append((line, row))
        else:
            lines.append(line)
            found.append(row)
    lines, found = lines[1:], found[1:]  # below the names
    if every and bad:
        raise DataError(f"{path}: line {bad[0][0]:,}: {bad[0][1]}; want every row whole")
    tables.useful(path, bad, len(found), warn)
    columns = zip(header, zip(*found, strict=True), strict=True)
    told = {name: [cell.strip() for cell in cells] for name, cells in columns if name}
    return Sheet(path, lines, told, mark)


def spans(of: Table | Cells) -> dict[str, slice]:
    """Where each column lies in a row as a task gives it."""
    widths = [*repeat(1, len(of.numbers) + len(of.named)), *of.lengths]
    ends = zip((*of.numbers, *of.named, *of.texts), accumulate(widths), widths, strict=True)
    return {name: slice(end - width, end) for name, end, width in ends}


def pieces(cell: Any) -> list[str]:
    """The words and marks of a text, as the input `words` cuts it."""
    text = word(cell)
    text = text.lower() if text.isascii() else NORMAL.normalize_str(text)
    return [told for piece in PIECE.findall(text) if (told := piece.strip())]


def rows(where: str, of: Table | Cells, cells: Words, mark: str) -> Tensor:
    """float32 (N, columns) of cells by column: a number, the place of a word, those of a text.

    NaN where nothing is known, for a word that is none of its column's, and behind a text, whose
    words that are none of them are passed over. Raises DataError.
    """
    for name in spans(of):
        if name not in cells:
            raise tables.no_column(where, name, [*cells])
    lists, found = _lists(of), list[Sequence[float] | NDArray[np.float64]]()
    for name in of.numbers:
        told = quantities(cells[name], mark)
        if told is None:
            odd = next(cell for cell in cells[name] if quantity(cell, mark) is None)
            raise DataError(f"{where}: column {name[:60]!r}: got {str(odd)[:60]!r}; want a number")
        found.append(told)
    for name in of.named:
        places = {word: float(place) for place, word in enumerate(lists[name])}
        for one in TRUTHS:
            if one in places:  # pandas makes `True` of it
                places.setdefault(one.capitalize(), places[one])
        found.append([places.get(word(cell), math.nan) for cell in cells[name]])
    parts = [tables.single(np.array(found).T, where)] if found else []
    for name, length in zip(of.texts, of.lengths, strict=True):
        places = {word: float(place) for place, word in enumerate(lists[name])}
        x = np.full((len(cells[name]), length), math.nan, dtype=np.float32)
        for row, cell in zip(x, cells[name], strict=True):
            known = [places[piece] for piece in pieces(cell) if piece in places][:length]
            row[: len(known)] = known
        parts.append(torch.from_numpy(x))
    return torch.cat(parts, 1)


def quantities(cells: Sequence[Any], mark: str) -> NDArray[np.float64] | None:
    """What `quantity` says of each (N,), in a fraction of the time; None where one is neither."""
    if TIMES.isdisjoint(map(type, cells)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            told = np.array(cells, dtype=np.float64)
            if told.ndim == 1 and np.isfinite(told).all():
                return told
    found = [quantity(cell, mark) for cell in cells]
    return None if None in found else np.array(found, dtype=np.float64)


def quantity(cell: Any, mark: str) -> float | None:
    """A number, or the days of a date since 1970; NaN where nothing is known; None: neither."""
    if isinstance(cell, str):
        told = tables.number(cell, mark)
        if told is not None or not (date := tables.date(cell)):
            return told
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() / DAY
    if cell is None:
        return math.nan
    if hasattr(cell, "isoformat"):
        return quantity(cell.isoformat(), mark)
    if type(cell) in TIMES:
        return quantity(str(cell), mark)
    try:
        told = float(cell)
    except (TypeError, ValueError):  # a date in the words of others, as pandas has months
        return quantity(str(cell), mark)
    except OverflowError:
        return None
    return None if math.isinf(told) else told


def word(cell: Any) -> str:
    """A cell as a word; none where nothing is known. A whole number is one however it is held."""
    told = "" if cell is None else str(cell).strip()
    if told.endswith("0") and (whole := re.fullmatch(r"(-?\d+)\.0+", told)):
        return whole[1]
    return "" if told.lower() in tables.MISSING else told


def _cells(raw: Any) -> Words:
    """Of a data frame, a row or rows. Raises DataError."""
    if hasattr(raw, "columns") and hasattr(raw, "to_numpy"):  # as pandas and polars have
        columns = tables.frame("rows", raw)
        return {
            str(name): column.tolist() if hasattr(column, "tolist") else [*column]
            for name, column in columns.items()
        }
    given = [raw] if isinstance(raw, Mapping) or not isinstance(raw, Iterable) else [*raw]
    for row in given:
        if not isinstance(row, Mapping):
            want = "want a mapping of columns to values, several, a data frame or a table's path"
            raise DataError(f"rows: got {type(row).__name__}; {want}")
        for name, cell in row.items():
            if isinstance(cell, list | tuple) or getattr(cell, "ndim", False):
                got = f"got {type(cell).__name__} in column {str(name)[:60]!r}"
                raise DataError(f"rows: {got}; want a value, or a list of rows")
    if not given:
        raise DataError("rows: got none; want one at least")
    names = dict.fromkeys(name for row in given for name in row)
    return {str(name): [row.get(name) for row in given] for name in names}


def _scale(column: NDArray[np.float64]) -> tuple[float, float]:
    """Median and range between the quartiles, or half of the whole where these are equal."""
    known = column[~np.isnan(column)]
    if not len(known):
        return 0.0, 1.0
    low, first, middle, third, high = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return middle, (third - first) or (high - low) / 2 or 1.0


def _lists(of: Table | Cells) -> dict[str, Names]:
    """The words of each column of words or texts."""
    return dict(zip((*of.named, *of.texts), of.words, strict=True))


def _said(counts: Mapping[str, int]) -> tuple[tuple[Names, int], bool]:
    """The words of texts, those that most have first, and how many the longest has; whether they
    are met again: whether a text has one in the mean that others have, and not nearly all.
    """
    met, known, longest = Counter[str](), 0, 0
    for cell, count in counts.items():
        found = pieces(cell)
        longest = max(longest, len(found))
        known += count * bool(found)
        for piece in dict.fromkeys(found):
            met[piece] += count
    again = sum(count for count in met.values() if 1 < count <= EVERYWHERE * known)
    return (tuple(piece for piece, _ in met.most_common(MOST)), longest), again >= known


def _counted(of: Table | Cells) -> str:
    kinds = (of.numbers, "number"), (of.named, "word"), (of.texts, "text")
    return " and ".join(plural(len(some), what) for some, what in kinds if some)
