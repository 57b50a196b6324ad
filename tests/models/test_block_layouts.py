"""Blocks that take channels first or last: the same parameters give the same numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox.models import Architecture, SegmentationNetwork
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    FeatureMap,
    InitialBlock,
    Upsampling,
)
from jaxbox.models.convolution import PatchConvTranspose, PointwiseConv
from jaxbox_kernels.common import layout


def _normal(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def _assert_close(actual, expected):
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("source", [-1, -3])
@pytest.mark.parametrize("target", [-1, -3])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_move_and_back(source, target, batch):
    x = _normal(*batch, 4, 5, 6)
    moved = layout.move(x, source, target)
    np.testing.assert_array_equal(moved, jnp.moveaxis(x, source, target))
    np.testing.assert_array_equal(layout.move(moved, target, source), x)


@pytest.mark.parametrize("channels", [(8, 3), (3, 8)])
@pytest.mark.parametrize("channel_axes", [(-1, -3), (-3, -1), (-3, -3)])
def test_pointwise_conv(channels, channel_axes):
    x = _normal(2, 3, 4, channels[0])
    rngs = partial(nnx.Rngs, 0)
    expected = PointwiseConv(*channels, use_bias=True, rngs=rngs())(x)
    conv = PointwiseConv(*channels, use_bias=True, channel_axes=channel_axes, rngs=rngs())
    source, target = channel_axes
    y = conv(layout.move(x, -1, source))
    _assert_close(layout.move(y, target, -1), expected)


@pytest.mark.parametrize(
    "block",
    [
        Bottleneck,
        partial(Bottleneck, asymmetric=5, prelu=False),
        BoxBlock,
        partial(BoxBlock, relu=False, use_bias=False),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_blocks(block, training):
    features = FeatureMap(6, 8, 16)
    x = _normal(2, *features)

    def run(channel_axis):
        built = block(features, channel_axis=channel_axis, dtype=jnp.float32, rngs=nnx.Rngs(0))
        built.train() if training else built.eval()
        y = built(layout.move(x, -1, channel_axis))
        return layout.move(y, channel_axis, -1), nnx.state(built, nnx.BatchStat)

    for last, first in zip(jax.tree.leaves(run(-1)), jax.tree.leaves(run(-3)), strict=True):
        _assert_close(first, last)


def test_down_and_up():
    """The positions of maxima have their channels last whatever the features have."""
    x = _normal(2, 8, 12, 16)

    def run(axis):
        rngs = nnx.Rngs(0)
        down = Downsampling(
            FeatureMap(8, 12, 16), channels=64, output_axis=axis, dtype=jnp.float32, rngs=rngs
        )
        up = Upsampling(down.output, channels=16, input_axis=axis, dtype=jnp.float32, rngs=rngs)
        y, positions = down(x)
        return layout.move(y, axis, -1), positions, up(y, positions)

    for last, first in zip(run(-1), run(-3), strict=True):
        assert first.shape == last.shape
        _assert_close(first, last)


def test_networks_move_the_channels_between_blocks():
    def run(axis):
        blocks = (
            partial(InitialBlock, channels=16),
            partial(BoxBlock, channel_axis=axis),
            Bottleneck,
            partial(Bottleneck, channel_axis=axis),
        )
        architecture = Architecture(blocks, PatchConvTranspose)
        return SegmentationNetwork(architecture, 5, (16, 24), rngs=nnx.Rngs(0))

    images = _normal(2, 16, 24, 3)
    _assert_close(run(-3)(images), run(-1)(images))
