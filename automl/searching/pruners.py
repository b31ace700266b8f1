"""Who decides, after every epoch, whether a trial goes on, and which paused one does.

Optuna's own pruners are not used: with their defaults they decide at the first epoch, where ranks
say nothing of the end, and a median of five finished trials never comes in a short search.
"""

from __future__ import annotations

import functools
import math
import statistics
import zlib
from typing import ClassVar, Literal

from pydantic import Field

from automl.config import Pruner
from automl.searching.ledger import Entry, Ledger

FIRST = 1 / 9  # of all epochs: the first rung, where nothing tells a better one
STEP = 1.7  # each rung is this many times the one before
ENOUGH = 8  # finished trials, to choose the first rung by their ranks
AGREE = 0.85  # rank correlation (Spearman 1904) with the end, for a rung to be the first
LATEST = 1 / 3  # of all epochs: the first rung is never later
CLEAR = 4  # times what means anything, two standard errors: no luck of a few epochs
WAITING = 16  # paused trials whose weights are kept, at most


class Auto(Pruner):
    """Trials pause at rungs and go on from there when they are worth it.

    With `sampler: auto`, its model says how likely a trial is to be the best in the end, and what
    is expected of it for what it still costs: freeze-thaw optimization (Swersky et al. 2014). The
    best of the first looks, trials that came to the first rung, are trained to their end before it
    decides, for only ends tell without bias what an early score is worth: two, or four in a space
    with branches, options that have knobs of their own. What is believed in goes there at once.
    With other samplers a rung lets its best third through, as asynchronous successive halving does
    (Li et al. 2020), and takes up later who belongs to it.
    """

    name: Literal["auto"] = "auto"
    pauses: ClassVar[bool] = True
    first: float = Field(
        default=FIRST,
        gt=0,
        le=1,
        description="first rung, as a share of all epochs, until ranks tell a better one",
    )
    whole: int = Field(
        default=2,
        ge=0,
        le=100,
        description="ends that are seen before the model decides; in a space with branches twice"
        " as many",
    )
    likely: float = Field(
        default=0.1, gt=0, lt=0.5, description="a trial pauses that is less likely to be the best"
    )
    factor: float = Field(
        default=3.0, ge=1.5, le=10, description="without a model, one in this many goes on"
    )

    def saves(self, epochs: int) -> list[int]:
        return sorted({*rungs(self.first, epochs), *rungs(self.first, epochs, self.factor)})

    def decides(self, ledger: Ledger) -> list[int]:
        """The rungs; without a model each is `factor` times the last, so that all cost alike."""
        if ledger.model is None:
            return rungs(self.first, ledger.epochs, self.factor)
        first = self._first(ledger)
        return [rung for rung in rungs(self.first, ledger.epochs) if rung >= first]

    def _ends(self, ledger: Ledger) -> int:
        """How many are seen before the model decides."""
        assert ledger.model is not None
        return 2 * self.whole if ledger.model.branching else self.whole

    def _begins(self, ledger: Ledger) -> bool:
        """Whether the best of the first looks have still to come to their ends."""
        return len(ledger.finished) < self._ends(ledger)

    def _first(self, ledger: Ledger) -> int:
        """The earliest rung whose ranks agree with those at the end, among all that came there."""
        grid, ends = rungs(self.first, ledger.epochs), ledger.finished
        if len(ends) < ENOUGH or not grid:
            return 0
        last = tuple(entry.curve[-1] for entry in ends)
        for rung in grid:
            early = tuple(entry.curve[rung - 1] for entry in ends)
            if rung * STEP > LATEST * ledger.epochs or _agree(early, last):
                break
        return rung

    def stop(self, entry: Entry, ledger: Ledger) -> str | None:
        """For good: at or below what a guess scores, after a while or after clearly better."""
        if entry.curve[-1] > ledger.chance:
            return None
        if max(entry.curve) > ledger.chance + CLEAR * ledger.blur(ledger.chance):
            return f"fell apart at epoch {entry.epoch}"
        patience = max([2, *self.decides(ledger)[:1]])
        return f"at chance at epoch {entry.epoch}" if entry.epoch >= patience else None

    def pause(self, entry: Entry, ledger: Ledger) -> bool:
        if entry.epoch not in self.decides(ledger):
            return False
        if ledger.model is None:
            return entry not in self._through(entry.epoch, ledger)
        if entry.believed and entry.number < self.whole:
            return False
        if self._begins(ledger):
            return entry.epoch == self.decides(ledger)[0]
        if not ledger.model.ready:
            return not entry.whole
        if entry.whole:  # the model may be wrong of it
            return ledger.model.unbeatable(entry)
        return bool(ledger.model.chance_to_win([entry])[0] < self.likely)

    def promote(self, ledger: Ledger) -> int | None:
        paused = [entry for entry in ledger.of("paused") if ledger.can_finish(entry)]
        if not paused:
            return None
        if ledger.model is None:
            for rung in reversed(self.decides(ledger)):
                for entry in self._through(rung, ledger):
                    if entry in paused and entry.epoch == rung:
                        return entry.number
            return None
        if self._begins(ledger) or not (ledger.model.ready or ledger.may_ask):
            return self._first_end(paused, ledger)
        if not ledger.model.ready:
            return None
        if not ledger.time_for_one_more:  # no budget is left on the table
            return paused[int(ledger.model.predict(paused)[0].argmax())].number
        gains = ledger.model.gain(paused)
        worth = [gain / (ledger.epochs - e.epoch) for gain, e in zip(gains, paused, strict=True)]
        if ledger.may_ask:
            least = ledger.model.propose().gain / ledger.epochs
            better = [i for i, told in enumerate(worth) if told > least]
        else:
            hopes = ledger.model.chance_to_win(paused)
            better = [i for i, hope in enumerate(hopes) if hope >= self.likely]
        return paused[max(better, key=worth.__getitem__)].number if better else None

    def _first_end(self, paused: list[Entry], ledger: Ledger) -> int | None:
        """The best of the first looks, or of two goals the first one; None while there are new.

        Of many workers half may train such ends: the others would look around for as long.
        """
        first, active = self.decides(ledger)[0], ledger.of("under way")
        ahead = [entry for entry in active if entry.epoch >= first]
        assert ledger.model is not None
        looks = not ledger.model.ready and ledger.time_for_one_more
        most = max(self._ends(ledger), len(active) // 2)
        if ledger.may_ask and (looks or len(ahead) + len(ledger.finished) >= most):
            return None
        return max(paused, key=lambda e: (e.epoch, -e.number if e.cost else e.curve[-1])).number

    def drop(self, ledger: Ledger) -> dict[int, str]:
        paused, room = ledger.of("paused"), WAITING
        if not ledger.may_ask and not ledger.of("under way"):  # more time may come another day
            paused, room = [entry for entry in paused if ledger.can_finish(entry)], 0
        if len(paused) <= room:
            return {}
        if ledger.model is not None and ledger.model.ready:
            hopes = ledger.model.chance_to_win(paused)
            told = [f"{hope:.0%} likely to be best, at epoch {e.epoch}"
                    for hope, e in zip(hopes, paused, strict=True)]  # fmt: skip
            order = sorted(range(len(paused)), key=lambda i: -hopes[i])
        else:
            ranks = [ledger.rank(entry) for entry in paused]
            told = [f"rank {place} of {of} at epoch {e.epoch}"
                    for (place, of), e in zip(ranks, paused, strict=True)]  # fmt: skip
            order = sorted(range(len(paused)), key=lambda i: ranks[i][0] / ranks[i][1])
        return {paused[i].number: told[i] for i in order[room:]}

    def _through(self, rung: int, ledger: Ledger) -> list[Entry]:
        """Those that a rung lets through, best first."""
        seen = [entry for entry in ledger.scored if entry.epoch >= rung]
        seen.sort(key=lambda entry: -max(entry.curve[:rung]))
        least = 0 if ledger.may_ask else 1
        return seen[: max(least, math.floor(len(seen) / self.factor))]


class Asha(Pruner):
    """Asynchronous successive halving (Li et al. 2020): at each rung only the best third goes on.

    Stops for good. The first rung is near a ninth of the training: earlier ranks mislead.
    """

    name: Literal["asha"] = "asha"
    first: float = Field(
        default=FIRST, gt=0, le=1, description="first rung, as a share of all epochs"
    )
    factor: float = Field(
        default=3.0, ge=1.5, le=10, description="of each rung one in this many goes on"
    )
    wait: int = Field(
        default=3, ge=1, le=100, description="trials a rung must have seen before it stops one"
    )

    def stop(self, entry: Entry, ledger: Ledger) -> str | None:
        if entry.epoch not in rungs(self.first, ledger.epochs, self.factor):
            return None
        place, of = ledger.rank(entry)
        if of <= self.wait or place <= max(1, math.floor(of / self.factor)):
            return None
        return f"rank {place} of {of} at epoch {entry.epoch}"

    def earliest(self, epochs: int) -> int:
        return min([epochs, *rungs(self.first, epochs, self.factor)])


class Hyperband(Pruner):
    """Brackets of successive halving that begin to stop sooner or later (Li et al. 2018).

    Stops as Optuna's does: a trial's number decides on its bracket, and it is compared, at each
    rung, with the trials of that bracket alone, by the scores there. More trials fall into the
    brackets that stop early. It begins at epoch `first`, where ranks may say little of the end.
    """

    name: Literal["hyperband"] = "hyperband"
    first: int = Field(default=1, ge=1, le=1000, description="epochs before the earliest rung")
    factor: int = Field(
        default=3, ge=2, le=10, description="of each rung one in this many goes on, and to so many"
    )

    def stop(self, entry: Entry, ledger: Ledger) -> str | None:
        bracket = self.bracket(entry.number, ledger.epochs)
        rung = self.first * self.factor**bracket
        while rung < entry.epoch:
            rung *= self.factor
        if rung != entry.epoch or rung >= ledger.epochs:
            return None
        score = entry.curve[-1]
        rivals = [
            other.curve[rung - 1]
            for other in ledger.scored
            if other.epoch >= rung
            and other.cost <= entry.cost
            and self.bracket(other.number, ledger.epochs) == bracket
        ]  # the trial itself is one of them
        better = sum(rival > score for rival in rivals)
        if better < max(1, len(rivals) // self.factor):
            return None
        return f"rank {better + 1} of {len(rivals)} of bracket {bracket} at epoch {rung}"

    def earliest(self, epochs: int) -> int:
        return self.first

    def bracket(self, number: int, epochs: int) -> int:
        """By a hash of the number, in proportion to what Hyperband has each bracket begin with."""
        count = 1
        while self.first * self.factor**count <= epochs:
            count += 1
        shares = [math.ceil(count * self.factor**s / (s + 1)) for s in reversed(range(count))]
        place = zlib.crc32(str(number).encode()) % sum(shares)
        return next(i for i in range(count) if place < sum(shares[: i + 1]))


class Median(Pruner):
    """Stops what is below the median of the others at the same epoch (Golovin et al. 2017)."""

    name: Literal["median"] = "median"
    warmup: int = Field(default=3, ge=1, le=1000, description="epochs before the first decision")
    wait: int = Field(default=3, ge=1, le=100, description="trials to compare with, at least")

    def stop(self, entry: Entry, ledger: Ledger) -> str | None:
        rivals = ledger.rivals(entry)
        if entry.epoch < self.warmup or len(rivals) < self.wait:
            return None
        median = statistics.median(rivals)
        if max(entry.curve) >= median:
            return None
        return f"below the median {median:.4g} at epoch {entry.epoch}"

    def earliest(self, epochs: int) -> int:
        return self.warmup


class Never(Pruner):
    """Every trial trains to its end."""

    name: Literal["none"] = "none"

    def stop(self, entry: Entry, ledger: Ledger) -> str | None:
        return None

    def earliest(self, epochs: int) -> int:
        return epochs


@functools.lru_cache(64)  # asked at every pause, and new only when a trial has finished
def _agree(early: tuple[float, ...], last: tuple[float, ...]) -> bool:
    """Whether two lists of scores rank alike; lists without any order do not."""
    from scipy.stats import spearmanr  # a second, while workers train

    ordered = len(set(early)) > 1 and len(set(last)) > 1
    return ordered and bool(spearmanr(early, last).statistic >= AGREE)


def rungs(first: float, epochs: int, factor: float = STEP) -> list[int]:
    """The epochs after which is decided: a share of all, then each `factor` times the last."""
    found: list[int] = []
    while (rung := math.ceil(first * epochs - 1e-9)) < epochs:
        found.append(rung)
        first *= factor
    return sorted(set(found))
