"""The textbook form of box convolution, which the library's is compared with."""

import jax
import jax.numpy as jnp
from jax import Array, lax


def textbook(x: Array, theta: Array) -> Array:
    """Box averages by prefix sums over rows and columns.

    Args:
      x: the images, `(B, C, H, W)`.
      theta: the boxes, `(C, F, 4)` in pixels.

    Returns:
      The averages, `(B, C * F, H, W)`.
    """
    sums = jnp.cumsum(jnp.cumsum(x.astype(jnp.float32), axis=-2), axis=-1)
    sums = jnp.pad(sums, ((0, 0), (0, 0), (1, 0), (1, 0)))
    of_boxes = jax.vmap(_average, (None, 0))
    of_channels = jax.vmap(of_boxes)
    return lax.collapse(jax.vmap(of_channels, (0, None))(sums, theta), 1, 3).astype(x.dtype)


def _average(sums: Array, box: Array) -> Array:
    """Averages over one box at every pixel, from prefix sums `(H + 1, W + 1)`."""
    x_min, x_max, y_min, y_max = box
    rows = _sums_before(sums, y_max, 0) - _sums_before(sums, y_min, 0)
    integral = _sums_before(rows, x_max, 1) - _sums_before(rows, x_min, 1)
    return integral / ((x_max - x_min) * (y_max - y_min))


def _sums_before(sums: Array, bound: Array, axis: int) -> Array:
    """Prefix sums up to a bound of the box at every pixel, linear inside the pixel that it cuts."""
    size = sums.shape[axis] - 1
    position = jnp.clip(jnp.arange(size, dtype=bound.dtype) + (bound + 0.5), 0, size)
    whole = jnp.minimum(jnp.floor(position), size - 1)
    part = jnp.expand_dims(position - whole, 1 - axis)
    index = whole.astype(jnp.int32)
    below, above = (jnp.take(sums, i, axis, mode="clip") for i in (index, index + 1))
    return (1 - part) * below + part * above
