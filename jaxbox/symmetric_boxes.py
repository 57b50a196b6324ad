"""Boxes that are their own mirror images about the vertical axis, as three numbers.

The numbers are `(y_min, y_max, width)`, in pixels: a box reaches from `-width / 2` to `width / 2`
along the width of the image. Nothing in a street or a room tells left from right, and boxes that
were trained freely become ever more symmetric.

Source: Burkov & Lempitsky 2018, section 4, "Box statistics", which proposes the three numbers.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxbox import boxes
from jaxbox.arguments import to_array

__all__ = ["initializer", "project", "round_to_pixels", "to_boxes"]


def to_boxes(symmetric: ArrayLike) -> jax.Array:
    """Returns symmetric boxes as four numbers, for :func:`jaxbox.box_conv`.

    Args:
      symmetric: Symmetric boxes, `(..., 3)`, in pixels: `(y_min, y_max, width)`.

    Returns:
      The boxes, `(..., 4)`, in pixels: `(x_min, x_max, y_min, y_max)`.

    Raises:
      TypeError: `symmetric` is not floating.
      ValueError: Its last axis is not 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import symmetric_boxes
      >>> symmetric_boxes.to_boxes(jnp.array([-1.0, 4.0, 6.0])).tolist()
      [-3.0, 3.0, -1.0, 4.0]
    """
    y_min, y_max, width = jnp.moveaxis(_check(symmetric), -1, 0)
    half = 0.5 * width
    return jnp.stack([-half, half, y_min, y_max], axis=-1)


def initializer(window: Sequence[float]) -> Callable[..., jax.Array]:
    """Returns an initializer of symmetric boxes inside a window centred on the origin.

    Heights and vertical places are those of :func:`jaxbox.boxes.sample`; the width is that of a box
    whose centre is 0: uniform from 1 pixel to the window's width.

    Args:
      window: The size `(h, w)` in pixels of the feature map, each at least 1.

    Returns:
      A function of `(key, shape, dtype)`, with a shape that ends in 3.

    Raises:
      ValueError: `window` is not two finite numbers of at least one pixel; when the initializer is
        called, its `shape` does not end in 3.

    Example:
      >>> import jax
      >>> from jaxbox import symmetric_boxes
      >>> symmetric_boxes.initializer((64, 128))(jax.random.key(0), (16, 4, 3)).shape
      (16, 4, 3)
    """
    h, w = _check_window(window)
    if min(h, w) < 1:
        raise ValueError(f"window must be at least one pixel high and wide, got {(h, w)}.")

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        shape = boxes.check_shape(shape)
        if not shape or shape[-1] != 3:
            raise ValueError(f"shape must end in an axis of 3, got {shape}.")
        along_y, along_x = jax.random.split(key)
        vertical = boxes.sample(along_y, shape[:-1], (h,), dtype)
        width = jax.random.uniform(along_x, (*shape[:-1], 1), dtype, 1.0, w)
        return jnp.concatenate([vertical, width], axis=-1)

    return init


def project(
    symmetric: ArrayLike,
    window: Sequence[float] | None = None,
    *,
    min_size: float | jax.Array = 1.0,
) -> jax.Array:
    """Moves each symmetric box to the nearest valid one; valid boxes are returned bit for bit.

    A box is valid if it is at least `min_size` wide and high and lies in `[-w, w] x [-h, h]`.

    Args:
      symmetric: Symmetric boxes, `(..., 3)`, in pixels.
      window: The size `(h, w)` in pixels of the feature map, or `None` to enforce only the minimum
        size.
      min_size: The least width and height of a box, in pixels; may be traced.

    Returns:
      The valid boxes, of the same shape and dtype.

    Raises:
      TypeError: `symmetric` is not floating, or `min_size` is not a real number.
      ValueError: The last axis is not 3; `min_size` is not positive and finite; `window` is not two
        positive finite numbers, or a box of `min_size` does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import symmetric_boxes
      >>> symmetric_boxes.project(jnp.array([-9.0, 2.0, 0.5]), window=(8, 8)).tolist()
      [-8.0, 2.0, 1.0]
    """
    symmetric = _check(symmetric)
    size = None if window is None else _check_window(window)
    boxes.check_min_size(min_size, size)
    vertical = boxes.project(symmetric[..., :2], size and size[:1], min_size=min_size)
    least = jnp.asarray(min_size, symmetric.dtype)
    width = jnp.maximum(symmetric[..., 2:], least)
    if size is not None:
        width = jnp.minimum(width, 2 * size[1])
    return jnp.concatenate([vertical, width], axis=-1)


def round_to_pixels(symmetric: ArrayLike, *, rounding: boxes.Rounding = "nearest") -> jax.Array:
    """Rounds each symmetric box to one that covers whole pixels, an odd number of them in a row.

    Bounds along the height are rounded as :func:`jaxbox.boxes.round_to_pixels` does. So is the
    upper bound of the width, and the lower one becomes its mirror image: a box 4 pixels wide
    becomes 5 pixels wide, since 4 whole pixels do not lie symmetrically about the middle of one.

    Args:
      symmetric: Symmetric boxes, `(..., 3)`, in pixels.
      rounding: `"nearest"` or `"inward"`.

    Returns:
      Symmetric boxes of the same shape and dtype whose bounds are half-integers.

    Raises:
      TypeError: `symmetric` is not floating.
      ValueError: The last axis is not 3, or `rounding` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import symmetric_boxes
      >>> symmetric_boxes.round_to_pixels(jnp.array([-1.3, 0.6, 4.0])).tolist()
      [-1.5, 0.5, 5.0]
    """
    symmetric = _check(symmetric)
    vertical = boxes.round_to_pixels(symmetric[..., :2], rounding=rounding)
    half = 0.5 * symmetric[..., 2:]
    horizontal = jnp.concatenate([-half, half], axis=-1)
    width = 2 * boxes.round_to_pixels(horizontal, rounding=rounding)[..., 1:]
    return jnp.concatenate([vertical, width], axis=-1)


def _check(symmetric: ArrayLike) -> jax.Array:
    array = to_array("symmetric", symmetric)
    if not array.ndim or array.shape[-1] != 3:
        raise ValueError(
            f"symmetric must end in an axis of 3 (y_min, y_max, width), got shape {array.shape}."
        )
    return array


def _check_window(window: Sequence[float]) -> boxes.Window:
    size = boxes.check_window(window)
    if len(size) != 2:
        raise ValueError(f"window of symmetric boxes must be (h, w), got {size}.")
    return size
