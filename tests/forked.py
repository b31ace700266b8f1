"""Processes of a search, forked from one that has imported PyTorch.

A search begins a process for each worker, and one that loads its model again. To import PyTorch
takes each of them two seconds of CPU time, more than all else in most tests. A fork is a process of
its own as well: with pipes, variables and a folder of its own, and with nothing of the test in it.
How processes begin and end without this is seen in test_engine.py, test_search.py, test_cli.py and
faults/. Who looks for the children of its own process looks in vain here, see `unforked`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

WORKER, AGAIN = "automl.engines", "automl.cli"
MOST = 2**17  # bytes of a message, which is one packet


class Forked:
    """As much of a `subprocess.Popen` as a search asks for: `python -P -m MODULE WORDS`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        place: Path,
        stdout: int,
        stderr: int | IO[bytes],
        stdin: int = subprocess.DEVNULL,
        env: dict[str, str] | None = None,
        start_new_session: bool = True,  # which it has in any case
    ) -> None:
        assert list(command[:3]) == [sys.executable, "-P", "-m"]
        assert (stdin, stdout) in [(subprocess.DEVNULL, subprocess.PIPE), (subprocess.PIPE,) * 2]
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.connect(str(place / command[3]))
        hears, self.stdin = pipe()
        self.stdout, tells = pipe()
        if stdin != subprocess.PIPE:
            self.stdin.close()
        told = {"words": command[3:], "folder": os.getcwd(), "env": env or dict(os.environ)}
        with contextlib.ExitStack() as stack:
            for file in (hears, tells):
                stack.enter_context(file)
            if isinstance(stderr, int):
                stderr = stack.enter_context(open(os.devnull, "wb"))
            files = [file.fileno() for file in (hears, tells, stderr)]
            socket.send_fds(self.line, [json.dumps(told).encode()], files)
        self.pid = int(self.line.recv(MOST))
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self.line.recv(MOST))
            self.line.close()
        return self.returncode

    def communicate(self) -> tuple[bytes, None]:
        said = self.stdout.read()
        self.wait()
        return said, None

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()


def pipe() -> tuple[IO[bytes], IO[bytes]]:
    there, here = os.pipe()
    return os.fdopen(there, "rb"), os.fdopen(here, "wb")


def serve(place: str) -> None:
    """Until its input ends. Each request has a keeper, which begins, awaits and tells of one.

    Workers and who loads a model again have parents of their own: in neither is imported what the
    others need alone.
    """
    gc.disable()
    from automl.config import Task

    module = WORKER
    importlib.import_module("automl.engines.worker")  # what one has when it hears of data
    Task.members()  # all parts
    if os.fork() == 0:
        module = AGAIN
        for more in ("typer", "automl.searching.study"):
            importlib.import_module(more)
    gc.freeze()
    gc.enable()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(f"{place}/{module}")
    listening.listen()
    print("ready", flush=True)
    while 0 not in select.select([listening, 0], [], [])[0]:
        line, _ = listening.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # keepers that have ended
                pass
        if os.fork() == 0:
            listening.close()
            return keep(line)
        line.close()


def keep(line: socket.socket) -> None:
    message, files, _, _ = socket.recv_fds(line, MOST, 3)
    told: dict[str, Any] = json.loads(message)
    pid = os.fork()
    if pid == 0:
        line.close()
        return become(told, files)
    os.setpgid(pid, pid)  # whoever ends it ends its group
    for file in (*files, 0, 1):
        os.close(file)
    line.send(str(pid).encode())
    line.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def become(told: dict[str, Any], files: list[int]) -> None:
    """What `python -P -m` would do with these words."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["env"])
    sys.argv = told["words"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1])
