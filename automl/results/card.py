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


def text(config: Config, metrics: dict[str, Any]) -> str:
    """Markdown, from what metrics.json holds."""
    name = metrics["metric"]
    baseline = metrics["baseline"]
    tested = metrics["test"]
    rows = [
        (f"validation {name} ({metrics['valid_examples']:,} examples)", metrics["valid"][name]),
        (f"baseline: {baseline['name']}, validation", baseline[name]),
        (f"chance: {metrics['chance']['name']}, validation", metrics["chance"][name]),
    ]
    if tested:
        rows.insert(0, (f"test {name} ({metrics['test_examples']:,} examples)", tested[name]))
    table = "\n".join(f"| {what} | {value:.4f} |" for what, value in rows)
    state = "" if tested else "\nNot tested: the search was not over when this was written.\n"
    warning = ""
    scores = metrics["valid"][name], metrics["chance"][name]
    if not config.task.metric.beyond(*scores, metrics["valid_examples"]):
        warning = "\n**This model is no better than chance. Do not use it.**\n"
    usage = USAGE[config.task.gives]
    trial = "" if metrics["trial"] is None else f", trial {metrics['trial']}"
    recipe = yaml.safe_dump(config.dump(), sort_keys=False)
    return f"""# {metrics["name"]}

{config.summary}

{metrics["params"]:,} parameters{trial}, {metrics["epochs"]} epochs on
{metrics["train_examples"]:,} examples of `{config.task.name}`.
{warning}{state}
| | {name} |
|---|---|
{table}

A validation score that chose a model among many is a little too high; the test split was opened
once, for this model alone.

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
