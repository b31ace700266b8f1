"""Places on this machine as people write them, and what may lie there. Opens nothing."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from automl.errors import AutomlError, OptionError


def here(given: str | Path, where: str, kind: type[AutomlError] = OptionError) -> Path:
    """The path, with the home that `~` means. Raises `kind`, which says `where` it was written."""
    if re.match(r"[\w+.-]{2,}:/", str(given)):  # else a folder's name, password and all
        raise kind(f"{where}: got {str(given)!r}; want a place on this machine")
    try:
        path = Path(given).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # raises where a name is too long
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        told = f"got {str(given)[:60]!r}; want a place on this machine: {why}"
        raise kind(f"{where}: {told}") from error
    return path


def root(given: str | Path | None) -> Path | None:
    """Where data lies: as given, else as the environment's AUTOML_DATA says. Raises OptionError."""
    named = given or os.environ.get("AUTOML_DATA")
    if not named:
        return None
    source = "--data" if given else "AUTOML_DATA"
    path = here(named, source)
    if not path.exists():
        raise OptionError(f"{source}: got {str(named)!r}; want a file or folder that exists")
    return path


def target(file: Path, suffix: str) -> None:
    """Raises OptionError where `--out` names no file that could be written, of that kind."""
    if file.suffix != suffix or file.is_dir():
        raise OptionError(f"--out: got {str(file)!r}; want a file that ends in {suffix}")
    if not file.parent.is_dir():
        raise OptionError(f"--out: {file.parent}: is no folder")


def regular(path: Path) -> Path:
    """The path, unless a pipe or device lies there, which would be waited for. Raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no file", str(path))
    return path
