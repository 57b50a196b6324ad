"""Boxes as data: drawing, projecting, rounding and measuring them.

A box is four numbers `(x_min, x_max, y_min, y_max)` in pixels, relative to the pixel that the box
convolution computes; `x` runs along the width and `y` along the height. Pixel `j` covers
`[j - 1/2, j + 1/2]`. Arrays of boxes have these four numbers along their last axis, and any leading
axes. A window is `(h, w)`, the size in pixels of the feature map that the boxes are applied to.

Boxes of signals have two numbers, `(x_min, x_max)`, and a window `(l,)`; boxes of volumes have six,
`(x_min, x_max, y_min, y_max, z_min, z_max)`, and a window `(d, h, w)`. Windows are in the order of
the axes of a feature map, and boxes begin with its last axis.

Causal boxes see nothing after their output along the first axis of a feature map, which is time in
signals and videos: their upper bound there is at most 1/2, the end of the output's own pixel.
"""

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Final, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from jaxbox.arguments import (
    check_choice,
    check_count,
    check_dtype,
    check_flag,
    check_key,
    check_number,
    check_sequence,
    is_sequence,
    is_traced,
    to_array,
)

__all__ = [
    "Rounding",
    "Window",
    "area",
    "check_min_size",
    "check_shape",
    "check_theta",
    "check_window",
    "initializer",
    "project",
    "round_to_pixels",
    "sample",
]

type Window = tuple[float, ...]

Rounding = Literal["nearest", "inward"]
"""How boxes are rounded to whole pixels."""

# The paper's epsilon: no box is narrower or lower than one pixel.
_MIN_SIZE = 1.0
# Where causal boxes end at the latest: at the end of the output's own pixel.
_END = 0.5

# The numbers of dimensions that boxes may have.
_RANKS: Final = (1, 2, 3)

# The largest size of a window: larger ones, and sums of them, are no float32.
_LARGEST_SIZE: Final = 2.0**126
# The minimum size of the authors' code where it rounds boxes inward.
_MIN_INWARD_SIZE = 2.001


def check_window(window: Sequence[float]) -> Window:
    """Checks a window and returns it as a tuple.

    Args:
      window: The size `(h, w)` in pixels, `(l,)` for signals or `(d, h, w)` for volumes.

    Returns:
      The tuple of Python numbers.

    Raises:
      TypeError: `window` is not a sequence of real numbers.
      ValueError: `window` is not one to three positive finite numbers.

    Example:
      >>> from jaxbox import boxes
      >>> boxes.check_window([64, 128])
      (64, 128)
    """
    message = (
        "window must be two positive finite numbers (h, w) in pixels, or (l,) for signals or "
        f"(d, h, w) for volumes, got {window!r}."
    )
    if not is_sequence(window):
        raise TypeError(message)
    try:
        sizes = tuple(size.item() if hasattr(size, "item") else size for size in window)
    except (TypeError, ValueError):  # Arrays or traced numbers.
        raise TypeError(message) from None
    if any(isinstance(size, bool) or not isinstance(size, numbers.Real) for size in sizes):
        raise TypeError(message)
    if len(sizes) not in _RANKS or not all(0 < size <= _LARGEST_SIZE for size in sizes):
        raise ValueError(message)
    return sizes


def check_min_size(
    min_size: float | jax.Array, window: Sequence[float] | None = None, *, causal: bool = False
) -> None:
    """Checks that boxes of a minimum size can be valid.

    Args:
      min_size: The least width and height of a box, in pixels. Nothing is checked but its type if
        it is traced.
      window: The size `(h, w)` in pixels of the feature map, or `None` if there is no limit.
      causal: Whether boxes end at 1/2 along the first axis.

    Raises:
      TypeError: `min_size` is not a real number.
      ValueError: `min_size` is not positive and finite; `window` is not one to three positive
        finite numbers, or a box of `min_size` does not fit in `[-w, w] x [-h, h]`.

    Example:
      >>> from jaxbox import boxes
      >>> boxes.check_min_size(2.5, (64, 128))
    """
    check_number("min_size", min_size)
    if window is None:
        return
    window = check_window(window)
    lower, upper = _limits(window, causal=causal)
    room = min(high - low for low, high in zip(lower, upper, strict=True))
    if not is_traced(min_size) and room < float(min_size):
        allowed = "[-w, 1/2]" if causal else "[-w, w] x [-h, h]"
        raise ValueError(f"min_size must fit in {allowed}, got {min_size} for the window {window}.")


