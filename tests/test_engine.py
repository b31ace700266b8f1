"""Workers answer each request with one event, and neither parts nor accidents disturb that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from automl.cache import folder as cache
from automl.config import Config, Task
from automl.data import Epoch
from automl.engines import (
    KINDS,
    Broken,
    Event,
    Full,
    Go,
    Job,
    Lost,
    Measured,
    Ready,
    Refused,
    Save,
    Saved,
    Setup,
    decode,
    encode,
    local,
)
from automl.engines.local import Local, devices
from automl.errors import OptionError
from automl.launch import early
from automl.training import train

TASK = {"name": "digits", "per_class": 8}
PARTS = '''
import os
import torch
from typing import Literal
from automl.config import Model

class Perceptron(Model):
    name: str  # no member itself: the classes below are

    def build(self, inputs, outputs):
        """(N, C, H, W) in, (N, outputs) out."""
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))

class Loud(Perceptron):
    name: Literal["loud"] = "loud"

    def build(self, inputs, outputs):
        print("a word " * 500_000)
        os.write(1, b'{"kind": "Epoch"}' * 50_000)
        assert not os.read(0, 10), "there is nothing to read"
        return super().build(inputs, outputs)

class Faulty(Perceptron):
    name: Literal["faulty"] = "faulty"

    def build(self, inputs, outputs):
        return {}["no such key"]

class Exhausting(torch.nn.Module):
    def __init__(self, error):
        super().__init__()
        self.weight, self.error = torch.nn.Parameter(torch.zeros(1)), error

    def forward(self, x):
        raise self.error

class Large(Perceptron):
    name: Literal["large"] = "large"
    error: Literal["torch", "python", "cpu", "cublas"] = "torch"

    def build(self, inputs, outputs):
        full = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        return Exhausting({
            "torch": torch.OutOfMemoryError("CUDA out of memory."),
            "python": MemoryError("no memory"),
            "cpu": RuntimeError(full),
            "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED, no memory"),
        }[self.error])
'''


def config(model: Any) -> dict[str, Any]:
    """Plain values, as the driver would send them; the parts need not be known here."""
    plain = Config.of({"task": TASK, "model": "mlp", "train": {"epochs": 3}}).dump()
    return plain | {"model": model}


EPOCH = Epoch(3, 0.1 + 0.2, {"accuracy": 1 / 3, "loss": 5e-324}, 1.5, 64)
MESSAGES = [
    Setup(TASK, "/data/ö", "cuda:0", 4, ["/my parts.py"]),
    Setup({}, None, "cpu", 1, []),
    Job(7, config("mlp"), "/studies/a\nb/c", 20),
    Go(),
    Save(),
    Ready(),
    Measured(1.5, 20.25),
    EPOCH,
    Saved(),
    Refused("out of memory", 'said "no"\nand more'),
    Broken("Traceback\n  line\n" * 1000),
    Full("[Errno 28] No space left on device"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent_in_one_line(message: Any) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


def test_all_kinds_of_messages_are_in_the_test_above() -> None:
    assert {type(message).__name__ for message in MESSAGES} == set(KINDS)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_every_finite_score_arrives_bit_by_bit(loss: float, metrics: dict[str, float]) -> None:
    epoch = Epoch(1, loss, metrics, 0.0, 1)
    assert decode(encode(epoch)) == epoch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_not_sent(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Epoch(1, 0.0, {"accuracy": value}, 0.0, 1))


def eventually(seen: Callable[[], Any]) -> Any:
    """What `seen` gives once it gives something; the bound is for a test that is red."""
    end = time.monotonic() + 60
    while not (found := seen()):
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.01)
    return found


def gone(pid: int) -> bool:
    """No such process, or one that is dead and waits for its parent to notice."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class Desk:
    """One engine with one worker, asked and answered by turns."""

    def __init__(self, folder: Path) -> None:
        plugin = folder / "parts.py"
        plugin.write_text(PARTS)
        self.folder, self.log = folder, folder / "workers.log"
        setup = Setup(TASK, None, "", 1, [str(plugin)])
        self.engine = Local(setup, ["cpu"], self.log)

    def start(self) -> None:
        self.engine.start(0)
        assert self.told() == Ready()

    def told(self) -> Event:
        told = eventually(lambda: self.engine.wait(1.0))
        assert len(told) == 1, "one request, one event"
        assert told[0][0] == 0
        event: Event = told[0][1]
        return event

    def job(self, model: Any, name: str, until: int = 3) -> Event:
        self.engine.send(0, Job(0, config(model), str(self.folder / name / "c"), until))
        return self.told()

    def go(self) -> Event:
        self.engine.send(0, Go())
        return self.told()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("engine"))
    desk.start()
    yield desk
    desk.engine.close()


