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
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch

from automl.config import Config, Task, load_plugin
from automl.data import Data, Epoch
from automl.engines import (
    Broken,
    Event,
    Go,
    Job,
    Measured,
    Ready,
    Refused,
    Request,
    Setup,
    decode,
    encode,
)
from automl.training import Diverged, train
from automl.training.cost import BATCHES, Memory, latency_ms
from automl.training.loop import outputs_of

PR_SET_PDEATHSIG = 1


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

    def send(self, event: Event) -> None:
        self.events.write(encode(event))
        self.events.flush()


def die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    die_with_parent()
    wire = Wire()

    def told(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
        traceback.print_exception(kind, error, tb)
        wire.send(Broken("".join(traceback.format_exception(kind, error, tb))))

    sys.excepthook = told  # a bug ends the worker; the driver hears why
    setup = wire.receive()
    assert isinstance(setup, Setup)
    torch.set_num_threads(setup.threads)
    for plugin in setup.plugins:
        load_plugin(Path(plugin))
    device = torch.device(setup.device)
    data = Task.of(setup.task).load(Path(setup.data) if setup.data else None)
    memory = Memory(device)
    wire.send(Ready())

    events: Iterator[Measured | Epoch] = iter(())
    while True:
        request = wire.receive()
        if isinstance(request, Job):
            events = work(request, data, device, memory)
        assert isinstance(request, Job | Go)
        wire.send(step(events))


def work(job: Job, data: Data, device: torch.device, memory: Memory) -> Iterator[Measured | Epoch]:
    config, checkpoint = Config.of(job.config), Path(job.checkpoint)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if job.timed:
        yield timed(config, data, device)
    memory.restart()
    if job.whole:
        data = whole(data)
    for epoch in train(
        config, data, device=device, checkpoint=checkpoint, until=job.until, saves=job.saves
    ):
        yield replace(epoch, memory_mb=memory.peak_mb())


@functools.cache
def whole(data: Data) -> Data:
    """One for all jobs: it goes to the device once."""
    return data.whole()


def timed(config: Config, data: Data, device: torch.device) -> Measured:
    """A model of its own, for random numbers are drawn for it: training begins after its seed."""
    inputs = config.input.fit(data)
    model = config.model.build(inputs, outputs_of(inputs, data)).to(device)
    return Measured(*(latency_ms(model, inputs, count, device) for count in BATCHES))


def step(events: Iterator[Measured | Epoch]) -> Event:
    """The next event of a job, or why its config cannot have one."""
    try:
        return next(events)
    except Diverged as error:
        return Refused("diverged", str(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        refused = Refused("out of memory", str(error).partition("\n")[0])
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch says of a CPU that is full
            raise
        refused = Refused("out of memory", str(error).partition("\n")[0])
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return refused


if __name__ == "__main__":
    main()
