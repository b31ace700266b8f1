"""Workers and drivers are killed, hang, race and shout, and the study is as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_driver import Table, trials
from test_driver import opened as tabled
from test_search import eventually, gone
from toy import EPOCHS, Toy, begun, exact, opened, search

from automl import engines
from automl.engines import Job, Ready
from automl.engines import local as engine_here
from automl.searching import driver as searching
from automl.searching.driver import Closed
from automl.size import Size


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_search_has_exactly_its_trials_and_trains_no_epoch_twice(
    slots: int, tmp_path: Path
) -> None:
    search(tmp_path / "s", 20, slots)
    exact(tmp_path / "s", 20)
    assert begun(tmp_path / "s") == 20 * EPOCHS


def test_a_storm_over_the_workers_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_SECONDS", "0.02")
    folder, draw, killed, over = tmp_path / "s", random.Random(0), [0], threading.Event()
    engine = Toy(folder, 2)
    driver = opened(folder, engine, 40)

    def kill() -> None:
        """Now and then a worker, but none of a trial that has lost one: three would be too many."""
        while not over.wait(draw.expovariate(20)):
            slot = draw.randrange(2)
            active, process = driver.active.get(slot), engine.processes.get(slot)
            if active and process and not active.attempts:
                process.popen.kill()
                killed[0] += 1

    killer = threading.Thread(target=kill)
    driver.start()
    killer.start()
    try:
        list(driver.run())
    finally:
        over.set()
        killer.join()
        engine.close()
    assert killed[0] > 5
    exact(folder, 40)
    assert begun(folder) <= 40 * EPOCHS + killed[0], "a killed worker costs one epoch at most"


def test_a_storm_over_the_driver_costs_no_trial(tmp_path: Path) -> None:
    program = Path(__file__).with_name("toy.py")
    words = [str(tmp_path / "s"), "60", "2", "0", "0.3", "0"]
    done = subprocess.run(
        [sys.executable, str(program), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"TOY_SECONDS": "0.02"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)["drivers"]
    assert killed > 2
    exact(tmp_path / "s", 60)
    assert begun(tmp_path / "s") <= 60 * EPOCHS + 2 * killed
    eventually(lambda: not toys(tmp_path))


def toys(where: Path) -> list[int]:
    """Workers that were begun there; other tests have theirs at the same time."""

    def is_ours(pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            begun_in = Path(f"/proc/{pid}/cwd").readlink()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return b"toy_worker.py" in words and begun_in == where

    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if is_ours(pid)]


RACE = """
import os
import sys
from pathlib import Path

from automl.errors import StudyError
from automl.searching.study import alone

begin, gate = os.pipe()
for _ in range(8):
    if os.fork():
        continue
    os.close(gate)
    os.read(begin, 1)  # until the gate is closed, for all at once
    try:
        with alone(Path(sys.argv[1])):
            os.write(1, f"{os.getpid()} holds\\n".encode())
            sys.stdin.read()
    except StudyError as error:
        os.write(1, f"{error}\\n".encode())
    os._exit(0)
os.close(gate)
for _ in range(8):
    os.wait()
