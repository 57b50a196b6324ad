"""The DO-Conv layer: the same function as ordinary convolutions, and training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from jaxbox.layers import DOConv
from tests.cases.box_conv import relative_error


@pytest.mark.parametrize("groups", [1, 2])
def test_feature_composition_gives_the_same(groups, rng):
    """A depthwise convolution with the one factor, then the other across its outputs."""
    layer = DOConv(
        4, 6, (2, 3), depth_multiplier=8, feature_group_count=groups, padding="VALID",
        use_bias=False, rngs=nnx.Rngs(0),
    )  # fmt: skip
    layer.deviation[...] = jnp.asarray(rng.normal(size=layer.deviation.shape), jnp.float32)
    x = rng.normal(size=(5, 6, 4)).astype(np.float32)
    identity = np.pad(np.eye(6), [(0, 0), (0, 2)]).reshape(2, 3, 8, 1)
    depthwise = np.asarray(layer.deviation[...], np.float64) + identity
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (2, 3), (0, 1))
    features = np.einsum("hwcab,absc->hwcs", windows, depthwise)
    weight = np.asarray(layer.weight[...], np.float64)
    expected = np.concatenate(
        [
            np.einsum("hwcs,sco->hwo", own, share)
            for own, share in zip(
                np.split(features, groups, 2), np.split(weight, groups, 2), strict=True
            )
        ],
        axis=-1,
    )
    assert relative_error(layer(x), expected) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feature_group_count": 2, "padding": "CIRCULAR"},
        {"feature_group_count": 6, "kernel_dilation": 2, "use_bias": False},
        {"strides": 2, "padding": "VALID"},
    ],
)
@pytest.mark.parametrize("kernel_size", [3, (3, 2), (1, 1)])
def test_it_starts_as_the_plain_convolution(kernel_size, options):
    plain = nnx.Conv(6, 12, kernel_size, rngs=nnx.Rngs(0), **options)
    layer = DOConv(6, 12, kernel_size, rngs=nnx.Rngs(0), **options)
    x = jax.random.normal(jax.random.key(1), (2, *(9, 8)[: len(plain.kernel_size)], 6))
    np.testing.assert_array_equal(layer(x), plain(x))
    assert (layer.deviation is None) == (kernel_size == (1, 1))


@pytest.mark.parametrize("multiplier", [9, 11, 18])
def test_folded_it_is_the_same(multiplier):
    layer = DOConv(
        4, 6, (3, 3), 2, depth_multiplier=multiplier, feature_group_count=2, rngs=nnx.Rngs(0)
    )
    layer.deviation[...] = jax.random.normal(jax.random.key(2), layer.deviation.shape)
    layer.bias[...] = jnp.arange(6.0)
    x = jax.random.normal(jax.random.key(1), (2, 9, 8, 4))
    conv = layer.fold()
    assert type(conv) is nnx.Conv
    assert nnx.state(conv, nnx.Param)["kernel"].shape == (3, 3, 2, 6)
    np.testing.assert_array_equal(conv(x), layer(x))
    dx = jax.grad(lambda x: jnp.sum(jnp.square(layer(x))))(x)
    np.testing.assert_array_equal(dx, jax.grad(lambda x: jnp.sum(jnp.square(conv(x))))(x))
    expected = lax.conv_general_dilated(
        x, layer.kernel, (2, 2), "SAME", feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    np.testing.assert_allclose(layer(x), expected + jnp.arange(6.0).reshape(1, 1, 1, 6), rtol=1e-5)


def test_weight_decay_pulls_to_the_identity():
    layer = DOConv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    layer.deviation[...] = jnp.ones_like(layer.deviation[...])
    params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    tx = optax.add_decayed_weights(0.5)
    decay, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    layer.deviation[...] -= 2 * decay["deviation"]
    np.testing.assert_array_equal(layer.kernel, layer.weight[...].reshape(3, 3, 2, 3))


def test_training_in_nnx():
    layer = DOConv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (6, 6, 2))
    grads = nnx.jit(nnx.grad(lambda layer, x: jnp.sum(jnp.square(layer(x)))))(layer, x)
    assert all(jnp.abs(g[...]).max() > 0 for g in (grads["weight"], grads["deviation"]))


def test_bfloat16():
    layer = DOConv(2, 3, (3, 3), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    y = layer(jnp.ones((6, 6, 2)))
    assert y.dtype == layer.fold()(jnp.ones((6, 6, 2))).dtype == jnp.bfloat16
    assert layer.kernel.dtype == jnp.float32


def test_bad_arguments():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=r"depth_multiplier must be at least the 9 taps .* got 4"):
        DOConv(2, 3, (3, 3), depth_multiplier=4, rngs=rngs)
    with pytest.raises(ValueError, match="1 for a single tap; got 4"):
        DOConv(2, 3, (1, 1), depth_multiplier=4, rngs=rngs)
    with pytest.raises(ValueError, match="feature_group_count must divide"):
        DOConv(2, 3, (3, 3), feature_group_count=2, rngs=rngs)
