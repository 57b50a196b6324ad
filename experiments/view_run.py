"""Writes a page to look at a run in a browser; see `experiments/segmentation/page/page.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.segmentation.page.page")

if __name__ == "__main__":
    run(main)
