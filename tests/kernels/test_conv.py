"""The functional convolutions: to the bit those of Flax's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox_kernels.common.conv import conv, conv_transpose


def _draw(rng, *shapes, dtype=jnp.float32):
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("batch", "size", "kernel_size", "options"),
    [
        ((), (9,), (3,), {"padding": "CAUSAL", "kernel_dilation": 2}),
        ((2, 3), (7, 6), (3, 2), {"padding": "CIRCULAR", "kernel_dilation": (1, 2)}),
        ((2,), (7, 6), (4, 3), {"padding": "REFLECT", "strides": 2}),
        ((1,), (5, 6), (3, 3), {"padding": 2, "feature_group_count": 2}),
        ((), (5, 6), (3, 3), {"padding": [1, (2, 0)], "strides": (1, 2)}),
        ((2,), (4, 3, 5), (2, 3, 1), {"padding": "VALID"}),
        ((2,), (4, 5), (3, 3), {"padding": "SAME", "dtype": jnp.bfloat16}),
    ],
)
def test_conv_is_flaxs_to_the_bit(rng, batch, size, kernel_size, options):
    layer = nnx.Conv(4, 6, kernel_size, rngs=nnx.Rngs(0), **options)
    x, bias = _draw(rng, (*batch, *size, 4), (6,))
    layer.bias[...] = bias
    y = conv(x, layer.kernel[...], bias, **options)
    expected = layer(x)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("batch", "size", "kernel_size", "options"),
    [
        ((), (5,), (3,), {"strides": 2}),
        ((2, 3), (4, 3), (3, 2), {"strides": (2, 3), "padding": "CIRCULAR"}),
        ((2,), (4, 3), (4, 5), {"padding": "CIRCULAR", "kernel_dilation": 2}),
        ((1,), (4, 3), (3, 3), {"strides": 2, "padding": [(1, 2), 1]}),
        ((2,), (4, 3, 2), (2, 3, 1), {"padding": "VALID", "strides": 2}),
        ((2,), (4, 5), (3, 3), {"dtype": jnp.bfloat16}),
    ],
)
def test_conv_transpose_is_flaxs_to_the_bit(rng, batch, size, kernel_size, options):
    layer = nnx.ConvTranspose(4, 6, kernel_size, use_bias=False, rngs=nnx.Rngs(0), **options)
    [x] = _draw(rng, (*batch, *size, 4))
    y = conv_transpose(x, layer.kernel[...], **options)
    expected = layer(x)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    "dtypes",
    [(jnp.bfloat16, jnp.float32), (jnp.int32, jnp.bfloat16), (jnp.int32, jnp.int32)],
)
def test_dtypes_are_promoted_as_by_flax(dtypes):
    x, kernel = jnp.ones((5, 2), dtypes[0]), jnp.ones((3, 2, 4), dtypes[1])
    layer = nnx.Conv(2, 4, 3, use_bias=False, kernel_init=lambda *_: kernel, rngs=nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"):
        assert conv(x, kernel).dtype == layer(x).dtype


def test_bad_arguments():
    x, kernel = jnp.ones((5, 6, 2)), jnp.ones((3, 3, 2, 4))
    with pytest.raises(ValueError, match=r"padding must be .* each of the 2 axes .* got \[1\]"):
        conv(x, kernel, padding=[1])
    with pytest.raises(ValueError, match="padding must be"):
        conv_transpose(x, kernel, padding=[1, (2, 3, 4)])
    with pytest.raises(ValueError, match="only implemented for 1D"):
        conv(x, kernel, padding="CAUSAL")
    with pytest.raises(ValueError, match="dtype must be a floating dtype"):
        conv(x, kernel, dtype=jnp.int32)
