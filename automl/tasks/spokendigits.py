"""Spoken digits: the Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, get_args

import torch
from pydantic import Field

from automl.data import Split
from automl.errors import DataError
from automl.inputs.sound import Sounds
from automl.tasks.sounds import SoundTask, recordings
from automl.tasks.source import Parts, Published, Reader, Source, fetch_archive, files

COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
URL = f"https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz/{COMMIT}"
SHA256 = "6b1a8e30f4df78a933fe25cf1ca0140c8c6f169c0a83649a15b70a5ae7407014"  # as `digest` has it
ARCHIVE = "free-spoken-digit-dataset.tar.gz"

Speaker = Literal["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
SPEAKERS: tuple[str, ...] = get_args(Speaker)
RATE = 8_000  # Hz
TEST = 5  # recordings of each digit by each speaker, the first ones


class SpokenDigits(Published, SoundTask):
    """3,000 recordings of the digits by 6 speakers, 50 of each digit by each, of 1 s at 8 kHz.

    The official test split are the first 5 of the 50. It has the speakers of the training split:
    one who answers for speakers never heard leaves one out, who is the test split then, and the
    validation split is another one.
    """

    name: Literal["spoken-digits"] = "spoken-digits"
    origin: ClassVar[str] = "Free Spoken Digit Dataset (Jakobovski et al.); CC BY-SA 4.0"
    speaker_out: Speaker | None = Field(
        None, description="whose recordings are the test split; null: the official one"
    )

    labels: ClassVar[tuple[str, ...]] = tuple("0123456789")
    folders: ClassVar[Sequence[str]] = ("fsdd",)
    takes: ClassVar[int] = 50  # of each digit by each speaker

    def shape(self, root: Path | None) -> tuple[Sounds, tuple[str, ...]]:
        return Sounds(RATE, RATE), self.labels

    def places(self) -> Mapping[str, Reader]:
        return {
            "fsdd-wav.tar.xz": self.read,
            "recordings/0_george_0.wav": self.read,
            "fsdd/recordings/0_george_0.wav": self.read,
            ARCHIVE: self.read,
        }

    def download(self, folder: Path) -> None:
        fetch_archive(URL, SHA256, folder / ARCHIVE, self._files)

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return Source([self.speaker_out, found.identity], found.decode)

    def read(self, place: Path) -> Parts:
        found = self._files(place)
        told = [PurePosixPath(path).stem.split("_") for path in found]
        wanted = {(d, s, str(i)) for d in self.labels for s in SPEAKERS for i in range(self.takes)}
        got = {(digit, speaker, take) for digit, speaker, take in told}
        if len(told) != len(wanted) or got != wanted:
            odd = sorted("_".join(name) for name in wanted ^ got)
            named = f"; {odd[0]}.wav is amiss" if odd else ", some twice"
            raise DataError(
                f"{place}: got {len(told):,} recordings of {self.name}; want {len(wanted):,}{named}"
            )

        x, readable = recordings(place, found, RATE, RATE)
        y = torch.tensor([int(digit) for digit, _, _ in told])[readable]
        speakers = torch.tensor([SPEAKERS.index(speaker) for _, speaker, _ in told])[readable]
        if self.speaker_out is None:
            test = torch.tensor([int(take) < TEST for _, _, take in told])[readable]
            whole = Split(x, y)
        else:
            test = speakers == SPEAKERS.index(self.speaker_out)
            whole = Split(x, y, speakers)
        return {"train": whole[~test], "test": whole[test]}

    def _files(self, place: Path) -> dict[str, bytes]:
        names = "|".join(SPEAKERS)
        folder = r"((fsdd|free-spoken-digit-dataset-\w+)/)?(recordings/)?"
        return files(
            place,
            rf"{folder}[0-9]_({names})_[0-9]{{1,2}}\.wav",
            largest=2**20,
            most=len(self.labels) * len(SPEAKERS) * self.takes,
        )
