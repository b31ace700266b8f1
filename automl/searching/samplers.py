"""Who proposes the next config."""

from __future__ import annotations

import warnings
from typing import Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from pydantic import Field

from automl.config import Sampler


class Tpe(Sampler):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), one joint model a group of knobs.

    Groups, for conditional knobs fall out of a single joint model and would be drawn one by one.
    """

    name: Literal["tpe"] = "tpe"
    startup: int = Field(default=10, ge=1, le=1000, description="random trials before the model")

    def build(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate and group
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,  # workers do not ask for the same config
                n_startup_trials=self.startup,
            )


class Auto(Tpe):
    """What is best known to us; for now `tpe`, with fewer random trials: a night is short."""

    name: Literal["auto"] = "auto"  # type: ignore[assignment] # a part of its own, built alike
    startup: int = Field(default=6, ge=1, le=1000, description="random trials before the model")


class Gp(Sampler):
    """A Gaussian process with expected improvement: strong on few knobs, slow beyond 200 trials."""

    name: Literal["gp"] = "gp"

    def build(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.samplers.GPSampler(seed=seed)


class Random(Sampler):
    """Every config drawn alone: the yardstick."""

    name: Literal["random"] = "random"

    def build(self, seed: int) -> BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)
