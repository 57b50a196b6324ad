"""Boxes in the optimizer: validity, pixel steps, penalties, and other parameters left alone."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxbox import boxes, layers, linen, optim
from jaxbox.optim import BoxSpec

WINDOW = (24, 40)


class Model(nnx.Module):
    """Boxes at two resolutions and without a window, in a list, between other parameters."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.boxes = nnx.List(
            [layers.BoxConv(3, 2, window=window, rngs=rngs) for window in (WINDOW, (6, 10), None)]
        )
        self.norm = nnx.BatchNorm(3, rngs=rngs)


@functools.cache
def _model():
    return Model(nnx.Rngs(0))


def _violation(theta, window):
    theta = np.asarray(theta, np.float64)
    low, high = theta[..., 0::2], theta[..., 1::2]
    worst = (1 - (high - low)).max()
    if window is None:
        return worst
    limits = np.array([window[1], window[0]])
    return max(worst, (-limits - low).max(), (high - limits).max())


def _gradients(params, seed, scale=1.0):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [scale * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


# Adam raises its decay, a Python float, to the power of an integer count.
_as_adam_wants = functools.partial(jax.numpy_dtype_promotion, "standard")


def _train(tx, params, steps=4):
    with _as_adam_wants():
        return _train_strictly(tx, params, steps)


def _train_strictly(tx, params, steps):
    state = tx.init(params)

    @jax.jit
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for seed in range(steps):
        params, state = step(params, state, _gradients(params, seed))
    return params


def _others(state):
    """The leaves that are not boxes."""
    mask = jax.tree.leaves(optim.decay_mask(optim.find_boxes(_model())))
    return [x for x, other in zip(jax.tree.leaves(state), mask, strict=True) if other]


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
    with _as_adam_wants():
        (last, _), path = jax.lax.scan(step, (theta, tx.init(theta)), keys)
    assert _violation(path, WINDOW) <= 1e-4
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


def test_find_boxes():
    model = _model()
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
    model = _model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    wrapped = optim.for_model(model, optimizer)
    plain, ours = _train(optimizer, params), _train(wrapped, params)
    for expected, actual in zip(_others(plain), _others(ours), strict=True):
        np.testing.assert_array_equal(actual, expected)
    theta = ours["boxes"][0]["theta"]
    assert _violation(theta, WINDOW) <= 1e-4
    assert (theta != plain["boxes"][0]["theta"]).any()


def test_variables_and_arrays_get_the_same_updates():
    model = _model()
    tx = optim.for_model(model, optax.adam(1.0), box_l2=0.1)
    params = nnx.state(model, nnx.Param)
    variables, arrays = _train(tx, params), _train(tx, nnx.as_pure(params))
    assert jax.tree.structure(variables) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, nnx.as_pure(variables), arrays)
    plain_dict = nnx.to_pure_dict(params)
    found = nnx.to_pure_dict(optim.find_boxes(model))
    tx = optim.for_boxes(found, optax.adam(1.0), box_l2=0.1)
    jax.tree.map(np.testing.assert_array_equal, _train(tx, plain_dict), nnx.to_pure_dict(arrays))


