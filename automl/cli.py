"""The commands. Each calls one library function and prints. Imports wait until they are needed."""

from __future__ import annotations

import gc
import os
import time as clock

BEGAN = clock.monotonic()  # a time budget counts from here: imports are part of it
SELDOM = (100_000, 20, 100)
gc.set_threshold(*SELDOM)  # a fifth of all imports is looking for garbage
if "OMP_WAIT_POLICY" not in os.environ:  # threads that wait for others soon leave their cores
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # read when torch is loaded

import io  # noqa: E402
import json  # noqa: E402
import shlex  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Annotated, Any, NoReturn  # noqa: E402

import typer  # noqa: E402

from automl import amounts  # noqa: E402
from automl.errors import AutomlError, DataError, OptionError, PartBug, SpaceError, StudyError  # noqa: E402
from automl.launch import early  # noqa: E402
from automl.places import here, root, target  # noqa: E402

if TYPE_CHECKING:
    from types import FrameType

    from automl.results.artifact import Artifact, Detection
    from automl.searching.study import Study
    from automl.space import Space

app = typer.Typer(
    help="Search for the best small neural network for your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
spaces = typer.Typer(
    help="Check and show search spaces.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(spaces, name="space")
portfolios = typer.Typer(
    help="Build portfolios: configs to try first.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(portfolios, name="portfolio")


def _here(param: typer.CallbackParam, value: Path | None) -> Path | None:
    return None if value is None else here(value, f"--{param.name}")


SpaceName = Annotated[str, typer.Argument(help="a space by name (`automl list`) or a YAML file")]
StudyName = Annotated[str, typer.Argument(help="a study by name")]
Studies = Annotated[Path, typer.Option(callback=_here, help="the folder that holds the studies")]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", callback=_here, help="where data lies on disk; else AUTOML_DATA, else download"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="a Python file with parts of your own; it is run"),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]


@app.command()
def search(
    context: typer.Context,
    space: SpaceName,
    trials: Annotated[
        int, typer.Option(help="trials in all, counting those of earlier runs of this command")
    ] = 100,
    time: Annotated[str | None, typer.Option(help="end within: 90s, 30m, 8h, 1h30m")] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the study; else that of the space")
    ] = None,
    studies: Studies = Path("studies"),
    data: DataPath = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(help="processes; else one per core, or as many as share the GPUs")
    ] = None,
    workers_per_gpu: Annotated[
        int | None, typer.Option(help="processes on each GPU; else up to 8, by cores and memory")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of proposals, weights and batches")] = 0,
    start_from: Annotated[
        str | None,
        typer.Option("--from", help="a study, or a portfolio file, whose best configs come first"),
    ] = None,
    finalists: Annotated[
        int, typer.Option(help="best configs to train again at the end; 0: none")
    ] = 3,
    seeds: Annotated[int, typer.Option(help="fresh trainings of each finalist")] = 3,
    refit: Annotated[
        bool, typer.Option("--refit", help="train the winner again, on the validation split too")
    ] = False,
    disk: Annotated[
        str | None, typer.Option(help="most a study may take: 500MB, 5GB; the worst weights go")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print the result only")] = False,
) -> None:
    """Search a space for the best model. The same command goes on where it stopped.

    Ctrl-C once saves the epochs under way, twice stops now. Exit status 1: no model, 130: stopped.
    """
    begun = context.with_resource(early())  # it imports while this process does

    from automl.screen import Screen
    from automl.searching.finals import Finals
    from automl.searching.run import Finished, run

    seconds = None if time is None else amounts.seconds(time)
    loaded = _space(space, plugin)
    heard: list[int] = []  # signals to leave; one more means now
    screen = Screen(quiet=quiet, as_json=as_json, command=shlex.join(["automl", *sys.argv[1:]]))
    events = run(
        loaded,
        name=Path(loaded.source).stem if name is None else name,
        studies=studies,
        trials=trials,
        seconds=seconds,
        data=root(data),
        device=device,
        workers=workers,
        workers_per_gpu=workers_per_gpu,
        seed=seed,
        plugins=plugin or (),
        start_from=start_from,
        finals=Finals(finalists, seeds, refit),
        disk=None if disk is None else amounts.size(disk),
        leave=lambda: bool(heard),
        began=BEGAN,
        early=begun,
    )

    def hear(number: int, frame: FrameType | None) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)
        screen.leaving()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # a shell may have started this to ignore it
            signal.signal(number, hear)
    try:
        with screen:
            for event in events:
                screen.show(event)
        if isinstance(event, Finished) and event.metrics is None:
            raise typer.Exit(1)
    except KeyboardInterrupt:
        screen.interrupted()
        raise typer.Exit(130) from None
    finally:
        events.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="a config: a space without holes")],
    out: Annotated[
        Path | None, typer.Option(callback=_here, help="folder for the model; else models/<config>")
    ] = None,
    data: DataPath = None,
    device: Device = "auto",
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train one config, test it, save the model."""
    from automl.results import artifact
    from automl.results.delivery import fit
    from automl.training.precision import pick

    whole = _space(str(config), plugin).config()
    folder = out or Path("models") / config.stem
    for epoch in fit(whole, folder, root=root(data), device=pick(device)):
        scores = "  ".join(f"{name} {value:.4f}" for name, value in epoch.metrics.items())
        _note(
            f"epoch {epoch.number:>3}  train loss {epoch.train_loss:.4f}  {scores}"
            f"  {epoch.seconds:.1f} s"
        )
    model = artifact.load(folder)
    if as_json:
        print(json.dumps(model.metrics))
    else:
        name = whole.task.metric.name
        bleu = model.metrics.get("bleu")
        more = f", BLEU {bleu['score']:.2f}" if bleu else ""
        print(f"test {name} {model.metrics['test'][name]:.4f}{more}\n")
        print(f"import automl\nmodel = automl.load({str(folder)!r})")


@app.command()
def predict(
    name: StudyName,
    inputs: Annotated[list[str], typer.Argument(help="image or sound files, texts, or tables")],
    studies: Studies = Path("studies"),
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Predict with the best model of a study: a class, a number or boxes for each input."""
    from dataclasses import asdict

    from automl.config import printable

    model = _study(name, studies, plugin).best
    if model.config.task.tells == "boxes":
        _boxes(inputs, model.detect(inputs), as_json=as_json)
        return
    if model.config.task.gives == "records":
        _rows(model, inputs, as_json=as_json)
        return
    predictions = model.predict(inputs)
    if as_json:
        answers = zip(inputs, predictions, strict=True)
        print(json.dumps([{"input": file, **asdict(told)} for file, told in answers]))
        return
    files = [printable(file) for file in inputs]
    width = max(map(len, files))
    for file, told in zip(files, predictions, strict=True):
        print(f"{file:<{width}}  {printable(told.label)}  {told.probability:.3f}")


