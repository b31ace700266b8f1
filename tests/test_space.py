"""What a space reads, what it refuses and in which words, and what it draws."""

from __future__ import annotations

import functools
import itertools
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from automl.config import Config, Model, Task
from automl.errors import OptionError, SpaceError
from automl.holes import Choice, Draw, Value, fill, never, random_value
from automl.inputs.images import Images
from automl.reader import HOLES, MAX_BYTES, Reader, as_yaml
from automl.size import Size
from automl.space import Space, find, measure, prove, shipped

few = settings(max_examples=20)
many = settings(few, max_examples=150)

MLP = "task: digits\nmodel: mlp\n"

EVERY_HOLE = """\
version: 1
task: {name: digits, split_seed: 3}
search: {sampler: {name: tpe, startup: 4}, pruner: none, max_params: 1_000_000}
model:
  choice:
    - name: cnn
      stem: {choice: [{channels: 16}, {channels: {int: [8, 32], log: true}, kernel: 5}]}
      stages:
        repeat: {int: [1, 3]}
        each:
          choice:
            - plain
            - {name: residual, channels: {int: [16, 64], step: 16, prior: 32}, se: 0.25}
            - {name: inverted, expand: {choice: [2, 4]}}
      dropout: {float: [0.0, 0.3], step: 0.1}
    - {name: mlp, widths: {repeat: {int: [1, 8]}, same: {int: [8, 64]}}}
optimizer:
  choice:
    - sgd
    - {name: adamw, lr: {float: [1e-4, 1e-1], log: true}, beta1: {float: [0.8, 0.9]}}
schedule: {name: wsd, warmup: {choice: [0.1, 0.6, 0.2]}, cooldown: {choice: [0.2, 0.6, 0.3]}}
augment: {choice: [none, {name: images, crop: {choice: [0, 1]}, flip: {choice: [true, false]}}]}
train: {choice: [{batch_size: 32}, {batch_size: 64, average: {int: [0, 4]}}]}
seed: 7
"""
FIXED_LIST = """\
task: digits
model:
  name: cnn
  stages: [plain, {name: plain, depth: {int: [1, 3]}}, {name: residual, kernel: {choice: [3, 5]}}]
"""

FILES = [path for folder in shipped() for path in sorted(folder.glob("*.yaml"))]
TEXTS = {path.stem: path.read_text() for path in FILES}
TEXTS |= {"every hole": EVERY_HOLE, "fixed list": FIXED_LIST}

every_space = pytest.mark.parametrize("name", TEXTS)
seeds = st.integers(0, 2**32)


@functools.cache
def space(name: str) -> Space:
    return Space.parse(TEXTS[name], name)


def drawn(name: str, seed: int) -> Config | None:
    """A random config; None where knobs that are fine alone do not go together."""
    whole = space(name)
    try:
        return whole.sample(random.Random(seed))
    except SpaceError as error:
        told = str(error)
    assert "together" in told
    return None


def without_start(text: str) -> str:
    return re.sub(r"^start:.*?(?=^\w|\Z)", "", text, flags=re.M | re.S)


def optimizer(knobs: str) -> Space:
    return Space.parse(f"{MLP}optimizer: {{name: sgd, {knobs}}}\n")


# What is refused, each with the whole message; `my.yaml:` stands before it.

