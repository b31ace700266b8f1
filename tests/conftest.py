"""What all tests stand on: a cache of their own, no data from outside, one thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked as forks
import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

from automl import cli

Command = Callable[..., tuple[object, str, str]]
BEGINNERS = ("automl.launch", "automl.searching.run")  # where processes of a search are begun

settings.load_profile("ci")  # no test looks at a clock, and each tries the same cases again


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOML_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("AUTOML_DATA", raising=False)
        torch.set_num_threads(1)  # as the workers do: two cores, several processes
        yield


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache of its own, and no network."""

    def refused(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refused)


@pytest.fixture(scope="session")
def parent() -> Iterator[Path | None]:
    """Where processes answer that have imported PyTorch, for others to be forked from."""
    if sys.platform != "linux":  # PyTorch may not outlive a fork: all begin as usual
        yield None
        return
    with tempfile.TemporaryDirectory() as place:  # the address of a socket has to be short
        words = [sys.executable, "-P", forks.__file__, place]
        surroundings, ends = os.environ | {"OMP_NUM_THREADS": "1"}, subprocess.PIPE
        with subprocess.Popen(
            words, stdin=ends, stdout=ends, env=surroundings, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
            yield Path(place)
            assert process.stdin is not None
            process.stdin.close()


def _forking(place: Path | None) -> Iterator[None]:
    if place is None:
        yield
        return
    own = SimpleNamespace(
        Popen=partial(forks.Forked, place=place),
        PIPE=subprocess.PIPE,
        DEVNULL=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in BEGINNERS:
            patch.setattr(f"{module}.subprocess", own)
        yield


@pytest.fixture
def forked(parent: Path | None) -> Iterator[None]:
    """Searches begin their processes in a tenth of the time, see forked.py."""
    yield from _forking(parent)


@pytest.fixture(scope="module")
def all_forked(parent: Path | None) -> Iterator[None]:
    """The same for all searches of a file, and for those that its tests share."""
    yield from _forking(parent)


@pytest.fixture
def unforked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test among others that are forked: processes are children of this one."""
    for module in BEGINNERS:
        monkeypatch.setattr(f"{module}.subprocess", subprocess)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium without a network of its own. Tests that use it are marked `browser`."""
    path = shutil.which("chromium")
    if path is None:
        assert "CI" not in os.environ, "no chromium here: .ci/run installs it"
        # a browser is no package of Python's, so that a new user's pytest may be without one
        pytest.skip("no chromium here; Debian's package `chromium` has it")
    switches = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
    switches += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=switches)
        yield started
        started.close()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command: its status, what it printed and what it noted."""

    def run(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["automl", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return run
