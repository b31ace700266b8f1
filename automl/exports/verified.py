"""A model as a file of some format, loaded again by its runtime and held against the artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from automl.config import Export, Task
from automl.data import UNSCORED, Inputs, Metric, Split
from automl.errors import DataError, ExportError, OptionError
from automl.exports.whole import Whole
from automl.inputs.text import Tokens
from automl.places import target
from automl.results.artifact import Artifact
from automl.size import Size
from automl.space import measure
from automl.tasks.boxes import BoxTask
from automl.training.cost import BATCHES, fastest_ms

Run = Callable[[Tensor], Tensor]

NEAR = 1e-4  # how far a float32 answer may be off: sums in another order are off by 1e-6
ROUNDED = 2 * torch.finfo(torch.float32).eps  # of a number: how far its neighbours may lie
WORSE = 0.01  # share that a loss may grow by in other precisions; for scores see `Metric.blur`
WEIGHTS = {"model.safetensors", "tokenizer.json"}  # of the artifact, what a file holds as well
FEW, SHORT = (1, 2, 7), (1, 5)  # examples and tokens of batches that no sweep need have


@dataclass(frozen=True)
class Compared:
    """Answers of a file beside those of the artifact, over the validation split."""

    answers: int
    equal: float  # share
    numbers: str  # that answers are made of: probabilities or, of others, rows or numbers
    difference: float  # the largest, of a probability or in deviations of a column
    was: float  # what the artifact scores
    score: float


@dataclass(frozen=True)
class Exported:
    """A file that was written and proved."""

    file: Path
    format: str
    precision: str
    size: Size
    metric: str
    compared: Compared
    texts: tuple[int, int] | None  # that the tokenizer inside makes the same tokens of; of how many
    mb: tuple[float, float]  # on disk, with the tokenizer: the artifact's, the file's
    latency_ms: tuple[dict[int, float], dict[int, float]]  # of raw batches, by number of examples


def export(
    artifact: Artifact, to: Export, file: Path, *, precision: str, root: Path | None
) -> Exported:
    """Write `file` and prove it, or leave nothing and raise an AutomlError that says why.

    Compared are all validation examples, in batches of many sizes and lengths; `root` is where
    the data of the training lies. Runs on the CPU.
    """
    _refuse(to, file, precision)
    config, inputs = artifact.config, artifact.inputs
    data = config.task.load(root)
    if artifact.metrics.get("data") != data.fingerprint:
        raise DataError(f"{config.task.name}: is not the data that the model was trained on")
    own = Whole(artifact)
    texts = inputs.alike(data.valid.x) if isinstance(inputs, Tokens) else None
    if texts and texts[0] < texts[1]:
        told = f"other tokens of {texts[1] - texts[0]:,} of {texts[1]:,} validation texts"
        raise ExportError(f"{to.name}: the tokenizer inside makes {told}; want none")

    fresh = file.with_name(f"{file.stem}.new{to.suffix}")
    try:
        fresh.touch()
        to.write(Whole(artifact, precision), fresh, precision)
        run, facts = to.open(fresh)
        if not own.facts.items() <= facts.items():
            raise ExportError(
                f"{to.name}: the file does not give back what it should say of itself"
            )
        compared = _compare(own, run, inputs.encode(data.valid), inputs, config.task)
        _judge(compared, to, precision, config.task.metric, len(data.valid))
        os.replace(fresh, file)
    except OSError as error:
        raise OptionError(f"--out: {file}: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)

    kept = [f for f in (artifact.path or file).glob("*") if f.name in WEIGHTS]
    return Exported(
        file,
        to.name,
        precision,
        measure(config, inputs, len(artifact.labels)),
        config.task.metric.name,
        compared,
        texts,
        (sum(f.stat().st_size for f in kept) / 1e6, file.stat().st_size / 1e6),
        (_timed(own, own), _timed(own, run)),
    )


def _refuse(to: Export, file: Path, precision: str) -> None:
    """Raises OptionError for what needs no model to be seen."""
    if precision not in to.precisions:
        elsewhere = [n for n, part in Export.members().items() if precision in part.precisions]
        told = f"want {', '.join(to.precisions)}"
        told += f"; {precision} is known to {' and '.join(elsewhere)}" if elsewhere else ""
        raise OptionError(f"--precision: {to.name} has no {precision!r}; {told}")
    if missing := [package for package in to.needs if find_spec(package) is None]:
        told = f"needs {' and '.join(missing)}: pip install '.[{to.name}]'"
        raise OptionError(f"automl export --to {to.name} {told}")
    target(file, to.suffix)


@torch.inference_mode()
def _compare(own: Run, run: Run, split: Split, inputs: Inputs, task: Task) -> Compared:
    """All examples, of which some come again in batches of other shapes. Raises ExportError."""
    if isinstance(task, BoxTask):
        return _compare_boxes(own, run, split, inputs, task)
    tallies: list[dict[str, Tensor]] = [{}, {}]
    answers, equal, difference = 0, 0, 0.0
    exact = task.tells in ("rows", "numbers")
    for x, y in _batches(split, inputs):
        told = own(x), run(x)
        a, b = told
        if a.shape != b.shape:
            raise ExportError(f"gives {tuple(b.shape)} for {tuple(x.shape)}; want {tuple(a.shape)}")
        logits = [inputs.untold(one) for one in told]
        off = logits[0] - logits[1] if exact else a - b
        if exact:  # in its unit a column far from 0 is rounded to more than its deviation tells
            off = off.masked_fill((a - b).abs() <= ROUNDED * a.abs(), 0.0)
        off = off.abs().nan_to_num(torch.inf)
        difference = max(difference, float(off.max()))
        if y is None:
            continue
        counted = ~y.isnan() if exact else y != UNSCORED
        same = (off <= NEAR).view(y.shape) if exact else a.argmax(-1) == b.argmax(-1)
        answers += int(counted.sum())
        equal += int(same[counted].sum())
        more = [task.tally(one, y) for one in logits]
        tallies = [task.joined(*both) for both in zip(tallies, more, strict=True)]
    was, score = (task.scores(tally, split)[task.metric.name] for tally in tallies)
    numbers = task.tells if exact else "probabilities"
    return Compared(answers, equal / answers, numbers, difference, was, score)


def _compare_boxes(own: Run, run: Run, split: Split, inputs: Inputs, task: BoxTask) -> Compared:
    """The same of boxes: each that the artifact finds, beside the nearest of the file's.

    Where two are as sure, or one overlaps another just so, it takes no more than rounding for them
    to change places or for one to be dropped: one box in a thousand may do so.
    """
    tallies: list[dict[str, Tensor]] = [{}, {}]
    classes = max(1, int(split.y[..., 0].max()) + 1)  # there may be no box
    off = []
    for x, y in _batches(split, inputs):
        told = own(x), run(x)
        a, b = told
        if a.shape != b.shape:
            raise ExportError(f"gives {tuple(b.shape)} for {tuple(x.shape)}; want {tuple(a.shape)}")
        scale = a.new_tensor([1, *[1 / max(x.shape[2:])] * 4, 1])  # boxes as shares of the canvas
        apart = torch.cdist(
            a * scale, b * scale, p=torch.inf, compute_mode="donot_use_mm_for_euclid_dist"
        )
        off.append(apart.amin(2)[a[..., 0] >= 0].nan_to_num(torch.inf))
        if y is not None:
            more = [task.compared(rows, y, classes) for rows in told]
            tallies = [task.joined(*both) for both in zip(tallies, more, strict=True)]
    apart = torch.cat(off).sort().values
    was, score = (task.scores(tally, split)[task.metric.name] for tally in tallies)
    equal = float((apart <= NEAR).double().mean())
    difference = float(apart[-1 - len(apart) // 1000])
    return Compared(len(apart), equal, "boxes", difference, was, score)


def _batches(split: Split, inputs: Inputs) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Raw batches with targets; without them, few examples at a time and the beginnings of texts.

    A sweep has batches of many sizes; those of texts are of many lengths.
    """
    for number, (_, x, y) in enumerate(split.sweep(2**21 // inputs.floats)):
        raw = x.long() if x.dtype == torch.int32 else x  # tokens
        yield raw, y
        if number == 0:
            yield from ((raw[:few], None) for few in FEW)
            if raw.dtype == torch.int64:
                yield from ((raw[:few, :short], None) for few in FEW for short in SHORT)


def _judge(compared: Compared, to: Export, precision: str, metric: Metric, examples: int) -> None:
    """Raises ExportError for answers that are not the artifact's."""
    was, score = compared.was, compared.score
    if precision == "float32":
        if compared.difference > NEAR:
            told = f"its {compared.numbers} are off by up to {compared.difference:.2g}"
            raise ExportError(f"{to.name}: {told}; want at most {NEAR:g}")
        return
    room = metric.blur(was, examples) if metric.higher_is_better else WORSE * was
    worse = was - score if metric.higher_is_better else score - was
    if not worse <= room:
        told = f"{metric.name} goes from {was:.4f} to {score:.4f} on the validation split"
        raise ExportError(
            f"{to.name}: --precision {precision}: {told}; want {room:.4f} off at most"
        )


@torch.inference_mode()
def _timed(whole: Whole, run: Run) -> dict[int, float]:
    return {count: fastest_ms(partial(run, whole.blank(count))) for count in BATCHES}
