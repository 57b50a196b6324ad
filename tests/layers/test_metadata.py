"""Metadata of parameters: how they are spread over devices, as users of Flax's layers say it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxbox import layers, linen, optim


@pytest.fixture(autouse=True)
def without_mesh():
    """Lets Flax make parameters with names of axes where there is no mesh that has them."""
    with nnx.use_eager_sharding(False):
        yield


# The arguments of each layer, and its parameters with their numbers of axes.
LAYERS = {
    "BoxConv": ((4, 2), {"theta": 3}),
    "WeightedBoxConv": ((4, 4, 2), {"theta": 3, "weight": 3, "bias": 1}),
    "DclsConv": ((4, 4, (3, 3), 2), {"weight": 3, "positions": 4, "sigma": 4, "bias": 1}),
    "DOConv": ((4, 4, (3, 3)), {"weight": 3, "deviation": 4, "bias": 1}),
    "OctConv": ((4, 4, (3, 3)), {"kernel": 4, "bias": 1}),
    "OctConvTranspose": ((4, 4, (3, 3)), {"kernel": 4, "bias": 1}),
}
PARAMETERS = [(name, parameter) for name, (_, axes) in LAYERS.items() for parameter in axes]
DRAWN = [pair for pair in PARAMETERS if pair[1] != "deviation"]  # which always starts at 0


def _axes(name, parameter):
    """Names for the axes of a parameter."""
    return ("first", "second", "third", "fourth")[: LAYERS[name][1][parameter]]


def _partitioned(module, name, parameter):
    """The initializer of a parameter, with names for its axes."""
    return {f"{parameter}_init": module.with_partitioning(_init, _axes(name, parameter))}


def _init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype)


def _layer(name, options):
    return getattr(layers, name)(*LAYERS[name][0], **options, rngs=nnx.Rngs(0))


def _is_named(found, parameter):
    """Whether a variable is what an argument speaks of: one of several in octave convolutions."""
    several = {"kernel": "_to_", "bias": "_bias"}.get(parameter, "nothing")
    return found == parameter or several in found


def _check_axes(layer, bare, name, parameter):
    """Checks that a parameter alone has names of axes, and its value and other metadata as ever."""
    plain = dict(nnx.to_flat_state(nnx.state(bare, nnx.Param)))
    for path, variable in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
        metadata = variable.get_metadata()
        named = _is_named(path[-1], parameter)
        assert metadata.pop("out_sharding", None) == (_axes(name, parameter) if named else None)
        metadata.pop("mesh", None)
        assert metadata == plain[path].get_metadata()
        np.testing.assert_array_equal(variable[...], plain[path][...])


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_metadata_are_added(name, parameter):
    options = {f"{parameter}_metadata": {"out_sharding": _axes(name, parameter)}}
    _check_axes(_layer(name, options), _layer(name, {}), name, parameter)


@pytest.mark.parametrize(("name", "parameter"), DRAWN)
def test_initializers_with_partitioning(name, parameter):
    bare = _layer(name, {f"{parameter}_init": _init})
    _check_axes(_layer(name, _partitioned(nnx, name, parameter)), bare, name, parameter)


@pytest.mark.parametrize(
    ("name", "parameter", "module"), [*((*pair, nn) for pair in DRAWN), (*DRAWN[0], nnx)]
)
def test_linen_boxes_parameters_with_names(name, parameter, module):
    x = jnp.ones((8, 8, 4))
    x = (x[..., :2], x[::2, ::2, :2]) if name.startswith("Oct") else x

    def make(**options):
        return getattr(linen, name)(*LAYERS[name][0][1:], **options)

    layer = make(**_partitioned(module, name, parameter))
    variables = layer.init(jax.random.key(0), x)
    for path, value in flatten_dict(variables["params"]).items():
        if _is_named(path[-1], parameter):
            assert type(value) is nn.Partitioned
            assert value.names == _axes(name, parameter)
        else:
            assert isinstance(value, jax.Array)
    bare = make(**{f"{parameter}_init": _init})
    y, plain = bare.init_with_output(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, nn.unbox(variables), plain)
    jax.tree.map(np.testing.assert_array_equal, layer.apply(variables, x), y)


def test_linen_logical_names_and_metadata():
    x, key = jnp.ones((8, 8, 4)), jax.random.key(0)
    init = nn.with_logical_partitioning(_init, ("channels", None, None))
    theta = linen.BoxConv(2, theta_init=init).init(key, x)["params"]["theta"]
    assert type(theta) is nn.LogicallyPartitioned
    assert theta.names == ("channels", None, None)
    layer = linen.BoxConv(2, theta_metadata={"out_sharding": ("model", None, None)})
    variables = layer.init(key, x)
    assert nn.get_partition_spec(variables)["params"]["theta"] == P("model", None, None)
    assert optim.find_boxes_by_name(variables["params"])["theta"] == optim.BoxSpec()
    hash(linen.BoxConv(2))  # Linen keeps modules in dictionaries.


def test_boxes_are_placed_on_a_mesh_and_train():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    metadata = {"out_sharding": ("model", None, None)}
    with nnx.use_eager_sharding(True), jax.set_mesh(mesh):
        layer = layers.BoxConv(4, 2, window=(8, 8), theta_metadata=metadata, rngs=nnx.Rngs(0))
        assert layer.theta[...].sharding.spec == P("model", None, None)
        gradients = nnx.grad(lambda layer: jnp.sum(layer(jnp.ones((8, 8, 4))) ** 2))(layer)
    assert gradients["theta"][...].shape == (4, 2, 4)
    assert optim.find_boxes(layer)["theta"] == optim.BoxSpec((8, 8))


def test_stacked_layers_name_the_new_axis():
    @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
    def make(key):
        metadata = {"out_sharding": ("model", None, None)}
        return layers.BoxConv(4, 2, theta_metadata=metadata, rngs=nnx.Rngs(key))

    stacked = make(jax.random.split(jax.random.key(0), 3))
    assert stacked.theta.get_metadata("out_sharding") == ("layers", "model", None, None)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_what_is_no_metadata(name, parameter):
    argument = f"{parameter}_metadata"
    for wrong in (None, [("a", 1)], {1: 2}, "model"):
        with pytest.raises(TypeError, match=f"{argument} must be a mapping"):
            _layer(name, {argument: wrong})


def test_metadata_of_the_layer_itself():
    with pytest.raises(ValueError, match="theta_metadata must not have tag, window"):
        _layer("BoxConv", {"theta_metadata": {"window": (3, 3), "tag": "mine", "mine": 1}})
    with pytest.raises(ValueError, match="positions_metadata must not have limits"):
        _layer("DclsConv", {"positions_metadata": {"limits": ()}})
