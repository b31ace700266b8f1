"""Claims about sound: files are read as they were recorded, and nobody is on both sides."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from automl.config import Input, Task
from automl.data import Data, Split
from automl.errors import DataError
from automl.inputs.sound import UNREADABLE, LogMel, Sounds, Spectrograms, mel_filters, sound
from automl.tasks import spokendigits
from automl.tasks.sounds import recordings
from automl.tasks.source import digest
from automl.tasks.spokendigits import SPEAKERS, SpokenDigits

RATE = 8000


pytestmark = pytest.mark.usefixtures("alone")


def tone(hertz: float = 440, seconds: float = 1.0, rate: int = RATE, loud: float = 0.5) -> Any:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def written(told: Any, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, told, rate, subtype, format=kind)
    return file.getvalue()


def pcm(told: Any) -> torch.Tensor:
    return torch.from_numpy((np.asarray(told) * 2**15).round().clip(-(2**15), 2**15 - 1)).short()


# Files.


def test_a_file_of_the_right_rate_and_length_is_read_to_the_bit() -> None:
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, RATE, dtype=np.int16)
    for kind in ("WAV", "FLAC"):
        read = sound(written(samples, kind=kind), RATE, RATE)
        assert read.dtype == torch.int16
        assert torch.equal(read, torch.from_numpy(samples))


@pytest.mark.parametrize(
    ("kind", "subtype", "far"),
    [
        ("WAV", "PCM_24", 1),
        ("WAV", "FLOAT", 1),
        ("WAV", "DOUBLE", 1),
        ("FLAC", "PCM_24", 1),
        ("WAV", "PCM_U8", 256),  # one of its steps
        ("WAV", "ULAW", 800),
        ("OGG", "VORBIS", 2500),
    ],
)
def test_any_way_to_write_samples_gives_the_same_sound(kind: str, subtype: str, far: int) -> None:
    read = sound(written(tone(), kind=kind, subtype=subtype), RATE, RATE)
    assert (read.int() - pcm(tone()).int()).abs().max() <= far


def test_two_channels_become_their_mean() -> None:
    stereo = np.stack([tone(440), tone(900)], 1)
    read = sound(written(stereo), RATE, RATE)
    assert (read.int() - pcm(stereo.mean(1)).int()).abs().max() <= 1


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050, 11_025, 4_000, 16_001])
def test_another_rate_gives_the_same_tone(rate: int) -> None:
    read = sound(written(tone(rate=rate), rate), RATE, RATE)
    assert read.shape == (RATE,)
    middle = slice(200, -200)
    assert (read.int() - pcm(tone()).int())[middle].abs().max() < 300  # 1 % of full scale


def test_what_is_above_half_the_rate_is_gone() -> None:
    read = sound(written(tone(6000, rate=44_100), 44_100), RATE, RATE)
    assert read[200:-200].abs().max() < 300


def test_a_short_recording_ends_in_silence() -> None:
    told = pcm(tone(seconds=0.25))
    read = sound(written(told.numpy()), RATE, RATE)
    assert torch.equal(read[:2000], told)
    assert not read[2000:].any()


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_long_recording_is_cut_to_its_loudest_part(rate: int) -> None:
    whole = np.concatenate([tone(300, 1.5, rate, 0.1), tone(700, 1, rate), tone(300, 2, rate, 0.1)])
    read = sound(written(whole, rate), RATE, RATE)
    assert (read.int() - pcm(tone(700)).int())[200:-200].abs().max() < 400


def test_a_path_is_read_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(written(tone(), kind="FLAC"))
    assert torch.equal(sound(path, RATE, RATE), sound(path.read_bytes(), RATE, RATE))


def bad() -> dict[str, bytes]:
    fine = written(tone(), kind="FLAC")
    return {
        "nothing": b"",
        "a text": b"this is no sound at all " * 50,
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "a header alone": written(tone())[:20],
        "a damaged FLAC": fine[:30] + bytes(200) + fine[230:],
        "no samples": written(np.zeros(0)),
        "not a number": written(np.full(100, np.nan), subtype="FLOAT"),
        "AIFF": written(tone(), kind="AIFF"),
        "too long": written(np.zeros(601 * 1000, np.int16), 1000, "FLAC"),
        "too slow": written(tone(), 500),
        "too fast": written(tone(), 10_000_000),
    }


@pytest.mark.parametrize("name", bad())
def test_what_is_no_sound_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    raw = bad()[name]
    with pytest.raises(UNREADABLE):
        sound(raw, RATE, RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(raw)
    for given in (raw, path, str(path)):
        with pytest.raises(DataError, match="cannot be read as sound") as caught:
            fitted().read(given)
        assert "\n" not in str(caught.value)


def test_no_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("pipe.wav", ".", "missing.wav", "missing.raw"):
        with pytest.raises(DataError, match="cannot be read as sound"):
            fitted().read(tmp_path / name)


def test_a_cut_file_gives_what_is_there_or_an_error() -> None:
    for kind in ("WAV", "FLAC", "OGG"):
        raw = written(tone(), kind=kind)
        for length in range(1, len(raw), len(raw) // 20):
            with contextlib.suppress(UNREADABLE):
                assert sound(raw[:length], RATE, RATE).shape == (RATE,)


def test_one_corrupt_recording_of_a_hundred_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    files: dict[str, Any] = {f"{n}.wav": written(tone(200 + n, 0.1)) for n in range(100)}
    files["7.wav"] = b"junk"
    x, readable = recordings(Path("here"), files, RATE, 800)
    assert x.shape == (99, 800)
    assert (~readable).nonzero().flatten().tolist() == [7]
    assert "7.wav" in caplog.text
    files["8.wav"] = b"junk"
    with pytest.raises(DataError, match=r"2 of 100 recordings cannot be read: 7.wav, 8.wav"):
        recordings(Path("here"), files, RATE, 800)


# Spectrograms.


def data(count: int = 40) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(count, RATE, generator=generator) * 3000).short()
    split = Split(x, torch.arange(count) % 2)
    loud = Split((x * 5).short(), split.y)
    return Data(split, loud, Sounds(RATE, RATE), ("a", "b"), "")


def fitted(**knobs: Any) -> Spectrograms:
    return LogMel(**knobs).fit(data())


def test_sounds_say_what_they_are() -> None:
    assert Sounds(8000, 8000).summary == "1.0 s of sound at 8 kHz"
    assert LogMel().expect(Sounds(44_100, 22_050)).summary.endswith("0.5 s of sound at 44.1 kHz")


@pytest.mark.parametrize("knobs", [{}, {"mels": 128, "window_ms": 8}, {"mels": 16, "hop_ms": 128}])
def test_the_shape_is_known_before_the_data(knobs: dict[str, Any]) -> None:
    part = LogMel(**knobs)
    inputs, expected = part.fit(data()), part.expect(Sounds(RATE, RATE))
    assert inputs.shape == expected.shape == tuple(expected.example(1).shape[1:])
    assert inputs.prepare(data().train.x[:3]).shape == (3, *inputs.shape)


@pytest.mark.parametrize("hertz", [150, 440, 1000, 2500, 3700])
@pytest.mark.parametrize("mels", [20, 40])
def test_a_tone_is_loudest_in_its_own_band(hertz: int, mels: int) -> None:
    bare = LogMel(mels=mels).expect(Sounds(RATE, RATE))
    bands = bare.loudness(pcm(tone(hertz))[None])[0, :, 10:-10].mean(1)
    steps = mels + 1  # edges are equally far on the scale of HTK, band k around edge k + 1
    mel, top = (2595 * math.log10(1 + f / 700) for f in (hertz, RATE / 2))
    assert abs(int(bands.argmax()) - (mel / top * steps - 1)) < 1


def test_noise_of_deviation_one_has_power_one_in_every_band() -> None:
    x = torch.randn(50, RATE, generator=torch.Generator().manual_seed(0)) * 2**11
    power = (LogMel().expect(Sounds(RATE, RATE)).loudness(x.short()).exp() * 2**8).mean((0, 2))
    assert power[1:].tolist() == pytest.approx([1] * 39, abs=0.1)  # hum at 0 Hz is of one bin


@pytest.mark.parametrize(("mels", "bins"), [(16, 64), (40, 256), (128, 64), (128, 512)])
def test_every_band_hears_something(mels: int, bins: int) -> None:
    filters = mel_filters(mels, bins, RATE)
    assert (filters >= 0).all()
    torch.testing.assert_close(filters.sum(1), torch.ones(mels, dtype=torch.float64))


def test_silence_is_finite_and_quiet() -> None:
    inputs = fitted()
    silent = inputs.prepare(torch.zeros(1, RATE, dtype=torch.int16))
    assert silent.isfinite().all()
    assert (silent < inputs.prepare(data().train.x[:1])).all()


def test_an_example_lies_in_memory_as_what_is_prepared_does() -> None:
    inputs = fitted()
    assert inputs.example(2).stride() == inputs.prepare(data().train.x[:2]).stride()


def test_a_batch_is_prepared_like_one_by_one() -> None:
    inputs, x = fitted(), data().train.x[:6]
    single = torch.cat([inputs.prepare(row[None]) for row in x])
    torch.testing.assert_close(inputs.prepare(x), single, atol=1e-4, rtol=1e-4)


def test_autocast_does_not_round_the_spectrum() -> None:
    inputs, x = fitted(), data().train.x[:2]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = inputs.prepare(x)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, inputs.prepare(x))


def test_whole_numbers_are_of_the_scale_that_their_width_has() -> None:
    inputs, told = fitted(), tone(loud=0.25)
    wanted = inputs.read(told).x
    for bits, zero in (("uint8", 128), ("int8", 0), ("int16", 0), ("int32", 0)):
        scale = 2 ** (8 * np.dtype(bits).itemsize - 1)
        read = inputs.read((told * scale).round().astype(np.int64).__add__(zero).astype(bits)).x
        assert (read - wanted).abs().max() <= 2**15 / scale, bits
        assert read.any()


def test_what_was_prepared_for_inference_first_can_be_trained_on() -> None:
    inputs, x = fitted(mels=17), data().train.x[:2]
    with torch.inference_mode():
        inputs.prepare(x)
    weight = torch.ones((), requires_grad=True)
    (inputs.prepare(x) * weight).sum().backward()
    assert weight.grad is not None


def test_mean_and_deviation_are_of_the_training_split_alone() -> None:
    given = data()
    inputs = LogMel().fit(given)
    ready = inputs.prepare(given.train.x).squeeze(1)
    torch.testing.assert_close(ready.mean((0, 2)), torch.zeros(40), atol=1e-3, rtol=0)
    torch.testing.assert_close(ready.std((0, 2)), torch.ones(40), atol=1e-2, rtol=0)
    assert inputs.prepare(given.valid.x).mean() > 1
    assert LogMel().fit(given) is inputs  # measured once


def test_facts_bring_back_the_same_spectrograms() -> None:
    part = Input.of({"name": "logmel", "mels": 24})
    inputs = part.fit(data())
    assert part.restore(json.dumps(inputs.facts()), lambda _: "") == inputs


HOSTILE: list[dict[str, Any]] = [
    {"mean": [0.0]},
    {"std": [1.0] * 39},
    {"mean": [], "std": []},
    {"std": [0.0] * 40},
    {"mean": [float("nan")] * 40},
    {"mean": [float("inf")] * 40},
    {"shape": [1, 40, 85]},
    {"shape": [3, 40, 84]},
    {"shape": [1, 41, 84]},
    {"shape": [1, 40, 10**9]},
    {"hop": 0},
    {"hop": 97},
    {"window": 10**12},
    {"samples": 10**12},
    {"samples": -1},
    {"rate": 0},
    {"rate": "8000"},
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: str(change)[:40])
def test_facts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    facts = json.dumps({**fitted().facts(), **change})
    with pytest.raises((DataError, ValidationError)):
        LogMel().restore(facts, lambda _: "")


def test_read_takes_files_and_arrays_one_or_several(tmp_path: Path) -> None:
    inputs, told = fitted(), tone()
    path = tmp_path / "a.wav"
    path.write_bytes(written(told))
    several = [path, str(path), path.read_bytes(), told, told.astype(np.float32)]
    several += [pcm(told), pcm(told).numpy(), torch.from_numpy(told)]
    whole = inputs.read(several).x
    assert whole.shape == (8, RATE)
    coarse = inputs.read(torch.from_numpy(told).bfloat16()).x[0]
    assert (coarse.int() - whole[0].int()).abs().max() <= 2**15 / 2**8
    for row, given in zip(whole, several, strict=True):
        assert (row.int() - pcm(told).int()).abs().max() <= 1
        assert torch.equal(inputs.read(given).x[0], row)
    assert inputs.read(np.stack([told, told])).x.shape == (2, RATE)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (7, "int is no sound"),
        ([], "got nothing"),
        (np.zeros(0), "shape"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.array(0.5), "shape"),
        (np.zeros((800, 2)), r"got an array of shape \(800, 2\), as of channels"),
        (np.full(10, np.nan), "finite"),
        (np.array(["a"]), "finite"),
        (np.full(10, 2.0), "want -1 to 1"),
        (np.full(10, 40_000), "want -32768 to 32767"),
        ([[[1], [1, 2]]], "no recording"),
    ],
)
def test_what_is_no_recording_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fitted().read(raw)
    assert "\n" not in str(caught.value)


# The user's own recordings.


def spoken(folder: Path, part: str, speakers: str, each: int = 3) -> Path:
    """Two classes, a tone for each; the hertz tell recordings and speakers apart."""
    for number, label in enumerate(("low", "high")):
        place = folder / part / label
        place.mkdir(parents=True)
        for speaker in speakers:
            for take in range(each):
                told = tone(300 + 1000 * number + 10 * ord(speaker) + take, 0.2)
                kind = ("wav", "flac", "ogg")[take % 3]
                raw = written(told, 11_025, kind.upper())
                (place / f"{speaker}_x_{take}.{kind}").write_bytes(raw)
    return folder


def own(path: Path, **knobs: Any) -> Any:
    told = {"name": "audiofolder", "path": str(path), "rate": RATE, "seconds": 0.25, **knobs}
    return Task.of(told)


def test_a_folder_gives_the_splits_it_has(tmp_path: Path) -> None:
    for part, speakers in (("train", "abc"), ("val", "de"), ("test", "f")):
        spoken(tmp_path / "mine", part, speakers)
    task = own(tmp_path / "mine", speaker="first")
    given, test = task.load(None), task.test(None)
    assert [len(given.train), len(given.valid), len(test)] == [18, 12, 6]
    assert given.labels == ("high", "low")
    assert given.train.x.shape == (18, 2000)
    assert given.train.x.dtype == torch.int16
    assert task.baseline(given)[1] > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_no_speaker_is_on_two_sides_where_names_tell_them(tmp_path: Path, seed: int) -> None:
    task = own(spoken(tmp_path / "mine", "train", "abcdefgh"), speaker="first", split_seed=seed)
    given, test = task.load(None), task.test(None)
    sides = [set(s.groups.tolist()) for s in (given.train, given.valid, test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 8
    assert len(given.train) + len(given.valid) + len(test) == 48


@pytest.mark.parametrize("seed", range(4))
def test_no_class_is_held_out_whole_with_its_only_speaker(tmp_path: Path, seed: int) -> None:
    place = spoken(tmp_path / "mine", "train", "abcd")
    rare = place / "train" / "rare"
    rare.mkdir()
    for take in range(40):
        (rare / f"e_x_{take}.wav").write_bytes(written(tone(700 + take, 0.2)))
    task = own(place, speaker="first", split_seed=seed, valid=0.2)
    given, test = task.load(None), task.test(None)
    assert given.train.y.bincount()[2] == 40
    assert len(test) == len(given.valid) == 6


def test_where_every_class_has_a_speaker_of_its_own_none_is_held_out(tmp_path: Path) -> None:
    for name, label in (("a", "low"), ("b", "high")):
        place = tmp_path / "train" / label
        place.mkdir(parents=True)
        for take in range(4):
            (place / f"{name}_x_{take}.wav").write_bytes(written(tone(700 + take, 0.2)))
    with pytest.raises(DataError, match="2 groups of training examples: each one held out takes a"):
        own(tmp_path, speaker="first").load(None)


def test_without_a_rule_for_speakers_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    task = own(spoken(tmp_path / "mine", "train", "abcdefgh"))
    given, test = task.load(None), task.test(None)
    assert test.y.bincount().tolist() == [4, 4]
    assert given.valid.y.bincount().tolist() == [2, 2]
    assert given.train.groups is None
    seen = [{x.numpy().tobytes() for x in s.x} for s in (given.train, given.valid, test)]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 48


def test_a_speaker_in_two_folders_is_refused(tmp_path: Path) -> None:
    spoken(spoken(tmp_path / "mine", "train", "abc").parent / "mine", "test", "cd")
    with pytest.raises(DataError, match="speaker 'c' is in train/ and test/"):
        own(tmp_path / "mine", speaker="first").load(None)
    own(tmp_path / "mine").load(None)


def test_the_second_part_of_a_name_may_say_who_speaks(tmp_path: Path) -> None:
    spoken(tmp_path / "mine", "train", "abc")
    with pytest.raises(DataError, match="one group"):  # all are called x
        own(tmp_path / "mine", speaker="second").load(None)
    (tmp_path / "mine/train/low/plain.wav").write_bytes(written(tone()))
    with pytest.raises(DataError, match=r"plain.wav: got a name without _"):
        own(tmp_path / "mine", speaker="second").load(None)


def test_other_settings_are_not_read_from_the_cache_of_these(tmp_path: Path) -> None:
    spoken(tmp_path / "mine", "train", "abcd")
    assert own(tmp_path / "mine").load(None).train.x.shape[1] == 2000
    assert own(tmp_path / "mine", seconds=0.5).load(None).train.x.shape[1] == 4000
    assert own(tmp_path / "mine").load(None).train.groups is None
    assert own(tmp_path / "mine", speaker="first").load(None).train.groups is not None


def test_a_folder_without_recordings_or_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder train/ .* want train/<class>/<recording>"):
        own(tmp_path / "nowhere").load(None)
    spoken(tmp_path / "mine", "train", "abc")
    (tmp_path / "mine/train/none").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        own(tmp_path / "mine").load(None)


# Spoken digits: the same archive with 7 takes of 0.05 s.


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr(SpokenDigits, "takes", 7)
    made = {}
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(7):
                code = [digit + 1, number + 1, take + 1] * 100  # to be told by the samples
                name = f"fsdd/recordings/{digit}_{speaker}_{take}.wav"
                made[name] = written(np.array(code, np.int16))
    return made


def packed(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_the_official_split_is_by_index(tmp_path: Path, digits: dict[str, bytes]) -> None:
    packed(tmp_path / "fsdd/fsdd-wav.tar.xz", {"fsdd/README.md": b"no sound", **digits})
    task = SpokenDigits()
    given, test = task.load(tmp_path), task.test(tmp_path)
    assert [len(given.train), len(given.valid), len(test)] == [110, 10, 300]
    for split, takes in ((given.train, {6, 7}), (given.valid, {6, 7}), (test, {1, 2, 3, 4, 5})):
        assert set(split.x[:, 2].tolist()) == takes
        assert torch.equal(split.x[:, 0].long(), split.y + 1)
        assert split.groups is None
    assert given.valid.y.bincount().tolist() == [1] * 10


def test_a_speaker_left_out_is_the_test_split(tmp_path: Path, digits: dict[str, bytes]) -> None:
    packed(tmp_path / "spoken-digits/fsdd-wav.tar.xz", digits)
    SpokenDigits().load(tmp_path)  # its cache is not taken for the other's
    task = SpokenDigits(speaker_out="lucas")
    given, test = task.load(tmp_path), task.test(tmp_path)
    train, valid, left = (set(s.x[:, 1].tolist()) for s in (given.train, given.valid, test))
    assert left == {SPEAKERS.index("lucas") + 1}
    assert len(valid) == 1
    assert len(train) == 4
    assert not train & valid
    assert not (train | valid) & left
    assert len(test) == 70


def test_unpacked_recordings_are_the_same(tmp_path: Path, digits: dict[str, bytes]) -> None:
    packed(tmp_path / "a/fsdd/fsdd-wav.tar.xz", digits)
    for name, content in digits.items():
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_bytes(content)
    a, b = (SpokenDigits().load(tmp_path / place) for place in "ab")
    assert a.fingerprint == b.fingerprint


def test_an_archive_that_lacks_recordings_is_refused(
    tmp_path: Path, digits: dict[str, bytes]
) -> None:
    name = next(iter(digits))
    short = {other: raw for other, raw in digits.items() if other != name}
    packed(tmp_path / "fsdd/fsdd-wav.tar.xz", short)
    with pytest.raises(DataError, match=r"got 419 .* want 420; 0_george_0.wav is amiss"):
        SpokenDigits().load(tmp_path)
    packed(
        tmp_path / "fsdd/fsdd-wav.tar.xz",
        {**short, "recordings/0_george_1.wav": short["fsdd/recordings/0_george_1.wav"]},
    )
    with pytest.raises(DataError, match=r"0_george_0.wav is amiss"):
        SpokenDigits().load(tmp_path)


def test_a_download_must_be_as_published(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = f"free-spoken-digit-dataset-{spokendigits.COMMIT}"
    theirs = {name.replace("fsdd", top, 1): raw for name, raw in digits.items()}
    packed(tmp_path / "theirs.tar.gz", theirs, "w:gz")
    raw = (tmp_path / "theirs.tar.gz").read_bytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(raw))
    with pytest.raises(DataError, match="got files of sha256"):
        SpokenDigits().load(None)
    assert not list((tmp_path / "cache").glob("**/*.tar.gz"))
    monkeypatch.setattr(spokendigits, "SHA256", digest(theirs))
    assert len(SpokenDigits().load(None).train) == 110


REAL = Path(os.environ.get("AUTOML_DATA") or "/nowhere")


@pytest.mark.skipif(
    not (REAL / "fsdd").is_dir(), reason="AUTOML_DATA names no folder with the real data sets"
)
def test_spoken_digits_are_spoken_digits() -> None:
    task = SpokenDigits()
    given, test = task.load(REAL), task.test(REAL)
    assert [len(given.train), len(given.valid), len(test)] == [2430, 270, 300]
    assert test.y.bincount().tolist() == [30] * 10
    assert task.baseline(given)[1] > 0.9
    found = task._files(REAL / "fsdd/fsdd-wav.tar.xz")
    assert digest(found) == spokendigits.SHA256
