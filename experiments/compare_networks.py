"""Compares networks on one budget; see `experiments/segmentation/compare_networks.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import run
from experiments.segmentation.compare_networks import main

if __name__ == "__main__":
    run(main)
