"""The user's own tables, a row for each example: of one column the class or the number is told."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from torch import Tensor
from torch.nn import functional as F

from automl import cache, tables
from automl.amounts import plural
from automl.config import nearest
from automl.data import Data, Metric, Split
from automl.errors import DataError
from automl.inputs.columns import (
    LONGEST,
    Row,
    Sheet,
    Table,
    quantities,
    quantity,
    read,
    rows,
    spans,
    word,
)
from automl.tasks.classes import ClassTask, drawn, fitting
from automl.tasks.files import ENCODING, parts, passed_over
from automl.tasks.source import (
    FORMAT,
    TEST,
    Parts,
    Source,
    SourceTask,
    apart,
    cached,
    firsts,
    repeated,
    stratified,
    traces,
)

log = logging.getLogger("automl")

Shape = tuple[Table, tuple[str, ...]]

SUFFIXES = (".csv", ".tsv")
CLASSES = 1000  # a target with more of them is a number, or a text
BOOSTED = 50_000  # rows that gradient boosting learns from
BASELINE = "gradient boosting"
ALIKE = 1e-12  # share of the squares of numbers that rounding may take for their variance
TREES = 1000  # of all classes together, a hundred for each at most
LEAF = 20  # rows, or a tenth of few
TOPICS = 30  # of a column of texts
LINEAR = 50  # classes that ridge regression tells apart by texts
FOLDS = 5
OFTEN = 10  # times that a row is there in the mean, where chance makes rows equal
TOLD = 255  # words of a column that gradient boosting can tell apart, none for those left


class Rows(SourceTask):
    """A table as examples: what is read of a row, and what is told."""

    gives: ClassVar[str] = "records"
    input: ClassVar[str] = "row"
    number: ClassVar[bool]  # whether the target is one

    path: str = Field(
        ".",
        min_length=1,
        description="file, or folder with train.csv; relative to --data or to the working folder",
    )
    target: str = Field("target", min_length=1, description="the column that is told")
    columns: list[str] = Field(
        default=[], max_length=tables.COLUMNS, description="what is read; none: all others of use"
    )
    names: list[str] = Field(
        default=[], max_length=tables.COLUMNS, description="columns of words that look like numbers"
    )
    texts: list[str] = Field(
        default=[], max_length=tables.COLUMNS, description="columns read word by word; none: found"
    )
    length: int = Field(
        128, ge=1, le=LONGEST, description="words of a text that are read, the first"
    )
    group: str | None = Field(
        None, description="column whose equal rows are never on two sides of a split: of one person"
    )
    encoding: tables.Encoding = Field("utf-8", description=ENCODING)

    def shape(self, root: Path | None) -> tuple[Table, tuple[str, ...]]:
        path = parts(self.name, self.path, root, SUFFIXES)["train"]
        return _shape(type(self), self.model_dump_json(), path, json.dumps(traces([path])))

    def source(self, root: Path | None) -> Source:
        found = parts(self.name, self.path, root, SUFFIXES)
        passed_over(self.name, self.path, root, found, SUFFIXES)
        table, labels = self.shape(root)

        def decode() -> Parts:
            read = {part: self.split(path, table, labels) for part, path in found.items()}
            return self.held_out(found["train"], read, labels)

        knobs = [self.target, self.columns, self.names, self.texts, self.length]
        knobs += [self.group, self.encoding, OFTEN]
        return Source([knobs, traces(found.values())], decode)

    def held_out(self, place: Path, splits: Parts, labels: Sequence[str]) -> Parts:
        """The splits; with a test split, where there is none. Raises DataError."""
        if not _few(firsts(splits["train"].x)):
            repeated(place, splits)
        if "test" in splits:
            return splits
        train, test = self.sealing(place, splits["train"], labels)
        return {**splits, "train": train, "test": test}

    @abstractmethod
    def sealing(self, place: Path, split: Split, labels: Sequence[str]) -> tuple[Split, Split]:
        """What is to train, and what to test. Raises DataError."""

    def copies(self, split: Split) -> Tensor:
        """For each row the number of the first that it is a copy of, int64 (N,).

        Copies are equal rows with one target. Where targets differ, or where there are few
        different rows at all, equal cells come together by chance, and each row is by itself.
        """
        first, own = firsts(split.x), torch.arange(len(split))
        if _few(first):
            return own
        differ = torch.zeros_like(first, dtype=torch.bool)
        differ[first[split.y != split.y[first]]] = True
        return torch.where(differ[first], own, first)

    def sheet(self, path: Path, warn: Callable[..., None] | None = None) -> Sheet:
        """The rows whose target is known, see `useful`. Raises DataError."""
        sheet = read(path, self.encoding, [self.target], warn)
        if self.target not in sheet.columns:
            raise tables.no_column(
                str(path), self.target, [*sheet.columns], "; name it in task.target"
            )
        cells = sheet.columns[self.target]
        fault = [self._fault(cell, sheet.mark) for cell in cells]
        bad = [(line, told) for line, told in zip(sheet.lines, fault, strict=True) if told]
        tables.useful(path, bad, len(cells) - len(bad), warn)
        return sheet.kept([not told for told in fault])

    def _fault(self, cell: str, mark: str) -> str:
        if not word(cell):
            return f"no {self.target[:60]!r}"
        if self.number and quantity(cell, mark) is None:
            return f"{self.target[:60]!r} is no number: {cell[:60]!r}"
        return ""

    def split(self, path: Path, table: Table, labels: Sequence[str]) -> Split:
        sheet = self.sheet(path, log.warning)
        x = rows(str(path), table, sheet.columns, sheet.mark)
        cells = sheet.columns[self.target]
        if self.number:
            told = quantities(cells, sheet.mark)
            assert told is not None  # a row without a number is of no use
            y = tables.single(told, f"{path}: column {self.target[:60]!r}")
        else:
            places = {label: number for number, label in enumerate(labels)}
            if odd := sorted({*map(word, cells)} - places.keys()):
                got = f"got {odd[0][:60]!r} in column {self.target[:60]!r}, which is no class"
                raise DataError(f"{path}: {got} of the rows to train with{nearest(odd[0], labels)}")
            y = torch.tensor([places[word(cell)] for cell in cells])
        if self.group is None:
            return Split(x, y)
        if self.group not in sheet.columns:
            raise tables.no_column(str(path), self.group, [*sheet.columns])
        members = dict[str, int]()
        of = [members.setdefault(cell, len(members)) for cell in sheet.columns[self.group]]
        return Split(x, y, torch.tensor(of))


class TableCsv(Rows, ClassTask):
    """A CSV or TSV file with a row for each example, of which one column is the class.

    Or a folder with `train.csv` and, if you have them, `valid.csv` and `test.csv`. Columns of
    numbers and ISO dates are read as such, all others as words, or as texts where nearly all cells
    differ and their words are met again. Where there is no file to validate,
    a share of the training rows takes its place. Where there is none to test, 15 % of each class,
    drawn once with seed 0 whatever `split_seed` says, are the test split.
    """

    name: Literal["tablecsv"] = "tablecsv"
    number: ClassVar[bool] = False

    def sealing(self, place: Path, split: Split, labels: Sequence[str]) -> tuple[Split, Split]:
        return stratified(split, TEST, 0, labels, self.copies(split))

    def baseline(self, data: Data) -> tuple[str, float]:
        """Boosted trees (Friedman 2001; Ke et al. 2017) of at most 50,000 rows.

        Of a text they read topics, and what a linear model foretells, see `_foretold`.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        train = data.train[drawn(data.train.y, BOOSTED)]
        alone = bool(train.y.bincount().eq(1).any())  # such a class cannot be cut to stop early
        trees = HistGradientBoostingClassifier(
            max_iter=max(10, min(100, TREES // len(data.labels))),
            early_stopping=False if alone else "auto",
            **_knobs(data, train),
        )
        with fitting():
            x, valid = _boosted(data, train)
            trees.fit(x, train.y.numpy())
            answers = torch.from_numpy(trees.predict(valid))
        return BASELINE, self.judged(answers, data.valid.y)


class RegressionCsv(Rows):
    """A CSV or TSV file with a row for each example, of which one column of numbers is told.

    Or a folder with `train.csv` and, if you have them, `valid.csv` and `test.csv`. Columns of
    numbers and ISO dates are read as such, all others as words, or as texts where nearly all cells
    differ and their words are met again. Where there is no file to validate
    or to test, a share of the training rows takes its place, drawn once; copies of a row are on one
    side. Errors are of a target with mean 0 and deviation 1 in training: 1 is about what telling
    the mean costs.
    """

    name: Literal["regressioncsv"] = "regressioncsv"
    tells: ClassVar[str] = "numbers"
    number: ClassVar[bool] = True

    score: Literal["rmse", "mae"] = Field(
        "rmse",
        description="root of the mean squared error, or mean absolute one: what is trained by",
    )
    valid: float = Field(
        0.1, ge=0.01, le=0.4, description="share of the training rows to validate, without a file"
    )
    sealed: float = Field(
        0.15, ge=0.01, le=0.4, description="share of the rows to test, without a file"
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="of the draw of the validation rows; 0 to 2^31 - 1"
    )

    @property
    def metric(self) -> Metric:
        return Metric(self.score, higher_is_better=False)

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return Source([found.identity, self.sealed], found.decode)

    def sealing(self, place: Path, split: Split, labels: Sequence[str]) -> tuple[Split, Split]:
        return self._apart(place, split, self.sealed, 0)

    def _apart(self, place: Path, split: Split, share: float, seed: int) -> tuple[Split, Split]:
        alike = firsts(split.x) if split.groups is None else split.groups
        if len(alike.unique()) < 2:
            got = f"got {plural(len(split), 'row')}, all alike or of one group"
            raise DataError(f"{place}: {got}; want two that differ at least, to hold one out")
        first = self.copies(split) if split.groups is None else split.groups
        return apart(split, first, share, seed)

    def load(self, root: Path | None) -> Data:
        source, (table, _) = self.source(root), self.shape(root)
        train, about = cached(self.name, source, (), "train")
        if "valid" in about["digests"]:
            valid, _ = cached(self.name, source, (), "valid")
        else:
            place = parts(self.name, self.path, root, SUFFIXES)["train"]
            train, valid = self._apart(place, train, self.valid, self.split_seed)
        listed = *table.named, *table.texts
        known = [about["digests"], self.target, table.numbers, listed, cache.digest(valid)]
        return Data(
            train=train,
            valid=valid,
            inputs=table,
            labels=(),
            fingerprint=hashlib.sha256(json.dumps(known).encode()).hexdigest(),
            sealed=about["counts"]["test"],
        )

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Of numbers (N, 1), or of several members (N, k, 1), against those that came (N,)."""
        off = logits.float().flatten(1) - y.unsqueeze(1)
        return off.square().mean() if self.score == "rmse" else off.abs().mean()

    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        y = y.double()
        off = logits.squeeze(1).double() - y
        return {
            "squared": off.square().sum(),
            "absolute": off.abs().sum(),
            "count": torch.ones_like(off).sum(),
            "sum": y.sum(),
            "squares": y.square().sum(),
        }

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        """With the share of the variance that is told (r2); 0 where there is no variance."""
        count = tally["count"].clamp_min(1)
        mse, mae = tally["squared"] / count, (tally["absolute"] / count).item()
        varied = tally["squares"] - tally["sum"].square() / count
        varied = torch.where(varied > ALIKE * tally["squares"], varied, 0.0)
        rmse = mse.sqrt().item()
        return {
            "loss": mse.item() if self.score == "rmse" else mae,
            "rmse": rmse,
            "mae": mae,
            "r2": (1 - tally["squared"] / varied).item() if varied > 0 else 0.0,
        }

    def chance(self, data: Data) -> tuple[str, float]:
        y = Row().fit(data).encode(data.train).y
        told = y.mean() if self.score == "rmse" else y.median()
        name = "mean" if self.score == "rmse" else "median"
        return f"telling the {name}", self.judged(told.expand(len(data.valid)), data)

    def baseline(self, data: Data) -> tuple[str, float]:
        """Boosted trees (Friedman 2001; Ke et al. 2017) of at most 50,000 rows.

        Of a text they read topics, and what a linear model foretells, see `_foretold`.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor

        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
        train = Row().fit(data).encode(data.train)[order[:BOOSTED]]
        loss = "squared_error" if self.score == "rmse" else "absolute_error"
        trees = HistGradientBoostingRegressor(loss=loss, **_knobs(data, train))
        with fitting():
            x, valid = _boosted(data, train)
            trees.fit(x, train.y.numpy())
            told = torch.from_numpy(trees.predict(valid))
        return BASELINE, self.judged(told, data)

    def judged(self, told: Tensor, data: Data) -> float:
        """The metric of what is told of the validation rows, with deviation 1 (N,)."""
        valid = Row().fit(data).encode(data.valid)
        return self.scores(self.tally(told.unsqueeze(1), valid.y), valid)[self.metric.name]


def _few(first: Tensor) -> bool:
    """Whether there are few different rows, see `firsts`."""
    return OFTEN * len(first.unique()) <= len(first)


def _knobs(data: Data, train: Split) -> dict[str, Any]:
    """Of gradient boosting: which columns are of words, and how few rows a leaf may hold."""
    assert isinstance(data.inputs, Table)
    before = len(data.inputs.numbers)
    return {
        "categorical_features": [*range(before, before + len(data.inputs.named))],
        "min_samples_leaf": max(1, min(LEAF, len(train) // 10)),
        "random_state": 0,
    }


def _boosted(data: Data, train: Split) -> list[NDArray[np.float64]]:
    """Rows to train and to validate as gradient boosting reads them: rare words are none."""
    table, sides = data.inputs, list[Tensor]()
    assert isinstance(table, Table)
    for split in (train, data.valid):
        assert isinstance(split.x, Tensor)
        sides.append(split.x)
    count, parts = len(table.numbers) + len(table.named), list[list[NDArray[np.float64]]]()
    for x in sides:
        cells = x[:, :count].double().numpy()
        words = cells[:, len(table.numbers) :]
        words[words >= TOLD] = math.nan
        parts.append([cells])
    y = train.y.double() if table.number else F.one_hot(train.y, len(data.labels)).double()
    for name, said in zip(table.texts, table.words[len(table.named) :], strict=True):
        seen, unseen = (_counts(x[:, spans(table)[name]], len(said)) for x in sides)
        for part, told in zip(parts, _foretold(seen, unseen, y.numpy()), strict=True):
            part.extend(told)
    return [np.concatenate(part, 1) for part in parts]


def _counts(x: Tensor, size: int) -> Any:  # scipy has no types
    """How often each text (N, L) has each of its words: a sparse matrix (N, size)."""
    from scipy.sparse import csr_matrix

    rows, places = (~x.isnan()).nonzero(as_tuple=True)
    words = x[rows, places].long()
    return csr_matrix((np.ones(len(rows)), (rows.numpy(), words.numpy())), (len(x), size))


def _foretold(train: Any, valid: Any, y: NDArray[np.float64]) -> tuple[list[Any], list[Any]]:
    """Of texts, to train and to validate: their topics (Deerwester et al. 1990), and what ridge
    regression on their words makes of a target that it has not seen.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    weights = TfidfTransformer(sublinear_tf=True)
    train, valid = weights.fit_transform(train), weights.transform(valid)
    if train.shape[1] > TOPICS:
        topics = TruncatedSVD(TOPICS, random_state=0)
        told = [topics.fit_transform(train)], [topics.transform(valid)]
    else:
        told = [train.toarray()], [valid.toarray()]
    if len(y) >= FOLDS and (y.ndim == 1 or y.shape[1] <= LINEAR):
        ridge, folds = Ridge(solver="sparse_cg"), KFold(FOLDS, shuffle=True, random_state=0)
        unseen = cross_val_predict(ridge, train, y, cv=folds)
        for part, linear in zip(told, (unseen, ridge.fit(train, y).predict(valid)), strict=True):
            part.append(linear.reshape(len(linear), -1))
    return told


@functools.lru_cache(maxsize=4)
def _shape(kind: type[Rows], knobs: str, path: Path, changed: str) -> Shape:
    """What the columns of a table are: asked for often and by every worker, and kept on disk."""
    task = kind.of(json.loads(knobs))
    key = hashlib.sha256(json.dumps([FORMAT, knobs, changed]).encode()).hexdigest()[:16]
    file = cache.folder() / f"{task.name}-{key}.json"
    adapter = TypeAdapter(tuple[Shape, list[str]])
    if (kept := cache.read_text(file)) is not None:
        found, remarks = adapter.validate_json(kept)
    else:
        remarks = list[str]()
        found = _found(task, path, remarks.append)
        with contextlib.suppress(OSError):  # `cached` says what is wrong
            cache.write_text(file, adapter.dump_json((found, remarks)).decode())
    for remark in remarks:
        log.warning("%s: %s", path, remark)
    return found


def _found(task: Rows, path: Path, warn: Callable[[str], object]) -> Shape:
    sheet = task.sheet(path)
    others = [task.target, *([task.group] if task.group else [])]
    numbers, words, texts = sheet.kinds(task.columns, task.names, task.texts, others, warn)
    table = Table(
        task.target,
        task.number,
        numbers,
        tuple(words),
        (*words.values(), *(said for said, _ in texts.values())),
        task.encoding,
        tuple(texts),
        tuple(min(longest, task.length) for _, longest in texts.values()),
    )
    if task.number:
        amounts = quantities(sheet.columns[task.target], sheet.mark)
        if amounts is not None and (amounts == amounts[0]).all():
            told = f"got {amounts[0]:g} in each row of column {task.target[:60]!r}"
            raise DataError(f"{path}: {told}; want numbers that differ")
        if amounts is not None and (lost := tables.rounded(amounts)):
            warn(f"column {task.target[:60]!r}: {lost}")
        return table, ()
    labels = tuple(sorted({*map(word, sheet.columns[task.target])}))
    if not 2 <= len(labels) <= CLASSES:
        told = f"got {len(labels):,} different labels in column {task.target[:60]!r}"
        more = "; a column of numbers is told by the task regressioncsv" * (len(labels) > CLASSES)
        raise DataError(f"{path}: {told}; want 2 to {CLASSES:,}{more}")
    return table, labels
