"""Takes all measurements on a GPU; see `experiments/benchmarks/gpu_measurements.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.benchmarks.gpu_measurements")

if __name__ == "__main__":
    run(main)