def _rows(model: Artifact, files: list[str], *, as_json: bool) -> None:
    from dataclasses import asdict

    from automl.config import printable

    told, lines = list[dict[str, Any]](), list[str]()
    for file in files:
        if model.config.task.tells == "numbers":
            answers = [{"value": value} for value in model.estimate(file)]
            words = [f"{answer['value']:.7g}" for answer in answers]
        else:
            found = model.predict(file)
            answers = [asdict(one) for one in found]
            words = [f"{printable(one.label)}  {one.probability:.3f}" for one in found]
        told += [{"input": file, "row": row, **one} for row, one in enumerate(answers, 1)]
        lines += [f"{printable(file)}  {row}  {word}" for row, word in enumerate(words, 1)]
    print(json.dumps(told) if as_json else "\n".join(lines))


def _boxes(files: list[str], found: list[list[Detection]], *, as_json: bool) -> None:
    from dataclasses import asdict

    from automl.config import printable

    pictures = zip(files, found, strict=True)
    if as_json:
        boxes = [{"input": file, "boxes": [asdict(one) for one in some]} for file, some in pictures]
        print(json.dumps(boxes))
        return
    for file, some in pictures:
        for one in some:
            corners = " ".join(f"{side:.0f}" for side in one.box)
            print(f"{printable(file)}  {printable(one.label)}  {one.score:.3f}  {corners}")
        if not some:
            print(f"{printable(file)}  nothing")


