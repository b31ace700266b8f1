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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import Field, SerializeAsAny, ValidationError

from automl.config import Config, Place, Pruner, Sampler, Strict, Task, dotted, nearest, problems
from automl.data import Images
from automl.errors import OptionError, SpaceError

MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_REPEAT = 1_000_000, 40, 20_000, 64
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
            raise SpaceError(f"{path}: not UTF-8 text (byte {error.start})") from error

    @classmethod
    def parse(cls, text: str, source: str = "space") -> Space:
        root = Reader(source).read(text)
        known = {*Config.model_fields, "search", "start"}
        for key, node in root.items.items():
            if key not in known:
                _fail(source, node.line, (key,), f"no section is called {key!r}{nearest(key, known)}")
        for name, reason in NEVER_OPEN.items():
            _closed(source, root, name, reason)
        fixed = {key: node for key, node in root.items.items() if key not in ("search", "start")}
        space = cls(source, text, Mapping_(fixed, root.line), _search(source, root.items.get("search")))
        space.start.extend(_starts(space, root.items.get("start")))
        for _ in space.probes():
            pass
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
            told = f"{len(holes)} values are left open; `automl search` fills them"
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

        self.fill(draw)
        return told if given else None

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The config of these values by knob name; a knob without one takes its lowest or first."""
        return self.fill(lambda name, hole: values.get(name, _ends(hole)[0]))

    def knobs(self) -> dict[str, Hole]:
        """Every open value by name; of a repeated thing the first one, named `[0]`."""
        return {name: hole for _, seen in self.probes() for name, hole in seen.items()}

    def probes(self) -> Iterator[tuple[Config, dict[str, Hole]]]:
        """Every range end and option once, in configs that differ by one knob, with the holes met.

        Raises SpaceError at the first that is no valid config.
        """
        todo: list[dict[str, Any]] = [{}]
        tried: set[tuple[str, str]] = set()
        while todo:
            values = todo.pop(0)
            seen: dict[str, Hole] = {}

            def draw(name: str, hole: Hole) -> Any:
                if not re.search(r"\[(?!0\])\d+\]", name):  # one item stands for all its siblings
                    seen[name] = hole  # noqa: B023 (used before the next round)
                return values.get(name, _ends(hole)[0])  # noqa: B023

            yield self.fill(draw), seen
            for name, hole in seen.items():
                for end in _ends(hole)[1:]:
                    if (name, repr(end)) not in tried:
                        tried.add((name, repr(end)))
                        todo.append(values | {name: end})
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
            return hole.low + step * rng.randrange(round((hole.high - hole.low) / step) + 1)
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
            return math.sqrt(hole.low * hole.high) if hole.log else (hole.low + hole.high) / 2
        case Float(step=float() as step):
            return hole.low + round((hole.high - hole.low) / step) // 2 * step
    raise AssertionError(hole)


def _ends(hole: Hole) -> list[Any]:
    return list(hole.options) if isinstance(hole, Choice) else [hole.low, hole.high]


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
        _fail(space.source, node.line, ("start",), "want a list of whole configs")
    for number, given in enumerate(node.items):
        values: dict[str, Any] = {}
        _match(space, space.root, given, "", ("start", number), values)
        yield values


def _match(space: Space, want: Node, got: Node, name: str, place: Place, out: dict[str, Any]) -> None:
    """Read off, from a config without holes, the value of every knob: `_fill` backwards."""

    def fail(message: str) -> NoReturn:
        _fail(space.source, got.line, place, message)

    match want, got:
        case Value(), Value():
            if (type(want.value), want.value) != (type(got.value), got.value):
                fail(f"got {got.value!r}; the space fixes {want.value!r}")
        case (Int() | Float()), Value():
            out[name] = _within(want, got.value, fail)
        case Choice(), _:
            label = _label(got)
            if label not in want.options:
                fail(f"got {label!r}{nearest(str(label), map(str, want.options))}")
            out[name] = label
            option = want.options[label]
            if isinstance(option, Value) or isinstance(got, Value):
                got = option if isinstance(option, Value) else Mapping_({}, got.line)
            _match(space, option, got, name if isinstance(option, Value) else f"{name}.{label}",
                   place, out)  # fmt: skip
        case Repeat(), Listing():
            if isinstance(want.count, Int):
                out[name] = _within(want.count, len(got.items), fail)
            elif len(got.items) != want.count:
                fail(f"got {len(got.items)} items; the space fixes {want.count}")
            for i, item in enumerate(got.items):
                inside = f"{name}[*]" if want.same else f"{name}[{i}]"
                before = dict(out)
                _match(space, want.item, item, inside, (*place, i), out)
                if want.same and i and before != out:
                    fail("the space wants the same for all items")
        case Listing(), Listing():
            if len(got.items) != len(want.items):
                fail(f"got {len(got.items)} items; want {len(want.items)}")
            for i, (a, b) in enumerate(zip(want.items, got.items, strict=True)):
                _match(space, a, b, f"{name}[{i}]", (*place, i), out)
        case Mapping_(), Mapping_():
            for key in got.items:
                if key not in want.items:
                    fail(f"no value is called {key!r} in this space{nearest(key, want.items)}")
            for key, child in want.items.items():
                if key in got.items:
                    _match(space, child, got.items[key], f"{name}.{key}" if name else key,
                           (*place, key), out)  # fmt: skip
                elif any(_holes(child)):
                    fail(f"{key} is missing; a start is a whole config")
        case _:
            fail("does not have the form that the space has here")


def _within(hole: Int | Float, value: Any, fail: Callable[[str], NoReturn]) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(hole, Int) and not isinstance(value, int)):
        fail(f"got {value!r}; want a {'whole ' if isinstance(hole, Int) else ''}number")
    if not hole.low <= value <= hole.high:
        fail(f"got {value}; want {hole.low} to {hole.high}")
    if hole.step and not _on_grid(value - hole.low, hole.step):
        fail(f"got {value}; want steps of {hole.step} from {hole.low}")
    return value if isinstance(hole, Int) else float(value)


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


class _Loader(yaml.SafeLoader):
    """YAML's scalars as version 1.2 reads them: `1e-4` is a number, `no` and `on` are texts."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
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
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            _fail(self.source, mark.line + 1 if mark else 1, (), f"not YAML: {problem}")
        if not isinstance(tree, yaml.MappingNode):
            _fail(self.source, 1, (), "want a mapping: task, model, optimizer, train")
        node = self.node(tree, ())
        if not isinstance(node, Mapping_):
            _fail(self.source, 1, (), "want a config with holes, not one single hole")
        return node

    def _bounded(self, text: str) -> None:
        """Before any tree is built: no bombs, no references, no tags."""
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if count > MAX_NODES or depth > MAX_DEPTH:
                told = f"more than {MAX_NODES:,} values or {MAX_DEPTH} levels"
                _fail(self.source, line, (), told)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                _fail(self.source, line, (), "references (& and *) are not read; write it out")
            if getattr(event, "tag", None):
                _fail(self.source, line, (), f"the tag {event.tag} is not read; write plain values")

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
                return parse(self, node, entries, place)
        return Mapping_({k: self.node(v, (*place, k)) for k, v in entries.items()}, line)

    def entries(self, node: yaml.MappingNode, place: Place) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not re.fullmatch(r"[\w-]{1,64}", key):
                self.fail(key_node, place, "keys are plain words (and << is not read)")
            if key in found:
                self.fail(key_node, (*place, key), "is given twice")
            found[key] = value
        return found

    def scalar(self, node: yaml.ScalarNode, place: Place) -> Scalar:
        kind, text = node.tag.rpartition(":")[2], node.value
        if len(text) > 1000:
            self.fail(node, place, f"a text of {len(text)} characters; want at most 1000")
        if kind in ("int", "float"):
            number = float(re.sub(r"_|\.(?=inf|nan)", "", text))
            if not math.isfinite(number) or abs(number) > 2**53:
                self.fail(node, place, f"got {text[:40]}; want a finite number below 2**53")
            return int(text.replace("_", "")) if kind == "int" else number
        if kind == "bool":
            return bool(text == "true")
        return None if kind == "null" else str(text)

    def range(self, node: yaml.Node, place: Place, kind: str) -> tuple[Any, Any]:
        ends = self.plain(node, place)
        if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_number, ends)):
            self.fail(node, place, f"got {ends!r}; want two numbers, {kind}: [lowest, highest]")
        if kind == "int" and not all(isinstance(end, int) for end in ends):
            self.fail(node, place, f"got {ends!r}; want whole numbers, or a float hole")
        if not ends[0] < ends[1]:
            self.fail(node, place, f"got {ends!r}; the first must be the smaller one")
        return ends[0], ends[1]

    def plain(self, node: yaml.Node, place: Place) -> Any:
        return _fill(self.node(node, place), "", (), lambda *_: None, {})

    def flag(self, entries: dict[str, yaml.Node], key: str, place: Place) -> bool:
        value = self.plain(entries[key], place) if key in entries else False
        if not isinstance(value, bool):
            self.fail(entries[key], place, f"{key}: got {value!r}; want true or false")
        return value

    def number(self, entries: dict[str, yaml.Node], place: Place) -> Int | Float:
        kind = "int" if "int" in entries else "float"
        at = entries[kind]
        low, high = self.range(at, place, kind)
        log = self.flag(entries, "log", place)
        if log and low <= 0:
            self.fail(at, place, f"log: true needs ends above 0, got {low}")
        step = self.plain(entries["step"], place) if "step" in entries else None
        if step is not None:
            if not _is_number(step) or step <= 0 or (kind == "int" and not isinstance(step, int)):
                told = "a whole number above 0" if kind == "int" else "a number above 0"
                self.fail(entries["step"], place, f"step: got {step!r}; want {told}")
            if log:
                self.fail(entries["step"], place, "step and log: true exclude each other")
            if not _on_grid(high - low, step):
                self.fail(at, place, f"steps of {step} from {low} do not reach {high}")
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
            self.fail(at, place, "want a list of options, choice: [a, b]")
        options: dict[Scalar, Node] = {}
        for child in at.value:
            option = self.node(child, place)
            if isinstance(option, Int | Float | Choice | Repeat):
                self.fail(child, place, "an option that is a hole itself; give it a name around it")
            label = _label(option)
            if label in options:  # also 1 and true, which compare equal
                self.fail(child, place, f"the option {label!r} is given twice")
            options[label] = option
        prior = None
        if "prior" in entries:
            prior = _label(self.node(entries["prior"], place))
            if prior not in options:
                told = f"prior: got {prior!r}{nearest(str(prior), map(str, options))}"
                self.fail(entries["prior"], place, told)
        return Choice(options, prior, at.start_mark.line + 1)

    def repeat(self, entries: dict[str, yaml.Node], place: Place) -> Repeat:
        at = entries["repeat"]
        if ("each" in entries) == ("same" in entries):
            self.fail(at, place, "want one of each: (independent draws) and same: (copies of one)")
        same = "same" in entries
        count = self.node(at, place)
        if isinstance(count, Value) and type(count.value) is int and 1 <= count.value <= MAX_REPEAT:
            times: int | Int = count.value
        elif isinstance(count, Int) and 0 <= count.low and count.high <= MAX_REPEAT:
            times = count
        else:
            self.fail(at, place, f"repeat: want a whole number or an int hole up to {MAX_REPEAT}")
        item = self.node(entries["same" if same else "each"], (*place, 0))
        return Repeat(times, item, same, at.start_mark.line + 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


HOLES: dict[str, tuple[Any, set[str]]] = {
    "int": (lambda r, _n, e, p: r.number(e, p), {"step", "log", "prior"}),
    "float": (lambda r, _n, e, p: r.number(e, p), {"step", "log", "prior"}),
    "choice": (lambda r, _n, e, p: r.choice(e, p), {"prior"}),
    "repeat": (lambda r, _n, e, p: r.repeat(e, p), {"each", "same"}),
}
