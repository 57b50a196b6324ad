"""How fast images load, beside training; see `experiments/benchmarks/input.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.benchmarks.input import main

if __name__ == "__main__":
    sys.exit(main())
