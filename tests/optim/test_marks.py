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
