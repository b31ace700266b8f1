"""Files from strangers: a clear refusal, nothing run, nothing written elsewhere, little memory.

What is tested where the thing itself is: spaces in test_space.py, archives and images in
test_tasks.py, sounds in test_sound.py, tables in test_text_tasks.py, checkpoints in
test_training.py, models in test_search.py.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from test_annotations import picture as drawn
from test_annotations import xml
from test_text_tasks import GOOD, own
from test_training import sealed

from automl.config import Export, Task
from automl.errors import DataError, ExportError, SpaceError, StudyError
from automl.inputs.images import UNREADABLE as NO_IMAGE
from automl.inputs.images import Images, picture
from automl.inputs.sound import UNREADABLE as NO_SOUND
from automl.inputs.sound import sound
from automl.searching.study import folder
from automl.space import Space
from automl.tables import COLUMNS
from automl.tasks.annotations import classes, coco, voc, yolo
from automl.training import checkpoint
from automl.training.checkpoint import packed

MB = 2**20
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def within(megabytes: float) -> Iterator[None]:
    """Python and numpy hold no more than that at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * MB
    finally:
        tracemalloc.stop()


# Names.

NAMES = ["con.txt", "NUL.x", "aux.", "a.", "..", "a/../b", "a\0", "a\u202eb", "\uff0e\uff0e/x",
         "\uff41", "a\\b", "C:", "a:b", "-x", "~", "a\r", "com1.a.b", "x" * 4096]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_study_name_cannot_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="want letters, digits") as caught:
        folder(tmp_path, name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


# Spaces.

MLP = "task: digits\nmodel: mlp\n"
BOMBS = {
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "deep": MLP + "optimizer: " + "[" * 5000 + "]" * 5000,
    "deep mappings": MLP + "optimizer: " + "{a: " * 5000 + "1" + "}" * 5000,
    "a number without end": MLP + "seed: " + "9" * 900,
    "an exponent without end": MLP + "seed: 1e999999999",
    "not a number": MLP + "optimizer: {name: adamw, lr: {float: [.nan, 1]}}",
    "infinity": MLP + "optimizer: {name: adamw, lr: {float: [0.1, .inf]}}",
    "too many steps": MLP + "optimizer: {name: adamw, lr: {float: [0, 1], step: 1.0e-300}}",
    "a tag": MLP + "seed: !!python/object/apply:os.system [ls]",
    "a merge": MLP + "<<: {seed: 1}",
    "a direction override": MLP + "optimizer: \u202eadamw",
    "letters that look alike": "task: digits\nmodel: \uff4d\uff4c\uff50\n",
    "a zero byte": "task: dig\0its\n",
    "a surrogate": "task: \ud800\n",
}


ADDRESS = "postgresql://me:hunt/er2@db/studies"
COMMANDS = (
    f"search digits --studies {ADDRESS}",
    f"search {ADDRESS}",
    f"search digits --name {ADDRESS}",
    f"search digits --from {ADDRESS}",
    f"search digits --data {ADDRESS}",
    f"search digits --plugin {ADDRESS}",
    f"train {ADDRESS}",
    f"train digits --out {ADDRESS}",
    f"leaderboard {ADDRESS}",
    f"leaderboard mine --studies {ADDRESS}",
    f"export mine --out {ADDRESS}",
    f"export mine --to {ADDRESS}",
    f"portfolio build mine --out {ADDRESS}/mine.json",
    f"space check {ADDRESS}",
)


@pytest.mark.parametrize("words", COMMANDS)
def test_an_address_is_no_place_and_its_password_is_told_nowhere(
    words: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, told = command(*words.split())
    assert status == 2
    assert "er2" not in out + told
    assert "***@db" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["AUTOML_CACHE", "AUTOML_DATA", "XDG_CACHE_HOME"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (ADDRESS, "***@db/studies'; want a place on this machine"),
        ("~nobody-of-that-name/x", "got '~nobody-of-that-name/x'; want a place on this machine"),
        ("x" * 5000, "want a place on this machine: File name too long"),
    ],
    ids=["an address", "a stranger's home", "a long name"],
)
def test_a_variable_that_names_no_place_is_one_line(
    variable: str,
    given: str,
    told: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOML_CACHE", "")
    monkeypatch.setenv(variable, given)
    status, _, err = command("doctor")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"automl: {variable}: got ")
    assert told in err
    assert len(err) < 200
    assert list(tmp_path.iterdir()) == []


OWN = ["textcsv", "textfile", "textpairs", "tablecsv", "regressioncsv", "seriescsv"]
OWN += ["imagefolder", "audiofolder", "voc", "coco", "yolo"]


@pytest.mark.parametrize("task", OWN)
@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "x" * 300, ADDRESS])
def test_a_path_of_a_space_that_leads_nowhere_is_one_line(
    path: str, task: str, tmp_path: Path
) -> None:
    for root in (None, tmp_path):
        with pytest.raises(DataError, match=f"{task}: path: got '.*want a place on this") as caught:
            Task.of({"name": task, "path": path}).load(root)
        assert len(str(caught.value)) < 200
        assert "er2" not in str(caught.value)


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_for_a_space_is_one_line(case: str) -> None:
    with within(64), pytest.raises(SpaceError) as caught:
        Space.parse(BOMBS[case])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# Tables.


