"""Times weighted boxes; see `experiments/benchmarks/weighted_boxes.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.benchmarks.weighted_boxes")

if __name__ == "__main__":
    run(main)
