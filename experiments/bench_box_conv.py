"""Times of box convolution; see `experiments/benchmarks/box_conv/program.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.benchmarks.box_conv.program import main

if __name__ == "__main__":
    sys.exit(main())
