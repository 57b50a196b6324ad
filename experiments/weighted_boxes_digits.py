"""Weighted boxes learn digits; see `experiments/demos/weighted_boxes_digits.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.demos.weighted_boxes_digits")

if __name__ == "__main__":
    run(main)
