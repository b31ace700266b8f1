"""Is the score one saw the model one gets? A row of a table for each study that is named.

The test score as metrics.json has it, and anew: of the folder loaded again, and of pt2 and ONNX
files of it. `python tests/bench/delivered.py STUDY ...`, in the folder that holds studies/.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from automl.config import Export
from automl.exports.verified import _compare, export
from automl.exports.whole import Whole
from automl.places import root
from automl.results.leaderboard import trained_again
from automl.searching.study import Study


def row(name: str) -> list[str]:
    study = Study.open(name)
    model, top = study.best, study.leaderboard[0]
    task, metrics = model.config.task, model.metrics
    split = task.test(root(None))
    scores = [metrics["test"][task.metric.name], model.evaluate(split)[task.metric.name]]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for kind in map(Export.of, ("pt2", "onnx")):
            file = Path(folder) / f"model{kind.suffix}"
            export(model, kind, file, precision="float32", root=root(None))
            run, _ = kind.open(file)
            encoded = model.inputs.encode(split)
            scores.append(_compare(Whole(model), run, encoded, model.inputs, task).score)
    return [name, f"{top.score:.4f}", trained_again(top), *(f"{score:.4f}" for score in scores)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    head = "study", "search", "trained again", "test", "loaded again", "pt2", "ONNX"
    for cells in head, ["---"] * len(head), *map(row, sys.argv[1:]):
        print("| " + " | ".join(cells) + " |", flush=True)
