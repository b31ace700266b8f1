"""Every model leaves in every format with the artifact's answers, and runs where we are not."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from test_sequence_models import stirred
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor, nn

import automl
from automl import cli
from automl.config import Config, Export, Model
from automl.errors import AutomlError, ExportError
from automl.exports import verified
from automl.exports.pt2 import Pt2
from automl.exports.whole import Whole
from automl.inputs.canvas import Canvas
from automl.inputs.columns import Cells, Row
from automl.inputs.images import Images
from automl.inputs.series import Lookback, Window
from automl.inputs.sound import LogMel, Sounds
from automl.inputs.text import Bpe, Characters, Paired, TextInput, Tokens, Words, pack
from automl.results import artifact
from automl.results.artifact import Artifact
from automl.results.delivery import fit

pytestmark = pytest.mark.usefixtures("all_forked")

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SIZE = 30  # tokens

SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"layers": 1, "heads": 2, "head": 16},
    "bag": {"buckets": 1000},
    "cnn": {"stages": [{"name": "plain", "channels": 8, "depth": 2}]},
    "cnn-fcos": {"stages": [{"name": "plain", "channels": 8}] * 3},
    "efficientnet": {"stages": 5},  # of nine: with padding that is even and that is odd
    "efficientnet-fcos": {"stages": 5},  # two of its maps tell boxes
}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    f"{name}-{reads}": ({"name": name, **SMALL.get(name, {})}, reads)
    for name, family in Model.members().items()
    for reads in sorted(family.reads)
}
CASES |= {
    f"rnn-{cell}-{pooling}": (
        {"name": "rnn", "cell": cell, "direction": "both", "pooling": pooling, "layers": 2},
        "tokens",
    )
    for cell, pooling in [("vanilla", "mean"), ("gru", "last"), ("lstm", "attention")]
}
CASES |= {
    "rnn-lstm-next": ({"name": "rnn", "cell": "lstm", "layer_norm": True}, "next tokens"),
    "transformer-pairs": ({"name": "transformer", **SMALL["transformer"]}, "pairs"),
    "bag-5": ({"name": "bag", "ngrams": 5, "buckets": 1000}, "tokens"),
    "textcnn-9": ({"name": "textcnn", "kernels": [1, 2, 9]}, "tokens"),
    "cnn-stages": (
        {
            "name": "cnn",
            "norm": "layer",
            "pool": "max",
            "stages": [
                {"name": stage, "channels": 8, "se": 0.5, "downsample": "stride"}
                for stage in ("plain", "residual", "inverted", "convnext")
            ],
        },
        "maps",
    ),
    "tabm-one-periodic": ({"name": "tabm", "ensemble": 1, "numbers": "periodic"}, "numbers"),
    "tabm-numbers": ({"name": "tabm", "ensemble": 4, "residual": True}, "numbers"),
    "ft-transformer-piecewise": ({"name": "ft-transformer", "numbers": "piecewise"}, "columns"),
    "crnn-lstm-sound": ({"name": "crnn", "channels": [4], "cell": "lstm"}, "sounds"),
}
PLACES = {
    "series": "ett",
    "columns": "tablecsv",
    "numbers": "regressioncsv",
    "maps": "digits",
    "pictures": "bccd",
    "sounds": "spoken-digits",
    "tokens": "trec",
    "next tokens": "textfile",
    "pairs": "multi30k",
}


def made(model: dict[str, Any], reads: str) -> Artifact:
    """A model as it may come out of a training, off its start, where zeros would hide things."""
    torch.manual_seed(0)
    part: Any = {"sounds": {"name": "logmel", "mels": 16}, "tokens": "words"}.get(reads)
    usual = {"maps": "pixels", "pictures": "canvas", "series": "window"}
    usual |= dict.fromkeys(("columns", "numbers"), "row")
    part = part or usual.get(reads, "characters")
    config = Config.of({"task": PLACES[reads], "input": part, "model": model})
    if isinstance(config.input, LogMel):
        bare = config.input.expect(Sounds(8000, 4000))
        inputs: Any = replace(bare, mean=(-3.0,) * 16, std=(2.0,) * 16)
    elif isinstance(config.input, TextInput):
        empty = Paired(SIZE, 20) if reads == "pairs" else Tokens(SIZE, 20, reads == "next tokens")
        first = len(empty.special)
        words = {name: i for i, name in enumerate(empty.special)}
        words |= {chr(95 + i): i for i in range(first, SIZE)}
        inputs = replace(empty, tokenizer=config.input.tokenizer(words, []))
    elif isinstance(config.input, Row):
        inputs = Cells(
            *("told", ("a", "b", "c"), (30.0, -2.0, 0.0), (4.0, 0.5, 1.0), (1, 2)),
            *(("d", "e"), (("x", "y", ""), ("z",), ("p", "q", "r")), ((2, 1, 0), (1,), (2, 0, 1))),
            *((900.0, 70.0) if reads == "numbers" else (None, None)),
            *("utf-8", ("f",), (4,)),
        )
    elif isinstance(config.input, Window):
        inputs = Lookback(("a", "b"), (30.0, -2.0), (4.0, 0.5), 25, 7)
    else:
        kind, shape = (Canvas, (3, 64, 96)) if reads == "pictures" else (Images, (3, 9, 9))
        inputs = kind(shape, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    labels = tuple("abcde") if config.task.tells in ("classes", "boxes") else ()
    net = config.model.build(inputs, len(labels) or inputs.outputs)
    stirred(net).eval().requires_grad_(False)
    return Artifact(config, net, inputs, labels, {})


def raw(inputs: Any, count: int, length: int) -> Tensor:
    """Raw batches with content; texts of different length, one of them empty if there are many."""
    if isinstance(inputs, Tokens):
        x = torch.randint(2, SIZE, (count, length))
        ends = torch.arange(length, length - count, -1).clamp_min(0)
        return x * (torch.arange(length) < ends.unsqueeze(1))
    if isinstance(inputs, Cells):
        numbers = torch.tensor([30.0, -2.0, 0.0]) + 3 * torch.randn(count, 3)
        words = torch.randint(-1, 4, (count, 2 + 4)).float()
        x = torch.cat([numbers, words], 1)
        return torch.where(torch.rand(x.shape) < 0.2, torch.nan, x)
    recipe = inputs.recipe()
    shape = [count, *recipe["shape"][1:]]
    if recipe["dtype"] == "float32":
        return inputs.told(torch.randn(shape))
    low, high = (0, 256) if recipe["dtype"] == "uint8" else (-20_000, 20_000)
    return torch.randint(low, high, shape).to(getattr(torch, recipe["dtype"]))


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def model(request: pytest.FixtureRequest) -> Artifact:
    return made(*request.param)


@pytest.fixture(scope="module")
def own(model: Artifact) -> Whole:
    """Traced once, for all formats."""
    whole = Whole(model)
    traced = functools.cache(whole.traced)
    whole.traced = lambda: copy.deepcopy(traced())
    return whole


@pytest.mark.parametrize("to", Export.members())
def test_every_model_gives_the_same_answers_from_every_kind_of_file(
    to: str, model: Artifact, own: Whole, tmp_path: Path
) -> None:
    part, file = Export.of(to), tmp_path / f"model{Export.members()[to].suffix}"
    part.write(own, file, "float32")
    run, facts = part.open(file)
    assert own.facts.items() <= facts.items()
    assert [found.name for found in tmp_path.iterdir()] == [file.name]
    for count, length in [(1, 1), (2, 3), (1, 20), (9, 20), (3, 40)]:
        x = raw(model.inputs, count, length)
        near = 1e-2 if isinstance(model.inputs, Canvas) else 1e-5  # pixels there
        torch.testing.assert_close(run(x), own(x), rtol=1e-4, atol=near)


@pytest.mark.parametrize("to", Export.members())
def test_others_may_read_a_file_as_they_may_read_any(to: str, tmp_path: Path) -> None:
    part, file = Export.of(to), tmp_path / f"model{Export.members()[to].suffix}"
    before = os.umask(0o027)
    try:
        part.write(Whole(made({"name": "mlp"}, "maps")), file, "float32")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640


def test_what_leaves_is_what_the_artifact_answers() -> None:
    for reads in ("maps", "sounds", "tokens"):
        model = made({"name": {"tokens": "bag"}.get(reads, "cnn")}, reads)
        x = raw(model.inputs, 3, 7)
        if reads == "tokens":
            texts = [" ".join(chr(95 + token) for token in row if token) for row in x.tolist()]
            told = model.predict(texts)
        else:
            told = model.predict(list(x.float() / (255 if reads == "maps" else 2**15)))
        want = torch.tensor([list(answer.probabilities.values()) for answer in told])
        torch.testing.assert_close(Whole(model)(x), want)


@pytest.mark.parametrize("to", Export.members())
def test_the_temperature_is_part_of_what_leaves(to: str, tmp_path: Path) -> None:
    model = made({"name": "mlp"}, "maps")
    x = raw(model.inputs, 3, 0)
    squares = Whole(model)(x).sqrt()
    part, file = Export.of(to), tmp_path / f"model{Export.members()[to].suffix}"
    part.write(Whole(replace(model, temperature=2.0)), file, "float32")
    torch.testing.assert_close(part.open(file)[0](x), squares / squares.sum(1, keepdim=True))


KEPT = [
    (to, precision, case)
    for to, part in Export.members().items()
    for precision in part.precisions
    if precision != "float32"
    for case in ("mlp-maps", "rnn-lstm-attention")
    if (case, precision) != ("rnn-lstm-attention", "bfloat16")  # like float16
]


@functools.cache
def whole_bytes(to: str, case: str) -> int:
    """How large the file is in float32."""
    with tempfile.NamedTemporaryFile(suffix=Export.members()[to].suffix) as file:
        Export.of(to).write(Whole(made(*CASES[case])), Path(file.name), "float32")
        return Path(file.name).stat().st_size


@pytest.mark.parametrize(("to", "precision", "case"), KEPT)
def test_other_precisions_are_smaller_and_nearly_the_same(
    to: str, precision: str, case: str, tmp_path: Path
) -> None:
    model, part = made(*CASES[case]), Export.of(to)
    file = tmp_path / f"model{part.suffix}"
    part.write(Whole(model, precision), file, precision)
    run, facts = part.open(file)
    assert json.loads(facts["labels"]) == list("abcde")
    x = raw(model.inputs, 8, 12)
    off = (run(x) - Whole(model)(x)).abs().max()
    assert 0 < off < 0.05
    assert file.stat().st_size < 0.9 * whole_bytes(to, case)


def test_exporting_leaves_the_artifact_as_it_was(tmp_path: Path) -> None:
    model = made({"name": "rnn"}, "tokens")
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    Pt2().write(Whole(model, "float16"), tmp_path / "model.pt2", "float16")
    after = model.model.state_dict()
    assert all(
        torch.equal(after[name], weight) and after[name].dtype == weight.dtype
        for name, weight in before.items()
    )


def test_nothing_in_a_pt2_is_pickled(tmp_path: Path) -> None:
    """Opening a stranger's may run code all the same: `torch.export.load` would unpickle."""
    file = tmp_path / "model.pt2"
    Pt2().write(Whole(made({"name": "rnn"}, "tokens")), file, "float32")
    with zipfile.ZipFile(file) as opened:
        records = {name: opened.read(name) for name in opened.namelist()}
    (samples,) = (held for name, held in records.items() if "sample_inputs" in name)
    assert samples == b""
    configs = [json.loads(held) for name, held in records.items() if name.endswith("_config.json")]
    kept = [weight for config in configs for weight in config["config"].values()]
    assert kept
    assert not any(weight["use_pickle"] for weight in kept)
    assert not any(held[:1] == b"\x80" and b"torch" in held[:200] for held in records.values())
    assert not any(zipfile.is_zipfile(Path(name)) for name in records)


