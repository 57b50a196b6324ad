"""The positions of DCLS in the optimizer: inside the kernel, and other parameters left alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxbox import layers, optim
from jaxbox.optim import PositionSpec


class Model(nnx.Module):
    def __init__(self, rngs):
        self.boxes = layers.BoxConv(2, 2, (5, 6), rngs=rngs)
        self.dcls = layers.DclsConv(4, 3, (5, 4), 3, gain=2.0, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)


@functools.cache
def _model():
    return Model(nnx.Rngs(0))


def test_big_steps_end_inside():
    model = nnx.clone(_model())
    tx = optim.for_model(model, optax.sgd(1.0))
    state = nnx.state(model, nnx.Param)
    gradients = jax.tree.map(
        lambda p: 50 * jax.random.normal(jax.random.key(p.size), p.shape, p.dtype), state
    )
    updates, _ = tx.update(gradients, tx.init(state), state)
    moved = optax.apply_updates(state, updates)
    places = np.asarray(2 * moved["dcls"]["positions"][...])
    for axis, (low, high) in zip(places, ((-2, 2), (-2, 1)), strict=True):
        np.testing.assert_allclose([axis.min(), axis.max()], [low, high], atol=1e-5)
    np.testing.assert_array_equal(updates["dcls"]["weight"][...], -gradients["dcls"]["weight"][...])
    theta = moved["boxes"]["theta"][...]
    assert (theta[..., 1::2] - theta[..., 0::2]).min() >= 1 - 1e-5
    # Projecting what is inside changes nothing.
    again, _ = tx.update(jax.tree.map(jnp.zeros_like, state), tx.init(moved), moved)
    assert jnp.abs(again["dcls"]["positions"][...]).max() <= 1e-6


def test_small_steps_pass_to_the_bit():
    tx = optim.keep_positions_inside(PositionSpec(((-4, 4), (-1, 1))))
    positions = jnp.asarray(np.random.default_rng().uniform(-0.5, 0.5, (2, 3, 2, 2)), jnp.float32)
    update = positions / 3
    updates, _ = tx.update(update, tx.init(positions), positions)
    np.testing.assert_array_equal(updates, update)


def test_masks_of_both_kinds():
    boxes, positions = optim.find_boxes(_model()), optim.find_positions(_model())
    mask = optim.decay_mask(boxes, positions)
    assert jax.tree.structure(mask) == jax.tree.structure(boxes)
    flat = {"/".join(map(str, path)): value for path, value in nnx.to_flat_state(mask)}
    assert {name for name, value in flat.items() if not value} == {"boxes/theta", "dcls/positions"}


def test_bad_arguments():
    tx = optim.keep_positions_inside(PositionSpec(((-4, 4),)))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.zeros((1, 1, 1, 1)), tx.init(None))
    with pytest.raises(ValueError, match="1 axes of limits"):
        tx.update(jnp.zeros((2, 1, 1, 1)), tx.init(None), jnp.zeros((2, 1, 1, 1)))
    with pytest.raises(ValueError, match="the lesser first"):
        PositionSpec(((1, -1),))
    with pytest.raises(ValueError, match="'positions', which none has"):
        optim.find_positions_by_name({"theta": jnp.zeros(3)}, (5,))
