"""Every model family that reads tokens keeps the promises a trainer relies on."""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automl.config import Model, Optimizer
from automl.errors import SpaceError
from automl.inputs.text import LARGEST, UNKNOWN, Tokens
from automl.models import bag
from automl.models.layers import STEPWISE, Dropout, Recurrent, attended, turn
from automl.training.precision import Precision

TEXTS = {name: name for name, family in Model.members().items() if "tokens" in family.reads}
PROSE = {name: name for name, family in Model.members().items() if "next tokens" in family.reads}
LABELLED: dict[str, Any] = TEXTS | {
    "-".join(("rnn", cell, way, pooling)): {
        "name": "rnn",
        "cell": cell,
        "direction": way,
        "pooling": pooling,
        "layers": 2,
        "layer_norm": way == "both",
        "residual": pooling == "max",
        "dropout": 0.2,
        "embedding_dropout": 0.2,
    }
    for cell, way, pooling in product(
        ("vanilla", "gru", "lstm"), ("forward", "both"), ("last", "mean", "max", "attention")
    )
}
LABELLED |= {
    f"textcnn-{pooling}": {"name": "textcnn", "kernels": [1, 2, 9], "pooling": pooling}
    for pooling in ("max", "mean", "attention")
}
LABELLED |= {
    f"bag-{ngrams}": {"name": "bag", "ngrams": ngrams, "buckets": 1000, "embedding_dropout": 0.2}
    for ngrams in (1, 3, 5)
}
LABELLED |= {
    f"transformer-{pooling}": {
        "name": "transformer",
        "heads": 2,
        "head": 16,
        "pooling": pooling,
        "dropout": 0.2,
        "embedding_dropout": 0.2,
    }
    for pooling in ("mean", "max", "attention")
}
CAUSAL: dict[str, Any] = PROSE | {
    f"rnn-{cell}": {"name": "rnn", "cell": cell, "layers": 2, "residual": True, "layer_norm": True}
    for cell in ("vanilla", "gru", "lstm")
}
labelled = pytest.mark.parametrize("model", LABELLED.values(), ids=list(LABELLED))
causal = pytest.mark.parametrize("model", CAUSAL.values(), ids=list(CAUSAL))
SIZE = 30  # tokens


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def built(model: Any, *, continues: bool = False) -> nn.Module:
    inputs = Tokens(size=SIZE, length=20, causal=continues)
    return Model.of(model).build(inputs, SIZE if continues else 5)