BROKEN: dict[str, tuple[str, str]] = {
    # not YAML, or not ours
    "open bracket": (
        MLP + "train: {epochs: 2\nseed: 1\n",
        "4: not YAML: expected ',' or '}', but got ':', in what begins in line 3",
    ),
    "tab": (
        "task: digits\nmodel:\n\tname: cnn\n",
        "3: not YAML: found character '\\t' that cannot start any token; indent with spaces",
    ),
    "no colon": (
        "task: digits\nmodel cnn\n",
        "3: not YAML: could not find expected ':', in what begins in line 2",
    ),
    "control character": (
        "task: digits\nmodel: \x1b[31mred\n",
        "2: not YAML: got the control character '\\x1b'; want plain text",
    ),
    "empty": ("", "1: is empty; want a mapping with task, model, optimizer, train"),
    "only a comment": (
        "# nothing\n",
        "1: is empty; want a mapping with task, model, optimizer, train",
    ),
    "list": (
        "- task: digits\n- model: cnn\n",
        "1: got [{'task': 'digits'}, {'model': 'cnn'}]; want a mapping with task, model, "
        "optimizer, train",
    ),
    "text": ("digits\n", "1: got 'digits'; want a mapping with task, model, optimizer, train"),
    "one hole": (
        "choice: [digits, cifar10]\n",
        "1: got a hole (choice); want a mapping with task, model, optimizer, train",
    ),
    "two documents": (MLP + "---\nmodel: cnn\n", "3: got a second document (---); want one a file"),
    "key twice": (
        MLP + "train:\n  epochs: 2\n  epochs: 3\n",
        "5: train.epochs: is given twice, first in line 4",
    ),
    "merge key": (
        MLP + "train:\n  <<: {epochs: 2}\n",
        "4: train: got the key '<<'; want a plain word (and << is not read)",
    ),
    "key of several parts": (
        MLP + "? [a, b]\n: 1\n",
        "3: got the key of several parts; want a plain word (and << is not read)",
    ),
    "odd key": (
        MLP + '"\\e[31m": 1\n',
        "3: got the key '\\x1b[31m'; want a plain word (and << is not read)",
    ),
    "anchor": (
        "task: digits\nmodel: &m mlp\n",
        "2: references (& and *) are not read; write it out",
    ),
    "alias": (MLP + "optimizer: *o\n", "3: references (& and *) are not read; write it out"),
    "tag": (
        MLP + "optimizer: !!python/object/apply:os.system [ls]\n",
        "3: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not read; write "
        "plain values",
    ),
    "tag with escapes": (
        MLP + "optimizer: !%1b[31m sgd\n",
        "3: the tag '!\\x1b[31m' is not read; write plain values",
    ),
    "bomb of levels": (
        "task: digits\nmodel:\n  " + "[" * 50 + "]" * 50 + "\n",
        "3: more than 40 levels, one in the other",
    ),
    "too many values": (
        "task: digits\nmodel: [" + "1, " * 20_001 + "]\n",
        "2: more than 20,000 values",
    ),
    "long text": (
        "task: digits\nmodel: " + "x" * 5000 + "\n",
        "2: got a text of 5,000 characters; want at most 1,000",
    ),
    "repeats of repeats": (
        "task: digits\nmodel:\n  name: mlp\n  widths: "
        + "{repeat: 64, each: " * 8
        + "1"
        + "}" * 8
        + "\n",
        "4: model.widths[0][0][0][0][0]: repeat: makes 266,305 values, all levels counted; "
        "want at most 20,000",
    ),
    "many large repeats": (
        MLP
        + "optimizer: ["
        + "{repeat: {int: [1, 64]}, same: [1, 2, 3, 4, 5, 6, 7, 8, 9]}, " * 40
        + "]\n",
        "1: makes 25,644 values in all; want at most 20,000",
    ),
    # sections, parts and knobs
    "no task": ("model: mlp\n", "1: task: is missing; want the name of the task; Known: <tasks>."),
    "no model": (
        "task: digits\n",
        "1: model: is missing; want the name of the model; Known: <models>.",
    ),
    "unknown section": (
        MLP + "optimiser: sgd\n",
        "3: optimiser: no section is called 'optimiser'; did you mean 'optimizer'? Known: "
        "augment, federation, input, model, optimizer, schedule, search, seed, start, task, train, "
        "version.",
    ),
    "unknown part": (
        MLP + "optimizer:\n  name: sgdd\n  lr: 0.1\n",
        "4: optimizer: no optimizer is called 'sgdd'; did you mean 'sgd'? Known: adamw, muon, sgd.",
    ),
    "unknown part, capitals": (
        MLP + "optimizer: SGD\n",
        "3: optimizer: no optimizer is called 'SGD'; did you mean 'sgd'? Known: adamw, muon, sgd.",
    ),
    "unknown bare part": (
        MLP + "\noptimizer: adam\n",
        "4: optimizer: no optimizer is called 'adam'; did you mean 'adamw'? Known: adamw, "
        "muon, sgd.",
    ),
    "part is a number": (
        "task: digits\nmodel: 3\n",
        "2: model: got 3; want the name of the model, alone or in a mapping; Known: <models>.",
    ),
    "part without a name": (
        MLP + "optimizer: {lr: 0.1}\n",
        "3: optimizer: got no name; want the name of the optimizer, alone or in a mapping; "
        "Known: adamw, muon, sgd.",
    ),
    "part is null": (
        "task: digits\nmodel:\n",
        "2: model: got None; want the name of the model, alone or in a mapping; Known: <models>.",
    ),
    "unknown knob": (
        MLP + "optimizer:\n  name: sgd\n  learning_rate: 0.1\n",
        "5: optimizer.learning_rate: no knob is called 'learning_rate'; Known: lr, momentum, "
        "name, weight_decay.",
    ),
    "unknown knob of an option of a repeat": (
        "task: digits\nmodel:\n  name: cnn\n  stages:\n    repeat: {int: [1, 3]}\n"
        "    each:\n      choice:\n        - {name: plain}\n        - name: residual\n"
        "          chanels: {int: [16, 64]}\n",
        "10: model.stages[0].chanels: no knob is called 'chanels'; did you mean 'channels'? "
        "Known: channels, depth, downsample, kernel, name, se.",
    ),
    "unknown knob of the task": (
        "task: {name: digits, size: 9}\nmodel: mlp\n",
        "1: task.size: no knob is called 'size'; Known: name, per_class, score, split_seed, valid.",
    ),
    "text for a whole number": (
        MLP + 'train: {batch_size: "32"}\n',
        "3: train.batch_size: got '32'; want a whole number",
    ),
    "true for a whole number": (
        MLP + "train: {batch_size: true}\n",
        "3: train.batch_size: got True; want a whole number",
    ),
    "float for a whole number": (
        MLP + "train: {batch_size: 32.0}\n",
        "3: train.batch_size: got 32.0; want a whole number",
    ),
    "text for a number": (
        MLP + "optimizer: {name: sgd, lr: high}\n",
        "3: optimizer.lr: got 'high'; want a number",
    ),
    "yes for true": (
        MLP + "augment: {name: images, flip: yes}\n",
        "3: augment.flip: got 'yes'; want true or false",
    ),
    "null for a number": (
        MLP + "optimizer:\n  name: sgd\n  lr:\n",
        "5: optimizer.lr: got None; want a number",
    ),
    "list for a number": (
        MLP + "optimizer: {name: sgd, lr: [0.1, 0.2]}\n",
        "3: optimizer.lr: got [0.1, 0.2]; want a number, or a hole, {float: [lowest, highest]}",
    ),
    "mapping for a number": (
        MLP + "optimizer: {name: sgd, lr: {min: 0.1, max: 1}}\n",
        "3: optimizer.lr: got {'min': 0.1, 'max': 1}; want a number, or a hole, {float: "
        "[lowest, highest]}",
    ),
    "number for a mapping": (MLP + "train: 20\n", "3: train: got 20; want a mapping"),
    "value for a list": (
        "task: digits\nmodel: {name: mlp, widths: 64}\n",
        "2: model.widths: got 64; want a list",
    ),
    "not one of the words": (
        "task: digits\nmodel: {name: mlp, activation: tanh}\n",
        "2: model.activation: got 'tanh'; want 'relu', 'gelu', 'silu' or 'hardswish'",
    ),
    "long wrong word": (
        "task: digits\nmodel: {name: mlp, activation: " + "x" * 200 + "}\n",
        "2: model.activation: got "
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...; want 'relu', 'gelu', "
        "'silu' or 'hardswish'",
    ),
    "wrong word of control characters": (
        'task: digits\nmodel: {name: mlp, activation: "\\e[31m\\a"}\n',
        "2: model.activation: got '\\x1b[31m\\x07'; want 'relu', 'gelu', 'silu' or 'hardswish'",
    ),
    "below its bound": (
        MLP + "optimizer: {name: sgd, lr: 0}\n",
        "3: optimizer.lr: got 0; want more than 0.0",
    ),
    "above its bound": (
        MLP + "train:\n  label_smoothing: 0.6\n",
        "4: train.label_smoothing: got 0.6; want at most 0.5",
    ),
    "too many items": (
        "task: digits\nmodel: {name: mlp, widths: [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n",
        "2: model.widths: got 9 items; want at most 8",
    ),
    "no item": (
        "task: digits\nmodel: {name: mlp, widths: []}\n",
        "2: model.widths: got 0 items; want at least 1",
    ),
    "knobs that do not go together": (
        MLP + "schedule: {name: wsd, warmup: 0.6, cooldown: 0.6}\n",
        "3: schedule: warmup and cooldown take 1.2 of all steps together; want at most 1",
    ),
    # holes against bounds
    "upper end out of bounds": (
        MLP + "train:\n  label_smoothing: {float: [0, 0.6]}\n",
        "4: train.label_smoothing: got 0.6; want at most 0.5",
    ),
    "lower end out of bounds": (
        MLP + "optimizer:\n  name: sgd\n  lr: {float: [0, 1]}\n",
        "5: optimizer.lr: got 0.0; want more than 0.0",
    ),
    "option out of bounds": (
        MLP + "train:\n  batch_size: {choice: [32, 64, 0]}\n",
        "4: train.batch_size: got 0; want at least 2",
    ),
    "option of the wrong type": (
        MLP + "train:\n  batch_size:\n    choice:\n      - 32\n      - '64'\n",
        "7: train.batch_size: got '64'; want a whole number",
    ),
    "option of the second item of a list": (
        "task: digits\nmodel:\n  name: cnn\n  stages:\n    - plain\n"
        "    - {name: plain, kernel: {choice: [3, 4, 5]}}\n",
        "6: model.stages[1].kernel: got 4; want 1, 3, 5, 7, 9 or 11",
    ),
    "number between the ends that is none": (
        "task: digits\nmodel: {name: cnn, stages: [{name: plain, kernel: {int: [3, 5]}}]}\n",
        "2: model.stages[0].kernel: got 4; want 1, 3, 5, 7, 9 or 11",
    ),
    "option of an option": (
        MLP
        + (
            "optimizer:\n  choice:\n    - adamw\n"
            "    - {name: sgd, momentum: {choice: [0.9, 0.99, 1.5]}}\n"
        ),
        "6: optimizer.momentum: got 1.5; want at most 0.999",
    ),
    "unknown option": (
        MLP + "optimizer:\n  choice:\n    - adamw\n    - sdg\n",
        "6: optimizer: no optimizer is called 'sdg'; did you mean 'sgd'? Known: adamw, muon, sgd.",
    ),
    "too many draws": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: {int: [1, 9]}, each: {int: [8, 64]}}}\n",
        "2: model.widths: got 9 items; want at most 8",
    ),
    "too few draws": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: {int: [0, 3]}, each: {int: [8, 64]}}}\n",
        "2: model.widths: got 0 items; want at least 1",
    ),
    "float hole for a whole number": (
        "task: digits\nmodel: {name: mlp, widths: [{float: [8, 64]}]}\n",
        "2: model.widths[0]: got 8.0; want a whole number",
    ),
    "ends that do not go together": (
        MLP + "schedule: {name: wsd, warmup: {float: [0, 0.6]}, cooldown: {float: [0, 0.6]}}\n",
        "3: schedule: warmup and cooldown take 1.2 of all steps together; want at most 1",
    ),
    # holes that are none
    "word that no hole has": (
        MLP + "train: {batch_size: {int: [32, 64], stp: 8}}\n",
        "3: train.batch_size: no int hole has 'stp'; did you mean 'step'? Known: int, log, "
        "prior, step.",
    ),
    "two holes in one": (
        MLP + "train: {batch_size: {int: [32, 64], choice: [32]}}\n",
        "3: train.batch_size: no int hole has 'choice'; Known: int, log, prior, step.",
    ),
    "log of a choice": (
        MLP + "train: {batch_size: {choice: [32, 64], log: true}}\n",
        "3: train.batch_size: no choice hole has 'log'; Known: choice, prior.",
    ),
    "int hole of floats": (
        MLP + "train: {batch_size: {int: [32.0, 64.5]}}\n",
        "3: train.batch_size: got [32.0, 64.5]; want whole numbers, int: [lowest, highest], "
        "or a float hole",
    ),
    "reversed range": (
        MLP + "train: {batch_size: {int: [64, 32]}}\n",
        "3: train.batch_size: got [64, 32]; want the first to be less than the second",
    ),
    "equal ends": (
        MLP + "train: {batch_size: {int: [64, 64]}}\n",
        "3: train.batch_size: got [64, 64]; want the first to be less than the second",
    ),
    "range of three": (
        MLP + "train: {batch_size: {int: [16, 32, 64]}}\n",
        "3: train.batch_size: got [16, 32, 64]; want two numbers, int: [lowest, highest]",
    ),
    "range of one number": (
        MLP + "train: {batch_size: {int: 64}}\n",
        "3: train.batch_size: got 64; want two numbers, int: [lowest, highest]",
    ),
    "range of texts": (
        MLP + 'train: {batch_size: {int: ["32", "64"]}}\n',
        "3: train.batch_size: got ['32', '64']; want two numbers, int: [lowest, highest]",
    ),
    "range of truths": (
        MLP + "train: {batch_size: {int: [false, true]}}\n",
        "3: train.batch_size: got [False, True]; want two numbers, int: [lowest, highest]",
    ),
    "range of null": (
        MLP + "train: {batch_size: {int: [, 64]}}\n",
        "3: not YAML: expected the node content, but found ','",
    ),
    "hole as an end": (
        MLP + "train: {batch_size: {int: [{choice: [1, 2]}, 64]}}\n",
        "3: train.batch_size: got a hole (choice) inside a hole; want plain values",
    ),
    "nan": (
        MLP + "optimizer: {name: sgd, lr: {float: [.nan, 1]}}\n",
        "3: optimizer.lr[0]: got .nan; want a finite number between -2**53 and 2**53",
    ),
    "infinity": (
        MLP + "optimizer: {name: sgd, lr: -.inf}\n",
        "3: optimizer.lr: got -.inf; want a finite number between -2**53 and 2**53",
    ),
    "huge number": (
        MLP + "optimizer: {name: sgd, lr: {float: [1, 1e400]}}\n",
        "3: optimizer.lr[1]: got 1e400; want a finite number between -2**53 and 2**53",
    ),
    "huge whole number": (
        MLP + "seed: " + "9" * 500 + "\n",
        "3: seed: got 9999999999999999999999999999999999999999; want a finite number between "
        "-2**53 and 2**53",
    ),
    "log from 0": (
        MLP + "optimizer: {name: sgd, lr: {float: [0, 1], log: true}}\n",
        "3: optimizer.lr: got the lowest 0; log: true wants it above 0",
    ),
    "log with step": (
        MLP + "train: {batch_size: {int: [32, 64], step: 8, log: true}}\n",
        "3: train.batch_size: got step and log: true; want one of them",
    ),
    "log is a word": (
        MLP + "train: {batch_size: {int: [32, 64], log: yes}}\n",
        "3: train.batch_size: log: got 'yes'; want true or false",
    ),
    "step beside the end": (
        MLP + "train: {batch_size: {int: [32, 64], step: 10}}\n",
        "3: train.batch_size: steps of 10 from 32 do not reach 64; change the step or an end",
    ),
    "step beside the end of floats": (
        MLP + "optimizer: {name: sgd, momentum: {float: [0, 0.9], step: 0.2}}\n",
        "3: optimizer.momentum: steps of 0.2 from 0 do not reach 0.9; change the step or an end",
    ),
    "step all but at the end": (
        MLP + "optimizer: {name: sgd, momentum: {float: [0, 0.9], step: 0.12857143}}\n",
        "3: optimizer.momentum: steps of 0.12857143 from 0 do not reach 0.9;"
        " change the step or an end",
    ),
    "negative step": (
        MLP + "train: {batch_size: {int: [32, 64], step: -8}}\n",
        "3: train.batch_size: step: got -8; want a whole number above 0",
    ),
    "step of 0": (
        MLP + "optimizer: {name: sgd, momentum: {float: [0, 0.9], step: 0}}\n",
        "3: optimizer.momentum: step: got 0; want a number above 0",
    ),
    "float step of an int hole": (
        MLP + "train: {batch_size: {int: [32, 64], step: 0.5}}\n",
        "3: train.batch_size: step: got 0.5; want a whole number above 0",
    ),
    "step is a word": (
        MLP + "train: {batch_size: {int: [32, 64], step: big}}\n",
        "3: train.batch_size: step: got 'big'; want a whole number above 0",
    ),
    "step is a hole": (
        MLP + "train: {batch_size: {int: [32, 64], step: {int: [1, 2]}}}\n",
        "3: train.batch_size: got a hole (int) inside a hole; want plain values",
    ),
    "step too small": (
        MLP + "optimizer: {name: sgd, momentum: {float: [0, 0.9], step: 5e-324}}\n",
        "3: optimizer.momentum: step: got 5e-324; want at most 1,000,000 steps from 0 to 0.9",
    ),
    "empty choice": (
        MLP + "train: {batch_size: {choice: []}}\n",
        "3: train.batch_size: got []; want a list of options, choice: [a, b]",
    ),
    "choice of one value": (
        MLP + "train: {batch_size: {choice: 32}}\n",
        "3: train.batch_size: got 32; want a list of options, choice: [a, b]",
    ),
    "option twice": (
        MLP + "train:\n  batch_size:\n    choice:\n      - 32\n      - 64\n      - 32\n",
        "8: train.batch_size: got the option 32 twice; want each once",
    ),
    "named option twice": (
        MLP + "optimizer:\n  choice:\n    - {name: sgd, lr: 0.1}\n    - {name: sgd, lr: 0.2}\n",
        "6: optimizer: got the option 'sgd' twice; want each once",
    ),
    "1 and true": (
        MLP + "augment: {name: images, flip: {choice: [1, true]}}\n",
        "3: augment.flip: got the options 1 and True, which count as equal; want each once",
    ),
    "option that is a hole": (
        MLP + "train: {batch_size: {choice: [32, {int: [64, 128]}]}}\n",
        "3: train.batch_size: got a hole (int) as an option; want a value, or a mapping around it",
    ),
    "too many options": (
        MLP + "train: {batch_size: {choice: [" + ", ".join(map(str, range(1, 301))) + "]}}\n",
        "3: train.batch_size: got 300 options; want at most 256",
    ),
    "prior out of range": (
        MLP + "train: {batch_size: {int: [32, 64], prior: 128}}\n",
        "3: train.batch_size: prior: got 128; want 32 to 64",
    ),
    "prior off the grid": (
        MLP + "train: {batch_size: {int: [32, 64], step: 8, prior: 33}}\n",
        "3: train.batch_size: prior: got 33; want steps of 8 from 32",
    ),
    "prior of another type": (
        MLP + "train: {batch_size: {int: [32, 64], prior: 33.5}}\n",
        "3: train.batch_size: prior: got 33.5; want a whole number",
    ),
    "prior is a word": (
        MLP + "optimizer: {name: sgd, lr: {float: [0.1, 1], prior: small}}\n",
        "3: optimizer.lr: prior: got 'small'; want a number",
    ),
    "prior is no option": (
        MLP + "optimizer: {choice: [adamw, sgd], prior: sgdd}\n",
        "3: optimizer: prior: got 'sgdd'; did you mean 'sgd'? Known: adamw, sgd.",
    ),
    "priors that do not go together": (
        MLP
        + (
            "schedule:\n  name: wsd\n  warmup: {float: [0, 0.5], prior: 0.5}\n"
            "  cooldown: {choice: [0.2, 0.6, 0.5], prior: 0.6}\n"
        ),
        "4: schedule: warmup and cooldown take 1.1 of all steps together; want at most 1",
    ),
    "repeat without each": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 2}}\n",
        "2: model.widths: repeat: got neither each: nor same:; want each: for independent "
        "draws, or same: for copies of one draw",
    ),
    "repeat with each and same": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 2, each: 8, same: 8}}\n",
        "2: model.widths: repeat: got both each: and same:; want each: for independent "
        "draws, or same: for copies of one draw",
    ),
    "repeat 0": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 0, each: 8}}\n",
        "2: model.widths: repeat: got 0; want a whole number from 1 to 64, or an int hole up "
        "to that",
    ),
    "repeat less than 0": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: -1, each: 8}}\n",
        "2: model.widths: repeat: got -1; want a whole number from 1 to 64, or an int hole "
        "up to that",
    ),
    "repeat 65": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 65, each: 8}}\n",
        "2: model.widths: repeat: got 65; want a whole number from 1 to 64, or an int hole "
        "up to that",
    ),
    "repeat 2.0": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 2.0, each: 8}}\n",
        "2: model.widths: repeat: got 2.0; want a whole number from 1 to 64, or an int hole "
        "up to that",
    ),
    "repeat of a float hole": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: {float: [1, 3]}, each: 8}}\n",
        "2: model.widths: repeat: got a hole (float); want a whole number from 1 to 64, or "
        "an int hole up to that",
    ),
    "repeat of a wide hole": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: {int: [1, 100]}, each: 8}}\n",
        "2: model.widths: repeat: got int: [1, 100]; want a whole number from 1 to 64, or an "
        "int hole up to that",
    ),
    "repeat of a choice": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: {choice: [1, 2]}, each: 8}}\n",
        "2: model.widths: repeat: got a hole (choice); want a whole number from 1 to 64, or "
        "an int hole up to that",
    ),
    # where no hole may be
    "task open": (
        "task: {choice: [digits, cifar10]}\nmodel: mlp\n",
        "1: task: cannot be left open: trials must see the same data",
    ),
    "knob of the task open": (
        "task:\n  name: digits\n  split_seed: {int: [0, 9]}\nmodel: mlp\n",
        "3: task: cannot be left open: trials must see the same data",
    ),
    "search open": (
        MLP + "search: {max_params: {int: [1000, 2000]}}\n",
        "3: search: cannot be left open: it says how to look, not what is tried",
    ),
    "seed open": (MLP + "seed: {int: [0, 9]}\n", "3: seed: cannot be left open: --seed sets it"),
    "version open": (
        MLP + "version: {choice: [1, 2]}\n",
        "3: version: cannot be left open: it names the format",
    ),
    "epochs open": (
        MLP + "train: {epochs: {int: [5, 20]}}\n",
        "3: train.epochs: cannot be left open: trials must be comparable",
    ),
    "epochs open by a choice around them": (
        MLP + "train:\n  choice:\n    - {epochs: 5}\n    - {epochs: 20}\n",
        "5: train.epochs: cannot be left open: trials must be comparable",
    ),
    # start
    "start is no list": (
        MLP + "start: {task: digits, model: mlp}\n",
        "3: start: got {'model': 'mlp', 'task': 'digits'}; want a list of configs",
    ),
    "start of a word": (MLP + "start: [mlp]\n", "3: start[0]: got 'mlp'; want a whole config"),
    "start with a hole": (
        MLP
        + (
            "train: {batch_size: {choice: [32, 64]}}\nstart:\n"
            "  - train: {batch_size: {choice: [32, 64]}}\n"
        ),
        "5: start[0]: got a hole; want a whole config, without holes",
    ),
    "start without a knob": (
        MLP + "train: {batch_size: {choice: [32, 64]}}\nstart:\n  - train: {clip: 0.0}\n",
        "5: start[0].train: batch_size is missing; the space leaves it open, and a start is "
        "a whole config",
    ),
    "start without a section": (
        MLP
        + ("train: {batch_size: {choice: [32, 64]}}\nstart:\n  - task: digits\n    model: mlp\n"),
        "5: start[0]: train is missing; the space leaves it open, and a start is a whole config",
    ),
    "start of a bare name": (
        MLP + "optimizer: {name: sgd, lr: {float: [0.1, 1]}}\nstart:\n  - optimizer: sgd\n",
        "5: start[0].optimizer: lr is missing; the space leaves it open, and a start is a "
        "whole config",
    ),
    "start out of range": (
        MLP + ("train: {batch_size: {int: [32, 64]}}\nstart:\n  - train:\n      batch_size: 128\n"),
        "6: start[0].train.batch_size: got 128; want 32 to 64",
    ),
    "start off the grid": (
        MLP
        + ("train: {batch_size: {int: [32, 64], step: 16}}\nstart:\n  - train: {batch_size: 33}\n"),
        "5: start[0].train.batch_size: got 33; want steps of 16 from 32",
    ),
    "start of another type": (
        MLP + "train: {batch_size: {int: [32, 64]}}\nstart:\n  - train: {batch_size: '32'}\n",
        "5: start[0].train.batch_size: got '32'; want a whole number",
    ),
    "start not an option": (
        MLP + "optimizer: {choice: [adamw, sgd]}\nstart:\n  - optimizer: adam\n",
        "5: start[0].optimizer: got 'adam'; did you mean 'adamw'? Known: adamw, sgd.",
    ),
    "start with an unknown key": (
        MLP
        + ("optimizer: {choice: [adamw, sgd]}\nstart:\n  - optimizer: {name: sgd, rate: 0.2}\n"),
        "5: start[0].optimizer.rate: no knob is called 'rate'; Known: lr, momentum, name, "
        "weight_decay.",
    ),
    "start with an unknown section": (
        MLP + "start:\n  - optimiser: adamw\n",
        "4: start[0].optimiser: no knob is called 'optimiser'; did you mean 'optimizer'? "
        "Known: augment, federation, input, model, optimizer, schedule, seed, task, train, "
        "version.",
    ),
    "start changes what is fixed": (
        MLP
        + (
            "train: {batch_size: {int: [32, 64]}, clip: 1}\nstart:\n"
            "  - train: {batch_size: 32, clip: 2}\n"
        ),
        "5: start[0].train.clip: got 2; the space has 1.0 here",
    ),
    "start changes a default": (
        MLP + ("optimizer: {choice: [adamw, sgd]}\nstart:\n  - optimizer: {name: sgd, lr: 0.2}\n"),
        "5: start[0].optimizer.lr: got 0.2; the space has 0.1 here",
    ),
    "start with another task": (
        MLP + "start:\n  - task: cifar10\n",
        "4: start[0].task: got 'cifar10'; the space has 'digits' here",
    ),
    "start with too many items": (
        "task: digits\n"
        "model: {name: mlp, widths: {repeat: {int: [1, 2]}, each: {int: [8, 64]}}}\n"
        "start:\n  - model: {name: mlp, widths: [8, 8, 8]}\n",
        "4: start[0].model.widths: number of items: got 3; want 1 to 2",
    ),
    "start with too few items": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 2, each: {int: [8, 64]}}}\n"
        "start:\n  - model: {name: mlp, widths: [8]}\n",
        "4: start[0].model.widths: got 1 items; the space has 2 here",
    ),
    "start with unequal items": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 2, same: {int: [8, 64]}}}\n"
        "start:\n  - model: {name: mlp, widths: [8, 9]}\n",
        "4: start[0].model.widths[1]: differs; same: wants equal items",
    ),
    "start with a value for a list": (
        "task: digits\nmodel: {name: mlp, widths: {repeat: 2, each: {int: [8, 64]}}}\n"
        "start:\n  - model: {name: mlp, widths: 8}\n",
        "4: start[0].model.widths: got 8; want a list",
    ),
    "start that does not go together": (
        MLP
        + (
            "schedule:\n  name: wsd\n  warmup: {choice: [0.1, 0.4]}\n"
            "  cooldown: {choice: [0.1, 0.8, 0.2]}\nstart:\n"
            "  - schedule: {name: wsd, warmup: 0.4, cooldown: 0.8}\n"
        ),
        "8: start[0]: is no valid config: my.yaml:4: schedule: warmup and cooldown take 1.2 "
        "of all steps together; want at most 1",
    ),
    # search
    "unknown sampler": (
        MLP + "search:\n  sampler: tpee\n",
        "4: search.sampler: no sampler is called 'tpee'; did you mean 'tpe'? Known: auto, "
        "cmaes, gp, qmc, random, tpe.",
    ),
    "unknown setting of search": (
        MLP + "search:\n  max_parameters: 1000\n",
        "4: search.max_parameters: no knob is called 'max_parameters'; did you mean "
        "'max_params'? Known: max_latency_ms, max_macs, max_memory_mb, max_params, "
        "max_train_seconds, metric, portfolio, pruner, sampler.",
    ),
    "max_params 0": (
        MLP + "search: {max_params: 0}\n",
        "3: search.max_params: got 0; want at least 1",
    ),
    "search is a word": (MLP + "search: tpe\n", "3: search: got 'tpe'; want a mapping"),
    "version 2": ("version: 2\n" + MLP, "1: version: got 2; want 1"),
}


