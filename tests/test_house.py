"""Who may import whom, and what is written nowhere. The table is CONTRIBUTING's map as data."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import automl

HOUSE = Path(automl.__file__).parent
FLOORS = [  # a file may import from floors above its own, and from its own room
    ["errors", "launch"],
    ["boxes", "data", "size", "amounts", "places"],
    ["cache"],
    ["config"],
    ["tables"],
    ["inputs"],
    ["models", "tasks", "optimizers", "schedules", "augment", "federation"],
    ["holes", "reader", "space", "schema", "given"],
    ["training"],
    ["engines"],
    ["results"],
    ["exports"],
    ["searching"],
    ["screen", "cli"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SHARED = {
    "automl.exports.whole",
    "automl.models.columns",
    "automl.models.layers",
    "automl.inputs.images",
    "automl.inputs.text",
    "automl.models.fcos",
    "automl.tasks.annotations",
    "automl.tasks.boxes",
    "automl.tasks.classes",
    "automl.tasks.files",
    "automl.tasks.folders",
    "automl.tasks.images",
    "automl.tasks.pairs",
    "automl.tasks.sounds",
    "automl.tasks.series",
    "automl.tasks.source",
    "automl.tasks.texts",
}  # what several parts of a room share
ONLY_IN = {
    "jinja2": {"results"},
    "markupsafe": {"results"},
    "optuna": {"searching", "results"},
    "optuna_dashboard": {"searching"},
    "typer": {"cli"},
    "plotly": {"results"},
    "rich": {"screen"},
    "onnx": {"exports"},
    "onnxruntime": {"exports"},
    "onnxscript": {"exports"},
    "safetensors": {"results", "cache", "exports"},
    "soundfile": {"inputs"},
    "tokenizers": {"inputs"},
    "torchvision": {"tasks"},
    "yaml": {"reader", "tasks"},
}
LATE = {"onnx", "onnxruntime", "onnxscript", "plotly", "scipy", "sklearn", "torchvision"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "print", "input"}
FORBIDDEN_MODULES = {"dill", "cloudpickle", "shelve", "marshal"}

FILES = sorted(HOUSE.rglob("*.py"))


def module(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    return [*name.split("."), ""][1]


def runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which import nothing."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from runtime(child)


def imports(path: Path) -> Iterator[str]:
    for node in runtime(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_one_way(path: Path) -> None:
    here = module(path)
    for name in imports(path):
        there = room(name)
        if not name.startswith("automl") or not room(here):
            continue
        if there == room(here):
            parts = there in ("inputs", "models", "tasks", "exports")
            assert not parts or ".".join(name.split(".")[:3]) in SHARED | {f"automl.{there}"}
            continue
        assert FLOOR[there] <= FLOOR[room(here)], f"{here} imports {name}"
        level = FLOOR[there] == FLOOR[room(here)]
        allowed = (room(here), there) in {
            ("reader", "holes"),
            ("space", "holes"),
            ("space", "reader"),
            ("schema", "reader"),
            ("schema", "space"),
            ("cli", "screen"),
        }
        assert not level or allowed, f"{here} imports {name}, of the same floor"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path):
        library = name.split(".")[0]
        if library in ONLY_IN:
            assert room(module(path)) in ONLY_IN[library], f"{module(path)} imports {library}"
        assert library not in FORBIDDEN_MODULES


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nothing_is_evaluated_unpickled_swallowed_or_printed(path: Path) -> None:
    screen = room(module(path)) in ("screen", "cli")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            forbidden = FORBIDDEN_CALLS - ({"print"} if screen else set())
            assert node.func.id not in forbidden, f"line {node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle."):
            assert node.attr == "UnpicklingError", f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            assert caught not in ("", "Exception", "BaseException"), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_import_waits_for_a_library_that_only_some_calls_need(path: Path) -> None:
    top = [
        n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    names = [n.module or "" for n in top if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in top if isinstance(n, ast.Import) for alias in n.names]
    assert not LATE & {name.split(".")[0] for name in names}


@pytest.mark.parametrize("call", ["import automl", "import automl.cli"])
def test_importing_waits_for_no_torch(call: str) -> None:
    told = f"{call}; import sys; print({{'torch', 'optuna', 'rich', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


PLUGIN = """
import sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: print("loaded:", "torch._dynamo" in sys.modules))
"""
SEARCH = """
import sys
import numpy
import torch
import automl
from automl.config import Optimizer
from automl.space import find, measure
for name in Optimizer.members():
    layer = torch.nn.Linear(3, 4)
    optimizer = Optimizer.of(name).build(layer)
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
for name in ("cifar", "spoken", "sst2", "imdb-lm"):
    space = automl.Space.load(find(name))
    raw, labels = space.task.shape(None)
    for config, _ in space.probes():
        measure(config, config.input.expect(raw), len(labels))
space = automl.Space.parse("{task: digits, model: mlp, train: {epochs: 1}}")
studies, plugin = sys.argv[1:]
study = automl.search(space, name="s", studies=studies, trials=1, workers=1, plugins=[plugin])
study.best.predict(numpy.zeros((8, 8), numpy.uint8))
print("loaded:", "torch._dynamo" in sys.modules)
"""


def test_nothing_waits_for_the_compiler_of_torch(tmp_path: Path) -> None:
    """It takes two seconds and 80 MB, in each process."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    words = [sys.executable, "-c", SEARCH, str(tmp_path), str(plugin)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: False"
    told = (tmp_path / "s" / "workers.log").read_text()
    assert "loaded: False" in told
    assert "loaded: True" not in told


def test_all_that_is_public_can_be_had() -> None:
    for name in automl.__all__:
        assert getattr(automl, name) is not None
