"""Networks made ready for use: the same logits, without what only training needs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbox
from jaxbox import models
from jaxbox.boxes import round_to_pixels
from jaxbox.layers import BoxConv
from jaxbox.layers.box import FrozenBoxes
from jaxbox.models import blocks
from jaxbox.models.blocks import Bottleneck, BoxBlock, Downsampling, InitialBlock, Upsampling
from jaxbox.models.convolution import PatchConvTranspose, UpsamplingConv
from jaxbox.models.erf_blocks import NonBottleneck1D, TransposedUpsampling
from jaxbox.models.inference import for_inference, round_boxes
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_pool

SIZE = (16, 24)


def one_of_each_block():
    """Networks with every kind of block, which compile much faster than the paper's."""
    enet = models.Architecture(
        (
            partial(InitialBlock, channels=16),
            *(partial(Downsampling, channels=16, dropout=0.1, use_bias=False), Bottleneck),
            *(partial(BoxBlock, dropout=0.1), partial(Bottleneck, asymmetric=5)),
            partial(Upsampling, channels=16),
        ),
        partial(PatchConvTranspose, use_bias=True),
    )
    erfnet = models.Architecture(
        (
            *(partial(InitialBlock, channels=channels, prelu=False) for channels in (8, 16)),
            partial(NonBottleneck1D, dilation=2, dropout=0.1, use_bias=False),
            partial(BoxBlock, relu=False, use_bias=False),
            partial(TransposedUpsampling, channels=8, use_bias=False),
        ),
        partial(UpsamplingConv, use_bias=True),
    )
    return [pytest.param(enet, id="enet"), pytest.param(erfnet, id="erfnet")]


def trained(architecture):
    """A network whose BatchNorms do something."""
    model = models.SegmentationNetwork(architecture, 5, SIZE, rngs=nnx.Rngs(0))
    shake(model)
    return model


def shake(model):
    rng = np.random.default_rng()
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, BatchNorm):
            for variable, mean in ((norm.scale, 1), (norm.bias, 0), (norm.mean, 0)):
                variable[...] = jnp.asarray(rng.normal(mean, 0.3, variable.shape), jnp.float32)
            norm.var[...] = jnp.asarray(rng.uniform(0.5, 2, norm.var.shape), jnp.float32)


def run(model, images, positions=None):
    """Logits and the positions of the maxima, which unpooling uses; or those given in their place.

    Boxes that reach over the border make pixels equal, rounding decides which of them is the
    largest, and unpooling puts it there: two networks with the same function differ as soon as
    they do not round alike.
    """
    seen = []

    def pool(x):
        pooled, found = max_pool(x)
        seen.append(found if positions is None else positions[len(seen)])
        return pooled, seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "max_pool", pool)
        return model(images), seen


def check_same_logits(model):
    folded = for_inference(model)
    model.eval()
    images = jax.random.normal(jax.random.key(0), (2, *SIZE, 3))
    expected, positions = nnx.jit(run)(model, images)
    logits, _ = nnx.jit(run)(folded, images, positions)
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * float(abs(expected).max()))
    return folded


def box_layers(model):
    return [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, BoxConv)]


@pytest.mark.parametrize("architecture", one_of_each_block())
def test_folded_network_gives_the_same_logits(architecture):
    folded = check_same_logits(trained(architecture))
    kinds = {type(module) for _, module in nnx.iter_modules(folded)}
    assert not kinds & {BatchNorm, nnx.Dropout}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_networks_of_the_paper_folded_and_rounded(name):
    model = models.create(name, 5, SIZE, rngs=nnx.Rngs(0))
    shake(model)
    check_same_logits(model)
    layers = box_layers(model)
    if not layers:
        return
    rounded = round_boxes(model)
    check_same_logits(rounded)
    for layer, original in zip(box_layers(rounded), layers, strict=True):
        x = jax.random.normal(jax.random.key(1), (2, layer.in_features, *layer.window))
        theta = round_to_pixels(original.theta[...])
        exact = jaxbox.box_conv(x, theta, channel_axis=layer.channel_axis)
        tolerance = 1e-5 * float(abs(exact).max())
        np.testing.assert_allclose(layer(x), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", one_of_each_block())
def test_the_original_stays_as_it_was(architecture):
    model = trained(architecture)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param, nnx.BatchStat))
    round_boxes(for_inference(model))
    for_inference(round_boxes(model))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.Param, nnx.BatchStat))


def test_rounded_boxes_lie_on_pixel_edges():
    sequence = (partial(InitialBlock, channels=16), BoxBlock)
    architecture = models.Architecture(sequence, PatchConvTranspose)
    rounded = round_boxes(models.SegmentationNetwork(architecture, 5, SIZE, rngs=nnx.Rngs(0)))
    (layer,) = box_layers(rounded)
    np.testing.assert_array_equal((layer.theta[...] + 0.5) % 1, 0)
    assert layer.whole_pixels
    # They stay there when the rest goes on training.
    assert isinstance(layer.theta, FrozenBoxes)
