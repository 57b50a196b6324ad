"""Layers that Flax stacks by `vmap` or `scan` get the updates that the single layers would get."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from jaxbox import layers, linen, optim
from jaxbox.ops.dcls import repulsion
from tests.cases.optim import WINDOW

KERNEL_SIZE = (6, 9)  # The limits along its axes differ.


class Layers(nnx.Module):
    """Boxes, and taps with positions; as many taps as axes, and a kernel that is not square."""

    def __init__(self, key):
        rngs = nnx.Rngs(key)
        self.boxes = layers.BoxConv(3, 2, window=WINDOW, rngs=rngs)
        self.dcls = layers.DclsConv(2, 3, KERNEL_SIZE, 2, rngs=rngs)


def _assert_updates_are_those_of_single_layers(make_optimizer, params, axes, rng):
    """Compares a large step of the stack with steps of its layers.

    The layers are stacked along `axes`, the outermost last; `make_optimizer` takes parameters.
    """
    gradients = jax.tree.map(
        lambda a: jnp.asarray(20 * rng.normal(size=a.shape), jnp.float32), params
    )

    def updated(params, gradients):
        tx = make_optimizer(params)
        return optax.apply_updates(params, tx.update(gradients, tx.init(params), params)[0])

    def single(tree, index):
        for axis, i in zip(reversed(axes), index, strict=True):
            tree = jax.tree.map(lambda a, axis=axis, i=i: jnp.take(a, i, axis), tree)
        return tree

    leaf = jax.tree.leaves(params)[0]
    sizes = []
    for axis in reversed(axes):
        sizes.append(leaf.shape[axis])
        leaf = jnp.take(leaf, 0, axis)
    new = updated(params, gradients)
    for index in np.ndindex(*sizes):
        expected = updated(single(params, index), single(gradients, index))
        jax.tree.map(np.testing.assert_array_equal, single(new, index), expected)


@pytest.mark.parametrize("axes", [(0,), (1,), (-1,), (0, 0), (0, -1), (1, 0)])
def test_stacked_by_nnx(axes, rng):
    make = Layers
    for axis in axes:
        make = nnx.vmap(make, out_axes=nnx.StateAxes({nnx.Param: axis}))
    sizes = (3, 5)[: len(axes)]
    model = make(jax.random.split(jax.random.key(0), sizes))
    single = Layers(jax.random.key(0))

    def make_optimizer(params):
        of = single if params["boxes"]["theta"].ndim == 3 else model
        return optim.constrain(optax.sgd(1.0), of, step_scale=0.3, min_size=2)

    params = nnx.as_pure(nnx.state(model, nnx.Param))
    _assert_updates_are_those_of_single_layers(make_optimizer, params, axes, rng)
    # Stacked layers count as several.
    both = nnx.List([model, Layers(jax.random.key(1))])
    positions = model.dcls.positions[...]
    for depth, axis in enumerate(reversed(axes)):
        positions = jnp.moveaxis(positions, axis + depth if axis >= 0 else axis, depth)
    parts = [*positions.reshape(-1, *positions.shape[-4:]), both[1].dcls.positions[...]]
    expected = np.mean([repulsion(part) for part in parts])
    np.testing.assert_allclose(layers.repulsive_loss(both), expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_step_through_nnx_scan(axis, rng):
    """The stack moves as its layers do that follow each other, with an optimizer for each."""
    axes = nnx.StateAxes({nnx.Param: axis})
    make = nnx.vmap(
        lambda key: layers.DclsConv(3, 3, KERNEL_SIZE, 2, rngs=nnx.Rngs(key)), out_axes=axes
    )
    stack = make(jax.random.split(jax.random.key(0), 3))
    graph, params = nnx.split(stack)
    singles = [
        nnx.merge(graph, jax.tree.map(lambda a, i=i: jnp.take(a, i, axis), params))
        for i in range(3)
    ]
    x = jnp.asarray(rng.normal(size=(7, 8, 3)), jnp.float32)
    scan = nnx.scan(
        lambda x, layer: layer(x), in_axes=(nnx.Carry, axes), out_axes=nnx.Carry, length=3
    )

    def step(model, apply):
        # Far enough that some taps meet the ends of their kernels.
        tx = optim.constrain(optax.sgd(10.0), model)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        optimizer.update(model, nnx.grad(lambda model: jnp.sum(apply(model) ** 2))(model))

    def in_turn(layers):
        y = x
        for layer in layers:
            y = layer(y)
        return y

    nnx.jit(lambda stack: step(stack, lambda stack: scan(x, stack)))(stack)
    chain = nnx.List(singles)
    nnx.jit(lambda chain: step(chain, in_turn))(chain)
    for name in ("weight", "positions", "bias"):
        expected = jnp.stack([getattr(layer, name)[...] for layer in chain], axis)
        actual = getattr(stack, name)[...]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    expected = jnp.stack([layer.positions[...] for layer in chain])
    assert (jnp.abs(expected[:, 0]).max(), jnp.abs(expected[:, 1]).max()) == (3, 4)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("transform", [nn.vmap, nn.scan])
def test_stacked_by_linen(transform, axis, rng):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return linen.DclsConv(6, KERNEL_SIZE, 4)(linen.BoxConv(2, window=WINDOW)(x)), None

    size = {"length" if transform is nn.scan else "axis_size": 3}
    stacked = transform(
        Block, variable_axes={"params": axis}, split_rngs={"params": True}, **size,
        **({"in_axes": None} if transform is nn.vmap else {}),
    )  # fmt: skip
    x = jnp.ones((4, 5, 6))
    params = jax.jit(stacked().init)(jax.random.key(0), x, None)["params"]

    def make_optimizer(params):
        return optax.chain(
            optim.constrain_boxes(optax.sgd(1.0), optim.find_boxes_by_name(params, WINDOW)),
            optim.keep_positions_inside(optim.find_positions_by_name(params, KERNEL_SIZE)),
        )

    _assert_updates_are_those_of_single_layers(make_optimizer, params, (axis,), rng)


def test_an_axis_that_does_not_follow_from_the_sizes_can_be_given():
    """Four layers stacked along the last axis of boxes; two stacked along the second of taps."""
    found = optim.find_boxes_by_name({"theta": jnp.zeros((3, 2, 4, 4))}, WINDOW, axis=2)
    assert found == {"theta": optim.BoxSpec(WINDOW, axis=2)}
    positions = {"positions": jnp.full((2, 2, 5, 3, 3), 9.0)}
    marks = optim.find_positions_by_name(positions, KERNEL_SIZE, axis=0)
    tx = optim.keep_positions_inside(marks)
    updates, _ = tx.update(positions, tx.init(positions), positions)
    inside = positions["positions"] + updates["positions"]
    assert (inside[0].max(), inside[1].max()) == (2, 4)