@pytest.fixture
def worker(desk: Desk) -> Desk:
    """The desk with a worker that lives, whatever the test before did to it."""
    if not desk.engine.pids():
        desk.start()
    return desk


def test_a_worker_trains_as_the_same_call_here_would(worker: Desk) -> None:
    told = [worker.job("mlp", "plain"), worker.go(), worker.go()]
    here = Config.of(config("mlp"))
    data = Task.of(TASK).load(None)
    for there, epoch in zip(told, train(here, data, device=torch.device("cpu")), strict=True):
        assert isinstance(there, Epoch)
        assert replace(there, seconds=0) == replace(epoch, seconds=0)


def test_a_new_job_drops_the_one_before_and_an_old_one_goes_on_from_its_checkpoint(
    worker: Desk,
) -> None:
    first = worker.job("mlp", "dropped")
    assert worker.job({"name": "mlp", "widths": [8]}, "between") != first
    assert worker.job("mlp", "dropped") == first, "told again, with the seconds of the first time"
    assert [getattr(worker.go(), "number", None) for _ in range(2)] == [2, 3]


def test_what_a_part_prints_goes_to_the_log(worker: Desk) -> None:
    assert isinstance(worker.job("loud", "loud"), Epoch)
    assert isinstance(worker.go(), Epoch)
    log = worker.log.read_bytes()
    assert log.count(b"a word ") == 500_000
    assert log.count(b'{"kind": "Epoch"}') == 50_000


@pytest.mark.parametrize("error", ["torch", "python", "cpu", "cublas"])
def test_a_config_that_needs_too_much_memory_is_refused_and_the_worker_goes_on(
    error: str, worker: Desk
) -> None:
    pids = worker.engine.pids()
    refused = worker.job({"name": "large", "error": error}, f"large {error}")
    assert isinstance(refused, Refused)
    assert refused.reason == "out of memory"
    assert "memory" in refused.detail
    assert isinstance(worker.job("mlp", f"after {error}"), Epoch)
    assert worker.engine.pids() == pids


def test_a_config_that_diverges_is_refused(worker: Desk) -> None:
    wild = config({"name": "mlp", "widths": [64] * 3, "norm": "none", "activation": "silu"})
    wild["optimizer"] = {"name": "sgd", "lr": 10.0, "momentum": 0.99}
    wild |= {"schedule": "constant", "train": {"epochs": 3, "batch_size": 8}}
    worker.engine.send(0, Job(0, wild, str(worker.folder / "wild" / "c"), 3))
    events = [worker.told()]
    while isinstance(events[-1], Epoch):
        events.append(worker.go())
    assert isinstance(events[-1], Refused)
    assert events[-1].reason == "diverged"


def test_a_bug_in_a_part_is_told_with_its_traceback(worker: Desk) -> None:
    broken = worker.job("faulty", "faulty")
    assert isinstance(broken, Broken)
    assert "KeyError: 'no such key'" in broken.traceback
    assert "parts.py" in broken.traceback
    assert "no such key" in worker.log.read_text()
    assert isinstance(worker.told(), Lost)


def test_a_killed_worker_is_lost_and_start_gives_a_fresh_one(worker: Desk) -> None:
    first = worker.job("mlp", "killed")
    (pid,) = worker.engine.pids()
    os.kill(pid, signal.SIGKILL)
    lost = worker.told()
    assert isinstance(lost, Lost)
    assert "-9" in lost.detail
    assert gone(pid)

    worker.start()
    assert worker.engine.pids() not in ([], [pid])
    assert worker.job("mlp", "killed") == first


def test_sending_to_a_worker_that_just_died_does_not_fail(worker: Desk) -> None:
    (pid,) = worker.engine.pids()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(pid))
    for _ in range(3):
        worker.engine.send(0, Go())
    assert isinstance(worker.told(), Lost)


def test_workers_leave_the_test_split_closed(worker: Desk) -> None:
    (file,) = cache().glob("digits-*/test.safetensors")
    whole = file.read_bytes()
    file.write_bytes(b"a reader would see that this is damaged, and repair it")
    try:
        worker.start()
        assert isinstance(worker.job("mlp", "sealed"), Epoch)
        assert file.read_bytes().startswith(b"a reader would see")
    finally:
        file.write_bytes(whole)


def test_closing_an_engine_ends_its_workers(desk: Desk, tmp_path: Path) -> None:
    engine = Local(desk.engine.setup, ["cpu", "cpu"], tmp_path / "log")
    engine.start(0)
    engine.start(1)
    pids = engine.pids()
    assert len(set(pids)) == 2
    engine.close()
    assert all(map(gone, pids))
    assert engine.pids() == []


