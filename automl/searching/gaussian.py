"""A Gaussian process over knobs and time: what a curve will be, and how sure that is.

The covariance of config x after a share of training t and x' after t' is

    c(x, x') * (a + b * exp(-|t - t'| / s)) + d * exp(-|t - t'| / s)

with c a Matern 5/2 kernel: what a config is worth all along, how its curve turns, and what all
curves have in common. Curves decay to where they end, as in freeze-thaw optimization (Swersky et
al. 2014). Lengthscales have a prior that grows with the number of knobs (Hvarfner et al. 2024), so
that a handful of trials does not make a thirty-knob space look rugged; all is fitted at its mode.
"""

from __future__ import annotations

import math
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

JITTER = 1e-6
FITTED = 250  # points that the kernel is fitted on, at most: a fit costs their cube
STEPS = 25  # of the optimizer, each time; a fit goes on from the one before
CLIMB = 40  # steps of candidates to where more is expected of them
NEAREST = 200  # points, those most alike, that say where a candidate climbs


class GaussianProcess:
    """`groups` names, for each column of x, the lengthscale that it shares."""

    def __init__(self, groups: list[int], active: float) -> None:
        """`active` is how many knobs a config has, which sets the typical lengthscale."""
        self.groups = torch.tensor(groups)
        self.scales = max(groups, default=-1) + 1
        typical = math.log(0.23 * math.sqrt(max(active, 1.0)))
        lengths = np.full(self.scales, typical)
        rest = np.log([0.7, 0.3, 0.3, 0.5, 0.01])  # a, b, d as deviations; s; noise
        self.center = np.concatenate([lengths, rest])
        self.width = np.concatenate([np.full(self.scales, 0.8), [1.0, 1.0, 1.0, 0.5, 1.5]])
        low = np.concatenate([lengths - 3.5, [-4, -4, -4, -3, -5]])
        high = np.concatenate([lengths + 3.5, [2, 2, 2, 2, 0]])
        self.bounds = list(zip(low, high, strict=True))
        self._set(self.center.copy())

    def fit(self, x: Array, t: Array, y: Array, rng: np.random.Generator) -> None:
        """The most probable kernel for points x (N, columns) at times t (N,) of values y (N,)."""
        if len(x) > FITTED:
            some = np.sort(rng.choice(len(x), FITTED, replace=False))
            x, t, y = x[some], t[some], y[some]
        points, times, values = torch.tensor(x), torch.tensor(t), torch.tensor(y)

        def loss(theta: Array) -> tuple[float, Array]:
            try:
                misfit, slope = self._misfit(torch.tensor(theta), points, times, values)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined] # not in its stub
                return 1e10, np.zeros_like(theta)
            away = (theta - self.center) / self.width
            return misfit + float(away @ away) / 2, slope.numpy() + away / self.width

        from scipy.optimize import minimize  # as all of SciPy, not before it is needed

        found = minimize(
            loss,
            self.theta,
            jac=True,
            method="L-BFGS-B",
            bounds=self.bounds,
            options={"maxiter": STEPS},
        )
        self._set(found.x)

    def _misfit(self, theta: Tensor, x: Tensor, t: Tensor, y: Tensor) -> tuple[float, Tensor]:
        """The negative logarithm of how likely y is, without its constant, and its slope."""
        scaled = x / torch.exp(theta[: self.scales])[self.groups]
        worth, turn, common = torch.exp(2 * theta[self.scales : self.scales + 3])
        later = (t[:, None] - t).abs() / torch.exp(theta[-2])
        close, distance = torch.exp(-later), self._distance(scaled, scaled)
        fade = torch.exp(-distance)
        alike = (1 + distance + distance.square() / 3) * fade
        weight = worth + turn * close
        root = self._factor(alike * weight + common * close, theta)
        white = torch.cholesky_solve(y[:, None], root)
        pull = (torch.cholesky_inverse(root) - white @ white.T) / 2  # over the covariance
        nearer = pull * weight * (1 + distance) * fade * (5 / 3)
        columns = 2 * (nearer.sum(1) @ scaled.square() - (scaled * (nearer @ scaled)).sum(0))
        lengths = torch.zeros(self.scales, dtype=x.dtype).index_add_(0, self.groups, columns)
        apart = pull * close
        rest = [
            2 * worth * (pull * alike).sum(),
            2 * turn * (apart * alike).sum(),
            2 * common * apart.sum(),
            (apart * later * (turn * alike + common)).sum(),
            2 * torch.exp(2 * theta[-1]) * pull.trace(),
        ]
        misfit = (y @ white[:, 0] / 2 + root.diagonal().log().sum()).item()
        return misfit, torch.cat([lengths, torch.stack(rest)])

    def _set(self, theta: Array) -> None:
        """Another kernel: nothing is seen yet by it."""
        self.theta, self.fixed = theta, torch.tensor(theta)
        self.seen = torch.zeros(0, len(self.groups), dtype=self.fixed.dtype)
        self.times = torch.zeros(0, dtype=self.fixed.dtype)
        self.root = torch.zeros(0, 0, dtype=self.fixed.dtype)

    def condition(self, x: Array, t: Array, y: Array) -> None:
        """Take these points as seen. Those that begin as the last ones did cost little."""
        self._see(torch.tensor(x), torch.tensor(t))
        self.values = torch.tensor(y)
        half = torch.linalg.solve_triangular(self.root, self.values[:, None], upper=False)
        self.weights = torch.linalg.solve_triangular(self.root.T, half, upper=True)[:, 0]

    def expect(self, x: Array) -> None:
        """Take configs (M, columns) as seen at their ends, with the values that are foretold.

        What is foretold elsewhere stays, but near them is surer.
        """
        points = torch.tensor(x)
        told = self._cross(points) @ self.weights
        self._see(torch.cat([self.seen, points]), torch.cat([self.times, torch.ones_like(told)]))
        self.values = torch.cat([self.values, told])
        self.weights = torch.cat([self.weights, torch.zeros_like(told)])

    def _see(self, points: Tensor, times: Tensor) -> None:
        kept = self._shared(points, times)
        root = torch.zeros(len(points), len(points), dtype=points.dtype)
        root[:kept, :kept] = self.root[:kept, :kept]
        if kept < len(points):
            new, at = points[kept:], times[kept:]
            cross = self._kernel(self.fixed, points[:kept], times[:kept], new, at)
            side = torch.linalg.solve_triangular(self.root[:kept, :kept], cross, upper=False)
            covariance = self._kernel(self.fixed, new, at, new, at) - side.T @ side
            root[kept:, :kept] = side.T
            root[kept:, kept:] = self._factor(covariance, self.fixed)
        self.seen, self.times, self.root = points, times, root

    def _shared(self, points: Tensor, times: Tensor) -> int:
        """How many points, from the first on, are those of the last time."""
        most = min(len(points), len(self.seen))
        differ = (points[:most] != self.seen[:most]).any(1) | (times[:most] != self.times[:most])
        return int(differ.nonzero()[0]) if differ.any() else most

    def mean(self, x: Array) -> Array:
        """What is foretold (M,) of configs x (M, columns) at their ends."""
        told: Array = (self._cross(torch.tensor(x)) @ self.weights).numpy()
        return told

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (M,) of configs x (M, columns) at their ends."""
        cross = self._cross(torch.tensor(x))
        explained = torch.linalg.solve_triangular(self.root, cross.T, upper=False)
        prior = torch.exp(2 * self.fixed[self.scales : self.scales + 3]).sum()
        left = (prior - explained.square().sum(0)).clamp_min(1e-10)
        return (cross @ self.weights).numpy(), left.sqrt().numpy()

    def climb(self, x: Array, free: NDArray[np.bool_], best: float) -> Array:
        """Points (M, columns) moved to where, at time 1, more is expected over `best`.

        Within 0 to 1 and only in columns that are `free` (M, columns). Adam (Kingma & Ba 2015) on
        the logarithm of the expected improvement, which far below the best has a slope still.
        """
        points, movable = torch.tensor(x), torch.tensor(free)
        local = self._local(points)
        inverse = torch.cholesky_inverse(local.root)
        first, second = torch.zeros_like(points), torch.zeros_like(points)
        for step in range(CLIMB):
            mean, left, up, out = local._slopes(points, inverse)
            deviation = left.sqrt()
            z = (mean - best) / deviation
            steep = _log_gain_slope(z)
            rise = steep / deviation
            fall = (1 - steep * z) / (2 * left)
            slope = (rise[:, None] * up + fall[:, None] * out) * movable
            first.lerp_(slope, 1 - 0.8)
            second.lerp_(slope.square(), 1 - 0.95)
            size = (second / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            points += 0.05 * (1 - step / CLIMB) * first / (1 - 0.8 ** (step + 1)) / size
            points.clamp_(0, 1)
        return points.numpy()

    def _local(self, x: Tensor) -> GaussianProcess:
        """One that has seen no more than the points most alike to any of these (M, columns)."""
        if len(self.seen) <= NEAREST:
            return self
        some = self._cross(x).amax(0).topk(NEAREST).indices.sort().values
        local = copy(self)
        local.condition(*(told[some].numpy() for told in (self.seen, self.times, self.values)))
        return local

    def _slopes(self, x: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and variance (M,) at time 1 with their gradients (M, columns)."""
        lengths = torch.exp(self.fixed[: self.scales])[self.groups]
        worth, turn, common = torch.exp(2 * self.fixed[self.scales : self.scales + 3])
        close = torch.exp(-(1 - self.times).abs() / torch.exp(self.fixed[-2]))
        distance = self._distance(x / lengths, self.seen / lengths)
        weight = worth + turn * close
        alike = _matern(distance)
        cross = alike * weight + common * close
        told = cross @ inverse
        left = (worth + turn + common - (told * cross).sum(1)).clamp_min(1e-10)
        slope = -5 / 3 * (1 + distance) * torch.exp(-distance) * weight  # over x - seen, scaled

        def pulled(by: Tensor) -> Tensor:
            return (by.sum(1, keepdim=True) * x - by @ self.seen) / lengths.square()

        up = pulled(slope * self.weights)
        return cross @ self.weights, left, up, pulled(-2 * slope * told)

    def likeness(self, x: Array, x2: Array) -> Array:
        """How alike configs (M, columns) and (N, columns) are, (M, N) from 0 to 1."""
        told: Array = self._likeness(self.fixed, torch.tensor(x), torch.tensor(x2)).numpy()
        return told

    def _cross(self, x: Tensor) -> Tensor:
        """Covariance (M, seen) of configs (M, columns) at their ends with what was seen."""
        return self._kernel(self.fixed, x, torch.ones_like(x[:1, 0]), self.seen, self.times)

    def _factor(self, covariance: Tensor, theta: Tensor) -> Tensor:
        noise = torch.exp(2 * theta[-1]) + JITTER
        root: Tensor = torch.linalg.cholesky(
            covariance + noise * torch.eye(len(covariance), dtype=covariance.dtype)
        )
        return root

    def _kernel(self, theta: Tensor, x: Tensor, t: Tensor, x2: Tensor, t2: Tensor) -> Tensor:
        worth, turn, common = torch.exp(2 * theta[self.scales : self.scales + 3])
        close = torch.exp(-(t[:, None] - t2).abs() / torch.exp(theta[-2]))
        total: Tensor = self._likeness(theta, x, x2) * (worth + turn * close) + common * close
        return total

    def _likeness(self, theta: Tensor, x: Tensor, x2: Tensor) -> Tensor:
        """Matern 5/2, 1 for equal configs."""
        lengths = torch.exp(theta[: self.scales])[self.groups]
        return _matern(self._distance(x / lengths, x2 / lengths))

    @staticmethod
    def _distance(near: Tensor, far: Tensor) -> Tensor:
        """(M, N): root of five times the distance."""
        square = near.square().sum(1)[:, None] + far.square().sum(1) - 2 * near @ far.T
        return (5 * square.clamp_min(1e-12)).sqrt()


def _matern(distance: Tensor) -> Tensor:
    return (1 + distance + distance.square() / 3) * torch.exp(-distance)


def _log_gain_slope(z: Tensor) -> Tensor:
    """Of log(z * Phi(z) + phi(z)), in the tail of its first term (Ament et al. 2023)."""
    density, share = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(z)
    near = share / (z * share + density).clamp_min(1e-30)
    tail = -z - 2 / z.clamp_max(-1.0)
    return torch.where(z > -5, near, tail)