def test_a_table_with_a_million_columns_is_refused(tmp_path: Path) -> None:
    header = "text,label" + ",x" * 1_000_000
    with (
        within(200),
        pytest.raises(DataError, match=f"1,000,002 columns; want at most {COLUMNS:,}"),
    ):
        own(tmp_path, f"{header}\n{GOOD}").load(None)


def test_rows_with_a_million_cells_are_of_no_use(tmp_path: Path) -> None:
    row = "a" + ",b" * 1_000_000
    with within(200), pytest.raises(DataError, match="got 1000001 cells, want 2"):
        own(tmp_path, f"text,label\n{GOOD}\n{row}").load(None)


def test_a_label_of_a_megabyte_is_told_in_one_line(tmp_path: Path) -> None:
    content = f"text,label\n{GOOD}\n" + "\n".join(f"a,{'b' * MB}{n}" for n in range(3))
    with suppress(DataError):
        labels = own(tmp_path, content).load(None).labels
        assert max(map(len, labels)) > MB


@many
@given(st.data())
def test_any_table_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    base = f"text,label\n{GOOD}\n"
    at = data.draw(st.integers(0, len(base)))
    gone = data.draw(st.integers(0, 30))
    put = data.draw(st.text(max_size=12) | st.sampled_from(['"', "\r", "\n\n", ",", ";", "\0"]))
    name = data.draw(st.sampled_from(["m.csv", "m.tsv", "m.jsonl"]))
    raw = (base[:at] + put + base[at + gone :]).encode("utf-8", "surrogatepass")
    told = ""
    try:
        own(tmp_path, raw, name).load(None)
    except DataError as error:
        told = str(error)
    assert told.isprintable()


# Boxes.

ODD = st.sampled_from(
    ["<", "&#0;", "&lol;", "]]>", "<!--", "<!DOCTYPE a>", "nan", "1e999", "9" * 400, "-", '"', "[",
     "}", ",", "null", "true", "NaN", "\\ud800", "\n", "\0", "\u202e"]
)  # fmt: skip


@many
@given(st.data())
def test_any_box_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 8} for n in range(2)]
    boxes = [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4.5], "iscrowd": 0}]
    kinds = [{"id": 2, "name": "cat"}]
    json_ = json.dumps({"images": images, "annotations": boxes, "categories": kinds})
    lines = "0 0.5 0.5 1 0.25\n1 0 0 0.5 1 1 0.5\n"
    named = "names: {0: cat, 1: &a 'dog'}\nnc: *a\n"
    base = data.draw(st.sampled_from([json_, xml(("cat", 1, 2, 3, 4.5)), lines, named]))
    at = data.draw(st.integers(0, len(base)))
    gone = data.draw(st.integers(0, 20))
    put = data.draw(st.text(max_size=6) | ODD)
    raw = (base[:at] + put + base[at + gone :]).encode("utf-8", "surrogatepass")
    for image in images:
        (tmp_path / str(image["file_name"])).touch()
    (tmp_path / "boxes.json").write_bytes(raw)
    told = ""
    try:
        if base == json_:
            coco(tmp_path / "boxes.json", tmp_path)
        elif base == lines:
            (tmp_path / "a.png").write_bytes(drawn(0))
            yolo("a.txt", raw.decode(errors="replace"), tmp_path / "a.png", {0: "cat", 1: "dog"})
        elif base == named:
            classes(tmp_path / "data.yaml", raw.decode(errors="replace"))
        else:
            voc("a.xml", raw, b"")
    except DataError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < 500


def test_xml_that_blows_up_or_is_deep_takes_little() -> None:
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    deep = "<annotation>" + "<a>" * 340_000  # a file of the largest size
    with within(1), pytest.raises(DataError, match="got a DOCTYPE; want XML without one"):
        voc("a.xml", f'<!DOCTYPE a [<!ENTITY a0 "lol">{bomb}]><a>&a9;</a>'.encode(), b"")
    with within(128), pytest.raises(DataError, match="is no XML: no element found"):
        voc("a.xml", deep.encode(), b"")