def test_an_early_worker_is_taken_once_and_what_it_prints_goes_to_the_log(
    desk: Desk, tmp_path: Path
) -> None:
    with early() as begun:
        (first,) = begun
        engine = Local(desk.engine.setup, ["cpu", "cpu"], tmp_path / "log", begun)
        engine.start(0)
        engine.start(1)
        assert engine.pids()[0] == first.pid != engine.pids()[1]
        assert begun == []
        engine.send(0, Job(0, config("loud"), str(tmp_path / "c"), 1))
        while not any(isinstance(event, Epoch) for _, event in engine.wait(60.0)):
            pass
        engine.close()
    assert "a word" in (tmp_path / "log").read_text()
    assert gone(first.pid)


def test_an_early_worker_that_nobody_took_ends() -> None:
    with early() as begun:
        (worker,) = begun
        assert not gone(worker.pid)
    assert gone(worker.pid)


def test_an_early_worker_that_dies_is_replaced(desk: Desk, tmp_path: Path) -> None:
    with early() as begun:
        begun[0].kill()
        begun[0].wait()
        engine = Local(desk.engine.setup, ["cpu"], tmp_path / "log", begun)
        engine.start(0)
        assert [type(event) for _, event in engine.wait(60.0)] == [Lost]
        engine.start(0)
        assert engine.wait(60.0) == [(0, Ready())]
        engine.close()


def test_a_worker_whose_input_is_closed_ends(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "automl.engines"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out, _ = worker.communicate(encode(Setup(TASK, None, "cpu", 1, [])), timeout=60)
    assert worker.returncode == 0
    assert out in (b"", encode(Ready()))


DRIVER = """
    import sys, time
    from pathlib import Path
    from automl.engines import Job, Setup
    from automl.engines.local import Local

    engine = Local(Setup({task!r}, None, "", 1, []), ["cpu"], Path({log!r}))
    engine.start(0)
    while not engine.wait(1.0):
        pass
    print(engine.pids()[0], flush=True)
    engine.send(0, Job(0, {config!r}, {checkpoint!r}, 10_000))
    engine.wait(60)
    print("trains", flush=True)
    time.sleep(600)
"""


def test_a_worker_dies_with_its_driver(tmp_path: Path) -> None:
    long = config("mlp") | {"train": {"epochs": 10_000}}
    names = {"task": TASK, "config": long, "checkpoint": str(tmp_path / "c")}
    script = textwrap.dedent(DRIVER).format(log=str(tmp_path / "log"), **names)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    assert driver.stdout.readline() == "trains\n"
    assert not gone(pid)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    eventually(lambda: gone(pid))


@pytest.mark.parametrize("workers", [1, 3])
def test_each_worker_has_a_device(workers: int) -> None:
    assert devices(torch.device("cpu"), workers, 1) == ["cpu"] * workers


@pytest.mark.parametrize(
    ("gpus", "gigabytes", "cores", "machine", "workers"),
    [
        (1, 140, 16, 128, 8),  # more train no more
        (1, 140, 4, 128, 4),
        (2, 140, 12, 128, 12),
        (2, 24, 64, 128, 14),
        (1, 8, 16, 64, 2),
        (1, 140, 16, 16, 5),
        (8, 140, 4, 128, 8),
        (2, 140, 64, 24, 8),
        (2, 2, 4, 4, 2),  # one each, whatever there is
    ],
)
def test_as_many_workers_share_a_gpu_as_cores_and_memory_admit(
    gpus: int,
    gigabytes: int,
    cores: int,
    machine: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = SimpleNamespace(total_memory=gigabytes * 2**30 - 2**28)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _number: card)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    monkeypatch.setattr(local, "machine_mb", lambda: machine * 2**30 / 1e6)
    gpu = torch.device("cuda")
    assert devices(gpu, None) == [f"cuda:{i % gpus}" for i in range(workers)]
    assert len(devices(gpu, None, per_gpu=3)) == 3 * gpus
    assert len(devices(gpu, 5)) == 5
    last = f"cuda:{gpus - 1}"
    assert devices(torch.device(last), 3) == [last] * 3, "the one that is named"
    assert set(devices(torch.device(last), None)) == {last}


@pytest.mark.parametrize(
    ("workers", "per_gpu", "told"),
    [(0, 1, "--workers: got 0"), (-2, 1, "--workers: got -2"), (1, 0, "--workers-per-gpu: got 0")],
)
def test_no_workers_is_an_option_error(workers: int, per_gpu: int, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        devices(torch.device("cpu"), workers, per_gpu)
