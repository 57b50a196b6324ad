"""The fuzz of the native kernels, in short; `fuzz.cc` has the command for a million cases."""

import shutil
import subprocess
from pathlib import Path

import pytest

_TOOLS = ("cmake", "ninja", "c++")


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in _TOOLS), reason=f"needs {', '.join(_TOOLS)}"
)
def test_random_cases_agree_with_the_specification(seed, tmp_path):
    source = Path(__file__).parent
    for command in (
        ["cmake", "-G", "Ninja", "-S", source, "-B", tmp_path, "-DOPTIMIZATION=-O1"],
        ["cmake", "--build", tmp_path],
        [tmp_path / "fuzz", "--cases", "5000", "--seed", str(seed)],
    ):
        finished = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert finished.returncode == 0, finished.stdout