# Images.


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, body: bytes, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(body, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + data + chunk(b"IEND", b"")


IMAGES = {
    "vast": png(50_000, 50_000, bytes(1000)),
    "vast, and all there": png(20_000, 20_000, bytes(20_001) * 200),
    "no pixels": png(8, 8, b""),
    "no size": png(0, 0, b""),
    "a text that blows up": png(
        8, 8, bytes(72), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MB), 9))
    ),
    "a profile that blows up": png(
        8, 8, b"", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 * MB), 9))
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_blows_up_is_unreadable(case: str) -> None:
    with within(128), pytest.raises(NO_IMAGE):
        picture(IMAGES[case], (1, 8, 8))


@pytest.mark.filterwarnings("ignore::UserWarning")  # as who reads folders does: odd, but readable
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_cut_anywhere_is_read_or_unreadable(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind)
    raw = out.getvalue()
    failed = 0
    for length in range(0, len(raw) - 1, max(1, len(raw) // 50)):
        try:
            assert picture(raw[:length], (3, 8, 8)).shape == (3, 8, 8)
        except NO_IMAGE:
            failed += 1
    assert failed > 10


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript in data would run: PIL gives EPS to Ghostscript, whatever a file is called."""
    ghostscript, file = tmp_path / "gs", tmp_path / "eps.png"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    ghostscript.chmod(0o755)
    file.write_bytes(EPS)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for once a process
    with pytest.raises(DataError, match=r"eps\.png: cannot be read as an image: is none of JPEG"):
        Images((3, 8, 8)).read(file)
    with pytest.raises(ValueError, match="is none of JPEG"):
        picture(EPS, (3, 8, 8))
    assert not (tmp_path / "called").exists()


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"cannot be read as an image: .* is no file"):
        Images((3, 8, 8)).read(tmp_path / "pipe.png")


# Sounds.


def wav(claims: int, holds: int, *, rate: int = 8000, riff: int | None = None) -> bytes:
    """A header that claims so many bytes of samples before so many that are there."""
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", claims)
    size = len(head) + claims if riff is None else riff
    return b"RIFF" + struct.pack("<I", size % 2**32) + head + bytes(holds)


@pytest.mark.parametrize("claims", [0, 1, 3, 1000, 2**31 - 1, 2**32 - 9, 2**32 - 1])
@pytest.mark.parametrize("riff", [None, 0, 2**32 - 1])
def test_a_wav_that_lies_about_its_length_takes_no_more_memory_than_it_holds(
    claims: int, riff: int | None
) -> None:
    with within(64), suppress(*NO_SOUND):
        assert sound(wav(claims, 400, riff=riff), 8000, 8000).shape == (8000,)


# ONNX.


def test_an_onnx_whose_weights_lie_in_another_file_is_refused(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "model.onnx"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], secret.read_bytes(), raw=True)
    onnx.external_data_helper.set_external_data(weight, "secret")
    weight.ClearField("raw_data")
    node = helper.make_node("Add", ["input", "w"], ["out"])
    x, y = (helper.make_tensor_value_info(name, 1, [4]) for name in ("input", "out"))
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    file.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ExportError, match=r"the weight 'w' lies in another file; want all in one"):
        Export.of("onnx").open(file)


# Checkpoints.


@many
@given(st.data())
def test_any_checkpoint_is_read_or_not(tmp_path: Path, data: st.DataObject) -> None:
    """Changed within, under a digest that is right: only one who means it can make such a file."""
    raw = b"".join(packed({"of": "x", "history": [], "model": {"w": torch.ones(3, 4)}, "n": 1.5}))
    at = data.draw(st.integers(0, len(raw) - 1))
    gone = data.draw(st.integers(0, 9))
    put = data.draw(st.binary(max_size=9))
    file = tmp_path / "c"
    file.write_bytes(sealed(raw[:at] + put + raw[at + gone :]))
    state = checkpoint.load(file)
    assert state is None or isinstance(state, dict)


@pytest.mark.parametrize(
    "shape", [[2**20], [2**40], [2**20, 2**20], [2**62, 4], [0, -1], [1.5], None, [""]]
)
def test_a_checkpoint_that_claims_a_tensor_it_has_not_is_not_read(
    shape: Any, tmp_path: Path
) -> None:
    told = json.dumps({"dict": [["w", {"tensor": ["float32", shape, [0]]}]]}).encode()
    file = tmp_path / "c"
    file.write_bytes(sealed(len(told).to_bytes(8, "little") + told + bytes(16)))
    with within(1):
        assert checkpoint.load(file) is None