def sample(
    key: jax.Array,
    shape: Sequence[int],
    window: Sequence[float],
    dtype: DTypeLike = jnp.float32,
    *,
    causal: bool = False,
) -> jax.Array:
    """Draws random boxes that lie inside the window centred on the origin.

    Along each axis the centre is uniform, and the size is uniform such that the box stays inside
    `[-w/2, w/2]` (`[-h/2, h/2]`). No box is smaller than one pixel, the minimum that training
    enforces; the centre therefore keeps half a pixel from the border and is uniform in
    `[-(w-1)/2, (w-1)/2]`. The boxes are valid: `project(theta, window)` returns the same bits.

    Source: Burkov & Lempitsky 2018, section 3.1, "Initialization and regularization", which does
    not say what happens to a centre so near the border that no box of one pixel fits around it.

    Args:
      key: A random key.
      shape: The leading axes of the result, `(C, F)` for a layer.
      window: The size `(h, w)` in pixels of the feature map, each at least 1; `(l,)` for signals or
        `(d, h, w)` for volumes.
      dtype: The dtype of the boxes, a floating one.
      causal: Whether to draw causal boxes: along the first axis, in place of the window centred on
        the origin, in that of the same size which ends at 1/2.

    Returns:
      The boxes, `(*shape, 4)`, in pixels; `(*shape, 2)` or `(*shape, 6)` for other windows.

    Raises:
      TypeError: `dtype` is not floating, `key` is no random key, or `shape` is not made of
        integers.
      ValueError: `window` is not one to three finite numbers of at least one pixel, or an axis is
        negative.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes
      >>> theta = boxes.sample(jax.random.key(0), (16, 4), window=(64, 128))
      >>> theta.shape
      (16, 4, 4)
      >>> bool(jnp.all(jnp.abs(theta[..., :2]) <= 64)), bool(jnp.all(jnp.abs(theta[..., 2:]) <= 32))
      (True, True)
    """
    check_key("key", key)
    check_dtype("dtype", dtype)
    axes = check_shape(shape)
    window = check_window(window)
    if min(window) < _MIN_SIZE:
        raise ValueError(f"window must be at least one pixel high and wide, got {window}.")
    check_flag("causal", causal)
    theta: jax.Array = _sample(key, axes, window, jnp.dtype(dtype), causal=causal)
    return theta


# Compiled as a whole, because the operations one by one are slow when a network has many layers.
@functools.partial(jax.jit, static_argnames=("shape", "window", "dtype", "causal"))
def _sample(
    key: jax.Array, shape: tuple[int, ...], window: Window, dtype: jnp.dtype, *, causal: bool
) -> jax.Array:
    extent = _per_axis(window, (*shape, len(window)), dtype)
    centre_key, size_key = jax.random.split(key)
    spread = 0.5 * (extent - _MIN_SIZE)
    centre = spread * jax.random.uniform(centre_key, extent.shape, dtype, -1.0, 1.0)
    slack = 2.0 * (spread - jnp.abs(centre))
    half_size = 0.5 * (_MIN_SIZE + slack * jax.random.uniform(size_key, extent.shape, dtype))
    # Rounding can push a box that fits tightly over the border; projecting repairs that.
    halves = tuple(size / 2 for size in window)
    theta = project(_join(centre - half_size, centre + half_size), halves)
    if not causal:
        return theta
    # Along the first axis, whose bounds are a box's last two, the window ends at `_END`.
    shift = jnp.array([0.0] * (theta.shape[-1] - 2) + [_END - window[0] / 2] * 2, dtype)
    return project(theta + jnp.broadcast_to(shift, theta.shape), window, causal=True)


def initializer(window: Sequence[float], *, causal: bool = False) -> Callable[..., jax.Array]:
    """Returns :func:`sample` in the form of a Flax initializer.

    Args:
      window: The size `(h, w)` in pixels of the feature map, as for :func:`sample`.
      causal: Whether boxes are causal, as for :func:`sample`.

    Returns:
      A function of `(key, shape, dtype)`, with the shape of theta, which ends in 4, or in twice the
      length of the window.

    Raises:
      ValueError: `window` is not one to three positive finite numbers; when the initializer is
        called, its `shape` does not end in twice as many.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes
      >>> boxes.initializer((64, 128))(jax.random.key(0), (16, 4, 4), jnp.float32).shape
      (16, 4, 4)
    """
    window = check_window(window)

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        axes = check_shape(shape)
        _check_last_axis("shape", axes, window)
        return sample(key, axes[:-1], window, dtype, causal=causal)

    check_flag("causal", causal)
    return init


