"""What sound tasks share: decoding, and a baseline. Knows no models and no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from automl.data import Data, Rows, pieces
from automl.errors import DataError
from automl.inputs.sound import UNREADABLE, LogMel, sound
from automl.tasks.classes import ClassTask
from automl.tasks.source import readable

LARGEST = 2**33  # bytes of all samples of a set, which are held in memory


class SoundTask(ClassTask):
    """Recordings in classes."""

    gives: ClassVar[str] = "sounds"
    input: ClassVar[str] = "logmel"

    def baseline(self, data: Data) -> tuple[str, float]:
        """Logistic regression on mean and deviation over time of at most 5,000 spectrograms."""
        inputs = LogMel().expect(data.inputs)

        def features(x: Rows) -> Tensor:
            assert isinstance(x, Tensor)
            loud = map(inputs.loudness, pieces(x))
            return torch.cat([torch.cat([c.mean(2), c.std(2, correction=0)], 1) for c in loud])

        score = self.regressed(data, features, least=1e-2, steps=100)
        return "logistic regression on the mean spectrogram", score


def recordings(
    place: Path, files: Mapping[str, bytes | Path], rate: int, samples: int, *, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """int16 (N, samples) of the recordings that can be read, and bool (all,); see `readable`."""
    if (size := 2 * samples * len(files)) > LARGEST:
        told = (
            f"{len(files):,} recordings of {samples / rate:g} s at {rate:,} Hz are {size:,} bytes"
        )
        raise DataError(f"{place}: {told}; want at most {LARGEST:,}")
    x = torch.empty((len(files), samples), dtype=torch.int16)
    read = partial(sound, rate=rate, samples=samples)
    return readable(place, "recordings", files, x, read, UNREADABLE, threads)
