"""Small networks: evaluation, training, gradients, features and dtypes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import models
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    FeatureMap,
    InitialBlock,
    NonBottleneck1D,
    TransposedUpsampling,
    Upsampling,
)
from jaxbox.models.convolution import PatchConvTranspose
from tests.cases.networks import IMAGE_SIZE, SMALL_ENET, build, create


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def small_network():
    return nnx.split(build(SMALL_ENET))


@pytest.fixture
def model(small_network):
    return nnx.merge(*small_network, copy=True)


@nnx.jit
def run(model, images):
    return model(images)


def check_gradient_reaches_every_parameter(model, rng):
    images = normal(rng, 2, *IMAGE_SIZE, 3)
    labels = jnp.asarray(rng.integers(5, size=images.shape[:-1]), jnp.int32)

    def loss(model):
        scores = nnx.log_softmax(model(images))
        return -jnp.take_along_axis(scores, labels[..., None], axis=-1).mean()

    gradient = nnx.jit(nnx.grad(loss))(model)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert len(leaves) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))
    for path, leaf in leaves:
        assert jnp.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert (leaf != 0).any(), jax.tree_util.keystr(path)


def test_evaluation_changes_nothing_and_takes_any_leading_axes(model, rng):
    model.eval()
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    images = normal(rng, 2, *IMAGE_SIZE, 3)
    logits = run(model, images)
    np.testing.assert_array_equal(run(model, images), logits)
    np.testing.assert_allclose(run(model, images[:, None])[:, 0], logits, atol=1e-5)
    np.testing.assert_allclose(run(model, images[0]), logits[0], atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.BatchStat), before)


def test_images_need_not_be_of_the_size_that_set_the_windows(model, rng):
    model.eval()
    assert run(model, normal(rng, 2, 8, 40, 3)).shape == (2, 8, 40, 5)


def test_training_differs_each_time_and_updates_every_statistic(model, rng):
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    images = normal(rng, 2, *IMAGE_SIZE, 3)
    assert (run(model, images) != run(model, images)).any()
    after = nnx.state(model, nnx.BatchStat)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))


def test_gradient_reaches_every_parameter(model, rng):
    check_gradient_reaches_every_parameter(model, rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.NETWORKS)
def test_gradient_reaches_every_parameter_of_the_networks(name, rng):
    check_gradient_reaches_every_parameter(create(name), rng)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 12, 16, 3), "H of images must be a multiple of 8, got 12"),
        ((2, 16, 4, 3), "W of images must be a multiple of 8, got 4"),
        ((2, 16, 16, 1), r"\(\.\.\., H, W, 3\)"),
        ((16, 3), r"\(\.\.\., H, W, 3\)"),
    ],
)
def test_shape_of_images_must_fit(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model(jnp.zeros(shape))


def test_integer_images_are_refused(model):
    with pytest.raises(TypeError, match="floating dtype, got uint8"):
        model(jnp.zeros((8, 8, 3), jnp.uint8))


def test_features_are_what_the_first_blocks_return(rng):
    model = build(models.Architecture((partial(InitialBlock, channels=8), BoxBlock), _CLASSIFIER))
    model.eval()
    images = normal(rng, 2, *IMAGE_SIZE, 3)
    np.testing.assert_array_equal(model.features(images, 0), images)
    np.testing.assert_array_equal(model.features(images, 1), model.blocks[0](images))
    np.testing.assert_array_equal(model.classifier(model.features(images)), model(images))
    with pytest.raises(ValueError, match="depth must be from 0 to 2, got 3"):
        model.features(images, 3)


_CLASSIFIER = partial(PatchConvTranspose, use_bias=True)

# One of each block but `Upsampling`: rounding moves maxima, and unpooling what follows them.
_WITHOUT_UNPOOLING = models.Architecture(
    (
        partial(InitialBlock, channels=16),
        *(partial(Downsampling, channels=16), Bottleneck, partial(Bottleneck, asymmetric=5)),
        *(BoxBlock, partial(NonBottleneck1D, dilation=2)),
        partial(TransposedUpsampling, channels=16),
    ),
    _CLASSIFIER,
)


def check_bfloat16(low, exact, *arguments):
    """Compares two networks or blocks that differ only in the dtype of their computation."""
    low.eval()
    exact.eval()
    actual, expected = nnx.jit(low)(*arguments), nnx.jit(exact)(*arguments)
    assert (actual.dtype, expected.dtype) == (jnp.bfloat16, jnp.float32)
    difference = actual.astype(jnp.float32) - expected
    assert jnp.linalg.norm(difference) < 0.05 * jnp.linalg.norm(expected)
    variables = nnx.state(low, nnx.Any(nnx.Param, nnx.BatchStat))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_bfloat16_network_is_close_to_float32(rng):
    low, exact = (build(_WITHOUT_UNPOOLING, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    check_bfloat16(low, exact, normal(rng, 2, *IMAGE_SIZE, 3))


def test_bfloat16_unpooling_is_close_to_float32(rng):
    low, exact = (
        Upsampling(FeatureMap(4, 6, 64), channels=16, dtype=dtype, rngs=nnx.Rngs(0))
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    positions = jnp.asarray(rng.integers(4, size=(2, 4, 6, 16)), jnp.int8)
    check_bfloat16(low, exact, normal(rng, 2, 4, 6, 64), positions)
