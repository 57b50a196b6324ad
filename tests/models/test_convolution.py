"""The networks' convolutions against `lax.conv_general_dilated`."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxbox.models.convolution import PatchConv, PatchConvTranspose, PointwiseConv, UpsamplingConv
from jaxbox_kernels.common import layout


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def convolve(x, kernel, strides=1, padding=(0, 0), spread=1):
    """Convolves images; `spread` puts zeros between their pixels."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        (padding, padding),
        lhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def transpose_convolve(x, kernel, padding):
    return convolve(x, jnp.flip(kernel, (0, 1)), padding=padding, spread=2)


@pytest.mark.parametrize(
    ("convolution", "reference"),
    [
        (PointwiseConv, convolve),
        (PatchConv, partial(convolve, strides=2)),
        (PatchConvTranspose, partial(transpose_convolve, padding=(1, 1))),
        (UpsamplingConv, partial(transpose_convolve, padding=(1, 2))),
    ],
)
def test_agrees_with_lax(convolution, reference, rng):
    layer = convolution(3, 5, use_bias=True, rngs=nnx.Rngs(0))
    layer.bias[...] = normal(rng, 5)
    x, kernel = normal(rng, 2, 6, 4, 3), layer.kernel[...]

    @jax.jit
    def actual(kernel, x):
        copy = nnx.clone(layer)
        copy.kernel = nnx.Param(kernel)
        return copy(x)

    @jax.jit
    def expected(kernel, x):
        return reference(x, kernel) + layer.bias[...].reshape(1, 1, 1, -1)

    (y, pull), (y_expected, pull_expected) = (
        jax.vjp(function, kernel, x) for function in (actual, expected)
    )
    np.testing.assert_allclose(y, y_expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(x[0]), y[0], rtol=1e-4, atol=1e-5)
    g = normal(rng, *y.shape)
    for gradient, wanted in zip(pull(g), pull_expected(g), strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "convolution", [PointwiseConv, PatchConv, PatchConvTranspose, UpsamplingConv]
)
def test_bfloat16_computes_with_float32_parameters(convolution):
    layer = convolution(3, 5, use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert jax.eval_shape(layer, jnp.zeros((4, 4, 3))).dtype == jnp.bfloat16
    assert layer.kernel.dtype == jnp.float32


def test_keeps_the_variance_of_its_input(rng):
    layer = PointwiseConv(256, 256, rngs=nnx.Rngs(0))
    assert math.isclose(layer(normal(rng, 8, 8, 256)).std(), 1.0, rel_tol=0.1)


@pytest.mark.parametrize("channels", [(8, 3), (3, 8)])
@pytest.mark.parametrize("channel_axes", [(-1, -3), (-3, -1), (-3, -3)])
def test_pointwise_conv_reads_and_returns_any_layout(channels, channel_axes, rng):
    x = normal(rng, 2, 3, 4, channels[0])
    rngs = partial(nnx.Rngs, 0)
    expected = PointwiseConv(*channels, use_bias=True, rngs=rngs())(x)
    conv = PointwiseConv(*channels, use_bias=True, channel_axes=channel_axes, rngs=rngs())
    source, target = channel_axes
    y = layout.move(conv(layout.move(x, -1, source)), target, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
