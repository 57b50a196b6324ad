"""Trains a box network to segment rooms: SUN RGB-D, 37 classes, without the depth (Table 2).

Writes into --out what cityscapes_boxenet.py writes, and has the same subcommands, `evaluate RUN`
and `predict RUN IMAGES`. The README tells how to get the data.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.segmentation import train as program
from experiments.segmentation.training.settings import Settings

_DEFAULTS = Settings(data="sunrgbd:sunrgbd", out=Path("runs/sunrgbd"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error."""
    return program.main(_DEFAULTS, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(main())
