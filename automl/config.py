"""What one training run is made of: parts, their families, and the config that names one of each.

A part is a pydantic class with a `name`, its knobs, and one method that makes the real thing.
Defining the class is all it takes to use it from YAML, in the schema and in `automl list`.
Text only ever *names* a part: no path to code, nothing evaluated.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from automl.data import Data, Inputs, Metric, Raw, Split
from automl.errors import OptionError, PartBug, SpaceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Place = tuple[str | int, ...]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'sgd'? Known: adamw, muon, sgd.`"""
    known = sorted(known)
    alike = {key.lower(): key for key in known if len(key) <= 64}  # long ones cost seconds
    close = difflib.get_close_matches(name[:64].lower(), alike, n=1)
    meant = f"did you mean {alike[close[0]]!r}? " if close else ""
    listed = [printable(key) if len(key) <= 64 else shown(key) for key in known[:32]]
    more = f" and {len(known) - 32} more" if len(known) > 32 else ""
    return f"; {meant}Known: {', '.join(listed)}{more}."


def printable(text: str) -> str:
    """A text for a terminal: characters that do not show, and may command it, are spelled out."""
    return text if text.isprintable() else repr(text)


def shown(value: Any) -> str:
    """What somebody wrote, in one line for a terminal: no control characters, never long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def clipped(text: str, most: int) -> str:
    """At most so many characters of it."""
    return text if len(text) <= most else text[: most - 1] + "…"


class Strict(BaseModel):
    """Text from outside, checked: no unknown keys, no guessed types, no infinities, no changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_knobs(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    told = f"no knob is called {key!r}{nearest(str(key), cls.model_fields)}"
                    raise PydanticCustomError("unknown_knob", "{told}", {"told": told, "key": key})
        return value

    @classmethod
    def of(cls, value: Any) -> Self:
        """The checked object that a dict, or a part's bare name, stands for. Raises SpaceError."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise SpaceError(first_problem(error)) from error


class Part(Strict):
    """A choice with knobs. A family is a direct subclass whose `home` says where members live."""

    home: ClassVar[str]
    name: str

    @model_validator(mode="wrap")
    @classmethod
    def _member(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if "home" not in cls.__dict__:  # a member: pydantic checks its knobs
            return handler({"name": value} if isinstance(value, str) else value)
        if isinstance(value, cls):
            return value
        name = value.get("name") if isinstance(value, dict) else value
        kind = cls.__name__.lower()
        if not isinstance(name, str):
            got = "no name" if isinstance(value, dict) and name is None else shown(name)
            told = f"got {got}; want the name of the {kind}, alone or in a mapping"
            told += nearest("", cls.members())
            raise PydanticCustomError("no_name", "{told}", {"told": told})
        if name not in cls.members():
            told = f"no {kind} is called {shown(name)}{nearest(name, cls.members())}"
            if "did you mean" not in told:
                told += " One of your own: give its file by --plugin, or import it."
            raise PydanticCustomError("unknown_part", "{told}", {"told": told})
        member = cls.members()[name]
        if lacking := sorted(member.__abstractmethods__):
            file = getattr(sys.modules.get(member.__module__), "__file__", member.__module__)
            told = (
                f"{kind} {name!r} of {file} lacks {', '.join(lacking)}; want what every {kind} has"
            )
            raise PydanticCustomError("unfinished_part", "{told}", {"told": told})
        return member.model_validate(value)

    @classmethod
    def members(cls) -> dict[str, type[Self]]:
        """The family's parts by name: ours, installed ones (entry points) and plugins."""
        _discover(cls.home)
        found: dict[str, type[Self]] = _members(cls)
        return found

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        _members.cache_clear()

    @property
    def summary(self) -> str:
        """The name and what differs from the defaults, in a few words."""
        words = [self.name]
        for key, knob in type(self).model_fields.items():
            value = getattr(self, key)
            if key == "name" or value == knob.get_default(call_default_factory=True):
                continue
            if isinstance(value, list) and value and isinstance(value[0], Part):
                words.append(", ".join(part.summary for part in value))
            elif isinstance(value, float):
                words.append(f"{key} {value:.3g}")
            elif isinstance(value, bool):
                words.append(key if value else f"no {key}")
            elif isinstance(value, Part):
                words.append(f"{key} {value.summary}")
            elif not isinstance(value, BaseModel):
                words.append(f"{key} {value}")
        return " ".join(words)


@functools.cache
def _members(family: type[Part]) -> dict[str, Any]:
    """Those that are defined by now."""
    found: dict[str, type[Part]] = {}
    for member in _descendants(family):
        name = member.model_fields["name"].default
        if not isinstance(name, str):
            continue  # shared ground between members, no member itself
        if found.setdefault(name, member) is not member:  # with two parents it comes twice
            raise OptionError(
                f"two parts are called {name!r}: {_where(found[name])} and {_where(member)}"
            )
    return dict(sorted(found.items()))


def _descendants(part: type[Part]) -> Iterator[type[Part]]:
    for child in part.__subclasses__():
        yield child
        yield from _descendants(child)


def _where(part: type[Part]) -> str:
    return f"{part.__module__}.{part.__qualname__}"


@functools.cache
def _discover(home: str) -> None:
    """Import a family's home, if a package all of its modules, and what is installed beside us."""
    module = importlib.import_module(home)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"{home}.{found.name}")
    _load_installed()


