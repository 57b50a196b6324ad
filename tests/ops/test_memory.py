"""The memory that box convolution takes beside its arguments and results, in a process of its own.

XLA's own account of temporaries knows neither what native kernels allocate nor what the allocator
keeps.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxbox

ROOT = Path(__file__).parents[2]
STATUS = Path("/proc/self/status")

# Prints the bytes of all arguments and results, and the largest growth of the process.
PROGRAM = """
import re, sys
from pathlib import Path
import jax, jax.numpy as jnp
import jaxbox

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def run(x, theta, g):
    op = lambda x, theta: jaxbox.box_conv(x, theta, implementation=sys.argv[1])
    output, pull_back = jax.vjp(op, x, theta)
    return output, pull_back(g)

size, channels, boxes = (8, 256, 512), 32, 4
shapes = [(*size, channels), (channels, boxes, 4), (*size, channels * boxes)]
compiled = jax.jit(run).lower(*[jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]).compile()
before = kilobytes("VmRSS")
theta = jaxbox.boxes.initializer(size[1:])(jax.random.key(0), shapes[1], jnp.float32)
arguments = jnp.ones(shapes[0]), theta, jnp.ones(shapes[2])
results = jax.block_until_ready(compiled(*arguments))
print(sum(array.nbytes for array in jax.tree.leaves((arguments, results))))
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells the memory of a process so")
@pytest.mark.parametrize("implementation", ["native", "xla"])
def test_forward_and_backward_within_half_as_much_again(implementation):
    """`(8, 32, 256, 512, 4)`: 1.5 times input, output and the gradients of both, 1.3 GB."""
    if reason := jaxbox.backends()[implementation]:
        pytest.skip(reason)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # The tests' flags switch off what saves memory.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, implementation],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    arrays, growth = map(int, done.stdout.split())
    assert growth <= 1.5 * arrays
