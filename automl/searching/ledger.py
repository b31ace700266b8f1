"""What a search has seen so far, as its sampler and pruner read it. The driver keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from automl.searching.gaussian import Array

State = Literal["under way", "paused", "closed", "infeasible"]


@dataclass(eq=False)
class Entry:
    """A trial: its knobs and its scores, of which larger is better."""

    number: int
    values: dict[str, Any]
    state: State = "under way"
    curve: list[float] = field(default_factory=list)  # by epoch
    seconds: float = 0.0  # an epoch takes
    believed: bool = False  # by the space, or since it did well elsewhere
    cost: float = 0.0  # the second goal, of which less is better; infinite: not known
    whole: bool = False  # whether it trains to its end, whatever it scores on the way

    @property
    def epoch(self) -> int:
        return len(self.curve)


@dataclass(frozen=True)
class Proposal:
    values: dict[str, Any]
    gain: float = math.inf  # expected improvement of the best score, in the model's units
    whole: bool = False  # whether to train it to its end, whatever it scores on the way


class Foresight(Protocol):
    """What a pruner asks a model of the search; `surrogate.py` is the one there is."""

    proposal: Proposal | None

    @property
    def ready(self) -> bool: ...

    @property
    def branching(self) -> bool: ...

    def predict(self, entries: list[Entry]) -> tuple[Array, Array]: ...

    def gain(self, entries: list[Entry]) -> Array: ...

    def chance_to_win(self, entries: list[Entry]) -> Array: ...

    def unbeatable(self, entry: Entry) -> bool: ...

    def propose(self) -> Proposal: ...


@dataclass
class Ledger:
    """All trials of a study that have been asked for."""

    epochs: int  # of a full training
    chance: float = -math.inf  # the score of a guess, larger is better
    blur: Callable[[float], float] = lambda _score: 0.0  # differences below it mean nothing
    ceiling: float = math.inf  # no score is above it
    feasible: Callable[[dict[str, Any]], bool] = lambda _values: True  # before any training
    entries: dict[int, Entry] = field(default_factory=dict)
    may_ask: bool = True  # whether there may be new trials
    seconds_left: float = math.inf
    model: Foresight | None = None  # of a sampler that has one

    def of(self, *states: State) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.state in states]

    @property
    def scored(self) -> list[Entry]:
        return [e for e in self.entries.values() if e.curve and e.state != "infeasible"]

    @property
    def finished(self) -> list[Entry]:
        return [entry for entry in self.scored if entry.epoch >= self.epochs]

    def leading(self, count: int) -> list[Entry]:
        """The trials with the best last scores, finished ones first, in the order they began.

        And besides these all that no other of the same or a lower cost beats.
        """
        every = sorted(self.scored, key=lambda e: (e.epoch < self.epochs, -e.curve[-1]))
        found, places = every[:count], range(len(every))
        ahead = len(every)  # the place of the best so far of those that cost less
        for place in sorted(places, key=lambda place: every[place].cost):
            if place < ahead:
                ahead = place
                found += [every[place]] if place >= count else []
        return sorted(found, key=lambda entry: entry.number)

    def rivals(self, entry: Entry) -> list[float]:
        """The best scores of all others, no more costly, that came as far, up to this epoch."""
        others = (other for other in self.scored if other is not entry)
        rivals = [o for o in others if o.epoch >= entry.epoch and o.cost <= entry.cost]
        return [max(rival.curve[: entry.epoch]) for rival in rivals]

    def rank(self, entry: Entry) -> tuple[int, int]:
        """Place among all that came as far, and their number. A tie is no reason to spend more."""
        rivals = self.rivals(entry)
        best = max(entry.curve)
        return 1 + sum(rival >= best for rival in rivals), len(rivals) + 1

    def can_finish(self, entry: Entry) -> bool:
        """Whether time suffices for the rest of its epochs.

        Any may where none has come to its end, and nothing new is begun: something is delivered.
        """
        if not (self.finished or self.may_ask):
            return True
        return (self.epochs - entry.epoch) * entry.seconds <= self.seconds_left

    @property
    def time_for_one_more(self) -> bool:
        """Whether a new trial could come to its end, at the mean pace of those seen."""
        paces = [entry.seconds for entry in self.scored]
        return not paces or self.epochs * sum(paces) / len(paces) <= self.seconds_left
