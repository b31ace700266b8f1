"""The JSON Schema of a space file, for editors: names completed, knobs explained, slips underlined.

Made of the parts' own schemas. `Space.load` is the judge: it knows what no schema can say, such as
whether a step reaches the end of its range or two knobs go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic.json_schema import models_json_schema

from automl.config import Config, Part, Strict, Task
from automl.space import MAX_OPTIONS, MAX_REPEAT, NEVER_OPEN, Search

Schema = dict[str, Any]


def schema() -> Schema:
    """Draft 2020-12. Parts are those known now: ours, installed ones and plugins."""
    classes = list(dict.fromkeys([*_inside(Config), *_inside(Search)]))
    closed = {Search, *_inside(Task), *_inside(Search)}
    refs, made = models_json_schema([(cls, "validation") for cls in classes])
    names = {cls: refs[cls, "validation"]["$ref"].rpartition("/")[2] for cls in classes}

    defs: Schema = {}
    for cls, name in names.items():
        if _is_family(cls):
            defs[name] = _family(cls, names, is_open=cls not in closed)
            continue
        plain = made["$defs"][name]
        shut = {knob for knob in plain["properties"] if _path(cls, knob) in NEVER_OPEN}
        defs[name] = _mapping(
            {
                knob: _told(value) if cls in closed or knob in shut else _open(value)
                for knob, value in plain["properties"].items()
            },
            required=[*(["name"] if issubclass(cls, Part) else []), *plain.get("required", [])],
            description=plain.get("description", ""),
        )
    config, search = defs.pop(names[Config]), defs.pop(names[Search])
    sections = config["properties"]
    start = _mapping({key: {"$ref": f"#/properties/{key}"} for key in sections})
    told = "whole configs to try first; they hold no holes"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A search space of automl",
        **config,
        "properties": {
            **sections,
            "search": search,
            "start": {"description": told, "type": "array", "items": start},
        },
        "$defs": defs | HOLES,
    }


def _inside(cls: type[Strict]) -> Iterator[type[Strict]]:
    """A class, a family's members, and the classes of all their knobs."""
    yield cls
    if _is_family(cls):
        for member in cls.members().values():
            yield from _inside(member)
        return
    todo = [knob.annotation for knob in cls.model_fields.values()]
    while todo:
        kind = todo.pop()
        todo.extend(get_args(kind))
        if isinstance(kind, type) and issubclass(kind, Strict):
            yield from _inside(kind)


def _is_family(cls: type[Strict]) -> bool:
    return "home" in cls.__dict__


def _path(cls: type[Strict], knob: str) -> str:
    return knob if cls is Config else f"{cls.__name__.lower()}.{knob}"


def _mapping(properties: Schema, *, required: list[str] | None = None, **notes: Any) -> Schema:
    return {
        **notes,
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


def _family(cls: type[Part], names: dict[type[Strict], str], *, is_open: bool) -> Schema:
    """A member by its bare name, where no knob of it must be given, or with knobs, or a choice."""
    members = cls.members()
    bare = [
        name
        for name, member in members.items()
        if not any(knob.is_required() for knob in member.model_fields.values())
    ]
    forms: list[Schema] = [{"enum": bare}]
    forms += [{"$ref": f"#/$defs/{names[member]}"} for member in members.values()]
    if is_open:
        forms.append(_hole("choice", {"anyOf": list(forms)}))
    return {"description": cls.__doc__, "anyOf": forms}


def _told(value: Schema) -> Schema:
    """A knob's own schema, with what is known of it by other means left out."""
    return {
        key: part
        for key, part in value.items()
        if key != "title" and not (key == "default" and isinstance(part, dict | list))
    }


def _open(value: Schema) -> Schema:
    """What a knob takes: a value, or a hole that makes one."""
    told = _told(value)
    notes = {key: told.pop(key) for key in ("description", "default") if key in told}
    kinds = {form.get("type") for form in told.get("anyOf", [told])}
    if "const" in told or "$ref" in told:  # a name is never a hole; a part has its own
        return notes | told
    if "array" in kinds:
        item = _open(told["items"])
        repeat = {"$ref": "#/$defs/repeat", "properties": {"each": item, "same": item}}
        listed = told | {"items": item}
        return notes | {"anyOf": [listed, repeat, _hole("choice", listed)]}
    holes = [_hole("choice", told)]
    if kinds & {"integer", "number"}:
        holes.insert(0, _hole("int", told))
    if "number" in kinds:
        holes.insert(0, _hole("float", told))
    return notes | {"anyOf": [told, *holes]}


def _hole(kind: str, value: Schema) -> Schema:
    """A hole whose ends or options are such values."""
    inside = {kind: {"items": value}, "prior": value if kind != "choice" else {}}
    return {"$ref": f"#/$defs/{kind}", "properties": inside}
