"""On a GPU no devices are mixed, and none is waited for, as far as a pretended one can tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_what_runs_on_a_pretended_device_is_as_here() -> None:
    """In a process of its own: PyTorch asks once, early, which devices there are."""
    cases = Path(__file__).with_name("elsewhere.py")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:]
