"""Training states on disk: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger("automl")

UNREADABLE = (  # what reading a file raises that torch.save did not write
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def save(path: Path, state: dict[str, Any], *, last: bool = False) -> None:
    """Tensors, numbers, texts, lists and dicts, then their sha256.

    The previous file is kept, but of the `last` one of a training: nothing goes on from there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getbuffer()
    fresh = _beside(path, ".new")
    with fresh.open("wb") as file:
        file.write(body)
        file.write(hashlib.sha256(body).digest())
        file.flush()
        os.fsync(file.fileno())  # or a power cut may leave a name without what it names
    if path.exists():
        os.replace(path, _beside(path, ".old"))
    os.replace(fresh, path)
    if last:
        _beside(path, ".old").unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any] | None:
    """The newest state that is whole, on the CPU; None where there is none."""
    for candidate in (path, _beside(path, ".old")):
        try:
            raw = candidate.read_bytes()
        except FileNotFoundError:
            continue
        body, digest = memoryview(raw)[:-32], raw[-32:]
        if hashlib.sha256(body).digest() == digest:
            try:
                state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            except UNREADABLE as error:
                log.warning("%s: holds more than numbers and is not read: %s", candidate, error)
                continue
            if isinstance(state, dict):
                return state
        log.warning("%s: damaged checkpoint; going back to the one before", candidate)
    return None


def remove(path: Path) -> None:
    for file in (path, _beside(path, ".old"), _beside(path, ".new")):
        file.unlink(missing_ok=True)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
