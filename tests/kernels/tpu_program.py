"""Compiles programs for a TPU v5e and prints what they consist of, as JSON.

Run as `python tpu_program.py NAME ...`.
"""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxbox
from jaxbox import models, optim

_TOPOLOGY = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:2x2", chips_per_host_bounds=(2, 2, 1)
)
_MESH = topologies.make_mesh(_TOPOLOGY, (4,), ("batch",))
_DESIGN_SHAPES = ((1, 32, 64, 128, 4), (1, 16, 128, 256, 4), (1, 8, 256, 512, 2))

_planes = functools.partial(jaxbox.box_conv, channel_axis=-3)


def _spec(shape, *axes):
    sharding = NamedSharding(_MESH, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def _differentiate(x, theta, g):
    output, pull = jax.vjp(_planes, x, theta)
    return output, pull(g)


def _arguments(B, C, H, W, F, *axes):
    shapes = (B, C, H, W), (C, F, 4), (B, C * F, H, W)
    x, theta, g = shapes
    return _spec(x, *axes), _spec(theta), _spec(g, *axes)


def gradients():
    return [(_differentiate, _arguments(1, 4, 64, 128, 2))]


def design():
    return [(_differentiate, _arguments(*shape)) for shape in _DESIGN_SHAPES]


def sharded():
    return [(_differentiate, _arguments(4, 4, 64, 128, 2, "batch"))]


def vmap():
    x, theta, _ = _arguments(2, 4, 64, 128, 2)
    theta = _spec((2, *theta.shape))
    return [(jax.vmap(_planes), (x, theta))]


def whole_pixels():
    x, theta, _ = _arguments(1, 4, 64, 128, 2)
    return [(functools.partial(_planes, whole_pixels=True), (x, theta))]


def training():
    """A step of BoxENet."""
    model = nnx.eval_shape(lambda: models.create("boxenet", 11, (176, 240), rngs=nnx.Rngs(0)))
    optimizer = nnx.eval_shape(
        lambda: nnx.Optimizer(model, optim.constrain(optax.adam(1e-3), model), wrt=nnx.Param)
    )
    graph, state = nnx.split((model, optimizer))

    def step(state, images, labels):
        model, optimizer = nnx.merge(graph, state)

        def loss(model):
            logits = model(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))
        return nnx.state((model, optimizer))

    sharding = NamedSharding(_MESH, PartitionSpec())
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )
    labels = jax.ShapeDtypeStruct((4, 176, 240), jnp.int32, sharding=sharding)
    return [(step, (state, _spec((4, 176, 240, 3)), labels))]


def _describe(function, arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return {
        "products": len(re.findall(r" (?:convolution|dot)\(", text)),
        "gathers": len(re.findall(r" gather\(", text)),
    }


_PROGRAMS = {
    program.__name__: program
    for program in (gradients, design, sharded, vmap, whole_pixels, training)
}

if __name__ == "__main__":
    described = {
        f"{name} {number}": _describe(*call)
        for name in sys.argv[1:]
        for number, call in enumerate(_PROGRAMS[name]())
    }
    print(json.dumps(described))
