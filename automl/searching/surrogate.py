"""The model of a search: what each trial would score at its end, and which config to try next.

It learns from every trial at every rung, the unfinished ones too, and knows nothing of Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats.qmc import Sobol

from automl.holes import Choice, Hole, share_of, value_at
from automl.searching.gaussian import Array, GaussianProcess
from automl.searching.ledger import Entry, Ledger
from automl.space import Space

Values = dict[str, Any]
Scale = Callable[[Array], Array]

POINTS = 800  # that the model takes as seen, at most: it costs their cube
REFIT = 1.15  # times the points of the last fit, for another
EPS = 0.3  # of the median's distance to the best: differences within it hardly count
MARGIN = 0.1  # improvements below this, in deviations of all scores, are not worth a trial
RANDOM, CENTERS, NEAR = 300, 8, 40  # candidates: random ones, and near each of the best
SPREAD = 256  # configs from which the first are taken, in order, if they can be trained
CHECKED = 60  # of the best candidates, and as many near known ones: too large ones are passed over
ROUNDS, POLISHED = 4, 80  # of refinement of the best, the last by gradient; how many each time
WHOLE = 0.5  # of all epochs, for trials that train to their end whatever they score
LOOKED = 400  # trials, those with the best scores, among which the best by the model are sought
FEWEST = 4  # finished trials that a model of ends needs
AROUND = 20  # finished trials without news, after which the search returns to what is near
BRANCH = 0.25  # of the proposals, for branches of a conditional space at random
UNBOUND = 0.25  # of the proposals of a search for two goals, whatever they cost
CLEARLY = 0.03  # of the median's distance to the best: a score better by this is news


class Encoder:
    """Values of knobs as points: ranges on 0 to 1, options as corners, inactive knobs amid."""

    def __init__(self, space: Space) -> None:
        self.columns: dict[str, tuple[int, Hole]] = {}
        self.groups: list[int] = []  # the knob of each column
        for knob, (name, hole) in enumerate(space.all_knobs().items()):
            self.columns[name] = len(self.groups), hole
            self.groups += [knob] * (len(hole.options) if isinstance(hole, Choice) else 1)

    def encode(self, many: list[Values]) -> Array:
        """(N, columns). Two options of one knob are at distance 1."""
        points = np.zeros((len(many), len(self.groups)))
        for column, hole in self.columns.values():
            if not isinstance(hole, Choice):
                points[:, column] = 0.5
        for row, values in enumerate(many):
            for name, value in values.items():
                column, hole = self.columns[name]
                if isinstance(hole, Choice):
                    points[row, column + list(hole.options).index(value)] = math.sqrt(0.5)
                else:
                    points[row, column] = share_of(hole, value)
        return points

    def free(self, many: list[Values]) -> NDArray[np.bool_]:
        """(N, columns): those of the ranges that each has."""
        found = np.zeros((len(many), len(self.groups)), dtype=bool)
        for row, values in enumerate(many):
            for name in values:
                column, hole = self.columns[name]
                found[row, column] = not isinstance(hole, Choice)
        return found

    def decode(self, point: Array, values: Values) -> Values:
        """The values at a point, with the options of `values`."""
        moved = dict(values)
        for name in values:
            column, hole = self.columns[name]
            if not isinstance(hole, Choice):
                moved[name] = value_at(hole, float(point[column]))
        return moved


@dataclass(frozen=True)
class Point:
    """A score that was seen."""

    values: Values
    time: float  # 0 to 1, the end
    score: float


@dataclass(frozen=True)
class Proposal:
    values: Values
    gain: float = math.inf  # expected improvement of the best score, in the model's units
    whole: bool = False  # whether to train it to its end, whatever it scores on the way


class Surrogate:
    """The model of the trials in a ledger.

    Two processes see them. One knows all rungs and looks closely at what is near the best: it says
    what an unfinished trial will come to. The other knows ends only, as they are: early scores do
    not lead it astray. Each proposes what half of all epochs are spent on, and what the second
    proposes is trained to its end.
    """

    def __init__(self, space: Space, ledger: Ledger, seed: int, startup: int) -> None:
        """The first `startup` configs are spread out; the model proposes after that."""
        self.space, self.ledger, self.seed, self.startup = space, ledger, seed, startup
        self.encoder = Encoder(space)
        self.rungs, self.ends = View(self.encoder, near), View(self.encoder, plain)
        self.costs = View(self.encoder, lambda _costs, _blur: np.log)
        self.priced: list[float] = []  # what those of known cost, the second goal, cost
        self.points: dict[tuple[int, int], Point] = {}  # by trial and epoch, as they came
        self.known: tuple[Any, ...] | None = None  # the ledger that they have seen
        self.proposal: Proposal | None = None

    @property
    def ready(self) -> bool:
        """Whether enough was seen to tell anything."""
        return len(self.ledger.entries) >= self.startup and len(self.ledger.scored) >= 3

    def predict(self, entries: list[Entry]) -> tuple[Array, Array]:
        """Mean and deviation of the final scores, in the model's units."""
        self._learn()
        return self.rungs.predict([entry.values for entry in entries])

    def gain(self, entries: list[Entry]) -> Array:
        """Expected improvement of the best, if each were trained to its end."""
        return improvement(*self.predict(entries), self._to_beat(entries) + MARGIN)

    def chance_to_win(self, entries: list[Entry]) -> Array:
        """How likely each is to end clearly above the best that costs no more."""
        mean, deviation = self.predict(entries)
        return np.asarray(ndtr((mean - self._to_beat(entries)) / deviation))

    def unbeatable(self, entry: Entry) -> bool:
        """Whether no score can be clearly above the best that costs no more."""
        return bool(self._to_beat([entry])[0] == math.inf)

    def propose(self) -> Proposal:
        """The config to try next: it was not tried, and can be trained as far as is known."""
        if not self.ready:
            return Proposal(self._explore())
        self._learn()
        if self.proposal is None:
            scored = self.ledger.scored
            spent = sum(entry.epoch for entry in scored if entry.whole)
            whole = spent < WHOLE * sum(entry.epoch for entry in scored)
            whole = whole and len(self.ledger.finished) >= FEWEST
            self.proposal = self._improve(self.ends if whole else self.rungs)
        return self.proposal

    def _to_beat(self, entries: list[Entry]) -> Array:
        """For each the final score to reach, in the model's units.

        More than blur above the best that costs no more, of finished ones if there are any; that of
        the worst for one that costs less than all of them. Infinite where nothing can be better.
        """
        leading = self.ledger.leading(LOOKED)
        rivals = [rival for rival in leading if rival.epoch >= self.ledger.epochs] or leading
        means, costs = self.predict(rivals)[0], np.array([rival.cost for rival in rivals])
        scores = np.array([rival.curve[-1] for rival in rivals])

        def reach(cost: float) -> float:
            some = costs <= cost
            if not some.any():
                return float(means.min())
            best = scores[some].max()
            goal = best + self.ledger.blur(best)
            if goal > self.ledger.ceiling:
                return math.inf
            low, high = self.rungs.units(np.array([best, goal]))
            return float(means[some].max() + high - low)

        known = {cost: reach(cost) for cost in {entry.cost for entry in entries}}
        return np.array([known[entry.cost] for entry in entries])

    def _improve(self, view: View) -> Proposal:
        """The config with the largest expected improvement over what a ceiling admits."""
        rng = self._rng(1)
        ceiling = self._ceiling(rng)
        entries = self.ledger.leading(LOOKED)
        means = view.predict([entry.values for entry in entries])[0]
        below = [i for i, entry in enumerate(entries) if entry.cost <= ceiling]
        ends = [i for i in below if entries[i].epoch >= self.ledger.epochs]
        goal = means[ends or below].max() + MARGIN * (1 + self.stagnant / 2)
        best = max(entries[i].curve[-1] for i in ends or below)
        goal += float(np.diff(view.units(np.array([best, best + self.ledger.blur(best)])))[0])
        leaders = [i for i in np.argsort(-means) if entries[i].cost <= ceiling][:CENTERS]
        branch = self.branch(rng)
        many = [self.near(branch, rng, 1.0, 0.0, branch) for _ in range(RANDOM)]
        for leader in leaders:
            center, steps = entries[leader].values, [(0.02, 0.08, 0.2)[i % 3] for i in range(NEAR)]
            many += [self.near(center, rng, step, 0.5, branch) for step in steps]
        gains = improvement(*view.predict(many), goal) * self._within(many, ceiling)
        for turn in range(ROUNDS):
            centers = [many[i] for i in np.argsort(-gains)[:CENTERS]]
            if turn < ROUNDS - 1:
                fresh = [
                    self.near(centers[i % len(centers)], rng, 0.1 / 2**turn, 0.6, branch)
                    for i in range(POLISHED)
                ]
            else:
                fresh = view.climb(centers, goal)
            many += fresh
            better = improvement(*view.predict(fresh), goal) * self._within(fresh, ceiling)
            gains = np.concatenate([gains, better])
        gains = gains * self._runnable(view, many)
        tried = {key(entry.values) for entry in self.ledger.entries.values()}
        order = [int(i) for i in np.argsort(-gains) if key(many[i]) not in tried]
        known = [i for i in order if RANDOM <= i < RANDOM + CENTERS * NEAR]  # such ones fitted
        checked = [*order[:CHECKED], *known[:CHECKED]]
        chosen = next((i for i in checked if self.ledger.feasible(many[i])), None)
        if chosen is None:
            return Proposal(self._explore())
        if view is self.ends or branch:
            return Proposal(many[chosen], whole=view is self.ends)  # its turn, whatever is gained
        return Proposal(many[chosen], float(gains[chosen]))

    def branch(self, rng: np.random.Generator) -> Values:
        """Now and then an option, at random, of each choice whose options have knobs of their own.

        A few unlucky draws would otherwise hide for good what a whole family of models can do.
        """
        if rng.random() >= BRANCH:
            return {}
        holes = {name: hole for name, (_, hole) in self.encoder.columns.items()}
        return {
            name: value_at(hole, rng.random())
            for name, hole in holes.items()
            if isinstance(hole, Choice) and hole.conditional
        }

    def _runnable(self, view: View, many: list[Values]) -> Array:
        """How likely each can be trained, by how those did that are like it; at first all can."""
        refused = [entry.values for entry in self.ledger.of("infeasible")]
        if not refused:
            return np.ones(len(many))
        fine = [entry.values for entry in self.ledger.leading(LOOKED)]
        can = 1 + view.likeness(many, fine)
        return can / (can + view.likeness(many, refused))

    def _ceiling(self, rng: np.random.Generator) -> float:
        """What one proposal may cost, drawn anew for each: so all of the front is sought.

        The score is improved under a bound on the other goal (Haimes et al. 1971), as likely kept
        as the model of costs says (Gardner et al. 2014). A quarter of the draws is without one.
        """
        if not self.priced:
            return math.inf
        share = rng.random() / (1 - UNBOUND)
        low, high = np.log([min(self.priced), max(self.priced)])
        return math.inf if share > 1 else math.exp(low + share * (high - low)) * (1 + 1e-9)

    def _within(self, many: list[Values], ceiling: float) -> Array:
        """How likely each costs no more than that."""
        if math.isinf(ceiling):
            return np.ones(len(many))
        mean, deviation = self.costs.predict(many)
        bound = self.costs.units(np.array([ceiling]))
        return np.asarray(ndtr((bound - mean) / deviation))

    @property
    def stagnant(self) -> int:
        """Finished trials since the last that was clearly better than all before.

        The longer it is, the larger an improvement must be to count: the search looks further.
        After a while it returns to what is near, where what it saw on the way may help.
        """
        ends = [entry.curve[-1] for entry in self.ledger.finished]
        if len(ends) <= FEWEST:
            return 0
        clearly = CLEARLY * (max(ends) - float(np.median(ends)))
        best, since = -math.inf, 0
        for end in ends:
            best, since = (end, 0) if end > best + clearly else (best, since + 1)
        return since % AROUND

    def _explore(self) -> Values:
        """The next config of an even spread over all knobs (Sobol 1967, scrambled)."""
        names = list(self.encoder.columns)
        spread = Sobol(len(names), rng=self.seed).random(SPREAD)
        tried = {key(entry.values) for entry in self.ledger.entries.values()}
        first = len(tried) % len(spread)
        many = [self._at(dict(zip(names, point.tolist(), strict=True)))
                for point in [*spread[first:], *spread[:first]]]  # fmt: skip
        fresh = [values for values in many if key(values) not in tried] or many
        return next((v for v in fresh[:CHECKED] if self.ledger.feasible(v)), fresh[0])

    def _at(self, shares: dict[str, float]) -> Values:
        """The config whose knobs lie there on their ranges, 0 to 1."""
        return self.space.values(lambda name, hole: value_at(hole, shares[name]))

    def near(
        self,
        center: Mapping[str, Any],
        rng: np.random.Generator,
        step: float,
        share: float,
        fixed: Values,
    ) -> Values:
        """A config like `center`, but what is `fixed`, in which this share of knobs is moved.

        Knobs that `center` has not are drawn at random.
        """

        def draw(name: str, hole: Hole) -> Any:
            if name in fixed:
                return fixed[name]
            if name not in center:
                return value_at(hole, rng.random())
            if rng.random() >= share:
                return center[name]
            if isinstance(hole, Choice):
                return value_at(hole, rng.random()) if rng.random() < 0.3 else center[name]
            moved = share_of(hole, center[name]) + step * rng.standard_normal()
            return value_at(hole, min(max(moved, 0.0), 1.0))

        return self.space.values(draw)

    def _rng(self, purpose: int) -> np.random.Generator:
        """Chance that the ledger alone decides: the same after a restart."""
        trained = sum(entry.epoch for entry in self.ledger.entries.values())
        return np.random.default_rng((self.seed, purpose, len(self.ledger.entries), trained))

    def _learn(self) -> None:
        """Let both views see all that the ledger holds."""
        entries = list(self.ledger.entries.values())
        now = tuple((entry.number, entry.epoch, entry.state) for entry in entries)
        if now == self.known:
            return
        self._note_points()
        pending = [entry.values for entry in entries if entry.state == "under way"]
        points = list(self.points.values())
        if self.ledger.of("infeasible"):
            worst = min((min(entry.curve) for entry in self.ledger.scored), default=0.0)
            bad = self.ledger.of("infeasible")
            points += [Point(entry.values, 1.0, worst) for entry in bad]
        rng = self._rng(0)
        blur = self.ledger.blur(max((entry.curve[-1] for entry in self.ledger.scored), default=0.0))
        self.rungs.learn(points, pending, blur, rng)
        if len(self.ledger.finished) >= FEWEST:
            self.ends.learn([point for point in points if point.time == 1.0], pending, blur, rng)
        priced = [e for e in self.ledger.scored if 0 < e.cost < math.inf]
        self.priced = [entry.cost for entry in priced]
        if priced:
            self.costs.learn([Point(e.values, 1.0, e.cost) for e in priced], [], 0.0, rng)
        self.known, self.proposal = now, None

    def _note_points(self) -> None:
        """All trials at all rungs they have reached."""
        epochs = self.ledger.epochs
        rungs = [*self.space.search.pruner.saves(epochs), epochs]
        for entry in self.ledger.scored:
            for rung in rungs:
                if rung <= entry.epoch and (entry.number, rung) not in self.points:
                    point = Point(entry.values, share(rung, epochs), entry.curve[rung - 1])
                    self.points[entry.number, rung] = point


