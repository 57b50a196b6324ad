"""`jaxbox.box_conv` under JAX's transformations, in both of XLA's forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from tests.cases.box_conv import (
    IMAGE_SIZES,
    boxes_off_edges,
    boxes_on_edges,
    images,
    relative_error,
)
from tests.oracles import box_conv as oracle

both_forms = pytest.mark.parametrize("form", IMAGE_SIZES)

N, C, F = 2, 2, 3


def _case(rng, form, batch=(N,), stack=()):
    size = IMAGE_SIZES[form]
    return images(rng, (*batch, *size, C)), boxes_off_edges(rng, (*stack, C, F), size)


def _assert_close(actual, expected, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def _loss(x, theta):
    return jnp.sum(jaxbox.box_conv(x, theta) ** 2) / 2


_gradients = jax.grad(_loss, (0, 1))


@both_forms
def test_the_sizes_of_these_tests_take_both_forms(form, rng):
    by_xla = functools.partial(jaxbox.box_conv, implementation="xla")
    jaxpr = str(jax.make_jaxpr(by_xla)(*_case(rng, form)))
    reads_rows = f"slice_sizes=(1, {IMAGE_SIZES[form][1]})" in jaxpr
    assert reads_rows == (form == "integral_images")


@both_forms
def test_jit(form, rng):
    x, theta = _case(rng, form)
    _assert_close(jax.jit(jaxbox.box_conv)(x, theta), jaxbox.box_conv(x, theta))
    _assert_close(jax.jit(_gradients)(x, theta), _gradients(x, theta))


@both_forms
def test_boxes_are_data(form, rng):
    """One compiled program serves all boxes."""
    traces = 0

    @jax.jit
    def traced(x, theta):
        nonlocal traces
        traces += 1
        return jaxbox.box_conv(x, theta)

    for _ in range(3):
        x, theta = _case(rng, form)
        _assert_close(traced(x, theta), jaxbox.box_conv(x, theta))
    assert traces == 1


@both_forms
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (-1, 2)])
def test_vmap(form, axes, rng):
    """Over x, over theta, over both, and over axes other than the first."""
    along_x, along_theta = axes
    x, theta = _case(rng, form, *[() if along is None else (3,) for along in axes])
    slices = [
        (x if along_x is None else x[i], theta if along_theta is None else theta[i])
        for i in range(3)
    ]
    arguments = [
        array if along is None else np.moveaxis(array, 0, along)
        for array, along in zip((x, theta), axes, strict=True)
    ]

    @jax.jit
    def mapped(x, theta):
        return tuple(jax.vmap(f, axes)(x, theta) for f in (jaxbox.box_conv, _gradients))

    @jax.jit
    def one(x, theta):
        return jaxbox.box_conv(x, theta), _gradients(x, theta)

    expected = jax.tree.map(lambda *results: np.stack(results), *[one(*pair) for pair in slices])
    _assert_close(mapped(*arguments), expected, rtol=2e-5)


@both_forms
def test_gradients_with_respect_to_one_argument_and_to_both(form, rng):
    x, theta = _case(rng, form)
    both = _gradients(x, theta)
    _assert_close(jax.grad(_loss, 0)(x, theta), both[0])
    _assert_close(jax.grad(_loss, 1)(x, theta), both[1])


@both_forms
def test_checkpoint(form, rng):
    x, theta = _case(rng, form)
    recomputed = jax.jit(jax.grad(jax.checkpoint(_loss), (0, 1)))
    _assert_close(recomputed(x, theta), _gradients(x, theta))


@both_forms
def test_scan(form, rng):
    size = IMAGE_SIZES[form]
    x = images(rng, (*size, C))
    # Around the origin: boxes elsewhere would push the image out of itself.
    thetas = np.array([-1.3, 1.7, -0.8, 1.2]) + rng.uniform(-0.2, 0.2, (3, C, 1, 4))
    thetas = thetas.astype(np.float32)

    def scanned(x, thetas):
        def step(x, theta):
            return jaxbox.box_conv(x, theta), None

        return jnp.sum(jax.lax.scan(step, x, thetas)[0] ** 2)

    def unrolled(x, thetas):
        for theta in thetas:
            x = jaxbox.box_conv(x, theta)
        return jnp.sum(x**2)

    results = [jax.jit(jax.value_and_grad(f, (0, 1)))(x, thetas) for f in (scanned, unrolled)]
    _assert_close(*results)


@both_forms
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_of_gradients(form, normalize, rng):
    """Reverse over reverse, against differences of the oracle's first gradients."""
    size = IMAGE_SIZES[form]
    x = images(rng, (N, C, *size)).astype(np.float64)
    theta = boxes_off_edges(rng, (C, F), size).astype(np.float64)
    x_factors, theta_factors = rng.normal(size=x.shape), rng.normal(size=theta.shape)

    def contracted(x, theta):
        """The gradients of half the sum of squares of the output, each times a constant."""
        output = oracle.forward(x, theta, normalize=normalize)
        dx, dtheta = oracle.backward(x, theta, output, normalize=normalize)
        return np.sum(x_factors * dx) + np.sum(theta_factors * dtheta)

    def difference(x_step, theta_step):
        h = 1e-5
        forth = contracted(x + h * x_step, theta + h * theta_step)
        back = contracted(x - h * x_step, theta - h * theta_step)
        return (forth - back) / (2 * h)

    def first(x, theta):
        def loss(x, theta):
            planes = jnp.moveaxis(x, 1, -1)
            return jnp.sum(jaxbox.box_conv(planes, theta, normalize=normalize) ** 2) / 2

        dx, dtheta = jax.grad(loss, (0, 1))(x, theta)
        return jnp.sum(x_factors * dx) + jnp.sum(theta_factors * dtheta)

    with jax.enable_x64(True):
        grad_x, grad_theta = jax.jit(jax.grad(first, (0, 1)))(x, theta)

    steps = np.eye(theta.size).reshape(theta.size, *theta.shape)
    differences = np.array([difference(0, step) for step in steps]).reshape(theta.shape)
    assert relative_error(grad_theta, differences) <= 1e-6
    direction = rng.normal(size=x.shape)
    terms = np.asarray(grad_x) * direction
    np.testing.assert_allclose(
        terms.sum(), difference(direction, 0), rtol=0, atol=1e-6 * np.abs(terms).sum()
    )


