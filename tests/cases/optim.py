"""Models with boxes and positions, and their training, for the tests of optimizers."""

import functools

import jax
import numpy as np
import optax
from flax import nnx

from jaxbox import layers

WINDOW = (24, 40)

# Adam raises its decay, a Python float, to the power of an integer count.
adam_promotion = functools.partial(jax.numpy_dtype_promotion, "standard")


class Model(nnx.Module):
    """Boxes at two resolutions and without a window, in a list, between other parameters."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.boxes = nnx.List(
            [layers.BoxConv(3, 2, window=window, rngs=rngs) for window in (WINDOW, (6, 10), None)]
        )
        self.norm = nnx.BatchNorm(3, rngs=rngs)


class DclsModel(nnx.Module):
    """Boxes and taps with positions."""

    def __init__(self, rngs):
        self.boxes = layers.BoxConv(2, 2, window=(5, 6), rngs=rngs)
        self.dcls = layers.DclsConv(4, 3, (5, 4), 3, gain=2.0, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)


@functools.cache
def make_model():
    return Model(nnx.Rngs(0))


@functools.cache
def make_dcls_model():
    return DclsModel(nnx.Rngs(0))


def violation(theta, window):
    """By how many pixels boxes are too small, or outside their window."""
    theta = np.asarray(theta, np.float64)
    low, high = theta[..., 0::2], theta[..., 1::2]
    worst = (1 - (high - low)).max()
    if window is None:
        return worst
    limits = np.array([window[1], window[0]])
    return max(worst, (-limits - low).max(), (high - limits).max())


def train(tx, params, steps=4):
    """Updates parameters with random gradients."""
    with adam_promotion():
        state = tx.init(params)

        @jax.jit
        def step(params, state, gradients):
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        for seed in range(steps):
            moving = params.fast if isinstance(params, optax.LookaheadParams) else params
            params, state = step(params, state, _gradients(moving, seed))
        return params


def _gradients(params, seed):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)
