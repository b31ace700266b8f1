"""The process of a worker: begin it, end it. Imports nothing that takes time.

So a command can begin one before all else, and both import at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO

WORKER = ("-P", "-m", "automl.engines")


def launch(words: Sequence[str], errors: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Python with these words, a pipe in and a pipe out; what it prints goes to `errors`."""
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # of libraries; torch is told by Setup
        start_new_session=True,  # Ctrl-C is the driver's to handle
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Now, with whatever a part has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # what was not read is lost with the worker
        process.stdin.close()


@contextlib.contextmanager
def early() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A worker that an engine may take from the list; one that nobody took is ended.

    Only one: the driver needs a core too, and how many workers there will be is not known. What it
    prints before its setup names a log is lost: if it fails then, another one is begun with a log.
    """
    begun = [launch(WORKER, subprocess.DEVNULL)]
    try:
        yield begun
    finally:
        for process in begun:
            end(process)