@functools.cache
def _load_installed() -> None:
    """Parts that other packages tell of, once: to look through what is installed takes a while."""
    for entry in importlib.metadata.entry_points(group="automl.parts"):
        entry.load()


@functools.cache
def load_plugin(path: Path) -> None:
    """Run a file of the user's own parts. Only ever called for paths the user gave.

    Raises OptionError, and PartBug with whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(f"automl_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise OptionError(f"--plugin {path}: want a Python file that exists")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks names up there

    def told(kind: object, error: BaseException | None, tb: object) -> None:
        if error and not isinstance(error, KeyboardInterrupt):
            shown = "".join(traceback.format_exception(error))
            raise PartBug(f"--plugin {path}: does not load:\n{shown}") from error

    with ExitStack() as stack:
        stack.push(told)  # sees all that is raised, an exit too
        stack.enter_context(redirect_stdout(sys.stderr))  # what it prints is no result
        spec.loader.exec_module(module)


class Task(Part):
    """A data set or a source of data, with its split, its loss and its measure."""

    home: ClassVar[str] = "automl.tasks"
    gives: ClassVar[str]  # images, pictures with boxes in them, sounds, texts, pairs, series,
    # records of a table, or prose: a text to go on with
    tells: ClassVar[str] = "classes"  # or tokens: the next one; targets of pairs; rows ahead;
    # boxes; numbers
    unit: ClassVar[str] = "examples"  # what the size of a split is counted in
    input: ClassVar[str]  # the input part that reads it unless the config names another
    origin: ClassVar[str] = "not known"  # of the data, and its licence as far as one is stated

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What trials are ranked by."""

    @abstractmethod
    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Mean in nats. `weights` (K,) say how much a target of each class counts."""

    @abstractmethod
    def tally(self, logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is summed over the batches of a split, to make scores of."""

    def joined(self, before: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tallies of the batches before, none at first, with one more: by default sums."""
        return {name: before.get(name, 0) + value for name, value in batch.items()}

    @abstractmethod
    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        """Loss and metrics by name, from the joined tallies of a split."""

    @abstractmethod
    def shape(self, root: Path | None) -> tuple[Raw, tuple[str, ...]]:
        """What is known without reading the data: the kind of examples, and the labels if any."""

    @abstractmethod
    def load(self, root: Path | None) -> Data:
        """Train and validation split; the same for every call. Raises DataError."""

    @abstractmethod
    def test(self, root: Path | None) -> Split:
        """The sealed split, opened once at the end."""

    @abstractmethod
    def baseline(self, data: Data) -> tuple[str, float]:
        """What a cheap classical model scores on the validation split, and what it is called."""

    @abstractmethod
    def chance(self, data: Data) -> tuple[str, float]:
        """What one scores there without looking at the examples, and how."""

    def hopeless(self, data: Data) -> float:
        """The score there of who learns nothing: a trial that is no better is stopped."""
        return self.chance(data)[1]


class Input(Part):
    """How raw examples become what a model reads."""

    home: ClassVar[str] = "automl.inputs"
    turns: ClassVar[dict[str, str]]  # what a task gives to what a model reads
    fitted: ClassVar[type[Inputs]]  # what `fit` returns, a dataclass of checked, plain values

    @abstractmethod
    def fit(self, data: Data) -> Inputs:
        """What is learned from the training split: means, a vocabulary. Raises SpaceError."""

    @abstractmethod
    def expect(self, raw: Raw) -> Inputs:
        """The same without data: as large as it may become."""

    def restore(self, facts: str, read: Callable[[str], str]) -> Inputs:
        """What `fit` gave, from the JSON of its facts and, by `read`, the texts of its files.

        Raises ValidationError or DataError.
        """
        return TypeAdapter(self.fitted).validate_json(facts, strict=True)


class Model(Part):
    """A family of architectures."""

    home: ClassVar[str] = "automl.models"
    # maps, or pictures, tokens, next tokens, series, columns
    reads: ClassVar[frozenset[str]] = frozenset({"maps"})
    free: ClassVar[set[str]] = set()  # knobs that cost nothing: its size is the same with any value
    origin: ClassVar[str] = ""  # of weights that it begins with, and their licence

    @abstractmethod
    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        """A module from prepared inputs to logits (N, outputs).

        From tokens int64 (N, T) where 0 pads, if it reads these. Where the next token is asked for,
        logits are (N, T, outputs), and those at a token know nothing of later ones. From series
        (N, length, C) to the rows ahead (N, horizon, C), both with mean 0 and deviation 1. From
        columns (N, C) to logits or one number, (N, members, outputs) in training where several
        learn each for itself. From pictures (N, C, H, W) to cells (N, cells, outputs + 4), of any
        number: logits of the classes and a box, x1, y1, x2, y2 in pixels of the picture.
        """

    def begin(self, model: nn.Module, inputs: Inputs, split: Split) -> None:
        """Weights of what `build` made, where chance does not draw them, ahead of the first step.

        They are learned from the encoded training split, or were on other data. Draws no random
        numbers; most families have nothing to do here.
        """

    def ready(self) -> None:
        """Raises DataError where `begin` wants what is not on this machine."""


class Optimizer(Part):
    """A rule that turns gradients into steps."""

    home: ClassVar[str] = "automl.optimizers"

    @abstractmethod
    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Over all weights of the model; decay is decoupled and spares norms and biases."""


class Schedule(Part):
    """How the learning rate moves over a training."""

    home: ClassVar[str] = "automl.schedules"

    @abstractmethod
    def factor(self, progress: float) -> float:
        """Share of the peak learning rate, at a share of all steps in 0..1."""


Augmentation = Callable[["Tensor", "Tensor"], tuple["Tensor", "Tensor"]]


class Augment(Part):
    """Random changes to training batches that keep their meaning."""

    home: ClassVar[str] = "automl.augment"

    reads: ClassVar[frozenset[str]] = frozenset(
        {"maps", "pictures", "tokens", "next tokens", "series", "columns"}
    )

    @abstractmethod
    def build(self, inputs: Inputs, outputs: int, generator: torch.Generator) -> Augmentation:
        """A function from prepared inputs and classes to changed inputs and classes or shares."""


class Federation(Part):
    """Who holds the training examples, and how what several learn becomes one model.

    Where clients hold them it is derived from FedAvg.
    """

    home: ClassVar[str] = "automl.federation"

    @property
    def passes(self) -> float:
        """Over the training split, that an epoch takes."""
        return 1.0

    def held(self, split: Split, seed: int) -> list[Tensor]:
        """The examples of each client, by index; none: all lie in one place. Raises SpaceError."""
        return []


class Sampler(Part):
    """Who proposes the next config."""

    home: ClassVar[str] = "automl.searching.samplers"
    trades: ClassVar[bool] = False  # whether it can seek several goals
    recalls: ClassVar[bool] = False  # whether it knows by the ledger alone what was tried: no
    # config comes twice, and a new process goes on as the old one would have

    @abstractmethod
    def build(self, seed: int, space: Any, ledger: Any) -> Any:
        """An Optuna sampler for a `Space`; what was tried so far stands in the `Ledger`."""


class Pruner(Part):
    """Who decides, after every epoch, whether a trial goes on, and which paused one does."""

    home: ClassVar[str] = "automl.searching.pruners"
    pauses: ClassVar[bool] = False

    @abstractmethod
    def stop(self, entry: Any, ledger: Any) -> str | None:
        """The reason to end the trial of this `Entry` for good, or None."""

    def pause(self, entry: Any, ledger: Any) -> bool:
        """Whether it shall wait, with its weights kept, while others have their turn."""
        return False

    def promote(self, ledger: Any) -> int | None:
        """The paused trial to go on with now; None: rather a new one."""
        return None

    def drop(self, ledger: Any) -> dict[int, str]:
        """Paused trials that will never go on, with the reason."""
        return {}

    def saves(self, epochs: int) -> list[int]:
        """The epochs after which a trial may pause: its weights are on disk then."""
        return []

    def earliest(self, epochs: int) -> int:
        """The first epoch of so many after which it may stop a trial."""
        return 1


class Export(Part):
    """A kind of file from which a trained model runs without this program."""

    home: ClassVar[str] = "automl.exports"
    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]  # what weights may be kept in, the first by default
    needs: ClassVar[tuple[str, ...]] = ()  # packages of the extra that has the format's name

    @abstractmethod
    def write(self, whole: Any, file: Path, precision: str) -> None:
        """A `Whole`, with its `facts`. Raises ExportError with the operator that cannot be had."""

    @abstractmethod
    def open(self, file: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
        """By the format's own runtime, on the CPU: raw batches to probabilities, and the facts."""


class Train(Strict):
    """How long and in what steps."""

    epochs: int = Field(
        20, ge=1, le=10_000, description="passes over the training split; rounds of a federation"
    )
    batch_size: int = Field(128, ge=2, le=65_536, description="examples a step")
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="share of the target spread over all classes"
    )
    class_weights: Literal["auto", "none", "root", "inverse"] = Field(
        "auto",
        description="loss weights by class frequency; auto: root where one is 4 times another",
    )
    clip: float = Field(0.0, ge=0, le=1000, description="largest gradient norm; 0 clips nothing")
    average: float = Field(
        1.0,
        ge=0,
        le=100,
        description="epochs over which weights are averaged for evaluation; 0: off",
    )


