"""Trains a box network to segment street scenes.

Without arguments: BoxENet on generated street scenes, a few minutes on two cores. Writes into
--out: metrics.jsonl and TensorBoard's files, checkpoints, and pictures (predictions.png, boxes.png,
curves.png). Ctrl-C saves and stops; the same command with --resume goes on exactly.

`evaluate RUN` scores a run at full resolution, `predict RUN IMAGES` segments a folder of images;
each has a --help of its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.segmentation import train as program
from experiments.segmentation.training.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error."""
    return program.main(Settings(), __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(main())
