"""What a space is made of: fixed values, holes, and groups of them. Knows no file and no part."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from automl.config import Place, dotted, shown
from automl.errors import SpaceError

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Value:
    """A value that is fixed."""

    value: Scalar
    line: int


@dataclass(frozen=True)
class Fields:
    items: dict[str, Node]
    line: int


@dataclass(frozen=True)
class Listing:
    items: list[Node]
    line: int


@dataclass(frozen=True)
class Int:
    """A whole number, both ends included."""

    low: int
    high: int
    step: int
    log: bool
    prior: int | None
    line: int


@dataclass(frozen=True)
class Float:
    """A real number, both ends included."""

    low: float
    high: float
    step: float | None
    log: bool
    prior: float | None
    line: int


@dataclass(frozen=True)
class Choice:
    """One of several; an option's own holes live only while it is chosen."""

    options: dict[Scalar, Node]
    prior: Scalar
    line: int

    @property
    def conditional(self) -> bool:
        """Whether an option has holes of its own."""
        return any(True for option in self.options.values() for _ in holes_in(option))


@dataclass(frozen=True)
class Repeat:
    """A list of independent draws of one thing, or of copies of one draw."""

    count: int | Int
    item: Node
    same: bool
    line: int


Hole = Int | Float | Choice
Node = Value | Fields | Listing | Int | Float | Choice | Repeat
Draw = Callable[[str, Hole], Any]
Condition = tuple[str, Scalar]  # the name of a choice and an option, or of a count and an item


def fail_at(source: str, line: int, place: Place, message: str) -> NoReturn:
    where = f"{dotted(place)}: " if place else ""
    raise SpaceError(f"{source}:{line}: {where}{message}")


def fill(node: Node, name: str, place: Place, draw: Draw, lines: dict[Place, int]) -> Any:
    lines[place] = node.line
    match node:
        case Value():
            return node.value
        case Int() | Float():
            return draw(name, node)
        case Choice():
            label = draw(name, node)
            option = node.options[label]
            inside = name if isinstance(option, Value) else f"{name}.{label}"
            return fill(option, inside, place, draw, lines)
        case Fields():
            return {key: fill(child, f"{name}.{key}" if name else key, (*place, key), draw, lines)
                    for key, child in node.items.items()}  # fmt: skip
        case Listing():
            return [fill(child, f"{name}[{i}]", (*place, i), draw, lines)
                    for i, child in enumerate(node.items)]  # fmt: skip
        case Repeat():
            count = node.count if isinstance(node.count, int) else draw(name, node.count)
            if node.same:
                drawn = fill(node.item, f"{name}[*]", (*place, 0), draw, lines)
                return [drawn] * count
            return [fill(node.item, f"{name}[{i}]", (*place, i), draw, lines)
                    for i in range(count)]  # fmt: skip


def random_value(hole: Hole, rng: random.Random) -> Any:
    return value_at(hole, rng.random())


def value_at(hole: Hole, share: float) -> Any:
    """The value that lies this share, 0 to 1, of the way from the first to the last."""
    match hole:
        case Choice():
            options = list(hole.options)
            return options[min(int(share * len(options)), len(options) - 1)]
        case Int(log=True):
            low, high = math.log(hole.low - 0.5), math.log(hole.high + 0.5)
            return min(max(round(math.exp(low + share * (high - low))), hole.low), hole.high)
        case Int():
            count = (hole.high - hole.low) // hole.step + 1
            return hole.low + hole.step * min(int(share * count), count - 1)
        case Float(step=None):
            if not hole.log:
                return min(max(hole.low + share * (hole.high - hole.low), hole.low), hole.high)
            low, high = math.log(hole.low), math.log(hole.high)
            return min(max(math.exp(low + share * (high - low)), hole.low), hole.high)
        case Float(step=float() as step):
            count = round((hole.high - hole.low) / step) + 1
            return on_step(hole, step, min(int(share * count), count - 1))
    raise AssertionError(hole)


def count_of(hole: Hole) -> float:
    """How many values it has; infinite for a range of reals."""
    match hole:
        case Choice():
            return len(hole.options)
        case Int():
            return (hole.high - hole.low) // hole.step + 1
        case Float(step=None):
            return math.inf
        case Float(step=float() as step):
            return round((hole.high - hole.low) / step) + 1
    raise AssertionError(hole)


def nth_value(hole: Hole, number: int) -> Any:
    """The values of a hole one after the other, from 0; of reals ever finer ones (Halton 1960)."""
    if isinstance(hole, Int):
        return hole.low + number * hole.step
    count = count_of(hole)
    if count < math.inf:
        return value_at(hole, (number + 0.5) / count)
    digits = f"{number + 1:b}"
    return value_at(hole, int(digits[::-1], 2) / 2 ** len(digits))


def share_of(hole: Int | Float, value: float) -> float:
    """Where a value lies, 0 to 1: `value_at` backwards."""
    low, high = hole.low, hole.high
    if isinstance(hole, Int):
        half = 0.5 if hole.log else hole.step / 2
        low, high = low - half, high + half
    elif hole.step:
        low, high = low - hole.step / 2, high + hole.step / 2
    if hole.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def nearest_to(hole: Int | Float, value: float) -> Any:
    """The nearest value that a hole has."""
    value = min(max(value, hole.low), hole.high)
    if isinstance(hole, Float) and hole.step is None:
        return float(value)
    return value_at(hole, share_of(hole, value))