def filled(message: str) -> str:
    for family in (Task, Model):
        message = message.replace(f"<{family.__name__.lower()}s>", ", ".join(family.members()))
    return f"my.yaml:{message}"


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_space_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SpaceError) as error:
        Space.parse(text, "my.yaml")
    assert str(error.value) == filled(message)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"task: digits\nmodel: \xff\n", ":2: got the byte 0xff; want UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), ": larger than 1,000,000 bytes; a space is a page of text"),
        (b"\xef\xbb\xbfmodel: mlp\ntask: digit\n", ":2: task: no task is called 'digit'; did you"),
        (None, ": cannot be read: No such file or directory"),
    ],
    ids=["not UTF-8", "too large", "byte order mark", "missing"],
)
def test_a_file_that_cannot_be_read_is_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpaceError) as error:
        Space.load(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_a_part_that_is_like_none_may_be_one_of_the_users_own() -> None:
    told = "; Known: adamw, .*muon, sgd. One of your own: give its file by --plugin, or import it."
    with pytest.raises(SpaceError, match=f"no optimizer is called 'mine'{told}"):
        Space.parse("task: digits\nmodel: mlp\noptimizer: mine\n", "my.yaml")


def test_a_folder_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="cannot be read: Is a directory"):
        Space.load(tmp_path)


