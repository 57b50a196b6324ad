"""What a training run is told on the command line, and what of it is recorded with the run."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import tyro

from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.training.recipe import RECIPES, Recipe
from jaxbox import surgery
from jaxbox.models import NETWORKS


class UsageError(Exception):
    """An argument is not allowed; the message says what is."""


Context = Literal["dilated", surgery.Variant]
CONTEXTS: Final[tuple[Context, ...]] = get_args(Context)


@dataclass(frozen=True)
class Settings:
    """Trains a network to segment images and shows what its boxes learn."""

    data: str = "synthetic"
    """synthetic (generated, no download), camvid:DIR, cityscapes:DIR (DIR holds leftImg8bit/ and
    gtFine/), sunrgbd:DIR, or folder:DIR (see the README)."""
    model: Annotated[str, tyro.conf.arg(help=f"Network: one of {', '.join(NETWORKS)}.")] = "boxenet"
    context: Context = "dilated"
    """The context blocks of ENet and ERFNet: their dilated convolutions, or what jaxbox.surgery
    puts in place of them."""
    size: str | None = None
    """Size of the images, HEIGHTxWIDTH in pixels, divisible by 8, such as 176x240. Default: the
    data set's usual size."""
    recipe: Annotated[str, tyro.conf.arg(help=f"How to train: one of {', '.join(RECIPES)}.")] = (
        "quick"
    )
    training: Annotated[Recipe, tyro.conf.arg(name="")] = RECIPES["quick"]
    steps: int | None = None
    """How many batches to train on, instead of --epochs."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the network's arithmetic. Parameters, boxes, statistics and the loss are float32."""
    seed: int = 0
    """Of the initial parameters, the order of the images, dropout and generated scenes."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do about images and labels that cannot be read: stop and name them, or skip them."""
    workers: int = 0
    """Processes that prepare images; 0: threads."""
    distributed: str | None = None
    """Train together with other processes: auto (Slurm, Open MPI, TPU), or
    HOST:PORT,INDEX/COUNT, where process 0 listens and which of how many this one is."""
    out: Path = Path("runs/boxenet")
    """Directory for everything the run writes; new or empty unless --resume."""
    resume: bool = False
    """Go on with the run in --out."""


# What may change when a run is resumed, since the result does not depend on it.
_NOT_RECORDED = ("workers", "distributed", "out", "resume")


def parse(defaults: Settings, description: str, arguments: Sequence[str] | None) -> Settings:
    """Reads the command line.

    Whatever of `training` is not given is the recipe's, which is the data set's usual one unless
    given.

    Raises:
      UsageError: an argument is not allowed. What is no argument at all ends the program.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", default=defaults.data)
    for name in ("--recipe", "--epochs", "--steps"):
        first.add_argument(name)
    known, _ = first.parse_known_args(arguments)
    if known.epochs is not None and known.steps is not None:
        raise UsageError("give --epochs or --steps, not both")
    name = known.recipe or usual_recipe(known.data)
    if name not in RECIPES:
        raise UsageError(f"--recipe must be one of {', '.join(RECIPES)}; got {name!r}")
    try:
        settings = tyro.cli(
            Annotated[Settings, tyro.conf.arg(name="")],
            default=dataclasses.replace(defaults, recipe=name, training=RECIPES[name]),
            args=arguments,
            description=description,
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    _check(settings)
    return settings


def usual_recipe(data: str) -> str:
    """The name of the recipe for a data set unless one is given."""
    kind = data.partition(":")[0]
    usual = {"synthetic": "quick", "cityscapes": "paper-enet", "sunrgbd": "paper-enet"}
    return usual.get(kind, "plain")


def image_size(settings: Settings) -> tuple[int, int] | None:
    """`(H, W)` in pixels, if it was given.

    Raises:
      UsageError: it is no size that the networks take.
    """
    if settings.size is None:
        return None
    parts = settings.size.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--size must be HEIGHTxWIDTH such as 176x240; got {settings.size!r}")
    height, width = map(int, parts)
    for name, value in (("height", height), ("width", width)):
        if value < 8 or value % 8:
            raise UsageError(f"--size: the {name} must be a positive multiple of 8; got {value}")
    return height, width


def to_record(settings: Settings) -> dict[str, Any]:
    """All that the result of a run depends on, as JSON values."""
    values = dataclasses.asdict(settings)
    recorded = {name: value for name, value in values.items() if name not in _NOT_RECORDED}
    return json.loads(json.dumps(recorded))


def from_record(record: dict[str, Any], out: Path) -> Settings:
    """The settings of the run in `out` from what `to_record` made of them."""
    training = dict(record["training"])
    training["decay_epochs"] = tuple(training["decay_epochs"])
    training["augmentation"] = Augmentation(**training["augmentation"])
    return Settings(**{**record, "training": Recipe(**training)}, out=out)


def _check(settings: Settings) -> None:
    training = settings.training
    image_size(settings)
    if settings.model not in NETWORKS:
        raise UsageError(f"--model must be one of {', '.join(NETWORKS)}; got {settings.model!r}")
    for name, value in (
        ("epochs", training.epochs),
        ("steps", settings.steps),
        ("batch-size", training.batch_size),
        ("learning-rate", training.learning_rate),
        ("decay-factor", training.decay_factor),
        ("box-step-scale", training.box_step_scale),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} must be greater than 0; got {value}")
    for name, value in (("weight-decay", training.weight_decay), ("box-l2", training.box_l2)):
        if not 0 <= value < float("inf"):
            raise UsageError(f"--{name} must be 0 or greater; got {value}")
    if not 0 <= training.dropout <= 1:
        raise UsageError(f"--dropout must be from 0 to 1; got {training.dropout}")
    if any(epoch < 1 for epoch in training.decay_epochs):
        raise UsageError(f"--decay-epochs must be 1 or greater; got {training.decay_epochs}")
    if settings.workers < 0:
        raise UsageError(f"--workers must be 0 or greater; got {settings.workers}")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed must be from 0 to 2**32 - 1; got {settings.seed}")
