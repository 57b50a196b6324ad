"""Symmetric boxes: drawing, projecting, the layer and its training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbox
from jaxbox import boxes, linen, optim, symmetric_boxes

WINDOW = (6, 8)


def test_drawn_boxes_lie_in_the_window_and_stay():
    drawn = symmetric_boxes.initializer(WINDOW)(jax.random.key(0), (50, 4, 3))
    np.testing.assert_array_equal(symmetric_boxes.project(drawn, (3, 4)), drawn)
    theta = symmetric_boxes.to_boxes(drawn)
    np.testing.assert_allclose(boxes.project(theta, (3, 4)), theta, atol=1e-6)
    # Widths from one pixel to the window's, whose mean is in the middle.
    assert float(jnp.mean(drawn[..., 2])) == pytest.approx(4.5, abs=0.5)


def test_projecting_is_that_of_the_boxes(rng):
    wild = jnp.asarray(rng.normal(0, 12, (200, 3)), jnp.float32)
    for window in (WINDOW, None):
        projected = symmetric_boxes.to_boxes(symmetric_boxes.project(wild, window, min_size=1.5))
        expected = boxes.project(symmetric_boxes.to_boxes(wild), window, min_size=1.5)
        np.testing.assert_allclose(projected, expected, atol=1e-5)


@pytest.mark.parametrize("rounding", ["nearest", "inward"])
def test_rounded_boxes_are_symmetric_ones_of_whole_pixels(rounding, rng):
    wild = jnp.asarray(rng.uniform(-1, 12, (200, 3)), jnp.float32)
    wild = jnp.concatenate([wild, jnp.array([[-1.0, 3.0, 4.0], [-0.5, 0.5, 1.0]])])
    valid = symmetric_boxes.project(wild)
    rounded = np.asarray(symmetric_boxes.round_to_pixels(wild, rounding=rounding))
    vertical = boxes.round_to_pixels(wild[:, :2], rounding=rounding)
    np.testing.assert_array_equal(rounded[:, :2], vertical)
    np.testing.assert_array_equal(rounded[:, 2] % 2, 1)
    change = rounded[:, 2] - np.asarray(valid[:, 2])
    low, high = (-1, 1) if rounding == "nearest" else (-2, 0.5)
    assert ((change > low) & (change <= high)).all()


def test_the_layer_learns_three_numbers_of_a_box(rng):
    """To the boxes that made its targets, and no box ever leaves the symmetric ones."""
    target = jnp.array([[[-2.0, 1.0, 5.0]], [[0.0, 2.0, 2.0]]])
    x = jnp.asarray(rng.normal(size=(4, *WINDOW, 2)), jnp.float32)
    goal = jaxbox.box_conv(x, symmetric_boxes.to_boxes(target))
    start = target + jnp.array([[[0.4, -0.4, 0.7]]])
    layer = jaxbox.BoxConv(
        2, 1, window=WINDOW, symmetric=True, theta_init=lambda *_: start, rngs=nnx.Rngs(0)
    )
    assert layer.theta.shape == (2, 1, 3)
    graph, theta = nnx.split(layer)
    tx = optim.constrain(optax.sgd(optax.cosine_decay_schedule(0.5, 300)), layer)

    @jax.jit
    def train(theta):
        def step(carry, _):
            theta, state = carry
            gradient = jax.grad(lambda t: jnp.mean((nnx.merge(graph, t)(x) - goal) ** 2))(theta)
            updates, state = tx.update(gradient, state, theta)
            return (optax.apply_updates(theta, updates), state), None

        return jax.lax.scan(step, (theta, tx.init(theta)), length=300)[0][0]

    with jax.numpy_dtype_promotion("standard"):
        learnt = train(theta)
    np.testing.assert_allclose(learnt["theta"][...], target, atol=0.05)


def test_optimizers_treat_the_width_as_two_sides():
    layer = jaxbox.BoxConv(3, 2, window=WINDOW, symmetric=True, rngs=nnx.Rngs(0))
    spec = optim.find_boxes(layer)["theta"]
    assert spec == optim.BoxSpec(WINDOW, -1, symmetric=True)
    tx = optim.steps_in_pixels(0.1, spec)
    steps, _ = tx.update(jnp.ones((3, 2, 3)), tx.init(None))
    np.testing.assert_allclose(steps[0, 0], [0.6, 0.6, 1.6], rtol=1e-6)
    # As many layers stacked along the last axis as a box has numbers.
    stacked = nnx.vmap(
        lambda rngs: jaxbox.BoxConv(3, 2, window=WINDOW, symmetric=True, rngs=rngs),
        out_axes=0,
    )(nnx.Rngs(0).split(5))
    assert optim.find_boxes(stacked)["theta"].axis == -1
    keep = optim.keep_boxes_valid(spec)
    theta = jnp.array([-5.0, 5.0, 15.0])
    updates, _ = keep.update(jnp.array([-3.0, 0.0, 4.0]), keep.init(theta), theta)
    np.testing.assert_allclose(theta + updates, [-6, 5, 16])


def test_linen():
    x = jnp.ones((2, *WINDOW, 3))
    layer = linen.BoxConv(4, symmetric=True)
    params = layer.init(jax.random.key(0), x)
    assert params["params"]["theta"].shape == (3, 4, 3)
    assert layer.apply(params, x).shape == (2, *WINDOW, 12)
    marks = optim.find_boxes_by_name(params, window=WINDOW, symmetric=True)
    assert marks["params"]["theta"] == optim.BoxSpec(WINDOW, -1, symmetric=True)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="symmetric must end in an axis of 3"):
        symmetric_boxes.to_boxes(jnp.ones(4))
    with pytest.raises(ValueError, match="shape must end in an axis of 3"):
        symmetric_boxes.initializer(WINDOW)(jax.random.key(0), (2, 4))
    with pytest.raises(ValueError, match=r"window of symmetric boxes must be \(h, w\)"):
        symmetric_boxes.project(jnp.ones(3), (4,))
    with pytest.raises(ValueError, match="symmetric boxes are for images"):
        jaxbox.BoxConv(3, 2, window=(9,), symmetric=True, rngs=nnx.Rngs(0))
