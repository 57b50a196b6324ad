"""Training on several devices and in several processes gives the same result as on one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.segmentation.training.devices import join_processes

_ROOT = Path(__file__).parents[4]
_PROGRAM = Path(__file__).with_name("data_parallel_program.py")
_STEPS = 50


def _start(devices: int, *address: str) -> subprocess.Popen[str]:
    flags = "--xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, str(_PROGRAM), str(_STEPS), *address],
        env=os.environ
        | {
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(_ROOT),
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def _result(process: subprocess.Popen[str]) -> dict:
    output, _ = process.communicate()
    assert process.returncode == 0
    # The library for communication between processes prints a line first.
    return json.loads(output.splitlines()[-1])


def test_devices_and_processes_train_as_one_device():
    """In double precision, since Adam turns a rounding error of a small gradient into a whole step.

    In single precision the curves diverge by a few thousandths within ten steps; so do those of one
    device if its images change in the last bit.
    """
    alone = _start(8)
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    processes = [_start(1, f"{address},{index}/2") for index in range(2)]
    together = _result(processes[0])["all devices"]
    processes[1].communicate()
    assert processes[1].returncode == 0
    results = _result(alone)
    expected, spread = results["one device"], results["all devices"]
    assert not expected["exchanged"]
    for result in (spread, together):
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=0, atol=1e-9)
        # The gradient of each parameter, two sums for the statistics of each BatchNorm, the loss,
        # and whether a box layer's features and gradients are finite; no features of images.
        assert list(result["exchanged"]) == ["all-reduce"]
        most = result["parameters"] + 2 * result["norms"] + 5 * result["box_layers"] + 4
        assert result["parameters"] <= result["exchanged"]["all-reduce"] <= most


@pytest.mark.parametrize("text", ["", "node0,0/2", "node0:1234,2/2", "node0:1234,0"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="must be auto or HOST:PORT,INDEX/COUNT"):
        join_processes(text)
