"""DO-Conv against the plain convolution on handwritten digits, nothing else changed.

Trains the small network of PyTorch's tutorial, three 3x3 convolutions with stride 2, on
scikit-learn's 8x8 digits: once with each kind of layer for every run, from the same initial
weights, on the same split and batches. Batch size, learning rate and momentum are those of the
authors' demonstration. Unlike there, logits are not rectified: on so few images classes whose logit
is always 0 would decide the comparison. Prints test accuracies in percent.
"""

import functools
import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx

sys.path.append(str(Path(__file__).resolve().parents[2]))  # Where the package `experiments` is.

from experiments.demos.digits import load
from jaxbox.layers import DOConv

LAYERS: dict[str, type[nnx.Module]] = {"Baseline": nnx.Conv, "DO-Conv": DOConv}

_CLASSES = 10
_STRIDE = 2


@dataclass(frozen=True)
class Settings:
    """Compares DO-Conv with the plain convolution on digits."""

    runs: int = 5
    """How many times each is trained."""
    epochs: int = 60
    """Passes over the training images."""
    batch: int = 32
    """Images of a step."""
    learning_rate: float = 0.01
    """Of gradient descent with momentum 0.9."""
    seed: int = 0
    """Of the first run; the others count on."""


class Network(nnx.Module):
    """Three convolutions, each halving the image; the logits are what is left on average."""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    settings = tyro.cli(
        Annotated[Settings, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    if min(settings.runs, settings.epochs, settings.batch) < 1:
        print("error: --runs, --epochs and --batch must be 1 or more", file=sys.stderr)
        return 2
    accuracies = {
        name: [
            run(layer, settings, seed)
            for seed in range(settings.seed, settings.seed + settings.runs)
        ]
        for name, layer in LAYERS.items()
    }
    print(table(accuracies))
    return 0


def run(layer: type[nnx.Module], settings: Settings, seed: int) -> float:
    """Trains a network; returns its accuracy on the test images in percent."""
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


@functools.cache  # One for all runs: each would have a training step compiled for itself.
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
    """A row for each kind of layer: every run, mean, standard deviation, gain over the first."""
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


if __name__ == "__main__":
    sys.exit(main())
