"""Finding boxes and positions among parameters, and the mask of weight decay."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxbox import optim
from jaxbox.optim import BoxSpec
from tests.cases.optim import WINDOW, Model, make_dcls_model, make_model


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
