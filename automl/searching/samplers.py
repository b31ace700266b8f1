"""Who proposes the next config."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate and group
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=not space.search.pruner.pauses,  # paused trials would repel it
                n_startup_trials=self.startup,
            )


class Gp(Sampler):
    """A Gaussian process with expected improvement: strong on few knobs, slow beyond 200 trials."""

    name: Literal["gp"] = "gp"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.samplers.GPSampler(seed=seed)


class Cmaes(Sampler):
    """Covariance matrix adaptation (Hansen 2001): a cloud of configs that moves and changes shape.

    For ranges that all configs have; options, and what only some configs have, are drawn at random.
    Of configs that cannot be trained it learns nothing.
    """

    name: Literal["cmaes"] = "cmaes"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        warnings.filterwarnings("ignore", "Constraints have been set, but Cma")  # as said above
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


class Random(Sampler):
    """Every config drawn alone: the yardstick."""

    name: Literal["random"] = "random"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)


class Qmc(Sampler):
    """Configs spread evenly (Sobol), where all have the same knobs; random where they have not."""

    name: Literal["qmc"] = "qmc"

    def build(self, seed: int, space: Space, ledger: Ledger) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.samplers.QMCSampler(
                seed=seed, scramble=True, warn_independent_sampling=False
            )