class Config(Strict):
    """One training run, whole. A space is the same with some values left open."""

    version: Literal[1] = 1
    task: SerializeAsAny[Task]
    input: SerializeAsAny[Input] = Field(
        default_factory=lambda fields: Input.of(fields["task"].input)
    )
    model: SerializeAsAny[Model]
    optimizer: SerializeAsAny[Optimizer] = Field(default_factory=lambda: Optimizer.of("adamw"))
    schedule: SerializeAsAny[Schedule] = Field(default_factory=lambda: Schedule.of("wsd"))
    augment: SerializeAsAny[Augment] = Field(default_factory=lambda: Augment.of("none"))
    federation: SerializeAsAny[Federation] = Field(default_factory=lambda: Federation.of("none"))
    train: Train = Train()
    seed: int = Field(
        0, ge=0, lt=2**31, description="of the weights, the batches, the augmentation, the clients"
    )

    @model_validator(mode="after")
    def _one_can_read_the_other(self) -> Self:
        gives, task = self.task.gives, self.task.name
        turned = self.input.turns.get(gives)
        if turned is None:
            can = [name for name, part in Input.members().items() if gives in part.turns]
            told = f"{self.input.name} reads {' and '.join(self.input.turns)}; {task} gives {gives}"
            told += f"; want {' or '.join(can)}"
            raise PydanticCustomError("reads", "{told}", {"told": told, "key": "input"})
        parts: list[tuple[str, Model | Augment, type[Model | Augment]]]
        parts = [("model", self.model, Model), ("augment", self.augment, Augment)]
        for key, part, family in parts:
            if turned not in part.reads:
                can = [name for name, member in family.members().items() if turned in member.reads]
                told = f"{part.name} reads {' and '.join(sorted(part.reads))}; {task} gives {gives}"
                told += f", and {self.input.name} makes them {turned}; want {' or '.join(can)}"
                raise PydanticCustomError("reads", "{told}", {"told": told, "key": key})
        if self.federated and gives in ("prose", "series"):
            told = f"{self.federation.name} shares out examples; {task} gives {gives}; want none"
            raise PydanticCustomError("reads", "{told}", {"told": told, "key": "federation"})
        return self

    @model_validator(mode="after")
    def _only_classes_are_weighed(self) -> Self:
        tells, train = self.task.tells, self.train
        for knob, off, where in (
            ("class_weights", ("auto", "none"), ("classes",)),
            ("label_smoothing", (0.0,), ("classes", "tokens", "targets")),
        ):
            got = getattr(train, knob)
            if got not in off and tells not in where:
                told = f"got {got}; want {off[-1]}, for {self.task.name} tells {tells}"
                raise PydanticCustomError("tells", "{told}", {"told": told, "key": f"train.{knob}"})
        alpha = getattr(self.federation, "alpha", None)
        if alpha is not None and tells != "classes":
            told = f"got {alpha:g}, for classes; want null, for {self.task.name} tells {tells}"
            raise PydanticCustomError("tells", "{told}", {"told": told, "key": "federation.alpha"})
        return self

    @property
    def federated(self) -> bool:
        return self.federation.name != "none"

    @property
    def summary(self) -> str:
        """What it is in one line: architecture, optimizer, batch size, and federation if any."""
        told = f"{self.model.summary} | {self.optimizer.summary} | batch {self.train.batch_size}"
        return f"{told} | {self.federation.summary}" if self.federated else told

    @property
    def structure(self) -> str:
        """Equal where input and model are, but for knobs that leave the model as large as it is."""
        return self.input.model_dump_json() + self.model.model_dump_json(exclude=self.model.free)

    def dump(self) -> dict[str, Any]:
        """Plain values, every default written out: `Config.of(config.dump()) == config`."""
        return self.model_dump(mode="json")


