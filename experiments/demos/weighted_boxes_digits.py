"""Weighted boxes in place of large convolutions learn to tell handwritten digits apart.

Two layers with large kernels, the second with stride 2, an average over the remaining pixels and a
linear classifier, on scikit-learn's 8x8 digits. The layers are 7x7 convolutions, weighted boxes, or
weighted boxes that stay as they were drawn and of which only the weights learn. Prints parameters
and test accuracies as a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.common.command_line import MOST_STEPS, check_seed, check_whole, read_settings
from experiments.demos.digits import Digits, load
from jaxbox import optim
from jaxbox.layers import WeightedBoxConv

_SIZE: Final = (8, 8)
_CLASSES: Final = 10
_CHANNELS: Final = (16, 32)
_KERNEL: Final = (7, 7)
_BATCH: Final = 128
_LEARNING_RATE: Final = 2e-2
_STEP_SCALE: Final = 0.2
_MOST_BOXES: Final = 64

LAYERS: Final = ("7x7 convolution", "weighted boxes", "weighted boxes as drawn")
"""The kinds of layers."""


@dataclass(frozen=True)
class Settings:
    """Trains a small network of weighted boxes, and one of large convolutions, on digits."""

    boxes: int = 8
    """Number of boxes for each input channel."""
    steps: int = 1000
    """Number of batches of 128 digits to train on."""
    seed: int = 0
    """Seed of the initial parameters and the order of the digits."""


class Network(nnx.Module):
    """Two layers with large kernels and a linear classifier of the average over all pixels.

    Args:
      layer: the kind of layer.
      boxes: the number of boxes for each input channel.
      rngs: the random generators; the stream `params` is used.
    """

    def __init__(self, layer: str, boxes: int, *, rngs: nnx.Rngs) -> None:
        def make(inputs: int, outputs: int, strides: int) -> Any:
            if layer == LAYERS[0]:
                return nnx.Conv(inputs, outputs, _KERNEL, strides, rngs=rngs)
            return WeightedBoxConv(
                inputs,
                outputs,
                boxes,
                window=_SIZE,
                strides=strides,
                trainable=layer == LAYERS[1],
                rngs=rngs,
            )

        first, second = _CHANNELS
        self.first, self.second = make(1, first, 1), make(first, second, 2)
        self.classifier = nnx.Linear(second, _CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images `(N, 8, 8, 1)` to logits `(N, 10)`."""
        features = nnx.relu(self.second(nnx.relu(self.first(images))))
        return self.classifier(features.mean((-3, -2)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--boxes", settings.boxes, 1, _MOST_BOXES)
    check_whole("--steps", settings.steps, 1, MOST_STEPS)
    check_seed("--seed", settings.seed)
    train_digits, test_digits = load(settings.seed)
    print("| layers | parameters | test digits right |\n|---|---|---|")
    for layer in LAYERS:
        model = Network(layer, settings.boxes, rngs=nnx.Rngs(settings.seed))
        train(model, train_digits, settings.steps, settings.seed)
        parameters = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
        print(f"| {layer} | {parameters:,} | {accuracy(model, test_digits):.1%} |")


def train(model: Network, digits: Digits, steps: int, seed: int) -> None:
    """Trains a network in place.

    Args:
      model: the network.
      digits: the digits to train on.
      steps: the number of batches.
      seed: the seed of the choice of batches.
    """
    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, steps)
    optimizer = nnx.Optimizer(
        model,
        optim.constrain(optax.adam(schedule), model, step_scale=_STEP_SCALE),
        wrt=nnx.Param,
    )

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer, batch: Digits) -> None:
        def loss(model: Network) -> jax.Array:
            logits = model(batch.images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.integers(len(digits.labels), size=_BATCH)
        step(model, optimizer, Digits(*(array[chosen] for array in digits)))


def accuracy(model: Network, digits: Digits) -> float:
    """The share of digits that a network classifies right."""
    logits = nnx.jit(lambda model, images: model(images))(model, digits.images)
    return float(jnp.mean(jnp.argmax(logits, axis=-1) == digits.labels))
