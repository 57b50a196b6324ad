"""Measures the accuracy of each backend; see `experiments/benchmarks/accuracy.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.benchmarks.accuracy")

if __name__ == "__main__":
    run(main)
