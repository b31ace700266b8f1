"""Seconds from `automl search` to its first training step: by the clock, and of the CPU.

    python tests/bench/starting.py [search words, as: digits --workers 2]

Medians of five. A plugin tells of the first step; CPU-seconds are those of the driver up to then,
and of the worker that made the step.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
PLUGIN = """
import os
import time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook

FILE = Path({file!r})
def told(*_):
    if not FILE.exists():
        fields = Path(f"/proc/{{os.getppid()}}/stat").read_text().rpartition(")")[2].split()
        driver = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        fresh = FILE.with_suffix(".new")
        fresh.write_text(f"{{time.monotonic()}} {{driver}} {{time.process_time()}}")
        fresh.rename(FILE)
register_optimizer_step_post_hook(told)
"""


def started(words: list[str]) -> tuple[float, ...]:
    """Seconds by the clock, CPU-seconds of the driver, and of the worker."""
    with tempfile.TemporaryDirectory() as folder:
        file, plugin = Path(folder) / "told", Path(folder) / "plugin.py"
        plugin.write_text(PLUGIN.format(file=str(file)))
        command = [sys.executable, "-m", "automl.cli", "search", *words, "--quiet"]
        command += ["--studies", folder, "--plugin", str(plugin)]
        began = time.monotonic()
        search = subprocess.Popen(command)
        while not file.exists():
            assert search.poll() is None, "it ended before the first step"
            time.sleep(0.01)
        search.kill()  # its workers die with it, once they have imported all
        search.wait()
        clock, driver, worker = map(float, file.read_text().split())
        time.sleep(8.0)  # so long
    return clock - began, driver, worker


def main(*words: str) -> None:
    rounds = [started([*(words or ["digits"])]) for _ in range(ROUNDS)]
    for told in rounds:
        print("{:.2f} s; CPU: driver {:.2f}, worker {:.2f}".format(*told), file=sys.stderr)
    clock, driver, worker = map(statistics.median, zip(*rounds, strict=True))
    print(f"first step after {clock:.2f} s; CPU-seconds: driver {driver:.2f}, worker {worker:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
