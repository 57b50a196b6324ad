"""The settings of a training run, and the command line that they are read from."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, get_args

import tyro

from experiments.common.command_line import (
    MOST_STEPS,
    check_printable,
    check_seed,
    check_whole,
    read_settings,
)
from experiments.common.image_size import parse_size
from experiments.common.memory import check_fits
from experiments.common.program import UserError
from experiments.segmentation.data import datasets
from experiments.segmentation.data.source import Size
from experiments.segmentation.training.box_learning import BOX_LEARNING, LIBRARY
from experiments.segmentation.training.recipe import RECIPES, Recipe
from jaxbox import surgery
from jaxbox.models import NETWORKS

Context = Literal["dilated", surgery.Variant]
CONTEXTS: Final[tuple[Context, ...]] = get_args(Context)
SIZE_MULTIPLE: Final = 8
"""What the height and the width of the networks' images have to be a multiple of."""
_MOST_WORKERS = 256
_BYTES_OF_PIXEL = 3 * 4 + 4  # RGB and label, 32 bits each


@dataclass(frozen=True)
class Settings:
    """Trains a network to segment images and shows what its boxes learn."""

    data: Annotated[str, tyro.conf.arg(help=f"Data set: {datasets.usage()}.")] = "synthetic"
    model: Annotated[str, tyro.conf.arg(help=f"Network: one of {', '.join(NETWORKS)}.")] = "boxenet"
    context: Context = "dilated"
    """The context blocks of ENet and ERFNet: their dilated convolutions, or the layers that
    jaxbox.surgery puts in place of them."""
    box_learning: Annotated[
        str,
        tyro.conf.arg(help=f"How boxes start and move: one of {', '.join(BOX_LEARNING)}."),
    ] = LIBRARY
    track_boxes: bool = False
    """Record how far boxes move in each epoch, how noisy their gradients are, and how many are of
    the minimum size."""
    size: Annotated[str | None, tyro.conf.arg(metavar="HEIGHTxWIDTH")] = None
    """Size of the images, HEIGHTxWIDTH in pixels, divisible by 8, such as 176x240. Default: the
    data set's usual size."""
    recipe: Annotated[str, tyro.conf.arg(help=f"How to train: one of {', '.join(RECIPES)}.")] = (
        "quick"
    )
    training: Recipe = RECIPES["quick"]
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of batches to train on, instead of --epochs."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision of the network's arithmetic. Parameters, boxes, statistics and the loss are always
    float32."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images, dropout and generated scenes."""
    on_bad: Literal["stop", "skip"] = "stop"
    """How to treat images and labels that cannot be read: stop and name them, or skip them."""
    workers: int = 0
    """Number of processes that prepare images; with 0 threads prepare them."""
    distributed: Annotated[str | None, tyro.conf.arg(metavar="auto|HOST:PORT,INDEX/COUNT")] = None
    """Train together with other processes: auto (Slurm, Open MPI, TPU), or
    HOST:PORT,INDEX/COUNT: process 0 listens at HOST:PORT, and this process is INDEX of COUNT."""
    out: Path = Path("runs/boxenet")
    """Directory for everything the run writes; new or empty unless --resume."""
    resume: bool = False
    """Continue the run in --out."""


