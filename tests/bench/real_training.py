"""Whole searches on real data: the engine as it is against the first one, by what they deliver.

    python tests/bench/real_training.py run digits auto --seeds 0-4
    python tests/bench/real_training.py run digits first --seeds 0-4
    python tests/bench/real_training.py report

Each is `automl search` for so many seconds with one worker, nothing told by a portfolio, and the
best model tested on the sealed split. Results are kept in `studies/quality/real/`, none twice. It
needs a core of its own, for time is the budget.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

import yaml

ROOT = Path(__file__).parents[2]
OUT = ROOT / "studies" / "quality" / "real"
SECONDS = {"digits": 60, "cifar5k": 180, "agnews": 120}  # by space
ENGINES = {
    "auto": {},
    "first": {"sampler": {"name": "tpe", "startup": 6}, "pruner": "asha"},
    "random": {"sampler": "random", "pruner": "none"},
}


def search(name: str, engine: str, seed: int) -> dict[str, float]:
    """What came of one search: accuracies of the model that is delivered, and the trials begun."""
    space = yaml.safe_load((ROOT / "search_spaces" / f"{name}.yaml").read_text())
    space["search"] = {**space.get("search", {}), "portfolio": 0, **ENGINES[engine]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{name}.yaml")
        file.write_text(yaml.safe_dump(space))
        command = ["-P", "-m", "automl.cli", "search", str(file), "--trials", "10000"]
        command += ["--time", f"{SECONDS[name]}s", "--workers", "1", "--seed", str(seed)]
        command += ["--finalists", "0", "--studies", folder, "--quiet"]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        told = json.loads(Path(folder, name, "best", "metrics.json").read_text())
    return {
        "test": told["test"]["accuracy"],
        "valid": told["valid"]["accuracy"],
        "trials": told["search"]["trials"],
    }


def run(name: str, engine: str, seeds: list[int]) -> None:
    for seed in seeds:
        out = OUT / name / engine / f"{seed}.json"
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(search(name, engine, seed)) + "\n")
        print(f"{name} {engine} seed {seed}: {out.read_text().strip()}", flush=True)


def report() -> None:
    print("| data | engine | runs | test | validation | trials |\n|---|---|---|---|---|---|")
    for folder in sorted(OUT.glob("*/*")):
        runs = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        cells = [f"{mean(run['trials'] for run in runs):.0f}"]
        for part in ("valid", "test"):
            scores = [run[part] for run in runs]
            spread = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
            cells.insert(0, f"{mean(scores):.4f}{spread}")
        print(f"| {folder.parent.name} | {folder.name} | {len(runs)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("name", choices=SECONDS)
    one.add_argument("engine", choices=ENGINES)
    one.add_argument("--seeds", default="0-4", help="such as 3, or 0-4")
    commands.add_parser("report")
    given = vars(parser.parse_args())
    if given.pop("command") == "report":
        report()
    else:
        low, _, high = given["seeds"].partition("-")
        run(given["name"], given["engine"], list(range(int(low), int(high or low) + 1)))


if __name__ == "__main__":
    main()
