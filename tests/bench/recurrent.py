"""Examples a second of the trainer and of the usual PyTorch loop, and their ratio, in one run.

    python tests/bench/recurrent.py [task] [rounds]

Both train the same GRU from the same start on the same tokens, batch size and thread, and score
the validation split behind every epoch. The usual loop is that of PyTorch's tutorials: a Dataset of
examples, a DataLoader that shuffles and pads each batch to its longest text, float32, `loss.item()`
at every step. They take turns, so that what else the machine does falls upon both.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from automl.config import Config
from automl.data import Data, Inputs, Split
from automl.training.loop import train
from automl.training.precision import describe, pick

MODEL = {
    "name": "rnn",
    "cell": "gru",
    "embedding": 128,
    "width": 128,
    "direction": "both",
    "pooling": "max",
    "dropout": 0.4,
}


def examples(split: Split) -> list[tuple[Tensor, int]]:
    """Texts of tokens (T,) with their classes, as a Dataset has them."""
    rows = torch.split(split.x.values.long(), split.x.lengths.tolist())
    return list(zip(rows, split.y.tolist(), strict=True))


def padded(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    texts, classes = zip(*batch, strict=True)
    return pad_sequence(list(texts), batch_first=True), torch.tensor(classes)


class Usual:
    """The usual loop, an epoch at a time."""

    def __init__(
        self, config: Config, data: Data, inputs: Inputs, device: torch.device, workers: int
    ) -> None:
        torch.manual_seed(config.seed)
        self.device = device
        self.model = config.model.build(inputs, len(data.labels)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.optimizer.lr)
        make = {"batch_size": config.train.batch_size, "collate_fn": padded}
        more = {"num_workers": workers, "persistent_workers": workers > 0}
        train_rows, valid_rows = examples(inputs.encode(data.train)), inputs.encode(data.valid)
        self.train = DataLoader(train_rows, shuffle=True, drop_last=True, **make, **more)
        self.valid = DataLoader(examples(valid_rows), **make)

    def epoch(self) -> float:
        """Validation accuracy."""
        self.model.train()
        running = 0.0
        for x, y in self.train:
            x, y = x.to(self.device), y.to(self.device)
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            running += loss.item()
        self.model.eval()
        right = 0
        with torch.no_grad():
            for x, y in self.valid:
                right += (self.model(x.to(self.device)).argmax(1).cpu() == y).sum().item()
        return right / len(self.valid.dataset)


def main(task: str = "trec", rounds: str = "5") -> None:
    torch.set_num_threads(1)
    device = pick()
    config = Config.of(
        {
            "task": {"name": task, "score": "accuracy"},
            "model": MODEL,
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},  # PyTorch's own
            "schedule": "constant",
            "train": {
                "epochs": int(rounds) + 1,
                "batch_size": 64,
                "class_weights": "none",
                "average": 0,
            },
        }
    )
    root = os.environ.get("AUTOML_DATA")
    data = config.task.load(Path(root) if root else None)
    inputs = config.input.fit(data)
    ours = train(config, data, device=device)
    usual = Usual(config, data, inputs, device, workers=0 if device.type == "cpu" else 4)
    print(f"{describe(device)}, one thread; {task}: {len(data.train):,} texts, {inputs.summary}")

    ratios = []
    for number in range(int(rounds) + 1):
        began = time.perf_counter()
        epoch = next(ours)
        between = time.perf_counter()
        accuracy = usual.epoch()
        ended = time.perf_counter()
        speeds = len(data.train) / (between - began), len(data.train) / (ended - between)
        told = f"{speeds[0]:,.0f} against {speeds[1]:,.0f} examples a second"
        told += f", validation {epoch.metrics['accuracy']:.3f} and {accuracy:.3f}"
        if number:  # the first finds caches empty
            ratios.append(speeds[0] / speeds[1])
            told += f", ratio {ratios[-1]:.2f}"
        print(told, flush=True)
    print(f"ratio {statistics.median(ratios):.2f}: median of {rounds}, {min(ratios):.2f} at least")


if __name__ == "__main__":
    main(*sys.argv[1:])
