"""Trials an hour: the same configs trained by the usual tools, and by this one step by step.

    AUTOML_DATA=... python tests/bench/throughput.py --configs 64 --rounds 5

Every way trains the same nets from the same starts with the same optimizers and batch sizes, for
the same epochs, and scores the validation split behind each; nothing is pruned. Each is a process
of its own, so that imports and reading the data count, and they take turns, so that what else the
machine does falls upon all. What a way is compared with is the first one, round by round. Where a
package is not installed its row says so, and where accuracies differ by more than noise the row
is void. Of fewer configs than 64 the trials an hour are computed: the start once, then so many.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

WHOLE = 64  # configs that trials an hour are told of
ADAMW = {
    "name": "adamw",
    "lr": {"float": [5e-4, 5e-3], "log": True},
    "weight_decay": {"float": [1e-3, 0.1], "log": True},
}
PICTURES = {"name": "cifar10", "per_class": 200, "valid": 0.25}
WIDE = [{"name": "plain", "channels": 128}, {"name": "plain", "channels": 256, "depth": 2}]
NETS: dict[str, dict[str, Any]] = {
    "mlp": {
        "task": {"name": "fashion-mnist", "per_class": 500, "valid": 0.2},
        "model": {"name": "mlp", "widths": [100, 100]},
    },
    "cnn-95k": {
        "task": PICTURES,
        "model": {
            "name": "cnn",
            "stages": [
                {"name": "plain", "channels": 64, "depth": 2},
                {"name": "plain", "channels": 64},
            ],
        },
    },
    "cnn-2m": {
        "task": PICTURES,
        "model": {"name": "cnn", "stages": [*WIDE, WIDE[1]]},
    },
    "gru": {
        "task": {"name": "trec", "score": "accuracy"},
        "model": {"name": "rnn", "cell": "gru", "direction": "both"},
    },
}
BATCH = {"gru": 64}


@dataclass(frozen=True)
class Run:
    """What one process has come to."""

    accuracies: list[float]  # of each config's last epoch, in the order of the configs
    trained: int  # examples
    loop: float  # seconds of all epochs, scoring included; of two workers half of their sum
    started: float  # seconds before the first epoch
    whole: float  # seconds from the start of the process to its end
    cpu: float  # seconds of all processes from the first epoch on, whatever else the machine does
    memory_mb: float  # peaks of its processes, summed

    @property
    def per_second(self) -> float:
        return self.trained / self.loop

    @property
    def cpu_each(self) -> float:
        return self.cpu / len(self.accuracies)

    @property
    def per_hour(self) -> float:
        each = (self.whole - self.started) / len(self.accuracies)
        return 3600 * WHOLE / (self.started + WHOLE * each)


def space_of(net: str, epochs: int) -> Any:
    from automl.space import Space

    plain = {
        "version": 1,
        **NETS[net],
        "search": {"sampler": "random", "pruner": "none", "portfolio": 0},
        "optimizer": ADAMW,
        "schedule": "constant",
        "train": {
            "epochs": epochs,
            "batch_size": BATCH.get(net, 128),
            "average": 0,
            "class_weights": "none",
        },
    }
    return Space.parse(json.dumps(plain), net)


def drawn(space: Any, count: int) -> list[dict[str, Any]]:
    """Values of so many configs; the first of many are those of few."""
    from automl.holes import random_value

    rng = random.Random(0)
    return [space.values(lambda _, hole: random_value(hole, rng)) for _ in range(count)]


# What the peers are given: examples one by one, as a Dataset has them.


class Pictures:
    """As torchvision's data sets give them: a PIL image, then its transforms, at each access."""

    def __init__(self, split: Any, inputs: Any) -> None:
        from torchvision import transforms

        grey = split.x.shape[1] == 1
        rows = split.x.permute(0, 2, 3, 1)
        self.arrays = (rows[..., 0] if grey else rows).contiguous().numpy()
        self.y = split.y.tolist()
        normal = transforms.Normalize(inputs.mean, inputs.std)
        self.transform = transforms.Compose([transforms.ToTensor(), normal])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[index])), self.y[index]


