"""Networks prepared for inference: the same logits, without what only training needs."""

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
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    InitialBlock,
    NonBottleneck1D,
    TransposedUpsampling,
    Upsampling,
)
from jaxbox.models.inference import for_inference, round_boxes
from jaxbox.models.normalization import BatchNorm
from tests.cases.networks import IMAGE_SIZE, SMALL_ENET, SMALL_ERFNET, build, draw

SMALL = [pytest.param(SMALL_ENET, id="enet"), pytest.param(SMALL_ERFNET, id="erfnet")]


def shake(model, rng):
    """Gives the BatchNorms of a network values that are not their initial ones."""
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, BatchNorm):
            for variable, mean in ((norm.scale, 1), (norm.bias, 0), (norm.mean, 0)):
                variable[...] = jnp.asarray(rng.normal(mean, 0.3, variable.shape), jnp.float32)
            norm.var[...] = jnp.asarray(rng.uniform(0.5, 2, norm.var.shape), jnp.float32)


# Compiled blocks. Those of the same options and shapes are compiled once for all networks.
_COMPILED = {
    kind: nnx.jit(kind.__call__)
    for kind in (
        *(Bottleneck, BoxBlock, Downsampling, InitialBlock),
        *(NonBottleneck1D, TransposedUpsampling, Upsampling),
    )
}


def run(model, images, positions=None):
    """Returns the logits and the positions of the maxima, or replaces these by the given ones.

    Boxes that reach over the border make pixels equal. Rounding then decides which of them is the
    largest, and unpooling moves the value there: two networks of the same function differ as soon
    as they do not round alike.
    """
    found = []

    def downsample(block, x):
        y, own = _COMPILED[Downsampling](block, x)
        found.append(own if positions is None else positions[len(found)])
        return y, found[-1]

    with pytest.MonkeyPatch.context() as patch:
        for kind, call in {**_COMPILED, Downsampling: downsample}.items():
            patch.setattr(kind, "__call__", call)
        return model(images), found


def check_same_logits(model, rng):
    folded = for_inference(model)
    model.eval()
    images = jnp.asarray(rng.normal(size=(2, *IMAGE_SIZE, 3)), jnp.float32)
    expected, positions = run(model, images)
    logits, _ = run(folded, images, positions)
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * float(abs(expected).max()))
    return folded


def box_layers(model):
    return [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, BoxConv)]


@pytest.mark.parametrize("architecture", SMALL)
def test_folded_network_gives_the_same_logits(architecture, rng):
    model = build(architecture)
    shake(model, rng)
    folded = check_same_logits(model, rng)
    kinds = {type(module) for _, module in nnx.iter_modules(folded)}
    assert not kinds & {BatchNorm, nnx.Dropout}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_networks_of_the_paper_folded_and_rounded(name, rng):
    model = draw(name, rng)
    shake(model, rng)
    check_same_logits(model, rng)
    layers = box_layers(model)
    if not layers:
        return
    rounded = round_boxes(model)
    check_same_logits(rounded, rng)
    for layer, original in zip(box_layers(rounded), layers, strict=True):
        shape = (2, layer.in_features, *layer.window)
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        theta = round_to_pixels(original.theta[...])
        exact = jaxbox.box_conv(x, theta, channel_axis=layer.channel_axis)
        tolerance = 1e-5 * float(abs(exact).max())
        np.testing.assert_allclose(layer(x), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", SMALL)
def test_the_original_stays_as_it_was(architecture, rng):
    model = build(architecture)
    shake(model, rng)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param, nnx.BatchStat))
    round_boxes(for_inference(model))
    for_inference(round_boxes(model))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.Param, nnx.BatchStat))


def test_folding_twice_is_folding_once():
    folded = for_inference(build(SMALL_ERFNET))
    assert nnx.graphdef(for_inference(folded)) == nnx.graphdef(folded)


def test_rounded_boxes_lie_on_pixel_edges():
    (layer,) = box_layers(round_boxes(build(SMALL_ERFNET)))
    np.testing.assert_array_equal((layer.theta[...] + 0.5) % 1, 0)
    assert layer.whole_pixels
    # They stay there when the rest is trained further.
    assert isinstance(layer.theta, FrozenBoxes)
