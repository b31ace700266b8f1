"""`--disk`: the weights of the worst trials go first, the best and what can go on stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_driver import Table, opened
from test_finals import decide_all
from test_promotion import SPACE, rising
from typer.testing import CliRunner

from automl import amounts
from automl.cli import app
from automl.engines import Job, Request
from automl.searching.driver import Closed
from automl.searching.finals import Finals, Retrained
from automl.searching.study import Study, taken

SIZE = 100_000  # bytes of a checkpoint


class Heavy(Table):
    """Workers whose checkpoints have a size."""

    def send(self, slot: int, request: Request) -> None:
        super().send(slot, request)
        if isinstance(request, Job):
            Path(request.checkpoint).write_bytes(bytes(SIZE))


def searched(folder: Path, disk: int | None) -> Any:
    """A driver that has closed 40 trials, and the most that the study took on the way."""
    driver = opened(folder, Heavy(rising, slots=2), 40, text=f"{SPACE}search: {{sampler: random}}")
    driver.disk = disk
    most = 0
    for event in driver.run():
        if isinstance(event, Closed):
            most = max(most, taken(folder))
    return driver, most


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    free, took = searched(tmp_path / "free", None)
    tight, most = searched(tmp_path / "tight", 8 * SIZE)
    assert took > 12 * SIZE
    under_way = 2 * SIZE  # two workers may each have begun a trial since
    assert most <= 8 * SIZE + under_way
    assert taken(tmp_path / "tight") <= 8 * SIZE
    for driver in (free, tight):
        rows = driver.rows()
        assert len(rows) == 40
        assert rows[0].state == "finished"
        assert driver.checkpoint(rows[0].trial).exists(), "the best one stays"
    crowded = [row for row in tight.rows() if row.reason == "no room on disk"]
    assert crowded
    assert not [row for row in free.rows() if row.reason == "no room on disk"]
    for row in crowded:
        assert row.ending == "stopped"
        assert not tight.checkpoint(row.trial).exists()


def test_the_worst_finished_trials_lose_their_weights_first(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Heavy(slots=1), 12)
    driver.disk = 5 * SIZE
    list(driver.run())
    ranked = [row.trial for row in driver.rows()]
    kept = {int(folder.name) for folder in (tmp_path / "s" / "trials").iterdir()}
    assert kept == set(ranked[: len(kept)])
    assert len(kept) == 4, "the journal takes its part of five"


def test_a_quota_that_nothing_fits_into_still_leaves_the_best(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Heavy(slots=1), 6)
    driver.disk = 1
    list(driver.run())
    (folder,) = (tmp_path / "s" / "trials").iterdir()
    assert int(folder.name) == driver.best == driver.rows()[0].trial


def test_fresh_trainings_of_finalists_count_too(tmp_path: Path) -> None:
    driver = opened(tmp_path / "s", Heavy(slots=1), 12)
    driver.disk = 6 * SIZE
    list(driver.run())
    assert len(list((tmp_path / "s" / "trials").iterdir())) == 5, "the journal takes its part"
    told = decide_all(driver, Finals(1, 3))
    assert len([one for one in told if isinstance(one, Retrained)]) == 3
    assert taken(tmp_path / "s") <= 6 * SIZE
    assert len(list((tmp_path / "s" / "finals").iterdir())) == 3, "they are what is delivered"
    assert driver.checkpoint(driver.rows()[0].trial).exists()


GIVEN = {
    "5GB": "--trials: got 0",  # the quota is fine
    "1.5MB": "--trials: got 0",
    "5": "--disk: got '5'; want 500MB or 5GB",
    "-1GB": "--disk: got '-1GB'",
    "0MB": "--disk: got '0MB'",
    "9999999999GB": "--disk: got '9999999999GB'",
}


@pytest.mark.parametrize("given", GIVEN)
def test_a_quota_is_a_number_of_mb_or_gb(given: str, tmp_path: Path) -> None:
    words = ["search", "digits", "--trials", "0", "--studies", str(tmp_path), "--disk", given]
    error = CliRunner().invoke(app, words).exception
    assert str(error).startswith(GIVEN[given])


def test_what_a_study_takes_is_what_its_files_take(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(1_500_000))
    (tmp_path / "d").write_bytes(bytes(500_000))
    assert 2.0 <= Study(tmp_path).megabytes < 2.1


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5_000_000_000), ("500MB", 500_000_000), ("1.5GB", 1_500_000_000)]
)
def test_sizes_are_told_in_thousands(text: str, size: int) -> None:
    assert amounts.size(text) == size
