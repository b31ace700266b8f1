"""Series: tables of strangers, rows in time, what is told of them, and a search from end to end."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from torch import Tensor, nn

import automl
from automl.config import Config, Model, Task
from automl.data import PIECE, Data, Series, Spans, Split
from automl.errors import DataError, SpaceError
from automl.exports import verified
from automl.inputs.series import Columns, Lookback, Window, table
from automl.models import dlinear, tcn
from automl.models.layers import Anchored, cut
from automl.results.judgement import judge
from automl.training import train
from automl.training.step import counting

pytestmark = pytest.mark.usefixtures("all_forked")

FAMILIES = [name for name, family in Model.members().items() if "series" in family.reads]
NOTHING = torch.zeros(0, dtype=torch.long)
CPU = torch.device("cpu")
REAL = os.environ.get("AUTOML_DATA")  # conftest hides it from the tests themselves


def waves(rows: int) -> Tensor:
    """Two columns of the same rhythm, one of them far from 0."""
    steps = torch.arange(rows).unsqueeze(1)
    return torch.cat([(steps * math.tau / 12).sin(), 500 + 40 * (steps * math.tau / 12).cos()], 1)


def data_of(values: Tensor, horizon: int, train_rows: int, valid_rows: int) -> Data:
    splits = [
        Split(Series(values[:train_rows]), NOTHING),
        Split(Series(values[: train_rows + valid_rows], train_rows), NOTHING),
    ]
    names = tuple(f"c{k}" for k in range(values.shape[1]))
    return Data(*splits, Columns(names, horizon, train_rows), (), "f")


def written(folder: Path, rows: int = 400) -> Path:
    """A table of `waves` with days in front."""
    file = folder / "waves.csv"
    lines = ["day,low,high"]
    for number, (low, high) in enumerate(waves(rows).tolist()):
        lines.append(f"{date(2024, 1, 1) + timedelta(number)},{low:.6f},{high:.4f}")
    file.write_text("\n".join(lines) + "\n")
    return file


def task(file: Path, **knobs: Any) -> Any:
    return Task.of({"name": "seriescsv", "path": str(file), "horizon": 12, **knobs})


def ett(**knobs: Any) -> Any:
    return Task.of({"name": "ett", **knobs})


def past(inputs: Lookback, raw: Any) -> Tensor:
    """What is read of what a user has."""
    x = inputs.read(raw).x
    assert isinstance(x, Tensor)
    return x


# --- tables


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", ("1", "2"), [[1, 2], [3, 4]]),  # no header
        ("day;a\n2024-01-01;1,5\n2024-01-02;-2,25\n", ("a",), [[1.5], [-2.25]]),
        ("a\tb\n1\t2e3\n", ("a", "b"), [[1, 2000]]),
        (' a , "b, c" \n 1 , 2 \n', None, None),  # a quote behind a space is a part of the cell
        ('a,"b, c"\n 1 , 2 \n', ("a", "b, c"), [[1, 2]]),
        ('"day","a"\n"2024-01-01","1"\n"2024-01-02",2\n', ("a",), [[1], [2]]),
        ('"day";"a"\n"2024-01-01";"1,5"\n', ("a",), [[1.5]]),
        ("wind,a\nNW,1\ncv,2\n", ("a",), [[1], [2]]),
        ("when,a\n20240102,1\n20240101,2\n", ("when", "a"), [[20240102, 1], [20240100, 2]]),
        ("a,none\n1,\n2,NA\n", ("a",), [[1], [2]]),  # a column without any number
        ("1,5;2,5\n3,5;4,5\n", ("1", "2"), [[1.5, 2.5], [3.5, 4.5]]),
        ("T, °C;H, %\n1,5;2\n3,5;4\n", ("T, °C", "H, %"), [[1.5, 2], [3.5, 4]]),
        ("a;max,b;max\n1,2\n", ("a;max", "b;max"), [[1, 2]]),
        ("a\tb, c\n1\t2\n", ("a", "b, c"), [[1, 2]]),
        ("\na,b\n\n1,2\n\n3,4\n\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("2024-01-01,1\n2024-01-02,2\n", ("2",), [[1], [2]]),
        (",2024-01,2024-02\nx,1,2\n", ("2024-01", "2024-02"), [[1, 2]]),  # names that are dates
    ],
)
def test_a_table_is_read_as_its_columns_of_numbers(
    text: str, names: tuple[str, ...] | None, values: list[list[float]] | None, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text(text)
    if names is None:
        with pytest.raises(DataError):
            table(tmp_path / "t.txt")
        return
    found, told = table(tmp_path / "t.txt")
    assert found == names
    assert told.tolist() == values
    assert told.dtype == torch.float32


def test_gaps_are_cells_without_a_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,NA\n,2\nNaN,3\n?,4\nnull,5\n")
    _, told = table(tmp_path / "t.csv")
    assert told.isnan().tolist() == [[False, True], *[[True, False]] * 4]
    (tmp_path / "t.csv").write_text("a\n1\n\n\n2\n\n")  # a row for each line between others
    assert table(tmp_path / "t.csv")[1].isnan().flatten().tolist() == [False, True, True, False]


def test_wanted_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,x,3\n")
    assert table(tmp_path / "t.csv", ["c", "a"])[1].tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("text", "wanted", "told"),
    [
        ("a,b\n1,2\n3\n", (), "line 3: got 1 cells, want 2"),
        ("a,b\n1,2\n3,x\n", (), "line 3: column 'b': got 'x'; want a number, or nothing"),
        ("a\n1\n1e999\n", (), "line 3: column 'a': got '1e999'"),
        ("a\n1\n1e39\n", (), "got a number beyond 3.4e\\+38"),
        ("a,b\n1,2\n", ("c",), "no column is called 'c'; .*Known: a, b"),
        ("a,b\nx,y\n", (), "got no column of numbers"),
        ("a,a\n1,2\n", (), "two columns are called 'a'"),
        ("a,a\n1,\n", (), "two columns are called 'a'"),  # to tell what follows it would be, too
        ("a,b\n1,2\n", ("a", "a"), "the column 'a' is wanted twice"),
        ("a,b\n", (), "got no rows"),
        ("", (), "got no rows"),
        ("day,a\n2024-01-02,1\n2024-01-01,2\n", (), "line 3: got 2024-01-01 .* behind 2024-01-02"),
        ("day,a\n2024-01-01,1\n2024-01-01,2\n", (), "each time once"),
        ("month,a\n2024-02,1\n2024-01,2\n", (), "line 3: got 2024-01-01 .* behind 2024-02-01"),
        ('a,b\n1,"2\n3,4\n', (), "line 2: got a quote that nothing closes"),
    ],
)
def test_what_is_wrong_in_a_table_is_one_line_that_says_where(
    text: str, wanted: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=told) as raised:
        table(tmp_path / "t.csv", wanted)
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "t.csv") in str(raised.value)


def test_a_table_in_another_encoding_is_told_of_no_knob_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("t;°C\n1;2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 1: got the byte 0xb0; want utf-8 text$"):
        table(tmp_path / "t.csv")


def test_what_is_lost_of_a_table_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f'2024-01-0{n},2024-0{n},"1,00{n}",{10**9 + n},{10**6 + n}' for n in range(1, 6)]
    (tmp_path / "t.csv").write_text("\n".join(["day,month,money,far,near", *lines]))
    assert table(tmp_path / "t.csv")[0] == ("far", "near")
    first, second = caplog.messages
    assert first.endswith("passing over the column 'money': it holds no numbers")
    assert "column 'far': float32 rounds away 100% of what its numbers differ by" in second


# --- rows in time


def test_what_is_read_lies_before_what_is_told_and_each_moment_comes_once() -> None:
    values = torch.arange(20.0).unsqueeze(1)
    spans = Spans(values, 100 + values, first=5, length=3, horizon=2)
    assert len(spans) == 14
    x, y = spans.take(torch.tensor([0, 13]))
    assert x[:, :, 0].tolist() == [[2, 3, 4], [15, 16, 17]]
    assert y[:, :, 0].tolist() == [[105, 106], [118, 119]]
    split = Split(spans, NOTHING)
    swept = torch.cat([index for index, *_ in split.sweep(4)])
    assert swept.tolist() == list(range(14))
    batches = [x for x, _ in split.epoch(7, torch.Generator().manual_seed(0))]
    assert sorted(torch.cat(batches)[:, 0, 0].tolist()) == list(range(2, 16))
    assert (len(split), split.rows) == (15, 14)


def test_validation_reads_rows_to_train_but_tells_its_own_alone() -> None:
    data = data_of(waves(100), horizon=4, train_rows=60, valid_rows=40)
    inputs = Window(length=24).fit(data)
    train_spans, valid_spans = (inputs.encode(split).x for split in (data.train, data.valid))
    assert isinstance(train_spans, Spans)
    assert isinstance(valid_spans, Spans)
    assert (train_spans.first, len(train_spans)) == (24, 33)
    assert (valid_spans.first, len(valid_spans)) == (60, 37)
    x, _ = valid_spans.take(torch.tensor([0]))
    assert torch.equal(x[0], waves(100)[36:60])
    whole = data.whole().train.x
    assert isinstance(whole, Series)
    assert torch.equal(whole.values, waves(100))
    assert whole.first == 0


def test_columns_are_scaled_by_what_is_known_to_train_with() -> None:
    values = torch.tensor([[1.0, 7.0], [math.nan, 7.0], [5.0, 7.0], [900.0, 900.0]])
    inputs = Window(length=1).fit(data_of(values, horizon=1, train_rows=3, valid_rows=1))
    assert inputs.mean == (3.0, 7.0)
    assert inputs.std == (2.0, 1.0)  # a constant column is left as it is
    scaled = inputs.prepare(values)
    assert torch.allclose(inputs.told(scaled), values, equal_nan=True)


def test_a_gap_is_read_as_what_was_known_last_and_is_told_by_nobody() -> None:
    nan = math.nan
    values = torch.tensor([[nan], [2.0], [nan], [nan], [6.0], [4.0], [nan], [4.0]])
    data = data_of(values, horizon=1, train_rows=6, valid_rows=2)
    inputs = Window(length=2).fit(data)
    filled = inputs.filled(values).flatten().tolist()
    assert filled == [4.0, 2.0, 2.0, 2.0, 6.0, 4.0, 4.0, 4.0]
    task = ett()
    spans = inputs.encode(data.train).x
    assert isinstance(spans, Spans)
    _, y = spans.take(torch.tensor([0, 1, 2]))
    assert y.isnan().flatten().tolist() == [True, True, False]
    logits = torch.zeros(3, 1, 1, requires_grad=True)
    (slope,) = torch.autograd.grad(task.loss(logits, y), logits)
    assert slope.flatten().tolist()[:2] == [0.0, 0.0]
    assert slope[2].item() != 0
    assert counting(y, None) == 1
    assert task.tally(logits.detach(), y)["count"].tolist() == [1]


def test_errors_are_means_over_all_that_is_known() -> None:
    told, came = torch.zeros(2, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, math.nan]]] * 2)
    for score, loss in (("mse", 14 / 3), ("mae", 2.0)):
        task = ett(score=score)
        scores = task.scores(task.tally(told, came), Split(came, NOTHING))
        assert scores == pytest.approx({"loss": loss, "mse": 14 / 3, "mae": 2.0})
        assert task.metric.name == score
        assert not task.metric.higher_is_better
        assert task.loss(told, came).item() == pytest.approx(loss)


@pytest.mark.parametrize(("rows", "wanted", "length"), [(60, 10, 10), (60, 99, 24), (14, 99, 1)])
def test_a_long_past_leaves_half_of_the_rows_to_learn_from(
    rows: int, wanted: int, length: int
) -> None:
    data = data_of(waves(100), horizon=12, train_rows=rows, valid_rows=40)
    inputs = Window(length=wanted).fit(data)
    assert inputs.length == length
    assert len(inputs.encode(data.train).x) == rows - length - 12 + 1 >= 2
    assert Window(length=wanted).fit(data.whole()).length == length  # as it was validated
    assert Window(length=wanted).expect(data.inputs).length == length


# --- what a user has


class Frame:
    """As much of a data frame as is looked at."""

    def __init__(self, held: dict[Any, list[Any]], kind: str = "f4") -> None:
        self.held, self.columns, self.kind = held, list(held), kind

    def __getitem__(self, names: list[Any]) -> Frame:
        return Frame({name: self.held[name] for name in names}, self.kind)

    def to_numpy(self) -> Any:
        return np.array(list(self.held.values()), self.kind).T


class Missing:
    """What pandas has in a column of whole numbers where none is known."""

    def __str__(self) -> str:
        return "<NA>"


def test_a_past_is_read_from_tables_frames_and_arrays_alike(tmp_path: Path) -> None:
    inputs = Lookback(("a", "b"), (0.0, 0.0), (1.0, 1.0), length=2, horizon=1)
    rows = [[9.0, 9.0], [1.0, 2.0], [math.nan, 4.0]]
    wanted = torch.tensor([[[1.0, 2.0], [1.0, 4.0]]])
    (tmp_path / "t.csv").write_text("b,x,a\n9,q,9\n2,q,1\n4,q,\n")
    frame = Frame({"b": [9.0, 2.0, 4.0], "x": [0.0] * 3, "a": [9.0, 1.0, math.nan]})
    for raw in (tmp_path / "t.csv", str(tmp_path / "t.csv"), frame, rows, torch.tensor(rows)):
        assert torch.equal(past(inputs, raw), wanted), raw
    learned = torch.tensor(rows, dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(past(inputs, learned), wanted)
    masked = np.ma.masked_equal([[9.0, 9.0], [1.0, 2.0], [-1.0, 4.0]], -1.0)
    assert torch.equal(past(inputs, masked), wanted)
    batch = inputs.read(torch.tensor([rows, rows]))
    assert isinstance(batch.x, Tensor)
    assert batch.x.shape == (2, 2, 2)
    one = Lookback(("a",), (0.0,), (1.0,), length=2, horizon=1)
    assert past(one, [1, 2, 3]).tolist() == [[[2.0], [3.0]]]


def test_a_frame_that_was_searched_is_a_past() -> None:
    inputs = Lookback(("0", "1"), (0.0, 0.0), (1.0, 1.0), length=2, horizon=1)
    frame = Frame({0: [9, 1, Missing()], "x": ["q"] * 3, 1: ["9", "2", Decimal(4)]}, "O")
    assert past(inputs, frame).tolist() == [[[1.0, 2.0], [1.0, 4.0]]]
    with pytest.raises(DataError, match=r"got Frame that is no array of numbers"):
        inputs.read(Frame({0: [9, 1, 1], 1: ["9", "q", 1]}, "O"))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ([[1.0, 2.0]], "got 1 rows; want the last 2, or more"),
        ([[1.0, 2.0, 3.0]] * 4, r"got an array of shape \(1, 4, 3\); want \(rows, 2 columns\)"),
        ([1.0, 2.0], r"got an array of shape \(2,\)"),
        ("no such file.csv", "no such file.csv: cannot be read"),
        (["a", "b"], "got list that is no array of numbers"),
        (None, "no array of numbers|shape"),
        ([[math.nan, 1.0]] * 3, "got nothing but gaps in column 'a'"),
        (Frame({"a": [1.0, 2.0]}), "no column is called 'b'"),
        ([[math.inf, 1.0]] * 3, "got a number beyond"),
    ],
)
def test_what_is_no_past_is_refused(raw: Any, told: str) -> None:
    inputs = Lookback(("a", "b"), (0.0, 0.0), (1.0, 1.0), length=2, horizon=1)
    with pytest.raises(DataError, match=told):
        inputs.read(raw)


# --- models


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def built(name: str, **knobs: Any) -> tuple[nn.Module, Lookback]:
    torch.manual_seed(0)
    inputs = Lookback(("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, length=30, horizon=7)
    return Model.of({"name": name, **knobs}).build(inputs, 3), inputs


def stirred(model: nn.Module) -> nn.Module:
    """Off its start, where zeros would hide things."""
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return model


def test_a_past_of_any_length_becomes_rows_ahead_and_all_weights_learn(family: str) -> None:
    patched = "patch" in Model.members()[family].model_fields
    model, inputs = built(family, **({"patch": 8} if patched else {}))
    stirred(model)
    told = model(torch.randn(5, 30, 3))
    assert told.shape == inputs.answers(5, 3) == (5, 7, 3)
    told.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("anchor", ["last", "mean", "scale"])
def test_a_past_on_another_level_is_told_on_that_level(family: str, anchor: str) -> None:
    model = stirred(built(family, anchor=anchor)[0]).eval()
    x = torch.randn(4, 30, 3)
    shift = torch.tensor([5.0, -3.0, 0.0])
    assert torch.allclose(model(x + shift), model(x) + shift, atol=1e-4)
    if anchor == "scale":
        assert torch.allclose(model(7 * x), 7 * model(x), atol=1e-3)
    plain = stirred(built(family, anchor="none")[0]).eval()
    assert not torch.allclose(plain(x + shift), plain(x) + shift, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "knobs", "alone"),
    [
        ("dlinear", {}, True),
        ("dlinear", {"shared": False, "trend": 1}, True),
        ("segrnn", {"cell": "lstm"}, True),
        ("patchtst", {}, True),
        ("tcn", {"columns": "alone"}, True),
        ("tcn", {"columns": "together"}, False),
        ("tsmixer", {}, False),
    ],
)
def test_columns_hear_of_each_other_where_it_is_said(
    name: str, knobs: dict[str, Any], alone: bool
) -> None:
    model = stirred(built(name, **knobs)[0]).eval()
    x = torch.randn(4, 30, 3)
    other = x.clone()
    other[:, :, 1] = torch.randn(4, 30)
    same = torch.allclose(model(x)[:, :, [0, 2]], model(other)[:, :, [0, 2]], atol=1e-5)
    assert same == alone


class Nothing(nn.Module):
    """What tells no change of seven rows ahead."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(*x.shape[:2], 7)


