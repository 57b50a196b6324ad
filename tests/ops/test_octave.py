"""Octave convolution: outputs and gradients against the oracle, and its features."""

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox import Octaves
from jaxbox.ops import octave_features
from jaxbox.ops.octave import OctaveKernels, octave_conv, octave_conv_transpose
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle
from tests.oracles import octave as octave_oracle


def _draw(rng, size, channels=(2, 4), outputs=(4, 2), kernel=3, groups=1, pooling="floor"):
    low_size = octave_oracle.average_pool(np.empty((*size, 1)), 2, pooling).shape[:-1]
    x = [rng.normal(size=(*s, c)) for s, c in zip((size, low_size), channels, strict=True)]
    taps = (kernel,) * len(size) if isinstance(kernel, int) else kernel
    kernels = [rng.normal(size=(*taps, c // groups, o)) for c in channels for o in outputs]
    return [a.astype(np.float32) for a in x], [a.astype(np.float32) for a in kernels]


def _check_outputs_and_gradients(rng, x, kernels, **options):
    """Compares both outputs, and the gradients of a random combination of them, to the oracle."""
    options_of_oracle = {
        {"kernel_dilation": "dilation"}.get(key, key): value for key, value in options.items()
    }
    expected = octave_oracle.octave_conv(*x, kernels, **options_of_oracle)
    g = Octaves(*(rng.normal(size=y.shape).astype(np.float32) for y in expected))
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
def test_outputs_and_gradients(size, kernel, options, strides, pooling, rng):
    if strides == 2 and pooling == "floor":
        size = tuple(n + 1 for n in size)
    if options.get("padding") == "VALID" and strides == 2:
        size = (9, 8)
    channels, outputs = ((1, 2), (2, 1)) if len(size) > 1 else ((2, 4), (4, 2))
    x, kernels = _draw(rng, size, channels, outputs, kernel, pooling=pooling)
    _check_outputs_and_gradients(rng, x, kernels, strides=strides, pooling=pooling, **options)


def test_groups(rng):
    x, kernels = _draw(rng, (5, 4), (2, 4), (4, 2), 2, groups=2)
    _check_outputs_and_gradients(rng, x, kernels)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("missing", [(0, 1), (2, 3), (0, 2), (1, 3)])
def test_missing_branches(missing, strides, rng):
    x, kernels = _draw(rng, (9, 6))
    for path in missing:
        kernels[path] = None
    x = tuple(
        None if set(missing) == gone else a for a, gone in zip(x, ({0, 1}, {2, 3}), strict=True)
    )
    y = octave_conv(x, OctaveKernels(*kernels), strides=strides)
    expected = octave_oracle.octave_conv(*x, kernels, strides=strides)
    if missing == (1, 3):
        assert isinstance(y, jax.Array)  # An ordinary convolution's.
        y = (y, None)
    for actual, of_oracle in zip(y, expected, strict=True):
        if actual is None:
            assert isinstance(of_oracle, int)
        else:
            assert relative_error(actual, of_oracle) <= 1e-5


def test_a_constant_stays_one(rng):
    x, kernels = _draw(rng, (8, 8))
    ones = tuple(jnp.ones_like(a) for a in x)
    high, low = octave_conv(ones, OctaveKernels(*kernels))
    hh, hl, lh, ll = (np.asarray(k, np.float64).sum((0, 1, 2)) for k in kernels)
    np.testing.assert_allclose(high[3, 3], hh + lh, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(low[2, 2], hl + ll, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["floor", "ceil"])
def test_transposed_paths(pooling, rng):
    """Each path is Flax's transposed convolution between pooling and enlarging."""
    x, kernels = _draw(rng, (4, 6))
    high, low = octave_conv_transpose(tuple(x), OctaveKernels(*kernels), strides=2, pooling=pooling)

    def conv(x, kernel):
        return np.asarray(
            jax.lax.conv_transpose(jnp.asarray(x, jnp.float32)[None], kernel, (2, 2), "SAME")[0],
            np.float64,
        )

    hh, hl, lh, ll = kernels
    expected_high = conv(x[0], hh) + octave_oracle.upsample_nearest(conv(x[1], lh), (8, 12))
    expected_low = conv(octave_oracle.average_pool(x[0], 2, pooling), hl) + conv(x[1], ll)
    assert relative_error(high, expected_high) <= 1e-5
    assert relative_error(low, expected_low) <= 1e-5


def test_channels_are_split_exactly():
    for channels in range(1, 65):
        for parts in range(1, 13):
            for share in range(parts + 1):
                exact = math.floor((1 - fractions.Fraction(share, parts)) * channels)
                split = octave_features.split_channels(channels, share / parts)
                assert split == (exact, channels - exact)
    assert octave_features.split_channels(10, 0.1 + 0.2) == (7, 3)


def test_between_octaves_and_ordinary_features():
    x = jax.random.normal(jax.random.key(0), (5, 6, 4))
    high, low = octave_features.to_octaves(x, 0.25, pooling="ceil")
    np.testing.assert_array_equal(high, x[..., :3])
    expected = octave_oracle.average_pool(x[..., 3:], 2, "ceil")
    np.testing.assert_allclose(low, expected, rtol=1e-5, atol=1e-6)
    back = octave_features.from_octaves((high, low))
    np.testing.assert_array_equal(back[..., :3], high)
    np.testing.assert_array_equal(back[1::2, 1::2, 3], low[:2, :, 0])
    assert octave_features.to_octaves(x, 0.0) is x
    assert octave_features.from_octaves(x) is x
