"""Settings: recipes by name, and the arguments that override them."""

import pytest

from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.training.recipe import RECIPES
from experiments.segmentation.training.settings import Settings, parse


def _parse(*arguments: str) -> Settings:
    return parse(Settings(), "", arguments)


@pytest.mark.parametrize(
    ("data", "recipe"),
    [
        ("synthetic", "quick"),
        ("camvid:DIR", "plain"),
        ("cityscapes:DIR", "paper-enet"),
        ("sunrgbd:DIR", "paper-enet"),
        ("folder:DIR", "plain"),
    ],
)
def test_each_data_set_has_its_usual_recipe(data, recipe):
    settings = _parse("--data", data)
    assert settings.recipe == recipe
    assert settings.training == RECIPES[recipe]


def test_everything_in_a_recipe_can_be_overridden():
    settings = _parse(
        *("--recipe", "paper-erfnet", "--learning-rate", "0.5", "--decay-epochs", "1", "2"),
        *("--flip", "0.25", "--rotation", "3"),
    )
    training = settings.training
    assert (training.learning_rate, training.decay_epochs) == (0.5, (1, 2))
    assert training.augmentation == Augmentation(flip=0.25, rotation=3.0, scale=0.12)
    assert training.batch_size == RECIPES["paper-erfnet"].batch_size
