"""Trains a network to segment images: BoxENet on street scenes, or any --model on any --data.

Without arguments: BoxENet on generated street scenes, a few minutes on two cores. Writes into
--out: metrics.jsonl and TensorBoard's files, checkpoints, pictures (predictions.png, boxes.png,
curves.png), and weights.safetensors, which `predict` and jaxbox.models.load take anywhere. Ctrl-C
saves and stops; the same command with --resume continues exactly from there.

`evaluate RUN` scores a run at full resolution, `predict RUN IMAGES` segments pictures. Each has a
--help of its own, and so has `train`, which is what this program does without a subcommand.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # Where the package `experiments` is.

from experiments.common.program import program, run

main = program("experiments.segmentation.train", description=__doc__ or "")

if __name__ == "__main__":
    run(main)
