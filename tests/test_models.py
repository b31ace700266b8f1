"""Every model family, and every kind of stage, keeps the promises a trainer relies on."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from automl.config import Model
from automl.data import Split, pieces
from automl.errors import SpaceError
from automl.inputs.images import Images
from automl.models.cnn import Cnn, Stage, conv
from automl.models.layers import ACTIVATIONS

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 33, 17)]
SMALL = (3, 9, 9)

AIRBENCH = {  # airbench94, Jordan 2024
    "name": "cnn",
    "stem": {"channels": 24, "kernel": 2},
    "stages": [
        {"name": "plain", "channels": channels, "depth": 2, "downsample": "pool"}
        for channels in (64, 256, 256)
    ],
    "activation": "gelu",
    "pool": "max",
    "logit_scale": 1 / 9,
}
RESNET20 = {  # He et al. 2016, section 4.2
    "name": "cnn",
    "stem": {"channels": 16},
    "stages": [
        {"name": "residual", "channels": channels, "depth": 3, "downsample": downsample}
        for channels, downsample in [(16, "none"), (32, "stride"), (64, "stride")]
    ],
}


def stage(name: str, **knobs: Any) -> dict[str, Any]:
    return {"name": name, "channels": 12, "depth": 2, **knobs}


FAMILIES: dict[str, Any] = {
    name: name for name, family in Model.members().items() if "maps" in family.reads
}
STAGES: dict[str, Any] = {
    f"{name}-{downsample}": {"name": "cnn", "stages": [stage(name, downsample=downsample)] * 2}
    for name in Stage.members()
    for downsample in ("pool", "stride", "none")
}
EXTRAS: dict[str, Any] = {
    f"{name}-{norm}-se-drop": {
        "name": "cnn",
        "norm": norm,
        "stages": [stage(name, se=0.25)],
        "stochastic_depth": 0.5,
        "dropout": 0.2,
        "activation": "silu",
    }
    for name in Stage.members()
    for norm in ("batch", "group", "layer", "none")
}
RECURRENT: dict[str, Any] = {
    f"crnn-{cell}-{direction}-{pooling}-{halve}": {
        "name": "crnn",
        "channels": [8, 12],
        "cell": cell,
        "direction": direction,
        "pooling": pooling,
        "halve": halve,
        "layers": 2,
        "dropout": 0.2,
    }
    for cell, direction, pooling, halve in [
        ("gru", "both", "attention", "bands"),
        ("lstm", "forward", "mean", "both"),
        ("vanilla", "both", "max", "both"),
    ]
}
ALL = FAMILIES | STAGES | EXTRAS | RECURRENT

models = pytest.mark.parametrize("model", ALL.values(), ids=list(ALL))


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def built(model: Any, shape: tuple[int, int, int] = SMALL) -> nn.Module:
    return Model.of(model).build(Images(shape), 5)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def loss(net: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 5)


@models
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_size_of_image_gives_one_logit_a_class(model: Any, shape: tuple[int, int, int]) -> None:
    net = built(model, shape)
    assert net(torch.randn(2, *shape)).shape == (2, 5)


@models
def test_a_model_on_the_meta_device_has_the_same_shapes_and_uses_no_memory(model: Any) -> None:
    with torch.device("meta"):
        net = built(model)
        logits = net(torch.empty(2, *SMALL))
    assert logits.shape == (2, 5)
    assert logits.is_meta
    assert all(p.is_meta for p in [*net.parameters(), *net.buffers()])
    assert count(net) == count(built(model))


@models
def test_every_weight_learns(model: Any) -> None:
    net = built(model)
    loss(net, torch.randn(8, *SMALL)).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name

    with torch.no_grad():  # off the start, where a gain of 0 hides the gradient of what it scales
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    net.zero_grad()
    loss(net, torch.randn(16, *SMALL)).backward()
    assert [name for name, weight in net.named_parameters() if not weight.grad.any()] == []


@models
def test_the_seed_fixes_the_weights(model: Any) -> None:
    torch.manual_seed(3)
    one = built(model).state_dict()
    torch.manual_seed(3)
    same = built(model).state_dict()
    other = built(model).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@models
def test_saved_weights_give_the_same_answers(model: Any) -> None:
    net, x = built(model), torch.randn(4, *SMALL)
    net(x)  # moves the running statistics
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = built(model)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net.eval()(x), other.eval()(x))


@models
def test_an_answer_does_not_depend_on_chance_or_on_the_batch(model: Any) -> None:
    net, x = built(model), torch.randn(6, *SMALL)
    net(x)
    net.eval()
    together = net(x)
    assert torch.equal(together, net(x))
    alone = torch.cat([net(image[None]) for image in x])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@models
def test_bfloat16_in_channels_last_answers_nearly_the_same(model: Any) -> None:
    net, x = built(model), torch.randn(16, *SMALL)
    fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
    net.eval(), fast.eval()
    with torch.autocast("cpu", torch.bfloat16):
        quick = fast(x.to(memory_format=torch.channels_last)).float()
    exact = net(x)
    assert (quick - exact).norm() < 0.05 * exact.norm()

    fast.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss(fast, x.to(memory_format=torch.channels_last)).backward()
    assert all(p.grad.isfinite().all() for p in fast.parameters())


@pytest.mark.parametrize(("stride", "width"), [(2, 1), (3, 2), (4, 3)])
def test_steps_longer_than_a_map_is_wide_have_gradients_of_their_own(
    stride: int, width: int
) -> None:
    net = conv(16, 24, 5, stride=stride).to(memory_format=torch.channels_last)
    x = torch.randn(8, 16, 4, width).to(memory_format=torch.channels_last)
    plain = nn.functional.conv2d(x, net.weight, net.bias, stride, 2)
    torch.testing.assert_close(net(x), plain)
    (exact,) = torch.autograd.grad(plain.sum(), net.weight)
    for _ in range(20):
        rest = [torch.full((9600 // size,), torch.nan) for size in (1, 2, 4) for _ in range(20)]
        del rest  # what comes next may lie there
        with torch.autocast("cpu", torch.bfloat16):
            (found,) = torch.autograd.grad(net(x).sum(), net.weight)
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.5)


def test_a_stride_over_few_maps_is_learned_where_a_cpu_has_avx2_alone() -> None:
    code = """
