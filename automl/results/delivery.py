"""The best model as a folder to take away, tested once when all is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from automl import amounts
from automl.boxes import found
from automl.config import Config, Task
from automl.data import PERHAPS, Data, Epoch, Inputs, Split
from automl.errors import DataError, OptionError, StudyError
from automl.inputs.columns import Cells
from automl.inputs.series import Lookback
from automl.inputs.text import Paired, paired
from automl.results import artifact, card, ensemble
from automl.results.architecture import layers
from automl.results.artifact import FILES, Artifact
from automl.results.bleu import bleu
from automl.results.ensemble import Ensemble, Gain
from automl.results.judgement import Judgement, averaged, judged, temperature
from automl.space import Space, measure
from automl.tasks.boxes import BoxTask
from automl.training import checkpoint, rounds, train
from automl.training.cost import BATCHES, latency_ms
from automl.training.loop import predict
from automl.training.run import outputs_of

TRANSLATED = 2_000  # pairs of a test split that BLEU is told of, at most: seconds on a CPU
MATRIX = 1000  # classes, above which metrics.json would have no room for a confusion matrix


@dataclass(frozen=True, eq=False)
class Training:
    """A config of a study, and the checkpoint that a training of it lies in."""

    trial: int
    config: Config
    file: Path
    whole: bool = False  # on the validation split too

    @property
    def key(self) -> tuple[int, int]:
        return self.trial, self.config.seed

    @property
    def state(self) -> dict[str, Any]:
        """What the checkpoint holds. Raises StudyError."""
        state = checkpoint.load(self.file)
        if state is None:
            raise StudyError(f"{self.file}: no checkpoint that can be read")
        return state

    def probabilities(self, y: Tensor) -> Tensor | None:
        """(N, K) of the validation split with classes `y`, calibrated; None where none are kept."""
        logits = (checkpoint.load(self.file) or {}).get("logits")
        return None if logits is None else (logits / temperature(logits, y)).softmax(1)

    def finds(self, data: Data, split: Split) -> Tensor:
        """What is found in pictures of this data (N, 100, 6), see `boxes.found`."""
        config, state = self.config, self.state
        inputs = config.input.fit(data)
        model = config.model.build(inputs, outputs_of(inputs, data))
        model.load_state_dict({**state["model"], **(state["averaged"] or {})})
        batches = predict(model, inputs.encode(split), inputs)
        return torch.cat([found(cells) for _, cells, _ in batches])


@dataclass(frozen=True)
class Delivery:
    """A folder for a model of this data, and what the model is held against."""

    folder: Path
    name: str  # of the study
    data: Data
    baseline: tuple[str, float]

    @property
    def metrics(self) -> dict[str, Any]:
        """What is known of the model in the folder; nothing where there is none."""
        try:
            return artifact.noted(self.folder) if self.folder.is_dir() else {}
        except DataError:
            return {}

    def holds(self, made: Training, finalists: Sequence[dict[str, Any]] = ()) -> bool:
        """Whether the folder has this very model with these finalists, tested."""
        told = self.metrics
        same = (told.get("trial"), told.get("seed"), told.get("refit"))
        listed = told.get("finalists", []) == list(finalists)
        return same == (*made.key, made.whole) and listed and told.get("test") is not None

    def write(self, made: Training, validated: Training | None = None, **more: Any) -> None:
        """The weights in a checkpoint, with their scores. Raises StudyError without one.

        `validated` is the same training without the validation split, which tells the scores of
        one that has seen it. `more` goes to metrics.json.
        """
        config, state = made.config, made.state
        told = state if validated in (None, made) else validated.state
        weights = {**state["model"], **(state["averaged"] or {})}
        inputs = config.input.fit(self.data.whole() if made.whole else self.data)
        metrics = self._facts(made, told, inputs) | more
        trained = state["history"][-1]["metrics"][config.task.metric.name]
        metrics["proof"] = {"trained": trained, "loaded": None}
        heat = metrics.get("calibration", {}).get("temperature", 1.0)
        with artifact.replaced(self.folder) as fresh:
            artifact.write(fresh, config, weights, inputs, self.data.labels, heat)
            metrics["size_mb"] = round((fresh / "model.safetensors").stat().st_size / 1e6, 3)
            artifact.describe(fresh, metrics, card.text(config, metrics, self.folder.name))

    def _facts(self, made: Training, state: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
        """What is known before the test, from the state of the training that was validated."""
        config, last = made.config, state["history"][-1]
        name = config.task.metric.name
        chance, score = config.task.chance(self.data)
        size = measure(config, inputs, len(self.data.labels))
        found = layers(config, inputs, outputs_of(inputs, self.data))
        told: dict[str, Any] = {
            "name": self.name,
            "trial": made.trial,
            "seed": config.seed,
            "refit": made.whole,
            "epochs": last["number"],
            "params": size.params,
            "macs": size.macs,
            "metric": name,
            "higher_is_better": config.task.metric.higher_is_better,
            "valid": last["metrics"],
            "test": None,
            "chance": {"name": chance, name: score},
            "baseline": {"name": self.baseline[0], name: self.baseline[1]},
            "train_examples": len(self.data.train),
            "valid_examples": len(self.data.valid),
            "data": self.data.fingerprint,
            "dataset": {
                "task": config.task.summary,
                "kind": self.data.inputs.summary,
                "classes": len(self.data.labels),
                "origin": config.task.origin,
                "sealed": self.data.sealed,
            },
            "layers": [asdict(one) for one in found],
            "limits": card.limits(config),
        }
        data = self.data.whole() if made.whole else self.data
        if federation := rounds.told(config, data, inputs, last["number"]):
            told["federation"] = federation
        if (logits := state.get("logits")) is not None:  # of classes, and at its end
            y = self.data.valid.y
            heat = temperature(logits, y)
            after = judged(logits, y, config.task, heat)
            before = replace(after, logits=logits.float())
            told["valid"] = after.scores
            told["valid_interval"] = after.bounds
            told["calibration"] = {
                "temperature": heat,
                "ece_before": before.calibration_error,
                "ece_after": after.calibration_error,
                "bins": after.bins(),
            }
        metric, examples = config.task.metric, len(self.data.valid)
        if not metric.beyond(last["metrics"][name], score, examples):
            told["warning"] = "no better than chance; do not use it"
            likely = metric.beyond(last["metrics"][name], score, examples, PERHAPS)
            if metric.higher_is_better and (likely or not metric.beyond(1.0, score, examples)):
                few = amounts.plural(examples, "example")
                told["warning"] = f"perhaps no better than chance: {few} to validate cannot tell"
        return told

    def test(self, split: Split, device: torch.device) -> None:
        """Open the sealed split for the model as it is on disk. No model is tested twice."""
        model = artifact.load(self.folder, device=str(device))
        if model.metrics["test"] is None:
            told = tested(model, split)
            self.note(test_examples=len(split), **told)

    def note(self, **more: Any) -> None:
        """What else is known of the model in the folder, into metrics.json and the card."""
        metrics = artifact.noted(self.folder) | more
        config = Space.load(self.folder / "config.yaml").config()
        artifact.describe(self.folder, metrics, card.text(config, metrics, self.folder.name))


@dataclass(frozen=True)
class Joined:
    """Models that answer together, each by its checkpoint."""

    members: Sequence[tuple[Training, Training, float]]  # made, validated, share of 1
    gain: Gain

    def write(self, delivery: Delivery, split: Split, device: torch.device) -> dict[str, Any]:
        """The folder, whole or not at all, with its one test; what is known of it."""
        y, shares = delivery.data.valid.y, [share for _, _, share in self.members]
        told = [validated.probabilities(y) for _, validated, _ in self.members]
        task = self.members[0][0].config.task
        valid = averaged(ensemble.mean([one for one in told if one is not None], shares), y, task)
        weights = ensemble.Weights(members={str(n): share for n, share in enumerate(shares)})
        with artifact.replaced(delivery.folder) as fresh:
            for number, (made, validated, _) in enumerate(self.members):
                replace(delivery, folder=fresh / str(number)).write(made, validated)
            (fresh / "ensemble.json").write_text(weights.model_dump_json(indent=1) + "\n")
            metrics: dict[str, Any] = {
                "name": delivery.name,
                "members": [
                    {"trial": made.trial, "seed": made.config.seed, "weight": share}
                    for made, _, share in self.members
                ],
                "metric": task.metric.name,
                "valid": valid.scores,
                "gain": self.gain.score,
                "gain_nats": self.gain.nats,
                "size_mb": round(sum(f.stat().st_size for f in fresh.rglob("*.*")) / 1e6, 3),
            }
            artifact.note(fresh, metrics)
            model = ensemble.load(fresh, device=str(device))
            metrics |= tested(model, split) | {"params": model.params}
            artifact.note(fresh, metrics)
        return metrics


def sealed(task: Task, root: Path | None, data: Data) -> Split:
    """The test split, read now. Raises DataError where this is no longer the data.

    Of other files others are drawn to test, and the model may have been trained on them.
    """
    if task.load(root).fingerprint != data.fingerprint:
        told = "the data is not what was trained on: it was changed meanwhile; want it as it was"
        raise DataError(f"{task.name}: {told}, to test the model")
    return task.test(root)


def tested(model: Artifact | Ensemble, split: Split) -> dict[str, Any]:
    """What a test tells, as metrics.json holds it."""
    judgement, labels = model.judge(split), model.labels
    told: dict[str, Any] = {
        "test": judgement.scores,
        "test_interval": judgement.bounds,
        "test_interval_by": judgement.interval.by if judgement.interval else None,
    }
    match model:
        case Artifact(inputs=Lookback() as inputs):
            return told | {"columns": _by_column(judgement, inputs)}
        case Artifact(inputs=Cells() as inputs) if inputs.std:
            errors = {name: inputs.std * judgement.scores[name] for name in ("rmse", "mae")}
            return told | {"in_units": {"column": inputs.target, **errors}}
        case Artifact(inputs=Paired()):
            pairs = paired(split.x)[:TRANSLATED]
            said = model.translate([source for source, _ in pairs])
            score = bleu(said, [target for _, target in pairs])
            return told | {"bleu": {"score": score, "pairs": len(pairs)}}
        case Artifact(config=Config(task=BoxTask() as task)):
            return told | {"boxes": _by_class(judgement, task, labels)}
    if judgement.logits is None:
        return told
    return told | {
        "classes": judgement.classes(labels),
        "confusion": judgement.confusion.tolist() if len(labels) <= MATRIX else None,
        "test_ece": judgement.calibration_error,
    }


def _by_column(judgement: Judgement, inputs: Lookback) -> list[dict[str, Any]]:
    """Errors of each column, the absolute one in its own unit, too; nothing where none is known."""
    assert judgement.sums is not None
    squared, absolute, count = (
        judgement.sums[name].tolist() for name in ("squared", "absolute", "count")
    )
    return [
        {
            "column": name,
            "mse": squared[k] / count[k] if count[k] else None,
            "mae": absolute[k] / count[k] if count[k] else None,
            "mae_in_units": inputs.std[k] * absolute[k] / count[k] if count[k] else None,
        }
        for k, name in enumerate(inputs.names)
    ]


def _by_class(judgement: Judgement, task: BoxTask, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes of each class, and how precise those found are; nothing of one that does not occur."""
    assert judgement.sums is not None
    counts = judgement.sums["occur"].sum(0).tolist()
    told = task.precisions(judgement.sums)
    return [
        {
            "label": label,
            "boxes": count,
            "map": float(of.mean()) if count else None,
            "map50": float(of[0]) if count else None,
        }
        for label, count, of in zip(labels, counts, told, strict=True)
    ]