@app.command()
def verify(
    name: StudyName,
    studies: Studies = Path("studies"),
    data: DataPath = None,
    device: Device = "auto",
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Load the best model and evaluate it on the validation split: is it what was trained?"""
    from automl.training.precision import pick

    study = _study(name, studies, plugin)
    model = study.model(str(pick(device)))
    metric = study.task.metric.name
    now = model.evaluate(study.data(root(data)).valid)[metric]
    try:
        was = float(model.metrics["proof"]["trained"])
    except (LookupError, TypeError, ValueError) as error:
        told = "does not say what the model scored when it was trained"
        raise StudyError(f"{study.path / 'best' / 'metrics.json'}: {told}") from error
    if as_json:
        print(json.dumps({"now": now, "trained": was}))
        return
    print(f"validation {metric} {now:.4f}, as trained {was:.4f}")
    if f"{now:.4f}" != f"{was:.4f}":
        raise StudyError(f"{study.path / 'best'}: the model is not the one that was trained")


@app.command()
def reproduce(
    name: StudyName,
    trial: Annotated[int, typer.Option(help="number of the trial, as in the leaderboard")],
    studies: Studies = Path("studies"),
    data: DataPath = None,
    device: Device = "auto",
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Train a trial again and compare it with the study. Exit status 1: it differs."""
    from automl.searching.reproduction import Reproduction
    from automl.training.precision import pick

    study = _study(name, studies, plugin)
    again = Reproduction.of(study, trial, root=root(data), device=pick(device))
    row, metric = again.row, again.metric.name
    _note(f"trial {trial}, {row.state}, epoch {row.epochs}: {row.summary}")
    for epoch, was, now in again.train():
        _note(f"epoch {epoch:>3}  {metric} {was:.4f} in the study, {now:.4f} now")
    if as_json:
        told = {"trial": trial, "study": again.was, "now": again.now, "differs": again.differs}
        print(json.dumps(told | {"agrees": again.agrees, "verdict": again.verdict}))
    else:
        last = f"{again.now[-1]:.4f}" if again.now else "none"
        print(f"{metric} {again.was[-1]:.4f} in the study, {last} now: {again.verdict}")
    raise typer.Exit(0 if again.agrees else 1)


@app.command()
def forecast(
    name: StudyName,
    history: Annotated[Path, typer.Argument(help="a table of the rows up to now, oldest first")],
    studies: Studies = Path("studies"),
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Forecast the next rows with the best model of a study, as CSV."""
    import csv

    from automl.config import printable

    told = _study(name, studies, plugin).best.forecast(history)
    if as_json:
        print(json.dumps({column: told[column].tolist() for column in told.columns}))
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(map(printable, told.columns))
    out.writerows([f"{number:.7g}" for number in row] for row in told.values.tolist())


@app.command()
def translate(
    name: StudyName,
    texts: Annotated[
        list[str] | None, typer.Argument(help="texts; else each line of standard input is one")
    ] = None,
    beam: Annotated[
        int, typer.Option(help="candidates kept at each step; 1: the likeliest token each time")
    ] = 1,
    studies: Studies = Path("studies"),
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Translate texts with the best model of a study, a line for each."""
    from automl.config import printable

    model = _study(name, studies, plugin).best
    given = texts or _lines()
    told = model.translate(given, beam=beam) if given else []
    if as_json:
        print(json.dumps(told))
        return
    for one in told:
        print(printable(" ".join(one.split())))


def _lines() -> list[str]:
    """Those of standard input, none where it is empty. Raises DataError."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
        return text.removesuffix("\n").split("\n") if text else []
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"standard input: line {line:,}: want UTF-8 text") from error


@app.command()
def generate(
    name: StudyName,
    prompt: Annotated[str, typer.Option(help="the text to continue")] = "",
    length: Annotated[int, typer.Option(help="characters to write")] = 400,
    temperature: Annotated[
        float,
        typer.Option(help="below 1 more of the likely, above 1 more of the rare; 0: likeliest"),
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="draw from the k likeliest tokens; 0: all")] = 0,
    top_p: Annotated[
        float, typer.Option(help="draw from the likeliest that hold this share")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draws")] = 0,
    studies: Studies = Path("studies"),
    plugin: Plugins = None,
) -> None:
    """Write text with the best model of a study, as it is drawn."""
    model = _study(name, studies, plugin).best
    pieces = model.stream(
        prompt, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
def export(
    name: StudyName,
    to: Annotated[str, typer.Option(help="the format: pt2, onnx or safetensors")],
    out: Annotated[
        Path | None,
        typer.Option(callback=_here, help="the file; else NAME.pt2, NAME.onnx, ... right here"),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="of the weights: float32, float16, bfloat16 or, in onnx, int8")
    ] = "float32",
    studies: Studies = Path("studies"),
    data: DataPath = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Write the best model of a study as one file that runs without automl, and prove it."""
    from dataclasses import asdict

    from automl.config import Export
    from automl.exports.verified import export as write
    from automl.screen import exported
    from automl.searching.study import Study

    _load(plugin)
    try:
        form = Export.of(to)
    except SpaceError as error:
        raise OptionError(f"--to: {error}") from error
    file = out or Path(f"{name}{'' if precision == 'float32' else '.' + precision}{form.suffix}")
    study = Study.open(name, studies)
    told = write(study.best, form, file, precision=precision, root=root(data))
    if as_json:
        print(json.dumps(asdict(told), default=str))
    else:
        exported(told)
    if (together := study.path / "ensemble").is_dir():
        _note(f"{together} is not in it: a file holds one model")


@app.command()
def leaderboard(
    name: StudyName,
    studies: Studies = Path("studies"),
    top: Annotated[int, typer.Option(min=1, help="rows to show")] = 20,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """The trials of a study, best first."""
    from dataclasses import asdict

    from automl.results.leaderboard import counted
    from automl.screen import table

    study = _study(name, studies, plugin)
    rows = study.leaderboard
    if as_json:
        print(json.dumps([asdict(row) for row in rows[:top]]))
    else:
        table(rows[:top], study.task.metric)
        print(f"\n{counted(rows)}")


@app.command()
def report(
    name: StudyName,
    studies: Studies = Path("studies"),
    data: DataPath = None,
    plugin: Plugins = None,
) -> None:
    """Write a study as one page that opens anywhere, offline: report.html in its folder."""
    study = _study(name, studies, plugin)
    try:
        found, absent = study.task.load(root(data)), ""
    except DataError as error:  # the page has much to say without examples
        found, absent = None, str(error)
        _note(f"no examples in the report: {error}")
    print(study.report(found, absent))


@app.command("list")
def list_() -> None:
    """The spaces and parts that can be named."""
    from automl.config import (
        Augment,
        Export,
        Federation,
        Input,
        Model,
        Optimizer,
        Pruner,
        Sampler,
        Schedule,
        Task,
    )
    from automl.models.cnn import Stage
    from automl.space import named

    print(f"{'space':<10} {', '.join(sorted(named()))}")
    families = (
        *(Task, Input, Model, Stage, Optimizer, Schedule, Augment, Federation),
        *(Sampler, Pruner, Export),
    )
    for family in families:
        print(f"{family.__name__.lower():<10} {', '.join(family.members())}")


@app.command()
def dashboard(
    name: StudyName,
    studies: Studies = Path("studies"),
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="port of the page; else 8080, or any that is free"),
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="open it in your browser")] = True,
) -> None:
    """Look at a study in optuna-dashboard, on this machine only."""
    import webbrowser
    from importlib.util import find_spec

    from automl.searching.dashboard import server
    from automl.searching.study import Study

    study = Study.open(name, studies)
    if find_spec("optuna_dashboard") is None:
        raise OptionError("automl dashboard needs optuna-dashboard: pip install '.[dashboard]'")
    pages, address = server(study, port)
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if show:
        webbrowser.open(address)
    try:
        pages.serve_forever()
    except KeyboardInterrupt:
        pages.server_close()


