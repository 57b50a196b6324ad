"""The octave layers: ordinary convolutions at the extremes, initial values, and features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox.layers import (
    Octaves,
    OctConv,
    OctConvTranspose,
    PerOctave,
    map_octaves,
    to_octaves,
)
from tests.oracles import octave as octave_oracle


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel_size", [5, (3, 2), (2, 3, 3)])
def test_alpha_0_is_a_plain_convolution(kernel_size, groups):
    options = {"feature_group_count": groups, "padding": "CIRCULAR"}
    layer = OctConv(6, 9, kernel_size, alpha=0, rngs=nnx.Rngs(0), **options)
    plain = nnx.Conv(6, 9, kernel_size, rngs=nnx.Rngs(0), **options)
    rank = len(plain.kernel_size)
    x = jax.random.normal(jax.random.key(1), (2, *(7, 6, 5)[:rank], 6))
    np.testing.assert_array_equal(layer(x), plain(x))


def test_alpha_1_is_a_plain_convolution_of_the_low_octave():
    layer = OctConv(6, 9, (3, 3), alpha=1.0, kernel_dilation=2, rngs=nnx.Rngs(0))
    plain = nnx.Conv(6, 9, (3, 3), kernel_dilation=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 7, 8, 6))
    high, low = layer((None, x))
    assert high is None
    np.testing.assert_array_equal(low, plain(x))


@pytest.mark.parametrize("pooling", ["floor", "ceil"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (10, 5)])
def test_outputs_line_up(size, strides, pooling):
    """What a layer returns another accepts, whatever the size; transposed too."""
    make = {"alpha": 0.5, "pooling": pooling, "rngs": nnx.Rngs(0)}
    first = OctConv(3, 4, (3, 3), strides, **{**make, "alpha": (0, 0.5)})
    back = OctConvTranspose(4, 4, (3, 3), strides, **make)
    last = OctConv(4, 2, (3, 3), **{**make, "alpha": (0.5, 0)})

    def network(x):
        return last(back(first(x)))

    y = jax.eval_shape(network, jax.ShapeDtypeStruct((*size, 3), jnp.float32))
    if strides == 1:
        assert y.shape == (*size, 2)


def test_transposed_alpha_0_is_flaxs():
    layer = OctConvTranspose(6, 9, (3, 3), 2, alpha=0, rngs=nnx.Rngs(0))
    plain = nnx.ConvTranspose(6, 9, (3, 3), 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 7, 8, 6))
    np.testing.assert_array_equal(layer(x), plain(x))


def test_depthwise_has_no_paths_across():
    layer = OctConv(8, 16, (3, 3), alpha=0.25, feature_group_count=8, rngs=nnx.Rngs(0))
    assert layer.high_to_low is None
    assert layer.low_to_high is None
    assert layer.high_to_high.shape == (3, 3, 1, 12)
    high, low = layer((jnp.ones((4, 4, 6)), jnp.ones((2, 2, 2))))
    assert (high.shape, low.shape) == ((4, 4, 12), (2, 2, 4))


def test_variance_at_initialization_is_a_plain_convolutions():
    layer = OctConv(256, 256, (3, 3), alpha=(0.25, 0.5), rngs=nnx.Rngs(0))
    for kernel in layer.kernels:
        np.testing.assert_allclose(jnp.std(kernel), (9 * 256) ** -0.5, rtol=0.02)
    layer = OctConv(256, 256, (1, 1), use_bias=False, rngs=nnx.Rngs(0))
    x = [jax.random.normal(jax.random.key(n), (n, n, 128)) for n in (32, 16)]
    high, _ = layer(tuple(x))
    np.testing.assert_allclose(jnp.std(high), 1, rtol=0.05)


def test_one_bias_for_each_output():
    layer = OctConv(4, 6, (1, 1), alpha=0.5, rngs=nnx.Rngs(0))
    layer.high_bias[...] = jnp.arange(3.0)
    layer.low_bias[...] = -jnp.arange(3.0)
    high, low = layer((jnp.zeros((2, 2, 2)), jnp.zeros((1, 1, 2))))
    assert high[0, 0].tolist() == [0, 1, 2]
    assert low[0, 0].tolist() == [0, -1, -2]


def test_layers_for_each_octave():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    low = 3 + x[:, ::2, ::2, :2]
    norm = PerOctave(nnx.BatchNorm, 8, 0.25, rngs=nnx.Rngs(0))
    y = norm((x, low))
    for octave_of_y in y:
        np.testing.assert_allclose(octave_of_y.mean((0, 1, 2)), 0, atol=1e-5)
    high, low = map_octaves(nnx.relu, y)
    assert high.min() == low.min() == 0
    assert PerOctave(nnx.BatchNorm, 8, 0, rngs=nnx.Rngs(0))(jnp.ones((3, 3, 8))).ndim == 3


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_octaves_pass_through_sequential(alpha):
    """With BatchNorm of each octave's own and an activation between, from tuples or `Octaves`."""
    rngs = nnx.Rngs(0)
    first, norm, last = (
        OctConv(4, 8, (3, 3), alpha=alpha, rngs=rngs),
        PerOctave(nnx.BatchNorm, 8, alpha, rngs=rngs),
        OctConv(8, 4, (3, 3), alpha=alpha, rngs=rngs),
    )
    high, low = (jax.random.normal(jax.random.key(1), (2, n, n, 4)) for n in (6, 3))
    x = {0: high, 0.5: (high[..., :2], low[..., :2]), 1: (None, low)}[alpha]
    relu = functools.partial(map_octaves, nnx.relu)
    model = nnx.Sequential(first, norm, relu, last)
    expected = last(map_octaves(nnx.relu, norm(first(x))))
    y = model(x)
    jax.tree.map(np.testing.assert_array_equal, y, expected)
    if alpha:
        assert isinstance(y, Octaves)
        jax.tree.map(np.testing.assert_array_equal, model(Octaves(*x)), expected)
        model.eval()
        grads = jax.jit(jax.grad(lambda x: _sum_of_squares(model(x))))(Octaves(*x))
        assert isinstance(grads, Octaves)
        assert jnp.abs(grads.low).max() > 0


