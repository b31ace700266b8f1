"""YAML text to the nodes of a space. Everything odd is refused here, with its line.

No references, tags, merges or keys given twice; bounded in size, depth and time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, NoReturn

import yaml

from automl.config import Place, nearest, shown
from automl.holes import (
    Choice,
    Fields,
    Float,
    Int,
    Listing,
    Node,
    Repeat,
    Scalar,
    Value,
    fail_at,
    fill,
    holes_in,
    is_number,
    label_of,
    never,
    size_of,
    within,
    worded,
)

MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_TEXT = 1_000_000, 40, 20_000, 1000
MAX_REPEAT, MAX_OPTIONS, MAX_STEPS = 64, 256, 1_000_000


class Loader(yaml.SafeLoader):
    """YAML's scalars as version 1.2 reads them: `1e-4` is a number, `no` and `on` are texts.

    Besides, `5_000_000` is a number. `010` is ten, and `0x10` is a text.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class Dumper(yaml.SafeDumper):
    """Quotes each text that this `Loader`, or one of YAML 1.1, would take for something else."""


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
    for _reads in (Loader, Dumper):
        _reads.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def as_yaml(plain: dict[str, Any]) -> str:
    """Plain values as YAML text: `Reader.read` gives back the same."""
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False)


class Reader:
    """Reads one text, which messages call `source`."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, node: yaml.Node, place: Place, message: str) -> NoReturn:
        fail_at(self.source, node.start_mark.line + 1, place, message)

    def read(self, text: str) -> Fields:
        try:
            self._bounded(text)
            tree = yaml.compose(text, Loader=Loader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            told = f"not YAML: got the control character {chr(error.character)!r}; want plain text"
            fail_at(self.source, line, (), told)
        except yaml.MarkedYAMLError as error:
            mark: yaml.Mark | None = error.problem_mark or error.context_mark
            told = f"not YAML: {error.problem or error.context}"
            if mark and error.context_mark and error.context_mark.line != mark.line:
                told += f", in what begins in line {error.context_mark.line + 1}"
            if "'\\t'" in told:
                told += "; indent with spaces"
            fail_at(self.source, mark.line + 1 if mark else 1, (), told)
        wanted = "want a mapping with task, model, optimizer, train"
        if tree is None:
            fail_at(self.source, 1, (), f"is empty; {wanted}")
        node = self.node(tree, ())
        if not isinstance(node, Fields):
            fail_at(self.source, node.line, (), f"got {worded(node)}; {wanted}")
        if (size := size_of(node)) > MAX_NODES:
            told = f"makes {size:,} values in all; want at most {MAX_NODES:,}"
            fail_at(self.source, node.line, (), told)
        return node

    def _bounded(self, text: str) -> None:
        """Before any tree is built: no bombs, no references, no tags."""
        depth = documents = 0
        for count, event in enumerate(yaml.parse(text, Loader=Loader)):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                fail_at(self.source, line, (), f"more than {MAX_DEPTH} levels, one in the other")
            if count > MAX_NODES:
                fail_at(self.source, line, (), f"more than {MAX_NODES:,} values")
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                fail_at(self.source, line, (), "got a second document (---); want one a file")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_TEXT:
                told = f"got a text of {len(event.value):,} characters; want at most {MAX_TEXT:,}"
                fail_at(self.source, line, (), told)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                fail_at(self.source, line, (), "references (& and *) are not read; write it out")
            if tag := getattr(event, "tag", None):
                told = f"the tag {shown(tag)} is not read; write plain values"
                fail_at(self.source, line, (), told)

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
                return parse(self, entries, place)
        return Fields({k: self.node(v, (*place, k)) for k, v in entries.items()}, line)

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
        if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
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
        for hole in holes_in(read):
            self.fail(node, place, f"got {worded(hole)} inside a hole; want plain values")
        return fill(read, "", (), never, {})

    def number(self, entries: dict[str, yaml.Node], place: Place) -> Int | Float:
        kind = "int" if "int" in entries else "float"
        at = entries[kind]
        low, high = self.range(at, place, kind)
        log = self.plain(entries["log"], place) if "log" in entries else False
        if not isinstance(log, bool):
            self.fail(entries["log"], place, f"log: got {shown(log)}; want true or false")
        if log and low <= 0:
            self.fail(at, place, f"got the lowest {low}; log: true wants it above 0")
        step = self.plain(entries["step"], place) if "step" in entries else None
        if step is not None:
            if not is_number(step) or step <= 0 or (kind == "int" and not isinstance(step, int)):
                told = "a whole number above 0" if kind == "int" else "a number above 0"
                self.fail(entries["step"], place, f"step: got {shown(step)}; want {told}")
            if log:
                self.fail(entries["step"], place, "got step and log: true; want one of them")
            if (high - low) / step > MAX_STEPS:
                told = f"step: got {step}; want at most {MAX_STEPS:,} steps from {low} to {high}"
                self.fail(entries["step"], place, told)
            first, last, each = (Decimal(str(number)) for number in (low, high, step))
            if (last - first) % each:  # as Optuna reckons, which cuts a range that is beside it
                told = f"steps of {step} from {low} do not reach {high}; change the step or an end"
                self.fail(at, place, told)
        line = at.start_mark.line + 1
        hole: Int | Float
        if kind == "int":
            hole = Int(low, high, int(step or 1), log, None, line)
        else:
            hole = Float(float(low), float(high), step and float(step), log, None, line)
        if "prior" not in entries:
            return hole
        told_at = entries["prior"]
        prior = within(hole, self.plain(told_at, place),
                        lambda message: self.fail(told_at, place, f"prior: {message}"))  # fmt: skip
        return replace(hole, prior=prior)

    def choice(self, entries: dict[str, yaml.Node], place: Place) -> Choice:
        at = entries["choice"]
        if not isinstance(at, yaml.SequenceNode) or not at.value:
            got = worded(self.node(at, place))
            self.fail(at, place, f"got {got}; want a list of options, choice: [a, b]")
        if len(at.value) > MAX_OPTIONS:
            self.fail(at, place, f"got {len(at.value):,} options; want at most {MAX_OPTIONS}")
        options: dict[Scalar, Node] = {}
        for child in at.value:
            option = self.node(child, place)
            if isinstance(option, Int | Float | Choice | Repeat):
                told = f"got {worded(option)} as an option; want a value, or a mapping around it"
                self.fail(child, place, told)
            label = label_of(option)
            if label in options:  # also 1 and true, which compare equal
                first = next(known for known in options if known == label)
                told = f"got the option {shown(label)} twice"
                if repr(first) != repr(label):
                    told = f"got the options {first!r} and {label!r}, which count as equal"
                self.fail(child, place, f"{told}; want each once")
            options[label] = option
        prior = None
        if "prior" in entries:
            prior = label_of(self.node(entries["prior"], place))
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
            got = worded(count)
            if isinstance(count, Int):
                got = f"int: [{count.low}, {count.high}]"
            told = f"want a whole number from 1 to {MAX_REPEAT}, or an int hole up to that"
            self.fail(at, place, f"repeat: got {got}; {told}")
        item = self.node(entries["same" if same else "each"], (*place, 0))
        made = Repeat(times, item, same, at.start_mark.line + 1)
        if (size := size_of(made)) > MAX_NODES:
            told = f"repeat: makes {size:,} values, all levels counted; want at most {MAX_NODES:,}"
            self.fail(at, place, told)
        return made


Parse = Callable[[Reader, dict[str, yaml.Node], Place], Node]
HOLES: dict[str, tuple[Parse, set[str]]] = {  # by the key that tells one; other keys it may have
    "int": (Reader.number, {"step", "log", "prior"}),
    "float": (Reader.number, {"step", "log", "prior"}),
    "choice": (Reader.choice, {"prior"}),
    "repeat": (Reader.repeat, {"each", "same"}),
}