def project(
    theta: ArrayLike,
    window: Sequence[float] | None = None,
    *,
    min_size: float | jax.Array = _MIN_SIZE,
    causal: bool = False,
) -> jax.Array:
    """Moves each box to the nearest valid one; valid boxes are returned bit for bit.

    A box is valid if it is at least `min_size` wide and high and lies in `[-w, w] x [-h, h]`, in
    the arithmetic of its dtype. Along an axis where it is too short, or inverted, it grows to
    `min_size` about its midpoint. Bounds outside are then clipped, but never so far that the box
    would lose its minimum size again. This is the Euclidean projection; it is idempotent to the
    bit. NaNs stay NaN.

    Source: Burkov & Lempitsky 2018, section 3.1, "Initialization and regularization".

    Args:
      theta: Boxes, `(..., 4)`, in pixels; of two numbers for signals, of six for volumes.
      window: The size `(h, w)` in pixels of the feature map. `None` enforces the minimum size only.
      min_size: The least width and height of a box, in pixels. It may be traced, and is then
        taken to be valid.
      causal: Whether boxes have to be causal: along the first axis they then lie in `[-w, 1/2]`.

    Returns:
      The valid boxes, of the same shape and dtype.

    Raises:
      TypeError: `theta` is not floating, or `min_size` is not a real number.
      ValueError: The last axis of `theta` is not 4, 2 or 6, or does not fit `window`; `min_size`
        is not positive and finite; `window` is not one to three positive finite numbers, or a box
        of `min_size` does not fit in `[-w, w] x [-h, h]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes
      >>> theta = jnp.array([3.0, 3.0, -9.0, 20.0])
      >>> boxes.project(theta, window=(8, 8)).tolist()
      [2.5, 3.5, -8.0, 8.0]
      >>> boxes.project(theta).tolist()
      [2.5, 3.5, -9.0, 20.0]
      >>> boxes.project(jnp.array([-3.0, 2.0]), causal=True).tolist()
      [-3.0, 0.5]
    """
    theta = check_theta(theta)
    check_flag("causal", causal)
    check_min_size(min_size, window, causal=causal)
    size = (
        float(min_size) if isinstance(min_size, int | float) else jnp.asarray(min_size, theta.dtype)
    )
    low, high = _bounds(theta)
    short = high - low < size
    valid = ~short
    new_low = jnp.where(short, 0.5 * low + 0.5 * high - 0.5 * size, low)
    if window is None and not causal:
        new_high = jnp.where(short, _upper_bound(new_low, size), high)
    else:
        if window is not None:
            window = check_window(window)
            _check_last_axis("theta", theta.shape, window)
        axes = window or (math.inf,) * low.shape[-1]
        lower, upper = (
            _per_axis(limit, low.shape, theta.dtype) for limit in _limits(axes, causal=causal)
        )
        # Bounds that leave room for min_size.
        least_high, greatest_low = _upper_bound(lower, size), -_upper_bound(-upper, size)
        new_low = jnp.clip(new_low, lower, greatest_low)
        new_high = jnp.where(short, _upper_bound(new_low, size), high)
        new_high = jnp.clip(new_high, least_high, upper)
        valid &= (low >= lower) & (high <= upper)
    return _join(jnp.where(valid, low, new_low), jnp.where(valid, high, new_high))


def round_to_pixels(theta: ArrayLike, *, rounding: Rounding = "nearest") -> jax.Array:
    """Rounds each box to one that covers whole pixels.

    With `"nearest"`, bounds go to the nearest half-integer, where pixels end. A bound midway
    between two, which is a whole number, goes up, so that a box whose size is a whole number of
    pixels keeps it. A box smaller than a pixel first grows to one as in :func:`project`, so that
    every result covers at least one pixel.

    With `"inward"`, the result has the pixels that lie wholly inside the box, as in the authors'
    code. A box smaller than 2.001 pixels first grows to that size, which holds at least one pixel.

    Source: Burkov & Lempitsky 2018, section 4, which rounds trained boxes to the nearest integers.
    (The integers are those of the authors' coordinates, in which pixels end at integers.) The
    authors' code with `exact=False` for `"inward"`.

    Args:
      theta: Boxes, `(..., 4)`, in pixels; of two numbers for signals, of six for volumes.
      rounding: `"nearest"` or `"inward"`.

    Returns:
      Boxes of the same shape and dtype whose bounds are half-integers.

    Raises:
      TypeError: `theta` is not floating.
      ValueError: The last axis of `theta` is not 4, or `rounding` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes
      >>> boxes.round_to_pixels(jnp.array([-1.3, 0.6, 2.1, 2.2])).tolist()
      [-1.5, 0.5, 1.5, 2.5]
      >>> boxes.round_to_pixels(jnp.array([-1.3, 2.6, 2.1, 5.4]), rounding="inward").tolist()
      [-0.5, 2.5, 2.5, 4.5]
    """
    check_choice("rounding", rounding, get_args(Rounding))
    if rounding == "nearest":
        low, high = _bounds(project(theta))
        low, high = jnp.floor(low) + 0.5, jnp.floor(high) + 0.5
    else:
        low, high = _bounds(project(theta, min_size=_MIN_INWARD_SIZE))
        low, high = jnp.ceil(low + 0.5) - 0.5, jnp.floor(high - 0.5) + 0.5
    # Only arithmetic may have made a box less than one pixel large.
    return _join(low, jnp.maximum(high, low + 1))


