"""The model of a search: what each trial would score at its end, and which config to try next.

It learns from every trial at every rung, the unfinished ones too, and knows nothing of Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from automl.holes import Choice, value_at
from automl.searching.encoder import Encoder, Values
from automl.searching.gaussian import Array, GaussianProcess
from automl.searching.ledger import Entry, Ledger, Proposal
from automl.searching.pruners import FIRST, rungs
from automl.space import Space

Scale = Callable[[Array], Array]

POINTS = 800  # that the model takes as seen, at most: it costs their cube
REFIT = 1.15  # times the points of the last fit, for another
EPS = 0.3  # of the median's distance to the best: differences within it hardly count
MARGIN = 0.1  # improvements below this, in deviations of all scores, are not worth a trial
RANDOM, CENTERS, NEAR = 300, 8, 40  # candidates: random ones, and near each of the best
SPREAD = 256  # configs from which the first are taken, in order, if they can be trained
SMALLER = 1.0, 1 / 2, 1 / 4, 1 / 8  # of the way along all knobs, tried where more is too large
CHECKED = 60  # of the best candidates, and as many near known ones: too large ones are passed over
ROUNDS, POLISHED = 4, 80  # of refinement of the best, the last by gradient; how many each time
WHOLE = 0.5  # of all epochs, for trials that train to their end whatever they score
LOOKED = 400  # trials, those with the best scores, among which the best by the model are sought
FEWEST = 4  # finished trials that a model of ends needs
AROUND = 20  # finished trials without news, after which the search returns to what is near
BRANCH = 0.25  # of the proposals, for branches of a conditional space at random
UNBOUND = 0.25  # of the proposals of a search for two goals, whatever they cost
CLEARLY = 0.03  # of the median's distance to the best: a score better by this is news


class Surrogate:
    """The model of the trials in a ledger.

    Two processes see them. One knows all rungs and looks closely at what is near the best: it says
    what an unfinished trial will come to. The other knows ends only, as they are: early scores do
    not lead it astray. Each proposes what half of all epochs are spent on, and what the second
    proposes is trained to its end. What was believed in counts to its half.
    """

    def __init__(self, space: Space, ledger: Ledger, seed: int, startup: int) -> None:
        """The first `startup` configs are spread out; the model proposes after that."""
        self.space, self.ledger, self.seed, self.startup = space, ledger, seed, startup
        self.encoder = Encoder(space)
        # where scores are noted: a pruner without checkpoints on the way lets them be seen, too,
        # from where it may stop a trial, for only scores of the same epoch tell who is better
        pruner, epochs = space.search.pruner, ledger.epochs
        earliest = pruner.earliest(epochs)
        self.marks = pruner.saves(epochs) or rungs(min(FIRST, earliest / epochs), epochs)
        self.wholes = pruner.pauses or earliest >= epochs  # a trial can be trained to its end
        self.branches = {  # choices whose options have knobs of their own
            name: hole
            for name, hole in zip(self.encoder.names, self.encoder.holes, strict=True)
            if isinstance(hole, Choice) and hole.conditional
        }
        self.rungs, self.ends = View(self.encoder, zoomed), View(self.encoder, plain)
        # straight, as costs run evenly along a range: with bends fronts were found later
        self.costs = View(self.encoder, lambda _costs, _blur: np.log, bends=False)
        self.priced: list[float] = []  # costs, the second goal, of the trials where they are known
        self.stood: dict[int, Array] = {}  # by trial: where its knobs stand
        self.tried: set[tuple[tuple[str, Any], ...]] = set()
        self.open: dict[int, int] = {}  # trials that may tell more; to which epoch that is noted
        self.past = 0  # epochs of trials that tell no more
        self.at_rungs, self.at_ends = Points(), Points()
        self.known: tuple[Any, ...] | None = None  # the ledger that the views were told of
        self.rivals: tuple[Array, ...] | None = None  # what the best come to, cost and score
        self.proposal: Proposal | None = None

    @property
    def ready(self) -> bool:
        """Whether enough was seen to tell anything."""
        return len(self.ledger.entries) >= self.startup and len(self.ledger.scored) >= 3

    @property
    def branching(self) -> bool:
        """Whether the space has such choices."""
        return bool(self.branches)

    def predict(self, entries: list[Entry]) -> tuple[Array, Array]:
        """Mean and deviation of the final scores, in the model's units."""
        self._tell()
        return self.rungs.predict(self._stands(entries))

    def gain(self, entries: list[Entry]) -> Array:
        """Expected improvement of the best, if each were trained to its end."""
        return improvement(*self.predict(entries), self._to_beat(entries) + MARGIN)

    def chance_to_win(self, entries: list[Entry]) -> Array:
        """How likely each is to end clearly above the best that costs no more."""
        mean, deviation = self.predict(entries)
        return normal_cdf((mean - self._to_beat(entries)) / deviation)

    def unbeatable(self, entry: Entry) -> bool:
        """Whether no score can be clearly above the best that costs no more."""
        return bool(self._to_beat([entry])[0] == math.inf)

    def propose(self) -> Proposal:
        """The config to try next: it was not tried, and can be trained as far as is known."""
        if not self.ready:
            self._meet()
            return self._explore()
        self._tell()
        if not self.at_rungs.scores:  # many have begun at once, and none is at a rung yet
            return self._explore()
        if self.proposal is None:
            scored = self.ledger.scored
            spent = sum(entry.epoch for entry in scored if entry.whole or entry.believed)
            whole = spent < WHOLE * sum(entry.epoch for entry in scored)
            whole = whole and self.wholes and len(self.ledger.finished) >= FEWEST
            self.proposal = self._improve(self.ends if whole else self.rungs)
        return self.proposal

    def _to_beat(self, entries: list[Entry]) -> Array:
        """For each the final score to reach, in the model's units.

        More than blur above the best that costs no more, of finished ones if there are any; that of
        the worst for one that costs less than all of them. Infinite where nothing can be better.
        """
        self._tell()
        if self.rivals is None:
            leading = self.ledger.leading(LOOKED)
            rivals = [rival for rival in leading if rival.epoch >= self.ledger.epochs] or leading
            told = ((rival.cost, rival.curve[-1]) for rival in rivals)
            self.rivals = (
                self.rungs.mean(self._stands(rivals)),
                *map(np.array, zip(*told, strict=True)),
            )
        means, costs, scores = self.rivals

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
        means = view.mean(self._stands(entries))
        affordable = [i for i, entry in enumerate(entries) if entry.cost <= ceiling]
        ends = [i for i in affordable if entries[i].epoch >= self.ledger.epochs]
        goal = means[ends or affordable].max() + MARGIN * (1 + self.stagnant / 2)
        best = max(entries[i].curve[-1] for i in ends or affordable)
        goal += float(np.diff(view.units(np.array([best, best + self.ledger.blur(best)])))[0])
        leaders = [i for i in np.argsort(-means) if entries[i].cost <= ceiling][:CENTERS]
        branch = self.branch(rng)

        def worth(some: Array) -> Array:
            return improvement(*view.predict(some), goal) * self._within(some, ceiling)

        anywhere = np.full((RANDOM, len(self.encoder.names)), math.nan)
        some = self.near(anywhere, rng, 1.0, 0.0, branch)
        if branch and self._runnable(view, some).max() < rng.random():
            branch = {}  # hardly anything of it could be trained
            some = self.near(anywhere, rng, 1.0, 0.0, branch)
        centers = self._stands([entries[i] for i in leaders]).repeat(NEAR, 0)
        steps = np.resize([0.02, 0.08, 0.2], len(centers))
        many = np.concatenate([some, self.near(centers, rng, steps, 0.5, branch)])
        gains = worth(many)
        for turn in range(ROUNDS):
            centers = many[np.argsort(-gains)[:CENTERS]]
            if turn < ROUNDS - 1:
                centers = np.resize(centers, (POLISHED, centers.shape[1]))
                fresh = self.near(centers, rng, 0.1 / 2**turn, 0.6, branch)
            else:
                fresh = view.climb(centers, goal)
            many = np.concatenate([many, fresh])
            gains = np.concatenate([gains, worth(fresh)])
        gains = gains * self._runnable(view, many)
        order = np.argsort(-gains)
        known = order[(order >= RANDOM) & (order < RANDOM + len(leaders) * NEAR)]  # such ones fit
        for i, values in chain(self._fresh(many, order), self._fresh(many, known)):
            if self.ledger.feasible(values):
                its_turn = view is self.ends or branch  # whatever is gained
                gain = math.inf if its_turn else float(gains[i])
                return Proposal(values, gain, whole=view is self.ends)
        last = self._explore()
        gain = float(worth(self.encoder.stands([last.values]))[0])
        return replace(last, gain=min(gain, last.gain))

    def branch(self, rng: np.random.Generator) -> Values:
        """Now and then an option, at random, of each choice whose options have knobs of their own.

        A few unlucky draws would otherwise hide for good what a whole family of models can do.
        """
        if rng.random() >= BRANCH:
            return {}
        return {name: value_at(hole, rng.random()) for name, hole in self.branches.items()}

    def _runnable(self, view: View, many: Array) -> Array:
        """How likely each can be trained, by how those did that are like it; at first all can."""
        refused = self.ledger.of("infeasible")
        if not refused:
            return np.ones(len(many))
        can = 1 + view.likeness(many, self._stands(self.ledger.leading(LOOKED)))
        return can / (can + view.likeness(many, self._stands(refused)))

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

    def _within(self, many: Array, ceiling: float) -> Array:
        """How likely each costs no more than that."""
        if math.isinf(ceiling):
            return np.ones(len(many))
        mean, deviation = self.costs.predict(many)
        bound = self.costs.units(np.array([ceiling]))
        return normal_cdf((bound - mean) / deviation)

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

    def _explore(self) -> Proposal:
        """The next config of an even spread over all knobs (Sobol 1967, scrambled).

        One of which nothing is to be gained where none was found that can be trained, or in time.
        """
        from scipy.stats.qmc import Sobol  # a second that `start:` need not wait

        spread = Sobol(len(self.encoder.names), rng=self.seed).random(SPREAD)
        spread = np.roll(spread, -len(self.tried), 0)
        for share in SMALLER:
            many = self.encoder.settled(share * spread)
            for _, values in self._fresh(many, range(len(many))):
                if self.ledger.feasible(values):
                    return Proposal(values)
        untried = (values for values in self.space.every() if key(values) not in self.tried)
        return Proposal(next(untried, self.encoder.values(many[0])), -math.inf)

    def _fresh(self, many: Array, order: Iterable[int]) -> Iterator[tuple[int, Values]]:
        """Of these configs (N, knobs), in this order, the first ones that were not tried."""
        configs = ((i, self.encoder.values(many[i])) for i in order)
        return islice((told for told in configs if key(told[1]) not in self.tried), CHECKED)

    def near(
        self,
        centers: Array,
        rng: np.random.Generator,
        steps: float | Array,
        share: float,
        fixed: Values,
    ) -> Array:
        """Like each of the centers (N, knobs), with this share of knobs moved by its step (N,).

        But for what is `fixed`. Knobs that a center has not are drawn at random.
        """
        drawn, turned = rng.random(centers.shape), rng.random(centers.shape) < share
        steps = np.broadcast_to(steps, len(centers))[:, None]
        ranges = np.clip(centers + steps * rng.standard_normal(centers.shape), 0.0, 1.0)
        options = np.where(rng.random(centers.shape) < 0.3, drawn, centers)
        moved = np.where(self.encoder.choices, options, ranges)
        found = np.where(np.isnan(centers), drawn, np.where(turned, moved, centers))
        for name, value in fixed.items():
            place = self.encoder.places[name]
            found[:, place] = self.encoder.stand(place, value)
        return self.encoder.settled(found)

    def _stands(self, entries: list[Entry]) -> Array:
        """(N, knobs)"""
        stands = [self.stood[entry.number] for entry in entries]
        return np.array(stands).reshape(-1, len(self.encoder.names))

    def _rng(self, purpose: int) -> np.random.Generator:
        """Chance that the ledger alone decides: the same after a restart."""
        self._meet()
        trained = self.past + sum(entry.epoch for entry in self._ongoing)
        return np.random.default_rng((self.seed, purpose, len(self.ledger.entries), trained))

    def _meet(self) -> None:
        """Trials that are new."""
        for entry in islice(self.ledger.entries.values(), len(self.stood), None):
            self.stood[entry.number] = self.encoder.stands([entry.values])[0]
            self.tried.add(key(entry.values))
            self.open[entry.number] = 0

    @property
    def _ongoing(self) -> list[Entry]:
        """Trials that may tell more."""
        return [self.ledger.entries[number] for number in self.open]

    def _tell(self) -> None:
        """Let the views know what is new in the ledger; they learn when they are asked."""
        self._meet()
        if self._news() == self.known:
            return
        for entry in self._ongoing:
            self._note(entry)
        pending = [entry for entry in self._ongoing if entry.state == "under way"]
        ahead = self._stands(pending)
        blur = self.ledger.blur(max((entry.curve[-1] for entry in self.ledger.scored), default=0.0))
        self.rungs.tell(self.at_rungs, ahead, blur, self._rng(0))
        if len(self.ledger.finished) >= FEWEST:
            self.ends.tell(self.at_ends, ahead, blur, self._rng(2))
        priced = [e for e in self.ledger.scored if 0 < e.cost < math.inf]
        self.priced = [entry.cost for entry in priced]
        if priced:
            stands, ones = list(self._stands(priced)), [1.0] * len(priced)
            self.costs.tell(Points(stands, ones, self.priced), ahead[:0], 0.0, self._rng(3))
        self.known, self.rivals, self.proposal = self._news(), None, None

    def _news(self) -> tuple[Any, ...]:
        """Not what it was, when there is something new."""
        return len(self.stood), [(e.number, e.epoch, e.state) for e in self._ongoing]

    def _note(self, entry: Entry) -> None:
        """A trial at all rungs that it has reached since; it is over with one that is closed."""
        epochs, number = self.ledger.epochs, entry.number
        if entry.state == "infeasible":
            self._add(number, 1.0, math.nan)
        else:
            worst = min([self.at_rungs.worst, *entry.curve])
            self.at_rungs.worst = self.at_ends.worst = worst
            for rung in [*self.marks, epochs]:
                if self.open[number] < rung <= entry.epoch:
                    self.open[number] = rung
                    self._add(number, share(rung, epochs), entry.curve[rung - 1])
            if entry.state == "closed" and self._guessed(entry):
                self._add(number, 1.0, entry.curve[-1])
        if entry.state in ("closed", "infeasible"):
            del self.open[number]
            self.past += entry.epoch

    def _guessed(self, entry: Entry) -> bool:
        """Whether it was stopped for no more than a guess scores, which is taken for its end."""
        stopped = self.wholes and 0 < entry.epoch < self.ledger.epochs
        return stopped and entry.curve[-1] <= self.ledger.chance

    def _add(self, number: int, time: float, score: float) -> None:
        for points in (self.at_rungs, self.at_ends) if time == 1.0 else (self.at_rungs,):
            points.add(self.stood[number], time, score)