"""


def test_of_many_drivers_that_begin_at_once_one_holds_the_study(tmp_path: Path) -> None:
    words, pipe = [sys.executable, "-c", RACE, str(tmp_path / "s")], subprocess.PIPE
    racers = subprocess.Popen(words, stdin=pipe, stdout=pipe)
    assert racers.stdout is not None
    told = [racers.stdout.readline().decode().strip() for _ in range(8)]
    racers.communicate()  # the end of what it reads lets the holder go
    (winner,) = (line.removesuffix(" holds") for line in told if line.endswith(" holds"))
    refused = [line for line in told if not line.endswith(" holds")]
    want = f"{tmp_path / 's'}: another search holds this study (process "
    assert set(refused) <= {f"{want}{winner})", f"{want}not told yet)"}
    assert len(refused) == 7
    assert not (tmp_path / "s" / ".owner").exists()


def test_a_hung_worker_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_HANG", "1")
    monkeypatch.setattr(engines, "LEAST", 0.5)
    monkeypatch.setattr(searching, "HOUR", 0.5)
    search(tmp_path / "s", 4, 2)
    exact(tmp_path / "s", 4)
    assert begun(tmp_path / "s") == 4 * EPOCHS + 1, "it went on from its last epoch"
    for pid in json.loads((tmp_path / "s" / "hung.json").read_text()):
        eventually(lambda pid=pid: gone(pid))


def test_how_long_an_answer_may_take_follows_from_the_longest_epoch(tmp_path: Path) -> None:
    table = Table()
    driver = tabled(tmp_path / "s", table, 6)
    list(driver.run())
    assert table.jobs[0].patience == engines.HOUR, "nothing is known"
    assert {job.patience for job in table.jobs[1:]} == {engines.LEAST}, "epochs take half a second"

    driver.longest = 100.0, 74 * 10  # of a width of 10
    for width, wait in ((5, 1000.0), (10, 1000.0), (40, 4000.0)):
        trial = driver.study.ask({})
        size, entry = Size(1, 74 * width), searching.Entry(trial.number, {})
        active = searching.Active(trial, driver.config(0), size, entry)
        driver.idle.add(0)
        driver._begin(0, active)
        table.pending.clear()
        assert table.jobs[-1].patience == wait


def test_what_a_dead_attempt_still_had_to_say_is_not_heard(tmp_path: Path) -> None:
    engine = Toy(tmp_path, 1)
    engine.start(0)
    assert eventually(lambda: engine.wait(1.0)) == [(0, Ready())]
    config = {"optimizer": {"lr": 0.1}, "model": {"widths": [1]}}
    file = tmp_path / "s" / "trials" / "0000" / "checkpoint.pt"
    engine.send(0, Job(0, config, str(file), EPOCHS))
    pipe = engine.processes[0].popen.stdout
    assert select.select([pipe], [], [], 60)[0], "its answer lies in the pipe"
    engine.start(0)
    assert eventually(lambda: engine.wait(1.0)) == [(0, Ready())]
    assert engine.wait(0.2) == []
    engine.close()


def test_a_log_that_parts_fill_without_end_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_NOISE", "1000000")
    monkeypatch.setattr(engine_here, "LOG", 2**22)
    search(tmp_path / "s", 6, 2)
    exact(tmp_path / "s", 6)
    size = (tmp_path / "s" / "workers.log").stat().st_size
    assert engine_here.TAIL <= size <= 2**22 + 2 * 1_000_000


def test_clocks_that_jump_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Summer time, a wrong battery, a server that sets the time: only the monotonic one counts."""
    list(tabled(tmp_path / "calm", Table(), 8).run())
    draw = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: draw.uniform(0, 4e9))
    driver = tabled(tmp_path / "jumps", Table(), 8)
    driver.deadline = time.monotonic() + 3600
    list(driver.run())
    calm, jumps = trials(tmp_path / "calm"), trials(tmp_path / "jumps")
    assert [(t.params, t.value) for t in calm] == [(t.params, t.value) for t in jumps]


def test_many_trials_leave_nothing_behind(tmp_path: Path) -> None:
    """Bounds of 400 trials after the first 100: no thread, no file handle, 20 MB of memory."""
    folder = tmp_path / "s"
    engine = Toy(folder, 2)
    driver = opened(folder, engine, 500)
    driver.start()
    held: list[tuple[int, int]] = []
    grown: list[int] = []
    pids: list[list[int]] = []
    for event in driver.run():
        if isinstance(event, Closed) and event.done in (100, 500):
            held.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
            grown.append(resident())
            pids.append(engine.pids())
    engine.close()
    exact(folder, 500)
    assert held[0] == held[1]
    assert grown[1] - grown[0] < 20e6
    assert pids[0] == pids[1]
    names = {path.name for path in folder.iterdir()}
    notes = {"begun.log", "trained.log"}  # of the toy
    known = {"journal.log", "manifest.json", "space.yaml", "trials", "workers.log"}
    assert names == known | notes
    assert len(list((folder / "trials").iterdir())) <= searching.MORE


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
