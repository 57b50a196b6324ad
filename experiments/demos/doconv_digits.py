"""Compares DO-Conv with plain convolution on handwritten digits, all else being equal.

Trains the small network of PyTorch's tutorial, three 3x3 convolutions with stride 2, on
scikit-learn's 8x8 digits. Each run trains it once with each kind of layer, from the same initial
weights, on the same split and batches. Batch size, learning rate and momentum are those of the
authors' demonstration. Unlike there, logits do not go through a ReLU: on so few images, classes
whose logit is always 0 would decide the comparison. Prints test accuracies in percent.
"""

import functools
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.common.command_line import (
    MOST_SEED,
    check_positive,
    check_seed,
    check_whole,
    read_settings,
)
from experiments.common.program import UserError
from experiments.demos.digits import load
from jaxbox.layers import DOConv

LAYERS: dict[str, type[nnx.Module]] = {"Baseline": nnx.Conv, "DO-Conv": DOConv}

_CLASSES = 10
_STRIDE = 2
_MOST_RUNS, _MOST_EPOCHS = 10**4, 10**6


@dataclass(frozen=True)
class Settings:
    """Compares DO-Conv with the plain convolution on digits."""

    runs: int = 5
    """Number of times that each kind of layer is trained."""
    epochs: int = 60
    """Number of passes over the training images."""
    batch: int = 32
    """Number of images in a batch."""
    learning_rate: float = 0.01
    """Learning rate of gradient descent with momentum 0.9."""
    seed: int = 0
    """Seed of the first run; each further run adds 1."""


class Network(nnx.Module):
    """Three convolutions that each halve the image, then an average over the remaining pixels.

    Args:
      conv: the class of the convolution layers.
      rngs: the random generators; the stream `params` is used.
    """

    def __init__(self, conv: Any, *, rngs: nnx.Rngs) -> None:
        channels = (1, 16, 16, _CLASSES)
        self.convs = nnx.List(
            [
                conv(inputs, outputs, (3, 3), _STRIDE, padding=1, rngs=rngs)
                for inputs, outputs in itertools.pairwise(channels)
            ]
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `(N, 8, 8, 1)` to logits `(N, 10)`."""
        *hidden, last = self.convs
        x = images
        for conv in hidden:
            x = nnx.relu(conv(x))
        return last(x).mean((-3, -2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    _check(settings)
    accuracies = {
        name: [
            run(layer, settings, seed)
            for seed in range(settings.seed, settings.seed + settings.runs)
        ]
        for name, layer in LAYERS.items()
    }
    print(table(accuracies))


def _check(settings: Settings) -> None:
    check_whole("--runs", settings.runs, 1, _MOST_RUNS)
    check_whole("--epochs", settings.epochs, 1, _MOST_EPOCHS)
    check_whole("--batch", settings.batch, 1, len(load(0)[0].labels))
    check_positive("--learning-rate", settings.learning_rate)
    check_seed("--seed", settings.seed)
    if settings.seed + settings.runs - 1 > MOST_SEED:
        raise UserError(
            f"--seed must leave room below 2**32 for {settings.runs} runs; got {settings.seed}"
        )


def run(layer: type[nnx.Module], settings: Settings, seed: int) -> float:
    """Trains a network and returns its accuracy on the test images in percent."""
    (train_x, train_y), (test_x, test_y) = load(seed)
    graph, params = nnx.split(Network(layer, rngs=nnx.Rngs(seed)))
    optimizer = _optimizer(settings.learning_rate)
    state = optimizer.init(params)
    steps = len(train_x) // settings.batch
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = rng.permutation(len(train_x))[: steps * settings.batch]
        batches = order.reshape(steps, settings.batch)
        params, state = _epoch(graph, optimizer, params, state, train_x[batches], train_y[batches])
    logits = _predict(graph, params, test_x)
    return 100 * float((logits.argmax(-1) == test_y).mean())


@functools.cache  # A new optimizer for each run would compile a new training step.
def _optimizer(learning_rate: float) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=0.9)


@functools.partial(jax.jit, static_argnames=("graph", "optimizer"))
def _epoch(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    params: Any,
    state: Any,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[Any, Any]:
    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: tuple[Any, Any], batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry, _ = jax.lax.scan(step, (params, state), (images, labels))
    return carry


@functools.partial(jax.jit, static_argnames="graph")
def _predict(graph: nnx.GraphDef, params: Any, images: jax.Array) -> jax.Array:
    return nnx.merge(graph, params)(images)


def table(accuracies: dict[str, list[float]]) -> str:
    """A Markdown table with a row for each kind of layer.

    Args:
      accuracies: the accuracy of each run in percent, by the kind of layer. Gains are over the
        first kind.
    """
    runs = len(next(iter(accuracies.values())))
    lines = [
        f"| |{'|'.join(f' run {n + 1} ' for n in range(runs))}| mean | std | gain |",
        f"|---|{'---|' * (runs + 3)}",
    ]
    base = statistics.mean(next(iter(accuracies.values())))
    for name, own in accuracies.items():
        mean, spread = statistics.mean(own), statistics.stdev(own) if runs > 1 else 0.0
        numbers = [f"{value:.2f}" for value in (*own, mean, spread)]
        lines.append(f"| {name} | {' | '.join(numbers)} | {mean - base:+.3f} |")
    return "\n".join(lines)
