"""A study in optuna-dashboard: what it is told at the end of a search, and its pages.

Finished trials take no attributes any more, and artifacts are attributes; so the pictures of trials
are noted in the study, under the keys by which the dashboard finds them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import torch
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

from automl.data import Data
from automl.errors import OptionError
from automl.results import pictures
from automl.results.delivery import Training
from automl.results.judgement import averaged
from automl.results.leaderboard import curve_of
from automl.searching.study import Study, storage

FOLDER = "artifacts"
PICTURED = 3  # trials, the best ones
SHOWN = 6  # pictures with what is found in them
PORT = 8080  # if it is free and none is asked for
SEEN = {  # files of a study that its pages may link to, and how a browser is to take them
    "report.html": "text/html; charset=utf-8",
    "leaderboard.csv": "text/plain; charset=utf-8",
    "best/card.md": "text/plain; charset=utf-8",
}
OURS = "Searched by automl."  # what a note that may be written over begins with

Start = Callable[..., Any]
Pages = Callable[[dict[str, Any], Start], Iterable[bytes]]


def illustrate(study: Study, best: Sequence[Training], data: Data) -> None:
    """Pictures of these trials, in place of those of an earlier end, and a note on the study."""
    opened = study.optuna
    kept, of = opened._storage, opened._study_id
    metric = study.task.metric.name
    trials = opened.get_trials(deepcopy=False)
    folder = study.path / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wanted: dict[str, Any] = {}
    for training in best:
        trial = trials[training.trial]
        drawn = {"learning curve": pictures.curve(curve_of(trial), metric)}
        shares = training.probabilities(data.valid.y)
        if shares is not None:
            found = averaged(shares, data.valid.y, training.config.task).confusion
            drawn["confusion matrix"] = pictures.confusion(found, data.labels)
            if sheet := pictures.mistakes(data, shares):
                drawn["most confident mistakes"] = sheet
        if study.task.tells == "boxes":
            few = data.valid[torch.arange(min(SHOWN, len(data.valid)))]
            drawn["what it finds"] = pictures.detections(few, training.finds(data, few))
        for name, content in drawn.items():
            number = hashlib.sha256(f"{training.trial}".encode() + content).hexdigest()
            (folder / number).write_bytes(content)
            told = ArtifactMeta(number, f"{name}.png", "image/png", None)
            wanted[f"dashboard:artifacts:{trial._trial_id}:{number}"] = json.dumps(asdict(told))

    there = kept.get_study_system_attrs(of)
    for key in there:
        if key.startswith("dashboard:artifacts:"):
            wanted.setdefault(key, json.dumps(None))
    text, before = note(opened), there.get("dashboard:note_str:0", OURS)
    if before.startswith(OURS) and before != text:
        version = there.get("dashboard:note_ver", 0) + 1
        wanted |= {"dashboard:note_str:0": text, "dashboard:note_ver": version}
    for key, value in wanted.items():
        if there.get(key) != value:
            kept.set_study_system_attr(of, key, value)


def note(opened: optuna.Study) -> str:
    """Markdown: where the rest is, and the finalists."""
    lines = [f"{OURS} [The report](/study/report.html) says how good the best model is, and why."]
    if told := opened.user_attrs.get("finalists", []):
        lines += ["", "| trial | in the search | trained again | seeds |", "|---|---|---|---|"]
        for one in told[:10]:
            spread = "" if one["spread"] is None else f" ± {one['spread']:.4f}"
            again = f"{one['mean']:.4f}{spread} | {len(one['seeds'])}"
            lines.append(f"| {one['trial']} | {one['search']:.4f} | {again} |")
    return "\n".join(lines)


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a terminal is not for the requests of a page."""


def server(study: Study, port: int | None = None) -> tuple[WSGIServer, str]:
    """The pages, not served yet, and the address of the study's. Raises OptionError.

    On this machine alone. Without a port it takes its usual one or, where that is taken, any.
    """
    from optuna_dashboard import wsgi

    store = FileSystemArtifactStore(study.path / FOLDER)
    pages = wsgi(storage(study.path / "journal.log"), artifact_store=store)
    for wanted in (PORT, 0) if port is None else (port,):
        try:
            made = make_server("127.0.0.1", wanted, pages, _Threaded, _Quiet)
            break
        except OSError as error:
            if port is not None or wanted == 0:
                raise OptionError(f"--port {wanted}: {error.strerror}; give another one") from error
    made.set_app(guarded(pages, made.server_port, study.path))
    where = f"http://127.0.0.1:{made.server_port}/dashboard/studies/{study.optuna._study_id}"
    return made, where


def guarded(pages: Pages, port: int, folder: Path) -> Pages:
    """These pages and some files of the study, for requests from pages of this machine only.

    optuna-dashboard takes any Host, so that a page of a stranger whose name is made to lead here
    could read the study; and serves artifacts as what they say they are, scripts too.
    """
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
    origins = {None, *(f"http://{host}" for host in hosts)}

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN")
        if host not in hosts or origin not in origins:
            start("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"automl dashboard answers pages of this machine only\n"]
        path = environ["PATH_INFO"]
        asked = path.removeprefix("/study/")
        if asked in SEEN and (folder / asked).is_file():
            alone = ("Content-Security-Policy", "sandbox allow-scripts allow-popups")
            start("200 OK", [("Content-Type", SEEN[asked]), alone])
            return [(folder / asked).read_bytes()]

        def safe(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            plain = [("X-Content-Type-Options", "nosniff")]
            if path.startswith("/artifacts/"):
                plain.append(("Content-Security-Policy", "default-src 'none'; sandbox"))
            return start(status, [*headers, *plain], *more)

        return pages(environ, safe)

    return answer
