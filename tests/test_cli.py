"""The commands as a person types them: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from automl import amounts, cli

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text(encoding="utf-8")
SPACE = """
task: {name: digits, per_class: 30}
model: {name: mlp, widths: [{int: [8, 64]}]}
optimizer: {name: adamw, lr: {float: [1e-3, 3e-2], log: true}}
train: {epochs: 3, batch_size: 32}
"""


@dataclass(frozen=True)
class Ended:
    status: int | str | None
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def automl(
    forked: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Run a command in this process, as its entry point does."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["automl", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capfd.readouterr()
        return Ended(ended.value.code, told.out, told.err)

    return run


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One search by the command, in a process of its own and with its outputs beside it."""
    place = tmp_path_factory.mktemp("place")
    (place / "small.yaml").write_text(SPACE)
    words = [
        "search",
        "small.yaml",
        "--trials",
        "3",
        "--studies",
        "studies",
        "--device",
        "cpu",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "automl.cli", *words], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (place / "out").write_text(done.stdout)
    (place / "err").write_text(done.stderr)
    return place / "studies"


def snapshot(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}


def test_json_is_one_document_and_progress_goes_elsewhere(studies: Path) -> None:
    told = json.loads((studies.parent / "out").read_text())
    assert told["trials"] == 3
    assert told["test"]["accuracy"] > 0.5
    assert len(told["leaderboard"]) == 3
    progress = (studies.parent / "err").read_text()
    assert "\x1b" not in progress  # no colours where nobody looks
    assert progress.count("| batch 32") == 3  # one line a trial
    assert "by chance" in progress


def test_the_same_command_again_prints_the_answer_and_changes_nothing(
    studies: Path, automl: Command
) -> None:
    before = snapshot(studies / "small" / "best")
    space = studies.parent / "small.yaml"
    done = automl("search", space, "--trials", 3, "--studies", studies, "--device", "cpu", "-q")
    assert done.status == 0
    assert done.err == ""
    assert f"automl.load_best('small', studies={str(studies)!r})" in done.out
    assert "test accuracy" in done.out
    assert snapshot(studies / "small" / "best") == before


def test_fewer_trials_than_are_done_is_no_odd_share(studies: Path, automl: Command) -> None:
    space = studies.parent / "small.yaml"
    done = automl("search", space, "--trials", 2, "--studies", studies, "--device", "cpu")
    assert done.status == 0
    assert "goes on  3 trials done, 0 under way" in done.err


