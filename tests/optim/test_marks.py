"""Finding boxes and positions among parameters, and the mask of weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxbox import layers, linen, optim
from jaxbox.optim import BoxSpec
from tests.cases.optim import WINDOW, Model, make_dcls_model, make_model, train, violation


def test_find_boxes():
    model = make_model()
    found = optim.find_boxes(model)
    assert [found["boxes"][i]["theta"] for i in range(3)] == [
        BoxSpec(WINDOW),
        BoxSpec((6, 10)),
        BoxSpec(None),
    ]
    specs = jax.tree.leaves(found)
    assert len(specs) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert sum(isinstance(spec, BoxSpec) for spec in specs) == 3
    assert optim.find_boxes(nnx.eval_shape(lambda: Model(nnx.Rngs(0)))) == found


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match="'theta', which none has"):
        optim.find_boxes_by_name({"kernel": jnp.zeros(3)})
    for leaf in (3, np.array([1, None])):
        with pytest.raises(TypeError, match="params must be a tree of arrays of numbers"):
            optim.find_boxes_by_name({"theta": leaf})
    found = optim.find_boxes_by_name([{"b": jnp.zeros(4)}, jnp.zeros(3)], name="b")
    assert found == [{"b": BoxSpec()}, False]


def test_masks_of_both_kinds():
    boxes, positions = optim.find_boxes(make_dcls_model()), optim.find_positions(make_dcls_model())
    mask = optim.decay_mask(boxes, positions)
    assert jax.tree.structure(mask) == jax.tree.structure(boxes)
    flat = {"/".join(map(str, path)): value for path, value in nnx.to_flat_state(mask)}
    assert {name for name, value in flat.items() if not value} == {"boxes/theta", "dcls/positions"}


@pytest.mark.parametrize("bad", ["ab", 5, None, (1, "b"), (1, None), [True, True], (1j, 2)])
def test_specs_of_the_wrong_type(bad):
    if bad is not None:
        with pytest.raises(TypeError, match="window must be two positive"):
            BoxSpec(bad)
    with pytest.raises(TypeError, match="limits must be pairs"):
        optim.PositionSpec(bad)
    with pytest.raises(TypeError, match="name must be a string"):
        optim.find_boxes_by_name({"theta": jnp.zeros(4)}, name=5)
    with pytest.raises(TypeError, match="kernel_size must be"):
        optim.find_positions_by_name({"positions": jnp.zeros(4)}, bad if bad != 5 else 5.0)


@pytest.mark.parametrize("bad", [(), [(1, 0)], [(0, float("nan"))], [(-float("inf"), 0)]])
def test_limits_out_of_range(bad):
    with pytest.raises(ValueError, match="limits must be pairs"):
        optim.PositionSpec(bad)


def test_a_mask_of_nothing():
    with pytest.raises(TypeError, match="at least one tree of marks"):
        optim.decay_mask()


def test_labels():
    model = make_dcls_model()
    found = optim.labels(optim.find_boxes(model), optim.find_positions(model))
    expected = {
        "boxes": {"theta": "boxes"},
        "dcls": dict.fromkeys(("bias", "sigma", "weight"), "others") | {"positions": "positions"},
        "norm": {"bias": "others", "scale": "others"},
    }
    assert nnx.to_pure_dict(found) == expected
    assert optim.labels({"theta": optim.BoxSpec(), "bias": False}) == {
        "theta": "boxes",
        "bias": "others",
    }
    with pytest.raises(TypeError, match="labels needs at least one tree"):
        optim.labels()


def _bridged(layer):
    model = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0))
    return model.lazy_init(jnp.ones((2, 6, 8, 3)))


def test_linen_layers_in_an_nnx_model():
    model = nnx.List(
        [
            _bridged(linen.BoxConv(2, window=(6, 8))),
            _bridged(linen.DclsConv(4, (3, 2), dilation=2, gain=2.0)),
            nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
        ]
    )
    assert optim.find_boxes(model)[0]["theta"] == BoxSpec((6, 8))
    assert optim.find_positions(model)[1]["positions"] == optim.PositionSpec(
        ((-1.5, 1.0), (-1.0, 0.5))
    )
    state = nnx.state(model, nnx.Param)
    trained = train(optim.constrain(optax.sgd(1.0), model), state)
    assert violation(trained[0]["theta"][...], (6, 8)) <= 1e-4


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return linen.BoxConv(2, window=(6, 8), name="boxes")(nn.Conv(3, (1, 1))(x))


def test_a_linen_model_in_an_nnx_model_is_refused_and_can_be_marked_by_name():
    model = nnx.List([_bridged(LinenModel())])
    with pytest.raises(ValueError, match=r"at 0 has parameters 'theta'.*find_boxes_by_name"):
        optim.constrain(optax.sgd(1.0), model)
    state = nnx.state(model, nnx.Param)
    found = optim.find_boxes_by_name(state, (6, 8))
    trained = train(optim.constrain_boxes(optax.sgd(1.0), found), state)
    assert violation(trained[0]["boxes"]["theta"][...], (6, 8)) <= 1e-4


def test_parameters_with_metadata_around_them():
    layer = nnx.bridge.to_linen(layers.BoxConv, 3, 2, window=(6, 8))
    bridged = layer.init(jax.random.key(0), jnp.ones((2, 6, 8, 3)))
    assert optim.find_boxes_by_name(bridged) == optim.find_boxes_by_name(bridged, (6, 8))
    partitioned = {"theta": nn.Partitioned(jnp.zeros((3, 2, 4)), (None, "model", None))}
    for params in (bridged, partitioned):
        found = optim.find_boxes_by_name(params, (6, 8))
        assert jax.tree.leaves(found) == [BoxSpec((6, 8))]
        trained = train(optim.constrain_boxes(optax.sgd(1.0), found), params)
        assert jax.tree.structure(trained) == jax.tree.structure(params)
        (theta,) = jax.tree.leaves(trained)
        assert violation(theta, (6, 8)) <= 1e-4
