"""The model card: what a person should know before using the model."""

from __future__ import annotations

import json
import re
from typing import Any

from automl import amounts
from automl.config import Config, Task
from automl.reader import as_yaml

USAGE = {
    "images": 'model.predict("photo.png")',
    "pictures": 'model.detect("photo.jpg")',
    "sounds": 'model.predict("clip.wav")',
    "texts": 'model.predict("a fine film")',
    "prose": 'model.generate("Once", length=400)',
    "pairs": 'model.translate("a text")',
    "series": 'model.forecast("history.csv")',
    "records": 'model.predict("rows.csv")',
}
LIMITS = {  # what no number in metrics.json says
    "images": [
        "Images of another origin than the training data's: other cameras, sizes, colours and"
        " backgrounds were not tested. Whatever size an image has, it is resized as a whole.",
    ],
    "pictures": [
        "Pictures of another origin than the training data's: other cameras, scales, colours and"
        " backgrounds were not tested. Whatever size a picture has, it is resized, and what is then"
        " a few pixels large is not found.",
        "Counting what lies close together: of boxes of one class that overlap by more than 0.6"
        " only one is told, and of all in a picture 100 at most.",
        "Decisions in which what is overlooked, or found where nothing is, harms somebody.",
    ],
    "sounds": [
        "Recordings of another origin than the training data's: other microphones, rooms, speakers"
        " and noise were not tested.",
    ],
    "texts": [
        "Texts of another kind, time or language than the training data's: they were not tested."
        " Words that training never met count as unknown, and long texts are cut.",
    ],
    "prose": [
        "Facts or advice: it writes what is likely after a text, not what is true.",
        "Texts that must be new: it may write down what it was trained on, word by word.",
    ],
    "pairs": [
        "Texts of another kind or length than the training data's: they were not tested. What is"
        " long is cut, and a name or number that training never met may be told wrong.",
        "Anything that nobody reads again: what it says may be fluent and still wrong, with a word"
        " left out or its opposite told. BLEU counts runs of words that are in one reference, too.",
    ],
    "series": [
        "Other rhythms than the training data's: it takes the rows of a day or a month, not their"
        " dates, and a row that is missing moves all behind it.",
        "What never happened in the training data: it tells one likely course, not how far from it"
        " the real one may lie.",
        "Another season than that of the test: the interval of its score knows how errors vary"
        " within those rows, and other months may be harder by more than that.",
    ],
    "records": [
        "Rows of another place or time than the training data's: they were not tested. A word that"
        " training hardly has counts as unknown, and so does a number that is not there.",
        "What would happen if a cell were changed: it knows what goes together in the training"
        " data, not what is the cause of what.",
    ],
}
OF_NUMBERS = [
    "How sure it is of one number: it tells the likely one, and errors were counted over all test"
    " rows together.",
]
OF_CLASSES = [
    "Examples of none of its classes: it answers with one of them whatever it is shown.",
    "Decisions in which an error harms somebody: errors were counted over all test examples, not"
    " for groups of people among them, and nobody tried to deceive it.",
]
MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")  # `_` within a word is none
SHOWN = 40  # layers on the card; metrics.json has all


def limits(config: Config) -> list[str]:
    """What a model should not be used for, by the kind of data it reads."""
    task = config.task
    of = {"classes": OF_CLASSES, "numbers": OF_NUMBERS}
    return [*LIMITS.get(task.gives, []), *of.get(task.tells, [])]


def used(task: Task) -> str:
    """The line of Python that asks a model of it."""
    return 'model.estimate("rows.csv")' if task.tells == "numbers" else USAGE[task.gives]


