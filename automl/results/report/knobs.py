"""Scored trials, which of their knobs mattered, and where between 0 and 1 a value lies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from automl.data import Metric
from automl.holes import Choice, Hole, share_of
from automl.results.leaderboard import Row, curve_of

ENOUGH = 20  # scored trials, to say which knobs mattered: on a toy of the space of digits where 4
# of 20 knobs matter, the first named was one of them in 80 % of 40 random studies of 20 trials, in
# 93 % of 50 and in all of 300
SURE = 100  # scored trials, below which it is called a hint
TOP, FEWEST = 0.1, 5  # the best trials: this share of all, and so many at least
STRONG = 3  # the fewest that are drawn as the best


@dataclass(frozen=True)
class Scored:
    """A trial that was scored at least once."""

    trial: FrozenTrial
    row: Row
    score: float  # at its last epoch

    @property
    def number(self) -> int:
        return self.row.trial

    @property
    def finished(self) -> bool:
        return self.row.state == "finished"

    @property
    def curve(self) -> list[float]:
        return curve_of(self.trial)

    @property
    def values(self) -> dict[str, Any]:
        """By knob, of those that its config has."""
        return self.trial.params


def importance(
    scored: Sequence[Scored], space: Mapping[str, Hole], metric: Metric
) -> dict[str, float]:
    """Shares that sum to 1, largest first; nothing where too few trials were scored.

    How much the values that the best tenth has differ from those that all have: PED-ANOVA
    (Watanabe et al. 2023), in the form for conditional spaces that Optuna has by default. Trials
    that were stopped count with their last score, for they need only be told from the best.
    """
    if len(scored) < ENOUGH:
        return {}
    higher = metric.higher_is_better
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it greets every study
    try:
        study = optuna.create_study(
            direction=StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    for one in scored:
        known = {name: value for name, value in one.values.items() if name in space}
        ranges = {name: one.trial.distributions[name] for name in known}
        study.add_trial(create_trial(params=known, distributions=ranges, value=one.score))
    judge = PedAnovaImportanceEvaluator(target_quantile=max(TOP, FEWEST / len(scored)))
    with warnings.catch_warnings(action="ignore"):  # of knobs that few trials have: small ones
        found = judge.evaluate(study)
    total = sum(found.values())
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: value / total for name, value in ranked if value > 0} if total else {}


def best_of(scored: Sequence[Scored], metric: Metric) -> list[Scored]:
    """The best tenth, a few at least, the best one first; of equals one that finished."""
    sign = -1 if metric.higher_is_better else 1
    ranked = sorted(scored, key=lambda one: (sign * one.score, not one.finished, one.number))
    return ranked[: max(STRONG, round(TOP * len(ranked)))]


def place_of(hole: Hole, value: Any) -> float:
    """0 to 1, as the space spaces its values."""
    if isinstance(hole, Choice):
        options = list(hole.options)
        return options.index(value) / max(1, len(options) - 1)
    return min(max(share_of(hole, value), 0.0), 1.0)


def ends_of(hole: Hole) -> tuple[str, str]:
    """What stands at 0 and at 1."""
    if isinstance(hole, Choice):
        options = list(hole.options)
        return str(options[0]), str(options[-1])
    return f"{hole.low:g}", f"{hole.high:g}"
