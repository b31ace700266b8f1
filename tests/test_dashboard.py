"""A study in optuna-dashboard: what it shows, and to whom."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser
from test_search import SPACE, go, snapshot

from automl.data import Data, Split
from automl.errors import OptionError
from automl.inputs.images import Images
from automl.results import pictures
from automl.results.delivery import Training
from automl.searching.dashboard import OURS, PICTURED, PORT, illustrate, note, server
from automl.searching.finals import Finals
from automl.searching.study import Manifest, Study, begin
from automl.space import Space

pytestmark = pytest.mark.usefixtures("all_forked")


@dataclass(frozen=True)
class Served:
    study: Study
    home: str  # http://127.0.0.1:PORT
    page: str  # of the study

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        request = urllib.request.Request(self.home + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def ask(self, path: str) -> Any:
        return json.loads(self.get(path)[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("studies")
    go(place, SPACE, finals=Finals(2, 2))
    study = Study.open("s", place)
    pages, address = server(study)
    thread = threading.Thread(target=pages.serve_forever)
    thread.start()
    yield Served(study, address[: address.index("/dashboard")], address)
    pages.shutdown()
    pages.server_close()
    thread.join()


def detail(served: Served) -> Any:
    return served.ask(f"/api/studies/{served.page.rpartition('/')[2]}")


def test_the_study_says_what_it_is_measured_by_and_where_the_rest_is(served: Served) -> None:
    told = detail(served)
    assert told["objective_names"] == ["accuracy"]
    assert "[The report](/study/report.html)" in told["note"]["body"]
    first = served.study.best.metrics["finalists"][0]
    assert f"{first['mean']:.4f} ± {first['spread']:.4f}" in told["note"]["body"]


def test_trials_say_what_they_took(served: Served) -> None:
    for trial in detail(served)["trials"]:
        attributes = {attr["key"]: attr["value"] for attr in trial["user_attrs"]}
        assert attributes["epochs"] == "4"
        assert int(attributes["params"]) > 0
        assert float(attributes["seconds"]) > 0


def test_the_best_trials_have_pictures_and_no_others_have(served: Served) -> None:
    best = [row.trial for row in served.study.leaderboard if row.state == "finished"]
    found = {trial["number"]: trial["artifacts"] for trial in detail(served)["trials"]}
    assert {number for number, told in found.items() if told} == set(best[:3])
    for number in best[:3]:
        names = [one["filename"] for one in found[number]]
        assert names[:2] == ["learning curve.png", "confusion matrix.png"]
    trial = next(t for t in detail(served)["trials"] if t["number"] == best[0])
    where = f"/artifacts/{served.page.rpartition('/')[2]}/{trial['trial_id']}"
    for one in trial["artifacts"]:
        status, raw, headers = served.get(f"{where}/{one['artifact_id']}")
        assert status == 200
        assert Image.open(io.BytesIO(raw)).format == "PNG"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in headers["Content-Security-Policy"]


def test_what_is_found_is_blue_where_it_is_right() -> None:
    x = torch.full((3, 3, 77, 154), 200, dtype=torch.uint8)  # shown at twice the size
    y = torch.full((3, 1, 6), -1.0)
    y[:2] = torch.tensor([[0, 20, 10, 60, 50, 1.0]])
    rows = torch.full((3, 2, 6), -1.0)
    rows[0, 0] = torch.tensor([0, 20, 10, 60, 50, 0.9])
    rows[1, 0] = torch.tensor([0, 100, 10, 140, 50, 0.9])
    rows[1, 1] = torch.tensor([0, 100, 60, 140, 70, 0.2])  # not sure enough
    sheet = Image.open(io.BytesIO(pictures.detections(Split(x, y), rows)))
    paper = (200,) * 3

    def at(number: int, x: int, y: int) -> Any:
        return sheet.getpixel((8 + 320 * (number % 2) + 2 * x, 8 + 166 * (number // 2) + 2 * y))

    assert at(0, 20, 30) == at(0, 40, 10) == at(0, 60, 50) == pictures.BLUE
    assert at(1, 100, 30) == pictures.ORANGE
    assert at(1, 20, 30) == (34, 34, 34)  # overlooked
    assert at(0, 40, 30) == at(1, 120, 60) == at(2, 20, 30) == paper


def finished(study: Study) -> list[Training]:
    space, trials = Space.load(study.path / "space.yaml"), study.optuna.get_trials()
    return [
        Training(
            row.trial,
            space.with_values(trials[row.trial].params),
            study.path / "trials" / f"{row.trial:04d}" / "checkpoint.pt",
        )
        for row in study.leaderboard
    ]


@pytest.fixture
def copied(served: Served, tmp_path: Path) -> Study:
    """The same study, to be written."""
    shutil.copytree(served.study.path, tmp_path / "s")
    return Study.open("s", tmp_path)


def attributes(study: Study) -> dict[str, Any]:
    return study.optuna._storage.get_study_system_attrs(study.optuna._study_id)


def test_the_same_search_again_adds_nothing(copied: Study) -> None:
    before = snapshot(copied.path)
    illustrate(copied, finished(copied)[:PICTURED], copied.task.load(None))
    assert snapshot(copied.path).keys() == before.keys()
    assert (copied.path / "journal.log").read_bytes() == before[f"{copied.path}/journal.log"][0]


def test_pictures_of_trials_that_are_no_longer_the_best_go(copied: Study) -> None:
    last = finished(copied)[PICTURED]
    illustrate(copied, [last], copied.task.load(None))
    there = {
        key.rpartition(":")[2]: int(key.split(":")[2])
        for key, value in attributes(copied).items()
        if key.startswith("dashboard:artifacts:") and json.loads(value)
    }
    assert {file.name for file in (copied.path / "artifacts").iterdir()} == set(there)
    trials = copied.optuna.get_trials(deepcopy=False)
    assert set(there.values()) == {trials[last.trial]._trial_id}


@pytest.mark.parametrize("body", ["my own words", OURS + " An older one."])
def test_a_note_of_somebody_else_is_left_alone(body: str, copied: Study) -> None:
    opened = copied.optuna
    opened._storage.set_study_system_attr(opened._study_id, "dashboard:note_str:0", body)
    illustrate(copied, [], copied.task.load(None))
    now = attributes(copied)["dashboard:note_str:0"]
    assert now == (note(copied.optuna) if body.startswith(OURS) else body)


def test_two_goals_have_two_names(tmp_path: Path) -> None:
    space = Space.parse(SPACE.replace("sampler: random", "metric: [accuracy, params]"))
    manifest = Manifest(space.digest, "digits", "", 0, "", {})
    study = begin(tmp_path, space, manifest, space.task.metric)
    assert study.metric_names == ["accuracy", "params"]


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:{port}"}, {"Origin": "http://evil.example"}],
    ids=str,
)
def test_pages_of_strangers_are_told_nothing(headers: dict[str, str], served: Served) -> None:
    port = served.home.rpartition(":")[2]
    asked = {name: value.replace("{port}", port) for name, value in headers.items()}
    for path in ("/api/studies", "/study/report.html", "/dashboard"):
        status, body, _ = served.get(path, **asked)
        assert (status, body) == (403, b"automl dashboard answers pages of this machine only\n")
    assert served.get("/api/studies", Origin=served.home)[0] == 200


def test_files_that_pages_link_to_are_there_and_no_others(served: Served) -> None:
    status, page, headers = served.get("/study/report.html")
    assert status == 200
    assert page == (served.study.path / "report.html").read_bytes()
    assert headers["Content-Security-Policy"].startswith("sandbox")
    assert served.get("/study/best/card.md")[0] == 200
    for path in ("/study/manifest.json", "/study/../s/manifest.json", "/study/%2e%2e/x"):
        assert served.get(path)[0] == 404


def test_a_port_that_is_taken_is_another_one_or_one_line(served: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"--port {port}: Address already in use; give"):
            server(served.study, port)
    pages, address = server(served.study)  # 8080, or another one where that is taken
    second, other = server(served.study)
    pages.server_close()
    second.server_close()
    assert address != other
    assert f":{PORT}/" not in other


@pytest.mark.browser
def test_the_pages_are_drawn(served: Served, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    shown = context.new_page()
    said: list[str] = []
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.goto(served.page)
    shown.wait_for_selector(".plotly .scatterlayer")
    assert "Objective 0" not in shown.inner_text("body")
    best = served.study.leaderboard[0].trial
    shown.goto(f"{served.page}/trials?numbers={best}")
    shown.wait_for_selector("img[src*='/artifacts/']")
    loaded = "[...document.images].filter((one) => one.src.includes('/artifacts/'))"
    shown.wait_for_function(f"{loaded}.every((one) => one.naturalWidth > 100)")
    shown.goto(f"{served.page}/note")
    shown.click("text=The report")
    shown.wait_for_selector("html[data-drawn]")
    assert said == []
    context.close()


def test_pictures_show_what_they_are_made_of() -> None:
    x = torch.stack([torch.full((1, 8, 8), value, dtype=torch.uint8) for value in (0, 200)])
    split = Split(x, torch.tensor([0, 1]))
    data = Data(split, split, Images((1, 8, 8)), ("no", "yes"), "")
    right, wrong = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    assert pictures.mistakes(data, right) is None
    sheet = Image.open(io.BytesIO(pictures.mistakes(data, wrong) or b""))
    assert sheet.getpixel((50, 50)) == (200, 200, 200)
    counts = torch.tensor([[3, 0], [1, 1]])
    matrix = Image.open(io.BytesIO(pictures.confusion(counts, data.labels)))
    assert matrix.getpixel((122, 122)) == pictures.BLUE
    assert matrix.getpixel((162, 122)) == (255, 255, 255)
    many = pictures.confusion(torch.eye(300, dtype=torch.int64), [str(k) for k in range(300)])
    assert max(Image.open(io.BytesIO(many)).size) < 1000
    line = Image.open(io.BytesIO(pictures.curve([0.5, float("inf")], "accuracy")))
    assert pictures.BLUE in {colour for _, colour in line.getcolors(2**20) or []}
