"""Counts and times the paper's Table 3; see `experiments/paper/table3.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.paper.table3")

if __name__ == "__main__":
    run(main)
