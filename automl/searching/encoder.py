"""Configs as numbers, many at once: where their knobs stand, and points for a model to compare."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from automl.holes import Choice, Float, Hole, Int, share_of, value_at
from automl.searching.gaussian import Array
from automl.space import Space

Values = dict[str, Any]

FINE = 100_000  # values of a range, beyond which it counts as continuous


class Encoder:
    """Stands (N, knobs) say where each knob lies on its range, 0 to 1; NaN where it is inactive.

    An option stands in the middle of its share of all. Points (N, columns) are what distances are
    measured between: ranges on 0 to 1, options as corners at distance 1,
    inactive knobs in the middle.
    """

    def __init__(self, space: Space) -> None:
        known, over = space.all_knobs(), space.conditions()
        self.names, self.holes = list(known), list(known.values())
        self.places = {name: place for place, name in enumerate(self.names)}
        self.options = [list(h.options) if isinstance(h, Choice) else [] for h in self.holes]
        self.choices = np.array([bool(options) for options in self.options], dtype=bool)
        widths = [max(1, len(options)) for options in self.options]
        self.columns = [sum(widths[:place]) for place in range(len(widths))]  # the first of each
        self.groups = [place for place, width in enumerate(widths) for _ in range(width)]
        self.over: list[tuple[int, Any] | None] = [
            None if under is None else (self.places[under[0]], under[1]) for under in over.values()
        ]
        self.grids = [_grid(hole) for hole in self.holes]
        ends = self.settled(np.array([[0.0], [1.0]]).repeat(len(self.names), 1))
        every = ~np.isnan(ends).any(0)  # the first options with least counts, and the last
        self.ranges = [self.columns[i] for i in np.flatnonzero(every & ~self.choices)]

    def stands(self, many: list[Values]) -> Array:
        """(N, knobs)"""
        found = np.full((len(many), len(self.names)), math.nan)
        for row, values in zip(found, many, strict=True):
            for name, value in values.items():
                place = self.places[name]
                row[place] = self.stand(place, value)
        return found

    def stand(self, place: int, value: Any) -> float:
        """Of the knob at that place."""
        hole = self.holes[place]
        if isinstance(hole, Choice):
            return (self.options[place].index(value) + 0.5) / len(self.options[place])
        return share_of(hole, value)

    def values(self, stand: Array) -> Values:
        """The config that stands (knobs,) there."""
        active = np.flatnonzero(~np.isnan(stand))
        return {self.names[i]: value_at(self.holes[i], float(stand[i])) for i in active}

    def settled(self, stands: Array) -> Array:
        """(N, knobs), where every knob stands anywhere: on values that it has, NaN if inactive."""
        found = np.empty_like(stands)
        active = np.ones(stands.shape, dtype=bool)
        for place, (under, grid) in enumerate(zip(self.over, self.grids, strict=True)):
            at = stands[:, place]
            if grid is not None:
                bounds, middles = grid
                at = middles[np.searchsorted(bounds, at, side="right")]
            found[:, place] = at
            if under is not None:
                active[:, place] = active[:, under[0]] & self._met(found[:, under[0]], *under)
        found[~active] = math.nan
        return found

    def _met(self, stands: Array, place: int, what: Any) -> NDArray[np.bool_]:
        """Where a choice takes the option `what`, or a count goes beyond the item `what`."""
        hole = self.holes[place]
        if isinstance(hole, Choice):
            options = self.options[place]
            return np.asarray((stands * len(options)).astype(int) == options.index(what))
        return np.asarray(stands >= share_of(hole, what + 1) - 1e-9)

    def points(self, stands: Array) -> Array:
        """(N, columns)"""
        found = np.zeros((len(stands), len(self.groups)))
        for place, (column, options) in enumerate(zip(self.columns, self.options, strict=True)):
            at = stands[:, place]
            if options:
                rows = np.flatnonzero(~np.isnan(at))
                found[rows, column + (at[rows] * len(options)).astype(int)] = math.sqrt(0.5)
            else:
                found[:, column] = np.where(np.isnan(at), 0.5, at)
        return found

    def free(self, stands: Array) -> NDArray[np.bool_]:
        """(N, columns): those of the ranges that each has."""
        found = np.zeros((len(stands), len(self.groups)), dtype=bool)
        for place in np.flatnonzero(~self.choices):
            found[:, self.columns[place]] = ~np.isnan(stands[:, place])
        return found

    def moved(self, stands: Array, points: Array) -> Array:
        """Like these, but with ranges as the points (N, columns) have them."""
        found = np.where(np.isnan(stands), 0.5, stands)
        for place in np.flatnonzero(~self.choices):
            found[:, place] = points[:, self.columns[place]]
        return self.settled(found)


def _grid(hole: Hole) -> tuple[Array, Array] | None:
    """Where its values begin, but the first one, and where they stand; None: anywhere.

    The same values as those of `value_at`.
    """
    match hole:
        case Choice():
            count = len(hole.options)
            middles = (np.arange(count) + 0.5) / count
            return np.arange(1, count) / count, middles
        case Int() | Float(step=float()):
            assert hole.step is not None
            count = round((hole.high - hole.low) / hole.step) + 1
            if count > FINE:
                return None
            values = [hole.low + hole.step * number for number in range(count)]
            half = 0.5 if isinstance(hole, Int) and hole.log else hole.step / 2
            bounds = [share_of(hole, value + half) for value in values[:-1]]
            return np.array(bounds), np.array([share_of(hole, value) for value in values])
    return None
