"""What all tests stand on: a cache of their own, no data from outside, one thread."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

from automl import cli

Command = Callable[..., tuple[object, str, str]]

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
