"""Trains a box network to segment rooms: SUN RGB-D, 37 classes, without the depth (Table 2).

Writes into --out what cityscapes_boxenet.py writes, and has the same subcommands, `evaluate RUN`
and `predict RUN IMAGES`. The README tells how to get the data.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program(
    "experiments.segmentation.train",
    description=__doc__ or "",
    data="sunrgbd:sunrgbd",
    out=Path("runs/sunrgbd"),
)

if __name__ == "__main__":
    run(main)
