"""The settings of a training run, and the command line that they are read from."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import tyro

from experiments.common.program import UserError
from experiments.segmentation.data import datasets
from experiments.segmentation.data.source import Size
from experiments.segmentation.training.recipe import RECIPES, Recipe
from jaxbox import surgery
from jaxbox.models import NETWORKS

Context = Literal["dilated", surgery.Variant]
CONTEXTS: Final[tuple[Context, ...]] = get_args(Context)


@dataclass(frozen=True)
class Settings:
    """Trains a network to segment images and shows what its boxes learn."""

    data: Annotated[str, tyro.conf.arg(help=f"Data set: {datasets.usage()}.")] = "synthetic"
    model: Annotated[str, tyro.conf.arg(help=f"Network: one of {', '.join(NETWORKS)}.")] = "boxenet"
    context: Context = "dilated"
    """The context blocks of ENet and ERFNet: their dilated convolutions, or the layers that
    jaxbox.surgery puts in place of them."""
    size: str | None = None
    """Size of the images, HEIGHTxWIDTH in pixels, divisible by 8, such as 176x240. Default: the
    data set's usual size."""
    recipe: Annotated[str, tyro.conf.arg(help=f"How to train: one of {', '.join(RECIPES)}.")] = (
        "quick"
    )
    training: Annotated[Recipe, tyro.conf.arg(name="")] = RECIPES["quick"]
    steps: int | None = None
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
    distributed: str | None = None
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
      UserError: an argument has a value that is not allowed. An argument that does not exist ends
        the program, as in all command lines.
    """
    recipe = _recipe_name(defaults, arguments)
    try:
        settings = tyro.cli(
            Annotated[Settings, tyro.conf.arg(name="")],
            default=dataclasses.replace(defaults, recipe=recipe, training=RECIPES[recipe]),
            args=arguments,
            description=description,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from error
    _check(settings)
    return settings


def _recipe_name(defaults: Settings, arguments: Sequence[str] | None) -> str:
    """The name of the recipe, which decides the defaults of other arguments."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", default=defaults.data)
    for name in ("--recipe", "--epochs", "--steps"):
        first.add_argument(name)
    known, _ = first.parse_known_args(arguments)
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
    parts = settings.size.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UserError(f"--size must be HEIGHTxWIDTH such as 176x240; got {settings.size!r}")
    height, width = map(int, parts)
    for name, value in (("height", height), ("width", width)):
        if value < 8 or value % 8:
            raise UserError(f"--size: the {name} must be a positive multiple of 8; got {value}")
    return height, width


def _check(settings: Settings) -> None:
    training = settings.training
    image_size(settings)
    if settings.model not in NETWORKS:
        raise UserError(f"--model must be one of {', '.join(NETWORKS)}; got {settings.model!r}")
    for name, value in (
        ("epochs", training.epochs),
        ("steps", settings.steps),
        ("batch-size", training.batch_size),
        ("learning-rate", training.learning_rate),
        ("decay-factor", training.decay_factor),
        ("box-step-scale", training.box_step_scale),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} must be greater than 0; got {value}")
    for name, value in (("weight-decay", training.weight_decay), ("box-l2", training.box_l2)):
        if not 0 <= value < float("inf"):
            raise UserError(f"--{name} must be 0 or greater; got {value}")
    if not 0 <= training.dropout <= 1:
        raise UserError(f"--dropout must be from 0 to 1; got {training.dropout}")
    if any(epoch < 1 for epoch in training.decay_epochs):
        raise UserError(f"--decay-epochs must be 1 or greater; got {training.decay_epochs}")
    if settings.workers < 0:
        raise UserError(f"--workers must be 0 or greater; got {settings.workers}")
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"--seed must be from 0 to 2**32 - 1; got {settings.seed}")
