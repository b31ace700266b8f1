"""Every model leaves in every format with the artifact's answers, and runs where we are not."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn

from automl.config import Config, Export, Model
from automl.exports.pt2 import Pt2
from automl.exports.whole import Whole
from automl.inputs.images import Images
from automl.inputs.sound import LogMel, Sounds
from automl.inputs.text import Bpe, Characters, TextInput, Tokens, Words, pack
from automl.results.artifact import Artifact

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SIZE = 30  # tokens

SMALL: dict[str, dict[str, Any]] = {"transformer": {"layers": 1, "heads": 2, "head": 16}}
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
    "bag-5": ({"name": "bag", "ngrams": 5, "buckets": 1000}, "tokens"),
    "textcnn-9": ({"name": "textcnn", "kernels": [1, 2, 9]}, "tokens"),
    "transformer-attention": (
        {"name": "transformer", **SMALL["transformer"], "pooling": "attention"},
        "tokens",
    ),
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
    "cnn-sound": ({"name": "cnn", "stages": [{"name": "plain", "channels": 8}]}, "sounds"),
    "crnn-lstm-sound": ({"name": "crnn", "channels": [4], "cell": "lstm"}, "sounds"),
}
PLACES = {"maps": "digits", "sounds": "spoken-digits", "tokens": "trec", "next tokens": "textfile"}


def made(model: dict[str, Any], reads: str) -> Artifact:
    """A model as it may come out of a training, off its start, where zeros would hide things."""
    torch.manual_seed(0)
    part: Any = {"sounds": {"name": "logmel", "mels": 16}, "tokens": "words"}.get(reads)
    part = part or {"maps": "pixels", "next tokens": "characters"}[reads]
    config = Config.of({"task": PLACES[reads], "input": part, "model": model})
    if isinstance(config.input, LogMel):
        bare = config.input.expect(Sounds(8000, 4000))
        inputs: Any = replace(bare, mean=(-3.0,) * 16, std=(2.0,) * 16)
    elif isinstance(config.input, TextInput):
        words = {"<pad>": 0, "<unk>": 1} | {chr(95 + i): i for i in range(2, SIZE)}
        causal = reads == "next tokens"
        inputs = Tokens(SIZE, 20, causal, config.input.tokenizer(words, []))
    else:
        inputs = Images((3, 9, 9), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    labels = () if reads == "next tokens" else tuple("abcde")
    net = config.model.build(inputs, len(labels) or inputs.outputs)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
        for module in net.modules():
            if isinstance(module, nn.Embedding):
                module.weight[0] = 0  # what padding has
    net.eval().requires_grad_(False)
    return Artifact(config, net, inputs, labels, {})


def raw(inputs: Any, count: int, length: int) -> Tensor:
    """Raw batches with content; texts of different length, one of them empty if there are many."""
    if isinstance(inputs, Tokens):
        x = torch.randint(2, SIZE, (count, length))
        ends = torch.arange(length, length - count, -1).clamp_min(0)
        return x * (torch.arange(length) < ends.unsqueeze(1))
    recipe = inputs.recipe()
    shape = [count, *recipe["shape"][1:]]
    low, high = (0, 256) if recipe["dtype"] == "uint8" else (-20_000, 20_000)
    return torch.randint(low, high, shape).to(getattr(torch, recipe["dtype"]))


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def model(request: pytest.FixtureRequest) -> Artifact:
    return made(*request.param)


@pytest.mark.parametrize("to", Export.members())
def test_every_model_gives_the_same_answers_from_every_kind_of_file(
    to: str, model: Artifact, tmp_path: Path
) -> None:
    part, file = Export.of(to), tmp_path / f"model{Export.members()[to].suffix}"
    own = Whole(model)
    part.write(own, file, "float32")
    run, facts = part.open(file)
    assert own.facts.items() <= facts.items()
    assert [found.name for found in tmp_path.iterdir()] == [file.name]
    for count, length in [(1, 1), (2, 3), (1, 20), (9, 20), (3, 40)]:
        x = raw(model.inputs, count, length)
        torch.testing.assert_close(run(x), own(x), rtol=1e-4, atol=1e-5)


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


def test_a_temperature_is_part_of_what_leaves(tmp_path: Path) -> None:
    own = Whole(made({"name": "mlp"}, "maps"))
    x = raw(own.inputs, 3, 0)
    plain = own(x)
    own.temperature = 2.0
    want = plain.sqrt() / plain.sqrt().sum(1, keepdim=True)
    for name, part in Export.members().items():
        file = tmp_path / f"{name}{part.suffix}"
        Export.of(name).write(own, file, "float32")
        torch.testing.assert_close(Export.of(name).open(file)[0](x), want)


KEPT = [
    (to, precision, case)
    for to, part in Export.members().items()
    for precision in part.precisions
    if precision != "float32"
    for case in ("mlp-maps", "rnn-gru-last", "bag-tokens")
]


@pytest.mark.parametrize(("to", "precision", "case"), KEPT)
def test_other_precisions_are_smaller_and_nearly_the_same(
    to: str, precision: str, case: str, tmp_path: Path
) -> None:
    model, part = made(*CASES[case]), Export.of(to)
    sizes = {}
    for kept in ("float32", precision):
        file = tmp_path / f"{kept}{part.suffix}"
        part.write(Whole(model, kept), file, kept)
        sizes[kept] = file.stat().st_size
    run, facts = part.open(file)
    assert json.loads(facts["labels"]) == list("abcde")
    x = raw(model.inputs, 8, 12)
    off = (run(x) - Whole(model)(x)).abs().max()
    assert 0 < off < 0.05
    assert sizes[precision] < 0.9 * sizes["float32"]


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
    assert len(set(sum(inputs.tokenize(TEXTS), []))) > 3
