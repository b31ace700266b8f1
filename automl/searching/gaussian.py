"""A Gaussian process over knobs and time: what a curve will be, and how sure that is.

The covariance of config x after a share of training t and x' after t' is

    c(x, x') * (a + b * exp(-|t - t'| / s)) + d * exp(-|t - t'| / s)

with c a Matern 5/2 kernel: what a config is worth all along, how its curve turns, and what all
curves have in common. Curves decay to where they end, as in freeze-thaw optimization (Swersky et
al. 2014). Ranges may bend, for a knob may matter more at one end than at the other (Snoek et al.
2014). Lengthscales have a prior that grows with the number of knobs (Hvarfner et al. 2024), so
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
BEND = 0.6  # deviation of the logarithms of a bend's two numbers; with both at 0 it is straight
ENOUGH = 10  # configs for each range that may bend; with fewer it is believed to be straighter
EDGE = 1e-6  # of a range, next to its ends, where a bend may be endlessly steep
CLIMB = 40  # steps of candidates to where more is expected of them
NEAREST = 200  # points, those most alike, that say where a candidate climbs


class Kernel:
    """The covariance above, by the logarithms of all its numbers.

    `groups` (columns,) names the lengthscale that each column shares, `ranges` are those that bend.
    """

    def __init__(self, theta: Tensor, groups: Tensor, ranges: Tensor) -> None:
        self.ranges, count = ranges, len(ranges)
        self.first, self.second = torch.exp(theta[: 2 * count]).view(2, count)
        self.lengths = torch.exp(theta[2 * count : -5])[groups]
        self.worth, self.turn, self.common = torch.exp(2 * theta[-5:-2])
        self.pace, self.noise = torch.exp(theta[-2]), torch.exp(2 * theta[-1])

    @property
    def variance(self) -> Tensor:
        """Of a curve of which nothing is known."""
        total: Tensor = self.worth + self.turn + self.common
        return total

    def placed(self, x: Tensor) -> Tensor:
        """Points (N, columns) where distances are measured: ranges bent, over the lengthscales.

        A share x of a range goes to 1 - (1 - x^first)^second (Kumaraswamy 1980).
        """
        bent = x.clone()
        bent[:, self.ranges] = 1 - (1 - self._inside(x) ** self.first) ** self.second
        return bent / self.lengths

    def stretch(self, x: Tensor) -> Tensor:
        """How fast they move there when points (N, columns) do."""
        at, found = self._inside(x), torch.ones_like(x)
        steep = self.first * at ** (self.first - 1)
        found[:, self.ranges] = self.second * (1 - at**self.first) ** (self.second - 1) * steep
        return found / self.lengths

    def bends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How fast the bent ranges (N, ranges) move when the logarithms of both numbers do."""
        at = self._inside(x)
        share = at**self.first
        rest = (1 - share) ** self.second
        grown = rest / (1 - share) * share * at.log() * self.first * self.second
        return grown, -rest * (1 - share).log() * self.second

    def _inside(self, x: Tensor) -> Tensor:
        return x[:, self.ranges].clamp(EDGE, 1 - EDGE)

    def close(self, t: Tensor, t2: Tensor) -> Tensor:
        """(M, N) from 0 to 1"""
        return torch.exp(-(t[:, None] - t2).abs() / self.pace)

    def __call__(self, near: Tensor, t: Tensor, far: Tensor, t2: Tensor) -> Tensor:
        """(M, N), of points as placed."""
        close, alike = self.close(t, t2), _matern(_distance(near, far))
        total: Tensor = alike * (self.worth + self.turn * close) + self.common * close
        return total

    def factor(self, covariance: Tensor) -> Tensor:
        """The lower triangle whose square is this covariance, with noise."""
        noise = (self.noise + JITTER) * torch.eye(len(covariance), dtype=covariance.dtype)
        root: Tensor = torch.linalg.cholesky(covariance + noise)
        return root


