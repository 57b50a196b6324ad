"""Forward mode: tangents against the oracle's gradients, on every backend and of every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxbox
from jaxbox_kernels.common.linear_map import LinearMap
from tests.cases.box_conv import IMAGE_SIZES, boxes_of_all_kinds, boxes_off_edges, images
from tests.oracles import box_conv as oracle

C, F = 2, 3
BACKENDS = [
    name for name, missing in jaxbox.backends().items() if missing is None and name != "mosaic_gpu"
]
both_forms = pytest.mark.parametrize("form", IMAGE_SIZES)


@both_forms
@pytest.mark.parametrize("implementation", BACKENDS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("channel_axis", [-1, -3])
def test_tangents_are_adjoint_to_the_gradients(form, implementation, normalize, channel_axis, rng):
    """For boxes of all kinds, with bounds on pixel edges too: `<g, J v> = <J* g, v>`."""
    size = IMAGE_SIZES[form]
    x = np.cumsum(rng.normal(size=(1, C, *size)), -1)
    theta = boxes_of_all_kinds(rng, (C, F), size).astype(np.float64)
    x_tangent, theta_tangent = rng.normal(size=x.shape), rng.normal(size=theta.shape)

    def op(x, theta):
        moved = jnp.moveaxis(x, 1, channel_axis)
        output = jaxbox.box_conv(
            moved,
            theta,
            normalize=normalize,
            channel_axis=channel_axis,
            implementation=implementation,
        )
        return jnp.moveaxis(output, channel_axis, 1)

    @jax.jit
    def tangents(x, theta):
        of_x = jax.jvp(lambda x: op(x, theta), (x,), (x_tangent,))[1]
        of_theta = jax.jvp(lambda theta: op(x, theta), (theta,), (theta_tangent,))[1]
        return of_x, of_theta, jax.jvp(op, (x, theta), (x_tangent, theta_tangent))[1]

    with jax.enable_x64(True):
        of_x, of_theta, together = map(np.asarray, tangents(x, theta))
    np.testing.assert_allclose(of_x + of_theta, together, atol=1e-9 * np.abs(together).max())
    # One output position at a time, so that an error at the border is not lost in a sum.
    for g in np.eye(of_x.size)[rng.choice(of_x.size, 12)].reshape(12, 1, C, F, *size):
        dx, dtheta = oracle.backward(x, theta, g, normalize=normalize)
        magnitudes = oracle.backward_magnitudes(x, theta, g, normalize=normalize)
        flat = g.reshape(of_x.shape)
        for tangent, gradient, direction, magnitude in zip(
            (of_x, of_theta),
            (dx, dtheta),
            (x_tangent, theta_tangent),
            magnitudes,
            strict=True,
        ):
            scale = np.sum(np.abs(direction) * magnitude) + 1e-30
            error = np.sum(flat * tangent) - np.sum(gradient * direction)
            assert abs(error) <= 1e-9 * scale


@both_forms
@pytest.mark.parametrize("normalize", [True, False])
def test_both_modes_to_second_order(form, normalize, rng):
    size = IMAGE_SIZES[form]
    x, theta = images(rng, (1, *size, C)), boxes_off_edges(rng, (C, F), size)

    def op(x, theta):
        return jaxbox.box_conv(x, theta, normalize=normalize)

    with jax.enable_x64(True):
        arguments = (x.astype(np.float64), theta.astype(np.float64))
        check_grads(jax.jit(op), arguments, order=2, modes=("fwd", "rev"), eps=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((9,), "zeros"),
        ((9,), "edge"),
        pytest.param((4, 5), "edge", marks=pytest.mark.slow),
        ((4, 5), "partial"),
        ((2, 3, 4), "zeros"),
    ],
)
def test_both_modes_to_second_order_with_borders_and_other_dimensions(size, padding, rng):
    x = rng.normal(size=(*size, 1))
    pairs = [boxes_off_edges(rng, (1, 2), (pixels, pixels))[..., :2] for pixels in reversed(size)]
    theta = np.concatenate(pairs, axis=-1).astype(np.float64)

    def op(x, theta):
        return jaxbox.box_conv(x, theta, padding=padding, strides=2)

    with jax.enable_x64(True):
        check_grads(jax.jit(op), (x, theta), order=2, modes=("fwd", "rev"), eps=1e-5, rtol=1e-5)


def test_a_linear_map_knows_its_transpose_under_all_transformations(rng):
    """The transpose given here is not the true one, so that it is seen where it was taken."""
    a = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    twice = LinearMap(lambda a, x: [a @ x], lambda a, g: [2 * (g @ a)], residuals=1)
    x, g = jnp.arange(2.0), jnp.arange(3.0)

    def apply(a, x):
        return twice(a, x)[0]

    output, pull_back = jax.vjp(lambda x: apply(a, x), x)
    np.testing.assert_allclose(output, a @ x, rtol=1e-6)
    np.testing.assert_allclose(pull_back(g)[0], 2 * (g @ a), rtol=1e-6)
    # The transpose of the transpose is the function.
    forth = jax.linear_transpose(lambda g: pull_back(g)[0], g)(x)[0]
    np.testing.assert_allclose(forth, a @ x, rtol=1e-6)
    # With respect to what it is not linear in, it is an ordinary function.
    of_a, of_x = jax.jvp(apply, (a, x), (a, 3 * x))[1], jax.jvp(apply, (a, x), (0 * a, x))[1]
    np.testing.assert_allclose(of_a, 4 * (a @ x), rtol=1e-6)
    np.testing.assert_allclose(of_x, a @ x, rtol=1e-6)
    stack = jnp.stack([x, x + 1, x - 2])
    by_both = jax.vmap(jax.grad(lambda x, a: jnp.vdot(apply(a, x), g)), (0, None))(stack, a)
    np.testing.assert_allclose(by_both, np.tile(2 * (g @ a), (3, 1)), rtol=1e-6)
    # A linear argument that all examples share gets the sum of their cotangents.
    shared = jax.grad(lambda x: jnp.sum(jax.vmap(apply, (0, None))(jnp.stack([a, 2 * a]), x) @ g))
    np.testing.assert_allclose(shared(x), 3 * 2 * (g @ a), rtol=1e-6)