def middle_of(hole: Hole) -> Any:
    match hole:
        case Choice():
            return next(iter(hole.options))
        case Int(log=True):
            return round(math.sqrt(hole.low * hole.high))
        case Int():
            return hole.low + (hole.high - hole.low) // hole.step // 2 * hole.step
        case Float(step=None):
            if not hole.log:
                return (hole.low + hole.high) / 2
            return math.sqrt(hole.low) * math.sqrt(hole.high)  # low * high may round to 0
        case Float(step=float() as step):
            return hole.low + round((hole.high - hole.low) / step) // 2 * step
    raise AssertionError(hole)


def ends_of(hole: Hole) -> list[Any]:
    """What is probed: every option, or both ends, and of whole numbers the second one too.

    Without the second, a range over a knob that takes 3 or 5 would pass, and later draw 4.
    """
    if isinstance(hole, Choice):
        return list(hole.options)
    second = [hole.low + hole.step] if isinstance(hole, Int) else []
    return [hole.low, *(value for value in second if value < hole.high), hole.high]


def shape_of(node: Node) -> Any:
    """What a node is, without its lines and its beliefs: those may change within a study."""
    match node:
        case Value():
            return node.value
        case Fields():
            return {key: shape_of(child) for key, child in sorted(node.items.items())}
        case Listing():
            return [shape_of(child) for child in node.items]
        case Choice():
            return "choice", [(label, shape_of(option)) for label, option in node.options.items()]
        case Repeat():
            count = node.count if isinstance(node.count, int) else shape_of(node.count)
            return "repeat", count, node.same, shape_of(node.item)
    return type(node).__name__, node.low, node.high, node.step, node.log


def unlike(one: Any, other: Any, place: Place = ()) -> Place | None:
    """The first place at which two shapes differ; None where they do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        if odd := sorted({*one} ^ {*other}):
            return (*place, odd[0])
        pairs = [(one[key], other[key], key) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(*both, i) for i, both in enumerate(zip(one, other, strict=True))]
    else:
        return None if repr(one) == repr(other) else place  # 0 is not 0.0, as in a digest
    found = (unlike(was, now, (*place, key)) for was, now, key in pairs)
    return next((there for there in found if there is not None), None)


def holes_in(node: Node) -> Iterator[Int | Float | Choice | Repeat]:
    match node:
        case Int() | Float() | Choice() | Repeat():
            yield node
        case Fields():
            for child in node.items.values():
                yield from holes_in(child)
        case Listing():
            for child in node.items:
                yield from holes_in(child)


def named_holes(
    node: Node, name: str = "", under: Condition | None = None
) -> Iterator[tuple[str, Hole, Condition | None]]:
    """Every hole that any filling can meet, under the name that `fill` gives it.

    With the nearest choice or count over it, and the option or item there that has it.
    """
    match node:
        case Int() | Float():
            yield name, node, under
        case Choice():
            yield name, node, under
            for label, option in node.options.items():
                if not isinstance(option, Value):
                    yield from named_holes(option, f"{name}.{label}", (name, label))
        case Fields():
            for key, child in node.items.items():
                yield from named_holes(child, f"{name}.{key}" if name else key, under)
        case Listing():
            for i, child in enumerate(node.items):
                yield from named_holes(child, f"{name}[{i}]", under)
        case Repeat(count=int() as count):
            for item in ["*"] if node.same else range(count):
                yield from named_holes(node.item, f"{name}[{item}]", under)
        case Repeat(count=Int() as count):
            yield name, count, under
            if node.same:  # drawn even where there are none of it
                yield from named_holes(node.item, f"{name}[*]", under)
            else:
                for i in range(count.high):
                    yield from named_holes(node.item, f"{name}[{i}]", (name, i))


def size_of(node: Node) -> int:
    """How many values it makes at most."""
    match node:
        case Fields():
            return 1 + sum(map(size_of, node.items.values()))
        case Listing():
            return 1 + sum(map(size_of, node.items))
        case Choice():
            return max(map(size_of, node.options.values()))
        case Repeat():
            count = node.count if isinstance(node.count, int) else node.count.high
            return 1 + count * size_of(node.item)
    return 1


def label_of(node: Node) -> Scalar:
    """What an option is called: its value, its name, or else how it is written."""
    named = node.items.get("name") if isinstance(node, Fields) else node
    if isinstance(named, Value):
        return named.value
    return json.dumps(shape_of(node), separators=(",", ":"))


def worded(node: Node) -> str:
    """A node in a message."""
    if isinstance(node, Int | Float | Choice | Repeat):
        return f"a hole ({type(node).__name__.lower()})"
    return shown(shape_of(node))


def within(hole: Int | Float, value: Any, fail: Callable[[str], NoReturn]) -> Any:
    if not is_number(value) or (isinstance(hole, Int) and value != int(value)):
        fail(f"got {shown(value)}; want a {'whole ' if isinstance(hole, Int) else ''}number")
    if not hole.low <= value <= hole.high:
        fail(f"got {value}; want {hole.low} to {hole.high}")
    if hole.step and not on_grid(value - hole.low, hole.step):
        fail(f"got {value}; want steps of {hole.step} from {hole.low}")
    if isinstance(hole, Float) and hole.step:
        return on_step(hole, hole.step, round((value - hole.low) / hole.step))
    return int(value) if isinstance(hole, Int) else float(value)


def on_step(hole: Float, step: float, number: int) -> float:
    """The value so many steps from the first, as one writes it: 3 * 0.1 is more than 0.3."""
    return min(float(f"{hole.low + step * number:.12g}"), hole.high)


def on_grid(distance: float, step: float) -> bool:
    return abs(distance / step - round(distance / step)) < 1e-6


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def never(name: str, hole: Hole) -> NoReturn:
    """The `Draw` for nodes that were found to have no holes."""
    raise AssertionError(f"{name} is open, {hole}")
