"""What reads files from outside, with any bytes: it answers, or refuses in one line.

As a program it is coverage-guided (atheris, Linux only, `pip install atheris`):

    python tests/faults/fuzz.py TARGET SECONDS

What it finds is written to corpus/TARGET/, which `test_fuzz.py` goes through.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

looking: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
if __name__ == "__main__":
    import atheris

    looking = atheris.instrument_imports(include=["automl", "yaml", "optuna.storages.journal"])
with looking:
    from automl.errors import AutomlError
    from automl.searching.study import Study
    from automl.space import Space
    from automl.tasks import textcsv
    from automl.training import checkpoint

CORPUS = Path(__file__).with_name("corpus")
MANIFEST = '{"space": "", "task": "", "data": "", "seed": 0, "device": "", "versions": {}}'


def space(raw: bytes, folder: Path) -> object:
    (folder / "space.yaml").write_bytes(raw)
    return Space.load(folder / "space.yaml")


def table(raw: bytes, folder: Path) -> object:
    (folder / "table.csv").write_bytes(raw)
    return textcsv._rows(folder / "table.csv", "text", "label", "utf-8")


def lines(raw: bytes, folder: Path) -> object:
    (folder / "lines.jsonl").write_bytes(raw)
    return textcsv._rows(folder / "lines.jsonl", "text", "label", "utf-8")


def state(raw: bytes, folder: Path) -> object:
    """A checkpoint under the digest that it should have, as one who means harm would write it."""
    (folder / "checkpoint.pt").write_bytes(raw + hashlib.sha256(raw).digest())
    return checkpoint.load(folder / "checkpoint.pt")


def journal(raw: bytes, folder: Path) -> object:
    study = folder / "s"
    study.mkdir(exist_ok=True)
    (study / "manifest.json").write_text(MANIFEST)
    (study / "space.yaml").write_text("task: digits\nmodel: mlp\n")
    (study / "journal.log").write_bytes(raw)
    return Study.open("s", folder).leaderboard


TARGETS: dict[str, Callable[[bytes, Path], object]] = {
    target.__name__: target for target in (space, table, lines, state, journal)
}


def read(name: str, raw: bytes, folder: Path) -> None:
    """Raises what is a bug."""
    told = ""
    try:
        TARGETS[name](raw, folder)
    except AutomlError as error:
        told = str(error)
    assert told.isprintable(), told


def main(name: str, seconds: str) -> None:
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as seen:
        options = [f"-max_total_time={seconds}", "-max_len=20000", "-rss_limit_mb=4096"]
        options += ["-timeout=20", f"-artifact_prefix={kept}/", seen, str(kept)]
        where = Path(folder)
        atheris.Setup([sys.argv[0], *options], lambda raw: read(name, raw, where))
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
