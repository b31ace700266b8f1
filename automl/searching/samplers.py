"""Who proposes the next config."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import Field

from automl.config import Sampler
from automl.holes import value_at
from automl.searching.ledger import Ledger
from automl.searching.surrogate import SPREAD, Surrogate
from automl.space import Space


class Auto(Sampler):
    """A Gaussian process that learns from every rung of every trial; see `surrogate.py`."""

    name: Literal["auto"] = "auto"
    trades: ClassVar[bool] = True
    recalls: ClassVar[bool] = True
    startup: int = Field(
        default=6, ge=1, le=SPREAD, description="spread-out trials before the model"
    )

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        ledger.model = Surrogate(space, ledger, seed, self.startup)
        return Proposer(space, ledger.model)


class Proposer(BaseSampler):
    """Gives Optuna, knob by knob, what the model proposes as a whole."""

    def __init__(self, space: Space, model: Surrogate) -> None:
        self.knobs, self.model = space.all_knobs(), model
        self.number, self.values = -1, dict[str, Any]()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if trial.number != self.number:
            self.number, self.values = trial.number, self.model.propose().values
        if param_name in self.values:
            return self.values[param_name]
        return value_at(self.knobs[param_name], 0.5)  # a crash cut the first asking short


class Tpe(Sampler):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), one joint model a group of knobs.

    Groups, for conditional knobs fall out of a single joint model and would be drawn one by one.
    """

    name: Literal["tpe"] = "tpe"
    startup: int = Field(default=10, ge=1, le=1000, description="random trials before the model")

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,  # experimental, as group is
                group=True,
                constant_liar=not space.search.pruner.pauses,  # paused trials would repel it
                n_startup_trials=self.startup,
            )


class Gp(Sampler):
    """A Gaussian process with expected improvement: strong on few knobs, slow beyond 200 trials.

    Stopped and paused trials count with their last scores; what cannot be trained breaks a
    constraint.
    """

    name: Literal["gp"] = "gp"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return Seeing(seed, ledger)


class Seeing(GPSampler):
    """Optuna's, which sees finished trials alone, and would ask again for what was stopped."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        super().__init__(seed=seed, warn_independent_sampling=False)
        self.ledger = ledger

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        known = intersection_search_space(self._told(study))
        return {name: knob for name, knob in known.items() if not knob.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        seen = optuna.create_study(direction=study.direction)
        seen.add_trials([*self._told(study), create_trial(state=TrialState.RUNNING)])
        return super().sample_relative(seen, seen.get_trials()[-1], search_space)

    def _told(self, study: Study) -> list[FrozenTrial]:
        """The trials, of which all that do not train just now have come to their ends."""
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        worst = min((entry.curve[-1] for entry in self.ledger.scored), default=0.0)
        refused = self.ledger.of("infeasible")
        found = []
        for frozen in study.get_trials(deepcopy=False):
            entry = self.ledger.entries.get(frozen.number)
            if entry is None:
                continue  # it waits, or is asked for just now
            told: dict[str, Any] = {"state": TrialState.RUNNING}
            if entry in refused or (entry.curve and entry.state != "under way"):
                told = {"value": sign * (worst if entry in refused else entry.curve[-1])}
                if refused:
                    told["constraints"] = {"runnable": float(entry in refused)}
            told |= {"params": frozen.params, "distributions": frozen.distributions}
            found.append(create_trial(**told))
        return found


class Cmaes(Sampler):
    """Covariance matrix adaptation (Hansen 2001): a cloud of configs that moves and changes shape.

    For ranges that all configs have; options, and what only some configs have, are drawn at random.
    Stopped trials count with their last scores. Of configs that cannot be trained it learns
    nothing.
    """

    name: Literal["cmaes"] = "cmaes"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        warnings.filterwarnings("ignore", "Constraints have been set, but Cma")  # as said above
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return Feasible(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)


class Feasible(CmaEsSampler):
    """Optuna's, which takes what could not be trained for one of the trials that were stopped.

    Besides, that one keeps what it has learned as a pickle in the study, and fails at a stopped
    trial that lacks a knob of all finished ones. This one learns anew what all trials tell.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.knobs = search_space.keys()
        return super().sample_relative(study, trial, search_space)

    def _get_trials(self, study: Study) -> list[FrozenTrial]:
        found = [one for one in super()._get_trials(study) if self.knobs <= one.params.keys()]
        self.told = [one for one in found if all(v <= 0 for v in one.constraints.values())]
        return self.told

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> None:
        """Nothing is unpickled."""

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        made = super()._init_optimizer(trans, direction)
        sign = -1 if direction == StudyDirection.MAXIMIZE else 1
        while True:
            found = self._get_solution_trials(self.told, made.generation)[: made.population_size]
            if len(found) < made.population_size:
                return made
            made.tell([(trans.transform(one.params), sign * (one.value or 0.0)) for one in found])


class Random(Sampler):
    """Every config drawn alone: the yardstick."""

    name: Literal["random"] = "random"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)


class Qmc(Sampler):
    """Configs spread evenly (Sobol), where all have the same knobs; random where they have not."""

    name: Literal["qmc"] = "qmc"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return optuna.samplers.QMCSampler(
                seed=seed, scramble=True, warn_independent_sampling=False
            )
