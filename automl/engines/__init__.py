"""Where trials are trained. An engine knows workers and messages, and neither Optuna nor a study.

One request, one event, and the driver cannot tell what lies between: a process or a cluster.

    Setup  ──►  Ready           once, when a worker starts
    Job    ──►  Epoch           the first one; a job that came before is dropped
                Measured        instead of it, if the job asks for that
    Go     ──►  Epoch           the next one
    Save   ──►  Saved           the last epoch told is in the checkpoint
                Refused         instead of an epoch: the config cannot be trained
                Broken          instead of an epoch: a part has a bug
                Full            instead of any: the disk is full
                Lost            at any time: the worker is gone; `start` makes a new one
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from automl.data import Epoch

Reason = Literal[  # why a config cannot be trained
    "too large", "too slow", "infeasible shape", "out of memory", "diverged", "data error"
]
HOUR, LEAST, TIMES = 3600.0, 300.0, 10  # see `patience`
OUTGROWN = 77  # exit status of a worker that held more than its share of memory


def patience(expected: float) -> float:
    """Seconds after which a worker that should answer after so many counts as hung."""
    return max(LEAST, TIMES * expected)


@dataclass(frozen=True)
class Setup:
    """What all jobs of a worker have in common."""

    task: dict[str, Any]
    data: str | None  # where data lies; None: wherever the task finds it
    device: str
    threads: int
    plugins: list[str]
    share: float = 1.0  # of the memory of its device that a worker may hold
    log: str | None = None  # the file for what parts print; None: where it went before
    fingerprint: str | None = None  # of the data as the driver read it


@dataclass(frozen=True)
class Job:
    """Train a config to an epoch. Epochs that are in its checkpoint are told again."""

    trial: int
    config: dict[str, Any]
    checkpoint: str
    until: int
    saves: list[int] = field(default_factory=list)  # epochs after which a checkpoint is a must
    timed: bool = False  # whether to tell Measured first
    whole: bool = False  # whether to train on the validation split too
    patience: float = HOUR  # seconds after which a worker that does not answer is killed


@dataclass(frozen=True)
class Go:
    """Train the next epoch."""


@dataclass(frozen=True)
class Save:
    """Write a checkpoint: no other epoch may come, or not today. Then `Go` may follow."""


@dataclass(frozen=True)
class Saved:
    """It is written."""


@dataclass(frozen=True)
class Ready:
    """The worker has its data on its device."""


@dataclass(frozen=True)
class Measured:
    """Milliseconds that the model takes to predict, on the worker's device."""

    latency_ms: float  # one example
    latency_64_ms: float  # 64 at once


@dataclass(frozen=True)
class Refused:
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Broken:
    traceback: str


@dataclass(frozen=True)
class Full:
    detail: str


@dataclass(frozen=True)
class Lost:
    detail: str
    reason: Reason | None = None  # where the config is to blame


Request = Setup | Job | Go | Save
Event = Ready | Measured | Epoch | Saved | Refused | Broken | Full | Lost
MESSAGES = (Setup, Job, Go, Save, Ready, Measured, Epoch, Saved, Refused, Broken, Full)
KINDS = {kind.__name__: kind for kind in MESSAGES}


def encode(message: Request | Event) -> bytes:
    """One line of JSON."""
    body = {"kind": type(message).__name__, **asdict(message)}
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Any:
    body = json.loads(line)
    return KINDS[body.pop("kind")](**body)


class Engine(ABC):
    """Workers in numbered slots. `wait` gives each event with the slot that it came from."""

    slots: int

    def now(self) -> float:
        """Seconds on the clock that deadlines are by."""
        return time.monotonic()

    @abstractmethod
    def start(self, slot: int) -> None:
        """A fresh worker in this slot; one that is there is killed. It will tell Ready or Lost."""

    @abstractmethod
    def send(self, slot: int, request: Request) -> None:
        """Never blocks for long and never fails: a worker that is gone tells Lost."""

    @abstractmethod
    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """The events that came, after at most `timeout` seconds; none is an answer too."""

    @abstractmethod
    def close(self) -> None:
        """End all workers now. What they have saved stays."""
