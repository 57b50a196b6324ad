"""Box convolution of images whose rows are divided among devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxbox
from tests.cases.box_conv import assert_close
from tests.oracles import box_conv as oracle

ROOT = Path(__file__).resolve().parents[2]
_DEVICES, _HEIGHT = 4, 3  # Rows of each device.


def _mesh(devices):
    return jax.make_mesh((devices,), ("rows",), axis_types=(AxisType.Auto,))


def _divided(halo, axis=1, **options):
    """The operation on four devices."""
    rows = PartitionSpec(*[None] * axis, "rows")
    return jax.jit(
        jax.shard_map(
            lambda x, theta: jaxbox.halo_box_conv(x, theta, "rows", halo=halo, **options),
            mesh=_mesh(_DEVICES),
            in_specs=(rows, PartitionSpec()),
            out_specs=rows,
        )
    )


def _planes(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def _check(rng, halo, reach, normalize):
    """Compares with the oracle: the output, and the gradients of half the sum of its squares."""
    x = rng.standard_normal((2, _DEVICES * _HEIGHT, 5, 2)).astype(np.float32)
    x[:, 4:7] *= 1e3  # Bright rows across two devices.
    x[:, 7] = 0
    bounds = np.sort(rng.uniform(-reach, reach, (2, 3, 2, 2)), -1)
    bounds[0, 0] = np.floor(bounds[0, 0]) + np.array([0, 1])  # Whole numbers.
    bounds[1, 0] = [-0.5, 0.5]
    theta = np.clip(bounds, -reach, reach).reshape(2, 3, 4).astype(np.float32)
    planes = _planes(x)
    expected = oracle.forward(planes, theta, normalize=normalize)
    gradients = oracle.backward(planes, theta, expected, normalize=normalize)
    for axis, channel_axis in ((1, -1), (2, -3)):
        op = _divided(halo, axis, channel_axis=channel_axis, normalize=normalize)
        given = x if channel_axis == -1 else planes

        def loss(x, theta, op=op):
            output = op(x, theta)
            return jnp.sum(output**2) / 2, output

        (_, output), (dx, dtheta) = jax.value_and_grad(loss, (0, 1), has_aux=True)(given, theta)
        if channel_axis == -1:
            output, dx = _planes(output), _planes(dx)
        assert_close(output.reshape(expected.shape), expected, "forward")
        assert_close(dx, gradients[0], "dx")
        assert_close(dtheta, gradients[1], "dtheta")
    compiled = _divided(halo).lower(x, theta).compile().as_text()
    assert "collective-permute" in compiled
    assert "all-gather" not in compiled


def run_on_four_devices():
    """Runs the tests that need several devices; a process of its own has them."""
    rng = np.random.default_rng(0)
    # Rows of the next device, of two devices, and of all.
    for halo, reach in ((2, 2.4), (5, 5.4), (9, 20.0)):
        for normalize in (True, False):
            _check(rng, halo, reach, normalize)
    x = np.ones((12, 5, 1), np.float32)
    far = np.array([[[-1, 1, -2.4, 0], [-1, 1, -2.5, 0], [-1, 1, 0, 2.6]]], np.float32)
    output = _divided(2, 0)(x, far)
    assert np.isfinite(output[..., 0]).all()
    assert np.isnan(output[..., 1:]).all()


def test_four_devices():
    program = (
        "import tests.conftest; from tests.ops import test_halo_box_conv as t; "
        "t.run_on_four_devices()"
    )
    flags = f"--xla_force_host_platform_device_count={_DEVICES} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)


def _on_one_device(x, theta, **options):
    rows = PartitionSpec("rows")
    divided = jax.shard_map(
        lambda x, theta: jaxbox.halo_box_conv(x, theta, "rows", **options),
        mesh=_mesh(1),
        in_specs=(rows, PartitionSpec()),
        out_specs=rows,
    )
    return jax.eval_shape(divided, x, theta)


_X, _THETA = jnp.ones((4, 5, 2)), jnp.ones((2, 3, 4))


def test_one_device_needs_no_halo():
    assert _on_one_device(_X, _THETA, halo=0).shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((_X, _THETA), {"halo": -1}, ValueError, "halo must be at least 0, got -1"),
        ((_X, _THETA), {"halo": 1.5}, TypeError, "halo must be an integer, got 1.5"),
        ((_X, _THETA[..., :2]), {"halo": 1}, ValueError, r"theta must be \(C, F, 4\)"),
        ((_X[0], _THETA), {"halo": 1}, ValueError, r"x must be \(\.\.\., H, W, C\).*\(5, 2\)"),
        ((_X, _THETA), {"halo": 1, "channel_axis": 0}, ValueError, "channel_axis"),
        ((_X.astype(int), _THETA), {"halo": 1}, TypeError, "x must"),
    ],
)
def test_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        _on_one_device(*arguments, **options)


def test_outside_of_shard_map():
    with pytest.raises(NameError, match="rows"):
        jaxbox.halo_box_conv(_X, _THETA, "rows", halo=1)
