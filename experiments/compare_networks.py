"""Compares networks on one budget; see `experiments/segmentation/compare_networks.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.segmentation.compare_networks")

if __name__ == "__main__":
    run(main)
