"""The model card: what a person should know before using the model."""

from __future__ import annotations

from typing import Any

import yaml

from automl.config import Config

USAGE = {
    "images": 'model.predict("photo.png")',
    "sounds": 'model.predict("clip.wav")',
    "texts": 'model.predict("a fine film")',
    "prose": 'model.generate("Once", length=400)',
}


def cell(label: str) -> str:
    """A label as a cell of a table: nobody's markup, and one line."""
    return " ".join(label.split()).replace("|", "\\|").replace("<", "&lt;")


def text(config: Config, metrics: dict[str, Any]) -> str:
    """Markdown, from what metrics.json holds."""
    name = metrics["metric"]
    baseline = metrics["baseline"]
    tested = metrics["test"]
    again = metrics.get("finalists") or []
    rows = [
        *(
            (f"validation, mean of {len(one['seeds'])} seeds, trial {one['trial']}", one["mean"])
            for one in again
        ),
        (f"validation {name} ({metrics['valid_examples']:,} examples)", metrics["valid"][name]),
        (f"baseline: {baseline['name']}, validation", baseline[name]),
        (f"chance: {metrics['chance']['name']}, validation", metrics["chance"][name]),
    ]
    if tested:
        low, high = metrics["test_interval"]
        sure = f"95 % sure: {low:.4f} to {high:.4f}"
        count = f"{metrics['test_examples']:,} examples"
        rows.insert(0, (f"test {name} ({count}; {sure})", tested[name]))
    table = "\n".join(f"| {what} | {value:.4f} |" for what, value in rows)
    state = "" if tested else "\nNot tested: the search was not over when this was written.\n"
    warning = ""
    if "warning" in metrics:
        warning = f"\n**This model is {metrics['warning']}. Do not use it.**\n"
    refit = ""
    if metrics.get("refit"):
        refit = (
            "It was then trained on the validation split, too; its scores there are those before.\n"
        )
    classes = ""
    if tested and metrics.get("classes"):
        lines = [
            f"| {cell(one['label'])} | {one['examples']} | {one['precision']:.3f} |"
            f" {one['recall']:.3f} | {one['recall_interval'][0]:.3f} to"
            f" {one['recall_interval'][1]:.3f} | {one['f1']:.3f} |"
            for one in metrics["classes"]
        ]
        head = "| class | examples | precision | recall | 95 % sure | F1 |\n" + "|---" * 6 + "|\n"
        classes = "\n## By class, on the test split\n\n" + head + "\n".join(lines) + "\n"
    calibration = ""
    if calm := metrics.get("calibration"):
        calibration = (
            f"\nProbabilities are calibrated: logits are divided by {calm['temperature']:.3f}. In"
            f" the mean\nthey lie {calm['ece_after']:.3f} from the share of right answers in"
            f" validation, {calm['ece_before']:.3f} before.\n"
        )
    usage = USAGE[config.task.gives]
    trial = "" if metrics["trial"] is None else f", trial {metrics['trial']}"
    recipe = yaml.safe_dump(config.dump(), sort_keys=False)
    return f"""# {metrics["name"]}

{config.summary}

{metrics["params"]:,} parameters{trial}, {metrics["epochs"]} epochs on
{metrics["train_examples"]:,} examples of `{config.task.name}`.
{refit}{warning}{state}
| | {name} |
|---|---|
{table}

A validation score that chose a model among many is a little too high; the test split was opened
once, for this model alone.
{calibration}{classes}
## Use

```python
import automl

model = automl.load("best")  # this folder
{usage}
```

## Recipe

`config.yaml` trains it again: `automl train config.yaml`.

```yaml
{recipe}```

Data fingerprint: `{metrics["data"]}`
"""
