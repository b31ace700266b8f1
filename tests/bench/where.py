"""Where the time of a search goes: what driver and workers are at, looked up again and again.

    python tests/bench/where.py search digits --trials 20

What follows is any command of `automl`. A thread in each of its processes looks at the stack of
the main thread, and the innermost function of a list says what that is at. Waiting is no work:
shares are of the rest, by the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

HOOK = """
import sys, threading
def look():
    import collections, json, os, time
    main, seen = threading.main_thread().ident, collections.Counter()
    before = written = time.monotonic()
    file = os.path.join({folder!r}, str(os.getpid()))
    while True:
        time.sleep(0.01)
        frame, stack = sys._current_frames().get(main), []
        while frame is not None:
            code = frame.f_code
            stack.append(code.co_filename.rpartition("site-packages/")[2] + ":" + code.co_name)
            frame = frame.f_back
        now = time.monotonic()
        seen["|".join(stack)] += now - before
        before = now
        if now > written + 0.5:
            written = now
            with open(file + ".new", "w") as out:
                json.dump([" ".join(sys.argv), seen], out)
            os.replace(file + ".new", file)
threading.Thread(target=look, daemon=True).start()
"""
PARTS = {  # the innermost of these that is on the stack; the end of a file's name, and a function
    "importlib._bootstrap>:_find_and_load": "imports",
    "selectors.py:select": "waiting",
    "worker.py:receive": "waiting",
    "run.py:answer": "waiting",
    "training/loop.py:learn": "training: forward and backward",
    "optimizer.py:wrapper": "training: optimizer",
    "optimizers.py:step": "training: optimizer",
    "training/loop.py:average": "training: averaged weights",
    "automl/augment.py:__call__": "training: augmentation",
    "training/loop.py:train": "training: the loop itself",
    "training/loop.py:evaluate": "scoring",
    "training/loop.py:__init__": "model built",
    "training/loop.py:encoded": "data encoded",
    "training/checkpoint.py:save": "checkpoint written",
    "training/checkpoint.py:load": "checkpoint read",
    "engines/worker.py:timed": "latency",
    "automl/space.py:measure": "size of models",
    "surrogate.py:propose": "model of the search",
    "surrogate.py:predict": "model of the search",
    "surrogate.py:_learn": "model of the search",
    "optuna/study/study.py:ask": "Optuna",
    "optuna/study/study.py:tell": "Optuna",
    "optuna/trial/_trial.py:report": "Optuna",
    "optuna/trial/_trial.py:set_user_attr": "Optuna",
    "leaderboard.py:rows": "leaderboard",
    "study.py:write_leaderboard": "leaderboard",
    "study.py:report": "report",
    "dashboard.py:illustrate": "pictures",
    "tasks/classes.py:load": "data read",
    "tasks/texts.py:load": "data read",
    "run.py:finish": "test, ensemble, latencies",
    "run.py:prove": "space proved",
    "delivery.py:write": "model written",
}


def part(stack: str) -> str:
    for frame in stack.split("|"):
        for end, name in PARTS.items():
            if frame.endswith(end):
                return name
    return "the rest"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(HOOK.format(folder=folder))
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run([sys.executable, "-m", "automl.cli", *sys.argv[1:]], env=environment)
        found: dict[str, Any] = {}
        for file in Path(folder).iterdir():
            if file.name.isdigit():
                command, seen = json.loads(file.read_text())
                who = next((w for w in ("worker", "verify") if w in command), "driver")
                for stack, seconds in seen.items():
                    found.setdefault(who, Counter())[part(stack)] += seconds
    for who, seen in found.items():
        waiting = seen.pop("waiting", 0)
        whole = seen.total()
        print(f"\n{who}: {whole:.0f} s at work, {waiting:.0f} s waiting")
        for name, seconds in seen.most_common():
            print(f"{seconds / whole:7.1%}  {name}")


if __name__ == "__main__":
    main()
