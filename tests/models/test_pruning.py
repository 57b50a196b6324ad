"""Networks without some of their boxes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbox
from jaxbox import analysis, models
from jaxbox.models.blocks import BoxBlock, InitialBlock, apply_in_order
from jaxbox.models.convolution import PatchConvTranspose
from jaxbox.models.cost import cost
from jaxbox.models.inference import for_inference, round_boxes
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pruning import contributions, prune

SIZE = (16, 16)
BLOCKS = 3


def channels_first(features, **options):
    """Builds a box block that is channels first, whatever the block before it returns."""
    return BoxBlock(features._replace(channel_axis=-3), use_bias=False, **options)


def network():
    sequence = (
        partial(InitialBlock, channels=16),
        partial(BoxBlock, dropout=0.1),
        channels_first,
        partial(BoxBlock, relu=False, trainable=False),
    )
    architecture = models.Architecture(sequence, PatchConvTranspose)
    model = models.SegmentationNetwork(architecture, 3, SIZE, rngs=nnx.Rngs(0))
    model.eval()
    return model


def norms_after_boxes(model):
    return [block.norm2 for _, block in model.box_blocks()]


def random_masks(rng):
    """Draws masks with a channel that keeps no box, one that keeps all, and others."""
    masks = [rng.random((4, 4)) < 0.5 for _ in range(BLOCKS)]
    for mask in masks:
        mask[0], mask[1], mask[2, :2] = False, True, (True, False)
    return masks


def make_exact(model, rng):
    """Gives a network numbers with which its arithmetic is exact in any order.

    Otherwise the rounding of a channel depends on the number of channels that XLA computes.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.epsilon = 0.0
            module.bias[...] = jnp.asarray(rng.integers(-2, 3, module.bias.shape), jnp.float32)
            module.scale[...] = jnp.ones_like(module.scale[...])
        elif isinstance(module, jaxbox.BoxConv):
            low = rng.integers(-4, 3, (*module.theta.shape[:2], 2)) - 0.5
            high = low + rng.choice([1.0, 2.0], low.shape)
            theta = np.stack([low, high], axis=-1).reshape(module.theta.shape)
            module.theta[...] = jnp.asarray(theta, jnp.float32)
        elif hasattr(module, "kernel"):
            signs = rng.integers(-1, 2, module.kernel.shape)
            module.kernel[...] = jnp.asarray(signs, jnp.float32)


def run(model, images):
    return nnx.jit(lambda model, images: model(images))(model, images)


@pytest.mark.parametrize("emptied", [None, 1], ids=["", "a block loses all"])
def test_boxes_without_outgoing_weight_leave_logits_to_the_bit(emptied, rng):
    model = network()
    make_exact(model, rng)
    keep = random_masks(rng)
    if emptied is not None:
        keep[emptied][:] = False
    for norm, mask in zip(norms_after_boxes(model), keep, strict=True):
        norm.scale[...] = jnp.asarray(mask.ravel(), jnp.float32)
    for contribution, mask in zip(contributions(model), keep, strict=True):
        np.testing.assert_array_equal(contribution > 0, mask)
    images = jnp.asarray(rng.integers(-1, 2, (2, *SIZE, 3)), jnp.float32)
    expected = run(model, images)
    pruned = prune(model, keep)
    assert expected.std() > 0
    np.testing.assert_array_equal(run(pruned, images), expected)
    # A pruned network can be folded too. BatchNorm is the identity here up to rounding.
    np.testing.assert_allclose(run(for_inference(pruned), images), expected, rtol=1e-5, atol=1e-2)


def test_the_mean_takes_the_place_of_a_box(rng):
    model = network()
    keep = [np.ones((4, 4), bool) for _ in range(BLOCKS)]
    keep[0][1, 2] = False
    for norm in norms_after_boxes(model):
        norm.bias[...] = jnp.asarray(rng.normal(size=16), jnp.float32)
        norm.mean[...] = jnp.asarray(rng.normal(size=16), jnp.float32)
        norm.var[...] = jnp.asarray(rng.uniform(0.5, 2, 16), jnp.float32)
    images = jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32)
    x = model.features(images, 1)
    branch = apply_in_order(model.blocks[1].branch, x)  # Channels first.
    expected = branch.at[:, 1 * 4 + 2].set(norms_after_boxes(model)[0].bias[6])
    pruned = prune(model, keep)
    np.testing.assert_allclose(
        apply_in_order(pruned.blocks[1].branch, x), expected, rtol=0, atol=1e-4
    )


def test_contribution_is_the_deviation_of_what_is_added(rng):
    norm = norms_after_boxes(model := network())[0]
    norm.scale[...] = jnp.asarray(rng.normal(size=16), jnp.float32)
    norm.train()
    x = rng.normal(size=(4, 16, 8, 8)) * rng.uniform(0.5, 2, (16, 1, 1))
    for _ in range(200):  # until the running statistics are this batch's
        norm(jnp.asarray(x, jnp.float32))
    norm.eval()
    added = np.asarray(norm(jnp.asarray(x, jnp.float32)), np.float64)
    deviation = added.std(axis=(0, 2, 3)).reshape(4, 4)
    np.testing.assert_allclose(contributions(model)[0], deviation, rtol=1e-3, atol=1e-4)


