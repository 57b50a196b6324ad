"""Causal boxes: drawing, projecting, the layer and its training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbox
from jaxbox import boxes, interop, linen, optim

WINDOWS = [(12,), (6, 8), (5, 6, 8)]
# The end of the output's own pixel.
_END = 0.5


@pytest.mark.parametrize("window", WINDOWS)
def test_drawn_boxes_end_at_the_output_and_stay(window):
    drawn = boxes.sample(jax.random.key(0), (50, 4), window, causal=True)
    time = drawn[..., -2:]
    assert (time[..., 1] <= _END).all()
    assert (time[..., 0] >= _END - window[0] - 1e-5).all()
    assert (time[..., 1] > _END - window[0] / 3).any()
    np.testing.assert_array_equal(boxes.project(drawn, window, causal=True), drawn)
    plain = boxes.sample(jax.random.key(0), (50, 4), window)
    np.testing.assert_array_equal(drawn[..., :-2], plain[..., :-2])
    np.testing.assert_allclose(drawn[..., -2:], plain[..., -2:] + _END - window[0] / 2, atol=1e-5)


@pytest.mark.parametrize("min_size", [1.0, 2.5])
@pytest.mark.parametrize("window", [(4,), None])
def test_projection_is_the_nearest_causal_box(window, min_size, rng):
    wild = rng.uniform(-9, 9, (60, 2)).astype(np.float32)
    projected = np.asarray(boxes.project(wild, window, min_size=min_size, causal=True), np.float64)
    lower = -4 if window else -20
    low, high = projected.T
    assert (low >= lower).all()
    assert (high <= _END).all()
    assert (np.float32(high - low) >= min_size).all()
    # No valid box of a fine grid is nearer.
    step = 0.05
    grid = np.stack(np.meshgrid(*[np.arange(lower, _END + step / 2, step)] * 2), -1).reshape(-1, 2)
    grid = grid[grid[:, 1] - grid[:, 0] >= min_size]
    nearest = np.linalg.norm(grid[None] - wild[:, None], axis=-1).min(1)
    assert (np.linalg.norm(projected - wild, axis=-1) <= nearest + 1e-5).all()
    again = boxes.project(projected.astype(np.float32), window, min_size=min_size, causal=True)
    np.testing.assert_array_equal(again, projected.astype(np.float32))


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "edge", "partial"])
@pytest.mark.parametrize("window", WINDOWS)
def test_no_output_depends_on_what_comes_later(window, padding, whole_pixels, rng):
    wild = jnp.asarray(rng.uniform(-9, 9, (2, 3, 2 * len(window))), jnp.float32)
    layer = jaxbox.BoxConv(
        2,
        3,
        window=window,
        causal=True,
        padding=padding,
        whole_pixels=whole_pixels,
        theta_init=lambda *_: wild,
        rngs=nnx.Rngs(0),
    )
    size = (9, 7, 6)[: len(window)]
    x = rng.normal(size=(*size, 2)).astype(np.float32)
    later = x.copy()
    later[5:] = rng.normal(size=later[5:].shape) * 100
    before, after = (np.asarray(layer(array)) for array in (x, later))
    # Sums may be rounded to the plane's largest magnitude.
    np.testing.assert_allclose(after[:5], before[:5], rtol=0, atol=2e-6 * np.abs(later).max())
    assert np.abs(after[5:] - before[5:]).max() > 0.1


def test_the_layer_learns_a_delay(rng):
    """Which made its targets; boxes never see what comes later, whatever the steps are."""
    target = jnp.array([[[-7.5, -4.5]], [[-1.5, 0.5]]])
    x = jnp.asarray(rng.normal(size=(8, 40, 2)), jnp.float32)
    goal = jaxbox.box_conv(x, target)
    start = jnp.array([[[-6.7, -4.0]], [[-2.2, 0.3]]])
    layer = jaxbox.BoxConv(
        2, 1, window=(16,), causal=True, theta_init=lambda *_: start, rngs=nnx.Rngs(0)
    )
    graph, theta = nnx.split(layer)
    tx = optim.constrain(optax.sgd(optax.cosine_decay_schedule(0.3, 300)), layer)

    @jax.jit
    def train(theta):
        def step(carry, _):
            theta, state = carry
            gradient = jax.grad(lambda t: jnp.mean((nnx.merge(graph, t)(x) - goal) ** 2))(theta)
            updates, state = tx.update(gradient, state, theta)
            theta = optax.apply_updates(theta, updates)
            return (theta, state), jnp.max(theta["theta"][..., 1])

        (theta, _), latest = jax.lax.scan(step, (theta, tx.init(theta)), length=300)
        return theta, latest

    with jax.numpy_dtype_promotion("standard"):
        learnt, latest = train(theta)
    np.testing.assert_allclose(learnt["theta"][...], target, atol=0.05)
    assert (latest <= _END).all()


def test_optimizers_keep_boxes_causal():
    layer = jaxbox.BoxConv(3, 2, window=(12,), causal=True, rngs=nnx.Rngs(0))
    spec = optim.find_boxes(layer)["theta"]
    assert spec == optim.BoxSpec((12,), -1, causal=True)
    keep = optim.keep_boxes_valid(spec)
    theta = jnp.array([-5.0, 0.0])
    updates, _ = keep.update(jnp.array([0.0, 3.0]), keep.init(theta), theta)
    np.testing.assert_allclose(theta + updates, [-5, 0.5])
    params = {"theta": theta}
    assert optim.find_boxes_by_name(params, (12,), causal=True) == {"theta": spec}


@pytest.mark.parametrize(
    "layer",
    [
        lambda **options: linen.BoxConv(2, **options),
        lambda **options: linen.WeightedBoxConv(3, 2, **options),
    ],
)
def test_linen(layer):
    module = layer(num_dims=1, causal=True)
    x = jnp.ones((3, 20, 2))
    variables = module.init(jax.random.key(0), x)
    (theta,) = (leaf for leaf in jax.tree.leaves(variables) if leaf.shape == (2, 2, 2))
    assert (theta[..., 1] <= _END).all()
    assert (theta[..., 0] < -10).any()  # The window is that of the input.
    later = x.at[:, 10:].set(9.0)
    before, after = (module.apply(variables, array) for array in (x, later))
    np.testing.assert_allclose(after[:, :10], before[:, :10], rtol=1e-5)
    bridged = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x)
    (spec,) = (leaf for leaf in jax.tree.leaves(optim.find_boxes(bridged)) if leaf)
    assert spec.causal


def test_what_is_not_allowed():
    rngs = nnx.Rngs(0)
    with pytest.raises(TypeError, match="causal must be"):
        jaxbox.BoxConv(2, 3, window=(8,), causal=1, rngs=rngs)
    with pytest.raises(ValueError, match="symmetric or causal, not both"):
        jaxbox.BoxConv(2, 3, window=(8, 8), causal=True, symmetric=True, rngs=rngs)
    with pytest.raises(ValueError, match=r"min_size must fit in \[-w, 1/2\], got 3.0"):
        jaxbox.BoxConv(2, 3, window=(2,), causal=True, min_size=3.0, rngs=rngs)
    layer = jaxbox.BoxConv(2, 3, window=(4, 6), rngs=rngs)
    state = interop.box_to_pytorch(layer)
    with pytest.raises(ValueError, match="causal must be False"):
        interop.box_from_pytorch(state, (4, 6), causal=True)
