"""Parameters of layers that a transformation has stacked."""

import itertools
from collections.abc import Sequence

__all__ = ["added_axes", "last_axis_of_size"]


def added_axes(shape: Sequence[int], layer_shape: Sequence[int]) -> tuple[int, ...]:
    """Finds the axes that stacking has added to a parameter.

    `nnx.vmap` and `nnx.scan`, and Linen's, put them where their arguments say. If several choices
    fit, the added axes are the first ones that do; if none fits, they are the leading ones, as by
    default.

    Args:
      shape: The shape of the stacked parameter.
      layer_shape: The shape of the parameter in a single layer.

    Returns:
      The added axes, in increasing order.

    Example:
      >>> from jaxbox.layers.stacking import added_axes
      >>> added_axes((2, 7, 5, 3), layer_shape=(2, 5, 3)), added_axes((5, 3), layer_shape=(5, 3))
      ((1,), ())
    """
    axes = range(len(shape))
    number = max(len(shape) - len(layer_shape), 0)

    def fits(added: tuple[int, ...]) -> bool:
        return tuple(shape[axis] for axis in axes if axis not in added) == tuple(layer_shape)

    return next(filter(fits, itertools.combinations(axes, number)), tuple(range(number)))


def last_axis_of_size(shape: Sequence[int], size: int, *, followed_by: int = 0) -> int:
    """Finds an axis of a stacked parameter by its size.

    Args:
      shape: The shape of the parameter.
      size: The size of the axis.
      followed_by: The number of axes that follow it in a single layer.

    Returns:
      The last axis of that size that at least `followed_by` axes follow, counted from the end. If
      there is none, the axis that it is in a single layer.

    Example:
      >>> from jaxbox.layers.stacking import last_axis_of_size
      >>> last_axis_of_size((16, 2, 4), 4), last_axis_of_size((16, 2, 4, 7), 4)
      (-1, -2)
    """
    in_a_layer = -1 - followed_by
    axes = range(in_a_layer, -len(shape) - 1, -1)
    return next((axis for axis in axes if shape[axis] == size), in_a_layer)
