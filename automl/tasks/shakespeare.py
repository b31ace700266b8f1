"""Texts to go on with: Shakespeare's plays, and any file of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from automl.errors import DataError
from automl.tasks.source import Published, Reader, Source, elsewhere, fetch, one_file, traces
from automl.tasks.texts import ProseTask

URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/"
    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt"
)
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHORTEST = 1_000  # characters
LARGEST = 2**28  # bytes


class Shakespeare(Published, ProseTask):
    """1.1 million characters of plays, 65 different ones (Karpathy 2015)."""

    name: Literal["shakespeare"] = "shakespeare"
    origin: ClassVar[str] = "Tiny Shakespeare (Karpathy 2015); public domain"
    folders: ClassVar[tuple[str, ...]] = ("tinyshakespeare",)

    def places(self) -> Mapping[str, Reader]:
        return {"input.txt": lambda place: self.cut(read(place / "input.txt"))}

    def download(self, folder: Path) -> None:
        fetch(URL, SHA256, folder / "shakespeare" / "input.txt")

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return replace(found, identity=[found.identity, self.valid, self.sealed])


class TextFile(ProseTask):
    """Any text in UTF-8."""

    name: Literal["textfile"] = "textfile"
    path: str = Field(
        "text.txt",
        min_length=1,
        description="relative to --data, which may be the text itself, or to the working folder",
    )

    def source(self, root: Path | None) -> Source:
        found = one_file(self.name, self.path, root, "a text in UTF-8")
        elsewhere(self.name, root, Path(self.path), found)
        identity = [traces([found]), self.valid, self.sealed]
        return Source(identity, lambda: self.cut(read(found)))


def read(path: Path) -> str:
    """The text of a file. Raises DataError."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: larger than {LARGEST:,} bytes")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"got the byte 0x{error.object[error.start]:02x} at {error.start:,}; want UTF-8 text"
        raise DataError(f"{path}: {told}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) < SHORTEST:
        raise DataError(f"{path}: got {len(text)} characters; want at least {SHORTEST:,}")
    return text.replace("\r\n", "\n")