def area(theta: ArrayLike) -> jax.Array:
    """Computes the areas of boxes; their lengths or volumes in other dimensions.

    Args:
      theta: Valid boxes, `(..., 4)`, in pixels; of two numbers for signals, of six for volumes.

    Returns:
      The areas, `(...)`, in square pixels.

    Raises:
      TypeError: `theta` is not floating.
      ValueError: The last axis of `theta` is not 4, 2 or 6.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes
      >>> boxes.area(jnp.array([-1.5, 0.5, 0.0, 4.0])).item()
      8.0
    """
    low, high = _bounds(check_theta(theta))
    return jnp.prod(high - low, axis=-1)


def _upper_bound(low: jax.Array, size: float | jax.Array) -> jax.Array:
    """Returns `low + size`, one float up if the size would otherwise round to less than `size`."""
    high = low + size
    # JAX before 0.12 cannot differentiate `nextafter`; its derivative is that of `high`.
    constant = lax.stop_gradient(high)
    above = jnp.nextafter(constant, jnp.inf) + (high - constant)
    return jnp.where(high - low < size, above, high)


def _limits(window: Window, *, causal: bool) -> tuple[Window, Window]:
    """The least and the greatest bounds of boxes along each axis of a window."""
    lower = tuple(-size for size in window)
    return lower, (_END, *window[1:]) if causal else window


def _per_axis(window: Window, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
    """Returns a window's sizes in the order in which boxes have their axes."""
    return jnp.broadcast_to(jnp.array(window[::-1], dtype), shape)


def _bounds(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits boxes into lower and upper bounds, `(..., 2)` each with the last axis `(x, y)`."""
    return theta[..., 0::2], theta[..., 1::2]


def _join(low: jax.Array, high: jax.Array) -> jax.Array:
    return lax.collapse(jnp.stack([low, high], axis=-1), low.ndim - 1)


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Checks the shape of an array and returns it as a tuple.

    Args:
      shape: The length of each axis, 0 or more.

    Returns:
      The tuple of Python integers.

    Raises:
      TypeError: `shape` is no sequence of integers.
      ValueError: A length is negative.

    Example:
      >>> from jaxbox import boxes
      >>> boxes.check_shape([16, 4, 4])
      (16, 4, 4)
    """
    check_sequence("shape", shape, "integers")
    return tuple(check_count("each axis of shape", size, minimum=0) for size in shape)


def check_theta(theta: ArrayLike) -> jax.Array:
    """Checks an array of boxes and returns it as one of JAX.

    Raises:
      TypeError: `theta` is not floating.
      ValueError: The last axis of `theta` is not 4, 2 or 6.

    Example:
      >>> from jaxbox import boxes
      >>> boxes.check_theta([-0.5, 0.5, -1.0, 1.0]).shape
      (4,)
    """
    theta = to_array("theta", theta)
    _check_last_axis("theta", theta.shape)
    return theta


def _check_last_axis(name: str, shape: tuple[int, ...], window: Window | None = None) -> None:
    """Checks the number of bounds of boxes, which a window decides if there is one."""
    ranks = _RANKS if window is None else (len(window),)
    if shape and shape[-1] in [2 * rank for rank in ranks]:
        return
    rank = 2 if window is None else len(window)  # Images are the usual case.
    bounds = ("x_min", "x_max", "y_min", "y_max", "z_min", "z_max")[: 2 * rank]
    if window is None:
        others = " (or of 2 for signals or 6 for volumes)"
    else:
        others = f" for window={window}"
    raise ValueError(
        f"{name} must end in an axis of {2 * rank} ({', '.join(bounds)}){others}, "
        f"got shape {shape}."
    )
