"""Trains a box network to segment rooms: SUN RGB-D, 37 classes, without the depth (Table 2).

Writes into --out what cityscapes_boxenet.py writes, and has the same subcommands, `evaluate RUN`
and `predict RUN IMAGES`. The README tells how to get the data.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import run
from experiments.segmentation import train
from experiments.segmentation.training.settings import Settings

_DEFAULTS = Settings(data="sunrgbd:sunrgbd", out=Path("runs/sunrgbd"))

main = partial(train.main, defaults=_DEFAULTS, description=__doc__ or "")

if __name__ == "__main__":
    run(main)
