"""Times of computations that take turns, so that all meet the same noise of the machine."""

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
    """Times computations, each once in every round; each ran before, to be compiled.

    Args:
      runs: Start the computations and return their results.
      rounds: 1 or more.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    milliseconds: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            milliseconds[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(own) for name, own in milliseconds.items()}


def predictor(model: SegmentationNetwork, images: jax.Array) -> Callable[[], jax.Array]:
    """What finds the most likely class of each pixel of `images`."""
    graph, state = nnx.split(model)

    @jax.jit
    def predict(state: nnx.State, images: jax.Array) -> jax.Array:
        return jnp.argmax(nnx.merge(graph, state)(images), axis=-1)

    return partial(predict, state, images)
