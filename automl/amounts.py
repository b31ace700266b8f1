"""Amounts as people write and read them: `1h30m`, `5GB`, `1,520`."""

from __future__ import annotations

import re

from automl.errors import OptionError


def seconds(text: str) -> float:
    """Of `1h30m`. Raises OptionError."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise OptionError(f"--time: got {text!r}; want 90s, 30m, 8h or 1h30m")
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)([hms])", text))


def size(text: str) -> int:
    """Of `5GB`, in bytes; a GB is 10 ** 9 of them. Raises OptionError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([MG])B", text)
    told = float(found[1]) * (10**9 if found[2] == "G" else 10**6) if found else 0
    if told < 1:
        raise OptionError(f"--disk: got {text!r}; want 500MB or 5GB")
    return int(told)


def told(number: float) -> str:
    """Three digits that count, without exponent from 0.0001 on: `0.032`, `48.7`, `1,523`."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def plural(count: int, word: str) -> str:
    """`1 trial`, `1,520 trials`."""
    return f"{count:,} {word}{'s' * (count != 1)}"
