"""The user's own recordings, one folder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from automl.errors import DataError
from automl.inputs.sound import Sounds
from automl.tasks import folders
from automl.tasks.sounds import SoundTask, recordings
from automl.tasks.source import Parts, Source, elsewhere, traces

SUFFIXES = (".wav", ".flac", ".ogg", ".oga")


class AudioFolder(SoundTask):
    """`path/train/<class>/*`, and `path/valid/` (or `val/`) and `path/test/` in the same way.

    Recordings of any rate and length become one channel of one rate and length: shorter ones end
    in silence, longer ones are cut to their loudest part. Where `valid/` is missing, a share of the
    training recordings takes its place. Where `test/` is missing, 15 % of `train/`, drawn once with
    seed 0 whatever `split_seed` says, are the test split. With `speaker`, both are whole speakers.
    """

    name: Literal["audiofolder"] = "audiofolder"
    path: str = Field(
        ".",
        min_length=1,
        description="the folder that holds train/; relative to --data or to the working folder",
    )
    rate: int = Field(16_000, ge=4_000, le=48_000, description="samples a second, in Hz")
    seconds: float = Field(1.0, ge=0.1, le=30, description="length of what a model hears")
    speaker: Literal["none", "first", "second"] = Field(
        "none",
        description="the part of file names, cut at _, that says who speaks: nobody is heard on "
        "both sides of a split",
    )

    def shape(self, root: Path | None) -> tuple[Sounds, tuple[str, ...]]:
        return Sounds(self.rate, round(self.rate * self.seconds)), folders.labels(self._place(root))

    def source(self, root: Path | None) -> Source:
        place = self._place(root)
        elsewhere(self.name, root, Path(self.path), place)
        sounds, labels = self.shape(root)
        parts = folders.parts(place)
        files = folders.listed(place, SUFFIXES, "recordings")
        groups = self._groups(place, files)

        def decode() -> Parts:
            x, readable = recordings(
                place, files, sounds.rate, sounds.samples, threads=os.cpu_count() or 1
            )
            return folders.splits(place, parts, labels, files, x, readable, groups)

        settings = [sounds.rate, sounds.samples, self.speaker]
        return Source([settings, traces(files.values())], decode)

    def _place(self, root: Path | None) -> Path:
        return folders.home(self.name, self.path, root, "recording")

    def _groups(self, place: Path, files: dict[str, Path]) -> Tensor | None:
        """Who speaks in each file, by number."""
        if self.speaker == "none":
            return None
        who = [self._speaker(path) for path in files.values()]
        heard: dict[str, str] = {}  # in which folder
        for name, speaker in zip(files, who, strict=True):
            folder = name.split("/")[0]
            if heard.setdefault(speaker, folder) != folder:
                told = f"speaker {speaker!r} is in {heard[speaker]}/ and {folder}/"
                raise DataError(f"{place}: {told}; want each in one of them")
        numbers = {speaker: number for number, speaker in enumerate(heard)}
        return torch.tensor([numbers[speaker] for speaker in who])

    def _speaker(self, path: Path) -> str:
        first, mark, rest = path.stem.partition("_")
        if self.speaker == "first":
            return first
        if not mark:
            raise DataError(f"{path}: got a name without _; want the speaker behind the first one")
        return rest.partition("_")[0]
