"""Gradients that are not needed are not computed, and residuals for them are not kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from tests.cases.box_conv import IMAGE_SIZES, boxes_off_edges, images

both_forms = pytest.mark.parametrize("form", IMAGE_SIZES)

N, C, F = 2, 3, 2


def _case(rng, form):
    size = IMAGE_SIZES[form]
    x, theta = images(rng, (N, *size, C)), boxes_off_edges(rng, (C, F), size)
    return jnp.asarray(x), jnp.asarray(theta)


def _loss(x, theta, **options):
    return jnp.sum(jaxbox.box_conv(x, theta, **options) ** 2)


@both_forms
def test_each_alone_is_what_it_is_with_the_other(form, rng):
    x, theta = _case(rng, form)
    dx, dtheta = jax.grad(_loss, (0, 1))(x, theta)
    np.testing.assert_array_equal(jax.grad(_loss, 0)(x, theta), dx)
    np.testing.assert_array_equal(jax.grad(_loss, 1)(x, theta), dtheta)


def _operations(function, *arguments):
    """The number of matrix products and gathers, of which the two forms mostly consist."""
    jaxpr = str(jax.make_jaxpr(function)(*arguments))
    return jaxpr.count("dot_general[") + jaxpr.count(" gather[")


@both_forms
def test_each_alone_takes_less(form, rng):
    x, theta = _case(rng, form)
    forward, dx, dtheta, both = (
        _operations(function, x, theta)
        for function in (
            _loss,
            jax.grad(_loss, 0),
            jax.grad(_loss, 1),
            jax.grad(_loss, (0, 1)),
        )
    )
    assert forward < dx < both
    assert forward < dtheta < both


@both_forms
@pytest.mark.parametrize("whole_pixels", [False, True])
def test_frozen_boxes_do_not_keep_the_image(form, whole_pixels, rng):
    x, theta = _case(rng, form)

    def residuals(differentiated):
        _, pull_back = jax.vjp(differentiated, x)
        return sum(leaf.size for leaf in jax.tree.leaves(pull_back))

    def op(x):
        return jaxbox.box_conv(x, theta, whole_pixels=whole_pixels)

    assert residuals(op) <= theta.size
    # Trainable boxes keep no more than the image and the boxes.
    _, pull_back = jax.vjp(jaxbox.box_conv, x, theta)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull_back)) <= x.size + theta.size


@both_forms
def test_second_derivatives_of_either_alone(form, rng):
    x, theta = _case(rng, form)

    def gradient_of_x(theta):
        return jnp.sum(jax.grad(_loss, 0)(x, theta) ** 2)

    def gradient_of_both(theta):
        return jnp.sum(jax.grad(_loss, (0, 1))(x, theta)[0] ** 2)

    alone, both = jax.grad(gradient_of_x)(theta), jax.grad(gradient_of_both)(theta)
    np.testing.assert_allclose(alone, both, rtol=1e-4, atol=1e-4 * np.abs(both).max())


def test_one_traced_function_is_differentiated_in_several_ways(rng):
    """JAX keeps what it traced for one way, and must not take it for another."""
    x, theta = _case(rng, "overlap_matrices")
    expected = jax.grad(_loss, (0, 1))(x, theta)
    box_conv = jax.jit(jaxbox.box_conv)

    def loss(x, theta):
        return jnp.sum(box_conv(x, theta) ** 2)

    def check():
        for function in (loss, jax.checkpoint(loss)):
            for number in (1, 0):
                alone = jax.grad(function, number)(x, theta)
                np.testing.assert_allclose(alone, expected[number], rtol=1e-5, atol=1e-5)
            for both, exact in zip(jax.grad(function, (0, 1))(x, theta), expected, strict=True):
                np.testing.assert_allclose(both, exact, rtol=1e-5, atol=1e-5)

    check()
    check()
