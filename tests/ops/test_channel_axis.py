"""Channels last or first: the same numbers in another order of axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbox
from jaxbox.layers import BoxConv
from tests.cases.box_conv import (
    IMAGE_SIZES,
    boxes_of_all_kinds,
    images,
    relative_error,
    to_channels_last,
)
from tests.oracles import box_conv as oracle

N, C, F = 2, 3, 4


def _planes(rng, form):
    x = images(rng, (N, C, *IMAGE_SIZES[form]))
    return x, boxes_of_all_kinds(rng, (C, F), IMAGE_SIZES[form])


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("form", IMAGE_SIZES)
def test_outputs_and_gradients(form, whole_pixels, rng):
    x, theta = _planes(rng, form)
    g = rng.normal(size=(N, C * F, *x.shape[-2:])).astype(np.float32)

    def run(x, g, channel_axis):
        def op(x, theta):
            return jaxbox.box_conv(x, theta, channel_axis=channel_axis, whole_pixels=whole_pixels)

        output, pull_back = jax.vjp(op, jnp.asarray(x), jnp.asarray(theta))
        return output, *pull_back(jnp.asarray(g))

    output, dx, dtheta = run(x, g, -3)
    last, dx_last, dtheta_last = run(to_channels_last(x), to_channels_last(g), -1)
    np.testing.assert_array_equal(to_channels_last(output), last)
    np.testing.assert_array_equal(to_channels_last(dx), dx_last)
    np.testing.assert_array_equal(dtheta, dtheta_last)
    if not whole_pixels:
        expected = oracle.forward(x, theta).reshape(output.shape)
        assert relative_error(output, expected) <= 2e-6


@pytest.mark.parametrize("batch", [(), (2, 1, 3), (0,)])
def test_any_number_of_batch_axes(batch):
    x = np.ones((*batch, C, 5, 7), np.float32)
    theta = np.full((C, F, 4), [-1.5, 1.5, -0.5, 0.5], np.float32)
    output = jaxbox.box_conv(x, theta, channel_axis=-3)
    assert output.shape == (*batch, C * F, 5, 7)


def test_half_precision(rng):
    x, theta = _planes(rng, "integral_images")
    output = jaxbox.box_conv(x.astype(jnp.bfloat16), theta, channel_axis=-3)
    assert output.dtype == jnp.bfloat16


@pytest.mark.parametrize("axis", [1, 0, -2, 3, None, "first"])
def test_other_axes_are_refused(axis):
    x, theta = np.ones((C, 5, 7), np.float32), np.ones((C, F, 4), np.float32)
    with pytest.raises(ValueError, match=rf"channel_axis must be -1 or -3; got .*{axis}"):
        jaxbox.box_conv(x, theta, channel_axis=axis)
    with pytest.raises(ValueError, match=rf"channel_axis must be -1 or -3; got .*{axis}"):
        BoxConv(C, F, channel_axis=axis, rngs=nnx.Rngs(0))


def test_too_few_channels_are_refused():
    x, theta = np.ones((5, 7, C), np.float32), np.ones((C, F, 4), np.float32)
    with pytest.raises(ValueError, match=r"5 channels \(x is \(\.\.\., C, H, W\).*boxes for 3"):
        jaxbox.box_conv(x, theta, channel_axis=-3)


def test_layer():
    example = jax.ShapeDtypeStruct((N, C, 5, 7), jnp.float32)
    layer = BoxConv(C, F, example=example, channel_axis=-3, rngs=nnx.Rngs(0))
    assert layer.window == (5, 7)
    x = jax.random.normal(jax.random.key(0), example.shape)
    expected = jaxbox.box_conv(x, layer.theta[...], channel_axis=-3)
    np.testing.assert_array_equal(layer(x), expected)
    with pytest.raises(ValueError, match=r"example must be \(\.\.\., C, H, W\) with C .* = 4"):
        BoxConv(4, F, example=example, channel_axis=-3, rngs=nnx.Rngs(0))
