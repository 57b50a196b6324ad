"""Boxes in an optimizer: validity, pixel steps and penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxbox import boxes, layers, linen, optim
from jaxbox.optim import BoxSpec
from tests.cases.optim import WINDOW, adam_promotion, make_model, train, violation


@pytest.mark.parametrize("learning_rate", [0.01, 3.0])
def test_boxes_stay_valid_over_200_steps_of_adam(learning_rate):
    theta = boxes.sample(jax.random.key(0), (1000,), WINDOW)
    tx = optax.chain(optax.adam(learning_rate), optim.keep_boxes_valid(BoxSpec(WINDOW)))

    @jax.jit
    def step(carry, key):
        theta, state = carry
        # A push that lasts drives boxes against the border, noise makes them collapse.
        gradient = push + jax.random.normal(key, theta.shape)
        updates, state = tx.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    push = jax.random.normal(jax.random.key(1), theta.shape)
    keys = jax.random.split(jax.random.key(2), 200)
    with adam_promotion():
        (last, _), path = jax.lax.scan(step, (theta, tx.init(theta)), keys)
    assert violation(path, WINDOW) <= 1e-4
    assert jnp.abs(last - theta).max() > 1


def test_valid_updates_pass_bit_for_bit_and_others_are_projected():
    theta = boxes.sample(jax.random.key(0), (500,), WINDOW)
    tx = optim.keep_boxes_valid(BoxSpec(WINDOW))
    updates = 3 * jax.random.normal(jax.random.key(1), theta.shape)
    kept, _ = tx.update(updates, tx.init(theta), theta)
    moved = theta + updates
    valid = boxes.project(moved, WINDOW) == moved
    assert valid.any()
    assert not valid.all()
    assert (kept == updates)[valid].all()
    np.testing.assert_allclose(theta + kept, boxes.project(moved, WINDOW), atol=1e-5)


def test_transforms_without_arguments_take_every_leaf_for_boxes():
    theta = {"a": jnp.zeros((2, 4)), "b": (jnp.zeros((3, 5, 4)),)}
    updates = jax.tree.map(jnp.ones_like, theta)
    tx = optax.chain(optim.steps_in_pixels(), optim.keep_boxes_valid(min_size=2.0))
    kept, _ = tx.update(updates, tx.init(theta), theta)
    h, w = layers.box.DEFAULT_WINDOW
    for leaf in jax.tree.leaves(kept):
        np.testing.assert_array_equal(
            leaf, np.broadcast_to(np.float32([w - 1, w + 1, h - 1, h + 1]), leaf.shape)
        )


def test_keep_boxes_valid_needs_parameters():
    tx = optim.keep_boxes_valid()
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.zeros(4), tx.init(jnp.zeros(4)))


def test_the_penalty_is_l2_in_pixels():
    theta = jnp.array([-10.0, 8.0, 2.0, 5.0])
    tx = optim.constrain_boxes(optax.sgd(1.0), BoxSpec(WINDOW), box_l2=0.01, step_scale=1 / 8)
    updates, _ = tx.update(jnp.zeros(4), tx.init(theta), theta)
    np.testing.assert_allclose(updates, -0.01 * theta * np.float32([5, 5, 3, 3]), rtol=1e-5)


def test_idle_boxes_shrink_only_where_asked():
    params = {"theta": jnp.array([[[10.0, 20.0, 10.0, 20.0]]]), "kernel": jnp.ones((3, 3))}
    found = optim.find_boxes_by_name(params, WINDOW)

    def train(tx):
        zeros = jax.tree.map(jnp.zeros_like, params)

        def step(carry, _):
            updates, state = tx.update(zeros, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        with adam_promotion():
            return jax.lax.scan(step, (params, tx.init(params)), length=300)[0][0]

    decayed = train(optim.constrain_boxes(optax.adamw(1e-2, weight_decay=0.1), found))
    assert boxes.area(decayed["theta"]).item() < 10
    mask = optim.decay_mask(found)
    assert mask == {"theta": False, "kernel": True}
    masked = train(optim.constrain_boxes(optax.adamw(1e-2, weight_decay=0.1, mask=mask), found))
    np.testing.assert_array_equal(masked["theta"], params["theta"])
    np.testing.assert_array_equal(masked["kernel"], decayed["kernel"])
    penalized = train(
        optim.constrain_boxes(optax.adamw(1e-2, weight_decay=0.1, mask=mask), found, box_l2=1e-3)
    )
    assert boxes.area(penalized["theta"]).item() < 10
    assert violation(penalized["theta"], WINDOW) <= 1e-4


def test_linen_parameters():
    model = linen.BoxConv(num_boxes=4)
    params = model.init(jax.random.key(0), jnp.ones((1, *WINDOW, 3)))
    found = optim.find_boxes_by_name(params, WINDOW)
    assert found == {"params": {"theta": BoxSpec(WINDOW)}}
    trained = train(optim.constrain_boxes(optax.adam(1.0), found), params, steps=10)
    assert violation(trained["params"]["theta"], WINDOW) <= 1e-4


def test_trees_with_tuples_and_nones():
    params = ({"theta": jnp.zeros((2, 4)), "bias": None}, (jnp.ones(3), None), [jnp.ones(2)])
    found = optim.find_boxes_by_name(params, WINDOW)
    trained = train(optim.constrain_boxes(optax.adam(0.1), found, box_l2=0.1), params)
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    assert violation(trained[0]["theta"], WINDOW) <= 1e-4
    assert optim.decay_mask(found) == ({"theta": False, "bias": None}, (True, None), [True])


def test_a_wrong_tree_is_an_error():
    tx = optim.keep_boxes_valid({"theta": BoxSpec()})
    params = {"other": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"structure of the optimizer's parameters.* key"):
        tx.update(params, tx.init(params), params)


def test_numbers_may_be_scheduled():
    """Each number as an array that a compiled function gets is what it is as a Python number."""
    theta = {"theta": jnp.array([[-3.0, 3.0, -3.0, 3.0], [-30.0, 30.0, 1.0, 1.5]])}
    found = {"theta": BoxSpec(WINDOW)}

    def step(**numbers):
        tx = optim.constrain_boxes(optax.sgd(0.1), found, **numbers)
        return tx.update(theta, tx.init(theta), theta)[0]["theta"]

    numbers = {"box_l2": 0.5, "step_scale": 0.25, "min_size": 3.0}
    np.testing.assert_allclose(jax.jit(step)(**numbers), step(**numbers), rtol=1e-6)
    arrays = {name: jnp.asarray(number) for name, number in numbers.items()}
    np.testing.assert_array_equal(step(**arrays), step(**numbers))


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_box_survives_a_gradient_that_is_not_finite(optimizer, bad):
    params = {"theta": jnp.array([[-3.0, 3.0, -3.0, 3.0], [-1.0, 2.0, -3.0, 4.0]])}
    params["kernel"] = jnp.ones(2)
    tx = optim.constrain_boxes(optimizer, {"theta": BoxSpec(WINDOW), "kernel": False})
    state = tx.init(params)
    good = {"theta": jnp.full((2, 4), -0.1), "kernel": jnp.ones(2)}
    for gradients, kept, steps in (
        (good, False, 0),
        ({**good, "theta": good["theta"].at[0, 1].set(bad)}, True, 1),
        (good, False, 1),
    ):
        updates, state = jax.jit(tx.update)(gradients, state, params)
        moved = optax.apply_updates(params, updates)
        assert (moved["theta"][0] == params["theta"][0]).all() == kept
        assert (moved["theta"][1] != params["theta"][1]).all()
        assert optim.non_finite_steps(state) == (steps, 0)
        params = moved
    assert violation(params["theta"], WINDOW) <= 1e-4
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.usefixtures("relaxed_promotion")
def test_all_boxes_survive_a_nan_that_clipping_spreads():
    params = {"theta": jnp.array([[-3.0, 3.0, -3.0, 3.0]]), "kernel": jnp.ones(2)}
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    tx = optim.constrain_boxes(clipped, {"theta": BoxSpec(WINDOW), "kernel": False})
    gradients = {"theta": jnp.ones((1, 4)), "kernel": jnp.array([1.0, jnp.nan])}
    updates, state = tx.update(gradients, tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["theta"], params["theta"])
    assert optim.non_finite_steps(state).boxes == 1
    # Other parameters are the optimizer's business.
    assert jnp.isnan(moved["kernel"]).all()


def test_a_box_keeps_its_place_where_the_step_overflows():
    theta = jnp.array([[-3.0, 3.0, -3.0, 3.0]])
    tx = optim.constrain_boxes(optax.sgd(1e38), BoxSpec())
    updates, state = tx.update(jnp.array([[9.0, 0.0, 0.0, 0.0]]), tx.init(theta), theta)
    np.testing.assert_array_equal(updates, jnp.zeros((1, 4)))
    assert optim.non_finite_steps(state).boxes == 1


def test_a_state_without_counts():
    with pytest.raises(ValueError, match="no count of steps"):
        optim.non_finite_steps(optax.adam(1.0).init(jnp.zeros(4)))


def test_inside_other_wrappers():
    model = make_model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    found = optim.find_boxes(model)
    labels = optim.labels(found)
    transforms = {"others": optax.adam(1e-3), "boxes": optax.sgd(0.1)}
    for tx in (
        optim.constrain_boxes(optax.partition(transforms, labels), found),
        optax.partition(
            {"others": optax.adam(1e-3), "boxes": optim.constrain_boxes(optax.adam(1.0), found)},
            labels,
        ),
        optax.MultiSteps(optim.constrain(optax.adam(1.0), model), 2),
        optax.apply_if_finite(optim.constrain(optax.adam(1.0), model), 3),
        optax.inject_hyperparams(lambda rate: optim.constrain(optax.adam(rate), model))(rate=1.0),
    ):
        trained = train(tx, params)
        for i, window in enumerate([WINDOW, (6, 10), None]):
            theta = trained["boxes"][i]["theta"]
            assert violation(theta, window) <= 1e-4
            assert (theta != params["boxes"][i]["theta"]).any()


def test_extra_arguments_reach_the_optimizer():
    params = {"theta": jnp.array([-3.0, 3.0, -3.0, 3.0])}
    tx = optim.constrain_boxes(optax.polyak_sgd(), {"theta": BoxSpec()})
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.array(0.1))
    assert jnp.abs(updates["theta"]).min() > 0


BAD = [(-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError)]
BAD += [(kind, TypeError) for kind in ("1", None, 1j, True, np.ones(2))]


@pytest.mark.parametrize(("bad", "error"), BAD)
def test_bad_numbers(bad, error):
    found = {"theta": BoxSpec()}
    for name, keyword in (("box_l2", "box_l2"), ("scale", "step_scale"), ("min_size", "min_size")):
        with pytest.raises(error, match=f"{name} must be"):
            optim.constrain_boxes(optax.adam(1e-3), found, **{keyword: bad})
    with pytest.raises(error, match="window must be two positive"):
        BoxSpec((1, bad))


@pytest.mark.parametrize(
    "marks", [jnp.zeros((2, 4)), {"theta": True}, [optim.PositionSpec([(0, 1)])]]
)
def test_parameters_in_place_of_marks(marks):
    functions = (
        lambda: optim.constrain_boxes(optax.adam(1.0), marks),
        lambda: optim.keep_boxes_valid(marks),
        lambda: optim.steps_in_pixels(1.0, marks),
    )
    for function in functions:
        with pytest.raises(TypeError, match="boxes must be a tree of BoxSpec and False"):
            function()
