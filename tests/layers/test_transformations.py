"""The tables of transformations in the documentation: each line is run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbox
from jaxbox import linen

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/transformations.md").read_text()
SIZE, C, F = (5, 7), 2, 2


def _lines(heading):
    """The second and the third column of the tables below a heading, by the first."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| `([^`]*)` \|(?: (.*) \|)?$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| ") - section.count("|---|\n") > 0
    return [pytest.param(code, gives, id=re.sub(r"\W+", "-", what)) for what, code, gives in rows]


def _gradients_of(function):
    return jax.grad(lambda x, theta: jnp.sum(function(x, theta) ** 2), (0, 1))


def _layer(theta):
    layer = jaxbox.BoxConv(C, F, window=SIZE, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    return nnx.merge(graph, jax.tree.map(lambda _: theta, state))


@jax.jit
def _expected(x, theta, thetas, chain):
    """What the lines give, computed one by one and by no other transformation than `grad`."""
    gradients = _gradients_of(jaxbox.box_conv)

    def in_turn(x, chain):
        return jaxbox.box_conv(jaxbox.box_conv(x, chain[0]), chain[1])

    def along(direction):
        def component(theta):
            return jnp.vdot(gradients(x, theta)[1], direction)

        return jax.grad(component)(theta)

    directions = jnp.eye(theta.size).reshape(theta.size, *theta.shape)
    hessian = jnp.stack([along(direction) for direction in directions[:3]])
    outputs = jnp.stack([jaxbox.box_conv(x, boxes) for boxes in thetas])
    own = [gradients(*pair) for pair in zip(x, thetas, strict=True)]
    by_x, by_theta = jax.jacrev(jaxbox.box_conv, (0, 1))(x, theta)
    of_boxes = jnp.tensordot(by_theta, theta, theta.ndim)
    tangent = jnp.tensordot(by_x, x, x.ndim) + of_boxes

    def own_tangent(x, theta):
        # The op is linear in x, and so is its derivative with respect to the boxes.
        by_theta = jax.jacrev(jaxbox.box_conv, 1)(x, theta)
        return jaxbox.box_conv(x, theta) + jnp.tensordot(by_theta, theta, theta.ndim)

    return {
        "output and tangent": (jaxbox.box_conv(x, theta), tangent),
        "tangent": tangent,
        "tangent of the boxes": of_boxes,
        "tangents of each image's own boxes": jnp.stack(
            [own_tangent(*pair) for pair in zip(x, thetas, strict=True)]
        ),
        "output": jaxbox.box_conv(x, theta),
        "gradients": gradients(x, theta),
        "outputs of each image's own boxes": jnp.stack([outputs[0, 0], outputs[1, 1]]),
        "gradients of each image's own boxes": jax.tree.map(lambda *a: jnp.stack(a), *own),
        "outputs of all pairs": outputs,
        "outputs of the chain": in_turn(x, chain),
        "gradients of the chain": _gradients_of(in_turn)(x, chain),
        "Hessian of the boxes": hessian,
    }


def _arguments(rng):
    x = rng.normal(size=(2, *SIZE, C))
    # Valid boxes near the origin, which `BoxConv` leaves as they are.
    box = np.array([-1.3, 1.7, -0.8, 1.2])
    shapes = {"theta": (C, F, 4), "thetas": (2, C, F, 4), "chain": (2, C, 1, 4)}
    boxes = {name: box + rng.uniform(-0.2, 0.2, shape) for name, shape in shapes.items()}
    return {name: jnp.asarray(a, jnp.float32) for name, a in {"x": x, **boxes}.items()}


def _run(code, arguments, **more):
    names = {
        "jax": jax,
        "jnp": jnp,
        "nnx": nnx,
        "nn": nn,
        "linen": linen,
        "export": export,
        "P": P,
        "NamedSharding": NamedSharding,
        "box_conv": jaxbox.box_conv,
        "gradients_of": _gradients_of,
        "layer": _layer,
        "call": lambda layer, x: layer(x),
    }
    exec(re.search(r"ipython3\n(class .*?)```", DOCUMENT, re.DOTALL)[1], names)
    return eval(code, names | arguments | more)


def _assert_gives(actual, gives, arguments):
    expected = _expected(**arguments)[gives]
    if gives.startswith("Hessian"):
        actual = actual.reshape(-1, *arguments["theta"].shape)[: len(expected)]
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("code", "gives"), _lines("JAX") + _lines("Flax NNX and Linen") + _lines("Forward mode")
)
def test_working(code, gives, rng):
    arguments = _arguments(rng)
    _assert_gives(_run(code, arguments), gives, arguments)


def run_on_several_devices():
    """Runs the table for several devices; a process of its own has them."""
    arguments = _arguments(np.random.default_rng(0))
    mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))
    for line in _lines("Several devices"):
        code, gives = line.values
        print(code)
        _assert_gives(_run(code, arguments, mesh=mesh), gives, arguments)


def test_several_devices():
    program = (
        "import tests.conftest; from tests.layers import test_transformations as t; "
        "t.run_on_several_devices()"
    )
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)