def stirred(net: nn.Module) -> nn.Module:
    """The net off its start, where what begins at zero would hide what it scales."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
        for module in net.modules():
            if isinstance(module, nn.Embedding):
                module.weight[0] = 0  # what padding has
    return net


def texts(*lengths: int) -> Tensor:
    """Texts of random tokens, padded behind their ends."""
    x = torch.randint(2, SIZE, (len(lengths), max(lengths)))
    return x * (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1))


@labelled
def test_texts_of_any_length_give_one_logit_a_class(model: Any) -> None:
    net = built(model)
    for lengths in [(1,), (3, 1, 20), (5, 5)]:
        logits = net(texts(*lengths))
        assert logits.shape == (len(lengths), 5)
        assert logits.isfinite().all()


@labelled
def test_a_text_without_tokens_has_an_answer(model: Any) -> None:
    assert built(model).eval()(torch.zeros(2, 3, dtype=torch.long)).isfinite().all()


@labelled
@pytest.mark.parametrize("met", [False, True])
def test_a_word_never_seen_says_nothing_unless_training_met_some(model: Any, met: bool) -> None:
    net = built(model)
    (words,) = (
        table
        for table in net.modules()
        if isinstance(table, nn.Embedding) and table.num_embeddings == SIZE
    )
    optimizer = Optimizer.of("adamw").build(net)
    for _ in range(3):
        x = texts(4, 9, 7)
        x[:, 1] = UNKNOWN if met else 2
        net(x).square().sum().backward()
        optimizer.step()
    assert words.weight[UNKNOWN].any() == met


@labelled
def test_an_answer_knows_nothing_of_padding_or_of_the_batch(model: Any) -> None:
    net = stirred(built(model)).eval()
    x = texts(4, 9, 1)
    together = net(x)
    wider = net(nn.functional.pad(x, (0, 6)))
    torch.testing.assert_close(wider, together, rtol=1e-4, atol=1e-5)
    for row, length in enumerate((4, 9, 1)):
        alone = net(x[row : row + 1, :length])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@labelled
def test_every_weight_learns(model: Any) -> None:
    net = stirred(built(model))
    x = torch.arange(1, SIZE).repeat(8, 1)[:, torch.randperm(SIZE - 1)]
    nn.functional.cross_entropy(net(x), torch.arange(8) % 5).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


@labelled
def test_padding_has_no_embedding(model: Any) -> None:
    net = built(model)
    assert not net.embedding.table.weight[0].any()
    net(texts(3, 9)).square().sum().backward()
    assert not net.embedding.table.weight.grad[0].any()


@pytest.mark.parametrize("model", (LABELLED | CAUSAL).values(), ids=list(LABELLED | CAUSAL))
def test_seeds_copies_and_the_meta_device(model: Any) -> None:
    torch.manual_seed(3)
    one = built(model)
    torch.manual_seed(3)
    same, other = built(model).state_dict(), built(model).state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in one.state_dict().items())
    assert not all(torch.equal(weight, other[name]) for name, weight in one.state_dict().items())

    file, x = io.BytesIO(), texts(4, 9)
    torch.save(one.state_dict(), file)
    file.seek(0)
    copy = built(model)
    copy.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(one.eval()(x), copy.eval()(x))

    with torch.device("meta"):
        assert built(model)(torch.ones(2, 8, dtype=torch.long)).shape == (2, 5)
    assert Model.of(Model.of(model).model_dump(mode="json")) == Model.of(model)


@pytest.mark.parametrize("model", (LABELLED | CAUSAL).values(), ids=list(LABELLED | CAUSAL))
def test_bfloat16_answers_nearly_the_same(model: Any) -> None:
    if "lstm" in str(model) and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not Precision.of(torch.device("cpu")).bf16, "and yet we would train in it"
        # oneDNN has no kernel of an LSTM in bfloat16 for a CPU without AVX-512, and raises
        pytest.skip("no LSTM in bfloat16 on this CPU, where trainings are in float32")
    net, x = built(model).eval(), texts(20, 7, 12)
    with torch.autocast("cpu", torch.bfloat16):
        quick = net(x).float()
    exact = net(x)
    assert (quick - exact).norm() < 0.05 * exact.norm()


@pytest.mark.skipif(  # only cuDNN takes float16 for bfloat16
    not torch.cuda.is_available(), reason="cuDNN wants a GPU, and there is none here"
)
@pytest.mark.parametrize("cell", ["vanilla", "gru", "lstm"])
def test_on_a_gpu_recurrent_layers_learn_in_float32(cell: Any) -> None:
    layer = Recurrent(cell, 8, 8, both=True, norm=False, residual=False).cuda()
    x, back = torch.randn(4, 6, 8).cuda(), turn(torch.ones(4, 6, dtype=torch.bool)).cuda()
    grads = []
    for mixed in (False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            states = layer(x.bfloat16().float() if not mixed else x.bfloat16(), back)
        assert states.dtype == torch.float32
        grads.append(torch.autograd.grad(1e-6 * states.sum(), list(layer.parameters())))
    for exact, found in zip(*grads, strict=True):
        assert exact.any()
        torch.testing.assert_close(found, exact, rtol=0.01, atol=0)


@causal
def test_what_comes_later_is_not_known(model: Any) -> None:
    net = stirred(built(model, continues=True)).eval()
    x = texts(12, 12)
    logits = net(x)
    assert logits.shape == (2, 12, SIZE)
    changed = x.clone()
    changed[:, 7:] = texts(5, 5)
    torch.testing.assert_close(net(changed)[:, :7], logits[:, :7], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(changed)[:, 7:], logits[:, 7:])


@causal
def test_the_weights_that_say_are_those_that_read(model: Any) -> None:
    net = built(model, continues=True)
    shapes = [tuple(weight.shape) for weight in net.parameters()]
    assert sum(SIZE in shape and len(shape) == 2 for shape in shapes) == 1
    net(texts(12, 12)).square().sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())


@causal
def test_token_by_token_is_as_all_at_once(model: Any) -> None:
    net = stirred(built(model, continues=True)).eval()
    x, state, said = texts(12, 12), None, []
    for tokens in x.unbind(1):
        logits, state = net.step(tokens, state)
        said.append(logits)
    torch.testing.assert_close(torch.stack(said, 1), net(x), rtol=1e-4, atol=1e-5)


def test_a_transformer_remembers_as_much_as_it_was_trained_with() -> None:
    net = stirred(built({"name": "transformer", "layers": 1}, continues=True)).eval()
    x, state = texts(50), None
    for tokens in x.unbind(1):
        logits, state = net.step(tokens, state)
    torch.testing.assert_close(logits, net(x[:, -20:])[:, -1], rtol=1e-4, atol=1e-5)


def test_a_transformer_tells_places_apart() -> None:
    net, x = stirred(built("transformer")).eval(), texts(9)
    assert not torch.allclose(net(x), net(x.flip(1)), rtol=1e-3)


@pytest.mark.parametrize("cell", ["vanilla", "gru", "lstm"])
def test_the_way_back_is_a_way_forward_over_each_text_turned_around(cell: Any) -> None:
    layer = Recurrent(cell, 3, 4, both=True, norm=False, residual=False)
    lengths = [5, 1, 3]
    x = torch.randn(3, 5, 3, requires_grad=True)
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    states = layer(x, turn(mask))
    for row, length in enumerate(lengths):
        alone = layer.ways[1](x[row : row + 1, :length].flip(1))[0].flip(1)
        torch.testing.assert_close(states[row, :length, 4:], alone[0])
        (ours,) = torch.autograd.grad(states[row, :length, 4:].sum(), x, retain_graph=True)
        (theirs,) = torch.autograd.grad(alone.sum(), x)
        torch.testing.assert_close(ours, theirs)


def test_both_directions_cannot_tell_the_next_token() -> None:
    with pytest.raises(ValueError, match="direction both reads what is to be told"):
        built({"name": "rnn", "direction": "both"}, continues=True)


def test_an_lstm_forgets_little_at_first() -> None:
    net = built({"name": "rnn", "cell": "lstm", "width": 7})
    bias = net.layers[0].ways[0].bias_ih_l0
    assert bias.tolist() == [0.0] * 7 + [1.0] * 7 + [0.0] * 14


def test_a_bag_of_words_is_a_point_of_the_space() -> None:
    net = built({"name": "textcnn", "kernels": [1], "pooling": "mean"}).eval()
    x = texts(9)
    torch.testing.assert_close(net(x), net(x[:, torch.randperm(9)]), rtol=1e-4, atol=1e-5)


def test_a_bag_of_pairs_knows_neighbours_and_no_more() -> None:
    net = stirred(built({"name": "bag", "ngrams": 2})).eval()
    one, same, other = torch.tensor([[2, 3, 2, 4, 2], [2, 4, 2, 3, 2], [2, 2, 3, 4, 2]])
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(net(one[None]), net(same[None]), **close)
    assert not torch.allclose(net(one[None]), net(other[None]), **close)


def test_the_longest_hash_of_the_largest_vocabulary_fits() -> None:
    assert bag.PRIME * bag.FACTOR + LARGEST < 2**63


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"name": "rnn", "cell": "grus"}, "cell: got 'grus'; want 'vanilla', 'gru' or 'lstm'"),
        ({"name": "rnn", "layers": 9}, "layers: got 9; want at most 4"),
        ({"name": "textcnn", "kernels": []}, "kernels: got 0 items"),
        ({"name": "textcnn", "pooling": "last"}, "pooling: got 'last'"),
    ],
)
def test_a_wrong_knob_is_told_with_its_place(model: dict[str, Any], told: str) -> None:
    with pytest.raises(SpaceError) as error:
        Model.of(model)
    assert told in str(error.value)


@pytest.mark.parametrize("places", [1, 7, STEPWISE, STEPWISE + 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_that_of_float32(places: int, causal: bool) -> None:
    torch.manual_seed(0)
    told = [torch.randn(3, 2, places, 8).bfloat16().requires_grad_() for _ in range(3)]
    mask = None
    if not causal:
        lengths = torch.tensor([places, 1, max(1, places // 2)])
        mask = (torch.arange(places) < lengths.unsqueeze(1))[:, None, None]
    exact = [part.detach().float().requires_grad_() for part in told]
    with torch.autocast("cpu", torch.bfloat16):
        heard = attended(*told, mask)
    wanted = F.scaled_dot_product_attention(*exact, mask, is_causal=causal)
    assert heard.dtype == torch.bfloat16
    assert torch.allclose(heard.float(), wanted, atol=0.03)
    heard.float().square().sum().backward()
    wanted.square().sum().backward()
    for ours, theirs in zip(told, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad.float(), theirs.grad, atol=0.1, rtol=0.03)
        assert theirs.grad.abs().max() > 0.2 or places == 1


def test_dropout_zeroes_its_share_at_random_and_scales_up_the_rest() -> None:
    layer = Dropout(0.3)
    x = torch.ones(1001, 257, requires_grad=True)
    torch.manual_seed(0)
    y = layer(x)
    kept = y != 0
    assert kept.double().mean().item() == pytest.approx(0.7, abs=4e-3)
    assert torch.allclose(y[kept], torch.tensor(1 / 0.7), rtol=1e-4)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)
    for apart in (1, 2, 3, 4, 257):  # bits of one draw, and of neighbours
        flat = kept.flatten()
        both = (flat[:-apart] & flat[apart:]).double().mean().item()
        assert both == pytest.approx(0.49, abs=5e-3)
    torch.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert not torch.equal(layer(x), y)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_dropout_keeps_type_and_shape() -> None:
    for x in (torch.ones(3, dtype=torch.bfloat16), torch.ones(0, 5), torch.ones(2, 3).T):
        y = Dropout(0.5)(x)
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
