"""Workers as processes on this machine, each with a pipe in and a pipe out."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from automl.engines import Engine, Event, Lost, Request, Setup, decode, encode
from automl.errors import OptionError


@dataclass
class Process:
    """One worker, and what it has told of its next event so far."""

    popen: subprocess.Popen[bytes]
    unread: bytes = b""


class Local(Engine):
    def __init__(self, setup: Setup, devices: Sequence[str], log: Path) -> None:
        self.setup, self.devices, self.log = setup, devices, log
        self.slots = len(devices)
        self.processes: dict[int, Process] = {}
        self.selector = selectors.DefaultSelector()

    def start(self, slot: int) -> None:
        self._end(slot)
        device = self.devices[slot]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.setup.threads)}
        with self.log.open("ab") as log:
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "automl.engines.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the driver's to handle
            )
        self.processes[slot] = Process(popen)
        assert popen.stdout is not None
        self.selector.register(popen.stdout, selectors.EVENT_READ, slot)
        self.send(slot, replace(self.setup, device=device))

    def send(self, slot: int, request: Request) -> None:
        stdin = self.processes[slot].popen.stdin
        assert stdin is not None
        try:
            stdin.write(encode(request))
            stdin.flush()
        except BrokenPipeError:
            pass  # its output ends too, and that tells Lost

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        told: list[tuple[int, Event]] = []
        for key, _ in self.selector.select(timeout):
            slot = key.data
            process = self.processes[slot]
            chunk = os.read(key.fd, 1 << 16)
            *lines, process.unread = (process.unread + chunk).split(b"\n")
            told += [(slot, decode(line)) for line in lines]
            if not chunk:
                self._end(slot)
                told.append((slot, Lost(f"worker ended with status {process.popen.returncode}")))
        return told

    def close(self) -> None:
        for slot in list(self.processes):
            self._end(slot)
        self.selector.close()

    def pids(self) -> list[int]:
        return [process.popen.pid for process in self.processes.values()]

    def _end(self, slot: int) -> None:
        process = self.processes.pop(slot, None)
        if process is None:
            return
        popen = process.popen
        assert popen.stdout is not None
        assert popen.stdin is not None
        self.selector.unregister(popen.stdout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # with whatever a part has started
        popen.wait()
        popen.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # what was not read is lost with the worker
            popen.stdin.close()


def devices(device: torch.device, workers: int | None, per_gpu: int) -> list[str]:
    """A device for each worker: one a core, or `per_gpu` on each GPU. Raises OptionError."""
    if workers is not None and workers < 1:
        raise OptionError(f"--workers: got {workers}; want at least 1")
    if per_gpu < 1:
        raise OptionError(f"--workers-per-gpu: got {per_gpu}; want at least 1")
    if device.type != "cuda":
        return [str(device)] * (workers or len(os.sched_getaffinity(0)))
    count = torch.cuda.device_count()
    return [f"cuda:{i % count}" for i in range(workers or count * per_gpu)]
