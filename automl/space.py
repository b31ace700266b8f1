"""A search space: a config in which some values are left open.

Load it, prove it, fill its holes. Knows no Optuna: whoever fills a space brings a `Draw`.

Four holes and nothing else is special; nesting expresses conditions:

    {int: [2, 8], step: 2}        {choice: [a, b, {name: c, ...}]}
    {float: [1e-4, 1], log: true} {repeat: N, each: X} / {repeat: N, same: X}
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import Field, SerializeAsAny, ValidationError

from automl.config import (
    Config,
    Place,
    Pruner,
    Sampler,
    Strict,
    Task,
    dotted,
    nearest,
    problems,
    shown,
)
from automl.data import Images
from automl.errors import OptionError, SpaceError

MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_TEXT = 1_000_000, 40, 20_000, 1000
MAX_REPEAT, MAX_OPTIONS, MAX_STEPS = 64, 256, 1_000_000
NEVER_OPEN = {  # what makes trials comparable, or says how to look
    "version": "it names the format",
    "task": "trials must see the same data",
    "search": "it says how to look, not what is tried",
    "seed": "--seed sets it",
    "train.epochs": "trials must be comparable",
}

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Value:
    """A value that is fixed."""

    value: Scalar
    line: int


@dataclass(frozen=True)
class Mapping_:
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
        return any(True for option in self.options.values() for _ in _holes(option))


@dataclass(frozen=True)
class Repeat:
    """A list of independent draws of one thing, or of copies of one draw."""

    count: int | Int
    item: Node
    same: bool
    line: int


Hole = Int | Float | Choice
Node = Value | Mapping_ | Listing | Int | Float | Choice | Repeat
Draw = Callable[[str, Hole], Any]


class Search(Strict):
    """How to look: the `search:` section of a space."""

    sampler: SerializeAsAny[Sampler] = Field(default_factory=lambda: Sampler.of("auto"))
    pruner: SerializeAsAny[Pruner] = Field(default_factory=lambda: Pruner.of("auto"))
    max_params: int | None = Field(None, ge=1, description="refuse larger models before they train")


@dataclass(frozen=True)
class Space:
    """A checked space. `Space.load` is the way in."""

    source: str  # the file, as the user named it
    text: str  # as it was read
    root: Mapping_
    search: Search
    start: list[dict[str, Any]] = field(default_factory=list)  # values by knob name, to try first

    @classmethod
    def load(cls, path: Path) -> Space:
        """Read and check a file. Raises SpaceError; the first line says where and what."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SpaceError(f"{path}: cannot be read: {error.strerror}") from error
        if len(raw) > MAX_BYTES:
            raise SpaceError(f"{path}: larger than {MAX_BYTES:,} bytes; a space is a page of text")
        try:
            return cls.parse(raw.decode("utf-8-sig"), str(path))
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            told = f"got the byte 0x{raw[error.start]:02x}; want UTF-8 text"
            raise SpaceError(f"{path}:{line}: {told}") from error

    @classmethod
    def parse(cls, text: str, source: str = "space") -> Space:
        root = Reader(source).read(text)
        known = {*Config.model_fields, "search", "start"}
        for key, node in root.items.items():
            if key not in known:
                _fail(
                    source, node.line, (key,), f"no section is called {key!r}{nearest(key, known)}"
                )
        for name, reason in NEVER_OPEN.items():
            _closed(source, root, name, reason)
        fixed = {key: node for key, node in root.items.items() if key not in ("search", "start")}
        space = cls(
            source, text, Mapping_(fixed, root.line), _search(source, root.items.get("search"))
        )
        for _ in space.probes():
            pass
        space.with_values(space.believed() or {})
        space.start.extend(_starts(space, root.items.get("start")))
        return space

    def fill(self, draw: Draw) -> Config:
        """The config that the answers of `draw` to every open value make. Raises SpaceError."""
        lines: dict[Place, int] = {}
        plain = _fill(self.root, "", (), draw, lines)
        try:
            return Config.model_validate(plain)
        except ValidationError as error:
            place, message = problems(error)[0]
            _fail(self.source, _line(lines, place), place, message)

    @property
    def task(self) -> Task:
        """The one task of all its configs."""
        return next(self.probes())[0].task

    def config(self) -> Config:
        """The config that a space without holes is. Raises SpaceError for one with holes."""
        holes = list(_holes(self.root))
        if holes:
            told = "a value is" if len(holes) == 1 else f"{len(holes)} values are"
            told += " left open; `automl search` fills what is open"
            _fail(self.source, holes[0].line, (), told)
        return self.fill(_never)

    def sample(self, rng: random.Random) -> Config:
        """One random config, every hole drawn alone."""
        return self.fill(lambda _name, hole: _random(hole, rng))

    def believed(self) -> dict[str, Any] | None:
        """The values of every `prior:`, the middle or first option elsewhere; None without any."""
        told: dict[str, Any] = {}
        given = False

        def draw(name: str, hole: Hole) -> Any:
            nonlocal given
            given |= hole.prior is not None
            told[name] = _middle(hole) if hole.prior is None else hole.prior
            return told[name]

        _fill(self.root, "", (), draw, {})
        return told if given else None

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The config of these values by knob name; a knob without one takes its lowest or first."""
        return self.fill(lambda name, hole: values.get(name, _ends(hole)[0]))

    def knobs(self) -> dict[str, Hole]:
        """Every open value by name; of a repeated thing the first one, named `[0]`."""
        return {name: hole for _, seen in self.probes() for name, hole in seen.items()}

    def probes(self) -> Iterator[tuple[Config, dict[str, Hole]]]:
        """Every range end and option once, in configs that differ by one knob, with the holes met.

        Of a range of whole numbers also the second one.

        Raises SpaceError at the first that is no valid config.
        """
        todo: deque[dict[str, Any]] = deque([{}])
        tried: set[str] = set()
        first: dict[int, str] = {}  # a hole's first name; what repeats it shares the object
        while todo:
            values = todo.popleft()
            seen: dict[str, Hole] = {}

            def draw(name: str, hole: Hole) -> Any:
                if first.setdefault(id(hole), name) == name:  # it stands for all its siblings
                    seen[name] = hole  # noqa: B023 (used before the next round)
                return values.get(name, _ends(hole)[0])  # noqa: B023

            yield self.fill(draw), seen
            for name, hole in seen.items():
                if name not in tried:
                    tried.add(name)
                    todo.extend(values | {name: end} for end in _ends(hole)[1:])
        yield self.fill(lambda _name, hole: _ends(hole)[-1]), {}  # all at their upper ends

    @property
    def digest(self) -> str:
        """Equal for equal spaces, whatever their comments and layout."""
        shown = repr((_shape(self.root), self.search.model_dump(mode="json")))
        return hashlib.sha256(shown.encode()).hexdigest()[:16]


def measure(config: Config, inputs: Images, outputs: int) -> int:
    """Parameters of the config's model, found without memory for them. Raises SpaceError.

    The model is built and run on the meta device: what passes here fits its inputs and outputs.
    """
    import torch

    try:
        with torch.device("meta"):
            model = config.model.build(inputs, outputs)
            logits = model(torch.empty(2, *inputs.shape))
    except (RuntimeError, ValueError) as error:  # what torch raises for shapes that cannot be
        reason = str(error).splitlines()[0]
        raise SpaceError(f"model: does not fit {inputs.summary}: {reason}") from error
    if tuple(logits.shape) != (2, outputs):
        raise SpaceError(f"model: gives {tuple(logits.shape)} for 2 inputs; want (2, {outputs})")
    return sum(weight.numel() for weight in model.parameters())


def find(name: str) -> Path:
    """A space by path, by name in ./search_spaces, or by name among those that are shipped."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    folders = [Path("search_spaces"), *shipped()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    raise OptionError(f"no space is called {name!r}{nearest(name, known)} Or give a file: my.yaml")


