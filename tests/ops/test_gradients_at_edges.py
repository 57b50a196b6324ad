"""Where a side lies on a pixel edge, the derivative is that of the growing box."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from tests.cases.box_conv import FORMS, IMAGE_SIZES, images, relative_error
from tests.oracles import box_conv as reference

both_forms = pytest.mark.parametrize("form", FORMS)


@functools.partial(jax.jit, static_argnames=("form", "normalize"))
def _backward(x, theta, g, *, form, normalize):
    return FORMS[form].backward(x, theta, g, normalize=normalize)


@both_forms
@pytest.mark.parametrize(
    ("normalize", "by_sides"), [(False, (-9.0, 64.0)), (True, ((31.5 - 9) / 4, (64 - 31.5) / 4))]
)
@pytest.mark.parametrize("along", ["x", "y"])
def test_the_middle_of_nine_squares(form, normalize, by_sides, along):
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 9, 1) ** 2
    g = np.zeros((1, 1, 1, 9, 1), np.float32)
    g[..., 4, 0] = 1
    theta = np.array([[[-0.5, 0.5, -1.5, 2.5]]], np.float32)
    if along == "x":
        x, g, theta = x.swapaxes(-1, -2), g.swapaxes(-1, -2), theta[..., [2, 3, 0, 1]]
    _, dtheta = _backward(x, theta, g, form=form, normalize=normalize)
    dtheta = dtheta[0, 0, :2] if along == "x" else dtheta[0, 0, 2:]
    np.testing.assert_allclose(dtheta, by_sides, rtol=1e-5)


def _check(form, sides_of_axes, size=(6, 9)):
    """Compares with the oracle: `sides_of_axes(rng, shape)` draws `(low, high)` on both axes."""
    rng = np.random.default_rng()
    low, high = sides_of_axes(rng, (4, 8, 2))
    theta = np.stack([low, high], axis=-1).reshape(4, 8, 4).astype(np.float32)
    x = images(rng, (2, 4, *size))
    g = rng.normal(size=(2, 4, 8, *size)).astype(np.float32)
    for normalize in (True, False):
        dx, dtheta = _backward(x, theta, g, form=form, normalize=normalize)
        expected_dx, expected_dtheta = reference.backward(x, theta, g, normalize=normalize)
        assert relative_error(dx, expected_dx) <= 5e-6
        assert relative_error(dtheta, expected_dtheta) <= 2e-5


def _on_edges(rng, shape):
    low = rng.integers(-12, 12, shape)
    return low - 0.5, low + rng.integers(1, 12, shape) - 0.5


@both_forms
def test_both_sides_on_edges(form):
    _check(form, _on_edges)


@both_forms
def test_one_side_on_an_edge(form):
    def sides(rng, shape):
        low, high = _on_edges(rng, shape)
        move_low = rng.random(shape) < 0.5
        moved = rng.uniform(0, 1, shape)
        return low - moved * move_low, high + moved * ~move_low

    _check(form, sides)


@both_forms
def test_one_rounding_error_off_an_edge(form):
    def sides(rng, shape):
        # Both neighbours of each of the 16 edges nearest to the origin, along both axes.
        edge, beyond = np.array(list(itertools.product(range(-8, 8), (-99, 99))), np.float32).T
        order = np.stack([rng.permutation(edge.size) for _ in range(2)], axis=-1).reshape(shape)
        low = edge[order] - np.float32(0.5)
        high = low + rng.integers(1, 12, shape).astype(np.float32)
        return np.nextafter(low, beyond[order]), np.nextafter(high, beyond[order])

    _check(form, sides)


@pytest.mark.parametrize("form", IMAGE_SIZES)
def test_the_op_sees_what_its_boxes_touch(form):
    # Two bright pixels beside a dark one; the box of the dark one touches them.
    height, width = IMAGE_SIZES[form]
    x = jnp.zeros((height, width, 1)).at[1, 1].set(1.0).at[1, 3].set(1.0)
    theta = jnp.array([[[-0.5, 0.5, -0.5, 0.5]]])

    def middle(theta):
        return jaxbox.box_conv(x, theta, normalize=False)[1, 2, 0]

    np.testing.assert_allclose(jax.grad(middle)(theta), [[[-1, 1, 0, 0]]], atol=1e-6)
