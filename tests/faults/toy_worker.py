"""A worker without torch: it trains by a formula and saves after every epoch.

It notes in the study's folder each epoch that it begins, in begun.log, and each that it has
trained, in trained.log. The environment may tell it to
misbehave: TOY_HANG=TRIAL hangs, deaf to SIGTERM and with a child of its own, in the second epoch of
that trial; TOY_NOISE=BYTES prints as much in every epoch; TOY_SECONDS is what an epoch takes.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def score(config: dict[str, Any], epoch: int) -> float:
    """A curve that the config alone decides."""
    lr, width = config["optimizer"]["lr"], config["model"]["widths"][0]
    end = 0.5 + 0.4 * math.cos(math.log(lr) + width)
    return float(end * (1 - 0.5**epoch))


def hang(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    (folder / "hung.json").write_text(json.dumps([os.getpid(), child.pid]))
    while True:
        time.sleep(600)


def note(file: Path, line: str) -> None:
    with file.open("a") as log:
        log.write(line + "\n")


def train(job: dict[str, Any], epoch: int) -> dict[str, Any]:
    """The next epoch, from the checkpoint if it is there."""
    file = Path(job["checkpoint"])
    folder = file.parents[2]
    done = json.loads(file.read_text())["epochs"] if file.exists() else 0
    if epoch > done:
        file.parent.mkdir(parents=True, exist_ok=True)
        note(folder / "begun.log", f"{job['trial']} {epoch}")
        time.sleep(float(os.environ.get("TOY_SECONDS", "0.002")))
        os.write(2, b"n" * int(os.environ.get("TOY_NOISE", "0")))
        told_to = os.environ.get("TOY_HANG") == str(job["trial"]) and epoch == 2
        if told_to and not (folder / "hung.json").exists():
            hang(folder)
        note(folder / "trained.log", f"{job['trial']} {epoch}")
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"epochs": epoch}))
        os.replace(fresh, file)
    told = score(job["config"], epoch)
    metrics = {"loss": 1 - told, "accuracy": told}
    return {"kind": "Epoch", "number": epoch, "train_loss": 1 - told, "metrics": metrics,
            "seconds": 0.01, "examples": 100}  # fmt: skip


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    job: dict[str, Any] = {}
    epoch = 0
    for line in sys.stdin:
        request = json.loads(line)
        kind = request.pop("kind")
        answer: dict[str, Any] = {"kind": "Ready"}
        if kind == "Save":
            answer = {"kind": "Saved"}
        elif kind in ("Job", "Go"):
            job, epoch = (request, 1) if kind == "Job" else (job, epoch + 1)
            answer = train(job, epoch)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
