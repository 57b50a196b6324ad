"""Tracking how boxes learn: movement and gradient to noise against NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxbox import layers, optim
from tests.cases.optim import make_model


def _gradients(params, rng, scale):
    return jax.tree.map(
        lambda p: jnp.asarray(scale * rng.normal(0.3, 1.0, p.shape), p.dtype), params
    )


def test_measures_what_the_optimizer_sees_since_the_last_restart(rng):
    model = make_model()
    boxes = optim.find_boxes(model)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    tracked = optax.chain(optim.track_boxes(boxes), optax.sgd(1e-2))
    plain, tx = optim.constrain(optax.sgd(1e-2), model), optim.constrain(tracked, model)
    state, plain_state, step = tx.init(params), plain.init(params), jax.jit(tx.update)
    restarted_at = 3
    for number in range(8):
        if number == restarted_at:
            state, start, seen = optim.restart_tracking(state), params, []
        # The first steps differ by orders of magnitude from those that count.
        gradients = _gradients(params, rng, 1e3 if number < restarted_at else 1.0)
        updates, state = step(gradients, state, params)
        expected, plain_state = plain.update(gradients, plain_state, params)
        jax.tree.map(np.testing.assert_array_equal, updates, jax.jit(lambda x: x)(expected))
        params = optax.apply_updates(params, updates)
        if number >= restarted_at:
            seen.append(gradients)
    tracks = optim.box_tracks(state, params)
    pick = [path for path, mark in jax.tree.leaves_with_path(boxes) if mark is not False]
    assert len(tracks) == len(pick) > 0

    def leaf(tree, path):
        for key in path:
            tree = tree[key.key if hasattr(key, "key") else key.idx]
        return np.asarray(tree, np.float64)

    for track, path in zip(tracks.values(), pick, strict=True):
        g = np.stack([leaf(each, path) for each in seen])
        np.testing.assert_allclose(
            track.moved, np.abs(leaf(params, path) - leaf(start, path)), atol=1e-6
        )
        np.testing.assert_allclose(track.gradient_to_noise, np.abs(g.mean(0)) / g.std(0), rtol=1e-3)


def test_fewer_than_two_steps_say_nothing():
    tx, theta = optim.track_boxes(optim.BoxSpec()), jnp.array([-1.0, 1.0, -1.0, 1.0])
    state = tx.init(theta)
    for _ in range(2):
        (track,) = optim.box_tracks(state, theta + 1).values()
        assert track.gradient_to_noise.tolist() == [0.0] * 4
        _, state = tx.update(theta, state, theta)


def test_what_cannot_be_tracked_is_refused():
    theta = jnp.array([-1.0, 1.0, -1.0, 1.0])
    tx = optim.track_boxes(optim.BoxSpec())
    with pytest.raises(ValueError, match="call `update` with `params`"):
        tx.update(theta, tx.init(theta))
    with pytest.raises(ValueError, match="one track_boxes in it; it has 0"):
        optim.box_tracks(optax.adam(1e-3).init(theta), theta)
    with pytest.raises(TypeError, match="boxes must be a tree of BoxSpec"):
        optim.track_boxes(theta)
    with pytest.raises(ValueError, match="must have the structure"):
        optim.track_boxes({"theta": optim.BoxSpec()}).init(theta)


@pytest.mark.usefixtures("relaxed_promotion")
def test_with_the_optimizer_of_nnx():
    model = layers.BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(0))
    tracked = optax.chain(optim.track_boxes(optim.find_boxes(model)), optax.adam(1e-2))
    optimizer = nnx.Optimizer(model, optim.constrain(tracked, model), wrt=nnx.Param)
    x = jnp.arange(144.0).reshape(6, 8, 3)
    for number in range(4):
        before = model.theta[...]
        optimizer.update(model, nnx.grad(lambda model: jnp.var(model(x)))(model))
        (track,) = optim.box_tracks(optimizer.opt_state, nnx.state(model, nnx.Param)).values()
        if number in (0, 3):
            np.testing.assert_allclose(track.moved, jnp.abs(model.theta[...] - before), atol=1e-6)
        if number == 2:
            optimizer.opt_state = optim.restart_tracking(optimizer.opt_state)
