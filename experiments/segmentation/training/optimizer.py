"""The optimizer of a training run."""

import optax
from flax import nnx

from experiments.segmentation.training.box_learning import BOX_LEARNING
from experiments.segmentation.training.box_steps import (
    average_gradients,
    redraw_smallest,
    scale_steps,
)
from experiments.segmentation.training.recipe import Recipe
from experiments.segmentation.training.settings import Settings
from jaxbox import optim


def learning_rate(recipe: Recipe, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
      recipe: the recipe with the initial learning rate and the schedule.
      steps: the number of steps in the whole training.
      steps_per_epoch: the number of steps in an epoch.

    Example:
      >>> from experiments.segmentation.training.recipe import RECIPES
      >>> schedule = learning_rate(RECIPES["paper-enet"], 13000, steps_per_epoch=10)
      >>> round(float(schedule(5999)), 6), round(float(schedule(6001)), 6)
      (0.001, 0.00045)
    """
    if recipe.schedule == "cosine":
        return optax.cosine_decay_schedule(recipe.learning_rate, steps)
    factors = {epoch * steps_per_epoch: recipe.decay_factor for epoch in recipe.decay_epochs}
    return optax.piecewise_constant_schedule(recipe.learning_rate, factors)


def optimizer(
    settings: Settings, model: nnx.Module, steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Adam with the recipe's penalties, adapted to the model's boxes and positions.

    Args:
      settings: the run's settings, of which training, box_learning and track_boxes are used.
      model: the network to train.
      steps: the number of steps in the whole training.
      steps_per_epoch: the number of steps in an epoch.
    """
    recipe, variant = settings.training, BOX_LEARNING[settings.box_learning]
    boxes = optim.find_boxes(model)
    decayed = optim.decay_mask(boxes, optim.find_positions(model))
    adam = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, mask=decayed),
        optax.adam(learning_rate(recipe, steps, steps_per_epoch)),
    )
    if variant.averaging:
        adam = optax.chain(average_gradients(variant.averaging, boxes), adam)
    # The states of these are in a run's checkpoints only where its settings ask for them.
    if settings.track_boxes:
        adam = optax.chain(optim.track_boxes(boxes), adam)
    if variant.moves_differently:
        adam = optax.chain(adam, scale_steps(variant, boxes, steps))
    constrained = optim.constrain(
        adam, model, box_l2=recipe.box_l2, step_scale=recipe.box_step_scale
    )
    return (
        optax.chain(constrained, redraw_smallest(boxes, steps)) if variant.redraw else constrained
    )
