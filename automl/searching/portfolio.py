"""Configs that did well elsewhere, to try first: of another study, or shipped for a kind of data.

A portfolio is a JSON file of such configs in the order of trying, each with where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, SerializeAsAny, TypeAdapter, ValidationError

from automl.config import (
    Augment,
    Federation,
    Input,
    Model,
    Optimizer,
    Schedule,
    Strict,
    Train,
    first_problem,
)
from automl.data import Data
from automl.errors import OptionError, SpaceError, StudyError
from automl.reader import MAX_BYTES
from automl.results.artifact import put
from automl.results.leaderboard import row
from automl.searching.encoder import Encoder, Values
from automl.searching.gaussian import Array
from automl.searching.study import Study
from automl.searching.surrogate import Points, View, plain
from automl.space import Space, measure

Word = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]  # for a terminal to show

SHIPPED = Path(__file__).parent.parent / "portfolios"
FEWEST = 5  # finished trials that a study needs, to say what is good
BEST = 4  # configs of another study that are tried first
WORTH = 0.005  # gains below this, as a share of the way to the best, are none
ALIKE = 0.25  # seconds, as a share of the median's, below which a trial is no cheaper


class Origin(Strict):
    """Where a config was trained, and what came of it."""

    study: Word
    task: Word
    metric: Word
    score: float = Field(description="on the validation split, after all epochs")
    epochs: int
    seconds: float = Field(description="of its training")
    device: Word
    params: int
    date: Word


class Recipe(Strict):
    """A config without its task and its seed."""

    input: SerializeAsAny[Input]
    model: SerializeAsAny[Model]
    optimizer: SerializeAsAny[Optimizer]
    schedule: SerializeAsAny[Schedule]
    augment: SerializeAsAny[Augment]
    federation: SerializeAsAny[Federation] = Field(default_factory=lambda: Federation.of("none"))
    train: Train


class Belief(Strict):
    """A config that is believed to be good, and why."""

    origin: Origin
    config: Recipe

    @property
    def told(self) -> str:
        o = self.origin
        return f"study {o.study} of {o.date}: {o.metric} {o.score:.4g} on {o.task}"


@dataclass(frozen=True)
class Record:
    """The finished trials of a study."""

    space: Space
    values: list[Values]
    scores: Array  # larger is better
    beliefs: list[Belief]

    @classmethod
    def of(cls, study: Study) -> Record:
        """Raises StudyError where too few have finished."""
        space = study.space
        trials = study.optuna.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if len(trials) < FEWEST:
            told = f"{len(trials)} trials have finished; want at least {FEWEST}"
            raise StudyError(f"{study.path}: {told}, to tell what is good")
        sign = 1 if space.task.metric.higher_is_better else -1
        device = study.manifest.device
        beliefs = [_belief(trial, space, study.name, device) for trial in trials]
        return cls(
            space,
            [trial.params for trial in trials],
            np.array([sign * belief.origin.score for belief in beliefs]),
            beliefs,
        )

    def worth(self, beliefs: list[Belief]) -> Array:
        """What each would come to here, 0 the median trial or below and 1 the best.

        Foretold by a Gaussian process of this study's trials, for its own ones as for others. 0
        for those that do not fit this space.
        """
        encoder = Encoder(self.space)
        view, stands = View(encoder, plain), encoder.stands(self.values)
        points = Points(list(stands), [1.0] * len(stands), self.scores.tolist())
        view.tell(points, stands[:0], 0.0, np.random.default_rng(0))
        known = view.mean(stands)
        carried = [self.space.carried(belief.config.model_dump(mode="json")) for belief in beliefs]
        fits = np.array([values is not None for values in carried])
        told = np.full(len(beliefs), np.median(known))
        told[fits] = view.mean(encoder.stands([v for v in carried if v is not None]))
        return shares(told, float(np.median(known)), float(known.max()))


def build(studies: list[Study], count: int) -> list[Belief]:
    """At most so many configs of these studies, in the order of trying. Raises AutomlError."""
    records = [Record.of(study) for study in studies]
    families = {record.space.task.gives for record in records}
    if len(families) > 1:
        raise StudyError(f"studies of {' and '.join(sorted(families))}; want one kind of data")
    pool = [belief for record in records for belief in record.beliefs]
    seconds = [[belief.origin.seconds for belief in record.beliefs] for record in records]
    costs = np.concatenate([np.array(each) / max(np.median(each), 1e-3) for each in seconds])
    worth = np.array([record.worth(pool) for record in records])
    return [pool[i] for i in choose(worth, np.maximum(costs, ALIKE), count)]


def choose(worth: Array, costs: Array, count: int) -> list[int]:
    """Cheapest and most different first: at most so many columns of `worth` (studies, configs).

    Each next one adds most, per unit of its cost, to what the best so far is worth in the mean over
    studies: greedy, which is within 63 % of the best set (Nemhauser et al. 1978), as the portfolio
    of auto-sklearn 2 is built (Feurer et al. 2022). When nothing adds any more, what is left has
    its turn in the same way, for other data may be like none of these.
    """
    best = np.zeros(len(worth))
    chosen: list[int] = []
    while len(chosen) < count:
        gains = np.maximum(worth - best[:, None], 0).mean(0)
        gains[chosen] = 0
        if gains.max() >= WORTH:
            chosen.append(int(np.argmax(gains / costs)))
            best = np.maximum(best, worth[:, chosen[-1]])
        elif best.any():
            best = np.zeros(len(worth))
        else:
            break
    return chosen


def shares(scores: Array, median: float, best: float) -> Array:
    """Scores by where they lie between the median, 0, and the best, 1."""
    return np.clip((scores - median) / max(best - median, 1e-12), 0, 1)


def write(path: Path, beliefs: list[Belief]) -> None:
    """One line for where a config comes from, one for what it is. Raises OptionError."""
    entries = []
    for belief in beliefs:
        told = belief.model_dump(mode="json")
        lines = (f'"{key}": {json.dumps(value)}' for key, value in told.items())
        entries.append("{" + ",\n ".join(lines) + "}")
    try:
        put(path, "[\n" + ",\n".join(entries) + "\n]\n")
    except OSError as error:
        raise OptionError(f"--out: {path}: {error.strerror}") from error


def read(path: Path) -> list[Belief]:
    """A portfolio from a file. Raises OptionError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise OptionError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise OptionError(f"{path}: larger than {MAX_BYTES:,} bytes; a portfolio is a few configs")
    try:
        return TypeAdapter(list[Belief]).validate_python(json.loads(raw))
    except ValidationError as error:
        raise OptionError(f"{path}: {first_problem(error)}") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: no portfolio: {error}") from error


