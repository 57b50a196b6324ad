"""Box importance and statistics by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbox
from jaxbox import analysis, models
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    InitialBlock,
    NonBottleneck1D,
    TransposedUpsampling,
    Upsampling,
)
from jaxbox.models.convolution import PatchConvTranspose
from tests.cases.networks import abstract, build


def importance_by_hand(incoming, outgoing, num_boxes):
    """Computes the mean absolute outgoing weight times the largest absolute incoming one."""
    channels = incoming.shape[-1]
    result = np.zeros((channels, num_boxes))
    for channel in range(channels):
        for box in range(num_boxes):
            mean = np.mean(np.abs(outgoing[..., channel * num_boxes + box, :]))
            result[channel, box] = mean * np.max(np.abs(incoming[..., channel]))
    return result


def test_importance_of_a_hand_computed_example():
    incoming = jnp.array([[[[2.0, -1.0], [-4.0, 0.5]]]])  # (1, 1, inputs, C)
    outgoing = jnp.array([[[[1.0, -3.0], [0.0, 0.0], [8.0, 0.0], [-1.0, -1.0]]]])  # Two boxes each.
    expected = [[4 * 2, 4 * 0], [1 * 4, 1 * 1]]
    np.testing.assert_array_equal(analysis.importance(incoming, outgoing), expected)


def test_importance_of_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"got shapes \(3, 4\) and \(6, 2\)"):
        analysis.importance(np.ones((3, 4)), np.ones((6, 2)))


_down = partial(Downsampling, channels=8)


@pytest.mark.parametrize(
    ("blocks", "readers"),
    [
        pytest.param((BoxBlock, Bottleneck), ("reduce",), id="bottleneck"),
        pytest.param((BoxBlock, BoxBlock), ("conv",), id="boxes"),
        pytest.param((BoxBlock, _down), ("reduce",), id="down"),
        pytest.param(
            (_down, BoxBlock, partial(Upsampling, channels=8)), ("reduce", "skip_conv"), id="up"
        ),
        pytest.param((BoxBlock, NonBottleneck1D), ("column1",), id="non-bottleneck"),
        pytest.param(
            (BoxBlock, partial(TransposedUpsampling, channels=8)), ("conv",), id="transposed"
        ),
        pytest.param((BoxBlock, partial(InitialBlock, channels=16)), ("conv",), id="initial"),
        pytest.param((BoxBlock,), (), id="classifier"),
    ],
)
def test_importance_is_of_the_convolution_that_reads_the_block(blocks, readers):
    sequence = (partial(InitialBlock, channels=8), *blocks)
    model = build(models.Architecture(sequence, PatchConvTranspose), num_classes=3)
    index = 1 + blocks.index(BoxBlock)
    box_block = model.blocks[index]
    convs = [getattr(model.blocks[index + 1], name) for name in readers] or [model.classifier]
    outgoing = np.concatenate([np.asarray(conv.kernel[...]) for conv in convs], axis=-1)
    expected = importance_by_hand(np.asarray(box_block.conv.kernel[...]), outgoing, num_boxes=4)
    layer = analysis.box_layers(model)[0]
    np.testing.assert_allclose(layer.importance, expected, rtol=1e-5)
    np.testing.assert_array_equal(layer.theta, box_block.boxes.theta[...])
    assert layer.window == box_block.output[:2]


@pytest.mark.parametrize("name", models.NETWORKS)
def test_box_layers_of_the_networks(name):
    model = abstract(name)
    importances = nnx.eval_shape(
        lambda model: [layer.importance for layer in analysis.box_layers(model)], model
    )
    thetas = [block.boxes.theta for block in model.blocks if type(block) is BoxBlock]
    assert [i.shape for i in importances] == [theta.shape[:2] for theta in thetas]


def test_statistics_by_hand():
    theta = jnp.array(
        [
            [-0.5, 0.5, 3.0, 4.0],  # At minimum, symmetric.
            [-1.0, 3.0, 0.0, 1.0],  # Low but wide; a third.
            [2.0, 3.005, 0.0, 1.005],  # At minimum up to the tolerance, on one side.
            [-9.0, -1.0, 0.0, 9.0],
        ]
    )
    np.testing.assert_array_equal(analysis.at_minimum(theta), [True, False, True, False])
    assert analysis.share_at_minimum(theta) == 0.5
    assert analysis.share_at_minimum(theta, min_size=9.0) == 1.0
    np.testing.assert_allclose(analysis.symmetry(theta), [1, 1 / 3, 0, 0], rtol=1e-6)


def test_symmetry_is_the_overlap_with_the_mirror_image(rng):
    theta = np.asarray(jaxbox.boxes.sample(jax.random.key(rng.integers(2**31)), (50,), (9, 9)))
    fine = np.linspace(-9, 9, 40001)
    for box, measured in zip(theta, np.asarray(analysis.symmetry(theta)), strict=True):
        inside = (fine >= box[0]) & (fine <= box[1])
        mirrored = inside[::-1]
        expected = (inside & mirrored).sum() / (inside | mirrored).sum()
        assert abs(measured - expected) < 2e-3
