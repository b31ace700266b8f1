"""What a model takes on a device: milliseconds to predict, and memory while it trains."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from automl.data import Inputs
from automl.training.precision import on_threads

BATCHES = 1, 64  # examples at once that latencies are told of
RUNS, FEWEST, ENOUGH = 20, 3, 0.5  # of a timing: at most, at least, and seconds after which it ends
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CONTAINER = Path("/sys/fs/cgroup/memory.max")


@torch.inference_mode()
def latency_ms(model: nn.Module, inputs: Inputs, count: int, device: torch.device) -> float:
    """Milliseconds for `count` examples at once, in float32, from device memory to logits.

    The fastest of several runs: whatever else runs on the machine only ever adds to it. On a CPU by
    one thread, as a worker has, whoever measures.
    """
    with device:
        x = inputs.example(count)
    was_training = model.training
    model.eval()

    def run() -> None:
        model(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    try:
        with on_threads(1 if device.type == "cpu" else torch.get_num_threads()):
            return fastest_ms(run)
    finally:
        model.train(was_training)


def fastest_ms(run: Callable[[], object]) -> float:
    """Milliseconds of the fastest of several runs."""
    taken: list[float] = []
    while len(taken) <= FEWEST or (len(taken) <= RUNS and sum(taken) < ENOUGH):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return 1000 * min(taken[1:])  # the first one warms up


class Memory:
    """The most memory that a training takes on a device.

    On a GPU all that PyTorch holds there, on a CPU what the process grows by: an estimate, for
    libraries keep some of it. Trainings repeated on two cores differed by 7 to 35 %, and small ones
    by more.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0.0

    @staticmethod
    def known(device: torch.device) -> bool:
        """Whether it can be told: on a GPU, and for a CPU where Linux keeps account."""
        return device.type == "cuda" or (device.type == "cpu" and os.access(CLEAR, os.W_OK))

    def restart(self) -> None:
        """A training begins; what the one before has freed goes back to the system."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.known(self.device):
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
            if trim:
                trim(0)
            CLEAR.write_text("5")  # VmHWM starts anew, see proc(5)
            self.before = peak_mb()

    def peak_mb(self) -> float | None:
        """Since the last restart; None where it is not known."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return peak_mb() - self.before if self.known(self.device) else None


def peak_mb() -> float:
    """The most that this process has held, in MB."""
    return _status_mb("VmHWM:")


def own_mb() -> float:
    """What this process holds for itself, in MB: not the libraries that processes share."""
    return _status_mb("RssAnon:")


def _status_mb(key: str) -> float:
    lines = STATUS.read_text().splitlines()
    (told,) = (line.split()[1] for line in lines if line.startswith(key))
    return int(told) * 1024 / 1e6  # its kB are 1,024 bytes, see proc(5)


def machine_mb() -> float:
    """Memory of this machine or, where there is less, of the container around this process."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = CONTAINER.read_text().strip() if CONTAINER.exists() else "max"
    return min(whole, int(told) if told.isdecimal() else whole) / 1e6
