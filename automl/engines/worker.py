"""A worker process: reads requests from its standard input, answers each with one event.

Whatever a part prints goes to the log, never between the events. A worker whose driver dies dies.
"""

from __future__ import annotations

import ctypes
import functools
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch

from automl.config import Config, Task, load_plugin
from automl.data import Data, Epoch
from automl.engines import (
    OUTGROWN,
    Broken,
    Event,
    Full,
    Go,
    Job,
    Measured,
    Ready,
    Refused,
    Request,
    Save,
    Saved,
    Setup,
    decode,
    encode,
)
from automl.errors import DataError, is_full
from automl.training import Diverged, train
from automl.training.cost import BATCHES, Memory, latency_ms, machine_mb, own_mb
from automl.training.run import outputs_of
from automl.training.step import out_of_memory

PR_SET_PDEATHSIG = 1
WATCH = 0.05  # seconds from one look at the memory to the next

Told = Generator[Measured | Epoch, bool | None]  # asked for True, it saves and tells again


class Wire:
    """The two pipes to the driver, kept away from `print` and `input`."""

    def __init__(self) -> None:
        self.requests = os.fdopen(os.dup(0), "rb")
        self.events = os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self.waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.requests:
            self.waiting.put(decode(line))
        os._exit(0)  # the driver closed its end or is gone

    def receive(self) -> Request:
        return self.waiting.get()

    def log(self, file: str) -> None:
        """From now on what is printed goes there."""
        with open(file, "ab") as log:
            os.dup2(log.fileno(), 2)
        os.dup2(2, 1)

    def send(self, event: Event) -> None:
        self.events.write(encode(event))
        self.events.flush()


def die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    die_with_parent()
    wire = Wire()

    def told(_kind: object, error: BaseException, _tb: object) -> None:
        traceback.print_exception(error)
        if isinstance(error, torch.AcceleratorError):  # nothing can be done with this process
            os._exit(OUTGROWN if "out of memory" in str(error) else 1)
        wire.send(Broken("".join(traceback.format_exception(error))))

    sys.excepthook = told  # a bug ends the worker; the driver hears why
    setup = wire.receive()
    assert isinstance(setup, Setup)
    if setup.log:
        wire.log(setup.log)
    torch.set_num_threads(setup.threads)
    device = torch.device(setup.device)
    bound(device, setup.share)
    for plugin in setup.plugins:
        load_plugin(Path(plugin))
    try:
        data = Task.of(setup.task).load(Path(setup.data) if setup.data else None)
    except DataError as error:
        wire.send(Refused("data error", str(error)))
        return
    if setup.fingerprint not in (None, data.fingerprint):
        changed = "the data is not what the search began with: it was changed meanwhile"
        wire.send(Refused("data error", f"{setup.task['name']}: {changed}"))
        return
    memory = Memory(device)
    wire.send(Ready())

    events: Told | None = None
    while True:
        request = wire.receive()
        if isinstance(request, Job):
            events = work(request, data, device, memory)
        assert isinstance(request, Job | Go | Save)
        assert events is not None
        wire.send(step(events, save=isinstance(request, Save)))


def bound(device: torch.device, share: float) -> None:
    """Hold no more than this share of the device's memory: the others need theirs.

    On a GPU what is beyond is out of memory; on a CPU, where memory is lent without end until the
    system kills somebody, the worker ends.
    """
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device)
    elif Memory.known(device):
        threading.Thread(target=_watch, args=(share * machine_mb(),), daemon=True).start()


def _watch(limit: float) -> None:
    while (held := own_mb()) <= limit:
        time.sleep(WATCH)
    os.write(2, f"worker: held {held:,.0f} MB; its share is {limit:,.0f} MB\n".encode())
    os._exit(OUTGROWN)


def work(job: Job, data: Data, device: torch.device, memory: Memory) -> Told:
    config, checkpoint = Config.of(job.config), Path(job.checkpoint)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if job.timed:
        yield timed(config, data, device)
    memory.restart()
    if job.whole:
        data = whole(data)
    epochs = train(
        config, data, device=device, checkpoint=checkpoint, until=job.until, saves=job.saves
    )
    for epoch in epochs:
        while (yield replace(epoch, memory_mb=memory.peak_mb())):
            epochs.send(True)


@functools.cache
def whole(data: Data) -> Data:
    """One for all jobs: it goes to the device once."""
    return data.whole()


def timed(config: Config, data: Data, device: torch.device) -> Measured:
    """By a model of its own. The random numbers for it change nothing: training sets its seed."""
    inputs = config.input.fit(data)
    model = config.model.build(inputs, outputs_of(inputs, data)).to(device)
    return Measured(*(latency_ms(model, inputs, count, device) for count in BATCHES))


def step(events: Told, *, save: bool = False) -> Event:
    """The next event of a job, or why its config cannot be trained; to `save`, that it is saved."""
    try:
        event = events.send(True if save else None)
        return Saved() if save else event
    except Diverged as error:
        return Refused("diverged", str(error))
    except DataError as error:
        return Refused("data error", str(error))
    except OSError as error:
        if not is_full(error):
            raise
        return Full(str(error))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        refused = Refused("out of memory", str(error).partition("\n")[0])
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return refused
