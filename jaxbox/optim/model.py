"""Boxes and positions of a whole NNX model in an optimizer."""

import jax
import optax
from flax import nnx

from jaxbox.arguments import check_number, is_traced
from jaxbox.layers.box import BoxConv
from jaxbox.optim.boxes import check_optimizer, constrain_boxes
from jaxbox.optim.marks import find_boxes, find_positions
from jaxbox.optim.non_finite import shield
from jaxbox.optim.positions import keep_positions_inside

__all__ = ["constrain"]


def constrain(
    optimizer: optax.GradientTransformation,
    model: nnx.Module,
    *,
    box_l2: float | jax.Array = 0.0,
    step_scale: float | jax.Array = 1.0,
    min_size: float | jax.Array = 1.0,
    wrt: nnx.filterlib.Filter = nnx.Param,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer such that a model's boxes stay valid and its taps inside their kernels.

    It is :func:`constrain_boxes` followed by :func:`keep_positions_inside`, for the boxes and
    positions that the model's layers have marked. A box or a position whose gradient or moved value
    is not finite keeps its value in that step, and :func:`jaxbox.optim.non_finite_steps` counts the
    step.

    Args:
      optimizer: An optax optimizer for all the parameters.
      model: An NNX model. If it has neither boxes nor positions, the updates are `optimizer`'s.
      box_l2: The strength of the boxes' L2 penalty, as in :func:`constrain_boxes`.
      step_scale: The factor of the boxes' steps, as in :func:`steps_in_pixels`.
      min_size: The least width and height of a box, in pixels; at least the `min_size` of the
        layers, which compute with larger boxes in any case.
      wrt: The filter that selects the parameters, the same as for `nnx.Optimizer`.

    The three numbers may be arrays, so that `optax.inject_hyperparams` can schedule them (with
    `static_args=("model", "wrt")`, or it takes these for schedules). A traced number is taken to be
    valid.

    Returns:
      A `GradientTransformationExtraArgs` for `nnx.Optimizer(model, ..., wrt=wrt)`, or for
      `nnx.state(model, wrt)` with or without Variables as its leaves.

    Raises:
      TypeError: `optimizer` is no optax optimizer, `model` is no NNX model, or a number is none.
      ValueError: A number is out of range, or `min_size` is less than a layer's; when
        initializing, the parameters are not those that `wrt` selects.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> tx = optim.constrain(optax.adam(1e-3), model, box_l2=1e-8)
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    """
    check_optimizer(optimizer)
    min_size = check_number("min_size", min_size)
    positions = find_positions(model, wrt)
    _check_min_size(min_size, model)
    return optax.chain(
        constrain_boxes(
            shield(optimizer, positions),
            find_boxes(model, wrt),
            box_l2=box_l2,
            step_scale=step_scale,
            min_size=min_size,
        ),
        keep_positions_inside(positions),
    )


def _check_min_size(min_size: float | jax.Array, model: nnx.Module) -> None:
    """Checks that no layer computes with larger boxes than the optimizer enforces."""
    if is_traced(min_size):
        return
    enforced = float(min_size)
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, BoxConv) and enforced < layer.min_size:
            raise ValueError(
                f"min_size must be at least that of the layers, got {min_size}; the BoxConv at "
                f"{'.'.join(map(str, path)) or 'the top'} was made with min_size={layer.min_size}."
            )