@pytest.mark.parametrize(
    ("given", "rounds"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_that_wait_soon_leave_their_cores_unless_they_are_told_otherwise(
    given: dict[str, str], rounds: str
) -> None:
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    ran = subprocess.run(
        [sys.executable, "-c", "import automl.cli, torch"],
        capture_output=True,
        text=True,
        check=True,
        env=rest | given | {"OMP_DISPLAY_ENV": "VERBOSE"},
    )
    told = re.findall(r"GOMP_SPINCOUNT ?= ?'(\d+)'", ran.stderr)
    assert set(told) <= {rounds}, "what the threads of torch are told, where they are GNU's"


def test_the_line_that_loads_the_model_does(studies: Path, automl: Command) -> None:
    space = studies.parent / "small.yaml"
    done = automl("search", space, "--trials", 3, "--studies", studies, "-q")
    code = done.out[done.out.index("import automl") :] + "\nprint(len(model.labels))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "10\n"


def test_a_terminal_that_lacks_a_sign_is_told_the_rest(studies: Path) -> None:
    words = ["leaderboard", "small", "--studies", str(studies)]
    shown = subprocess.run(
        [sys.executable, "-m", "automl.cli", *words],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert re.search(r"0\.\d{4} \? 0\.\d{4} \(3\)", shown.stdout), "the sign of a spread"


def test_who_closed_the_output_is_told_nothing_and_no_bug(studies: Path) -> None:
    command = f"exec {sys.executable} -m automl.cli search small.yaml --trials 3 --device cpu >&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=studies.parent, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_the_leaderboard_is_shown_and_cut(studies: Path, automl: Command) -> None:
    shown = automl("leaderboard", "small", "--studies", studies, "--top", 2).out
    *table, blank, counts = shown.strip().splitlines()
    assert (len(table), blank, counts) == (3, "", "3 trials: 3 finished")
    told = json.loads(automl("leaderboard", "small", "--studies", studies, "--json").out)
    assert [row["rank"] for row in told] == [1, 2, 3]


def test_predict_gives_one_line_a_picture(studies: Path, automl: Command, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file in files:
        Image.new("L", (20, 30), 128).save(file)
    lines = automl("predict", "small", *files, "--studies", studies).out.splitlines()
    assert [line.split()[0] for line in lines] == [str(file) for file in files]
    told = json.loads(automl("predict", "small", *files, "--studies", studies, "--json").out)
    assert sum(told[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_delivered_config_trains_again(studies: Path, automl: Command, tmp_path: Path) -> None:
    config = studies / "small" / "best" / "config.yaml"
    done = automl("train", config, "--out", tmp_path / "again", "--device", "cpu", "--json")
    assert done.status == 0
    scores = json.loads((studies / "small" / "best" / "metrics.json").read_text())
    assert json.loads(done.out)["valid"] == scores["valid"]  # one seed, one machine, one result
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again"]

    before = snapshot(tmp_path)  # and over itself
    assert automl("train", config, "--out", tmp_path / "again", "--device", "cpu").status == 0
    assert snapshot(tmp_path).keys() == before.keys()


def test_what_there_is_can_be_listed(automl: Command) -> None:
    listed = automl("list").out
    for name in ("cifar5k", "digits", "imagefolder", "cnn", "mlp", "muon", "convnext", "wsd"):
        assert re.search(rf"\b{name}\b", listed)


def test_doctor_tells_versions_devices_and_places(automl: Command) -> None:
    told = automl("doctor").out
    for word in ("torch", "optuna", "cpu", "cache", "free disk", "workers"):
        assert word in told


def test_a_space_is_checked_and_shown(automl: Command) -> None:
    assert automl("space", "check", "digits").out.endswith(": good\n")
    shown = automl("space", "show", "digits", "--draws", 20).out
    assert "optimizer.adamw.lr" in shown
    assert "parameters over 20 random draws" in shown


def test_a_search_without_a_model_does_not_end_as_if_it_had_one(
    tmp_path: Path, automl: Command
) -> None:
    """So that `automl search ... && deploy` deploys nothing."""
    space = tmp_path / "slow.yaml"
    space.write_text("search: {max_train_seconds: 1e-6}" + SPACE)
    ended = automl("search", space, "--trials", 1, "--studies", tmp_path, "--device", "cpu")
    assert "no trial was scored; 1 trial: 1 too slow; more --trials try others" in ended.out
    assert ended.status == 1


WRONG = {
    "space: a name that is none": (["search", "cifr"], "did you mean 'cifar'?"),
    "space: a file that is none": (["search", "none.yaml"], "none.yaml: cannot be read"),
    "space: a knob that is none": (["search", "knob.yaml"], "did you mean 'widths'?"),
    "space: a limit below all models": (["search", "limit.yaml"], "max_params: 10"),
    "data: a folder that is none": (["search", "digits", "--data", "nowhere"], "--data"),
    "data: not there and no network": (["search", "folder.yaml"], "no folder train/"),
    "data: one class only": (["search", "folder.yaml", "--data", "single"], "want at least 2"),
    "option: no trials": (["search", "digits", "--trials", "0"], "--trials: got 0"),
    "option: a time that is none": (["search", "digits", "--time", "soon"], "--time: got 'soon'"),
    "option: hardly any time": (["search", "digits", "--time", "1s"], "--time: got 1 s"),
    "option: a device that is none": (["search", "digits", "--device", "tpu9"], "--device tpu9"),
    "option: a device without numbers": (["search", "digits", "--device", "meta"], "--device meta"),
    "option: no name": (["search", "digits", "--name", ""], "study ''"),
    "option: a seed beyond all": (["search", "digits", "--seed", "2147483648"], "--seed: got"),
    "option: studies in a file": (
        ["search", "digits", "--studies", "good.yaml"],
        "good.yaml/digits",
    ),
    "option: no workers": (["search", "digits", "--workers", "0"], "--workers: got 0"),
    "option: a plugin that is none": (["search", "digits", "--plugin", "x.py"], "--plugin x.py"),
    "option: a name that leads elsewhere": (["search", "digits", "--name", "../up"], "'../up'"),
    "option: out is a file": (["train", "full.yaml", "--out", "good.yaml"], "--out: good.yaml"),
    "option: out is in use": (["train", "full.yaml", "--out", "single"], "--out: single holds"),
    "option: out below a file": (
        ["train", "full.yaml", "--out", "good.yaml/x"],
        "good.yaml/x: can",
    ),
    "option: out where nothing can be": (
        ["train", "full.yaml", "--out", "/proc/x"],
        "/proc/x: cann",
    ),
    "option: a portfolio's folder is none": (
        ["portfolio", "build", "none", "--out", "nodir/x.json"],
        "--out: nodir: is no folder",
    ),
    "option: a portfolio is a folder": (
        ["portfolio", "build", "none", "--out", "dir.json"],
        "--out: got 'dir.json'; want a file that ends in .json",
    ),
    "data: none to train with": (
        ["train", "photos.yaml", "--out", "new/place/m"],
        "no folder train/",
    ),
    "config: with holes": (["train", "good.yaml"], "left open"),
    "study: none of that name": (["leaderboard", "none"], "no study is called 'none'"),
    "study: none to predict with": (["predict", "none", "a.png"], "no study is called 'none'"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_one_line_and_writes_nothing(
    words: list[str],
    told: str,
    automl: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(SPACE)
    (tmp_path / "full.yaml").write_text("task: digits\nmodel: mlp\n")
    (tmp_path / "knob.yaml").write_text(SPACE.replace("widths", "width"))
    (tmp_path / "limit.yaml").write_text(SPACE + "search: {max_params: 10}\n")
    (tmp_path / "folder.yaml").write_text(SPACE.replace("digits", "imagefolder"))
    (tmp_path / "photos.yaml").write_text("task: imagefolder\nmodel: mlp\n")
    (tmp_path / "single" / "train" / "a").mkdir(parents=True)
    (tmp_path / "dir.json").mkdir()
    before = snapshot(tmp_path)
    done = automl(*words)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("automl: ")
    assert told in done.err
    assert done.err.count("\n") == 1
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "studies").exists()


def test_a_model_wants_a_folder_that_has_a_name(
    automl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full.yaml").write_text("task: digits\nmodel: mlp\n")
    monkeypatch.chdir(tmp_path / "empty")
    done = automl("train", tmp_path / "full.yaml", "--out", ".")
    assert done.status == 2
    assert done.err.startswith("automl: --out: .: cannot be written (")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--seed", "1"], "another seed"),
        (["other.yaml", "--name", "small"], "another space"),
        (["data.yaml", "--name", "small"], "another space"),
    ],
    ids=["seed", "space", "data"],
)
def test_a_study_begun_with_something_else_is_left_alone(
    change: list[str], told: str, studies: Path, automl: Command
) -> None:
    place = studies.parent
    (place / "other.yaml").write_text(SPACE.replace("64", "63"))
    (place / "data.yaml").write_text(SPACE.replace("per_class: 30", "per_class: 29"))
    before = snapshot(studies)
    space, *options = change if change[0].endswith("yaml") else ["small.yaml", *change]
    done = automl("search", place / space, "--studies", studies, "--trials", 3, *options)
    assert done.status == 2
    assert told in done.err
    assert done.err.count("\n") == 1
    assert snapshot(studies) == before


def commands() -> dict[str, Any]:
    root = typer.main.get_command(cli.app)
    found: dict[str, Any] = {}
    todo = [("", root)]
    while todo:
        name, command = todo.pop()
        children = getattr(command, "commands", None)
        if children is None:
            found[name] = command
        else:
            todo += [(f"{name} {child}".strip(), made) for child, made in children.items()]
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_is_explained(name: str) -> None:
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


LINES = sorted(set(re.findall(r"^automl .*$", README, re.M)))
CHEAP = {"list", "doctor", "space check", "space show", "space schema"}


def test_the_readme_shows_how_to_use_it() -> None:
    assert len(LINES) >= 8


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_the_readme_is_a_command_that_exists(
    line: str, automl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line.partition(">")[0])[1:]
    name = next(n for n in commands() if words[: len(n.split())] == n.split())
    context = commands()[name].make_context(
        name, words[len(name.split()) :], resilient_parsing=False
    )
    assert context.params is not None
    if name in CHEAP:
        (tmp_path / "my.yaml").write_text(SPACE)
        monkeypatch.chdir(tmp_path)
        assert automl(*words).status == 0


def test_the_readme_is_what_ci_installs_and_tests() -> None:
    installs = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert [line.rpartition("&& ")[2] for line in installs] == [
        "automl search digits --trials 20",
        "pytest -n auto",
    ]


@pytest.mark.parametrize(
    ("number", "told"), [(0.0324, "0.0324"), (48.72, "48.7"), (120.4, "120"), (1523.0, "1,523")]
)
def test_amounts_have_no_exponents(number: float, told: str) -> None:
    assert amounts.told(number) == told


def test_what_a_plugin_prints_is_no_result(studies: Path, tmp_path: Path, automl: Command) -> None:
    (tmp_path / "loud.py").write_text("print('hello')\n")
    words = "leaderboard", "small", "--studies", studies, "--plugin", tmp_path / "loud.py"
    told = automl(*words, "--json")
    assert len(json.loads(told.out)) == 3
    assert "hello" in told.err


def test_the_readmes_own_part_is_a_part(tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text(
        next(
            code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "my-linear" in code
        )
    )
    (tmp_path / "my.yaml").write_text(
        "task: digits\nmodel: {name: my-linear, dropout: {float: [0, 0.5]}}\n"
    )
    words = [sys.executable, "-m", "automl.cli", "space", "check", "my.yaml"]
    known = subprocess.run(
        [*words, "--plugin", "my_parts.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert known.stdout.endswith("1 knobs, 650 to 650 parameters: good\n"), known.stderr
    unknown = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert unknown.returncode == 2
    told = tmp_path / "site" / "my-1.0.dist-info" / "entry_points.txt"  # as of an installed package
    told.parent.mkdir(parents=True)
    told.write_text("[automl.parts]\nmine = my_parts\n")
    (tmp_path / "my_parts.py").rename(told.parents[1] / "my_parts.py")
    beside = os.environ | {"PYTHONPATH": str(told.parents[1])}
    installed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=beside)
    assert installed.stdout == known.stdout, installed.stderr


def test_the_dashboard_shows_the_study_to_this_machine_alone(studies: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["dashboard", "small", "--studies", str(studies), "--port", str(port), "--no-open"]
    server = subprocess.Popen(
        [sys.executable, "-m", "automl.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stdout is not None
        told = server.stdout.readline()  # printed once it listens
        assert told.startswith(f"http://127.0.0.1:{port}/dashboard/studies/")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=60) as page:
                summaries = json.load(page)["study_summaries"]
            if summaries:
                break
        assert [summary["study_name"] for summary in summaries] == ["small"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard/", timeout=60) as page:
            assert b"<html" in page.read().lower()
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


@pytest.mark.parametrize(("words", "shown"), [([], 1), (["--no-open"], 0)])
def test_the_dashboard_opens_the_page_of_the_study(
    words: list[str], shown: int, studies: Path, automl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pages:
        def serve_forever(self) -> None:
            raise KeyboardInterrupt

        def server_close(self) -> None:
            print("closed")

    address, seen = "http://127.0.0.1:1/dashboard/studies/0", list[str]()
    monkeypatch.setattr("automl.searching.dashboard.server", lambda *_: (Pages(), address))
    monkeypatch.setattr("webbrowser.open", seen.append)
    done = automl("dashboard", "small", "--studies", studies, *words)
    assert done.out == f"{address}  (Ctrl-C ends it)\nclosed\n"
    assert seen == [address] * shown


WITH_PARTS = {
    "leaderboard": [],
    "predict": ["a.png"],
    "export": ["--to", "safetensors"],
    "reproduce": ["--trial", "0"],
    "report": [],
}


@pytest.mark.parametrize("name", WITH_PARTS)
def test_parts_of_ones_own_are_known_before_a_study_is_opened(
    name: str, automl: Command, tmp_path: Path
) -> None:
    (tmp_path / "parts.py").write_text("raise FileExistsError('it is run')\n")
    done = automl(name, "none", *WITH_PARTS[name], "--plugin", tmp_path / "parts.py")
    assert done.status == 1
    assert done.err.endswith("FileExistsError: it is run\n\n")


UNLOADED = {
    "import nosuch": "ModuleNotFoundError: No module named 'nosuch'",
    "raise SystemExit(3)": "SystemExit: 3",
    "def build(:": "SyntaxError: invalid syntax",
    "raise BaseException": "BaseException",
}


@pytest.mark.parametrize("code", UNLOADED)
def test_a_plugin_that_does_not_load_is_named_before_its_traceback(
    code: str, automl: Command, tmp_path: Path
) -> None:
    file = tmp_path / "parts.py"
    file.write_text(f"\n{code}\n")
    done = automl("space", "check", "digits", "--plugin", file)
    assert done.status == 1
    first, second, *_, last = done.err.rstrip().splitlines()
    assert first == f"automl: --plugin {file}: does not load:"
    assert second == "Traceback (most recent call last):"
    assert f'File "{file}", line 2' in done.err
    assert last == UNLOADED[code]


def test_nobody_but_the_user_interrupts_a_plugin(automl: Command, tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("raise KeyboardInterrupt\n")
    assert automl("space", "check", "digits", "--plugin", tmp_path / "parts.py").status == 130


def test_a_part_that_lacks_methods_is_told_with_their_names(
    automl: Command, tmp_path: Path
) -> None:
    file, space = tmp_path / "parts.py", tmp_path / "my.yaml"
    file.write_text(
        "from typing import Literal\nimport automl\n"
        'class Mine(automl.Model):\n    name: Literal["mine"] = "mine"\n'
    )
    space.write_text("task: digits\nmodel: mine\n")
    done = automl("space", "check", space, "--plugin", file)
    assert done.status == 2
    told = f"model: model 'mine' of {file} lacks build; want what every model has\n"
    assert done.err == f"automl: {space}:2: {told}"


def test_an_export_says_what_is_not_in_it(studies: Path, automl: Command, tmp_path: Path) -> None:
    shutil.copytree(studies / "small", tmp_path / "small")
    (tmp_path / "small" / "ensemble").mkdir(exist_ok=True)
    file = tmp_path / "small.safetensors"
    done = automl("export", "small", "--to", "safetensors", "--studies", tmp_path, "--out", file)
    assert done.status == 0
    assert done.err == f"{tmp_path / 'small' / 'ensemble'} is not in it: a file holds one model\n"


def test_python_does_what_the_command_does(tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(
        "from typing import Literal\nfrom torch import nn\nimport automl\n"
        "class Flat(automl.Model):\n"
        '    name: Literal["flat"] = "flat"\n'
        "    def build(self, inputs, outputs):\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))\n"
    )
    (tmp_path / "my.yaml").write_text(
        SPACE.replace("{name: mlp, widths: [{int: [8, 64]}]}", "flat")
    )
    code = (
        "import automl\n"  # no `if __name__` around it: workers are no copies of the script
        "options = {'trials': 2, 'studies': 'there', 'plugins': ['flat.py'], 'workers': 1}\n"
        "study = automl.search('my.yaml', **options)\n"
        "print(len(study.leaderboard), study.best.params)\n"
    )
    (tmp_path / "script.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.stdout == "2 650\n", ran.stderr
