"""Compares context blocks in one network; see `experiments/segmentation/compare_layers.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import run
from experiments.segmentation.compare_layers import main

if __name__ == "__main__":
    run(main)