def _sum_of_squares(x):
    return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(x))


def test_bfloat16_is_pooled_in_float32():
    x = jax.random.normal(jax.random.key(0), (4, 4, 2), jnp.bfloat16)
    _, low = to_octaves(x, 1)
    assert low.dtype == jnp.bfloat16
    exact = octave_oracle.average_pool(np.asarray(x, np.float64), 2, "floor")
    np.testing.assert_array_equal(low, jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16))
    layer = OctConv(2, 4, (3, 3), alpha=(0, 0.5), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert all(y.dtype == jnp.bfloat16 for y in layer(x))


def test_bad_arguments():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=r"alpha must be from 0 to 1, got 1\.5"):
        OctConv(4, 4, (3, 3), alpha=1.5, rngs=rngs)
    with pytest.raises(ValueError, match="strides must be 1 or 2, got 3"):
        OctConv(4, 4, (3, 3), 3, rngs=rngs)((jnp.ones((6, 6, 2)), jnp.ones((3, 3, 2))))
    with pytest.raises(ValueError, match="feature_group_count must be in_features, or divide"):
        OctConv(12, 12, (3, 3), alpha=0.25, feature_group_count=6, rngs=rngs)
    with pytest.raises(ValueError, match="depthwise octave convolution must"):
        OctConv(4, 4, (3, 3), alpha=(0.5, 0.25), feature_group_count=4, rngs=rngs)
    layer = OctConv(4, 4, (3, 3), rngs=rngs)
    with pytest.raises(ValueError, match=r"must have \(2, 2\) channels .* got \(4, 0\)"):
        layer(jnp.ones((6, 6, 4)))
    with pytest.raises(ValueError, match=r"must have the size \(3, 3\) .* got \(4, 3\)"):
        layer((jnp.ones((7, 6, 2)), jnp.ones((4, 3, 2))))
    with pytest.raises(ValueError, match="nothing is left"):
        OctConv(4, 4, (1, 1), alpha=(0, 0.5), rngs=rngs)(jnp.ones((1, 8, 4)))
    with pytest.raises(ValueError, match="pooling must be"):
        OctConv(4, 4, (1, 1), alpha=(0, 0.5), pooling="round", rngs=rngs)(jnp.ones((8, 8, 4)))