def shipped(gives: str) -> list[Belief]:
    """The portfolio for a kind of data, as tasks name it; empty where there is none."""
    path = SHIPPED / f"{gives}.json"
    return read(path) if path.is_file() else []


def given(named: str | Path, studies: Path) -> list[Belief]:
    """The best of a study, by name or folder, or a portfolio from a file. Raises AutomlError."""
    path = Path(named)
    if path.suffix == ".json":
        return read(path)
    record = Record.of(Study.open(path.name, path.parent if len(path.parts) > 1 else studies))
    order = np.argsort(-record.scores, kind="stable")
    return [record.beliefs[i] for i in order]


def first(
    space: Space, data: Data, start_from: str | Path | None, studies: Path
) -> list[tuple[Values, str]]:
    """What a new study tries after what its space says: values, and where they did well."""
    if start_from is None:
        beliefs, most = shipped(space.task.gives), space.search.portfolio
    else:
        beliefs, most = given(start_from, studies), BEST
    found = islice(usable(space, data, beliefs), most)
    told = [(values, belief.told) for values, belief in found]
    if start_from is not None and not told:
        raise OptionError(
            f"--from {start_from}: none of its {len(beliefs)} configs is new to {space.source} "
            "and fits it"
        )
    return told


def usable(space: Space, data: Data, beliefs: list[Belief]) -> Iterator[tuple[Values, Belief]]:
    """What of the beliefs this space can try, each once, in its own values."""
    tried = space.beginnings()
    for belief in beliefs:
        values = space.carried(belief.config.model_dump(mode="json"))
        if values is None or values in tried:
            continue
        config = space.with_values(values)
        try:
            size = measure(config, config.input.fit(data), len(data.labels))
        except SpaceError:  # knobs that are fine alone and do not go together
            continue
        if space.search.excess(size) is None:
            tried.append(values)
            yield values, belief


def _belief(trial: FrozenTrial, space: Space, study: str, device: str) -> Belief:
    config = space.with_values(trial.params).dump()
    seen = row(trial)
    assert trial.datetime_complete is not None
    origin = {
        "study": study,
        "task": space.task.name,
        "metric": space.task.metric.name,
        "score": round(seen.score or 0.0, 6),
        "epochs": seen.epochs,
        "seconds": seen.seconds,
        "device": device,
        "params": seen.params,
        "date": trial.datetime_complete.date().isoformat(),
    }
    recipe = {key: config[key] for key in Recipe.model_fields}
    return Belief.of({"origin": origin, "config": recipe})
