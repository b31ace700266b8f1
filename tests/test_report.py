"""The report of a study: what it says, that it opens anywhere, and that nothing in it is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from test_search import SPACE, go

from automl.searching.finals import Finals
from automl.searching.study import Study

LABEL = "</script><script>document.title='run'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = tmp_path_factory.mktemp("studies")
    go(studies, SPACE, trials=6, finals=Finals(2, 2))
    study = Study.open("s", studies)
    made = study.report()
    first = made.read_bytes()
    assert study.report().read_bytes() == first, "the same study, the same page"
    return made


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opens_on_any_screen_offline(
    page: Path, browser: Browser, width: int, scheme: str
) -> None:
    told: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type] # one of two words
        offline=True,
    )
    opened = context.new_page()
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.goto(page.as_uri())
    opened.wait_for_selector(".main-svg")
    assert told == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    text = opened.inner_text("body")
    best = Study.open("s", page.parents[1]).best.metrics
    assert f"{best['test']['accuracy']:.4f}" in text
    assert f"{best['finalists'][0]['mean']:.4f}" in text
    assert "FrozenTrial" not in text
    context.close()


@pytest.mark.browser
def test_what_a_study_is_called_is_never_run(page: Path, browser: Browser, tmp_path: Path) -> None:
    """Nor what its data calls its classes: labels lie in metrics.json, which may be anybody's."""
    shutil.copytree(page.parent, tmp_path / "s")
    file = tmp_path / "s" / "best" / "metrics.json"
    told = json.loads(file.read_text())
    told["classes"][0]["label"] = told["baseline"]["name"] = LABEL
    file.write_text(json.dumps(told))
    opened = browser.new_page()
    opened.goto(Study.open("s", tmp_path).report().as_uri())
    opened.wait_for_selector(".main-svg")
    assert opened.title() != "run"
    assert LABEL in opened.inner_text("body")