def datasets(inputs: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
    """To train and to validate, and what a DataLoader must know of them."""
    from recurrent import examples, padded

    if hasattr(inputs, "mean"):
        return Pictures(data.train, inputs), Pictures(data.valid, inputs), {}
    encoded = inputs.encode(data.train), inputs.encode(data.valid)
    return examples(encoded[0]), examples(encoded[1]), {"collate_fn": padded}


class Clock:
    """Seconds of epochs, and the time of the first."""

    def __init__(self, space: Any, values: list[dict[str, Any]]) -> None:
        self.space, self.values = space, values  # that the configs are of
        self.first, self.seconds, self.cpu = 0.0, 0.0, 0.0
        self.pids: list[int] = []  # of workers
        self.workers = 0  # processes beside this one
        self.early: list[subprocess.Popen[bytes]] = []  # begun before all else, as a search does

    def start(self, ago: float = 0.0) -> None:
        """The first epoch begins, or has begun these seconds ago on one thread of each worker."""
        if not self.first:
            self.first, self.cpu = time.time() - ago, self.cpu_seconds() - ago * len(self.pids)

    def cpu_seconds(self) -> float:
        """Of this process and its workers so far."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1] for pid in self.pids]
        ticks = sum(int(field) for told in fields for field in told.split()[11:13])
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> None:
        self.start()
        self.entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.entered


def optuna_example(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """`pytorch_simple.py` of optuna-examples: one process, a DataLoader, a loop by hand."""
    import optuna
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def objective(trial: optuna.Trial) -> float:
        config = configs[trial.number]
        lr = trial.suggest_float("lr", 5e-4, 5e-3, log=True)
        decay = trial.suggest_float("decay", 1e-3, 0.1, log=True)
        inputs = config.input.fit(data)
        torch.manual_seed(config.seed)
        model = config.model.build(inputs, len(data.labels)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
        train_set, valid_set, more = datasets(inputs, data)
        size = config.train.batch_size
        train_loader = DataLoader(train_set, batch_size=size, shuffle=True, **more)
        valid_loader = DataLoader(valid_set, batch_size=size, shuffle=True, **more)
        for epoch in range(config.train.epochs):
            with clock:
                model.train()
                for x, y in train_loader:
                    x, y = x.to(device), y.to(device)
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                model.eval()
                correct = 0
                with torch.no_grad():
                    for x, y in valid_loader:
                        x, y = x.to(device), y.to(device)
                        pred = model(x).argmax(dim=1, keepdim=True)
                        correct += pred.eq(y.view_as(pred)).sum().item()
                accuracy = correct / len(valid_loader.dataset)
            trial.report(accuracy, epoch)
        return accuracy

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    for config in configs:
        rule = config.optimizer
        study.enqueue_trial({"lr": rule.lr, "decay": rule.weight_decay})
    study.optimize(objective, n_trials=len(configs))
    return [trial.value for trial in study.trials]


def lightning(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """A LightningModule and a Trainer for each config."""
    import warnings

    import torch
    from lightning import pytorch as pl
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    warnings.filterwarnings("ignore")  # it advises to use more processes for the data
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Net(pl.LightningModule):
        def __init__(self, config: Any, inputs: Any) -> None:
            super().__init__()
            self.model = config.model.build(inputs, len(data.labels))
            self.rule = config.optimizer

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            return F.cross_entropy(self.model(x), y)

        def validation_step(self, batch: Any, _: int) -> None:
            x, y = batch
            hits = (self.model(x).argmax(1) == y).float().mean()
            self.log("accuracy", hits, batch_size=len(y))

        def configure_optimizers(self) -> Any:
            rule = self.rule
            return torch.optim.AdamW(self.parameters(), lr=rule.lr, weight_decay=rule.weight_decay)

    found = []
    for config in configs:
        inputs = config.input.fit(data)
        torch.manual_seed(config.seed)
        net = Net(config, inputs)
        train_set, valid_set, more = datasets(inputs, data)
        size = config.train.batch_size
        trainer = pl.Trainer(
            max_epochs=config.train.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        with clock:
            trainer.fit(
                net,
                DataLoader(train_set, batch_size=size, shuffle=True, **more),
                DataLoader(valid_set, batch_size=size, **more),
            )
        found.append(trainer.callback_metrics["accuracy"].item())
    return found


def skorch(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """A NeuralNetClassifier for each config, over arrays in memory."""
    import torch
    from skorch import NeuralNetClassifier
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    def arrays(inputs: Any, split: Any) -> tuple[Any, Any]:
        encoded = inputs.encode(split)
        if isinstance(encoded.x, torch.Tensor):
            return inputs.prepare(encoded.x).contiguous(), encoded.y
        every = torch.arange(len(encoded.x))
        return encoded.x.padded(every, int(encoded.x.lengths.max())).long(), encoded.y

    found = []
    for config in configs:
        inputs = config.input.fit(data)
        torch.manual_seed(config.seed)
        x, y = arrays(inputs, data.train)
        net = NeuralNetClassifier(
            config.model.build(inputs, len(data.labels)),
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            lr=config.optimizer.lr,
            optimizer__weight_decay=config.optimizer.weight_decay,
            max_epochs=config.train.epochs,
            batch_size=config.train.batch_size,
            iterator_train__shuffle=True,
            train_split=predefined_split(Dataset(*arrays(inputs, data.valid))),
            device="cuda" if torch.cuda.is_available() else "cpu",
            verbose=0,
        )
        with clock:
            net.fit(x, y)
        found.append(net.history[-1, "valid_acc"])
    return found


def ray_tune(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """Ray Tune's PyTorch tutorial: a function trainable and a DataLoader, a core for each."""
    import logging

    import ray
    import torch
    from ray import tune
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    here = str(Path(__file__).parent)

    def trainable(place: dict[str, int], configs: list[Any], data: Any) -> None:
        began, cpu, config = time.time(), time.process_time(), configs[place["number"]]
        inputs = config.input.fit(data)
        torch.manual_seed(config.seed)
        model = config.model.build(inputs, len(data.labels))
        rule, size = config.optimizer, config.train.batch_size
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=rule.lr, weight_decay=rule.weight_decay
        )
        train_set, valid_set, more = datasets(inputs, data)
        train_loader = DataLoader(train_set, batch_size=size, shuffle=True, **more)
        valid_loader = DataLoader(valid_set, batch_size=size, **more)
        for _ in range(config.train.epochs):
            model.train()
            for x, y in train_loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
            model.eval()
            correct = 0
            with torch.no_grad():
                for x, y in valid_loader:
                    correct += (model(x).argmax(1) == y).sum().item()
            tune.report(
                {
                    "accuracy": correct / len(valid_set),
                    "began": began,
                    "seconds": time.time() - began,
                    "cpu": time.process_time() - cpu,
                }
            )

    cores = clock.workers = len(os.sched_getaffinity(0))
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}},
    )
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable, configs=configs, data=data), {"cpu": 1}
            ),
            param_space={"number": tune.grid_search(list(range(len(configs))))},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        told = sorted((one.metrics for one in results), key=lambda one: one["config"]["number"])
    ray.shutdown()
    clock.first = min(one["began"] for one in told)
    clock.seconds = sum(one["seconds"] for one in told) / cores
    clock.pids, clock.cpu = [-1], sum(one["cpu"] for one in told)  # without what Ray itself takes
    return [one["accuracy"] for one in told]