def latencies(folder: Path, device: torch.device) -> dict[str, float]:
    """Milliseconds for one example and for 64 of the models in a folder, on a device at rest."""
    model = ensemble.load(folder, device=str(device))
    members = model.members if isinstance(model, Ensemble) else (model,)
    return {
        str(count): round(sum(latency_ms(m.model, m.inputs, count, m.device) for m in members), 4)
        for count in BATCHES
    }


def choose(
    single: Training, others: Sequence[Training], data: Data
) -> tuple[dict[Training, float], Gain | None]:
    """Members of an ensemble and their shares; none where one model does as well."""
    told: dict[Training, Tensor] = {}
    for training in others:
        if (shares := training.probabilities(data.valid.y)) is not None:
            told[training] = shares
    if single not in told or len(told) < 2 or len(data.valid) < ensemble.FEWEST:
        return {}, None
    known, all_, y = list(told), list(told.values()), data.valid.y
    members = ensemble.chosen(all_, y)
    gain = ensemble.gain(all_, y, told[single], single.config.task)
    if len(members) < 2 or not gain.worth:
        return {}, gain
    return {known[member]: share for member, share in members.items()}, gain


def fit(
    config: Config, folder: Path, *, root: Path | None, device: torch.device
) -> Iterator[Epoch]:
    """Train one config, test it and leave it in `folder`. The same call goes on after a stop."""
    _writable(folder)
    data = config.task.load(root)
    measure(config, config.input.fit(data), len(data.labels))
    baseline = config.task.baseline(data)
    file = folder.with_name(folder.name + ".checkpoint")
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield from train(config, data, device=device, checkpoint=file)
    delivery = Delivery(folder, folder.name, data, baseline)
    delivery.write(Training(0, config, file), trial=None)  # the only one, and of no study
    delivery.test(sealed(config.task, root, data), device)
    delivery.note(latency_ms=latencies(folder, device))
    checkpoint.remove(file)


def _writable(folder: Path) -> None:
    """Raises OptionError where no model and no checkpoint beside it could be written."""
    try:
        free = folder.is_dir() and {p.name for p in folder.iterdir()} <= FILES
        if folder.exists() and not free:
            raise OptionError(f"--out: {folder} holds more than a model; give a folder of its own")
        missing = [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe = folder.with_name(folder.name + ".checkpoint.new")  # as the first to be written
        probe.touch()
        probe.unlink()
        for parent in missing:
            parent.rmdir()  # until there is something to write
    except (OSError, ValueError) as error:  # the latter where it has no name: `.`
        raise OptionError(f"--out: {folder}: cannot be written ({error})") from error