def test_an_unknown_space_is_told_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"no space is called 'digit'; did you mean 'digits'\?"):
        find("digit")


MEGABYTE = 999_000


@pytest.mark.parametrize(
    "text",
    [
        "1" * MEGABYTE + "x",  # a number, nearly
        "a: " + "[" * MEGABYTE,
        "a: " + "x y " * (MEGABYTE // 4),
        'a: "' + "\\x41" * (MEGABYTE // 4) + '"',
        "? " * (MEGABYTE // 2),
        "#\n" * (MEGABYTE // 2),
        MLP + "train: {batch_size: {choice: [" + "1, " * (MEGABYTE // 3) + "]}}",
        MLP + "optimizer: {prior: x, choice: [" + f"{'x' * 990}, " * 255 + "y]}",
        MLP + "optimizer: " + "{repeat: 64, same: " * 30 + "1" + "}" * 30,
        MLP + "optimizer: [" + "{repeat: 64, each: [1, 1, 1, 1]}, " * 1000 + "]",
        "task: digits\nmodel: {name: mlp, widths: [" + "8, " * 19_000 + "]}",
    ],
    ids=lambda text: text[-40:][:12],
)
def test_a_hostile_file_is_refused(text: str) -> None:
    with pytest.raises(SpaceError) as error:
        Space.parse(text)
    assert len(str(error.value)) < 2500


# What is read.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("5.", 5.0),
        (".5", 0.5),
        ("-1_000.5", -1000.5),
        ("5_000_000", 5_000_000),
        ("+3", 3),
        ("010", 10),
        ("0x10", "0x10"),
        ("0o10", "0o10"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("True", "True"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ('"null"', "null"),
        ("-", "-"),
        (".", "."),
        ("_1", "_1"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    text = f'"{text}"' if text == "-" else text  # alone it begins a list
    read = Reader("my.yaml").read(f"a: {text}\n").items["a"]
    assert isinstance(read, Value)
    assert (type(read.value), read.value) == (type(value), value)


@few
@example("08")
@example("1e5")
@given(
    st.text("0123456789.eE_+-:~xonfl", max_size=6)
    | st.floats(-1e15, 1e15)
    | st.integers(-(2**53), 2**53)
)
def test_what_is_written_is_read_as_what_it_was(value: str | float) -> None:
    read = fill(Reader("config").read(as_yaml({"x": [value]})), "", (), never, {})["x"][0]
    assert (type(read), read) == (type(value), value)


def test_a_config_has_no_holes_left() -> None:
    with pytest.raises(SpaceError, match=r"^every hole:6: 6 values are left open; `automl search`"):
        space("every hole").config()
    assert Space.parse(MLP).config() == Config.of({"task": "digits", "model": "mlp"})


def test_knobs_are_named_by_their_path() -> None:
    assert list(space("every hole").knobs()) == [
        "model",
        "model.cnn.stem",
        "model.cnn.stages",
        "model.cnn.stages[0]",
        "model.cnn.dropout",
        "optimizer",
        "schedule.warmup",
        "schedule.cooldown",
        "augment",
        "train",
        "model.mlp.widths",
        "model.mlp.widths[*]",
        'model.cnn.stem.{"channels":["Int",8,32,1,true],"kernel":5}.channels',
        "model.cnn.stages[0].residual.channels",
        "model.cnn.stages[0].inverted.expand",
        "optimizer.adamw.lr",
        "optimizer.adamw.beta1",
        "augment.images.crop",
        "augment.images.flip",
        'train.{"average":["Int",0,4,1,false],"batch_size":64}.average',
    ]
    assert list(space("fixed list").knobs()) == ["model.stages[1].depth", "model.stages[2].kernel"]


@every_space
def test_a_part_stands_in_the_path_of_its_knobs(name: str) -> None:
    knobs = space(name).knobs()
    for knob, hole in knobs.items():
        if isinstance(hole, Choice):
            inside = {other for other in knobs if other.startswith(f"{knob}.")}
            named = {
                o for o in inside for label in hole.options if o.startswith(f"{knob}.{label}.")
            }
            assert inside == named


# What is drawn.


@every_space
@few
@given(seed=seeds)
def test_a_config_is_a_space_without_holes(name: str, seed: int) -> None:
    if config := drawn(name, seed):
        text = yaml.safe_dump(config.dump())
        assert Space.parse(text).config() == config


@every_space
@few
@given(seed=seeds)
def test_values_are_drawn_without_a_config_as_they_are_with_one(name: str, seed: int) -> None:
    def noted(told: dict[str, Any], rng: random.Random) -> Draw:
        return lambda name, hole: told.setdefault(name, random_value(hole, rng))

    alone: dict[str, Any] = {}
    values = space(name).values(noted(alone, random.Random(seed)))
    whole: dict[str, Any] = {}
    with suppress(SpaceError):  # knobs that are fine alone and do not go together
        space(name).fill(noted(whole, random.Random(seed)))
    assert list(values.items()) == list(alone.items()) == list(whole.items())


SMALL = """
task: digits
model:
  choice:
    - {name: mlp, widths: {repeat: {int: [1, 2]}, each: {int: [8, 24], step: 8}}}
    - name: cnn
      stages: [{name: plain, channels: {choice: [4, 8]}}]
      dropout: {float: [0, 0.2], step: 0.1}
train: {batch_size: {int: [30, 32], log: true}}
"""


def test_a_space_tells_all_its_configs_and_each_once() -> None:
    small = Space.parse(SMALL)
    found = list(small.every())
    count = ((3 + 3 * 3) + 2 * 3) * 3
    assert len({tuple(sorted(values.items())) for values in found}) == len(found) == count
    assert small.count(1000) == count
    assert small.count(10) == 10
    rng = random.Random(0)
    for _ in range(300):
        assert small.values(lambda _, hole: random_value(hole, rng)) in found


def test_a_space_with_a_range_of_reals_has_configs_without_end() -> None:
    endless = Space.parse(SMALL.replace(", step: 0.1", ""))
    assert endless.count(1000) == 1000
    found = list(itertools.islice(endless.every(), 200))
    assert len({tuple(sorted(values.items())) for values in found}) == 200
    assert Space.parse("task: digits\nmodel: mlp\n").count(5) == 1


@every_space
def test_nearly_every_draw_is_a_valid_config(name: str) -> None:
    assert sum(drawn(name, seed) is not None for seed in range(100)) > 60


@every_space
@settings(few, max_examples=6)
@given(seed=seeds)
def test_a_config_put_under_start_comes_back(name: str, seed: int) -> None:
    if config := drawn(name, seed):
        start = yaml.safe_dump({"start": [config.dump()]})
        again = Space.parse(without_start(TEXTS[name]) + start)
        assert again.with_values(again.start[0]) == config


@few
@given(seed=seeds)
def test_the_same_item_is_repeated_and_each_is_drawn_alone(seed: int) -> None:
    widths = [
        Space.parse(f"task: digits\nmodel: {{name: mlp, widths: {{repeat: 8, {how}: {hole}}}}}")
        .sample(random.Random(seed))
        .dump()["model"]["widths"]
        for how in ("same", "each")
        for hole in ("{int: [1, 1000]}", "{int: [1, 1000], log: true}", "{int: [1, 1000], step: 9}")
    ]
    assert [len(set(items)) > 1 for items in widths] == [False] * 3 + [True] * 3


@few
@given(seed=seeds)
def test_a_stepped_draw_stays_on_its_grid(seed: int) -> None:
    dropout = Space.parse(
        "task: digits\nmodel: {name: mlp, dropout: {float: [0.0, 0.3], step: 0.1}}"
    ).sample(random.Random(seed))
    assert dropout.dump()["model"]["dropout"] in (0.0, 0.1, 0.2, 0.3)  # never 3 * 0.1


def test_what_is_written_on_a_grid_is_a_value_of_it() -> None:
    text = "task: digits\nmodel: {name: mlp, dropout: {float: [0.0, 0.5], step: 0.1}}\n"
    space = Space.parse(text + "start: [{model: {dropout: 0.30000000000000004}}]")
    assert [values["model.dropout"] for values in space.beginnings()] == [0.3]
    found = sorted(values["model.dropout"] for values in space.every())
    assert found == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_space_without_priors_believes_in_nothing() -> None:
    assert optimizer("lr: {float: [0.01, 1]}").believed() is None


@few
@given(
    lr=st.floats(0.01, 1),
    channels=st.integers(1, 8).map(lambda n: 16 * n),
    items=st.integers(1, 4),
    batch=st.sampled_from([32, 64, 128]),
)
def test_priors_are_believed(lr: float, channels: int, items: int, batch: int) -> None:
    told = Space.parse(f"""
task: digits
model:
  name: cnn
  stages:
    repeat: {{int: [1, 4], prior: {items}}}
    each: {{name: plain, channels: {{int: [16, 128], step: 16, prior: {channels}}}}}
optimizer:
  choice:
    - adamw
    - {{name: sgd, lr: {{float: [0.01, 1], log: true, prior: {lr!r}}}}}
  prior: sgd
train: {{batch_size: {{choice: [32, 64, 128], prior: {batch}}}}}
""")
    config = told.with_values(told.believed() or {}).dump()
    assert [stage["channels"] for stage in config["model"]["stages"]] == [channels] * items
    assert (config["optimizer"]["name"], config["optimizer"]["lr"]) == ("sgd", lr)
    assert config["train"]["batch_size"] == batch


def test_what_has_no_prior_is_believed_in_its_middle() -> None:
    told = optimizer("lr: {float: [0.01, 1], log: true}, momentum: {float: [0, 0.8], prior: 0.5}")
    assert told.believed() == {"optimizer.lr": pytest.approx(0.1), "optimizer.momentum": 0.5}


# What makes two spaces the same.


@every_space
@few
@given(random=st.randoms(use_true_random=False))
def test_the_digest_sees_no_layout(name: str, random: random.Random) -> None:
    sections = re.split(r"^(?=\w)", without_start(TEXTS[name]), flags=re.M)
    random.shuffle(sections)
    text = "\n# a comment\n\n".join(section.replace("\n", "  # so\n") for section in sections)
    assert Space.parse(text).digest == Space.parse(without_start(TEXTS[name])).digest


def test_the_digest_sees_neither_key_order_nor_style_nor_beliefs() -> None:
    flow = optimizer("lr: {float: [0.01, 1], log: true}, momentum: 0.9")
    block = Space.parse("""
optimizer:
  momentum: 0.90
  lr:
    prior: 0.2
    log: true
    float:
      - 1e-2
      - 1
  name: 'sgd'
model: "mlp"
task: digits
start:
  - optimizer: {lr: 0.3}
""")
    assert flow.digest == block.digest
    assert flow.root != block.root  # lines and beliefs


def test_spaces_of_other_digests_differ_at_a_place() -> None:
    def dropout(told: str) -> Space:
        return Space.parse(f"task: digits\nmodel: {{name: mlp, dropout: {told}}}\n")

    for was, now in itertools.pairwise(["0", "0.0", "0.1", "{choice: [0.0]}", "{choice: [0]}"]):
        assert dropout(was).digest != dropout(now).digest
        assert dropout(now).unlike(dropout(was)) == "model.dropout"


def test_the_digest_sees_every_range() -> None:
    knobs = [
        "lr: 0.1",
        "lr: 0.2",
        "lr: {float: [0.1, 1]}",
        "lr: {float: [0.1, 0.9]}",
        "lr: {float: [0.2, 1]}",
        "lr: {float: [0.1, 1], log: true}",
        "lr: {float: [0.1, 1], step: 0.1}",
        "lr: {choice: [0.1, 1]}",
        "lr: {choice: [1, 0.1]}",
        "lr: {int: [1, 3]}",
    ]
    widths = ["repeat: 2, each: 8", "repeat: 2, same: 8", "repeat: {int: [1, 2]}, each: 8"]
    texts = [f"model: {{name: mlp, widths: {{{repeat}}}}}\ntask: digits\n" for repeat in widths]
    texts += [f"{MLP}search: {{max_params: {limit}}}\n" for limit in (10, 20)]
    texts += [
        f"{MLP}optimizer: {{choice: [adamw, {{name: sgd, lr: {{float: [0.1, {high}]}}}}]}}\n"
        for high in (1, 2)
    ]
    spaces = [*map(optimizer, knobs), *map(Space.parse, texts)]
    assert len({space.digest for space in spaces}) == len(spaces)


# Whatever somebody writes, the answer is a space or a SpaceError of one line.


def read_or_refused(text: str) -> None:
    told = ""
    try:
        Space.parse(text)
    except SpaceError as error:
        told = str(error)
    assert told.isprintable()


WORDS = [
    *Config.model_fields,
    *HOLES,
    *("search", "start", "each", "same", "prior", "step", "log", "name", "stages", "widths"),
    *("lr", "sgd", "adamw", "cnn", "mlp", "digits"),
]
leaves = st.one_of(
    st.sampled_from(WORDS),
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=4),
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
        | st.sampled_from(list(HOLES)).flatmap(
            lambda hole: st.fixed_dictionaries(
                {hole: inner | st.lists(inner, min_size=2, max_size=2)},
                optional={"each": inner, "prior": inner, "step": inner, "log": inner},
            )
        )
    ),
    max_leaves=12,
)


@many
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


@many
@given(st.text(alphabet="ab1.: -[]{},#&*!|>'\"%@\n\t?~=<"))
def test_any_punctuation_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


@settings(many, max_examples=400)
@given(st.dictionaries(st.sampled_from(WORDS), trees, max_size=3))
def test_any_tree_is_read_or_refused(sections: dict[str, Any]) -> None:
    read_or_refused(yaml.safe_dump({"task": "digits", "model": "mlp"} | sections))


@settings(many, max_examples=60)
@given(st.data())
def test_any_slip_of_the_keyboard_is_read_or_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(EVERY_HOLE)))
    gone = data.draw(st.integers(0, 3))
    typed = data.draw(st.text(alphabet="ab1.: -[]{},#&*!'\"\n", max_size=2))
    read_or_refused(EVERY_HOLE[:at] + typed + EVERY_HOLE[at + gone :])


# What is measured without memory for it.


def test_a_model_is_measured_without_being_made() -> None:
    inputs = Images((1, 8, 8))
    small = {"name": "mlp", "widths": [10], "norm": "none"}
    config = Config.of({"task": "digits", "model": small})
    assert measure(config, inputs, 10) == Size((64 + 1) * 10 + (10 + 1) * 10, 64 * 10 + 10 * 10)
    huge = {"name": "mlp", "widths": [8192] * 8}
    config = Config.of({"task": "digits", "model": huge})
    assert measure(config, Images((3, 512, 512)), 10).params > 6e9


def test_a_model_that_does_not_fit_its_inputs_is_refused() -> None:
    stem = {"name": "cnn", "stem": {"kernel": 8}}
    config = Config.of({"task": "digits", "model": stem})
    with pytest.raises(SpaceError, match="model: does not fit 1x1 grey images: "):
        measure(config, Images((1, 1, 1)), 10)


def test_what_is_tried_first_is_measured_too() -> None:
    space = Space.parse(
        "task: digits\n"
        "model:\n"
        "  choice:\n"
        "    - {name: mlp, widths: [{int: [8, 999]}, {int: [8, 999]}]}\n"
        "    - {name: cnn, stem: {channels: 8}, stages: [plain]}\n"
        "start:\n"
        "  - model: {name: mlp, widths: [999, 999]}\n"
    )
    raw, labels = space.task.shape(None)
    _, most = prove(space, len(labels), lambda part: part.expect(raw))
    tried = space.with_values(space.start[0])
    assert most == measure(tried, tried.input.expect(raw), len(labels)).params
