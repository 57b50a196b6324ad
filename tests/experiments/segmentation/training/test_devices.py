"""Training on several devices and in several processes: the same as on one."""

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
    # The library of the processes' communication announces itself first.
    return json.loads(output.splitlines()[-1])


def test_devices_and_processes_train_as_one_device():
    """In double precision, since Adam makes of every rounding of a small gradient a whole step.

    In single precision the curves part by a few thousandths within ten steps; so do those of one
    device whose images are changed in the last bit.
    """
    one, eight = _start(1), _start(8)
    expected, spread = _result(one), _result(eight)
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    processes = [_start(1, f"{address},{index}/2") for index in range(2)]
    together = _result(processes[0])
    processes[1].communicate()
    assert processes[1].returncode == 0
    assert not expected["told"]
    for result in (spread, together):
        np.testing.assert_allclose(result["losses"], expected["losses"], rtol=0, atol=1e-9)
        # Each parameter's gradient once, two sums for the statistics of each BatchNorm, and the
        # loss: no features of an image go from one device to another.
        assert list(result["told"]) == ["all-reduce"]
        most = result["parameters"] + 2 * result["norms"] + 4
        assert result["parameters"] <= result["told"]["all-reduce"] <= most


@pytest.mark.parametrize("text", ["", "node0,0/2", "node0:1234,2/2", "node0:1234,0"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="must be auto or HOST:PORT,INDEX/COUNT"):
        join_processes(text)
