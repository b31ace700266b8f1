"""The schema that editors read is fresh, valid, and agrees with the loader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_space import BROKEN, TEXTS

from automl.reader import HOLES, Loader

COMMITTED = Path(__file__).parent.parent / "search_spaces" / "schema.json"
COMMAND = "automl space schema > search_spaces/schema.json"
SCHEMA: dict[str, Any] = json.loads(COMMITTED.read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

UNSEEN = [  # what the loader alone can tell
    "key twice",
    "anchor",
    "float for a whole number",
    "knobs that do not go together",
    "number between the ends that is none",
    "too many draws",
    "too few draws",
    "ends that do not go together",
    "reversed range",
    "equal ends",
    "nan",
    "log with step",
    "step beside the end",
    "step beside the end of floats",
    "step all but at the end",
    "step too small",
    "option twice",
    "named option twice",
    "prior out of range",
    "prior off the grid",
    "prior is no option",
    "priors that do not go together",
    "repeat 2.0",
    "repeat of a wide hole",
    "epochs open by a choice around them",
    "start with a hole",
    "start without a knob",
    "start without a section",
    "start of a bare name",
    "start out of range",
    "start off the grid",
    "start of another type",
    "start with an unknown key",
    "start changes what is fixed",
    "start changes a default",
    "start with another task",
    "start with too many items",
    "start with too few items",
    "start with unequal items",
    "start with a value for a list",
    "start that does not go together",
]


def read(text: str) -> Any:
    """As an editor does: plain values, whatever they mean. Raises YAMLError."""
    return yaml.load(text, Loader)


def readable(text: str) -> bool:
    try:
        read(text)
    except yaml.YAMLError:
        return False
    return True


def test_the_committed_schema_is_fresh() -> None:
    main = "from automl.cli import main; main()"  # a process of its own: no parts of other tests
    made = subprocess.run(
        [sys.executable, "-c", main, "space", "schema"], capture_output=True, text=True, check=True
    )
    assert made.stdout == COMMITTED.read_text(), f"to renew it: {COMMAND}"


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", TEXTS)
def test_a_good_space_passes(name: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(read(TEXTS[name]))] == []


@pytest.mark.parametrize("name", [name for name, (text, _) in BROKEN.items() if readable(text)])
def test_a_broken_space_is_underlined(name: str) -> None:
    assert VALIDATOR.is_valid(read(BROKEN[name][0])) == (name in UNSEEN)


@pytest.mark.parametrize("name", sorted(SCHEMA["$defs"].keys() - HOLES.keys()))
def test_every_knob_is_explained(name: str) -> None:
    knobs = SCHEMA["$defs"][name].get("properties", {})
    assert [knob for knob in knobs if knob != "name" and not knobs[knob].get("description")] == []
