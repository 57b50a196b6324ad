"""The layer of weighted boxes: its numbers, its parameters, and its place in an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbox
from jaxbox import linen, optim, surgery
from jaxbox.layers import BoxMatrices, FrozenBoxes, WeightedBoxConv
from jaxbox.models.features import FeatureMap
from jaxbox.models.layer_costs import Cost, layer_cost

X = jax.random.normal(jax.random.key(1), (2, 6, 8, 3))


def _layer(**options):
    layer = WeightedBoxConv(3, 5, 2, window=(6, 8), rngs=nnx.Rngs(0), **options)
    if layer.bias is not None:
        layer.bias[...] = jnp.arange(5.0)
    return layer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "edge", "use_bias": False},
        {"padding": "partial", "strides": (1, 2)},
        {"normalize": False, "symmetric": True},
        {"whole_pixels": True, "precision": "highest"},
    ],
)
@pytest.mark.parametrize("channel_axis", [-1, -3])
def test_a_box_convolution_and_a_1x1_convolution(options, channel_axis):
    layer = _layer(channel_axis=channel_axis, **options)
    moved = jnp.moveaxis(X, -1, channel_axis)
    averages = jnp.moveaxis(layer.boxes(moved), channel_axis, -1)
    expected = averages @ layer.weight[...].reshape(6, 5)
    if layer.bias is not None:
        expected += layer.bias[...].reshape(1, 1, 1, 5)
    actual = jnp.moveaxis(layer(moved), channel_axis, -1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_dtypes():
    assert _layer()(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert _layer(dtype=jnp.bfloat16)(X).dtype == jnp.bfloat16
    state = nnx.state(_layer(param_dtype=jnp.bfloat16, use_bias=False))
    assert {each.dtype for each in jax.tree.leaves(state)} == {jnp.dtype(jnp.bfloat16)}


def test_signals_and_the_window_of_an_example():
    layer = WeightedBoxConv(3, 5, 2, example=jnp.ones((9, 3)), num_dims=1, rngs=nnx.Rngs(0))
    assert layer.boxes.window == (9,)
    assert layer(jnp.ones((4, 9, 3))).shape == (4, 9, 5)


def test_weights_start_as_those_of_a_convolution():
    weight = WeightedBoxConv(50, 60, 8, rngs=nnx.Rngs(0)).weight[...]
    np.testing.assert_allclose(weight.std(), (50 * 8) ** -0.5, rtol=0.05)


@pytest.mark.usefixtures("relaxed_promotion")
def test_an_optimizer_finds_the_boxes_and_keeps_them_valid():
    layer = _layer()
    marks = optim.find_boxes(layer)
    assert marks["boxes"]["theta"] == optim.BoxSpec(window=(6, 8))
    assert marks["weight"] is False
    tx = optim.constrain(optax.sgd(1e4), layer)
    optimizer = nnx.Optimizer(layer, tx, wrt=nnx.Param)
    optimizer.update(layer, nnx.grad(lambda layer: jnp.sum(layer(X) ** 2))(layer))
    np.testing.assert_allclose(layer.boxes.theta[...], layer.boxes.valid_theta, atol=1e-4)


def test_frozen_boxes_are_no_parameters():
    layer = _layer(trainable=False)
    assert isinstance(layer.boxes.theta, FrozenBoxes)
    assert set(nnx.state(layer, nnx.Param)) == {"weight", "bias"}


def test_boxes_of_a_linen_layer_in_the_bridge_are_found():
    layer = nnx.bridge.ToNNX(linen.WeightedBoxConv(5, 2, window=(6, 8)), rngs=nnx.Rngs(0))
    layer.lazy_init(X)
    found = [mark for mark in jax.tree.leaves(optim.find_boxes(layer)) if mark]
    assert found == [optim.BoxSpec(window=(6, 8))]


def test_cost():
    output, cost = layer_cost(_layer(strides=2), FeatureMap(6, 8, 3))
    assert output[:3] == (3, 4, 5)
    boxes, weights, bias = 6 * 8 * 3 + 5 * 3 * 4 * 6, 3 * 4 * 6 * 5, 3 * 4 * 5
    operations = boxes + weights + bias
    assert cost == Cost(3 * 2 * 4 + 3 * 2 * 5 + 5, operations, operations)


@pytest.mark.parametrize("use_bias", [True, False])
def test_as_matrices(use_bias):
    layer = _layer(use_bias=use_bias)
    matrices = surgery.boxes_to_matrices(nnx.Sequential(layer))
    assert isinstance(matrices.layers[0].layers[0], BoxMatrices)
    np.testing.assert_allclose(matrices(X), layer(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="channels first"):
        surgery.boxes_to_matrices(_layer(channel_axis=-3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, 5, (15, 15)), {}, TypeError, "num_boxes must be an integer"),
        ((3, 0, 2), {}, ValueError, "out_features must be at least 1"),
        ((3, 5, 2), {"use_bias": 1}, TypeError, "use_bias must be True or False"),
        ((3, 5, 2), {"precision": "exact"}, ValueError, "precision must be"),
        ((3, 5, 2), {"weight_init": 0}, TypeError, "weight_init must be a function"),
        ((3, 5, 2), {"padding": "SAME"}, ValueError, "padding must be one of zeros"),
    ],
)
def test_bad_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        jaxbox.WeightedBoxConv(*arguments, rngs=nnx.Rngs(0), **options)