import torch
from automl.models.cnn import conv

torch.manual_seed(0)
net = conv(4, 8, stride=2).to(memory_format=torch.channels_last)
x = torch.randn(32, 4, 32, 32).to(memory_format=torch.channels_last)
plain = torch.nn.functional.conv2d(x.double(), net.weight.double(), net.bias.double(), 2)
(exact,) = torch.autograd.grad(plain.square().mean(), net.weight)
found = net(x)
torch.testing.assert_close(found.double(), plain, rtol=1e-4, atol=1e-5)
found.square().mean().backward()
torch.testing.assert_close(net.weight.grad, exact, rtol=1e-4, atol=1e-5)
"""
    limits = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=limits, check=True, timeout=100)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.*_flat_weights:UserWarning")
@pytest.mark.parametrize(
    "model",
    (EXPORTED := FAMILIES | {k: v for k, v in EXTRAS.items() if "batch" in k}).values(),
    ids=list(EXPORTED),
)
def test_a_model_exports_for_any_batch_size(model: Any) -> None:
    net = built(model).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.randn(4, *SMALL),), dynamic_shapes=({0: batch},))
    for size in (1, 7):
        x = torch.randn(size, *SMALL)
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    (
        BATCHED := {k: v for k, v in ALL.items() if "crnn" not in k}
    ).values(),  # PyTorch's GRU has no rule
    ids=list(BATCHED),
)
def test_copies_of_a_model_train_in_one_call(model: Any) -> None:
    nets = [built(model) for _ in range(2)]
    weights, buffers = torch.func.stack_module_state(nets)
    x = torch.randn(2, 8, *SMALL)

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(nets[0], (weights, buffers), (x,)).square().mean()

    each = torch.func.vmap(torch.func.grad(one), randomness="different")(weights, buffers, x)
    for name, gradient in each.items():
        assert gradient.shape == weights[name].shape
        assert gradient.isfinite().all()


@models
def test_a_model_survives_being_written_down(model: Any) -> None:
    part = Model.of(model)
    assert Model.of(part.model_dump(mode="json")) == part


def test_a_resnet_20_is_a_point_of_the_space() -> None:
    net = Model.of(RESNET20).build(Images((3, 32, 32)), 10)
    # He's 269,722, whose shortcuts have no weights, and two shortcuts of a 1x1 with its norm
    assert count(net) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert round(count(net) / 1e6, 2) == 0.27


def test_an_airbench_is_a_point_of_the_space() -> None:
    net = Model.of(AIRBENCH).build(Images((3, 32, 32)), 10)
    assert round(count(net) / 1e6, 2) == 1.97
    kinds = [type(layer).__name__ for block in net.trunk[3] for layer in block]
    assert kinds == ["Conv2d", "MaxPool2d", "BatchNorm2d", "GELU", "Conv2d", "BatchNorm2d", "GELU"]
    sides = []
    for layer in net.trunk:
        layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[2]))
    net(torch.randn(2, 3, 32, 32))
    assert sides[0] == 31  # the stem has no padding
    assert sides[-3:] == [16, 8, 4]


@pytest.mark.parametrize("name", Stage.members())
def test_an_image_of_8_by_8_goes_through_eight_halvings(name: str) -> None:
    for downsample in ("pool", "stride"):
        stages = [stage(name, downsample=downsample, channels=4)] * 8
        assert built({"name": "cnn", "stages": stages}, (1, 8, 8))(torch.randn(2, 1, 8, 8)).shape


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("name", Stage.members())
def test_a_stage_halves_the_map_and_rounds_up(name: str, downsample: str) -> None:
    net = built({"name": "cnn", "stages": [stage(name, downsample=downsample)]}, (3, 33, 17))
    assert net.trunk(torch.randn(2, 3, 33, 17)).shape == (2, 12, 17, 9)


@pytest.mark.parametrize("name", Stage.members())
@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9, 11])
def test_every_kernel_keeps_the_size_of_the_map(name: str, kernel: int) -> None:
    stages = [stage(name, downsample="none", kernel=kernel)]
    net = built({"name": "cnn", "stages": stages})
    assert net.trunk(torch.randn(2, *SMALL)).shape == (2, 12, 9, 9)


@pytest.mark.parametrize("channels", [1, 2, 17, 24, 48, 100, 2048])
def test_groups_divide_any_number_of_channels(channels: int) -> None:
    net = built(
        {"name": "cnn", "norm": "group", "stem": {"channels": channels}, "stages": [stage("plain")]}
    )
    assert net(torch.randn(2, *SMALL)).isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_activation_is_known_to_every_family(name: str, activation: str) -> None:
    if "activation" in Model.members()[name].model_fields:
        assert built({"name": name, "activation": activation})(torch.randn(2, *SMALL)).shape == (
            2,
            5,
        )


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", ["residual", "inverted"])
def test_a_residual_block_starts_as_its_shortcut(name: str, norm: str) -> None:
    stages = [stage(name, channels=32, downsample="none")]
    net = built({"name": "cnn", "norm": norm, "stages": stages})
    x = torch.rand(4, 32, 5, 5)  # positive: the last activation of a block lets it pass
    torch.testing.assert_close(net.trunk[-1](x), x)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_branches() -> None:
    stages = [stage("convnext", channels=32, downsample="none", depth=1)]
    net = built({"name": "cnn", "norm": "layer", "stages": stages, "stochastic_depth": 0.5})
    x = torch.randn(1, 32, 5, 5).expand(4000, -1, -1, -1)
    block = net.trunk[-1]
    added = (block(x) - x).flatten(1)
    dropped = (added == 0).all(1)
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(added[~dropped], 2 * (block.eval()(x) - x).flatten(1)[~dropped])


def test_stochastic_depth_grows_along_the_network() -> None:
    net = built({"name": "cnn", "stages": [stage("residual")] * 2, "stochastic_depth": 0.4})
    drops = [module.drop for module in net.modules() if hasattr(module, "drop")]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_filters_start_by_fan_out() -> None:
    net = built({"name": "cnn", "stages": [stage("convnext", channels=512, depth=1)]})
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [{"name": "plane"}]}, "did you mean 'plain'? Known: convnext,"),
        ({"stages": [{"name": "plain", "kernel": 4}]}, "stages[0].kernel: got 4; want 1, 3, 5"),
        ({"stages": [{"name": "plain", "depth": 0}]}, "stages[0].depth: got 0"),
        ({"stages": [{"name": "plain", "expand": 2}]}, "no knob is called 'expand'"),
        ({"norm": "batchnorm"}, "norm: got 'batchnorm'; want 'batch', 'group', 'layer' or 'none'"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
    ],
)
def test_a_wrong_knob_is_told_with_its_place(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(SpaceError) as error:
        Cnn.of(knobs)
    assert told in str(error.value)


def test_the_logit_scale_multiplies_the_logits() -> None:
    torch.manual_seed(0)
    net = built("cnn").eval()
    torch.manual_seed(0)
    scaled = built({"name": "cnn", "logit_scale": 0.5}).eval()
    x = torch.randn(2, *SMALL)
    torch.testing.assert_close(scaled(x), 0.5 * net(x))


def photographs(channels: int = 3, count: int = 300) -> tuple[Images, Split]:
    """uint8 images whose neighbours are alike, as in photographs."""
    x = torch.rand(count, channels, 6, 6).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = (200 * x + 55 * torch.rand(count, channels, 12, 12)).to(torch.uint8)
    return Images.measure(x), Split(x, torch.arange(count) % 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_lies_in_memory_as_what_is_prepared_does(channels: int) -> None:
    inputs, split = photographs(channels, 4)
    assert inputs.example(4).stride() == inputs.prepare(split.x).stride()


@pytest.mark.parametrize("shape", [(600, 2), (7, 3, 800, 800), (1, 2**23)])
def test_large_rows_come_few_at_a_time(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, dtype=torch.uint8)
    parts = pieces(x)
    assert sum(map(len, parts)) == len(x)
    assert all(len(part) == 1 or (len(part) <= 256 and part.numel() <= 2**22) for part in parts)
    assert len(parts) < 5


def whitening(channels: int, kernel: int = 2, colours: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Filters of a stem before and after they have seen images, and the maps of these after."""
    inputs, split = photographs(colours)
    stem = {"channels": channels, "kernel": kernel, "stride": 2, "whiten": True}
    model = Model.of({"name": "cnn", "stem": stem, "stages": [stage("plain")]})
    net = model.build(inputs, 5)
    before = net.trunk[0].weight.clone()
    model.begin(net, inputs, split)
    maps = net.trunk[0](inputs.prepare(split.x)).transpose(0, 1).flatten(1)
    return before.detach(), net.trunk[0].weight.detach(), maps.detach()


