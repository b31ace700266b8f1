"""Sound: files and arrays to samples of one rate and length, and these to log-mel spectrograms."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from automl.config import Input
from automl.data import Data, Inputs, Raw, Split, pieces
from automl.errors import DataError
from automl.inputs.images import Images, array_of
from automl.places import regular

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")  # of the many that the library knows
LONGEST = 600  # seconds of a file
LARGEST = 2**25  # samples of a file, all channels together: 128 MiB as float32
RATES = (1_000, 384_000)  # Hz; the filter that resamples has 20 taps for each Hz at most
CHANNELS = 16  # of what is read: arrays with fewer columns are no recordings one below the other
FULL = {"int8": 2**7, "int32": 2**31}  # what stands for 1.0 in whole numbers; in others 2**15
QUIET = 1e-6  # added before the logarithm: 60 dB below noise of full scale, so that digital
# silence behind a recording is not told from the noise of a good microphone
FLAT = 1e-2  # least deviation of a band, in nats: one that says nothing is not blown up

UNREADABLE = (  # what reading a damaged file raises
    soundfile.SoundFileError,  # LibsndfileError is one
    OSError,
    ValueError,
    TypeError,  # on files called *.raw, which need to be told what they hold
)


@dataclass(frozen=True)
class Sounds(Raw):
    """Recordings of one length: int16 (N, samples)."""

    rate: int  # Hz
    samples: int

    @property
    def summary(self) -> str:
        return f"{self.samples / self.rate:.1f} s of sound at {self.rate / 1000:g} kHz"


@dataclass(frozen=True, kw_only=True)
class Spectrograms(Images):
    """Recordings as images of one channel: mel bands as rows, low ones first, frames as columns.

    Shape is (1, mels, frames); mean and deviation are those of each band, in nats.
    """

    rate: Annotated[int, Field(ge=RATES[0], le=RATES[1])]  # Hz
    samples: Annotated[int, Field(ge=1, le=LARGEST)]  # of a recording
    window: Annotated[int, Field(ge=2, le=2**16)]  # samples that a frame sees
    hop: Annotated[int, Field(ge=1, le=2**16)]  # samples from one frame to the next

    def loudness(self, x: Tensor) -> Tensor:
        """int16 (N, samples) in, float32 (N, mels, frames) in nats out, on the device of x.

        The logarithm of the power in each mel band; samples reach from -1 to 1, and white noise of
        deviation 1 has power 1. Half a window of silence lies before and behind.
        """
        hann, filters, _, _ = _constants(self, x.device)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round the power
            found = torch.stft(
                x.float() / 2**15,
                n_fft=_bins(self.window),
                hop_length=self.hop,
                win_length=self.window,
                window=hann,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            power = found.real.square() + found.imag.square()
            return (filters @ power + QUIET).log()

    def prepare(self, x: Tensor) -> Tensor:
        """int16 (N, samples) in, float32 (N, 1, mels, frames) out.

        Of mean 0 and deviation 1 over the training split in every band.
        """
        _, _, mean, std = _constants(self, x.device)
        scaled = ((self.loudness(x) - mean) / std).unsqueeze(1)
        return scaled.contiguous(memory_format=torch.channels_last)

    def recipe(self) -> dict[str, Any]:
        return {
            "dtype": "int16",
            "shape": ["N", self.samples],
            "how": f"mono, the mean of all channels; at another rate r: the loudest part of "
            f"ceil({self.samples} * r / {self.rate}) samples, by scipy.signal.resample_poly from r "
            f"to {self.rate} samples a second; 32768 for 1.0; the loudest part of {self.samples} "
            "samples, or silence behind what is shorter",
            "then": f"power |STFT|^2 of x / 32768: Hann window of {self.window} in "
            f"{_bins(self.window)} places, every {self.hop}, centred, with zeros around; "
            f"over the sum of the window's squares; {self.shape[1]} triangles of weight 1 on HTK's "
            f"mel scale from 0 Hz up, none narrower than one bin; log(bands + {QUIET}); "
            "(x - mean) / std, band by band, as (N, 1, bands, frames)",
            "rate": self.rate,
            "mean": self.mean,
            "std": self.std,
        }

    @property
    def floats(self) -> int:
        """The spectrum before bands are made of it is the largest there is."""
        return max(super().floats, 2 * (_bins(self.window) // 2 + 1) * self.shape[2])

    def read(self, raw: Any) -> Split:
        """Anything that is a recording or several, to int16 (N, samples).

        Takes a path, the bytes of a file, an array or tensor (samples,) of fractions -1..1 or of
        whole numbers as WAV files have them, uint8, int16 or int32, sampled at this rate, a batch
        of these (N, samples), or a list of any of them. Files are read exactly as for training.
        Raises DataError where that is not possible.
        """
        if isinstance(raw, np.ndarray | Tensor):
            one = raw.ndim < 2
            if not one and raw.shape[1] < CHANNELS:
                got = f"got an array of shape {tuple(raw.shape)}, as of channels"
                raise DataError(f"sound: {got}; want (samples,), their mean, or (N, samples)")
        elif isinstance(raw, str | Path | bytes):
            one = True
        elif isinstance(raw, Iterable):
            one = False
        else:
            told = f"sound: {type(raw).__name__} is no sound; give a path or an array (samples,)"
            raise DataError(told)
        listed = [raw] if one else list(raw)
        if not listed:
            raise DataError("sound: got nothing; want at least one recording")
        x = torch.stack([self._one(recording) for recording in listed])
        return Split(x, torch.zeros(len(x), dtype=torch.long))

    def _one(self, raw: Any) -> Tensor:
        if not isinstance(raw, str | Path | bytes):
            return fitting(wave(raw), self.samples)
        try:
            return sound(Path(raw) if isinstance(raw, str) else raw, self.rate, self.samples)
        except UNREADABLE as error:
            where = "sound" if isinstance(raw, bytes) else raw
            told = " ".join(str(error).split())
            raise DataError(f"{where}: cannot be read as sound: {told}") from error

    @property
    def summary(self) -> str:
        _, mels, frames = self.shape
        return f"{mels}x{frames} spectrograms of {Sounds(self.rate, self.samples).summary}"


def _bins(window: int) -> int:
    """Places of the Fourier transform, a power of 2: the window and silence behind it."""
    return 1 << (window - 1).bit_length()


@functools.lru_cache(maxsize=8)  # asked for at every step: nothing is copied to the device again
def _constants(inputs: Spectrograms, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Window (window,), filters (mels, bins), mean and deviation (mels, 1), on the device."""
    with torch.inference_mode(False):  # kept for training too, whoever asks first
        hann = torch.hann_window(inputs.window, dtype=torch.float64)
        filters = mel_filters(inputs.shape[1], _bins(inputs.window), inputs.rate)
        filters = filters / hann.square().sum()
        mean, std = (torch.tensor(told).view(-1, 1) for told in (inputs.mean, inputs.std))
        a, b, c, d = (t.to(device, torch.float32) for t in (hann, filters, mean, std))
        return a, b, c, d


