"""Decoded data on disk: written whole or not at all, checked when read. Knows no data set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from automl.data import Ragged, Rows, Series, Split
from automl.places import here, regular

DAMAGED = (SafetensorError, OSError, KeyError, ValueError)  # what `read` raises


def folder() -> Path:
    """The folder of downloads and decoded data. Raises OptionError."""
    if named := os.environ.get("AUTOML_CACHE"):
        return here(named, "AUTOML_CACHE")
    return here(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "automl"


def read(path: Path, part: str) -> tuple[Split, dict[str, Any]]:
    """A split, and what is known of all of its data set. Raises one of DAMAGED."""
    with safe_open(regular(path), framework="pt") as file:
        metadata = file.metadata() or {}
        # copied, for they are views of the file: what is checked here must not change later
        held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    if hashlib.sha256(metadata["about"].encode()).hexdigest() != metadata["sha256"]:
        raise ValueError("its description does not match its checksum")
    about: dict[str, Any] = json.loads(metadata["about"])
    x: Rows = held["x"]
    if "offsets" in held:
        x = Ragged(held["x"], held["offsets"])
    elif "first" in held:
        x = Series(held["x"], int(held["first"]))
    split = Split(x, held["y"], held.get("groups"))
    if digest(split) != about["digests"][part]:
        raise ValueError("its examples do not match their checksum")
    return split, about


def write(path: Path, parts: dict[str, Split], about: str) -> None:
    """One file a split. Each appears whole or not at all, even if two processes write at once."""
    path.mkdir(parents=True, exist_ok=True)
    metadata = {"about": about, "sha256": hashlib.sha256(about.encode()).hexdigest()}
    with tempfile.TemporaryDirectory(dir=path) as unfinished:
        (plain := Path(unfinished, "plain")).touch()
        for part, split in parts.items():
            fresh = Path(unfinished, f"{part}.safetensors")
            save_file(_tensors(split), fresh, metadata)
            shutil.copymode(plain, fresh)  # save_file writes for its owner alone
            fresh.replace(path / fresh.name)


def read_text(path: Path) -> str | None:
    """What `write_text` wrote, if it is there and whole."""
    try:
        sha, _, text = regular(path).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return text if hashlib.sha256(text.encode()).hexdigest() == sha else None


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, with its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
        fresh = Path(unfinished, path.name)
        fresh.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
        fresh.replace(path)


def digest(split: Split) -> str:
    """sha256 over shapes, types and all examples, targets and groups."""
    sha = hashlib.sha256()
    for name, tensor in sorted(_tensors(split).items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        sha.update(tensor.numpy().data)
    return sha.hexdigest()


def _tensors(split: Split) -> dict[str, Tensor]:
    held = {"y": split.y}
    match split.x:
        case Ragged(values, offsets):
            held |= {"x": values, "offsets": offsets}
        case Series(values, first):
            held |= {"x": values, "first": torch.tensor(first)}
        case _:
            assert isinstance(split.x, Tensor)
            held["x"] = split.x
    if split.groups is not None:
        held["groups"] = split.groups
    return {name: tensor.contiguous() for name, tensor in held.items()}
