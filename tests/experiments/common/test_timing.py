"""Interleaved timing: order of the rounds, and fewer rounds for slow computations."""

import time

from experiments.common.timing import interleave, median_milliseconds, take_turns


def test_each_round_has_every_measurement_once_in_an_order_of_its_own():
    taken = []
    measurements = {name: lambda name=name: taken.append(name) or float(name) for name in range(6)}
    results = take_turns(measurements, dict.fromkeys(measurements, 1), rounds=8)
    rounds = [tuple(taken[start : start + 6]) for start in range(0, 48, 6)]
    assert all(sorted(own) == list(range(6)) for own in rounds)
    assert len(set(rounds)) > 4
    assert list(results.items()) == [(name, [name] * 8) for name in range(6)]


def test_slow_computations_run_in_fewer_rounds():
    calls = []
    runs = {
        "slow": lambda: calls.append("slow") or time.sleep(0.02),
        "fast": lambda: calls.append("fast"),
    }
    times = interleave(runs, rounds=4, longest_seconds=0.05)
    assert 1 <= len(times["slow"]) <= 2
    assert len(times["fast"]) == 4
    # Each runs once before the rounds.
    assert [calls.count(name) for name in runs] == [len(own) + 1 for own in times.values()]


def test_medians_are_milliseconds():
    times = median_milliseconds({"slow": lambda: time.sleep(0.01), "fast": lambda: None}, rounds=3)
    assert list(times) == ["slow", "fast"]
    assert times["slow"] >= 10 > times["fast"]
