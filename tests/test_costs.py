"""What a config takes is foretold from what others took."""

from __future__ import annotations

import random

import pytest

from automl.searching.costs import FEWEST, Costs
from automl.size import Size


def drawn(rng: random.Random) -> tuple[Size, int]:
    params = int(10 ** rng.uniform(3, 6))
    return Size(params, params * rng.choice([1, 10, 100])), rng.choice([32, 64, 128])


def taken(size: Size, batch: int) -> float:
    """Seconds, as machines have them: a power of the work, and something a step."""
    return 1e-6 * size.macs**0.8 * (size.params / 1e5) ** 0.1 * (batch / 64) ** -0.5


def learned(count: int, seed: int = 0) -> Costs:
    rng, costs = random.Random(seed), Costs()
    for trial in range(count):
        size, batch = drawn(rng)
        costs.learn(trial, size, batch, taken(size, batch))
    return costs


def test_nothing_is_foretold_from_a_few() -> None:
    assert learned(FEWEST - 1).foretell(Size(10, 10), 64) is None
    assert learned(FEWEST - 1).error is None
    assert learned(FEWEST).foretell(Size(10, 10), 64) is not None


def test_what_grows_by_a_power_is_foretold() -> None:
    costs, rng = learned(60), random.Random(1)
    for _ in range(50):
        size, batch = drawn(rng)
        assert costs.foretell(size, batch) == pytest.approx(taken(size, batch), rel=0.3)
    assert costs.error is not None
    assert 1 < costs.error < 1.3


def test_the_mean_is_foretold_where_sizes_tell_nothing() -> None:
    costs, rng = Costs(), random.Random(0)
    seconds = [rng.lognormvariate(0, 1) for _ in range(400)]
    for trial, second in enumerate(seconds):
        costs.learn(trial, Size(1000, 1000), 64, second)
    mean = sum(seconds) / len(seconds)
    assert costs.foretell(Size(1000, 1000), 64) == pytest.approx(mean, rel=0.01)


def test_what_is_trained_in_part_takes_less() -> None:
    whole, part, costs = Size(10**6, 10**7), Size(10**6, 10**7, 999_000), Costs()
    for trial in range(16):
        size, seconds = (part, 1.0) if trial % 2 else (whole, 3.0)
        costs.learn(trial, size, 64, seconds)
    assert costs.foretell(whole, 64) == pytest.approx(3, rel=0.1)
    assert costs.foretell(part, 64) == pytest.approx(1, rel=0.1)


def test_a_forecast_stays_near_what_was_seen() -> None:
    costs = learned(20)
    most = max(2.72**cost for _, cost in costs.points.values())
    told = costs.foretell(Size(10**12, 10**15), 32)
    assert told is not None
    assert told < 6.7 * most


def test_a_trial_that_goes_on_counts_once_by_what_it_takes_now() -> None:
    costs = learned(10)
    size, batch = drawn(random.Random(9))
    for seconds in (5.0, 3.0, 2.0):
        costs.learn(10, size, batch, seconds)
    told = costs.told[10]
    again = learned(10)
    again.learn(10, size, batch, 2.0)
    assert again.foretell(size, batch) == costs.foretell(size, batch)
    assert (again.told[10], again.error) == (told, costs.error)


def test_of_many_trials_the_latest_thousand_tell() -> None:
    both, late = Costs(), Costs()
    for trial in range(1500):
        size, batch = drawn(random.Random(trial))
        pace = 100.0 if trial < 500 else taken(size, batch)
        both.learn(trial, size, batch, pace)
        if trial >= 500:
            late.learn(trial, size, batch, pace)
    told = both.foretell(size, batch)
    assert told == pytest.approx(late.foretell(size, batch))
    assert told == pytest.approx(taken(size, batch), rel=0.3)


def test_an_epoch_of_no_time_teaches_nothing() -> None:
    costs = learned(5)
    costs.learn(5, Size(1, 1), 64, 0.0)
    assert len(costs.points) == 5


@pytest.mark.parametrize("last", [4.0, 0.25])
def test_a_forecast_that_was_too_low_or_too_high_is_off_by_a_factor_above_one(last: float) -> None:
    costs = Costs()
    for trial in range(FEWEST):
        costs.learn(trial, Size(1000, 1000), 32, 1.0)
        assert costs.error is None, "nothing was foretold"
    costs.learn(FEWEST, Size(1000, 1000), 32, last)
    assert costs.error == pytest.approx(4)
