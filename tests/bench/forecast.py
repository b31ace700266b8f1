"""How well the seconds of an epoch are foretold, against the mean so far, on recorded trainings.

    python tests/bench/forecast.py [configs]

Of each recorded space so many configs are measured; after 4, 8, ... of them in random order the
others are foretold. Medians over 60 orders of the median miss of a config (a factor) and of the
miss of their sum (a share), first of the mean, then of the forecast.
"""

from __future__ import annotations

import random
import statistics
import sys
from math import exp, log

from replay import CHOSEN_ON, Recording

from automl.searching.costs import Costs
from automl.size import Size

Seen = tuple[Size, int, float]  # size, batch size, seconds of an epoch


def recorded(name: str, count: int) -> list[Seen]:
    recording = Recording.load(name)
    timed = [config for config in recording.configs if config.seconds > 0][:count]
    return [(*recording.size(config.values), config.seconds) for config in timed]


def missed(told: list[float], came: list[float]) -> tuple[float, float]:
    each = statistics.median(abs(log(a / b)) for a, b in zip(told, came, strict=True))
    return exp(each), abs(sum(told) / sum(came) - 1)


def main(count: str = "130") -> None:
    for name in CHOSEN_ON:
        seen = recorded(name, int(count))
        for known in (4, 8, 16, 32):
            told: list[tuple[float, ...]] = []
            for seed in range(60):
                order = random.Random(seed).sample(seen, len(seen))
                costs, came = Costs(), [seconds for _, _, seconds in order[known:]]
                for trial, (size, batch, seconds) in enumerate(order[:known]):
                    costs.learn(trial, size, batch, seconds)
                mean = statistics.mean(seconds for _, _, seconds in order[:known])
                foretold = [costs.foretell(size, batch) or mean for size, batch, _ in order[known:]]
                told.append(missed([mean] * len(came), came) + missed(foretold, came))
            factor, total, better, sums = map(statistics.median, zip(*told, strict=True))
            print(
                f"{name}, after {known}: a config within {factor:.2f} times, "
                f"{better:.2f} foretold; "
                f"all within {total:.0%}, {sums:.0%} foretold",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
