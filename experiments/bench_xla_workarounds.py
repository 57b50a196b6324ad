"""Times the workarounds for XLA on and off; see `experiments/benchmarks/xla_workarounds.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.benchmarks.xla_workarounds import main
from experiments.common.program import run

if __name__ == "__main__":
    run(main)
