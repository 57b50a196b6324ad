"""Transformations of boxes' steps in an optimizer, for studies of how boxes learn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.segmentation.training.box_learning import BoxLearning
from jaxbox import boxes, optim
from jaxbox.analysis import at_minimum
from jaxbox.optim.marks import Boxes, map_marked

# About an epoch of a small data set.
_STEPS_BETWEEN_REDRAWS = 100


class _Progress(NamedTuple):
    """The state of a transformation that depends on how far training has come.

    Attributes:
      steps: the number of steps so far, an int32 scalar.
    """

    steps: jax.Array


def scale_steps(variant: BoxLearning, marks: Boxes, steps: int) -> optax.GradientTransformation:
    """Scales the steps of boxes, before `optim.steps_in_pixels` turns them into pixels.

    Args:
      variant: how boxes move.
      marks: the marks of the boxes among the parameters.
      steps: the number of steps in the whole training.
    """

    def update_fn(
        updates: optax.Updates, state: _Progress, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _Progress]:
        scale = jnp.float32(variant.step_scale)
        if variant.schedule is not None:
            scale *= variant.schedule(state.steps / steps)

        def scaled(spec: optim.BoxSpec, update: jax.Array, theta: jax.Array) -> jax.Array:
            return update * scale * (_twice_own_size(spec, theta) if variant.own_size else 1.0)

        return map_marked(scaled, marks, updates, params), _Progress(state.steps + 1)

    return optax.GradientTransformation(_start, update_fn)


def average_gradients(decay: float, marks: Boxes) -> optax.GradientTransformation:
    """Replaces the gradients of boxes by their exponential moving average. Place it first.

    Args:
      decay: the weight of the previous average.
      marks: the marks of the boxes among the parameters.
    """
    is_box = jax.tree.map(lambda label: label == "boxes", optim.labels(marks))
    return optax.masked(optax.ema(decay), is_box)


def redraw_smallest(marks: Boxes, steps: int) -> optax.GradientTransformation:
    """Draws boxes at the minimum size anew, in the first half of training.

    Place it last. The optimizer's moments of the boxes stay.

    Args:
      marks: the marks of the boxes among the parameters.
      steps: the number of steps in the whole training.
    """

    def update_fn(
        updates: optax.Updates, state: _Progress, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _Progress]:
        count = state.steps + 1
        now = (count % _STEPS_BETWEEN_REDRAWS == 0) & (count <= steps // 2)
        key = jax.random.fold_in(jax.random.key(0), count)

        def redrawn(spec: optim.BoxSpec, update: jax.Array, theta: jax.Array) -> jax.Array:
            if spec.window is None:
                return update
            # Parameters of one shape would get the same boxes from one key.
            own = jax.random.fold_in(key, jax.lax.bitcast_convert_type(theta[0, 0, 0], jnp.int32))
            fresh = boxes.sample(own, theta.shape[:-1], spec.window, theta.dtype)
            chosen = now & at_minimum(theta + update)
            return jnp.where(chosen[..., None], fresh - theta, update)

        return map_marked(redrawn, marks, updates, params), _Progress(count)

    return optax.GradientTransformation(_start, update_fn)


def _start(params: optax.Params) -> _Progress:
    del params
    return _Progress(jnp.zeros((), jnp.int32))


def _twice_own_size(spec: optim.BoxSpec, theta: jax.Array) -> jax.Array:
    """Twice the width and height of boxes `(..., 4)` in windows, for each of their sides."""
    if spec.window is None:
        return jnp.ones_like(theta)
    h, w = spec.window
    width, height = 2 * (theta[..., 1] - theta[..., 0]) / w, 2 * (theta[..., 3] - theta[..., 2]) / h
    return jnp.stack([width, width, height, height], axis=-1)
