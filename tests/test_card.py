"""What a model card says of the model itself and of its data."""

from __future__ import annotations

from typing import Any

import pytest
from test_exports import CASES, made

from automl.config import Task
from automl.results.architecture import layers
from automl.results.card import USAGE, cell, limits
from automl.tasks.digits import Digits
from automl.tasks.source import Published


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_layers_hold_all_parameters_and_end_in_what_the_model_gives(case: Any) -> None:
    model = made(*case)
    outputs = len(model.labels) or model.inputs.outputs
    found = layers(model.config, model.inputs, outputs)
    assert sum(layer.params for layer in found) == model.params
    if model.config.task.tells == "boxes":  # and a box, for each place of a map
        assert found[-1].output[0] == outputs + 4
    elif model.config.task.tells != "rows":  # these are put together behind the last layer
        assert found[-1].output[-1] == outputs
    assert {layer.name for layer in found} <= {".", *dict(model.model.named_modules())}


@pytest.mark.parametrize(
    ("case", "kinds"),
    [("cnn-maps", ["MaxPool2d"]), ("mlp-maps", ["Flatten"]), ("rnn-tokens", ["Pool"])],
)
def test_layers_without_weights_are_told_where_they_change_the_shape(
    case: str, kinds: list[str]
) -> None:
    model = made(*CASES[case])
    found = layers(model.config, model.inputs, len(model.labels))
    assert [layer.kind.partition("(")[0] for layer in found if not layer.params] == kinds


@pytest.mark.parametrize("name", Task.members())
def test_published_data_has_an_origin_and_ones_own_has_none(name: str) -> None:
    task = Task.members()[name]
    if issubclass(task, Published | Digits):
        assert len(task.origin.split("; ")) == 2  # source, licence
    else:
        assert task.origin == "not known"


def test_every_kind_of_data_has_its_limits() -> None:
    told = {case: limits(made(*CASES[case]).config) for case in CASES}
    assert all(told.values())
    kinds = {made(*case).config.task.gives for case in CASES.values()}
    assert kinds == set(USAGE)


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("sea_lion 2.5 (young)", "sea_lion 2.5 (young)"),
        ("![x](http://a/b.png)", r"!\[x\](http://a/b.png)"),
        ("*a* _b_ `c` ~~d~~ $e$", r"\*a\* \_b\_ \`c\` \~\~d\~\~ \$e\$"),
        ("a\\|b", r"a\\\|b"),
        ("<b>\n&lt;", "&lt;b> &amp;lt;"),
    ],
)
def test_a_label_is_no_markup_of_a_card(label: str, told: str) -> None:
    assert cell(label) == told