@pytest.mark.parametrize(("kernel", "colours"), [(2, 3), (2, 1), (3, 1), (4, 1)])
def test_a_whitened_stem_makes_maps_of_variance_1_without_correlation(
    kernel: int, colours: int
) -> None:
    size = colours * kernel**2
    _, filters, maps = whitening(2 * size, kernel, colours)
    torch.testing.assert_close(filters[size:], -filters[:size])
    covariance = maps[:size] @ maps[:size].T / maps.shape[1]
    torch.testing.assert_close(covariance, torch.eye(size), atol=0.05, rtol=0)


def test_a_whitened_stem_has_the_strongest_directions_first_and_keeps_filters_beyond_them() -> None:
    _, few, _ = whitening(5)
    before, many, _ = whitening(40)
    size = 12
    assert (few.flatten(1).norm(dim=1).diff() > 0).all()  # the less variance, the more gain
    torch.testing.assert_close(
        few.flatten(1).norm(dim=1), many.flatten(1)[:5].norm(dim=1), rtol=0.1, atol=0
    )
    assert torch.equal(many[2 * size :], before[2 * size :])
    assert not torch.equal(many[: 2 * size], before[: 2 * size])


@pytest.mark.parametrize(
    "model",
    (UNTAUGHT := {k: v for k, v in ALL.items() if not Model.of(v).origin}).values(),
    ids=list(UNTAUGHT),
)
def test_without_whitening_no_model_learns_ahead_of_the_first_step(model: Any) -> None:
    inputs, split = photographs()
    part = Model.of(model)
    net = part.build(inputs, 5)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    part.begin(net, inputs, split)
    assert all(torch.equal(before[name], after) for name, after in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_whitening_draws_no_random_numbers() -> None:
    inputs, split = photographs()
    model = Model.of({"name": "cnn", "stem": {"whiten": True}})
    net, random = model.build(inputs, 5), torch.get_rng_state()
    model.begin(net, inputs, split)
    assert torch.equal(random, torch.get_rng_state())