def test_a_penalty_on_boxes_leaves_adams_other_updates_alone():
    model = _model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    plain = _train(optax.adam(1e-2), params)
    ours = _train(optim.for_model(model, optax.adam(1e-2), box_l2=10.0), params)
    for expected, actual in zip(_others(plain), _others(ours), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("graph", [True, False])
def test_with_the_nnx_optimizer(graph):
    model = Model(nnx.Rngs(3))
    tx = optim.for_model(model, optax.adam(0.3), box_l2=1e-3, step_scale=2.0)
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

    with _as_adam_wants():
        for _ in range(5):
            step(model, optimizer)
    assert optimizer.step[...] == 5
    for layer, old in zip(model.boxes, before["boxes"].values(), strict=True):
        assert _violation(layer.theta[...], layer.window) <= 1e-4
        assert jnp.abs(layer.theta[...] - old["theta"][...]).max() > 1
    assert (model.conv.kernel[...] != before["conv"]["kernel"][...]).all()


def test_steps_are_fractions_of_each_window():
    model = _model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    # Far from the constraints, a step of sgd is the step asked for.
    for i in range(3):
        params["boxes"][i]["theta"] = jnp.broadcast_to(jnp.array([-2.0, 2.0, -2.0, 2.0]), (3, 2, 4))
    tx = optim.for_model(model, optax.sgd(1e-3), step_scale=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    for i, (h, w) in enumerate([WINDOW, (6, 10), layers.box.DEFAULT_WINDOW]):
        expected = -0.5e-3 * np.float32([w, w, h, h])
        np.testing.assert_allclose(updates["boxes"][i]["theta"][1, 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(updates["conv"]["bias"], jnp.full(3, -1e-3))


def test_the_penalty_is_l2_in_pixels():
    theta = jnp.array([-10.0, 8.0, 2.0, 5.0])
    tx = optim.for_boxes(BoxSpec(WINDOW), optax.sgd(1.0), box_l2=0.01, step_scale=1 / 8)
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

        with _as_adam_wants():
            return jax.lax.scan(step, (params, tx.init(params)), length=300)[0][0]

    decayed = train(optim.for_boxes(found, optax.adamw(1e-2, weight_decay=0.1)))
    assert boxes.area(decayed["theta"]).item() < 10
    mask = optim.decay_mask(found)
    assert mask == {"theta": False, "kernel": True}
    masked = train(optim.for_boxes(found, optax.adamw(1e-2, weight_decay=0.1, mask=mask)))
    np.testing.assert_array_equal(masked["theta"], params["theta"])
    np.testing.assert_array_equal(masked["kernel"], decayed["kernel"])
    penalized = train(
        optim.for_boxes(found, optax.adamw(1e-2, weight_decay=0.1, mask=mask), box_l2=1e-3)
    )
    assert boxes.area(penalized["theta"]).item() < 10
    assert _violation(penalized["theta"], WINDOW) <= 1e-4


def test_linen_parameters():
    model = linen.BoxConv(num_boxes=4)
    params = model.init(jax.random.key(0), jnp.ones((1, *WINDOW, 3)))
    found = optim.find_boxes_by_name(params, WINDOW)
    assert found == {"params": {"theta": BoxSpec(WINDOW)}}
    trained = _train(optim.for_boxes(found, optax.adam(1.0)), params, steps=10)
    assert _violation(trained["params"]["theta"], WINDOW) <= 1e-4


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match="'theta', which none has"):
        optim.find_boxes_by_name({"kernel": jnp.zeros(3)})
    found = optim.find_boxes_by_name([{"b": jnp.zeros(4)}, jnp.zeros(3)], name="b")
    assert found == [{"b": BoxSpec()}, False]


def test_trees_with_tuples_and_nones():
    params = ({"theta": jnp.zeros((2, 4)), "bias": None}, (jnp.ones(3), None), [jnp.ones(2)])
    found = optim.find_boxes_by_name(params, WINDOW)
    trained = _train(optim.for_boxes(found, optax.adam(0.1), box_l2=0.1), params)
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    assert _violation(trained[0]["theta"], WINDOW) <= 1e-4
    assert optim.decay_mask(found) == ({"theta": False, "bias": None}, (True, None), [True])


def test_a_wrong_tree_is_an_error():
    tx = optim.keep_boxes_valid({"theta": BoxSpec()})
    params = {"other": jnp.zeros(4)}
    with pytest.raises(ValueError, match="key"):
        tx.update(params, tx.init(params), params)


def test_inside_other_wrappers():
    model = _model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    found = optim.find_boxes(model)
    labels = jax.tree.map(lambda other: "others" if other else "boxes", optim.decay_mask(found))
    transforms = {"others": optax.adam(1e-3), "boxes": optax.sgd(0.1)}
    for tx in (
        optim.for_boxes(found, optax.partition(transforms, labels)),
        optax.partition(
            {"others": optax.adam(1e-3), "boxes": optim.for_boxes(found, optax.adam(1.0))}, labels
        ),
        optax.MultiSteps(optim.for_model(model, optax.adam(1.0)), 2),
        optax.apply_if_finite(optim.for_model(model, optax.adam(1.0)), 3),
        optax.inject_hyperparams(lambda rate: optim.for_model(model, optax.adam(rate)))(rate=1.0),
    ):
        trained = _train(tx, params)
        for i, window in enumerate([WINDOW, (6, 10), None]):
            theta = trained["boxes"][i]["theta"]
            assert _violation(theta, window) <= 1e-4
            assert (theta != params["boxes"][i]["theta"]).any()


def test_extra_arguments_reach_the_optimizer():
    params = {"theta": jnp.array([-3.0, 3.0, -3.0, 3.0])}
    tx = optim.for_boxes({"theta": BoxSpec()}, optax.polyak_sgd())
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.array(0.1))
    assert jnp.abs(updates["theta"]).min() > 0


def test_frozen_boxes_stay_where_they_are():
    model = _model()
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    frozen = jax.tree.map(lambda other: not other, optim.decay_mask(optim.find_boxes(model)))
    tx = optax.chain(optax.adam(1e-2), optax.masked(optax.set_to_zero(), frozen))
    trained = _train(optim.for_model(model, tx, box_l2=1.0), params)
    for i in range(3):
        np.testing.assert_array_equal(trained["boxes"][i]["theta"], params["boxes"][i]["theta"])


def test_a_model_without_boxes_gets_the_plain_optimizer():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    plain = _train(optax.adam(1e-2), params)
    ours = _train(optim.for_model(model, optax.adam(1e-2), box_l2=1.0), params)
    for expected, actual in zip(jax.tree.leaves(plain), jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_filter_that_leaves_parameters_out():
    model = _model()
    only_boxes = nnx.All(nnx.Param, nnx.PathContains("theta"))
    tx = optim.for_model(model, optax.adam(1.0), wrt=only_boxes)
    params = nnx.state(model, only_boxes)
    assert len(jax.tree.leaves(params)) == 3
    assert _violation(_train(tx, params)["boxes"][0]["theta"][...], WINDOW) <= 1e-4


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_numbers(bad):
    found = {"theta": BoxSpec()}
    for name, keyword in (("box_l2", "box_l2"), ("scale", "step_scale"), ("min_size", "min_size")):
        with pytest.raises(ValueError, match=name):
            optim.for_boxes(found, optax.adam(1e-3), **{keyword: bad})
    with pytest.raises(ValueError, match="window must be two positive"):
        BoxSpec((1, bad))


def test_docstring_examples():
    assert doctest.testmod(optim).failed == 0
