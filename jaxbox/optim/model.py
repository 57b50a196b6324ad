"""Boxes and positions of a whole NNX model in an optimizer."""

import optax
from flax import nnx

from jaxbox.optim.boxes import constrain_boxes
from jaxbox.optim.marks import find_boxes, find_positions
from jaxbox.optim.positions import keep_positions_inside

__all__ = ["constrain"]


def constrain(
    optimizer: optax.GradientTransformation,
    model: nnx.Module,
    *,
    box_l2: float = 0.0,
    step_scale: float = 1.0,
    min_size: float = 1.0,
    wrt: nnx.filterlib.Filter = nnx.Param,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer such that a model's boxes stay valid and its taps inside their kernels.

    It is :func:`constrain_boxes` followed by :func:`keep_positions_inside`, for the boxes and
    positions that the model's layers have marked.

    Args:
      optimizer: An optax optimizer for all the parameters.
      model: An NNX model. If it has neither boxes nor positions, the updates are `optimizer`'s.
      box_l2: The strength of the boxes' L2 penalty, as in :func:`constrain_boxes`.
      step_scale: The factor of the boxes' steps, as in :func:`steps_in_pixels`.
      min_size: The least width and height of a box, in pixels.
      wrt: The filter that selects the parameters, the same as for `nnx.Optimizer`.

    Returns:
      A `GradientTransformationExtraArgs` for `nnx.Optimizer(model, ..., wrt=wrt)`, or for
      `nnx.state(model, wrt)` with or without Variables as its leaves.

    Raises:
      ValueError: A number is out of range.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> tx = optim.constrain(optax.adam(1e-3), model, box_l2=1e-8)
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    """
    return optax.chain(
        constrain_boxes(
            optimizer,
            find_boxes(model, wrt),
            box_l2=box_l2,
            step_scale=step_scale,
            min_size=min_size,
        ),
        keep_positions_inside(find_positions(model, wrt)),
    )