class View:
    """A Gaussian process with its own scale of scores."""

    def __init__(self, encoder: Encoder, scale: Callable[[Array, float], Scale]) -> None:
        self.encoder, self.scale = encoder, scale
        self.units: Scale = lambda scores: scores  # scores to the model's units
        self.process: GaussianProcess | None = None
        self.fitted = 0  # points of the last fit

    def learn(
        self, points: list[Point], pending: list[Values], blur: float, rng: np.random.Generator
    ) -> None:
        """`pending` are under way: taken to end as foretold, so that no two workers try alike."""
        if len(points) > POINTS:
            points = [points[i] for i in np.sort(rng.permutation(len(points))[:POINTS])]
        x = self.encoder.encode([point.values for point in points])
        t = np.array([point.time for point in points])
        scores = np.array([point.score for point in points])
        scale = self.scale(scores, blur)
        center, width = scale(scores).mean(), scale(scores).std() + 1e-9
        self.units = lambda scores: np.asarray((scale(scores) - center) / width)
        y = self.units(scores)
        if self.process is None:
            active = float(np.mean([len(point.values) for point in points]))
            self.process = GaussianProcess(self.encoder.groups, active)
        if len(x) >= REFIT * self.fitted + 3 or not self.fitted:
            self.process.fit(x, t, y, rng)
            self.fitted = len(x)
        self.process.condition(x, t, y)
        if pending:
            ahead, ends = self.encoder.encode(pending), np.ones(len(pending))
            told = self.process.predict(ahead, ends)[0]
            self.process.condition(
                np.concatenate([x, ahead]), np.concatenate([t, ends]), np.concatenate([y, told])
            )

    def likeness(self, many: list[Values], others: list[Values]) -> Array:
        """(M,): to how many of the others each is alike, in all."""
        assert self.process is not None
        told = self.process.likeness(self.encoder.encode(many), self.encoder.encode(others))
        return np.asarray(told.sum(1))

    def climb(self, many: list[Values], goal: float) -> list[Values]:
        """Like these, but with ranges moved to where more improvement is expected."""
        assert self.process is not None
        free = self.encoder.free(many)
        moved = self.process.climb(self.encoder.encode(many), free, goal)
        return [self.encoder.decode(*pair) for pair in zip(moved, many, strict=True)]

    def predict(self, many: list[Values]) -> tuple[Array, Array]:
        """Mean and deviation at the end of training."""
        assert self.process is not None
        return self.process.predict(self.encoder.encode(many), np.ones(len(many)))


def share(epoch: int, epochs: int) -> float:
    """An epoch on a scale from 0 to 1 on which curves are nearly straight."""
    return math.log(epoch) / math.log(epochs) if epochs > 1 else 1.0


def improvement(mean: Array, deviation: Array, goal: float | Array) -> Array:
    """Expected improvement over `goal` (Jones et al. 1998); 0 where that is out of reach."""
    possible = np.isfinite(goal)
    z = (mean - np.where(possible, goal, 0.0)) / deviation
    gain = deviation * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    return np.asarray(gain * possible)


def near(scores: Array, blur: float) -> Scale:
    """A scale on which differences near the best count, and far below it hardly any."""
    best = scores.max()
    unit = max(best - np.median(scores), blur, 1e-12)
    least = max(EPS, 2 * blur / unit)
    return lambda some: np.asarray(-np.log(np.maximum((best - some) / unit + least, least / 4)))


def plain(scores: Array, blur: float) -> Scale:
    """As they are, but that nothing is worse than four times the median's distance to the best."""
    best = scores.max()
    worst = best - 4 * max(best - np.median(scores), blur)
    return lambda some: np.asarray(np.maximum(some, worst))


def key(values: Values) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))
