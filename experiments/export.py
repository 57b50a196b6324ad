"""Writes a run's network as one file, ready for use; see `experiments/segmentation/export.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.segmentation.export")

if __name__ == "__main__":
    run(main)
