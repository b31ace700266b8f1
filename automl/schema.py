"""The JSON Schema of a space file, for editors: knobs completed and explained, slips underlined.

Made of the parts' own schemas. `Space.load` is the judge: it knows what no schema can say, such as
whether a step reaches the end of its range and whether two knobs go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard, get_args

from pydantic.json_schema import models_json_schema

from automl.config import Config, Part, Strict, Task
from automl.reader import MAX_OPTIONS, MAX_REPEAT
from automl.space import NEVER_OPEN, Search

Schema = dict[str, Any]


def schema() -> Schema:
    """Draft 2020-12, with the parts known now: ours, installed ones and plugins."""
    closed = {*_inside(Task), *_inside(Search)}
    classes = list(dict.fromkeys([*_inside(Config), *_inside(Search)]))
    refs, made = models_json_schema([(cls, "validation") for cls in classes])
    names = {cls: refs[cls, "validation"]["$ref"].rpartition("/")[2] for cls in classes}

    defs: Schema = {}
    for cls, name in names.items():
        plain = made["$defs"][name]
        if _is_family(cls):
            bare = [word for word, member in cls.members().items() if not _needs(member)]
            forms = [{"$ref": f"#/$defs/{names[member]}"} for member in cls.members().values()]
            defs[name] = {"description": plain["description"], "anyOf": [{"enum": bare}, *forms]}
        else:
            place = "#" if cls is Config else f"#/$defs/{name}"
            knobs = {
                knob: _told(value)
                if cls in closed or _never_open(cls, knob)
                else _open(value, f"{place}/properties/{knob}")
                for knob, value in plain["properties"].items()
            }
            given = ["name"] if issubclass(cls, Part) else []
            defs[name] = _mapping(knobs, [*given, *_needs(cls)], plain.get("description", ""))

    config, search = defs.pop(names[Config]), defs.pop(names[Search])
    sections = config["properties"]
    start = {  # names may be missing there: the space fixes them
        key: {"anyOf": [{"$ref": f"#/properties/{key}"}, {"type": "object"}]} for key in sections
    }
    tried = {"type": "array", "items": _mapping(start)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A search space of automl",
        **config,
        "properties": {
            **sections,
            "search": search,
            "start": {"description": "whole configs, without holes, to try first", **tried},
        },
        "$defs": {**defs, **HOLES},
    }


def _inside(cls: type[Strict]) -> Iterator[type[Strict]]:
    """A class, the members if it is a family, and the classes of all their knobs."""
    yield cls
    if _is_family(cls):
        for member in cls.members().values():
            yield from _inside(member)
    else:
        todo = [knob.annotation for knob in cls.model_fields.values()]
        while todo:
            kind = todo.pop()
            todo.extend(get_args(kind))
            if isinstance(kind, type) and issubclass(kind, Strict):
                yield from _inside(kind)


def _is_family(cls: type[Strict]) -> TypeGuard[type[Part]]:
    return "home" in cls.__dict__


def _needs(cls: type[Strict]) -> list[str]:
    return [name for name, knob in cls.model_fields.items() if knob.is_required()]


def _never_open(cls: type[Strict], knob: str) -> bool:
    return (knob if cls is Config else f"{cls.__name__.lower()}.{knob}") in NEVER_OPEN


def _mapping(properties: Schema, needs: list[str] | None = None, description: str = "") -> Schema:
    return {
        **({"description": description} if description else {}),
        "type": "object",
        "properties": properties,
        **({"required": needs} if needs else {}),
        "additionalProperties": False,
    }


def _told(value: Schema) -> Schema:
    """A knob's schema without what only takes space: its title, and defaults of many lines."""
    long = isinstance(value.get("default"), dict | list)
    return {k: v for k, v in value.items() if k != "title" and not (long and k == "default")}


def _open(value: Schema, at: str) -> Schema:
    """What a knob takes: its value, or a hole that makes one. Holes point at the value."""
    plain = _told(value)
    if "const" in plain:
        return plain
    about = {key: plain.pop(key) for key in ("description", "default") if key in plain}
    kinds = {form.get("type") for form in plain.get("anyOf", [plain])}
    forms = []
    if "array" in kinds:
        plain["items"] = _open(plain["items"], f"{at}/anyOf/0/items")
        item = {"$ref": f"{at}/anyOf/0/items"}
        forms.append({"$ref": "#/$defs/repeat", "properties": {"each": item, "same": item}})
    holes = ["choice"]
    holes += ["int"] if kinds & {"number", "integer"} else []
    holes += ["float"] if "number" in kinds else []
    such = {"items": plain if "$ref" in plain else {"$ref": f"{at}/anyOf/0"}}
    forms += [{"$ref": f"#/$defs/{hole}", "properties": {hole: such}} for hole in holes]
    return about | {"anyOf": [plain, *forms]}


def _range(kind: str, number: str, description: str) -> Schema:
    ends = {"type": "array", "items": {"type": number}, "minItems": 2, "maxItems": 2}
    step = {"type": number, "exclusiveMinimum": 0, "description": "from the lowest on"}
    log = {"type": "boolean", "description": "drawn evenly on a log scale"}
    knobs = {kind: ends, "step": step, "log": log, "prior": {"type": number} | PRIOR}
    return _mapping(knobs, [kind], description)


PRIOR = {"description": "the value to believe in first"}
COUNT = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_REPEAT}, {"$ref": "#/$defs/int"}]
}
OPTIONS = {"type": "array", "minItems": 1, "maxItems": MAX_OPTIONS}
HOLES = {
    "int": _range("int", "integer", "a whole number, both ends included"),
    "float": _range("float", "number", "a real number, both ends included"),
    "choice": _mapping({"choice": OPTIONS, "prior": PRIOR}, ["choice"], "one of these"),
    "repeat": {
        **_mapping({"repeat": COUNT, "each": {}, "same": {}}, ["repeat"], "a list of draws"),
        "oneOf": [{"required": ["each"]}, {"required": ["same"]}],
    },
}