@app.command()
def doctor(data: DataPath = None) -> None:
    """What is installed, and where data is looked for."""
    import shutil

    import torch

    from automl import cache
    from automl.engines.local import devices
    from automl.searching.study import versions
    from automl.training import precision

    for package, number in versions().items():
        print(f"{package:<14} {number}")
    found = [
        torch.device("cpu"),
        *(torch.device("cuda", i) for i in range(torch.cuda.device_count())),
    ]
    for device in found:
        print(f"{device!s:<14} {precision.describe(device)}")
    slots = devices(precision.pick(), None)
    print(f"{'searches on':<14} {', '.join(dict.fromkeys(slots))}: {len(slots)} workers")
    print(f"{'free disk':<14} {shutil.disk_usage('.').free / 1e9:.1f} GB here")
    nowhere = "downloaded when needed; --data or AUTOML_DATA names a folder"
    print(f"{'data':<14} {root(data) or nowhere}")
    print(f"{'cache':<14} {cache.folder()}")


@spaces.command()
def check(space: SpaceName, data: DataPath = None, plugin: Plugins = None) -> None:
    """Prove a space: every range end and option is a config whose model fits its data."""
    from automl.space import prove

    loaded = _space(space, plugin)
    raw, labels = loaded.task.shape(root(data))
    fewest, most = prove(loaded, len(labels), lambda part: part.expect(raw))
    print(f"{loaded.source}: {len(loaded.knobs())} knobs, {fewest:,} to {most:,} parameters: good")