def test_cost_falls_by_what_was_removed(rng):
    model = network()
    keep = random_masks(rng)
    before, after = cost(model, SIZE), cost(prune(model, keep), SIZE)
    height, width = SIZE[0] // 2, SIZE[1] // 2
    parameters = operations = 0
    for block, mask in zip(model.blocks[1:], keep, strict=True):
        has_bias = block.conv.bias is not None
        channels, boxes = int((~mask.any(axis=1)).sum()), int((~mask).sum())
        parameters += channels * (16 + has_bias) + 4 * boxes
        operations += height * width * (channels * (16 + has_bias + block.relu + 1) + 5 * boxes)
    assert before.parameters - after.parameters == parameters
    assert before.multiply_adds - after.multiply_adds == operations


OPTIONS = {
    "symmetric": {"symmetric": True},
    "causal": {"causal": True},
    "edge": {"padding": "edge"},
    "partial": {"padding": "partial"},
    "sums": {"normalize": False, "min_size": 2.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_boxes_of_any_kind_can_be_pruned_and_rounded(options, rng):
    model = network()
    (_, block), *_ = model.box_blocks()
    old = block.boxes
    layer = jaxbox.BoxConv(
        4, 4, window=old.window, channel_axis=-3, rngs=nnx.Rngs(int(rng.integers(100))), **options
    )
    block.boxes = layer
    x = jnp.asarray(rng.normal(size=(4, *SIZE)), jnp.float32)
    averages = layer(x)

    keep = random_masks(rng)
    pruned = prune(model, keep).blocks[1]
    left = np.flatnonzero(keep[0].any(1))
    # The channels that keep the same number of boxes are together.
    channels = sorted(left, key=lambda channel: keep[0][channel].sum())
    kept = [4 * channel + box for channel in channels for box in np.flatnonzero(keep[0][channel])]
    result = pruned.boxes(x[np.array(channels)])
    np.testing.assert_allclose(result, averages[np.array(kept)], rtol=1e-5, atol=1e-6)

    (described, *_) = analysis.box_layers(model)
    np.testing.assert_array_equal(described.theta, layer.valid_theta)
    assert described.theta.shape == (4, 4, 4)

    rounded = round_boxes(model).blocks[1].boxes
    assert not isinstance(rounded.theta, nnx.Param)
    assert ((rounded.valid_theta + 0.5) % 1 == 0).all()
    assert jnp.abs(rounded.valid_theta - layer.valid_theta).max() <= 1
    exact = jaxbox.box_conv(x, rounded.valid_theta, channel_axis=-3, **_of_operation(options))
    np.testing.assert_allclose(rounded(x), exact, rtol=1e-5, atol=1e-6)
    if "symmetric" in options:
        np.testing.assert_array_equal(analysis.symmetry(rounded.valid_theta), 1)


def _of_operation(options):
    return {name: options[name] for name in ("padding", "normalize") if name in options}


def test_the_original_stays_and_the_copy_trains(rng):
    model = network()
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param, nnx.BatchStat))
    pruned = prune(model, random_masks(rng))
    images = jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32)

    @nnx.jit
    def gradients(model, images):
        return nnx.grad(lambda model: jnp.sum(jnp.square(model(images))))(model)

    pruned.train()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(pruned, images)))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.Param, nnx.BatchStat))
    # Frozen boxes stay frozen, and others are found by the optimizer.
    found = jax.tree.leaves(jaxbox.optim.find_boxes(pruned))
    thetas = [m.theta for _, m in nnx.iter_modules(pruned) if isinstance(m, jaxbox.BoxConv)]
    assert sum(spec is not False for spec in found) == sum(type(t) is nnx.Param for t in thetas)


def test_keeping_all_changes_nothing():
    model = network()
    pruned = prune(model, [np.ones((4, 4), bool)] * BLOCKS)
    assert nnx.graphdef(pruned) == nnx.graphdef(model)


def test_what_cannot_be_pruned():
    model, keep = network(), [np.ones((4, 4), bool)] * BLOCKS
    with pytest.raises(ValueError, match="a mask for each of 3 layers, got 2"):
        prune(model, keep[:2])
    with pytest.raises(ValueError, match=r"keep must be \(4, 4\) for layer 1, got shape \(2, 4\)"):
        prune(model, [keep[0], keep[1][:2], keep[2]])
    with pytest.raises(TypeError, match="keep must be boolean, got float64 for layer 2"):
        prune(model, [*keep[:2], np.ones((4, 4))])
    fewer = [~mask for mask in keep]
    with pytest.raises(ValueError, match="pruned already"):
        prune(prune(model, fewer), keep)
    with pytest.raises(ValueError, match="pruned already"):
        analysis.box_layers(prune(model, fewer))
    with pytest.raises(ValueError, match="must have its BatchNorms"):
        prune(for_inference(model), fewer)