def parse(defaults: Settings, description: str, arguments: Sequence[str] | None) -> Settings:
    """Reads settings from the command line.

    Args:
      defaults: the settings that the command line may change. Training settings that it does not
        give are those of the recipe it gives, or else of the data set's usual recipe.
      description: the first text of `--help`.
      arguments: the arguments of the command line, by default this process's.

    Raises:
      UserError: an argument does not exist, or has a value that is not allowed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = read_settings(
        Settings, given, default=with_recipe(defaults, given), description=description
    )
    check(settings)
    return settings


def with_recipe(defaults: Settings, arguments: Sequence[str]) -> Settings:
    """The settings with those of the recipe that a command line gives, or else the data set's.

    Args:
      defaults: the settings that the command line may change.
      arguments: the arguments of the command line.

    Raises:
      UserError: an argument is not printable, the recipe does not exist, or both --epochs and
        --steps are given.
    """
    check_printable(arguments)
    recipe = _recipe_name(defaults, arguments)
    return dataclasses.replace(defaults, recipe=recipe, training=RECIPES[recipe])


class _FirstParser(argparse.ArgumentParser):
    """A parser whose errors are left to the one that knows all arguments."""

    def error(self, message: str) -> NoReturn:
        raise _UnreadableError(message)


class _UnreadableError(Exception):
    """The first parser cannot read the command line."""


def _recipe_name(defaults: Settings, arguments: Sequence[str]) -> str:
    """The name of the recipe, which decides the defaults of other arguments."""
    first = _FirstParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", default=defaults.data)
    for name in ("--recipe", "--epochs", "--steps"):
        first.add_argument(name)
    try:
        known, _ = first.parse_known_args(arguments)
    except _UnreadableError:
        return defaults.recipe
    if known.epochs is not None and known.steps is not None:
        raise UserError("give --epochs or --steps, not both")
    recipe = known.recipe or datasets.usual_recipe(known.data)
    if recipe not in RECIPES:
        raise UserError(f"--recipe must be one of {', '.join(RECIPES)}; got {recipe!r}")
    return recipe


def image_size(settings: Settings) -> Size | None:
    """The size of the images, `(H, W)` in pixels, or None if the settings do not give it.

    Raises:
      UserError: the networks do not take images of this size.
    """
    if settings.size is None:
        return None
    return parse_size("--size", settings.size, multiple=SIZE_MULTIPLE)


def check(settings: Settings) -> None:
    """Raises `UserError` if a setting is out of its range; the message names its option."""
    training = settings.training
    size = image_size(settings)
    if settings.model not in NETWORKS:
        raise UserError(f"--model must be one of {', '.join(NETWORKS)}; got {settings.model!r}")
    if settings.recipe not in RECIPES:
        raise UserError(f"--recipe must be one of {', '.join(RECIPES)}; got {settings.recipe!r}")
    if settings.box_learning not in BOX_LEARNING:
        raise UserError(
            f"--box-learning must be one of {', '.join(BOX_LEARNING)}; got "
            f"{settings.box_learning!r}"
        )
    for name, value in (
        ("epochs", training.epochs),
        ("steps", settings.steps),
        ("batch-size", training.batch_size),
        ("learning-rate", training.learning_rate),
        ("decay-factor", training.decay_factor),
        ("box-step-scale", training.box_step_scale),
    ):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be greater than 0; got {value}")
    for name, penalty in (("weight-decay", training.weight_decay), ("box-l2", training.box_l2)):
        if not 0 <= penalty < math.inf:
            raise UserError(f"--{name} must be 0 or greater; got {penalty}")
    if not 0 <= training.dropout <= 1:
        raise UserError(f"--dropout must be from 0 to 1; got {training.dropout}")
    if not 0 <= settings.workers <= _MOST_WORKERS:
        allowed = "0 or greater" if settings.workers < 0 else f"from 0 to {_MOST_WORKERS}"
        raise UserError(f"--workers must be {allowed}; got {settings.workers}")
    check_seed("--seed", settings.seed)
    _check_lengths(training, settings.steps)
    if size is not None:
        check_batch_fits(training.batch_size, size)


def check_batch_fits(batch_size: int, size: Size) -> None:
    """Raises `UserError` if a batch of images of this size does not fit into memory."""
    height, width = size
    check_fits(
        batch_size * height * width * _BYTES_OF_PIXEL,
        f"a batch of --batch-size {batch_size} images of {height}x{width} pixels",
    )


def _check_lengths(training: Recipe, steps: int | None) -> None:
    """Checks the settings that count steps and epochs."""
    for name, value in (
        ("--epochs", training.epochs),
        ("--steps", steps),
        ("--batch-size", training.batch_size),
    ):
        check_whole(name, value, 1, MOST_STEPS)
    epochs = training.decay_epochs
    if any(epoch < 1 for epoch in epochs):
        raise UserError(f"--decay-epochs must be 1 or greater; got {epochs}")
    for epoch in epochs:
        check_whole("--decay-epochs", epoch, 1, MOST_STEPS)
    if len(set(epochs)) < len(epochs):
        raise UserError(f"--decay-epochs must be different from each other; got {epochs}")