TEXTS = ["Who wrote Hamlet ?", "  it's   NOT, at all\n\n so-so!", "", "naïve Éclair 日本 42x", "a"]


@pytest.mark.parametrize("part", [Words(), Characters(), Bpe(vocab=300)], ids=lambda p: p.name)
def test_the_tokenizer_inside_makes_our_tokens_of_whole_texts(part: TextInput) -> None:
    marks = pre_tokenizers.ByteLevel.alphabet()
    words = ["who", "wrote", "hamlet", "?", "it's", "not", ",", "so", "-", *marks]
    numbers = {word: i for i, word in enumerate(["<pad>", "<unk>", *dict.fromkeys(words)])}
    inputs = Tokens(len(numbers), 20, False, part.tokenizer(numbers, []))
    assert inputs.alike(pack(TEXTS)) == (len(TEXTS), len(TEXTS))
    assert len({token for found in inputs.tokenize(TEXTS) for token in found}) > 3


@pytest.mark.parametrize("cell", ["gru", "vanilla"])
def test_int8_is_refused_where_it_reaches_few_weights(cell: str, tmp_path: Path) -> None:
    model = made({"name": "rnn", "cell": cell}, "tokens")
    with pytest.raises(ExportError, match=r"int8: the weights of (GRU|RNN) stay float32, \d+% of"):
        Export.of("onnx").write(Whole(model), tmp_path / "model.onnx", "int8")