@both_forms
def test_mixed_second_derivatives_agree_at_pixel_edges(form, rng):
    """Of dx with respect to the boxes, and of dtheta with respect to the image."""
    size = IMAGE_SIZES[form]
    x = jnp.asarray(images(rng, (*size, C)))
    theta = jnp.asarray(boxes_on_edges(rng, (C, F), size))
    u, v = (jnp.asarray(rng.normal(size=a.shape), jnp.float32) for a in (x, theta))

    @jax.jit
    def both_ways(x, theta):
        def dx_along_u(theta):
            return jnp.vdot(u, _gradients(x, theta)[0])

        def dtheta_along_v(x):
            return jnp.vdot(v, _gradients(x, theta)[1])

        return v * jax.grad(dx_along_u)(theta), u * jax.grad(dtheta_along_v)(x)

    by_theta, by_x = (np.asarray(terms, np.float64) for terms in both_ways(x, theta))
    scale = np.abs(by_theta).sum() + np.abs(by_x).sum()
    np.testing.assert_allclose(by_theta.sum(), by_x.sum(), rtol=0, atol=1e-5 * scale)


@both_forms
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_eval_shape(form, dtype):
    size = IMAGE_SIZES[form]
    x = jax.ShapeDtypeStruct((4, 2, *size, C), dtype)
    theta = jax.ShapeDtypeStruct((C, F, 4), jnp.float32)
    output = jax.eval_shape(functools.partial(jaxbox.box_conv, normalize=False), x, theta)
    assert (output.shape, output.dtype) == ((4, 2, *size, C * F), dtype)
