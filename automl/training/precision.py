"""Which device, how many threads, and which number format is fast."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from automl.errors import OptionError


@dataclass(frozen=True)
class Precision:
    """How training steps compute. Evaluation is in float32: the score is the model's own.

    On a GPU convolutions and recurrent layers round float32 to TF32 then, as is PyTorch's default,
    and recurrent layers in training, too, see `automl/models/layers.py`.
    """

    device: torch.device
    bf16: bool

    @classmethod
    def of(cls, device: torch.device) -> Precision:
        if device.type == "cuda":
            with torch.cuda.device(device):  # or another GPU would be asked
                return cls(device, torch.cuda.is_bf16_supported(including_emulation=False))
        if device.type == "cpu":
            has = torch.cpu.get_capabilities()
            return cls(device, bool(has.get("avx512_bf16") or has.get("amx_bf16")))
        return cls(device, False)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """So many of PyTorch's; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick(name: str = "auto") -> torch.device:
    """`auto` is a GPU, any of them, else the CPU. Raises OptionError for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if name != "cpu" and not re.fullmatch(r"cuda(:\d+)?", name):
            raise RuntimeError("is none that models are trained on")
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--device {name}: {reason}; want auto, cpu, cuda or cuda:0") from error
    return device


def describe(device: torch.device) -> str:
    """`NVIDIA H100 (bf16)`, `CPU, 2 cores (bf16)`."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type.upper()}, {os.cpu_count()} cores"
    )
    return f"{name} ({'bf16' if Precision.of(device).bf16 else 'float32'})"
