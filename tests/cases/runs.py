"""Runs that programs can open: trained, or made in a moment with networks as they were drawn."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import cityscapes_boxenet
from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.saved_run import make_trainer
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.data_record import data_record, write_data_record
from experiments.segmentation.training.run_directory import begin_run, record_finished
from experiments.segmentation.training.settings import Settings

SETTINGS = Settings(model="boxenet", size="16x32", steps=3)
SIZE = (16, 32)
# 576 scenes are 12 steps an epoch. Dropout is on, since its random state has to be saved too.
TRAINING = ["--size", "16x32", "--batch-size", "48", "--dropout", "1"]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the main program in a process of its own, as users do."""
    return subprocess.run(
        [sys.executable, cityscapes_boxenet.__file__, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def make_run(
    out: Path,
    settings: Settings = SETTINGS,
    classes: ClassSet = CITYSCAPES,
    samples: tuple[int, int] = (576, 64),
    saved_steps: tuple[int, ...] = (3,),
) -> Path:
    """Makes a finished run in a new directory.

    Args:
      out: the directory of the run.
      settings: the settings of the run, except for `out`.
      classes: the classes of its data set.
      samples: the numbers of images to train on and to evaluate on.
      saved_steps: the steps after which its state was saved.
    """
    begin_run(dataclasses.replace(settings, out=out))
    write_data_record(out, data_record(classes, *samples))
    (out / "metrics.jsonl").write_text('{"step": 3, "epoch": 0.1, "loss": 1, "mean_iou": 0.1}\n')
    # Optax's Adam mixes ranks and dtypes.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        initial = make_trainer(settings, classes, SIZE).initial
    with Checkpoints(out) as checkpoints:
        for step in saved_steps:
            checkpoints.save(initial._replace(step=jnp.int32(step)))
    record_finished(out, 3)
    return out