@spaces.command()
def show(
    space: SpaceName,
    data: DataPath = None,
    plugin: Plugins = None,
    draws: Annotated[int, typer.Option(min=1, max=10_000, help="random configs to count")] = 200,
) -> None:
    """What a space leaves open, and how large its models are."""
    from automl.screen import knobs
    from automl.space import sizes

    loaded = _space(space, plugin)
    raw, labels = loaded.task.shape(root(data))
    print(knobs(loaded, sizes(loaded, len(labels), lambda part: part.expect(raw), draws)))


@spaces.command()
def schema() -> None:
    """The JSON Schema of space files, for editors."""
    from automl.schema import schema as make

    print(json.dumps(make(), indent=1))


@portfolios.command()
def build(
    names: Annotated[list[str], typer.Argument(help="studies of one kind of data, by name")],
    out: Annotated[Path, typer.Option(callback=_here, help="the file to write: mine.json")],
    studies: Studies = Path("studies"),
    entries: Annotated[int, typer.Option(min=1, max=100, help="configs, at most")] = 12,
    plugin: Plugins = None,
) -> None:
    """The configs of studies that are worth trying first on other data, cheapest first."""
    from automl.searching import portfolio
    from automl.searching.study import Study

    target(out, ".json")
    _load(plugin)
    found = portfolio.build([Study.open(name, studies) for name in names], entries)
    portfolio.write(out, found)
    for belief in found:
        print(f"{belief.told}, {belief.origin.seconds:.1f} s")


def _space(name: str, plugins: list[Path] | None) -> Space:
    from automl.space import Space, find

    _load(plugins)
    return Space.load(find(name))


def _study(name: str, studies: Path, plugins: list[Path] | None) -> Study:
    from automl.searching.study import Study

    _load(plugins)
    return Study.open(name, studies)


def _load(plugins: list[Path] | None) -> None:
    """Parts of the user's own, before anything names them."""
    from automl.config import load_plugin

    for plugin in plugins or ():
        load_plugin(plugin)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> NoReturn:
    """The command line. A user's error is one line and status 2; a bug keeps its traceback."""
    if sys.stdout is None:  # closed by who began this, as `>&-` does
        sys.stdout = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a sign of what is said
    try:
        app()
    except PartBug as error:
        _note(f"automl: {error}")
        sys.exit(1)
    except AutomlError as error:
        _note(f"automl: {error}")
        sys.exit(2)
    raise AssertionError("typer exits")


if __name__ == "__main__":
    main()
