"""The blocks of the networks, one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox.models.blocks import Bottleneck, BoxBlock, FeatureMap, PReLU, apply_in_order


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_dropout_drops_whole_channels(rng):
    block = BoxBlock(FeatureMap(6, 8, 64), dropout=0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    run = nnx.jit(lambda block, x: apply_in_order(block.branch, x))
    branch = run(block, normal(rng, 4, 6, 8, 64))
    dropped = (branch == 0).all(axis=(2, 3))
    np.testing.assert_array_equal((branch == 0).any(axis=(2, 3)), dropped)
    assert 0.3 < dropped.mean() < 0.7


@pytest.mark.parametrize(
    ("options", "reach"),
    [
        ({}, np.ones((3, 3))),
        ({"dilation": 2}, np.kron(np.ones((3, 3)), [[1, 0], [0, 0]])[:5, :5]),
        ({"asymmetric": 5}, np.ones((5, 5))),
    ],
)
def test_reach_of_a_bottleneck(options, reach, rng):
    block = Bottleneck(FeatureMap(9, 9, 8), **options, dtype=jnp.float32, rngs=nnx.Rngs(0))
    block.eval()
    run = nnx.jit(lambda block, x: block(x))
    x = normal(rng, 9, 9, 8)
    changed = (run(block, x) != run(block, x.at[4, 4].add(1.0))).any(axis=-1)
    np.testing.assert_array_equal(changed, np.pad(reach, (9 - len(reach)) // 2))


def test_boxes_must_divide_the_channels():
    with pytest.raises(ValueError, match="must divide the 64 channels, got 3"):
        BoxBlock(FeatureMap(8, 8, 64), num_boxes=3, dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_prelu_scales_negative_values_by_channel():
    prelu = PReLU(2)
    prelu.slope[...] = jnp.array([0.5, -2.0])
    x = jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(prelu(x), [[1.0, 1.0], [-0.5, 2.0], [0.0, 0.0]])
    # At 0 the derivative is the slope, as in PyTorch.
    dx = jax.grad(lambda x: prelu(x).sum())(x)
    np.testing.assert_array_equal(dx, [[1.0, 1.0], [0.5, -2.0], [0.5, -2.0]])