@dataclass
class Points:
    """Where configs stand, when on a scale to 1, and how they score then, in the order they came.

    A score is NaN where the config cannot be trained, which is as bad as the worst of any epoch.
    """

    stands: list[Array] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    worst: float = math.inf

    def add(self, stand: Array, time: float, score: float) -> None:
        self.stands.append(stand)
        self.times.append(time)
        self.scores.append(score)


class View:
    """A Gaussian process with its own scale of scores. It learns what it was told when asked."""

    def __init__(
        self, encoder: Encoder, scale: Callable[[Array, float], Scale], *, bends: bool = True
    ) -> None:
        self.encoder, self.scale = encoder, scale
        self.ranges = encoder.ranges if bends else []
        self.told: tuple[Points, Array, float, np.random.Generator] | None = None
        self.process: GaussianProcess | None = None
        self.scaled: Scale = lambda scores: scores
        self.taken = np.empty(0, dtype=int)  # of the points it was told, those it has learned
        self.given = 0  # when the kernel was fitted

    def tell(self, points: Points, ahead: Array, blur: float, rng: np.random.Generator) -> None:
        """The points of before, and then new ones.

        What is `ahead` (M, knobs) is under way: taken to end as foretold, so that no two workers
        try alike. Differences below `blur` mean nothing.
        """
        self.told = points, ahead, blur, rng

    def _learned(self) -> GaussianProcess:
        """The process, when it has seen all. Of many points it sees some, drawn anew at fits."""
        if self.told is None:
            assert self.process is not None
            return self.process
        (points, ahead, blur, rng), self.told = self.told, None
        count = len(points.scores)
        taken = np.concatenate([self.taken, np.arange(self.given, count)])
        fewer = count < self.given  # some turned out not to be trainable
        due = fewer or not self.given or len(taken) >= REFIT * len(self.taken) + 3
        if due:
            taken = np.sort(rng.permutation(count)[:POINTS])
        stands = np.array([points.stands[i] for i in taken])
        x, t = self.encoder.points(stands), np.array([points.times[i] for i in taken])
        scores = np.array([points.scores[i] for i in taken])
        scores = np.where(np.isnan(scores), points.worst, scores)
        scale = self.scale(scores, blur)
        center, width = scale(scores).mean(), scale(scores).std() + 1e-9
        self.scaled = lambda scores: np.asarray((scale(scores) - center) / width)
        y = self.scaled(scores)
        if self.process is None:
            active = float((~np.isnan(stands)).sum(1).mean())
            self.process = GaussianProcess(self.encoder.groups, active, self.ranges)
        if due:
            self.process.fit(x, t, y, rng)
            self.taken, self.given = taken, count
        self.process.condition(x, t, y)
        if len(ahead):
            self.process.expect(self.encoder.points(ahead))
        return self.process

    def units(self, scores: Array) -> Array:
        """Scores in those of the model."""
        self._learned()
        return self.scaled(scores)

    def likeness(self, many: Array, others: Array) -> Array:
        """(N,): to how many of the others (M, knobs) each (N, knobs) is alike, in all."""
        points = self.encoder.points
        return np.asarray(self._learned().likeness(points(many), points(others)).sum(1))

    def climb(self, many: Array, goal: float) -> Array:
        """Like these, but with ranges moved to where more improvement is expected."""
        points, free = self.encoder.points(many), self.encoder.free(many)
        return self.encoder.moved(many, self._learned().climb(points, free, goal))

    def mean(self, many: Array) -> Array:
        """At the end of training, of configs (N, knobs)."""
        return self._learned().mean(self.encoder.points(many))

    def predict(self, many: Array) -> tuple[Array, Array]:
        """Mean and deviation at the end of training, of configs (N, knobs)."""
        return self._learned().predict(self.encoder.points(many))


def share(epoch: int, epochs: int) -> float:
    """An epoch on a scale from 0 to 1 on which curves are nearly straight."""
    return math.log(epoch) / math.log(epochs) if epochs > 1 else 1.0


def improvement(mean: Array, deviation: Array, goal: float | Array) -> Array:
    """Expected improvement over `goal` (Jones et al. 1998); 0 where that is out of reach."""
    possible = np.isfinite(goal)
    z = (mean - np.where(possible, goal, 0.0)) / deviation
    gain = deviation * (z * normal_cdf(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    return np.asarray(gain * possible)


def normal_cdf(z: Array) -> Array:
    """Of the standard normal distribution."""
    from scipy.special import ndtr  # as Sobol

    return np.asarray(ndtr(z))


def zoomed(scores: Array, blur: float) -> Scale:
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