# Ours, a step further each time.


def resident(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """The data as one tensor, batches as slices; one process, all cores, float32."""
    from automl.training.precision import Precision

    plain = classmethod(lambda cls, device: cls(device, False))
    with mock.patch.object(Precision, "of", plain):
        return fast(configs, data, clock)


def fast(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """The same in bfloat16 where the device is fast at it."""
    from automl.training import train
    from automl.training.precision import pick

    device, found = pick(), []
    for config in configs:
        epochs = train(config, data, device=device)
        with clock:
            *_, last = epochs
        found.append(last.metrics["accuracy"])
    return found


def searched(configs: list[Any], data: Any, clock: Clock) -> list[float]:
    """As `automl search` does it: as many workers, checkpoints, a study on disk."""
    from automl.engines import Setup
    from automl.engines.local import Local, devices
    from automl.places import root
    from automl.searching.driver import Closed, Driver, Trained
    from automl.searching.study import Manifest, begin
    from automl.training.precision import pick

    space, epochs = clock.space, configs[0].train.epochs
    with tempfile.TemporaryDirectory() as folder:
        path, task, where = Path(folder), configs[0].task, pick()
        manifest = Manifest(space.digest, task.name, data.fingerprint, 0, str(where), {})
        study = begin(path, space, manifest, task.metric, [(v, "here") for v in clock.values])
        setup = Setup(task.model_dump(mode="json"), str(root(None)), "", 1, [])
        engine = Local(setup, devices(where, None), path / "workers.log", clock.early)
        clock.workers = engine.slots
        driver = Driver(study, space, engine, folder=path, data=data, trials=len(configs), seed=0)
        driver.start()
        try:
            for event in driver.run():
                clock.pids = engine.pids()
                if isinstance(event, Trained):
                    clock.start(event.epoch.seconds)
                if isinstance(event, Closed):
                    clock.seconds += event.row.seconds / engine.slots
            clock.cpu = clock.cpu_seconds() - clock.cpu
        finally:
            engine.close()
        rows = sorted(driver.rows(), key=lambda row: row.trial)
    assert [row.epochs for row in rows] == [epochs] * len(configs)
    return [row.score for row in rows]


Way = Callable[[list[Any], Any, Clock], list[float]]
WAYS: dict[str, tuple[str, Way]] = {  # what it is called, and how; the first is the yardstick
    "optuna": ("Optuna's PyTorch example", optuna_example),
    "lightning": ("Lightning", lightning),
    "skorch": ("skorch", skorch),
    "ray": ("Ray Tune's PyTorch tutorial, a core a trial", ray_tune),
    "resident": ("ours: resident data, float32", resident),
    "bf16": ("+ bfloat16 where the device is fast at it", fast),
    "searched": ("bfloat16 likewise, as many workers, as searched", searched),
}


def one(
    way: str, net: str, count: int, epochs: int, began: float, early: list[subprocess.Popen[bytes]]
) -> Run:
    """In this process."""
    from automl.places import root

    space = space_of(net, epochs)
    values = drawn(space, count)
    configs = [space.with_values(v).model_copy(update={"seed": 0}) for v in values]
    data = space.task.load(root(None))
    clock = Clock(space, values)
    clock.early = early
    accuracies = WAYS[way][1](configs, data, clock)
    cpu = clock.cpu if clock.pids else clock.cpu_seconds() - clock.cpu
    ours, theirs = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    trained = count * epochs * len(data.train)
    ended = time.time()
    return Run(
        accuracies,
        trained,
        clock.seconds,
        clock.first - began,
        ended - began,
        cpu,
        ours + clock.workers * theirs,
    )


def run(way: str, net: str, count: int, epochs: int, threads: int) -> Run | None:
    """In a process of its own; None: its package is not installed."""
    if way in ("lightning", "skorch", "ray") and not importlib.util.find_spec(way):
        return None
    command = [sys.executable, __file__, "--one", way, "--nets", net]
    command += ["--configs", str(count), "--epochs", str(epochs), "--began", str(time.time())]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    environment |= {"RAY_worker_niceness": "0"}  # else whatever runs beside Ray's goes first
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def agree(some: Run, others: Run) -> bool:
    """Whether the same configs have come to the same accuracies, but for noise."""
    apart = [a - b for a, b in zip(some.accuracies, others.accuracies, strict=True)]
    noise = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
    return abs(statistics.mean(apart)) <= 3 * noise + 0.005


def table(runs: dict[str, list[Run]]) -> Iterator[str]:
    """One net: a row for each way, medians over the rounds."""
    yield (
        "| way | examples/s in the loop | trials/hour | against the first "
        "| CPU-s a trial | against the first | MB | accuracy |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    first = next(iter(runs.values()))
    for way, told in runs.items():
        name = WAYS[way][0]
        if not told:
            yield f"| {name} | not installed | | | | | | |"
            continue
        loop, hour, cpu, memory = (
            statistics.median(getattr(run, key) for run in told)
            for key in ("per_second", "per_hour", "cpu_each", "memory_mb")
        )
        pairs = list(zip(told, first, strict=True))
        faster = spread([run.per_hour / base.per_hour for run, base in pairs])
        leaner = spread([base.cpu_each / run.cpu_each for run, base in pairs])
        if not all(agree(run, base) for run, base in pairs):
            faster = leaner = "void: other accuracies"
        right = statistics.mean(statistics.mean(run.accuracies) for run in told)
        yield (
            f"| {name} | {loop:,.0f} | {hour:,.0f} | {faster} | {cpu:.2f} | {leaner} "
            f"| {memory:,.0f} | {right:.3f} |"
        )


def spread(ratios: list[float]) -> str:
    """Median, least and most; of five rounds 94 % sure to hold the true median."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--configs", type=int, default=WHOLE)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=0, help="of each single process; 0: as many as PyTorch takes"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        from automl.launch import early

        with early() if given.one == "searched" else nullcontext([]) as begun:
            told = one(given.one, given.nets, given.configs, given.epochs, given.began, begun)
        print(json.dumps(asdict(told)))
        return
    for net in given.nets.split(","):
        runs: dict[str, list[Run]] = {way: [] for way in given.ways.split(",")}
        for number in range(given.rounds):
            for way, told in runs.items():
                found = run(way, net, given.configs, given.epochs, given.threads)
                told += [found] if found else []
                if found:
                    print(f"{net} {number + 1} {way}: {found.per_hour:,.0f} trials an hour, "
                          f"{found.whole:.1f} s", file=sys.stderr, flush=True)  # fmt: skip
        print(f"\n**{net}**, {given.configs} configs, {given.epochs} epochs, "
              f"{given.rounds} rounds\n")  # fmt: skip
        print("\n".join(table(runs)), flush=True)


if __name__ == "__main__":
    main()
