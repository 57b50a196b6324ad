"""An optimizer constrained for a model: boxes and taps, and other parameters left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxbox import layers, optim
from tests.cases.optim import (
    WINDOW,
    Model,
    adam_promotion,
    make_dcls_model,
    make_model,
    train,
    violation,
)


def _others(state):
    """The leaves that are not boxes."""
    mask = jax.tree.leaves(optim.decay_mask(optim.find_boxes(make_model())))
    return [x for x, other in zip(jax.tree.leaves(state), mask, strict=True) if other]


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(1e-2),
        optax.adamw(1e-2, weight_decay=0.1),
        optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1e-2, momentum=0.9)),
        optax.adam(optax.cosine_decay_schedule(1e-2, 5)),
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(1e-2, 0, 4)),
        optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2).gradient_transformation(),
    ],
    ids=["adam", "adamw", "clip", "schedule", "inject", "multisteps"],
)
def test_other_parameters_are_bit_identical(optimizer):
    model = make_model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    wrapped = optim.constrain(optimizer, model)
    plain, ours = train(optimizer, params), train(wrapped, params)
    for expected, actual in zip(_others(plain), _others(ours), strict=True):
        np.testing.assert_array_equal(actual, expected)
    theta = ours["boxes"][0]["theta"]
    assert violation(theta, WINDOW) <= 1e-4
    assert (theta != plain["boxes"][0]["theta"]).any()


def test_variables_and_arrays_get_the_same_updates():
    model = make_model()
    tx = optim.constrain(optax.adam(1.0), model, box_l2=0.1)
    params = nnx.state(model, nnx.Param)
    variables, arrays = train(tx, params), train(tx, nnx.as_pure(params))
    assert jax.tree.structure(variables) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, nnx.as_pure(variables), arrays)
    plain_dict = nnx.to_pure_dict(params)
    found = nnx.to_pure_dict(optim.find_boxes(model))
    tx = optim.constrain_boxes(optax.adam(1.0), found, box_l2=0.1)
    jax.tree.map(np.testing.assert_array_equal, train(tx, plain_dict), nnx.to_pure_dict(arrays))


def test_a_penalty_on_boxes_leaves_adams_other_updates_alone():
    model = make_model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    plain = train(optax.adam(1e-2), params)
    ours = train(optim.constrain(optax.adam(1e-2), model, box_l2=10.0), params)
    for expected, actual in zip(_others(plain), _others(ours), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("graph", [True, False])
def test_with_the_nnx_optimizer(graph):
    model = Model(nnx.Rngs(3))
    tx = optim.constrain(optax.adam(0.3), model, box_l2=1e-3, step_scale=2.0)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param, graph=graph)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))

    @nnx.jit(graph=graph)
    def step(model, optimizer):
        def loss(model):
            return sum(jnp.sum(jnp.sin(7 * layer.theta[...])) for layer in model.boxes) + jnp.sum(
                model.conv.kernel[...] ** 2
            )

        grads = nnx.grad(loss, graph=graph)(model)
        optimizer.update(model, grads)

    with adam_promotion():
        for _ in range(5):
            step(model, optimizer)
    assert optimizer.step[...] == 5
    assert optim.non_finite_steps(optimizer.opt_state) == (0, 0)
    for layer, old in zip(model.boxes, before["boxes"].values(), strict=True):
        assert violation(layer.theta[...], layer.window) <= 1e-4
        assert jnp.abs(layer.theta[...] - old["theta"][...]).max() > 1
    assert (model.conv.kernel[...] != before["conv"]["kernel"][...]).all()


def test_steps_are_fractions_of_each_window():
    model = make_model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    # Far from the constraints, a step of sgd is the step asked for.
    for i in range(3):
        params["boxes"][i]["theta"] = jnp.broadcast_to(jnp.array([-2.0, 2.0, -2.0, 2.0]), (3, 2, 4))
    tx = optim.constrain(optax.sgd(1e-3), model, step_scale=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    for i, (h, w) in enumerate([WINDOW, (6, 10), layers.box.DEFAULT_WINDOW]):
        expected = -0.5e-3 * np.float32([w, w, h, h])
        np.testing.assert_allclose(updates["boxes"][i]["theta"][1, 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(updates["conv"]["bias"], jnp.full(3, -1e-3))


def test_frozen_boxes_stay_where_they_are():
    model = make_model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    frozen = jax.tree.map(lambda other: not other, optim.decay_mask(optim.find_boxes(model)))
    tx = optax.chain(optax.adam(1e-2), optax.masked(optax.set_to_zero(), frozen))
    trained = train(optim.constrain(tx, model, box_l2=1.0), params)
    for i in range(3):
        np.testing.assert_array_equal(trained["boxes"][i]["theta"], params["boxes"][i]["theta"])


def test_a_model_without_boxes_gets_the_plain_optimizer():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    plain = train(optax.adam(1e-2), params)
    ours = train(optim.constrain(optax.adam(1e-2), model, box_l2=1.0), params)
    for expected, actual in zip(jax.tree.leaves(plain), jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_filter_that_leaves_parameters_out():
    model = make_model()
    only_boxes = nnx.All(nnx.Param, nnx.PathContains("theta"))
    tx = optim.constrain(optax.adam(1.0), model, wrt=only_boxes)
    params = nnx.state(model, only_boxes)
    assert len(jax.tree.leaves(params)) == 3
    assert violation(train(tx, params)["boxes"][0]["theta"][...], WINDOW) <= 1e-4


def test_the_filter_of_the_optimizer_is_asked_for():
    model = make_model()
    tx = optim.constrain(optax.adam(1.0), model)
    with pytest.raises(ValueError, match=r"the same `wrt` as nnx\.Optimizer"):
        nnx.Optimizer(model, tx, wrt=nnx.Any(nnx.Param, nnx.BatchStat))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((optax.adam(1.0), None), "model must be an NNX model; got None"),
        ((optax.adam(1.0), {"a": 1}), "model must be an NNX model; got dict"),
        ((optax.adam(1.0), nn.Dense(3)), "model must be an NNX model; got Dense"),
        ((None, make_model()), "optimizer must be an optax optimizer.*; got None"),
        ((make_model(), optax.adam(1.0)), "optimizer must be .* comes first; got Model"),
        ((optax.adam, make_model()), "optimizer must be an optax optimizer.*; got function"),
    ],
)
def test_what_is_no_model_or_no_optimizer(arguments, message):
    with pytest.raises(TypeError, match=message):
        optim.constrain(*arguments)


def test_boxes_smaller_than_layers_compute_with():
    with pytest.raises(ValueError, match=r"got 0\.5; the BoxConv at boxes\.0 was made with"):
        optim.constrain(optax.adam(1.0), make_model(), min_size=0.5)
    model = layers.BoxConv(1, 1, min_size=0.5, rngs=nnx.Rngs(0))
    optim.constrain(optax.adam(1.0), model, min_size=0.5)


@pytest.mark.usefixtures("relaxed_promotion")
def test_taps_survive_gradients_that_are_not_finite():
    state = nnx.as_pure(nnx.state(make_dcls_model(), nnx.Param))
    tx = optim.constrain(optax.adam(0.1), make_dcls_model())
    gradients = jax.tree.map(jnp.ones_like, state)
    positions = gradients["dcls"]["positions"]
    gradients["dcls"]["positions"] = positions.at[0, 0, 0, 0].set(jnp.nan)
    updates, opt_state = tx.update(gradients, tx.init(state), state)
    held = updates["dcls"]["positions"] == 0
    assert held[0, 0, 0, 0]
    assert jnp.isfinite(updates["dcls"]["positions"]).all()
    assert optim.non_finite_steps(opt_state) == (0, 1)


def test_big_steps_end_inside():
    model = nnx.clone(make_dcls_model())
    tx = optim.constrain(optax.sgd(1.0), model)
    state = nnx.state(model, nnx.Param)
    gradients = jax.tree.map(
        lambda p: 50 * jax.random.normal(jax.random.key(p.size), p.shape, p.dtype), state
    )
    updates, _ = tx.update(gradients, tx.init(state), state)
    moved = optax.apply_updates(state, updates)
    places = np.asarray(2 * moved["dcls"]["positions"][...])
    for axis, (low, high) in zip(places, ((-2, 2), (-2, 1)), strict=True):
        np.testing.assert_allclose([axis.min(), axis.max()], [low, high], atol=1e-5)
    np.testing.assert_array_equal(updates["dcls"]["weight"][...], -gradients["dcls"]["weight"][...])
    theta = moved["boxes"]["theta"][...]
    assert (theta[..., 1::2] - theta[..., 0::2]).min() >= 1 - 1e-5
    # Projecting what is inside changes nothing.
    again, _ = tx.update(jax.tree.map(jnp.zeros_like, state), tx.init(moved), moved)
    assert jnp.abs(again["dcls"]["positions"][...]).max() <= 1e-6