def dotted(place: Place) -> str:
    """`('model', 'stages', 1, 'depth')` as `model.stages[1].depth`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def problems(error: ValidationError) -> list[tuple[Place, str]]:
    """Each problem of a failed check: where it is, and one line that says what, got and wanted."""
    return [_problem(detail) for detail in error.errors(include_url=False)]


def first_problem(error: ValidationError) -> str:
    """`model.depth: got 0; want at least 1`; without a place where all of it is wrong."""
    place, message = problems(error)[0]
    return f"{dotted(place)}: {message}" if place else message


WANTED = {
    "int_type": "want a whole number",
    "float_type": "want a number",
    "string_type": "want a text",
    "bool_type": "want true or false",
    "list_type": "want a list",
    "model_type": "want a mapping",
    "finite_number": "want a finite number",
    "literal_error": "want {expected}",
    "greater_than": "want more than {gt}",
    "greater_than_equal": "want at least {ge}",
    "less_than": "want less than {lt}",
    "less_than_equal": "want at most {le}",
    "too_short": "want at least {min_length}",
    "too_long": "want at most {max_length}",
}


def _problem(detail: ErrorDetails) -> tuple[Place, str]:
    place, kind, facts = detail["loc"], detail["type"], detail.get("ctx", {})
    if "told" in facts:  # our own words, see PydanticCustomError
        return (*place, facts["key"]) if "key" in facts else place, facts["told"]
    if kind == "missing":
        family = {"task": Task, "model": Model}.get(dotted(place))
        wanted = (
            f"; want the name of the {dotted(place)}{nearest('', family.members())}"
            if family
            else ""
        )
        return place, f"is missing{wanted}"
    got = (
        f"{len(detail['input'])} items"
        if kind in ("too_short", "too_long")
        else shown(detail["input"])
    )
    if kind in WANTED:
        wanted = WANTED[kind].format(**facts)
        if kind in ("int_type", "float_type") and isinstance(detail["input"], list | dict):
            wanted += f", or a hole, {{{kind[:-5]}: [lowest, highest]}}"
    else:
        wanted = detail["msg"].replace("Input should be", "want")
    return place, f"got {got}; {wanted}"