def test_where_no_change_is_told_the_anchor_is() -> None:
    x = torch.randn(4, 30, 3)
    told = {"none": torch.zeros(4, 1, 3), "last": x[:, -1:], "mean": x.mean(1, keepdim=True)}
    for anchor, row in (told | {"scale": told["mean"]}).items():
        assert torch.allclose(Anchored(anchor, Nothing())(x), row.expand(-1, 7, -1), atol=1e-6), (
            anchor
        )


@pytest.mark.parametrize("kernel", [2, 5])
def test_the_moving_mean_lies_around_each_row_and_repeats_the_ends(kernel: int) -> None:
    model, _ = built("dlinear", anchor="none", trend=kernel)
    net = next(module for module in model.modules() if isinstance(module, dlinear.Net))
    assert net.trend is not None
    net.rest.weight.data.zero_()
    x = torch.randn(1, 30, 3)
    for place in (0, 1, 14, 29):
        net.trend.weight.data.zero_()
        net.trend.weight.data[:, place] = 1.0
        rows = torch.arange(place - (kernel - 1) // 2, place + kernel // 2 + 1).clamp(0, 29)
        assert torch.allclose(
            model(x), x[:, rows].mean(1, keepdim=True).expand(-1, 7, -1), atol=1e-5
        )


def test_convolutions_are_shortcuts_at_first_in_which_every_channel_learns() -> None:
    net = built("tcn", patch=5, width=16, layers=3, dropout=0.0)[0]
    blocks = [module for module in net.modules() if isinstance(module, tcn.Block)]
    x = torch.randn(6, 16, 9)
    assert all(torch.equal(block(x), x) for block in blocks)
    net(torch.randn(8, 30, 3)).square().sum().backward()
    for block in blocks:
        assert block.second.weight.grad is not None
        assert block.second.weight.grad.abs().amax((1, 2)).min() > 0


def test_patches_end_with_the_last_row() -> None:
    x = torch.arange(1.0, 8.0).view(1, 1, 7)
    assert cut(x, 3).tolist() == [[[[0, 0, 1], [2, 3, 4], [5, 6, 7]]]]
    assert cut(x, 7).tolist() == [[[list(range(1, 8))]]]


def test_a_linear_map_of_the_moving_mean_and_the_rest_is_one_of_the_past() -> None:
    """Both maps begin as the mean over the past, so that together they are just that."""
    model, _ = built("dlinear", anchor="none", trend=5)
    x = torch.randn(4, 30, 3)
    assert isinstance(model, Anchored)
    assert torch.allclose(model(x), x.mean(1, keepdim=True).expand(-1, 7, -1), atol=1e-5)


def test_each_family_learns_a_rhythm(family: str) -> None:
    config = Config.of(
        {
            "task": {"name": "ett", "horizon": 6},
            "input": {"name": "window", "length": 24},
            "model": {"name": family, "dropout": 0.0},
            "optimizer": {"name": "adamw", "lr": 5e-3},
            "train": {"epochs": 8, "batch_size": 32},
        }
    )
    data = data_of(waves(500), horizon=6, train_rows=400, valid_rows=100)
    *_, last = train(config, data, device=CPU)
    assert config.task.chance(data)[1] > 1.0
    assert last.metrics["mse"] < 0.1


def test_going_on_after_a_stop_is_as_if_never_stopped(tmp_path: Path) -> None:
    config = Config.of(
        {
            "task": {"name": "ett", "horizon": 6},
            "input": {"name": "window", "length": 24},
            "model": {"name": "segrnn", "patch": 6, "width": 8, "dropout": 0.3},
            "train": {"epochs": 3, "batch_size": 64},
        }
    )
    data = data_of(waves(300), horizon=6, train_rows=200, valid_rows=100)
    through = [e.metrics for e in train(config, data, device=CPU)]
    file = tmp_path / "c"
    stopped = [e.metrics for e in train(config, data, device=CPU, checkpoint=file, until=1)]
    again = [e.metrics for e in train(config, data, device=CPU, checkpoint=file)]
    assert (stopped, again) == (through[:1], through)


# --- tasks


def test_a_series_is_cut_by_time_and_the_test_is_behind_the_rest(tmp_path: Path) -> None:
    told = task(written(tmp_path), valid=0.2, sealed=0.25)
    data, test = told.load(None), told.test(None)
    assert data.inputs.names == ("low", "high")
    assert (len(data.train), len(data.valid), len(test), data.sealed) == (220, 80, 100, 100)
    assert isinstance(test.x, Series)
    assert (data.valid.x.first, test.x.first, len(test.x.values)) == (220, 300, 400)
    assert torch.allclose(test.x.values, waves(400), atol=1e-4)
    assert told.load(None).fingerprint == data.fingerprint
    assert task(written(tmp_path), valid=0.2).load(None).fingerprint != data.fingerprint
    one = task(written(tmp_path), columns=["high"]).load(None)
    assert one.inputs.names == ("high",)


def test_baselines_are_what_they_are_called(tmp_path: Path) -> None:
    told = task(written(tmp_path), valid=0.2, sealed=0.2)
    data = told.load(None)
    name, chance = told.chance(data)
    assert name == "repeating the last row"
    scaled = (waves(400) - waves(240).mean(0)) / waves(240).std(0, correction=0)
    by_hand = [
        (scaled[t : t + 12] - scaled[t - 1]).square().mean() for t in range(240, 320 - 12 + 1)
    ]
    assert chance == pytest.approx(float(sum(by_hand) / len(by_hand)), rel=1e-3)
    name, ridge = told.baseline(data)
    assert name == "ridge regression on 114 rows"
    assert ridge < 0.01  # a rhythm without noise is linear in its past


def test_who_comes_near_the_last_row_of_a_random_walk_is_not_hopeless() -> None:
    torch.manual_seed(0)
    task = ett(horizon=4)
    walk, noise = (
        torch.randn(300, 1).cumsum(0) + 0.5 * torch.arange(300.0)[:, None],
        torch.randn(300, 1),
    )
    for values, worse in ((walk, "mean"), (noise, "last")):
        data = data_of(values, horizon=4, train_rows=200, valid_rows=100)
        last, hopeless = task.chance(data)[1], task.hopeless(data)
        scaled = (values[200:] - values[:200].mean()) / values[:200].std(correction=0)
        mean = scaled.unfold(0, 4, 1).square().mean().item()
        assert (hopeless > 2 * last) == (worse == "mean")
        assert hopeless == pytest.approx(max(last, mean), rel=1e-4)


def test_a_random_walk_is_searched_to_the_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    walk = (torch.randn(400).cumsum(0) + torch.arange(400.0)).tolist()
    (tmp_path / "walk.csv").write_text("a\n" + "\n".join(map(str, walk)))
    config = {
        "task": {"name": "seriescsv", "path": str(tmp_path / "walk.csv"), "horizon": 6},
        "input": {"name": "window", "length": 12},
        "model": {"name": "dlinear", "trend": 1, "anchor": "mean"},
        "optimizer": {"name": "adamw", "lr": {"float": [1e-5, 1e-4]}},
        "train": {"epochs": 3, "batch_size": 64},
    }
    (tmp_path / "walk.yaml").write_text(json.dumps(config))
    study = automl.search(
        tmp_path / "walk.yaml", trials=2, workers=1, finalists=0, studies=tmp_path / "studies"
    )
    assert study.best.metrics["valid"]["mse"] > study.best.metrics["chance"]["mse"]
    assert [row.state for row in study.leaderboard] == ["finished"] * 2


@pytest.mark.parametrize(
    ("rows", "knobs", "wrong"),
    [
        (400, {"path": "none.csv"}, "no file none.csv; want a table"),
        (400, {"columns": ["low", "lo"]}, "no column is called 'lo'; did you mean 'low'"),
        (40, {}, "got 4 rows to validate with; want 14 at least, for a task.horizon of 12"),
        (16, {"horizon": 1, "sealed": 0.2, "valid": 0.1}, "got 1 rows to validate with; want 3"),
    ],
)
def test_a_series_that_cannot_be_split_is_one_line(
    rows: int, knobs: dict[str, Any], wrong: str, tmp_path: Path
) -> None:
    file = written(tmp_path, rows)
    with pytest.raises(DataError, match=wrong):
        task(file, **knobs).load(None)


@pytest.mark.parametrize(
    ("gaps", "told"), [(range(70, 80), "10 rows to validate"), (range(80, 100), "20 rows to test")]
)
def test_nothing_is_judged_on_gaps_alone(gaps: range, told: str, tmp_path: Path) -> None:
    """Where nothing came, nothing is off: it would be the best score that there is."""
    (tmp_path / "t.csv").write_text(
        "a\n" + "\n".join("NA" if n in gaps else "1" for n in range(100))
    )
    with pytest.raises(DataError, match=f"got no number in the {told} with"):
        task(tmp_path / "t.csv", horizon=4).load(None)


def test_a_column_that_only_moves_later_is_said_to_count_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its deviation in training is 0: the errors of all others may be nothing beside its own.

    What is sealed is not looked at.
    """
    rows = [f"{n % 7},{'' if n < 5 else 0 if n < 75 else 100},{n > 80:d}" for n in range(100)]
    (tmp_path / "t.csv").write_text("a,b,c\n" + "\n".join(rows))
    task(tmp_path / "t.csv", horizon=4).load(None)
    (said,) = caplog.messages
    assert "column 'b': one number in the 70 rows to train with and others later" in said


def test_a_column_without_a_number_to_train_with_is_refused(tmp_path: Path) -> None:
    rows = [f"{n},{n if n > 80 else ''}" for n in range(100)]
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(rows))
    with pytest.raises(DataError, match="got no number in column 'b' in the 70 rows to train with"):
        task(tmp_path / "t.csv", horizon=4).load(None)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"label_smoothing": 0.1}, "train.label_smoothing: got 0.1; want 0.0, for ett tells rows"),
        ({"class_weights": "root"}, "train.class_weights: got root; want none, for ett tells rows"),
    ],
)
def test_knobs_of_classes_are_refused_where_there_are_none(
    knobs: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpaceError, match=told):
        Config.of({"task": "ett", "model": "dlinear", "train": knobs})


def test_a_model_of_images_is_refused_by_name() -> None:
    with pytest.raises(SpaceError, match="mlp reads maps; ett gives series"):
        Config.of({"task": "ett", "model": "mlp"})


def test_intervals_take_what_is_told_of_neighbouring_rows_for_one_thing() -> None:
    """Errors that stay for as long as a horizon say less than as many that come and go."""
    torch.manual_seed(0)
    horizon, rows = 20, 620
    noise = torch.randn(rows // 20).repeat_interleave(20).unsqueeze(1)
    data = data_of(noise, horizon=horizon, train_rows=220, valid_rows=400)
    inputs = Window(length=1).fit(data)
    task = ett()

    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), horizon, 1)

    found = judge(Zero(), inputs.encode(data.valid), inputs, task)
    assert found.interval is not None
    errors = inputs.prepare(noise[220:]).square().view(-1, 20).mean(1)  # 20 of them
    deviation = float(errors.std()) / math.sqrt(len(errors))
    width = (found.interval.high - found.interval.low) / 2
    assert 0.5 * 1.96 * deviation < width < 1.5 * 1.96 * deviation
    short = Split(Series(noise[:400], 220), NOTHING)
    assert judge(Zero(), inputs.encode(short), inputs, task).interval is None


def width(values: Tensor, horizon: int) -> float | None:
    """Half of the interval of what tells 0 of these rows (T,), of which the first one is read."""

    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), horizon, 1)

    inputs = Lookback(("a",), (0.0,), (1.0,), length=1, horizon=horizon)
    split = Split(Series(values.unsqueeze(1), 1), NOTHING)
    found = judge(Zero(), inputs.encode(split), inputs, Task.of("ett")).interval
    return (found.high - found.low) / 2 if found else None


@pytest.mark.parametrize("horizon", [1, 2, 10, 100])
def test_intervals_count_rows_that_are_told_in_two_blocks_once(horizon: int) -> None:
    """Of errors that know nothing of each other the mean square deviates by sqrt(2 / rows)."""
    torch.manual_seed(0)
    rows = 2000
    widths = [width(torch.randn(1 + rows), horizon) or 0.0 for _ in range(20)]
    assert fmean(widths) == pytest.approx(1.96 * math.sqrt(2 / rows), rel=0.08)
    gaps = torch.randn(1 + rows)
    gaps[60:] = math.nan
    assert width(gaps, horizon) is None  # few blocks have a row


def test_intervals_hold_that_bad_rows_follow_bad_ones_where_one_row_is_told() -> None:
    torch.manual_seed(0)
    widths = [width(torch.randn(101).repeat_interleave(20), 1) or 0.0 for _ in range(20)]
    assert fmean(widths) == pytest.approx(1.96 * math.sqrt(2 / 101), rel=0.15)


def test_batches_to_judge_are_no_larger_for_a_short_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeating the last row reads one row, and tells hundreds of each column."""
    sizes, take = list[int](), Spans.take

    def noted(self: Spans, index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = take(self, index)
        sizes.append(y.numel())
        return x, y

    monkeypatch.setattr(Spans, "take", noted)
    data = data_of(torch.randn(1500, 20), horizon=400, train_rows=500, valid_rows=1000)
    ett(horizon=400).chance(data)
    assert sum(sizes) == 601 * 400 * 20
    assert max(sizes) <= PIECE


# --- a search


SPACE = """
version: 1
task: {{name: seriescsv, path: {path}, horizon: 12, valid: 0.2, sealed: 0.2}}
input: {{name: window, length: {{choice: [24, 36]}}}}
model:
  choice:
    - {{name: dlinear, trend: 1}}
    - {{name: tcn, patch: 6, width: 8, layers: 2}}
optimizer: {{name: adamw, lr: {{float: [1e-3, 1e-2], log: true}}}}
train: {{epochs: 2, batch_size: 64}}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a space and a study of it."""
    folder = tmp_path_factory.mktemp("series")
    (folder / "waves.yaml").write_text(SPACE.format(path=written(folder)))
    automl.search(
        folder / "waves.yaml", trials=4, workers=1, finalists=1, studies=folder / "studies"
    )
    return folder


def test_a_search_delivers_what_tells_the_rows_ahead(searched: Path) -> None:
    model = automl.load_best("waves", studies=searched / "studies")
    assert isinstance(model, automl.Artifact) if hasattr(automl, "Artifact") else True
    told = model.forecast(searched / "waves.csv")
    assert told.columns == ("low", "high")
    assert told.values.shape == (12, 2)
    assert torch.equal(told["high"], told.values[:, 1])
    same = model.forecast(waves(400))
    assert torch.allclose(told.values, same.values, atol=1e-2)
    many = model.forecast(torch.stack([waves(400), waves(400)]))
    assert torch.allclose(many.values, same.values.expand(2, -1, -1), atol=1e-4)
    assert many["low"].shape == (2, 12)
    came = waves(412)[400:]
    assert (told["high"] - came[:, 1]).abs().max() < 40  # as far as the column ever strays
    with pytest.raises(DataError, match="no column is called 'hig'; did you mean 'high'"):
        told["hig"]
    with pytest.raises(DataError, match="tells rows ahead; use forecast"):
        model.predict(waves(400))
    with pytest.raises(DataError, match="tells rows ahead; use forecast"):
        model.generate("a")


def test_what_a_search_knows_of_a_series_is_told(searched: Path) -> None:
    best = searched / "studies" / "waves" / "best"
    told = json.loads((best / "metrics.json").read_text())
    assert told["metric"] == "mse"
    assert told["test_examples"] == 80
    assert [one["column"] for one in told["columns"]] == ["low", "high"]
    low, high = told["columns"]
    assert (low["mse"] + high["mse"]) / 2 == pytest.approx(told["test"]["mse"], rel=1e-6)
    assert high["mae_in_units"] / high["mae"] == pytest.approx(40 / math.sqrt(2), rel=0.01)
    card = (best / "card.md").read_text()
    assert "By column, on the test split" in card
    assert "80 rows" in card
    assert 'model.forecast("history.csv")' in card
    page = (searched / "studies" / "waves" / "report.html").read_text()
    assert "What it foretells" in page
    assert "Errors by column, on the test split" in page
    assert '"foretold"' in page


def test_the_rows_ahead_are_printed_as_a_table(searched: Path, command: Command) -> None:
    where = ("--studies", searched / "studies")
    status, out, _ = command("forecast", "waves", searched / "waves.csv", *where)
    assert status == 0
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["low", "high"]
    told = automl.load_best("waves", studies=searched / "studies").forecast(waves(400))
    found = torch.tensor([[float(cell) for cell in row] for row in rows])
    assert torch.allclose(found, told.values, atol=1e-2)
    status, out, _ = command("forecast", "waves", searched / "waves.csv", *where, "--json")
    assert torch.allclose(torch.tensor(json.loads(out)["high"]), told["high"], atol=1e-2)
    status, _, err = command("forecast", "waves", searched / "none.csv", *where)
    assert status == 2
    assert "cannot be read" in err


def test_a_series_model_is_verified_and_exported(
    searched: Path, command: Command, tmp_path: Path
) -> None:
    where = ("--studies", searched / "studies")
    assert command("verify", "waves", *where)[0] == 0
    status, out, _ = command("export", "waves", "--to", "pt2", "--out", tmp_path / "m.pt2", *where)
    assert status == 0
    assert "rows differ by" in out
    whole = torch.export.load(tmp_path / "m.pt2").module()
    model = automl.load_best("waves", studies=searched / "studies")
    past = waves(400)[-model.inputs.length :].unsqueeze(0)
    assert torch.allclose(whole(past)[0], model.forecast(waves(400)).values, atol=1e-3)


def test_the_rounding_of_a_column_far_from_0_is_no_other_answer() -> None:
    """Float32 knows no year between 2011 and 2011.0001."""
    years = 2011 + torch.randn(60, 1)
    inputs = Lookback(("year",), (2011.0,), (1.0,), length=4, horizon=2)
    split, ett = inputs.encode(Split(Series(years, 4), NOTHING)), Task.of("ett")

    def own(x: Tensor) -> Tensor:
        return x[:, :2]

    for off, nearest, equal in ((0.0, 0.0, 1.0), (0.01, 0.01, 0.0)):
        found = verified._compare(
            own, lambda x, off=off: own(x).nextafter(x.new_tensor(9e9)) + off, split, inputs, ett
        )
        assert found.difference == pytest.approx(nearest, abs=2e-4 * bool(off))
        assert found.equal == equal


# --- the benchmark


# ETT is no part of the project, whose tests pass without it
@pytest.mark.skipif(not REAL, reason="AUTOML_DATA names no folder with the real sets")
def test_ett_is_as_it_was_published() -> None:
    """What repeating the last row costs on the test split, as those who compare with it have it."""
    assert REAL is not None
    root = Path(REAL)
    for station, mse, mae in (("ETTh1", 1.294, 0.713), ("ETTh2", 0.432, 0.422)):
        for score, wanted in (("mse", mse), ("mae", mae)):
            task = ett(station=station, score=score)
            data = task.load(root)
            assert (len(data.train), len(data.valid), data.sealed) == (8640, 2880, 2880)
            held = Data(data.train, task.test(root), data.inputs, (), "f")
            assert task.chance(held)[1] == pytest.approx(wanted, abs=6e-4)
