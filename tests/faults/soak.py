"""A long search under fire: a `kill -9` of a worker every 2 s, of the driver every 20 s.

    python tests/faults/soak.py FOLDER [TRIALS] [SEED]

Driver, journal, lock and engine are the tool's own; workers train by a formula (see
toy.py), 12 epochs of 50 ms a trial. It fails unless every row, curve and value is
what an undisturbed search has, and no more than 5 % more epochs were begun than these have.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from toy import SPACE, begun, exact, storm

EPOCHS, SLOTS, WORKER_EVERY, DRIVER_EVERY = 12, 2, 2.0, 20.0
TEXT = SPACE.replace("epochs: 3", f"epochs: {EPOCHS}")


def main(folder: Path, trials: int, seed: int) -> None:
    os.environ["TOY_SECONDS"] = "0.05"
    began = time.perf_counter()
    killed = storm(folder, trials, SLOTS, WORKER_EVERY, DRIVER_EVERY, seed, TEXT)
    took = time.perf_counter() - began
    exact(folder, trials, TEXT)
    more = begun(folder) / (trials * EPOCHS) - 1
    print(f"{trials} trials of {EPOCHS} epochs in {took:.0f} s, all rows, curves and values exact; "
          f"killed: {killed['workers']} workers, {killed['drivers']} drivers; "
          f"epochs begun: {begun(folder):,}, {more:.2%} above ideal")  # fmt: skip
    assert more <= 0.05


if __name__ == "__main__":
    where, *rest = sys.argv[1:]
    numbers = [*map(int, rest), *[1000, 0][len(rest) :]]
    main(Path(where), *numbers)
