"""Workers as processes on this machine, each with a pipe in and a pipe out."""

from __future__ import annotations

import math
import os
import selectors
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from automl.engines import (
    HOUR,
    OUTGROWN,
    Engine,
    Event,
    Job,
    Lost,
    Request,
    Setup,
    decode,
    encode,
)
from automl.errors import OptionError
from automl.launch import WORKER, end, launch
from automl.training.cost import machine_mb

SHARE = 0.9  # of a device's memory, for all workers on it together
CROWD = 8  # workers on one GPU at most: 16 train no more than 8, see studies/bench/gpu-2026-11.md
ROOM = 3221  # MB of its memory for each, and as many of the machine's: 3 GiB
LOG, TAIL = 2**24, 2**20  # bytes of workers.log: when it is cut, and what then stays


@dataclass
class Process:
    """One worker, and what it has told of its next event so far."""

    popen: subprocess.Popen[bytes]
    unread: bytes = b""
    patience: float = HOUR  # seconds that an answer may take
    due: float = math.inf  # when the next one must have come


class Local(Engine):
    worker: ClassVar[tuple[str, ...]] = WORKER

    def __init__(
        self,
        setup: Setup,
        devices: Sequence[str],
        log: Path,
        early: list[subprocess.Popen[bytes]] | None = None,
    ) -> None:
        """`early` workers are taken from their list, as long as there are any."""
        self.setup, self.devices, self.log = replace(setup, log=str(log.resolve())), devices, log
        self.early = early or []
        self.slots = len(devices)
        self.processes: dict[int, Process] = {}
        self.selector = selectors.DefaultSelector()

    def start(self, slot: int) -> None:
        self._end(slot)
        device = self.devices[slot]
        if self.early:
            popen = self.early.pop()
        else:
            with self.log.open("ab") as log:
                popen = launch(self.worker, log)
        self.processes[slot] = Process(popen)
        assert popen.stdout is not None
        self.selector.register(popen.stdout, selectors.EVENT_READ, slot)
        share = SHARE / self.devices.count(device)
        self.send(slot, replace(self.setup, device=device, share=share))

    def send(self, slot: int, request: Request) -> None:
        process = self.processes[slot]
        stdin = process.popen.stdin
        assert stdin is not None
        if isinstance(request, Job):
            process.patience = request.patience
        process.due = self.now() + process.patience
        try:
            stdin.write(encode(request))
            stdin.flush()
        except BrokenPipeError:
            pass  # its output ends too, and that tells Lost

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        told: list[tuple[int, Event]] = []
        due = min((process.due for process in self.processes.values()), default=math.inf)
        for key, _ in self.selector.select(max(0.0, min(timeout, due - self.now()))):
            slot = key.data
            process = self.processes[slot]
            chunk = os.read(key.fd, 1 << 16)
            *lines, process.unread = (process.unread + chunk).split(b"\n")
            told += [(slot, decode(line)) for line in lines]
            if lines:
                process.due = math.inf
            if not chunk:
                self._end(slot)
                told.append((slot, _lost(process.popen.returncode)))
        for slot, process in list(self.processes.items()):
            if process.due <= self.now():
                self._end(slot)
                told.append((slot, Lost(f"no answer in {process.patience:,.0f} s")))
        self._cut_log()
        return told

    def _cut_log(self) -> None:
        """Parts may print without end: the log keeps what was printed last."""
        if self.log.exists() and self.log.stat().st_size > LOG:
            with self.log.open("r+b") as log:
                log.seek(-TAIL, os.SEEK_END)
                tail = log.read()
                log.seek(0)
                log.write(b"[cut]\n" + tail)
                log.truncate()

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
        assert process.popen.stdout is not None
        self.selector.unregister(process.popen.stdout)
        end(process.popen)


def _lost(status: int) -> Lost:
    if status == OUTGROWN:
        return Lost("the worker held more than its share of memory", "out of memory")
    return Lost(f"worker ended with status {status}")


def devices(device: torch.device, workers: int | None, per_gpu: int | None = None) -> list[str]:
    """A device for each worker: one a core, or `per_gpu` on each GPU, or on the one that is named.

    Raises OptionError.
    """
    if workers is not None and workers < 1:
        raise OptionError(f"--workers: got {workers}; want at least 1")
    if per_gpu is not None and per_gpu < 1:
        raise OptionError(f"--workers-per-gpu: got {per_gpu}; want at least 1")
    cores = len(os.sched_getaffinity(0))
    if device.type != "cuda":
        return [str(device)] * (workers or cores)
    named = device.index is not None
    gpus = [device.index] if named else list(range(torch.cuda.device_count()))
    if not workers:
        workers = len(gpus) * (per_gpu or crowd(cores, gpus))
    return [f"cuda:{gpus[i % len(gpus)]}" for i in range(workers)]


def crowd(cores: int, gpus: Sequence[int]) -> int:
    """Workers that share a GPU: small nets leave it idle while Python says what comes next.

    Each wants a core, and memory here and there.
    """
    sizes = (torch.cuda.get_device_properties(i).total_memory for i in gpus)
    room = min(min(sizes) / 1e6, machine_mb() / len(gpus)) / ROOM
    return max(1, min(CROWD, cores // len(gpus), int(room)))