# What follows exports what was trained.

SPACE = """
task: {name: digits, per_class: 30}
model: {name: mlp, widths: [32]}
train: {epochs: 8, batch_size: 32}
"""
QUESTIONS = [("who wrote {} ?", "person"), ("how far is {} ?", "number"), ("{} is what", "thing")]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "digits.yaml").write_text(SPACE)
    automl.search(
        place / "digits.yaml", trials=1, finalists=0, studies=place / "studies", device="cpu"
    )
    return place / "studies"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """A model of questions, and the file of its data."""
    place = tmp_path_factory.mktemp("texts")
    rows = [
        f'"{text.format(f"Thing{i % 40}")}",{label}' for i in range(60) for text, label in QUESTIONS
    ]
    data = place / "questions.csv"
    data.write_text("text,label\n" + "\n".join(rows) + "\n")
    model = {"name": "rnn", "embedding": 16, "width": 16, "direction": "both", "pooling": "last"}
    config = Config.of(
        {"task": "textcsv", "input": "words", "model": model, "train": {"epochs": 3}}
    )
    for _ in fit(config, place / "model", root=data, device=torch.device("cpu")):
        pass
    return artifact.load(place / "model"), data


def readme(word: str) -> str:
    """The README's lines in which a word stands."""
    (found,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.S) if word in code)
    return str(found)


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "automl":
            raise ImportError("automl is not here")
