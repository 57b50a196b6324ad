"""Interleaved timing: computations take turns, so that all meet the same noise of the machine."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbox.models import SegmentationNetwork


def median_milliseconds[Name](
    runs: Mapping[Name, Callable[[], Any]], rounds: int
) -> dict[Name, float]:
    """Times computations, each once in every round.

    Args:
      runs: functions that start a computation and return its results, by name. Each is called once
        before the first round, so that it is compiled.
      rounds: the number of rounds, 1 or more.

    Returns:
      The median time of each computation in milliseconds, by name.
    """
    times = interleave(runs, rounds)
    return {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}


def interleave[Name](
    runs: Mapping[Name, Callable[[], Any]], rounds: int, longest_seconds: float = math.inf
) -> dict[Name, list[float]]:
    """Times computations, each once in every round, and slow ones in fewer rounds.

    Args:
      runs: functions that start a computation and return its results, by name. Each is called once
        before the first round, so that it is compiled.
      rounds: the number of rounds, 1 or more.
      longest_seconds: how long one computation may take in all rounds together. One that would take
        longer runs in fewer rounds, but at least in one.

    Returns:
      All measured times of each computation in seconds, by name.
    """
    intervals = {}
    for name, run in runs.items():
        affordable = max(1, int(min(rounds, longest_seconds / _seconds(run))))
        intervals[name] = -(-rounds // affordable)
    measurements = {name: partial(_seconds, run) for name, run in runs.items()}
    return take_turns(measurements, intervals, rounds)


def take_turns[Name](
    measurements: Mapping[Name, Callable[[], float]], intervals: Mapping[Name, int], rounds: int
) -> dict[Name, list[float]]:
    """Takes measurements in rounds, in a new order in each.

    Args:
      measurements: functions that measure something once and return the result, by name.
      intervals: which rounds each measurement is taken in, by name: every round for 1, every second
        round for 2, and so on.
      rounds: the number of rounds.

    Returns:
      All results of each measurement, by name.
    """
    results: dict[Name, list[float]] = {name: [] for name in measurements}
    order = list(measurements)
    generator = random.Random(0)
    for round_ in range(rounds):
        # The previous run leaves traces in caches and memory, so it must not always be the same.
        generator.shuffle(order)
        for name in order:
            if round_ % intervals[name] == 0:
                results[name].append(measurements[name]())
    return results


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def predictor(model: SegmentationNetwork, images: jax.Array) -> Callable[[], jax.Array]:
    """A compiled function without arguments that finds the most likely class of each pixel.

    Args:
      model: the network.
      images: the images to segment, `(N, H, W, 3)`.
    """
    graph, state = nnx.split(model)

    @jax.jit
    def predict(state: nnx.State, images: jax.Array) -> jax.Array:
        return jnp.argmax(nnx.merge(graph, state)(images), axis=-1)

    return partial(predict, state, images)
