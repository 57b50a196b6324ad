"""The Linen layers: the options of the NNX layers, and the same numbers."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbox
from jaxbox import boxes, layers, linen


def _x(dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), (2, 6, 8, 3), dtype)


@pytest.mark.parametrize(
    "options", [{}, {"normalize": False}, {"whole_pixels": True}, {"dtype": jnp.bfloat16}]
)
def test_same_numbers_as_nnx(options):
    layer = linen.BoxConv(num_boxes=2, **options)
    variables = layer.init(jax.random.key(0), _x())
    twin = layers.BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(0), **options)
    twin.theta[...] = variables["params"]["theta"]
    y = layer.apply(variables, _x())
    assert y.dtype == twin(_x()).dtype
    np.testing.assert_array_equal(y, twin(_x()))


def test_channels_first():
    layer = linen.BoxConv(num_boxes=2, channel_axis=-3)
    x = jnp.moveaxis(_x(), -1, -3)
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["theta"].shape == (3, 2, 4)
    last = linen.BoxConv(num_boxes=2).apply(variables, _x())
    np.testing.assert_array_equal(layer.apply(variables, x), jnp.moveaxis(last, -1, -3))


def test_the_parameter():
    variables = linen.BoxConv(num_boxes=50).init(jax.random.key(0), _x())
    assert jax.tree.map(jnp.shape, variables) == {"params": {"theta": (3, 50, 4)}}
    theta = variables["params"]["theta"]
    # Boxes start in the input's window.
    np.testing.assert_array_equal(boxes.project(theta, (3, 4)), theta)
    assert jnp.abs(theta[..., :2]).max() > 3


def test_window_and_theta_init():
    theta = linen.BoxConv(50, window=(60, 80)).init(jax.random.key(0), _x())["params"]["theta"]
    assert jnp.abs(theta[..., :2]).max() > 30
    init = jax.nn.initializers.constant(0.5)
    layer = linen.BoxConv(2, theta_init=init, param_dtype=jnp.bfloat16)
    theta = layer.init(jax.random.key(0), _x())["params"]["theta"]
    assert theta.dtype == jnp.bfloat16
    assert (theta == 0.5).all()


def test_inside_a_model_under_jit_and_grad():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (1, 1))(x)
            return linen.BoxConv(2)(x)

    block = Block()
    variables = jax.jit(block.init)(jax.random.key(0), _x())
    loss = jax.jit(jax.grad(lambda variables: jnp.sum(block.apply(variables, _x()) ** 2)))
    grads = loss(variables)
    assert jnp.abs(grads["params"]["BoxConv_0"]["theta"]).min() > 0
    shapes = jax.eval_shape(block.init, jax.random.key(0), _x())
    assert shapes["params"]["BoxConv_0"]["theta"].shape == (4, 2, 4)


def test_dtype_is_the_inputs():
    layer = linen.BoxConv(2)
    variables = layer.init(jax.random.key(0), _x(jnp.bfloat16))
    assert variables["params"]["theta"].dtype == jnp.float32
    assert layer.apply(variables, _x(jnp.bfloat16)).dtype == jnp.bfloat16


def test_bad_arguments():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="x must be"):
        linen.BoxConv(2).init(key, jnp.zeros((6, 3)))
    with pytest.raises(ValueError, match="num_boxes must be at least 1"):
        linen.BoxConv(0).init(key, _x())
    with pytest.raises(ValueError, match="window must be two positive"):
        linen.BoxConv(2, window=(0, 3)).init(key, _x())
    with pytest.raises(TypeError, match="positional arguments"):
        linen.BoxConv(2, (3, 3))


def test_boxes_do_not_depend_on_the_size_of_later_inputs():
    layer = linen.BoxConv(2)
    variables = layer.init(jax.random.key(0), jnp.zeros((40, 50, 3)))
    y = layer.apply(variables, _x())
    np.testing.assert_array_equal(y, jaxbox.box_conv(_x(), variables["params"]["theta"]))


LAYERS = {
    "WeightedBoxConv": ((6, 2), {"window": (6, 8), "padding": "edge"}),
    "DclsConv": ((6, (5, 4), 3, 2), {"feature_group_count": 3}),
    "DOConv": ((6, (3, 2), 2), {"depth_multiplier": 8}),
    "OctConv": ((6, (3, 3), 2), {"alpha": (0, 0.5)}),
    "OctConvTranspose": ((6, (3, 3), 2), {"alpha": (0, 0.5)}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_sister_layers_give_the_same_numbers_as_in_nnx(name):
    positional, options = LAYERS[name]
    layer = getattr(linen, name)(*positional, **options)
    variables = layer.init(jax.random.key(0), _x())
    twin = getattr(layers, name)(3, *positional, rngs=nnx.Rngs(0), **options)
    nnx.update(twin, variables["params"])
    y, expected = layer.apply(variables, _x()), twin(_x())
    jax.tree.map(np.testing.assert_array_equal, y, expected)
    # Nothing else: no keys, no statistics, no metadata.
    names = {path[0] for path, _ in nnx.to_flat_state(nnx.state(twin))}
    assert {"params": names} == {group: set(own) for group, own in variables.items()}


def test_octaves_pass_through_sequential():
    """With BatchNorm of each octave's own and an activation between."""
    norm = functools.partial(nn.BatchNorm, use_running_average=False)
    model = nn.Sequential(
        [
            linen.OctConv(8, (3, 3), alpha=(0, 0.25)),
            linen.PerOctave(norm),
            functools.partial(layers.map_octaves, nn.relu),
            linen.OctConv(4, (3, 3), alpha=(0.25, 0)),
        ]
    )
    variables = jax.jit(model.init)(jax.random.key(0), _x())
    norms = variables["params"]["layers_1"]
    assert jax.tree.map(jnp.shape, norms) == {
        "high": {"bias": (6,), "scale": (6,)},
        "low": {"bias": (2,), "scale": (2,)},
    }
    y, updated = model.apply(variables, _x(), mutable="batch_stats")
    assert y.shape == (2, 6, 8, 4)
    for name in ("high", "low"):
        assert jnp.abs(updated["batch_stats"]["layers_1"][name]["mean"]).min() > 0


@pytest.mark.parametrize("name", sorted({*linen.__all__} - {"PerOctave"}))
def test_options_and_defaults_are_those_of_nnx(name):
    parameters = inspect.signature(getattr(layers, name).__init__).parameters
    given = {"self", "in_features", "example", "rngs"}
    expected = [
        (key, dataclasses.MISSING if value.default is value.empty else value.default)
        for key, value in parameters.items()
        if key not in given and value.kind is not value.VAR_POSITIONAL
    ]
    fields = dataclasses.fields(getattr(linen, name))
    found = [(field.name, field.default) for field in fields]
    assert [pair for pair in found if pair[0] not in ("parent", "name")] == expected


def test_frozen_boxes_are_no_parameters():
    variables = linen.BoxConv(2, trainable=False).init(jax.random.key(0), _x())
    assert "params" not in variables
    y = linen.BoxConv(2, trainable=False).apply(variables, _x())
    assert y.shape == (2, 6, 8, 6)
