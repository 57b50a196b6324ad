"""Variants of how boxes start and move: what each changes, and that it changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.segmentation.training.box_learning import BOX_LEARNING, LIBRARY, prepare_boxes
from experiments.segmentation.training.box_steps import (
    average_gradients,
    redraw_smallest,
    scale_steps,
)
from experiments.segmentation.training.smoothed_boxes import SmoothedBoxConv
from jaxbox import boxes, layers, models, optim
from tests.oracles import box_conv as oracle

SIZE = (32, 48)
THETA = jnp.array([[-3.0, 5.0, -2.0, 2.0], [-0.5, 0.5, 3.0, 4.0]])
SPEC = optim.BoxSpec(window=(10, 20))


def _changed(name):
    """The parameters of a network that a variant changes, by the last part of their path."""
    first, second = (models.create("boxenet", 3, SIZE, rngs=nnx.Rngs(0)) for _ in range(2))
    prepare_boxes(second, name, nnx.Rngs(1))
    pairs = zip(
        jax.tree.leaves_with_path(nnx.as_pure(nnx.state(first))),
        jax.tree.leaves(nnx.as_pure(nnx.state(second))),
        strict=True,
    )
    changed = {
        jax.tree_util.keystr(path[-2:], simple=True, separator=".")
        for (path, old), new in pairs
        if jnp.issubdtype(old.dtype, jnp.floating) and (old != new).any()
    }
    return second, changed


def test_ways_change_where_boxes_start_and_nothing_else():
    assert _changed(LIBRARY)[1] == _changed("quarter-steps")[1] == set()
    assert _changed("full-scale")[1] == {"norm2.scale"}
    for name in ("log-sizes", "half-window", "frozen-log-sizes"):
        network, changed = _changed(name)
        assert changed == {"boxes.theta"}
        for _, block in network.box_blocks():
            theta, window = block.boxes.theta[...], block.boxes.window
            assert (boxes.project(theta, tuple(n / 2 for n in window)) == theta).all()


def _steps(name, number, total):
    """The last of some updates of 1 by a variant."""
    tx = scale_steps(BOX_LEARNING[name], SPEC, total)
    state = tx.init(THETA)
    for _ in range(number):
        update, state = tx.update(jnp.ones_like(THETA), state, THETA)
    return np.asarray(update)


def test_steps_are_scaled():
    np.testing.assert_array_equal(_steps("quarter-steps", 5, 10), 0.25)
    np.testing.assert_array_equal(_steps("frozen", 5, 10), 0)
    # Twice the widths 8 and 1 of 20 pixels, twice the heights 4 and 1 of 10.
    own = [[0.8, 0.8, 0.8, 0.8], [0.1, 0.1, 0.2, 0.2]]
    np.testing.assert_allclose(_steps("own-size-steps", 1, 10), own, rtol=1e-6)
    slow = [_steps("slow-start", number, 10)[0, 0] for number in (1, 2, 3, 10)]
    np.testing.assert_allclose(slow, [0, 0.5, 1, 1], rtol=1e-6)
    # Together with the learning rate's cosine it is a cosine of its own, which ends earlier.
    for number in (1, 4, 6, 7, 10):
        passed = (number - 1) / 10
        cosine = np.cos(np.pi * np.array([min(passed / 0.6, 1), passed]))
        expected = np.divide(*(1 + cosine))
        np.testing.assert_allclose(
            _steps("early-stop", number, 10)[0, 0], expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.usefixtures("relaxed_promotion")
def test_the_gradients_of_boxes_alone_are_averaged():
    params = {"boxes": THETA, "kernel": jnp.ones(3)}
    tx = average_gradients(0.75, {"boxes": SPEC, "kernel": False})
    state = tx.init(params)
    for factor in (4.0, 8.0):
        update, state = tx.update({"boxes": factor * THETA, "kernel": jnp.full(3, factor)}, state)
    # (0.75 * 4 + 8) / (0.75 + 1)
    np.testing.assert_allclose(update["boxes"], 11 / 1.75 * THETA, rtol=1e-6)
    np.testing.assert_array_equal(update["kernel"], 8.0)


def test_boxes_at_the_minimum_size_are_drawn_anew_once_in_a_while():
    smallest, large = jnp.array([-0.5, 0.5, 1.0, 2.0]), jnp.array([-4.0, 4.0, -4.0, 4.0])
    theta = jnp.tile(smallest, (6, 4, 1)).at[0].set(large)
    tx = redraw_smallest(SPEC, steps=400)
    state, update = tx.init(theta), jax.jit(tx.update)
    for number in range(1, 401):
        steps, state = update(jnp.zeros_like(theta), state, theta)
        moved = np.asarray(steps != 0).any(-1)
        assert not moved[0].any()
        assert moved[1:].all() if number in (100, 200) else not moved.any()
        theta_after = theta + steps
        np.testing.assert_allclose(boxes.project(theta_after, (5, 10)), theta_after, atol=1e-6)


def test_a_smoothed_gradient_is_that_of_the_averaged_image(rng):
    """Outputs and the image's gradient are exact; sides see the image averaged over 3x3 pixels."""
    layer = layers.BoxConv(2, 3, window=(9, 11), channel_axis=-3, rngs=nnx.Rngs(0))
    smooth = SmoothedBoxConv(layer, 1.5)
    x = np.cumsum(rng.normal(size=(1, 2, 9, 11)), -1).astype(np.float32)
    g = rng.normal(size=(1, 6, 9, 11)).astype(np.float32)
    theta = np.asarray(layer.theta[...], np.float64)

    def objective(layer, x):
        return jnp.sum(layer(x) * g)

    by_boxes, by_image = nnx.grad(objective, argnums=(0, 1))(smooth, x)
    exact_boxes, exact_image = nnx.grad(objective, argnums=(0, 1))(layer, x)
    np.testing.assert_array_equal(smooth(x), layer(x))
    np.testing.assert_allclose(by_image, exact_image, atol=1e-6)
    square = np.broadcast_to([-1.5, 1.5, -1.5, 1.5], (2, 1, 4))
    averaged = oracle.forward(x, square)[:, :, 0]
    _, expected = oracle.backward(averaged, theta, g.reshape(1, 2, 3, 9, 11))
    np.testing.assert_allclose(by_boxes["theta"][...], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(exact_boxes["theta"][...]) - expected).max() > 1e-2
