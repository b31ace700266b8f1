"""Training states on disk: written whole or not at all, checked when read, never unpickled.

A file is the length of a text, the text, which is JSON, the numbers of all tensors one after the
other, and the sha256 of that. torch.save takes twice as long for the hundreds of small tensors of a
training, and its reader is one for pickles.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

UNREADABLE = (  # what a file raises that was not written here
    ArithmeticError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
LENGTH = 8  # bytes in which it is told how long the text is
KINDS = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}

log = logging.getLogger("automl")


def save(path: Path, state: dict[str, Any], *, last: bool = False) -> None:
    """Tensors, numbers, texts, None, and lists, tuples and dicts of them. TypeError for all else.

    The previous file is kept, unless this is the `last` of a training: nothing goes on from there.
    """
    parts, seen = packed(state), hashlib.sha256()
    fresh = _beside(path, ".new")
    with fresh.open("wb") as file:
        for part in parts:
            file.write(part)
            seen.update(part)
        file.write(seen.digest())
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
                state = unpacked(body)
            except UNREADABLE as error:
                log.warning("%s: is no checkpoint of this version: %s", candidate, error)
                continue
            if isinstance(state, dict):
                return state
        log.warning("%s: damaged checkpoint; going back to the one before", candidate)
    return None


def remove(path: Path) -> None:
    for file in (path, _beside(path, ".old"), _beside(path, ".new")):
        file.unlink(missing_ok=True)


def packed(state: Any) -> Iterator[bytes | memoryview]:
    """All but the sha256, part by part, so that nothing is held twice. Raises TypeError."""
    tensors: list[Tensor] = []
    text = json.dumps(_told(state, tensors)).encode()
    return chain([len(text).to_bytes(LENGTH, "little"), text], map(_bytes, tensors))


def unpacked(body: memoryview) -> Any:
    """Raises UNREADABLE."""
    start = LENGTH + int.from_bytes(body[:LENGTH], "little")
    return _Reader(body[start:]).read(json.loads(bytes(body[LENGTH:start])))


def _told(value: Any, tensors: list[Tensor]) -> Any:
    """A state as JSON; its tensors, as they lie in memory, are added to a list."""
    match value:
        case Tensor():
            order = sorted(range(value.ndim), key=value.stride, reverse=True)
            kind = str(value.dtype).removeprefix("torch.")
            if kind not in KINDS:
                raise TypeError(f"a checkpoint holds no tensors of {kind}")
            tensors.append(value.detach().permute(order))
            return {"tensor": [kind, list(tensors[-1].shape), order]}
        case dict():
            return {"dict": [[key, _told(each, tensors)] for key, each in value.items()]}
        case tuple():
            return {"tuple": [_told(each, tensors) for each in value]}
        case list():
            return [_told(each, tensors) for each in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"a checkpoint holds no {type(value).__name__}: {value!r}")


def _bytes(tensor: Tensor) -> memoryview:
    whole: memoryview = tensor.cpu().reshape(-1).view(torch.uint8).numpy().data
    return whole


class _Reader:
    """What was told as a state, its tensors from the bytes that follow."""

    def __init__(self, rest: memoryview) -> None:
        self.rest = rest

    def read(self, told: Any) -> Any:
        match told:
            case {"tensor": [kind, shape, order]}:
                places = sorted(range(len(order)), key=order.__getitem__)
                return self._next(KINDS[kind], shape).permute(places)
            case {"dict": pairs}:
                return {key: self.read(each) for key, each in pairs}
            case {"tuple": some}:
                return tuple(map(self.read, some))
            case list():
                return list(map(self.read, told))
        return told

    def _next(self, kind: torch.dtype, shape: list[int]) -> Tensor:
        size = math.prod(shape) * kind.itemsize
        if not size:
            return torch.empty(shape, dtype=kind)
        own, self.rest = bytearray(self.rest[:size]), self.rest[size:]
        return torch.frombuffer(own, dtype=kind).view(shape)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
