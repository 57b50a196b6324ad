"""Draws the paper's Figures 2 to 4; see `experiments/paper/figures.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.paper.figures")

if __name__ == "__main__":
    run(main)