sys.meta_path.insert(0, Blocked())
"""


def elsewhere(code: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run where nothing of ours can be imported."""
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [sys.executable, "-W", "error", "-c", BLOCKED + code]
    return subprocess.run(words, cwd=place, env=surroundings, capture_output=True, text=True)


def answers(out: str) -> list[tuple[str, float]]:
    found = re.findall(r"^(\w+) (0\.\d+|1\.0)$", out, re.M)
    return [(label, float(share)) for label, share in found]


def test_nothing_of_ours_can_be_imported_elsewhere(tmp_path: Path) -> None:
    assert "automl is not here" in elsewhere("import automl", tmp_path).stderr
    assert "automl is not here" in elsewhere("import automl.exports.whole", tmp_path).stderr


@pytest.mark.parametrize(
    ("to", "out", "word"),
    [("onnx", "digits.onnx", "onnxruntime"), ("safetensors", "mlp.safetensors", "safe_open")],
)
def test_an_image_is_told_by_the_readmes_lines_without_us(
    to: str, out: str, word: str, studies: Path, tmp_path: Path
) -> None:
    best = automl.load_best("digits", studies=studies)
    verified.export(best, Export.of(to), tmp_path / out, precision="float32", root=None)
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    done = elsewhere(readme(word), tmp_path)
    assert not done.stderr
    ((label, share),) = answers(done.stdout)
    (want,) = best.predict(str(tmp_path / "photo.png"))
    assert (label, share) == (want.label, pytest.approx(want.probability, abs=1e-5))


