"""Octave convolution: outputs and gradients against the oracle, identities, and the layers."""

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox.layers import OctConv, OctConvTranspose, octave
from jaxbox.ops.octave import OctaveKernels, octave_conv, octave_conv_transpose
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle
from tests.oracles import octave as octave_oracle


def _draw(rng, size, channels=(2, 4), outputs=(4, 2), kernel=3, groups=1, pooling="floor"):
    low_size = octave_oracle.pool(np.empty((*size, 1)), 2, pooling).shape[:-1]
    x = [rng.normal(size=(*s, c)) for s, c in zip((size, low_size), channels, strict=True)]
    taps = (kernel,) * len(size) if isinstance(kernel, int) else kernel
    kernels = [rng.normal(size=(*taps, c // groups, o)) for c in channels for o in outputs]
    return [a.astype(np.float32) for a in x], [a.astype(np.float32) for a in kernels]


def _check_outputs_and_gradients(x, kernels, **options):
    """Both outputs, and the derivatives of a random combination of them by all that is there."""
    rng = np.random.default_rng()
    options_of_oracle = {
        {"kernel_dilation": "dilation"}.get(key, key): value for key, value in options.items()
    }
    expected = octave_oracle.octave_conv(*x, kernels, **options_of_oracle)
    g = tuple(rng.normal(size=y.shape).astype(np.float32) for y in expected)
    y, vjp = jax.vjp(
        jax.jit(lambda x, kernels: octave_conv(x, OctaveKernels(*kernels), **options)),
        tuple(x),
        kernels,
    )
    for actual, of_oracle in zip(y, expected, strict=True):
        assert relative_error(actual, of_oracle) <= 1e-5

    def scalar(high, low, *kernels):
        y = octave_oracle.octave_conv(high, low, kernels, **options_of_oracle)
        return sum((a * b).sum() for a, b in zip(g, y, strict=True))

    directions = [rng.normal(size=array.shape) for array in (*x, *kernels)]
    dx, dkernels = vjp(g)
    expected = conv_oracle.slopes(scalar, [*x, *kernels], directions)
    assert conv_oracle.error_of_slopes([*dx, *dkernels], directions, expected) <= 1e-5


@pytest.mark.parametrize("pooling", ["floor", "ceil"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((9,), 3, {}),
        ((4, 6), (2, 3), {}),
        ((7, 5), (1, 3), {"kernel_dilation": 2}),
        ((6, 5), 2, {"padding": "VALID"}),
        ((4, 3, 5), 2, {}),
    ],
)
def test_outputs_and_gradients(size, kernel, options, strides, pooling):
    if strides == 2 and pooling == "floor":
        size = tuple(n + 1 for n in size)
    if options.get("padding") == "VALID" and strides == 2:
        size = (9, 8)
    rng = np.random.default_rng()
    channels, outputs = ((1, 2), (2, 1)) if len(size) > 1 else ((2, 4), (4, 2))
    x, kernels = _draw(rng, size, channels, outputs, kernel, pooling=pooling)
    _check_outputs_and_gradients(x, kernels, strides=strides, pooling=pooling, **options)


def test_groups():
    x, kernels = _draw(np.random.default_rng(), (5, 4), (2, 4), (4, 2), 2, groups=2)
    _check_outputs_and_gradients(x, kernels)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("missing", [(0, 1), (2, 3), (0, 2), (1, 3)])
def test_missing_branches(missing, strides):
    rng = np.random.default_rng()
    x, kernels = _draw(rng, (9, 6))
    for path in missing:
        kernels[path] = None
    x = tuple(
        None if set(missing) == gone else a for a, gone in zip(x, ({0, 1}, {2, 3}), strict=True)
    )
    y = octave_conv(x, OctaveKernels(*kernels), strides=strides)
    expected = octave_oracle.octave_conv(*x, kernels, strides=strides)
    if missing == (1, 3):
        assert not isinstance(y, tuple)  # An ordinary convolution's.
        y = (y, None)
    for actual, of_oracle in zip(y, expected, strict=True):
        if actual is None:
            assert isinstance(of_oracle, int)
        else:
            assert relative_error(actual, of_oracle) <= 1e-5


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


def test_a_constant_stays_one():
    x, kernels = _draw(np.random.default_rng(), (8, 8))
    ones = tuple(jnp.ones_like(a) for a in x)
    high, low = octave_conv(ones, OctaveKernels(*kernels))
    hh, hl, lh, ll = (np.asarray(k, np.float64).sum((0, 1, 2)) for k in kernels)
    np.testing.assert_allclose(high[3, 3], hh + lh, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(low[2, 2], hl + ll, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("pooling", ["floor", "ceil"])
def test_transposed_paths(pooling):
    """Each path is Flax's transposed convolution between pooling and enlarging."""
    rng = np.random.default_rng()
    x, kernels = _draw(rng, (4, 6))
    high, low = octave_conv_transpose(tuple(x), OctaveKernels(*kernels), strides=2, pooling=pooling)

    def conv(x, kernel):
        return np.asarray(
            jax.lax.conv_transpose(jnp.asarray(x, jnp.float32)[None], kernel, (2, 2), "SAME")[0],
            np.float64,
        )

    hh, hl, lh, ll = kernels
    expected_high = conv(x[0], hh) + octave_oracle.enlarge(conv(x[1], lh), (8, 12))
    expected_low = conv(octave_oracle.pool(x[0], 2, pooling), hl) + conv(x[1], ll)
    assert relative_error(high, expected_high) <= 1e-5
    assert relative_error(low, expected_low) <= 1e-5


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


def test_channels_are_split_exactly():
    for channels in range(1, 65):
        for parts in range(1, 13):
            for share in range(parts + 1):
                exact = math.floor((1 - fractions.Fraction(share, parts)) * channels)
                split = octave.split_channels(channels, share / parts)
                assert split == (exact, channels - exact)
    assert octave.split_channels(10, 0.1 + 0.2) == (7, 3)


def test_between_octaves_and_ordinary_features():
    x = jax.random.normal(jax.random.key(0), (5, 6, 4))
    high, low = octave.to_octaves(x, 0.25, pooling="ceil")
    np.testing.assert_array_equal(high, x[..., :3])
    expected = octave_oracle.pool(x[..., 3:], 2, "ceil")
    np.testing.assert_allclose(low, expected, rtol=1e-5, atol=1e-6)
    back = octave.from_octaves((high, low))
    np.testing.assert_array_equal(back[..., :3], high)
    np.testing.assert_array_equal(back[1::2, 1::2, 3], low[:2, :, 0])
    assert octave.to_octaves(x, 0.0) is x
    assert octave.from_octaves(x) is x


def test_layers_for_each_octave():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    low = 3 + x[:, ::2, ::2, :2]
    norm = octave.PerOctave(nnx.BatchNorm, 8, 0.25, rngs=nnx.Rngs(0))
    y = norm((x, low))
    for octave_of_y in y:
        np.testing.assert_allclose(octave_of_y.mean((0, 1, 2)), 0, atol=1e-5)
    high, low = octave.map_octaves(nnx.relu, y)
    assert high.min() == low.min() == 0
    assert octave.PerOctave(nnx.BatchNorm, 8, 0, rngs=nnx.Rngs(0))(jnp.ones((3, 3, 8))).ndim == 3


def test_bfloat16_is_pooled_in_float32():
    x = jax.random.normal(jax.random.key(0), (4, 4, 2), jnp.bfloat16)
    _, low = octave.to_octaves(x, 1)
    assert low.dtype == jnp.bfloat16
    exact = octave_oracle.pool(np.asarray(x, np.float64), 2, "floor")
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