def mel_filters(mels: int, bins: int, rate: int) -> Tensor:
    """Weights float64 (mels, bins // 2 + 1) of triangles with equal steps on the mel scale.

    The scale is HTK's, 2595 log10(1 + Hz / 700) (O'Shaughnessy 1987; Young et al., The HTK Book),
    from 0 Hz to half the rate; the weights of a band sum to 1. A triangle is never narrower than
    to reach the next bin on either side: many bands of a short window would see nothing else.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    step = rate / bins
    heard = torch.arange(bins // 2 + 1, dtype=torch.float64) * step  # Hz
    rising = (heard - low.minimum(centre - step)) / (centre - low).clamp_min(step)
    falling = (high.maximum(centre + step) - heard) / (high - centre).clamp_min(step)
    weights = rising.minimum(falling).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def sound(file: bytes | Path, rate: int, samples: int) -> Tensor:
    """A WAV, FLAC or OGG file as int16 (samples,) at `rate` Hz. Raises one of UNREADABLE.

    Channels are averaged. A longer recording is cut to its loudest part, first of all, so that
    hours of a file are not resampled for a second of it.
    """
    source = io.BytesIO(file) if isinstance(file, bytes) else regular(file)
    with soundfile.SoundFile(source) as opened:
        theirs, frames, channels = opened.samplerate, opened.frames, opened.channels
        if opened.format not in FORMATS:
            raise ValueError(f"is {opened.format}; want WAV, FLAC or OGG")
        if not RATES[0] <= theirs <= RATES[1]:
            raise ValueError(f"has {theirs:,} samples a second; want {RATES[0]:,} to {RATES[1]:,}")
        if frames > LONGEST * theirs or frames * channels > LARGEST:
            got = f"{frames / theirs:,.0f} s in {channels} channels"
            raise ValueError(f"has {got}; want at most {LONGEST} s and {LARGEST:,} samples")
        read = opened.read(frames, dtype="float32", always_2d=True)
    told = read.mean(1) if channels > 1 else read[:, 0]
    if not len(told):
        raise ValueError("holds no sound")
    if not np.isfinite(told).all():
        raise ValueError("holds values that are not finite numbers")
    told = told.clip(-1, 1)
    if theirs != rate:
        from scipy.signal import resample_poly  # a second of every process that needs none

        common = math.gcd(theirs, rate)
        told = loudest(told, math.ceil(samples * theirs / rate))
        told = resample_poly(told, rate // common, theirs // common)
    return fitting(told, samples)


def fitting(told: NDArray[Any], samples: int) -> Tensor:
    """Fractions -1..1 as int16 (samples,): the loudest part, or silence behind the whole."""
    part = loudest(told, samples)
    whole = np.zeros(samples, np.int16)
    whole[: len(part)] = (part * 2.0**15).round().clip(-(2**15), 2**15 - 1)
    return torch.from_numpy(whole)


def loudest(told: NDArray[Any], samples: int) -> NDArray[Any]:
    """The part of at most `samples` with the most energy, the first of equal ones."""
    if len(told) <= samples:
        return told
    energy = np.concatenate([[0.0], np.square(told, dtype=np.float64).cumsum()])
    first = int((energy[samples:] - energy[:-samples]).argmax())
    return told[first : first + samples]


def wave(raw: Any) -> NDArray[Any]:
    """An array or tensor of one recording as fractions -1..1, float64. Raises DataError."""
    try:
        array = array_of(raw)
    except ValueError as error:  # rows of different length
        raise DataError(f"sound: {type(raw).__name__} is no recording; want (samples,)") from error
    if array.ndim != 1 or not array.size:
        raise DataError(f"sound: got an array of shape {array.shape}; want (samples,)")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise DataError("sound: the array holds values that are not finite numbers")
    if array.dtype == np.uint8:  # as WAV files have it
        array = (array.astype(np.int16) - 128).astype(np.int8)
    least, most = array.min(), array.max()
    whole = array.dtype.kind != "f"
    limit = FULL.get(str(array.dtype), 2**15) if whole else 1
    if least < -limit or most > limit:
        want = f"{-limit} to {limit - 1}" if whole else "-1 to 1"
        raise DataError(f"sound: values reach from {least} to {most}; want {want}")
    fractions: NDArray[Any] = array.astype(np.float64) / limit
    return fractions


class LogMel(Input):
    """The loudness of mel bands over time, each band scaled to mean 0 and deviation 1."""

    name: Literal["logmel"] = "logmel"
    turns: ClassVar[dict[str, str]] = {"sounds": "maps"}
    fitted: ClassVar[type[Inputs]] = Spectrograms

    mels: int = Field(40, ge=16, le=128, description="bands, equally wide to the ear")
    window_ms: int = Field(32, ge=8, le=128, description="milliseconds that a frame sees")
    hop_ms: int = Field(12, ge=8, le=128, description="milliseconds from one frame to the next")

    def expect(self, raw: Raw) -> Spectrograms:
        assert isinstance(raw, Sounds)
        window, hop = (max(2, raw.rate * ms // 1000) for ms in (self.window_ms, self.hop_ms))
        return Spectrograms(
            (1, self.mels, 1 + raw.samples // hop),
            rate=raw.rate,
            samples=raw.samples,
            window=window,
            hop=hop,
        )

    def fit(self, data: Data) -> Spectrograms:
        return _fitted(self, data)

    def restore(self, facts: str, read: Callable[[str], str]) -> Spectrograms:
        told = super().restore(facts, read)
        assert isinstance(told, Spectrograms)
        if replace(told, mean=(), std=()) != self.expect(Sounds(told.rate, told.samples)):
            raise DataError(f"logmel: got {told.shape} of {told.summary}; want what {self} gives")
        if not len(told.mean) == len(told.std) == self.mels:
            got = f"{len(told.mean)} means and {len(told.std)} deviations"
            raise DataError(f"logmel: got {got}; want {self.mels} of each")
        return told


@functools.lru_cache(maxsize=4)  # the same in every trial of a search
def _fitted(part: LogMel, data: Data) -> Spectrograms:
    assert isinstance(data.train.x, Tensor)
    bare = part.expect(data.inputs)
    total = square = torch.zeros(part.mels, dtype=torch.float64)
    for chunk in pieces(data.train.x):
        found = bare.loudness(chunk).double()
        total = total + found.sum((0, 2))
        square = square + found.square().sum((0, 2))
    count = len(data.train) * bare.shape[2]
    mean = total / count
    std = (square / count - mean.square()).clamp_min(FLAT**2).sqrt()
    return replace(bare, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