def cell(label: str) -> str:
    """A label as a cell of a table: nobody's markup, and one line."""
    told = " ".join(label.split()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", told)


def sure(metrics: dict[str, Any]) -> str:
    """The interval of the test, in words."""
    if not metrics["test_interval"]:
        return "too few to say how sure"
    return "95 % sure: {:.4f} to {:.4f}".format(*metrics["test_interval"])


def text(config: Config, metrics: dict[str, Any], folder: str = "best") -> str:
    """Markdown, from what metrics.json holds, for a folder of this name."""
    unit = config.task.unit
    trained_on = metrics["train_examples"] + bool(metrics.get("refit")) * metrics["valid_examples"]
    state = warning = refit = ""
    if not metrics["test"]:
        state = "\nNot tested: the search was not over when this was written.\n"
    if "warning" in metrics:
        warning = f"\n**This model is {metrics['warning']}.**\n"
    if metrics.get("refit"):
        refit = (
            "It was then trained on the validation split, too; its scores there are those before.\n"
        )
    usage = used(config.task)
    avoid = "\n".join(f"- {one}" for one in metrics["limits"])
    trial = "" if metrics["trial"] is None else f", trial {metrics['trial']}"
    recipe = as_yaml(config.dump())
    return f"""# {metrics["name"]}

{config.summary}

{metrics["params"]:,} parameters{trial}, {metrics["epochs"]} epochs on
{trained_on:,} {unit} of `{config.task.name}`.
{refit}{federation(config, metrics)}{warning}{state}
{scores(config, metrics)}

A validation score that chose a model among many is a little too high. The test split was sealed
until the end; this model was tested on it once.
{calibration(metrics)}{classes(metrics)}{columns(metrics)}{boxes(metrics)}{in_units(metrics)}
## Use

```python
import automl

model = automl.load({json.dumps(folder, ensure_ascii=False)})  # this folder
{usage}
```

## Do not use it for

{avoid}

## Data

{data(config, metrics)}

## Architecture

{architecture(metrics)}

## Training

{budget(metrics)}`config.yaml` trains it again: `automl train config.yaml`.

```yaml
{recipe}```
{environment(metrics)}"""


def federation(config: Config, metrics: dict[str, Any]) -> str:
    """Who held the examples, and what was sent, where they did not all lie in one place."""
    if not (told := metrics.get("federation")):
        return ""
    return f"""
Trained federated: {amounts.plural(told["clients"], "client")} held the examples, of which
{told["taking_part"]:,} trained in each of {amounts.plural(told["rounds"], "round")}, and \
{amounts.told(told["sent_mb"])} MB went up and down in all.
Clients were simulated on one machine. What the input is scaled by, or its vocabulary, was learned
from the examples of all together, and no privacy was added: weights may tell of examples.
"""


def scores(config: Config, metrics: dict[str, Any]) -> str:
    """The test, each finalist, the validation split, and what these are held against."""
    name, baseline, chance = metrics["metric"], metrics["baseline"], metrics["chance"]
    rows = [
        *(
            (f"validation, mean of {len(one['seeds'])} seeds, trial {one['trial']}", one["mean"])
            for one in metrics.get("finalists") or []
        ),
        (
            f"validation {name} ({metrics['valid_examples']:,} {config.task.unit})",
            metrics["valid"][name],
        ),
        (f"baseline: {baseline['name']}, validation", baseline[name]),
        (f"chance: {chance['name']}, validation", chance[name]),
    ]
    if metrics["test"]:
        count = f"{metrics['test_examples']:,} {config.task.unit}"
        rows.insert(0, (f"test {name} ({count}; {sure(metrics)})", metrics["test"][name]))
    if told := metrics.get("bleu"):
        how = f"{told['pairs']:,} {config.task.unit}; 13a, the likeliest token each time"
        rows.insert(1, (f"test BLEU, 0 to 100 ({how})", told["score"]))
    lines = (f"| {what} | {value:.4f} |" for what, value in rows)
    return f"| | {name} |\n|---|---|\n" + "\n".join(lines)


def calibration(metrics: dict[str, Any]) -> str:
    """What the temperature changed; nothing where no classes are told."""
    if not (told := metrics.get("calibration")):
        return ""
    return f"""
Probabilities are calibrated: logits are divided by {told["temperature"]:.3f}. In the mean
they lie {told["ece_after"]:.3f} from the share of right answers in validation, \
{told["ece_before"]:.3f} before.
"""


def classes(metrics: dict[str, Any]) -> str:
    """Those that the test has, once there was one."""
    if not (metrics["test"] and metrics.get("classes")):
        return ""
    rows = [
        f"| {cell(one['label'])} | {one['examples']} | {one['precision']:.3f} |"
        f" {one['recall']:.3f} | {one['recall_interval'][0]:.3f} to"
        f" {one['recall_interval'][1]:.3f} | {one['f1']:.3f} |"
        for one in metrics["classes"]
        if one["examples"]
    ]
    head = "| class | examples | precision | recall | 95 % sure | F1 |\n" + "|---" * 6 + "|\n"
    return "\n## By class, on the test split\n\n" + head + "\n".join(rows) + "\n"


def columns(metrics: dict[str, Any]) -> str:
    """Of a series that was tested."""
    if not metrics.get("columns"):
        return ""
    rows = [
        f"| {cell(one['column'])} | {one['mse']:.4f} | {one['mae']:.4f} |"
        f" {one['mae_in_units']:.4g} |"
        for one in metrics["columns"]
        if one["mse"] is not None
    ]
    head = "| column | mse | mae | mean absolute error in its unit |\n" + "|---" * 4 + "|\n"
    return "\n## By column, on the test split\n\n" + head + "\n".join(rows) + "\n"


def boxes(metrics: dict[str, Any]) -> str:
    """Of each class that the pictures of the test have, once there was one."""
    if not metrics.get("boxes"):
        return ""
    rows = [
        f"| {cell(one['label'])} | {one['boxes']:,} | {one['map']:.3f} | {one['map50']:.3f} |"
        for one in metrics["boxes"]
        if one["boxes"]
    ]
    head = "| class | boxes | average precision | at 0.50 |\n" + "|---" * 4 + "|\n"
    return "\n## By class, on the test split\n\n" + head + "\n".join(rows) + "\n"


def in_units(metrics: dict[str, Any]) -> str:
    """Of a model of numbers that was tested."""
    if not (told := metrics.get("in_units")):
        return ""
    column, rmse, mae = cell(told["column"]), amounts.told(told["rmse"]), amounts.told(told["mae"])
    return f"""
On the test split, in the unit of {column}: root mean squared error {rmse}, mean absolute error
{mae}. Of the variance {metrics["test"]["r2"]:.4f} is told (r2).
"""


def data(config: Config, metrics: dict[str, Any]) -> str:
    told, unit = metrics["dataset"], config.task.unit
    classes = f", {told['classes']} classes" if told["classes"] else ""
    origin = config.model.origin
    weights = f"\n- weights that training began with: {origin}" if origin else ""
    return f"""- {cell(told["task"])}: {told["kind"]}{classes}
- source and licence: {told["origin"]}
- split: {metrics["train_examples"]:,} {unit} to train, {metrics["valid_examples"]:,} to validate,
  {told["sealed"]:,} to test, sealed until the end
- fingerprint: `{metrics["data"]}`{weights}"""


def architecture(metrics: dict[str, Any]) -> str:
    """The layers that have weights or change the shape, and the shape for one example."""
    layers = metrics["layers"]
    rows = [
        f"| {cell(one['name'])} | {cell(one['kind'])} |"
        f" {' x '.join(map(str, one['output']))} | {one['params']:,} |"
        for one in layers[:SHOWN]
    ]
    if len(layers) > SHOWN:
        rows.append(f"| ... | {len(layers) - SHOWN} more, in `metrics.json` | | |")
    rows.append(f"| | {metrics['macs']:,} multiply-accumulates | | {metrics['params']:,} |")
    return "| layer | what it is | output | parameters |\n" + "|---" * 4 + "|\n" + "\n".join(rows)


def budget(metrics: dict[str, Any]) -> str:
    """What the search spent, where there was one and it is over."""
    if not (told := metrics.get("search")):
        return ""
    states = ", ".join(f"{count} {state}" for state, count in told["states"].items())
    again = sum(len(one["seeds"]) for one in metrics["finalists"])
    more = f"\nThe best were trained again from fresh seeds, {again} times in all." if again else ""
    return f"""Found among {told["trials"]} trials ({states}) in {told["device_seconds"]:,.1f}
device seconds of training.{more} This is seed {metrics["seed"]}.

"""


def environment(metrics: dict[str, Any]) -> str:
    if not (told := metrics.get("environment")):
        return ""
    return f"""
## Environment

{", ".join(f"{name} {what}" for name, what in told.items())}
"""
