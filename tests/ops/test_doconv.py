"""DO-Conv: kernels and gradients against the formula, identities, and the layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from jaxbox.layers import DOConv
from jaxbox.ops.doconv import doconv_kernel
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle


def _oracle(weight, deviation, groups, legacy=False):
    """Every tap, channel and output in turn."""
    *kernel_size, multiplier, inputs = deviation.shape
    taps, own, outputs = math.prod(kernel_size), inputs // groups, weight.shape[-1]
    depthwise = deviation.reshape(taps, multiplier, inputs).copy()
    for copy in range(multiplier // taps):
        for m in range(taps):
            depthwise[m, copy * taps + m] += 1
    kernel = np.zeros((taps, own, outputs))
    for m in range(taps):
        for j in range(own):
            for o in range(outputs):
                group = o % groups if legacy else o // (outputs // groups)
                kernel[m, j, o] = depthwise[m, :, group * own + j] @ weight[:, j, o]
    return kernel.reshape(*kernel_size, own, outputs)


def _draw(rng, kernel_size, multiplier, inputs, outputs, groups):
    shapes = ((multiplier, inputs // groups, outputs), (*kernel_size, multiplier, inputs))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    ("kernel_size", "multiplier"), [((3,), 3), ((2, 3), 6), ((1, 4), 9), ((2, 1, 2), 8)]
)
def test_kernel_and_gradients(kernel_size, multiplier, groups, legacy):
    rng = np.random.default_rng()
    arrays = _draw(rng, kernel_size, multiplier, 6, 12, groups)
    options = {"feature_group_count": groups, "legacy_torch_grouping": legacy}
    kernel, vjp = jax.vjp(jax.jit(lambda *arrays: doconv_kernel(*arrays, **options)), *arrays)
    expected = _oracle(*(a.astype(np.float64) for a in arrays), groups, legacy)
    assert relative_error(kernel, expected) <= 1e-5
    g = rng.normal(size=kernel.shape).astype(np.float32)
    directions = [rng.normal(size=array.shape) for array in arrays]
    slopes = conv_oracle.slopes(
        lambda *arrays: (g * _oracle(*arrays, groups, legacy)).sum(), arrays, directions
    )
    assert conv_oracle.error_of_slopes(vjp(g), directions, slopes) <= 1e-5


def test_the_legacy_grouping_agrees_where_the_original_is_right():
    rng = np.random.default_rng()
    for inputs, outputs, groups in ((4, 6, 1), (4, 4, 4)):
        arrays = _draw(rng, (3, 3), 9, inputs, outputs, groups)
        kernels = [
            doconv_kernel(*arrays, feature_group_count=groups, legacy_torch_grouping=legacy)
            for legacy in (False, True)
        ]
        np.testing.assert_allclose(*kernels, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_feature_composition_gives_the_same(groups):
    """A depthwise convolution with the one factor, then the other across its outputs."""
    rng = np.random.default_rng()
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
    with pytest.raises(ValueError, match="at least the 9 taps of the kernel, got 4"):
        doconv_kernel(jnp.ones((4, 2, 3)), jnp.ones((3, 3, 4, 2)))
    with pytest.raises(
        ValueError, match=r"deviation must be .* \(9, 2\), got shape \(3, 3, 9, 4\)"
    ):
        doconv_kernel(jnp.ones((9, 2, 3)), jnp.ones((3, 3, 9, 4)))
    with pytest.raises(TypeError, match="weight must be of a real"):
        doconv_kernel(jnp.ones((9, 2, 3), jnp.int32), jnp.ones((3, 3, 9, 2)))
