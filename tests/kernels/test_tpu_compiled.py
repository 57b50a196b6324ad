"""Box convolution compiled for TPUs, on any machine; `docs/tpu.md` has the compiler's estimates."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = Path(__file__).with_name("tpu_program.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the dependency group `tpu-compiler`"
)


def _compiled(*names: str) -> dict[str, dict[str, int]]:
    """What `tpu_program.py` says of the programs with these names."""
    finished = subprocess.run(
        [sys.executable, _PROGRAM, *names],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        # Otherwise the library looks for a server of TPUs, and only one process may load it.
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(_PROGRAM.parents[2]), *sys.path]),
        },
    )
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("gradients",), id="gradients"),
        pytest.param(("vmap", "sharded", "whole_pixels", "design"), marks=pytest.mark.slow),
        pytest.param(("training",), marks=pytest.mark.slow),
    ],
)
def test_matrices_are_multiplied_and_nothing_is_gathered(names):
    """On a TPU, gathers whose places depend on data take several times as long as the products."""
    for name, program in _compiled(*names).items():
        assert program["products"] > 0, name
        assert program["gathers"] == 0, name