class GaussianProcess:
    """`groups` names, for each column of x, the lengthscale that it shares."""

    def __init__(self, groups: list[int], active: float, ranges: list[int]) -> None:
        """`active` is how many knobs a config has, which sets the typical lengthscale.

        `ranges` are columns from 0 to 1 that bend; each has a lengthscale of its own.
        """
        self.groups, self.ranges = torch.tensor(groups), torch.tensor(ranges, dtype=torch.long)
        scales, straight = max(groups, default=-1) + 1, np.full(2 * len(ranges), 0.0)
        lengths = np.full(scales, math.log(0.23 * math.sqrt(max(active, 1.0))))
        rest = np.log([0.7, 0.3, 0.3, 0.5, 0.01])  # a, b, d as deviations; s; noise
        self.center = np.concatenate([straight, lengths, rest])
        spread = np.full(len(straight), BEND)
        self.width = np.concatenate([spread, np.full(scales, 0.8), [1.0, 1.0, 1.0, 0.5, 1.5]])
        low = np.concatenate([straight - 2, lengths - 3.5, [-4, -4, -4, -3, -5]])
        high = np.concatenate([straight + 2, lengths + 3.5, [2, 2, 2, 2, 0]])
        self.bounds = list(zip(low, high, strict=True))
        self._set(self.center.copy())

    def fit(self, x: Array, t: Array, y: Array, rng: np.random.Generator) -> None:
        """The most probable kernel for points x (N, columns) at times t (N,) of values y (N,)."""
        count, configs = len(self.ranges), len(np.unique(x, axis=0))
        width = self.width.copy()
        width[: 2 * count] *= min(1.0, configs / (ENOUGH * max(1, count)))
        if len(x) > FITTED:
            some = np.sort(rng.choice(len(x), FITTED, replace=False))
            x, t, y = x[some], t[some], y[some]
        points, times, values = torch.tensor(x), torch.tensor(t), torch.tensor(y)

        def loss(theta: Array) -> tuple[float, Array]:
            try:
                misfit, slope = self._misfit(torch.tensor(theta), points, times, values)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined] # not in its stub
                return 1e10, np.zeros_like(theta)
            away = (theta - self.center) / width
            return misfit + float(away @ away) / 2, slope.numpy() + away / width

        from scipy.optimize import minimize  # as all of SciPy, not before it is needed
        from threadpoolctl import threadpool_limits

        # where workers have the cores, threads of SciPy's BLAS double what these small steps take
        with threadpool_limits(1):
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
        kernel = self._kernel_of(theta)
        placed, later = kernel.placed(x), (t[:, None] - t).abs() / kernel.pace
        close, distance = torch.exp(-later), _distance(placed, placed)
        fade = torch.exp(-distance)
        alike = (1 + distance + distance.square() / 3) * fade
        weight = kernel.worth + kernel.turn * close
        root = kernel.factor(alike * weight + kernel.common * close)
        white = torch.cholesky_solve(y[:, None], root)
        pull = (torch.cholesky_inverse(root) - white @ white.T) / 2  # over the covariance
        nearer = pull * weight * (1 + distance) * fade * (5 / 3)
        away = 2 * (nearer @ placed - nearer.sum(1, keepdim=True) * placed)  # over where points are
        lengths = torch.zeros(len(theta) - 2 * len(self.ranges) - 5, dtype=x.dtype)
        lengths.index_add_(0, self.groups, -(away * placed).sum(0))
        bent = (away / kernel.lengths)[:, self.ranges]
        apart = pull * close
        rest = [
            2 * kernel.worth * (pull * alike).sum(),
            2 * kernel.turn * (apart * alike).sum(),
            2 * kernel.common * apart.sum(),
            (apart * later * (kernel.turn * alike + kernel.common)).sum(),
            2 * kernel.noise * pull.trace(),
        ]
        misfit = (y @ white[:, 0] / 2 + root.diagonal().log().sum()).item()
        bends = ((bent * moved).sum(0) for moved in kernel.bends(x))
        return misfit, torch.cat([*bends, lengths, torch.stack(rest)])

    def _kernel_of(self, theta: Tensor) -> Kernel:
        return Kernel(theta, self.groups, self.ranges)

    def _set(self, theta: Array) -> None:
        """Another kernel: nothing is seen yet by it."""
        self.theta, self.kernel = theta, self._kernel_of(torch.tensor(theta))
        self.seen = torch.zeros(0, len(self.groups), dtype=self.kernel.noise.dtype)
        self.placed = self.seen
        self.times = torch.zeros(0, dtype=self.seen.dtype)
        self.root = torch.zeros(0, 0, dtype=self.seen.dtype)

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
        kept, placed = self._shared(points, times), self.kernel.placed(points)
        root = torch.zeros(len(points), len(points), dtype=points.dtype)
        root[:kept, :kept] = self.root[:kept, :kept]
        if kept < len(points):
            new, at = placed[kept:], times[kept:]
            cross = self.kernel(placed[:kept], times[:kept], new, at)
            side = torch.linalg.solve_triangular(self.root[:kept, :kept], cross, upper=False)
            covariance = self.kernel(new, at, new, at) - side.T @ side
            root[kept:, :kept] = side.T
            root[kept:, kept:] = self.kernel.factor(covariance)
        self.seen, self.placed, self.times, self.root = points, placed, times, root

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
        left = (self.kernel.variance - explained.square().sum(0)).clamp_min(1e-10)
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
        kernel, placed = self.kernel, self.kernel.placed(x)
        close = kernel.close(torch.ones_like(self.times[:1]), self.times)
        distance = _distance(placed, self.placed)
        weight = kernel.worth + kernel.turn * close
        cross = _matern(distance) * weight + kernel.common * close
        told = cross @ inverse
        left = (kernel.variance - (told * cross).sum(1)).clamp_min(1e-10)
        slope = -5 / 3 * (1 + distance) * torch.exp(-distance) * weight  # over x - seen, placed
        stretch = kernel.stretch(x)

        def pulled(by: Tensor) -> Tensor:
            return (by.sum(1, keepdim=True) * placed - by @ self.placed) * stretch

        up = pulled(slope * self.weights)
        return cross @ self.weights, left, up, pulled(-2 * slope * told)

    def likeness(self, x: Array, x2: Array) -> Array:
        """How alike configs (M, columns) and (N, columns) are, (M, N) from 0 to 1."""
        near, far = (self.kernel.placed(torch.tensor(points)) for points in (x, x2))
        told: Array = _matern(_distance(near, far)).numpy()
        return told

    def _cross(self, x: Tensor) -> Tensor:
        """Covariance (M, seen) of configs (M, columns) at their ends with what was seen."""
        ends = torch.ones_like(x[:1, 0])
        return self.kernel(self.kernel.placed(x), ends, self.placed, self.times)


def _distance(near: Tensor, far: Tensor) -> Tensor:
    """(M, N): root of five times the distance."""
    square = near.square().sum(1)[:, None] + far.square().sum(1) - 2 * near @ far.T
    return (5 * square.clamp_min(1e-12)).sqrt()


def _matern(distance: Tensor) -> Tensor:
    """Matern 5/2, 1 for equal configs."""
    return (1 + distance + distance.square() / 3) * torch.exp(-distance)


def _log_gain_slope(z: Tensor) -> Tensor:
    """Of log(z * Phi(z) + phi(z)), in the tail of its first term (Ament et al. 2023)."""
    density, share = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(z)
    near = share / (z * share + density).clamp_min(1e-30)
    tail = -z - 2 / z.clamp_max(-1.0)
    return torch.where(z > -5, near, tail)