def shipped() -> list[Path]:
    """Where the package's own spaces are: inside an installed one, beside a checked-out one."""
    here = Path(__file__).parent
    return [folder for folder in (here / "search_spaces", here.parent / "search_spaces")
            if folder.is_dir()]  # fmt: skip


def _fail(source: str, line: int, place: Place, message: str) -> NoReturn:
    where = f"{dotted(place)}: " if place else ""
    raise SpaceError(f"{source}:{line}: {where}{message}")


def _line(lines: dict[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest thing around it that was written down."""
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _fill(node: Node, name: str, place: Place, draw: Draw, lines: dict[Place, int]) -> Any:
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
            return _fill(option, inside, place, draw, lines)
        case Mapping_():
            return {key: _fill(child, f"{name}.{key}" if name else key, (*place, key), draw, lines)
                    for key, child in node.items.items()}  # fmt: skip
        case Listing():
            return [_fill(child, f"{name}[{i}]", (*place, i), draw, lines)
                    for i, child in enumerate(node.items)]  # fmt: skip
        case Repeat():
            count = node.count if isinstance(node.count, int) else draw(name, node.count)
            if node.same:
                drawn = _fill(node.item, f"{name}[*]", (*place, 0), draw, lines)
                return [drawn] * count
            return [_fill(node.item, f"{name}[{i}]", (*place, i), draw, lines)
                    for i in range(count)]  # fmt: skip


def _random(hole: Hole, rng: random.Random) -> Any:
    match hole:
        case Choice():
            return rng.choice(list(hole.options))
        case Int(log=True):
            drawn = math.exp(rng.uniform(math.log(hole.low - 0.5), math.log(hole.high + 0.5)))
            return min(max(round(drawn), hole.low), hole.high)
        case Int():
            return rng.randrange(hole.low, hole.high + 1, hole.step)
        case Float(step=None):
            if not hole.log:
                return rng.uniform(hole.low, hole.high)
            drawn = math.exp(rng.uniform(math.log(hole.low), math.log(hole.high)))
            return min(max(drawn, hole.low), hole.high)
        case Float(step=float() as step):
            drawn = hole.low + step * rng.randrange(round((hole.high - hole.low) / step) + 1)
            return min(drawn, hole.high)  # 3 * 0.1 > 0.3
    raise AssertionError(hole)


def _middle(hole: Hole) -> Any:
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


def _ends(hole: Hole) -> list[Any]:
    """What is probed: every option, or both ends, and of whole numbers the second one too.

    Without the second, a range over a knob that takes 3 or 5 would pass, and later draw 4.
    """
    if isinstance(hole, Choice):
        return list(hole.options)
    second = [hole.low + hole.step] if isinstance(hole, Int) else []
    return [hole.low, *(value for value in second if value < hole.high), hole.high]


def _shape(node: Node) -> Any:
    """What a node is, without its lines and its beliefs: those may change within a study."""
    match node:
        case Value():
            return node.value
        case Mapping_():
            return {key: _shape(child) for key, child in sorted(node.items.items())}
        case Listing():
            return [_shape(child) for child in node.items]
        case Choice():
            return "choice", [(label, _shape(option)) for label, option in node.options.items()]
        case Repeat():
            count = node.count if isinstance(node.count, int) else _shape(node.count)
            return "repeat", count, node.same, _shape(node.item)
    return type(node).__name__, node.low, node.high, node.step, node.log


def _closed(source: str, root: Mapping_, name: str, reason: str) -> None:
    node: Node | None = root
    for key in name.split("."):
        if isinstance(node, Choice) and any(
            isinstance(option, Mapping_) and key in option.items for option in node.options.values()
        ):
            break
        node = node.items.get(key) if isinstance(node, Mapping_) else None
    hole = node and next(_holes(node), None)
    if hole:
        _fail(source, hole.line, (name,), f"cannot be left open: {reason}")


def _holes(node: Node) -> Iterator[Int | Float | Choice | Repeat]:
    match node:
        case Int() | Float() | Choice() | Repeat():
            yield node
        case Mapping_():
            for child in node.items.values():
                yield from _holes(child)
        case Listing():
            for child in node.items:
                yield from _holes(child)


def _never(name: str, hole: Hole) -> NoReturn:
    raise AssertionError(f"{name} is open, {hole}")  # _closed has looked


def _search(source: str, node: Node | None) -> Search:
    if node is None:
        return Search()
    lines: dict[Place, int] = {}
    try:
        return Search.model_validate(_fill(node, "", (), _never, lines))
    except ValidationError as error:
        place, message = problems(error)[0]
        _fail(source, _line(lines, place), ("search", *place), message)


def _starts(space: Space, node: Node | None) -> Iterator[dict[str, Any]]:
    if node is None:
        return
    if not isinstance(node, Listing):
        _fail(space.source, node.line, ("start",), f"got {_written(node)}; want a list of configs")
    for number, given in enumerate(node.items):
        place: Place = ("start", number)
        if not isinstance(given, Mapping_):
            _fail(space.source, given.line, place, f"got {_written(given)}; want a whole config")
        for hole in _holes(given):
            _fail(space.source, hole.line, place, "got a hole; want a whole config, without holes")
        values: dict[str, Any] = {}
        _match(space, space.root, given, "", place, values)
        try:
            made = space.with_values(values)
        except SpaceError as error:  # knobs that are fine alone and do not go together
            _fail(space.source, given.line, place, f"is no valid config: {error}")
        _agree(space, given, made.dump(), place)
        yield values


def _match(
    space: Space, want: Node, got: Node, name: str, place: Place, out: dict[str, Any]
) -> None:
    """Read off, from a config without holes, the value of every knob: `_fill` backwards."""

    def fail(message: str) -> NoReturn:
        _fail(space.source, got.line, place, message)

    if isinstance(want, Mapping_) and isinstance(got, Value):
        got = Mapping_({"name": got}, got.line)  # a part by its bare name
    match want, got:
        case Value(), _:
            pass  # no knob; `_agree` compares
        case (Int() | Float()), Value():  # fmt: skip
            out[name] = _within(want, got.value, fail)
        case Choice(), _:
            label = _chosen(want, got)
            if label not in want.options:
                fail(f"got {shown(label)}{nearest(str(label), map(str, want.options))}")
            out[name] = label
            option = want.options[label]
            if not isinstance(option, Value):
                _match(space, option, got, f"{name}.{label}", place, out)
        case Repeat(), Listing():
            if isinstance(want.count, Int):
                out[name] = _within(
                    want.count, len(got.items), lambda told: fail(f"number of items: {told}")
                )
            elif len(got.items) != want.count:
                fail(f"got {len(got.items)} items; the space has {want.count} here")
            for i, item in enumerate(got.items):
                inside = f"{name}[*]" if want.same else f"{name}[{i}]"
                before = dict(out)
                _match(space, want.item, item, inside, (*place, i), out)
                if want.same and i and before != out:
                    _fail(space.source, item.line, (*place, i), "differs; same: wants equal items")
        case Listing(), Listing():
            if len(got.items) != len(want.items):
                fail(f"got {len(got.items)} items; the space has {len(want.items)} here")
            for i, (a, b) in enumerate(zip(want.items, got.items, strict=True)):
                _match(space, a, b, f"{name}[{i}]", (*place, i), out)
        case Mapping_(), Mapping_():
            for key, child in want.items.items():
                if key in got.items:
                    _match(space, child, got.items[key], f"{name}.{key}" if name else key,
                           (*place, key), out)  # fmt: skip
                elif any(_holes(child)):
                    fail(
                        f"{key} is missing; the space leaves it open, and a start is a whole config"
                    )
        case _:
            wanted = "number" if isinstance(want, Int | Float) else "list"
            wanted = "mapping" if isinstance(want, Mapping_) else wanted
            fail(f"got {_written(got)}; want a {wanted}")


def _chosen(want: Choice, got: Node) -> Scalar:
    """The option that a value is; among mappings without a name, the one that fits it best."""
    label = _label(got)
    if label in want.options or not isinstance(got, Mapping_) or "name" in got.items:
        return label
    fits = {
        label: len(option.items)
        for label, option in want.options.items()
        if isinstance(option, Mapping_)
        and all(
            key in got.items and (any(_holes(child)) or _shape(child) == _shape(got.items[key]))
            for key, child in option.items.items()
        )
    }
    return max(fits, key=lambda label: fits[label], default=label)


def _agree(space: Space, got: Node, made: Any, place: Place) -> None:
    """Refuse a start that says anything else than the config that its knobs make."""
    if isinstance(got, Value) and isinstance(made, dict):
        made = made.get("name", made)  # a part by its bare name
    match got, made:
        case Mapping_(), dict():
            for key, child in got.items.items():
                if key not in made:
                    told = f"no knob is called {key!r}{nearest(key, made)}"
                    _fail(space.source, child.line, (*place, key), told)
                _agree(space, child, made[key], (*place, key))
        case Listing(), list() if len(got.items) == len(made):
            for i, (item, value) in enumerate(zip(got.items, made, strict=True)):
                _agree(space, item, value, (*place, i))
        case Value(), _ if got.value == made and isinstance(got.value, bool) == (
            isinstance(made, bool)
        ):
            pass
        case _:
            told = f"got {_written(got)}; the space has {shown(made)} here"
            _fail(space.source, got.line, place, told)


def _within(hole: Int | Float, value: Any, fail: Callable[[str], NoReturn]) -> Any:
    if not _is_number(value) or (isinstance(hole, Int) and value != int(value)):
        fail(f"got {shown(value)}; want a {'whole ' if isinstance(hole, Int) else ''}number")
    if not hole.low <= value <= hole.high:
        fail(f"got {value}; want {hole.low} to {hole.high}")
    if hole.step and not _on_grid(value - hole.low, hole.step):
        fail(f"got {value}; want steps of {hole.step} from {hole.low}")
    return int(value) if isinstance(hole, Int) else float(value)


def _on_grid(distance: float, step: float) -> bool:
    return abs(distance / step - round(distance / step)) < 1e-6


def _label(node: Node) -> Scalar:
    """What an option is called: its value, its name, or else how it is written."""
    if isinstance(node, Value):
        return node.value
    if isinstance(node, Mapping_) and isinstance(node.items.get("name"), Value):
        name: Value = node.items["name"]  # type: ignore[assignment] # just seen to be one
        return name.value
    return json.dumps(_shape(node), separators=(",", ":"))


def _written(node: Node) -> str:
    """A node in a message."""
    if isinstance(node, Int | Float | Choice | Repeat):
        return f"a hole ({type(node).__name__.lower()})"
    return shown(_shape(node))


def _size(node: Node) -> int:
    """How many values it makes at most."""
    match node:
        case Mapping_():
            return 1 + sum(map(_size, node.items.values()))
        case Listing():
            return 1 + sum(map(_size, node.items))
        case Choice():
            return max(map(_size, node.options.values()))
        case Repeat():
            count = node.count if isinstance(node.count, int) else node.count.high
            return 1 + count * _size(node.item)
    return 1


class _Loader(yaml.SafeLoader):
    """YAML's scalars as version 1.2 reads them: `1e-4` is a number, `no` and `on` are texts.

    Besides, `5_000_000` is a number. `010` is ten, and `0x10` is a text.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
    ("float", r"^[-+]?\.(?:inf|nan)$", ["-", "+", "."]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


class Reader:
    """YAML text to nodes. Everything odd is refused here, with its line."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, node: yaml.Node, place: Place, message: str) -> NoReturn:
        _fail(self.source, node.start_mark.line + 1, place, message)

    def read(self, text: str) -> Mapping_:
        try:
            self._bounded(text)
            tree = yaml.compose(text, Loader=_Loader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            told = f"not YAML: got the control character {chr(error.character)!r}; want plain text"
            _fail(self.source, line, (), told)
        except yaml.MarkedYAMLError as error:
            mark: yaml.Mark | None = error.problem_mark or error.context_mark
            told = f"not YAML: {error.problem or error.context}"
            if mark and error.context_mark and error.context_mark.line != mark.line:
                told += f", in what begins in line {error.context_mark.line + 1}"
            if "'\\t'" in told:
                told += "; indent with spaces"
            _fail(self.source, mark.line + 1 if mark else 1, (), told)
        wanted = "want a mapping with task, model, optimizer, train"
        if tree is None:
            _fail(self.source, 1, (), f"is empty; {wanted}")
        node = self.node(tree, ())
        if not isinstance(node, Mapping_):
            _fail(self.source, node.line, (), f"got {_written(node)}; {wanted}")
        if (size := _size(node)) > MAX_NODES:
            told = f"makes {size:,} values in all; want at most {MAX_NODES:,}"
            _fail(self.source, node.line, (), told)
        return node

    def _bounded(self, text: str) -> None:
        """Before any tree is built: no bombs, no references, no tags."""
        depth = documents = 0
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                _fail(self.source, line, (), f"more than {MAX_DEPTH} levels, one inside the other")
            if count > MAX_NODES:
                _fail(self.source, line, (), f"more than {MAX_NODES:,} values")
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                _fail(self.source, line, (), "got a second document (---); want one a file")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_TEXT:
                told = f"got a text of {len(event.value):,} characters; want at most {MAX_TEXT:,}"
                _fail(self.source, line, (), told)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                _fail(self.source, line, (), "references (& and *) are not read; write it out")
            if tag := getattr(event, "tag", None):
                told = f"the tag {shown(tag)} is not read; write plain values"
                _fail(self.source, line, (), told)

    def node(self, node: yaml.Node, place: Place) -> Node:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            return Value(self.scalar(node, place), line)
        if isinstance(node, yaml.SequenceNode):
            return Listing([self.node(v, (*place, i)) for i, v in enumerate(node.value)], line)
        assert isinstance(node, yaml.MappingNode)
        entries = self.entries(node, place)
        for key, (parse, extras) in HOLES.items():
            if key in entries:
                for other, value in entries.items():
                    if other not in {key, *extras}:
                        told = f"no {key} hole has {other!r}{nearest(other, {key, *extras})}"
                        self.fail(value, place, told)
                hole: Node = parse(self, node, entries, place)
                return hole
        return Mapping_({k: self.node(v, (*place, k)) for k, v in entries.items()}, line)

    def entries(self, node: yaml.MappingNode, place: Place) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not re.fullmatch(r"[\w-]{1,64}", key):
                told = f"got the key {shown(key) if isinstance(key, str) else 'of several parts'}"
                self.fail(key_node, place, f"{told}; want a plain word (and << is not read)")
            if key in found:
                first = found[key].start_mark.line + 1
                self.fail(key_node, (*place, key), f"is given twice, first in line {first}")
            found[key] = value
        return found

    def scalar(self, node: yaml.ScalarNode, place: Place) -> Scalar:
        kind, text = node.tag.rpartition(":")[2], node.value
        if kind in ("int", "float"):
            number = float(re.sub(r"_|\.(?=inf|nan)", "", text))
            if not math.isfinite(number) or abs(number) > 2**53:
                told = f"got {text[:40]}; want a finite number between -2**53 and 2**53"
                self.fail(node, place, told)
            return int(text.replace("_", "")) if kind == "int" else number
        if kind == "bool":
            return bool(text == "true")
        return None if kind == "null" else str(text)

    def range(self, node: yaml.Node, place: Place, kind: str) -> tuple[Any, Any]:
        ends = self.plain(node, place)
        if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_number, ends)):
            told = f"got {shown(ends)}; want two numbers, {kind}: [lowest, highest]"
            self.fail(node, place, told)
        if kind == "int" and not all(isinstance(end, int) for end in ends):
            told = f"got {ends}; want whole numbers, int: [lowest, highest], or a float hole"
            self.fail(node, place, told)
        if not ends[0] < ends[1]:
            self.fail(node, place, f"got {ends}; want the first to be less than the second")
        return ends[0], ends[1]

    def plain(self, node: yaml.Node, place: Place) -> Any:
        read = self.node(node, place)
        for hole in _holes(read):
            self.fail(node, place, f"got {_written(hole)} inside a hole; want plain values")
        return _fill(read, "", (), _never, {})

    def flag(self, entries: dict[str, yaml.Node], key: str, place: Place) -> bool:
        value = self.plain(entries[key], place) if key in entries else False
        if not isinstance(value, bool):
            self.fail(entries[key], place, f"{key}: got {shown(value)}; want true or false")
        return value

    def number(self, entries: dict[str, yaml.Node], place: Place) -> Int | Float:
        kind = "int" if "int" in entries else "float"
        at = entries[kind]
        low, high = self.range(at, place, kind)
        log = self.flag(entries, "log", place)
        if log and low <= 0:
            self.fail(at, place, f"got the lowest {low}; log: true wants it above 0")
        step = self.plain(entries["step"], place) if "step" in entries else None
        if step is not None:
            if not _is_number(step) or step <= 0 or (kind == "int" and not isinstance(step, int)):
                told = "a whole number above 0" if kind == "int" else "a number above 0"
                self.fail(entries["step"], place, f"step: got {shown(step)}; want {told}")
            if log:
                self.fail(entries["step"], place, "got step and log: true; want one of them")
            if (high - low) / step > MAX_STEPS:
                told = f"step: got {step}; want at most {MAX_STEPS:,} steps from {low} to {high}"
                self.fail(entries["step"], place, told)
            if not _on_grid(high - low, step):
                told = f"steps of {step} from {low} do not reach {high}; change the step or an end"
                self.fail(at, place, told)
        line = at.start_mark.line + 1
        hole: Int | Float
        if kind == "int":
            hole = Int(low, high, step or 1, log, None, line)
        else:
            hole = Float(float(low), float(high), step and float(step), log, None, line)
        if "prior" not in entries:
            return hole
        told_at = entries["prior"]
        prior = _within(hole, self.plain(told_at, place),
                        lambda message: self.fail(told_at, place, f"prior: {message}"))  # fmt: skip
        return type(hole)(hole.low, hole.high, hole.step, log, prior, line)  # type: ignore[arg-type]

    def choice(self, entries: dict[str, yaml.Node], place: Place) -> Choice:
        at = entries["choice"]
        if not isinstance(at, yaml.SequenceNode) or not at.value:
            got = _written(self.node(at, place))
            self.fail(at, place, f"got {got}; want a list of options, choice: [a, b]")
        if len(at.value) > MAX_OPTIONS:
            self.fail(at, place, f"got {len(at.value):,} options; want at most {MAX_OPTIONS}")
        options: dict[Scalar, Node] = {}
        for child in at.value:
            option = self.node(child, place)
            if isinstance(option, Int | Float | Choice | Repeat):
                told = f"got {_written(option)} as an option; want a value, or a mapping around it"
                self.fail(child, place, told)
            label = _label(option)
            if label in options:  # also 1 and true, which compare equal
                first = next(known for known in options if known == label)
                told = f"got the option {shown(label)} twice"
                if repr(first) != repr(label):
                    told = f"got the options {first!r} and {label!r}, which count as equal"
                self.fail(child, place, f"{told}; want each once")
            options[label] = option
        prior = None
        if "prior" in entries:
            prior = _label(self.node(entries["prior"], place))
            if prior not in options:
                told = f"prior: got {shown(prior)}{nearest(str(prior), map(str, options))}"
                self.fail(entries["prior"], place, told)
        return Choice(options, prior, at.start_mark.line + 1)

    def repeat(self, entries: dict[str, yaml.Node], place: Place) -> Repeat:
        at = entries["repeat"]
        if ("each" in entries) == ("same" in entries):
            got = "both each: and same:" if "each" in entries else "neither each: nor same:"
            told = "want each: for independent draws, or same: for copies of one draw"
            self.fail(at, place, f"repeat: got {got}; {told}")
        same = "same" in entries
        count = self.node(at, place)
        if isinstance(count, Value) and type(count.value) is int and 1 <= count.value <= MAX_REPEAT:
            times: int | Int = count.value
        elif isinstance(count, Int) and count.low >= 0 and count.high <= MAX_REPEAT:
            times = count
        else:
            got = _written(count)
            if isinstance(count, Int):
                got = f"int: [{count.low}, {count.high}]"
            told = f"want a whole number from 1 to {MAX_REPEAT}, or an int hole up to that"
            self.fail(at, place, f"repeat: got {got}; {told}")
        item = self.node(entries["same" if same else "each"], (*place, 0))
        made = Repeat(times, item, same, at.start_mark.line + 1)
        if (size := _size(made)) > MAX_NODES:
            told = f"repeat: makes {size:,} values, all levels counted; want at most {MAX_NODES:,}"
            self.fail(at, place, told)
        return made


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


HOLES: dict[str, tuple[Any, set[str]]] = {
    "int": (lambda r, _n, e, p: r.number(e, p), {"step", "log", "prior"}),
    "float": (lambda r, _n, e, p: r.number(e, p), {"step", "log", "prior"}),
    "choice": (lambda r, _n, e, p: r.choice(e, p), {"prior"}),
    "repeat": (lambda r, _n, e, p: r.repeat(e, p), {"each", "same"}),
}
