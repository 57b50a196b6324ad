"""The Mosaic GPU kernels as machine code, for GPUs that are not there."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys

import pytest

# What kernels are compiled for. XLA wants to know the rest of the description too, but it has no
# effect on kernels.
_GPUS = {
    "H100": {"major": 9, "minor": 0, "cores": 132},
    "B200": {"major": 10, "minor": 0, "cores": 148},
}
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 core_count: {cores} fpus_per_core: 128 clock_rate_ghz: 1.9
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 3350000000000 l2_cache_size: 50000000 device_memory_size: 80000000000
  cuda_compute_capability {{
    major: {major} minor: {minor} feature_extension: ACCELERATED_FEATURES
  }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  device_vendor: "NVIDIA Corporation" name: "{name}"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""

_DTYPES = ("float32", "bfloat16")

# `(N, C, H, W, F)`. The last has an odd height, a width that is no multiple of a strip, and more
# boxes than a program adds up.
_SMALL = [(2, 3, 45, 60, 5)]
_LARGE = [(8, 32, 64, 128, 4), (8, 16, 128, 256, 4), (8, 8, 256, 512, 2)]

# Takes the description of a GPU, shapes and dtypes.
PROGRAM = """
import functools, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from jaxbox_kernels import mosaic_gpu
from jaxbox_kernels.backend import Options

topology = topologies.get_topology_desc(
    platform="cuda", topology_name="gpu", target_config=sys.argv[1], topology="1x1x1"
)
sharding = NamedSharding(topologies.make_mesh(topology, (1,), ("device",)), PartitionSpec())

backend = mosaic_gpu.load()

def compile_all(function, *arguments, options=Options()):
    placed = [jax.ShapeDtypeStruct(*argument, sharding=sharding) for argument in arguments]
    compiled = jax.jit(functools.partial(function, options=options)).lower(*placed).compile()
    # A branch or a loop would keep the GPU waiting for the host.
    program = compiled.as_text()
    assert " conditional(" not in program and " while(" not in program

for N, C, H, W, F in eval(sys.argv[2]):
    x, theta, g = (N, C, H, W), (C, F, 4), (N, C, F, H, W)
    for dtype in map(jnp.dtype, sys.argv[3:]):
        boxes = (theta, jnp.float32)
        compile_all(backend.forward, (x, dtype), boxes)
        compile_all(backend.forward, (x, dtype), boxes, options=Options(whole_pixels=True))
        compile_all(backend.backward, (x, dtype), boxes, (g, dtype))
"""


def describe(gpu):
    """The description of a GPU that is not there, as XLA asks for it."""
    return _DESCRIPTION.format(name=gpu, **_GPUS[gpu])


def environment():
    """The environment variables of a process that compiles for GPUs."""
    # NVIDIA's assembler comes with the dependency group.
    folders = importlib.import_module("nvidia.cu13").__path__
    path = os.pathsep.join([*(f"{folder}/bin" for folder in folders), os.environ["PATH"]])
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "PATH": path,
    }


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="needs the dependency group `cuda-compiler`",
)
@pytest.mark.parametrize(
    ("gpu", "shapes"),
    [
        pytest.param("H100", _SMALL, id="H100"),
        pytest.param("H100", _LARGE, id="H100 at length", marks=pytest.mark.slow),
        pytest.param("B200", _SMALL + _LARGE, id="B200 at length", marks=pytest.mark.slow),
    ],
)
def test_nothing_spills(gpu, shapes):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, describe(gpu), repr(shapes), *_DTYPES],
        check=True,
        capture_output=True,
        text=True,
        env=environment() | {"MOSAIC_GPU_DUMP_PTXAS": "1"},
    )
    spills = re.findall(
        r"(\d+) bytes spill stores, (\d+) bytes spill loads", run.stdout + run.stderr
    )
    # Prefix sums of rows, the filter, the adjoint filter, and inner products.
    assert len(spills) >= 4 * len(shapes)
    assert set(spills) == {("0", "0")}
