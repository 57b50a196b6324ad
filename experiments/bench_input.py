"""Times the input pipeline beside training; see `experiments/benchmarks/input.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.benchmarks.input import main
from experiments.common.program import run

if __name__ == "__main__":
    run(main)
