"""Recipes, which say how to train: ready-made ones by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from experiments.segmentation.input.augmentation import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int = 100
    """Number of passes over the training images."""
    batch_size: int = 8
    """Images in a batch, over all devices."""
    learning_rate: float = 2e-3
    """Adam's learning rate at the start."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """cosine: the learning rate falls to zero along a cosine; steps: it falls after each of
    --decay-epochs."""
    decay_epochs: tuple[int, ...] = ()
    """Epochs after which the learning rate is multiplied by --decay-factor."""
    decay_factor: float = 0.45
    """Factor on the learning rate after each of --decay-epochs."""
    weight_decay: float = 2e-4
    """Strength of the L2 penalty on everything but the boxes."""
    box_l2: float = 1e-7
    """Strength of the L2 penalty on the boxes' coordinates in pixels; it shrinks idle boxes."""
    box_step_scale: float = 1.0
    """Step size of boxes: an optimizer step of 1 becomes this many widths of the feature map."""
    dropout: float = 1.0
    """Factor on the network's dropout rates, from 0 to 1."""
    augmentation: Augmentation = Augmentation()
    """Random changes to each training image and its label."""


_PAPER_AUGMENTATION = Augmentation(flip=0.5, rotation=7.5, scale=0.12)

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        # Many small steps and no regularisation: so short a training cannot overfit.
        "quick": Recipe(epochs=3, batch_size=4, learning_rate=8e-3, dropout=0.0),
        "plain": Recipe(),
        # The authors store boxes as theta / (0.86 * the map's size) and penalise that like weights:
        # at 1/8 of 512 x 1024 this is a penalty of 2e-4 / 110**2 on coordinates in pixels.
        "paper-enet": Recipe(
            epochs=1300,
            batch_size=12,
            learning_rate=1e-3,
            schedule="steps",
            decay_epochs=(600, 780, 880, 960, 1040, 1120, 1200, 1260),
            decay_factor=0.45,
            box_l2=2e-8,
            box_step_scale=0.86,
            augmentation=_PAPER_AUGMENTATION,
        ),
        "paper-erfnet": Recipe(
            epochs=800,
            batch_size=12,
            learning_rate=1e-3,
            schedule="steps",
            decay_epochs=(300, 390, 480, 550, 620, 670, 700),
            decay_factor=0.4,
            box_l2=5e-9,
            box_step_scale=1.5625,
            augmentation=_PAPER_AUGMENTATION,
        ),
    }
)
"""The recipes by name. `quick` trains on generated scenes in minutes; `plain` has a cosine schedule
and flips; `paper-enet` and `paper-erfnet` are those of the authors' code for each family."""
