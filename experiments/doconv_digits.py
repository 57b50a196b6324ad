"""DO-Conv beside plain convolution; see `experiments/demos/doconv_digits.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import run
from experiments.demos.doconv_digits import main

if __name__ == "__main__":
    run(main)
