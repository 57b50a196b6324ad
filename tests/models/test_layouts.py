"""Channels first or last: where networks have which, and the same numbers with either."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import models
from jaxbox.models import layouts, network
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    FeatureMap,
    InitialBlock,
    TransposedUpsampling,
    Upsampling,
)
from jaxbox.models.convolution import PatchConvTranspose
from jaxbox_kernels.common import layout
from tests.cases.networks import IMAGE_SIZE, abstract, build


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def assert_close(actual, expected):
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("source", [-1, -3])
@pytest.mark.parametrize("target", [-1, -3])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_move_is_moveaxis_and_invertible(source, target, batch, rng):
    x = normal(rng, *batch, 4, 5, 6)
    moved = layout.move(x, source, target)
    np.testing.assert_array_equal(moved, jnp.moveaxis(x, source, target))
    np.testing.assert_array_equal(layout.move(moved, target, source), x)


@pytest.mark.parametrize("variant", ["paper", "pytorch"])
@pytest.mark.parametrize("name", models.NETWORKS)
def test_only_encoder_stages_with_boxes_after_enets_downsampling_are_channels_first(name, variant):
    blocks = abstract(name, variant=variant).blocks
    # The two stages of the encoder: 1 + 4 and 1 + 16 blocks.
    first = range(1, 23) if name in ("boxenet", "boxenet-frozen", "boxonlyenet") else range(0)
    for index, block in enumerate(blocks):
        assert block.output.channel_axis == (-3 if index in first else -1)
        reads_any = isinstance(block, Bottleneck | BoxBlock | Upsampling)
        expected = blocks[index - 1].output.channel_axis if reads_any else -1
        assert block.input.channel_axis == expected


def test_boxes_behind_another_change_of_resolution_have_no_influence():
    down, up = partial(Downsampling, channels=16), partial(Upsampling, channels=16)
    derived = layouts.derive_layouts([down, Bottleneck, up, BoxBlock, down, Bottleneck, BoxBlock])
    given = ["output_axis" in getattr(block, "keywords", {}) for block in derived]
    assert given == [False, False, False, False, True, False, False]


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
def test_a_block_computes_the_same_in_both_layouts(block, training, rng):
    features = FeatureMap(6, 8, 16)
    x = normal(rng, 2, 6, 8, 16)

    def run(channel_axis):
        own = features._replace(channel_axis=channel_axis)
        built = block(own, dtype=jnp.float32, rngs=nnx.Rngs(0))
        built.train() if training else built.eval()
        y = nnx.jit(lambda block, x: block(x))(built, layout.move(x, -1, channel_axis))
        statistics = jax.tree.leaves(nnx.state(built, nnx.BatchStat))
        return [layout.move(y, channel_axis, -1), *statistics]

    for last, first in zip(run(-1), run(-3), strict=True):
        assert_close(first, last)


def test_positions_of_maxima_have_channels_last_in_both_layouts(rng):
    x = normal(rng, 2, 8, 12, 16)

    @nnx.jit
    def apply(down, up, x):
        y, positions = down(x)
        return y, positions, up(y, positions)

    def run(axis):
        options = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        down = Downsampling(FeatureMap(8, 12, 16), channels=64, output_axis=axis, **options)
        up = Upsampling(down.output, channels=16, **options)
        y, positions, restored = apply(down, up, x)
        return layout.move(y, axis, -1), positions, restored

    for last, first in zip(run(-1), run(-3), strict=True):
        assert first.shape == last.shape
        assert_close(first, last)


def test_a_network_computes_the_same_with_all_channels_last(rng, monkeypatch):
    # Without unpooling, which rounding errors would move.
    blocks = (
        partial(InitialBlock, channels=16),
        *(partial(Downsampling, channels=16), Bottleneck, BoxBlock),
        partial(TransposedUpsampling, channels=16),
    )
    architecture = models.Architecture(blocks, PatchConvTranspose)
    images = normal(rng, 2, *IMAGE_SIZE, 3)

    def run():
        model = build(architecture)
        axes = {block.output.channel_axis for block in model.blocks}
        return nnx.jit(lambda model, x: model(x))(model, images), axes

    logits, axes = run()
    monkeypatch.setattr(network, "derive_layouts", lambda blocks: blocks)
    expected, all_last = run()
    assert (axes, all_last) == ({-1, -3}, {-1})
    assert_close(logits, expected)
