"""Max pooling and unpooling against NumPy and each other."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbox.models.pooling import max_pool, max_unpool


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def cells(x):
    """Returns the four pixels of each 2x2 cell of a `(B, H, W, C)` array, on the last axis."""
    B, H, W, C = x.shape
    split = np.asarray(x).reshape(B, H // 2, 2, W // 2, 2, C)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(B, H // 2, W // 2, C, 4)


def test_agrees_with_numpy(rng):
    x = normal(rng, 2, 6, 8, 3)
    pooled, positions = max_pool(x)
    np.testing.assert_array_equal(pooled, cells(x).max(-1))
    np.testing.assert_array_equal(positions, cells(x).argmax(-1))


def test_pooling_inverts_unpooling(rng):
    values = jnp.abs(normal(rng, 2, 3, 4, 3)) + 0.1
    positions = jnp.asarray(rng.integers(4, size=values.shape), jnp.int8)
    pooled, found = max_pool(max_unpool(values, positions))
    np.testing.assert_array_equal(pooled, values)
    np.testing.assert_array_equal(found, positions)


def test_unpooling_keeps_the_maxima_and_zeroes_the_rest(rng):
    x = normal(rng, 2, 6, 8, 3)
    kept = np.where(cells(x) == cells(x).max(-1, keepdims=True), cells(x), 0.0)
    np.testing.assert_array_equal(cells(max_unpool(*max_pool(x))), kept)


def test_the_gradient_of_each_is_the_other(rng):
    x, g = normal(rng, 2, 6, 8, 3), normal(rng, 2, 3, 4, 3)
    _, pull, positions = jax.vjp(max_pool, x, has_aux=True)
    np.testing.assert_array_equal(pull(g)[0], max_unpool(g, positions))
    _, pull = jax.vjp(lambda g: max_unpool(g, positions), g)
    np.testing.assert_array_equal(pull(x)[0], max_pool(x)[0])


def test_ties_go_to_the_first_position():
    x = jnp.ones((4, 4, 2))
    _, positions = max_pool(x)
    assert (positions == 0).all()
    gradient = jax.grad(lambda x: max_pool(x)[0].sum())(x)
    np.testing.assert_array_equal(gradient[..., 0], np.tile([[1.0, 0.0], [0.0, 0.0]], (2, 2)))


def test_a_nan_is_the_maximum_of_its_cell_wherever_it_is():
    # One cell for each set of pixels that are NaN, along the height.
    is_nan = np.array([[index >> pixel & 1 for pixel in range(4)] for index in range(16)], bool)
    values = np.where(is_nan, np.nan, np.array([1.0, 3.0, 2.0, 0.0]))
    pooled, positions = max_pool(jnp.asarray(values.reshape(32, 2, 1), jnp.float32))
    np.testing.assert_array_equal(pooled.ravel(), np.where(is_nan.any(1), np.nan, 3.0))
    last = 3 - is_nan[:, ::-1].argmax(1)
    np.testing.assert_array_equal(positions.ravel(), np.where(is_nan.any(1), last, 1))
