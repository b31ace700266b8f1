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
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import Field, SerializeAsAny, ValidationError, field_validator

from automl.config import (
    Config,
    Federation,
    Input,
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
from automl.data import ANY, Inputs, Split
from automl.errors import OptionError, SpaceError
from automl.holes import (
    Choice,
    Condition,
    Draw,
    Fields,
    Float,
    Hole,
    Int,
    Listing,
    Node,
    Repeat,
    Scalar,
    Value,
    count_of,
    ends_of,
    fail_at,
    fill,
    holes_in,
    is_number,
    label_of,
    middle_of,
    named_holes,
    nearest_to,
    never,
    nth_value,
    random_value,
    shape_of,
    unlike,
    within,
    worded,
)
from automl.reader import MAX_BYTES, Reader

if TYPE_CHECKING:
    from automl.size import Size

NEVER_OPEN = {  # what makes trials comparable, or says how to look
    "version": "it names the format",
    "task": "trials must see the same data",
    "search": "it says how to look, not what is tried",
    "seed": "--seed sets it",
    "train.epochs": "trials must be comparable",
}


COSTS = ("params", "macs", "latency_ms", "train_seconds")  # second goals: the less, the better


class Search(Strict):
    """How to look: the `search:` section of a space."""

    sampler: SerializeAsAny[Sampler] = Field(default_factory=lambda: Sampler.of("auto"))
    pruner: SerializeAsAny[Pruner] = Field(default_factory=lambda: Pruner.of("auto"))
    portfolio: int = Field(
        4, ge=0, le=32, description="configs that did well on other data, to try first, at most"
    )
    metric: list[str] = Field(
        default=[], description="two goals: the task's metric, and a cost such as latency_ms"
    )
    max_params: int | None = Field(None, ge=1, description="refuse larger models before they train")
    max_macs: int | None = Field(
        None, ge=1, description="multiply-accumulates of one example, refused before they train"
    )
    max_latency_ms: float | None = Field(
        None, gt=0, description="milliseconds for one example on this device, in float32"
    )
    max_memory_mb: float | None = Field(
        None, gt=0, description="megabytes that training takes on this device"
    )
    max_train_seconds: float | None = Field(
        None, gt=0, description="seconds of a full training, as its first epochs foretell them"
    )

    @field_validator("metric", mode="before")
    @classmethod
    def _two(cls, told: Any) -> Any:
        return [told] if isinstance(told, str) else told  # which of these it lacks is said later

    @property
    def cost(self) -> str | None:
        """The second goal."""
        return self.metric[1] if self.metric else None

    def excess(self, size: Size) -> str | None:
        """By what a model breaks a limit that is known before it trains; None if it does not."""
        if self.max_params and size.params > self.max_params:
            return f"{size.params:,} parameters; max_params: {self.max_params:,}"
        if self.max_macs and size.macs > self.max_macs:
            return f"{size.macs:,} multiply-accumulates; max_macs: {self.max_macs:,}"
        return None


@dataclass(frozen=True)
class Space:
    """A checked space. `Space.load` is the way in."""

    source: str  # the file, as the user named it
    text: str  # as it was read
    root: Fields
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
                fail_at(
                    source, node.line, (key,), f"no section is called {key!r}{nearest(key, known)}"
                )
        for name, reason in NEVER_OPEN.items():
            _closed(source, root, name, reason)
        fixed = {key: node for key, node in root.items.items() if key not in ("search", "start")}
        space = cls(
            source, text, Fields(fixed, root.line), _search(source, root.items.get("search"))
        )
        for _ in space.probes():
            pass
        _goals(space, root.items.get("search"))
        space.with_values(space.believed() or {})
        space.start.extend(_starts(space, root.items.get("start")))
        return space

    def fill(self, draw: Draw) -> Config:
        """The config that the answers of `draw` to every open value make. Raises SpaceError."""
        lines: dict[Place, int] = {}
        plain = fill(self.root, "", (), draw, lines)
        try:
            return Config.model_validate(plain)
        except ValidationError as error:
            place, message = problems(error)[0]
            fail_at(self.source, _line(lines, place), place, message)

    def values(self, draw: Draw) -> dict[str, Any]:
        """The answers of `draw` by knob name; faster than `fill`, for nothing is checked."""
        told: dict[str, Any] = {}

        def note(name: str, hole: Hole) -> Any:
            told[name] = draw(name, hole)
            return told[name]

        fill(self.root, "", (), note, {})
        return told

    @property
    def task(self) -> Task:
        """The one task of all its configs."""
        return next(self.probes())[0].task

    @property
    def epochs(self) -> int:
        """Of a full training: all its configs have as many."""
        return next(self.probes())[0].train.epochs

    def config(self) -> Config:
        """The config that a space without holes is. Raises SpaceError for one with holes."""
        holes = list(holes_in(self.root))
        if holes:
            told = "a value is" if len(holes) == 1 else f"{len(holes)} values are"
            told += " left open; `automl search` fills what is open"
            fail_at(self.source, holes[0].line, (), told)
        return self.fill(never)

    def sample(self, rng: random.Random) -> Config:
        """One random config, every hole drawn alone."""
        return self.fill(lambda _name, hole: random_value(hole, rng))

    def believed(self) -> dict[str, Any] | None:
        """The values of every `prior:`, the middle or first option elsewhere; None without any."""
        given = False

        def draw(name: str, hole: Hole) -> Any:
            nonlocal given
            given |= hole.prior is not None
            return _expected(hole)

        told = self.values(draw)
        return told if given else None

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The config of these values by knob name; a knob without one takes its lowest or first."""
        return self.fill(lambda name, hole: values.get(name, ends_of(hole)[0]))

    def carried(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The values that come nearest to a config of another space; None if none has its model.

        Knobs that only this space has get their `prior:`, or what is in the middle.
        """
        taken: dict[str, Any] = {}
        _carry(self.root, Reader(self.source).read(json.dumps(config)), "", taken)
        values = self.values(lambda name, hole: taken.get(name, _expected(hole)))
        try:
            made = self.with_values(values)
        except SpaceError:  # knobs that are fine alone and do not go together
            return None
        return values if made.model.name == config["model"]["name"] else None

    def every(self) -> Iterator[dict[str, Any]]:
        """The values of all its configs in turn; without end where a range of reals is open."""
        path: list[int] = []  # of each hole that is met, in turn: the number of its value
        met: list[Hole] = []

        def draw(_name: str, hole: Hole) -> Any:
            met.append(hole)
            if len(met) > len(path):
                path.append(0)
            return nth_value(hole, path[len(met) - 1])

        while True:
            met.clear()
            yield self.values(draw)
            while path and path[-1] + 1 >= count_of(met[len(path) - 1]):
                path.pop()
            if not path:
                return
            path[-1] += 1

    def count(self, most: int) -> int:
        """How many configs it has; no more than `most` are counted."""
        if any(count_of(hole) == math.inf for hole in self.all_knobs().values()):
            return most
        return sum(1 for _ in islice(self.every(), most))

    def beginnings(self) -> list[dict[str, Any]]:
        """The values of the configs tried first: each of `start:`, then the believed one."""
        believed = self.believed()
        return [*self.start, *([believed] if believed else [])]

    def knobs(self) -> dict[str, Hole]:
        """Every open value by name; of a repeated thing the first one, named `[0]`."""
        return {name: hole for _, seen in self.probes() for name, hole in seen.items()}

    def all_knobs(self) -> dict[str, Hole]:
        """Every open value that any config can have, each item of a repeated thing by itself."""
        return {name: hole for name, hole, _ in named_holes(self.root)}

    def conditions(self) -> dict[str, Condition | None]:
        """Of each of `all_knobs` what it hangs on; None: all configs have it."""
        return {name: under for name, _, under in named_holes(self.root)}

    def probes(self) -> Iterator[tuple[Config, dict[str, Hole]]]:
        """Every range end and option once, in configs that differ by one knob, with the holes met.

        Of a range of whole numbers also the second one. Then all at their upper ends, for each
        option of a choice whose options have knobs of their own.

        Raises SpaceError at the first that is no valid config.
        """
        todo: deque[dict[str, Any]] = deque([{}])
        tried: set[str] = set()
        first: dict[int, str] = {}  # a hole's first name; what repeats it shares the object
        branches: list[dict[str, Any]] = [{}]
        while todo:
            values = todo.popleft()
            seen: dict[str, Hole] = {}

            def draw(name: str, hole: Hole) -> Any:
                if first.setdefault(id(hole), name) == name:  # it stands for all its siblings
                    seen[name] = hole  # noqa: B023 (used before the next round)
                return values.get(name, ends_of(hole)[0])  # noqa: B023

            yield self.fill(draw), seen
            for name, hole in seen.items():
                if name not in tried:
                    tried.add(name)
                    if isinstance(hole, Choice) and hole.conditional:
                        branches.extend({name: option} for option in hole.options)
                    todo.extend(values | {name: end} for end in ends_of(hole)[1:])
        for values in branches:
            yield self.fill(lambda name, hole: values.get(name, ends_of(hole)[-1])), {}  # noqa: B023 (used before the next round)

    @property
    def digest(self) -> str:
        """Equal for equal spaces, whatever their comments and layout."""
        shown = repr(
            (shape_of(self.root), self.search.model_dump(mode="json", exclude={"portfolio"}))
        )
        return hashlib.sha256(shown.encode()).hexdigest()[:16]

    def unlike(self, other: Space) -> str:
        """Where it first differs from another one; `search` where only that does."""
        return dotted(unlike(shape_of(other.root), shape_of(self.root)) or ("search",))


def measure(config: Config, inputs: Inputs, labels: int) -> Size:
    """How large the config's model is, found without memory for it. Raises SpaceError.

    The model is built and run on the meta device: what passes here fits its inputs and outputs.
    """
    from automl.size import weigh, weightless

    outputs = labels or inputs.outputs
    try:
        with weightless():
            model = config.model.build(inputs, outputs).eval()
            x = inputs.example(2)
        logits, size = weigh(model, x)
    except (RuntimeError, ValueError) as error:  # what torch raises for shapes that cannot be
        reason = str(error).splitlines()[0]
        raise SpaceError(f"model: does not fit {inputs.summary}: {reason}") from error
    wanted = inputs.answers(2, outputs)
    got = tuple(logits.shape)
    if len(got) != len(wanted) or any(a not in (b, ANY) for b, a in zip(got, wanted, strict=True)):
        raise SpaceError(f"model: gives {tuple(logits.shape)} for 2 inputs; want {wanted}")
    return size


def prove(
    space: Space, labels: int, inputs: Callable[[Input], Inputs], train: Split | None = None
) -> tuple[int, int]:
    """Build the models of every probe and of what is tried first, each once.

    Where the split to train on is known, it is shared out among clients, too. Returns the fewest
    parameters and, up to `max_params`, the most. Raises SpaceError where a model does not fit or
    clients hold too little, and DataError where what a model begins with is lacking.
    """
    from automl.size import Size

    counts: dict[str, Size] = {}
    shared: set[Federation] = set()
    first = (space.with_values(values) for values in space.beginnings())
    for config in (*(config for config, _ in space.probes()), *first):
        config.model.ready()
        if train is not None and config.federation not in shared:
            config.federation.held(train, config.seed)
            shared.add(config.federation)
        if (key := config.structure) not in counts:
            counts[key] = measure(config, inputs(config.input), labels)
    params = [size.params for size in counts.values()]
    excess = space.search.excess(Size(min(params), min(size.macs for size in counts.values())))
    if excess:
        raise SpaceError(f"{space.source}: search: the smallest model has {excess}")
    return min(params), min(max(params), space.search.max_params or max(params))


def sizes(space: Space, labels: int, inputs: Callable[[Input], Inputs], draws: int) -> list[Size]:
    """Of random configs, fewest parameters first. Draws that make no model are left out."""
    rng = random.Random(0)
    found = []
    for _ in range(draws):
        with suppress(SpaceError):
            config = space.sample(rng)
            found.append(measure(config, inputs(config.input), labels))
    return sorted(found, key=lambda size: size.params)


def find(name: str) -> Path:
    """A space by path, by name in ./search_spaces, or by name among those that are shipped."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    if name in (known := named()):
        return known[name]
    raise OptionError(f"no space is called {name!r}{nearest(name, known)} Or give a file: my.yaml")


def named() -> dict[str, Path]:
    """The spaces that can be named: those in ./search_spaces, then those that are shipped."""
    found: dict[str, Path] = {}
    for folder in (Path("search_spaces"), *shipped()):
        for file in folder.glob("*.yaml"):
            found.setdefault(file.stem, file)
    return found


def shipped() -> list[Path]:
    """Where the package's own spaces are: inside an installed one, beside a checked-out one."""
    here = Path(__file__).parent
    return [folder for folder in (here / "search_spaces", here.parent / "search_spaces")
            if folder.is_dir()]  # fmt: skip


def _line(lines: dict[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest thing around it that was written down."""
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _closed(source: str, root: Fields, name: str, reason: str) -> None:
    node: Node | None = root
    for key in name.split("."):
        if isinstance(node, Choice) and any(
            isinstance(option, Fields) and key in option.items for option in node.options.values()
        ):
            break
        node = node.items.get(key) if isinstance(node, Fields) else None
    hole = node and next(holes_in(node), None)
    if hole:
        fail_at(source, hole.line, (name,), f"cannot be left open: {reason}")


def _search(source: str, node: Node | None) -> Search:
    if node is None:
        return Search()
    lines: dict[Place, int] = {}
    try:
        return Search.model_validate(fill(node, "", (), never, lines))
    except ValidationError as error:
        place, message = problems(error)[0]
        fail_at(source, _line(lines, place), ("search", *place), message)


def _goals(space: Space, node: Node | None) -> None:
    goals, first = space.search.metric, space.task.metric.name
    if not goals:
        return
    assert isinstance(node, Fields)
    line = node.items["metric"].line
    if len(goals) != 2 or goals[0] != first or goals[1] not in COSTS:
        told = f"got {shown(goals)}; want {first}, then {', '.join(COSTS[:-1])} or {COSTS[-1]}"
        fail_at(space.source, line, ("search", "metric"), told)
    if not space.search.sampler.trades:
        told = f"two goals want sampler: auto; got {space.search.sampler.name}"
        fail_at(space.source, line, ("search", "metric"), told)


def _starts(space: Space, node: Node | None) -> Iterator[dict[str, Any]]:
    if node is None:
        return
    if not isinstance(node, Listing):
        fail_at(space.source, node.line, ("start",), f"got {worded(node)}; want a list of configs")
    for number, given in enumerate(node.items):
        place: Place = ("start", number)
        if not isinstance(given, Fields):
            fail_at(space.source, given.line, place, f"got {worded(given)}; want a whole config")
        for hole in holes_in(given):
            fail_at(
                space.source, hole.line, place, "got a hole; want a whole config, without holes"
            )
        values: dict[str, Any] = {}
        _match(space, space.root, given, "", place, values)
        try:
            made = space.with_values(values)
        except SpaceError as error:  # knobs that are fine alone and do not go together
            fail_at(space.source, given.line, place, f"is no valid config: {error}")
        _agree(space, given, made.dump(), place)
        yield values


def _match(
    space: Space, want: Node, got: Node, name: str, place: Place, out: dict[str, Any]
) -> None:
    """Read off, from a config without holes, the value of every knob: `fill` backwards."""

    def fail(message: str) -> NoReturn:
        fail_at(space.source, got.line, place, message)

    if isinstance(want, Fields) and isinstance(got, Value):
        got = Fields({"name": got}, got.line)  # a part by its bare name
    match want, got:
        case Value(), _:
            pass  # no knob; `_agree` compares
        case (Int() | Float()), Value():  # fmt: skip
            out[name] = within(want, got.value, fail)
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
                out[name] = within(
                    want.count, len(got.items), lambda told: fail(f"number of items: {told}")
                )
            elif len(got.items) != want.count:
                fail(f"got {len(got.items)} items; the space has {want.count} here")
            for i, item in enumerate(got.items):
                inside = f"{name}[*]" if want.same else f"{name}[{i}]"
                before = dict(out)
                _match(space, want.item, item, inside, (*place, i), out)
                if want.same and i and before != out:
                    fail_at(
                        space.source, item.line, (*place, i), "differs; same: wants equal items"
                    )
        case Listing(), Listing():
            if len(got.items) != len(want.items):
                fail(f"got {len(got.items)} items; the space has {len(want.items)} here")
            for i, (a, b) in enumerate(zip(want.items, got.items, strict=True)):
                _match(space, a, b, f"{name}[{i}]", (*place, i), out)
        case Fields(), Fields():
            for key, child in want.items.items():
                if key in got.items:
                    _match(space, child, got.items[key], f"{name}.{key}" if name else key,
                           (*place, key), out)  # fmt: skip
                elif any(holes_in(child)):
                    fail(
                        f"{key} is missing; the space leaves it open, and a start is a whole config"
                    )
        case _:
            wanted = "number" if isinstance(want, Int | Float) else "list"
            wanted = "mapping" if isinstance(want, Fields) else wanted
            fail(f"got {worded(got)}; want a {wanted}")


def _chosen(want: Choice, got: Node) -> Scalar:
    """The option that a value is; among mappings without a name, the one that fits it best."""
    label = label_of(got)
    if label in want.options or not isinstance(got, Fields) or "name" in got.items:
        return label
    fits = {
        label: len(option.items)
        for label, option in want.options.items()
        if isinstance(option, Fields)
        and all(
            key in got.items
            and (any(holes_in(child)) or shape_of(child) == shape_of(got.items[key]))
            for key, child in option.items.items()
        )
    }
    return max(fits, key=lambda label: fits[label], default=label)


def _carry(want: Node, got: Node, name: str, out: dict[str, Any]) -> None:
    """Note the value of every knob that both have, or the nearest one that the space allows."""
    match want, got:
        case (Int() | Float()), Value() if is_number(got.value):  # fmt: skip
            out[name] = nearest_to(want, got.value)
        case Choice(), _:
            label = _chosen(want, got)
            if label not in want.options and is_number(label):
                number, numbers = label, [each for each in want.options if is_number(each)]
                label = min(numbers, key=lambda each: abs(each - number), default=label)
            if label in want.options:
                out[name] = label
                if not isinstance(want.options[label], Value):
                    _carry(want.options[label], got, f"{name}.{label}", out)
        case Repeat(), Listing() if got.items:
            count = want.count
            if isinstance(count, Int):
                out[name] = count = nearest_to(count, len(got.items))
            for i in range(1 if want.same else count):
                inside = f"{name}[*]" if want.same else f"{name}[{i}]"
                _carry(want.item, got.items[min(i, len(got.items) - 1)], inside, out)
        case Listing(), Listing():
            for i, (a, b) in enumerate(zip(want.items, got.items, strict=False)):
                _carry(a, b, f"{name}[{i}]", out)
        case Fields(), Fields():
            named = want.items.get("name")
            if named is not None and not any(holes_in(named)) and label_of(got) != label_of(want):
                return  # another part: its numbers mean something else
            for key, child in want.items.items():
                if key in got.items:
                    _carry(child, got.items[key], f"{name}.{key}" if name else key, out)


def _expected(hole: Hole) -> Any:
    return middle_of(hole) if hole.prior is None else hole.prior


def _agree(space: Space, got: Node, made: Any, place: Place) -> None:
    """Refuse a start that says anything else than the config that its knobs make."""
    if isinstance(got, Value) and isinstance(made, dict):
        made = made.get("name", made)  # a part by its bare name
    match got, made:
        case Fields(), dict():
            for key, child in got.items.items():
                if key not in made:
                    told = f"no knob is called {key!r}{nearest(key, made)}"
                    fail_at(space.source, child.line, (*place, key), told)
                _agree(space, child, made[key], (*place, key))
        case Listing(), list() if len(got.items) == len(made):
            for i, (item, value) in enumerate(zip(got.items, made, strict=True)):
                _agree(space, item, value, (*place, i))
        case Value(), _ if got.value == made and isinstance(got.value, bool) == (
            isinstance(made, bool)
        ):
            pass
        case Value(), float() if is_number(got.value) and math.isclose(got.value, made):
            pass  # 3 * 0.1, as others write the third step
        case _:
            told = f"got {worded(got)}; the space has {shown(made)} here"
            fail_at(space.source, got.line, place, told)
