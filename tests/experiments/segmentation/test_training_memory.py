"""The memory that training takes is within the bound that `experiments/README.md` states."""

import os
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "experiments" / "cityscapes_boxenet.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the unit of ru_maxrss is another")
def test_training_within_the_stated_bound(tmp_path):
    height, width, batch = 128, 256, 4
    options = ["--size", f"{height}x{width}", "--batch-size", str(batch), "--steps", "2"]
    command = [sys.executable, str(PROGRAM), *options, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    # A process of its own, whose largest size the system notes.
    process = os.spawnve(os.P_NOWAIT, sys.executable, command, environment)
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    assert 1024 * usage.ru_maxrss <= 1.5e9 + 3000 * batch * height * width