NOISE = np.random.default_rng(0).integers(0, 256, (60, 40, 4))
PICTURES: dict[str, tuple[Any, str, str]] = {  # pixels, their type or PIL's mode, and the file
    "colours": (NOISE, "RGB", "a.jpg"),
    "unseen": (NOISE, "RGBA", "a.png"),
    "grey, unseen": (NOISE, "LA", "a.png"),
    "16 bits": (NOISE[..., 0] * 257, "uint16", "a.png"),
    "16 bits as PIL has a PGM": (NOISE[..., 0] * 200, "int32", "a.ppm"),
    "16 of 32 bits": (NOISE[..., 0] * 257, "int32", "a.tif"),
    "8 of 32 bits": (NOISE[..., 0], "int32", "a.tif"),
    "levels as floats": (NOISE[..., 0], "float32", "a.tif"),
    "fractions": (NOISE[..., 0] / 255, "float32", "a.tif"),
    "palette, unseen": (NOISE, "P", "a.png"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", PICTURES)
def test_an_image_becomes_the_models_pixels_as_the_file_says(
    kind: str, channels: int, tmp_path: Path
) -> None:
    values, dtype, name = PICTURES[kind]
    file, inputs = tmp_path / name, Images((channels, 9, 8))
    if dtype.isupper():
        made = Image.fromarray(values.astype(np.uint8))
        made = made.convert("RGB").quantize(16) if dtype == "P" else made.convert(dtype)
        made.save(file, **({"transparency": 3} if dtype == "P" else {}))
    else:
        Image.fromarray(values.astype(dtype)).save(file)
    how, mode = inputs.recipe()["how"], "L" if channels == 1 else "RGB"

    with Image.open(file) as opened:
        assert "image.draft(None, (16, 18)), for JPEG alone; " in how
        opened.draft(None, (16, 18))
        assert "; ImageOps.exif_transpose(image); " in how
        image = ImageOps.exif_transpose(opened)
    assert "in modes I;16, I;16B, ..., in a PGM file and in mode I beyond 255: value >> 8; " in how
    values = np.asarray(image)
    if image.mode.startswith("I") and (
        image.mode != "I" or opened.format == "PPM" or values.max() > 255
    ):
        image = Image.fromarray((values >> 8).astype(np.uint8))
    assert "in mode F: round(255 * value) if none is above 1, else round(value); " in how
    if image.mode == "F":
        values = 255 * values if values.max() <= 1 else values
        image = Image.fromarray(values.round().astype(np.uint8))
    assert "if image.has_transparency_data: Image.alpha_composite(Image.new('RGBA', image" in how
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    assert f"; image.convert({mode!r}), resized to (8, 9) by Image.Resampling.BILINEAR" in how
    image = image.convert(mode).resize((8, 9), Image.Resampling.BILINEAR)
    want = np.asarray(image).reshape(9, 8, channels).transpose(2, 0, 1)

    assert np.array_equal(inputs.read(file).x[0], want)
    assert want.std() > 5


def test_texts_are_told_by_the_readmes_lines_without_us(
    texts: tuple[Artifact, Path], tmp_path: Path
) -> None:
    model, data = texts
    told = verified.export(model, Pt2(), tmp_path / "trec.pt2", precision="float32", root=data)
    assert told.texts is not None
    assert told.texts[0] == told.texts[1] > 0
    asked = ["Who wrote Hamlet ?", "How far is the moon ?"]
    empty = ["", "  "]  # no tokens at all
    lines = readme("torch.export.load")
    done = elsewhere(lines + lines.replace(json.dumps(asked), json.dumps(empty)), tmp_path)
    found, want = answers(done.stdout), model.predict(asked) + model.predict(empty)
    assert [label for label, _ in found] == [answer.label for answer in want], done.stderr
    shares = [answer.probability for answer in want]
    assert [share for _, share in found] == pytest.approx(shares, abs=1e-5)


def test_a_tokenizer_inside_that_makes_other_tokens_is_refused(
    texts: tuple[Artifact, Path], tmp_path: Path
) -> None:
    model, data = texts
    assert isinstance(model.inputs, Tokens)
    torn = Tokenizer.from_str(model.inputs.tokenizer.to_str())
    torn.pre_tokenizer = pre_tokenizers.Split("what", "isolated")  # " is what" is no piece of ours
    other = replace(model, inputs=replace(model.inputs, tokenizer=torn))
    told = refused(other, "pt2", tmp_path, root=data)
    assert re.match(r"pt2: the tokenizer inside makes other tokens of \d+ of \d+ valid", told)


def test_data_that_no_cache_holds_is_decoded_by_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for label in ("bright", "dark"):
        (tmp_path / "data/train" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 99, (8, 8, 3)) + (99 if label == "bright" else 0)
            file = tmp_path / "data/train" / label / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    config = Config.of(
        {
            "task": {"name": "imagefolder", "size": 8},
            "model": {"name": "mlp", "widths": [16]},
            "train": {"epochs": 1, "batch_size": 8},
        }
    )
    device = torch.device("cpu")
    for _ in fit(config, tmp_path / "model", root=tmp_path / "data", device=device):
        pass
    model, file = artifact.load(tmp_path / "model"), tmp_path / "model.pt2"
    monkeypatch.setenv("AUTOML_CACHE", str(tmp_path / "empty"))
    told = verified.export(model, Pt2(), file, precision="float32", root=tmp_path / "data")
    assert told.size.macs == 3 * 8 * 8 * 16 + 16 * 2


Command = Callable[..., int | str | None]


@pytest.fixture
def export(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`automl export digits ...` in an empty folder, and its status."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int | str | None:
        line = ["automl", "export", "digits", "--studies", str(studies), *words]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


def test_the_command_prints_both_beside_each_other(
    studies: Path, tmp_path: Path, export: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--to", "onnx") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["MB", "artifact", "onnx"]
    assert re.search(r"(\d+) of \1 validation answers are equal", out)
    assert out.endswith("saved in digits.onnx\n")
    assert [file.name for file in tmp_path.iterdir()] == ["digits.onnx"]

    assert export("--to", "onnx", "--precision", "int8", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mb"][1] < Path("digits.onnx").stat().st_size / 1e6
    assert {file.name for file in tmp_path.iterdir()} == {"digits.onnx", "digits.int8.onnx"}
    assert told["compared"]["was"] == pytest.approx(
        automl.load_best("digits", studies=studies).metrics["valid"]["accuracy"]
    )


WRONG = {
    "--to onix": "automl: --to: no export is called 'onix'; did you mean 'onnx'? Known: ",
    "--to pt2 --precision int8": "automl: --precision: pt2 has no 'int8'; want float32, float16, "
    "bfloat16; int8 is known to onnx\n",
    "--to pt2 --precision half": "automl: --precision: pt2 has no 'half'; want float32, float",
    "--to pt2 --out a.onnx": "automl: --out: got 'a.onnx'; want a file that ends in .pt2\n",
    "--to pt2 --out nowhere/a.pt2": "automl: --out: nowhere: is no folder\n",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_one_line(
    words: str, tmp_path: Path, export: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(*words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith(WRONG[words])
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def refused(
    model: Artifact, to: str, place: Path, precision: str = "float32", root: Path | None = None
) -> str:
    """What is said; nothing is left behind."""
    file = place / f"model{Export.members()[to].suffix}"
    with pytest.raises(AutomlError) as error:
        verified.export(model, Export.of(to), file, precision=precision, root=root)
    assert not list(place.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_is_told_with_how_to_get_it(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = automl.load_best("digits", studies=studies)
    monkeypatch.setattr(verified, "find_spec", lambda name: None if "onnx" in name else name)
    told = refused(best, "onnx", tmp_path)
    assert told.endswith("needs onnx and onnxscript and onnxruntime: pip install '.[onnx]'")


def test_other_data_than_that_of_the_training_proves_nothing(studies: Path, tmp_path: Path) -> None:
    best = automl.load_best("digits", studies=studies)
    other = replace(best, metrics=best.metrics | {"data": "0"})
    assert (
        refused(other, "pt2", tmp_path) == "digits: is not the data that the model was trained on"
    )


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x.flatten(1)[:, :10])


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] if x.sum() > 0 else x.flatten(1)[:, -10:]


@pytest.mark.parametrize(
    ("module", "to", "told"),
    [
        (Bessel(), "onnx", "onnx: operator prims.bessel_j0: No "),
        (Undecided(), "pt2", f"torch.export: {__file__}:"),
        (Undecided(), "onnx", f"torch.export: {__file__}:"),
    ],
)
def test_a_model_that_a_format_cannot_hold_is_told_with_the_operator(
    module: nn.Module,
    to: str,
    told: str,
    studies: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = replace(automl.load_best("digits", studies=studies), model=module)
    assert refused(model, to, tmp_path).startswith(told)
    assert capfd.readouterr() == ("", "")


class Looped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x[:, 0].float()
        for token in range(x.shape[1]):
            total = total + x[:, token]
        return total.unsqueeze(1).expand(-1, 5)


def test_a_model_for_texts_of_one_length_is_refused(tmp_path: Path) -> None:
    model = replace(made({"name": "bag"}, "tokens"), model=Looped())
    with pytest.raises(ExportError) as error:
        Pt2().write(Whole(model), tmp_path / "model.pt2", "float32")
    assert str(error.value).startswith(
        "torch.export: the model's code fixes the number of examples"
    )


def test_a_file_with_other_answers_is_not_kept(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = automl.load_best("digits", studies=studies)
    own = Whole(best)

    def turned(x: Tensor) -> Tensor:
        return own(x).flip(1)

    monkeypatch.setattr(Pt2, "open", lambda self, file: (turned, own.facts))
    assert "pt2: its probabilities are off by up to" in refused(best, "pt2", tmp_path)
    told = refused(best, "pt2", tmp_path, "float16")
    assert re.match(r"pt2: --precision float16: accuracy goes from \S+ to \S+ on the valid", told)

    monkeypatch.setattr(Pt2, "open", lambda self, file: (turned, {}))
    assert "does not give back what it should say of itself" in refused(best, "pt2", tmp_path)
    monkeypatch.setattr(Pt2, "open", lambda self, file: (lambda x: own(x) * torch.nan, own.facts))
    assert "off by up to inf" in refused(best, "pt2", tmp_path)


def test_a_file_that_was_there_stays_when_the_new_one_fails(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = automl.load_best("digits", studies=studies)
    file = tmp_path / "model.pt2"
    verified.export(best, Pt2(), file, precision="float32", root=None)
    before = file.read_bytes()
    with pytest.raises(ExportError):
        verified.export(
            replace(best, model=Undecided()), Pt2(), file, precision="float32", root=None
        )
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
