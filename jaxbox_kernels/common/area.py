"""The extents and areas of boxes, by which every backend divides."""

import jax.numpy as jnp
from jax import Array


def scales(theta: Array, *, normalize: bool) -> tuple[Array, Array]:
    """The factors along x and along y that turn integrals over boxes into outputs.

    There is one factor for each axis because the area of a tiny or a huge box may lie outside the
    range of float32.

    Args:
      theta: boxes `(..., 4)`.
      normalize: whether outputs are means, and the factors the inverse extents of the boxes. If
        not, the factors are 1, or NaN where a bound is NaN.

    Returns:
      The factors along x and those along y, `(...)` each.
    """
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    if normalize:
        return 1 / (x_max - x_min), 1 / (y_max - y_min)

    def one(low: Array, high: Array) -> Array:
        return jnp.where(jnp.isnan(low) | jnp.isnan(high), jnp.nan, jnp.ones_like(low))

    return one(x_min, x_max), one(y_min, y_max)


def grad_through_area(theta: Array, inner: Array) -> Array:
    """The part of the gradient with respect to `theta` that comes from dividing by the area.

    Args:
      theta: boxes `(..., 4)`.
      inner: the inner product `(...)` of each box's output with the gradient with respect to it.

    Returns:
      `(..., 4)`, the first term of the paper's equation 6.
    """
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    grad_x, grad_y = inner / (x_max - x_min), inner / (y_max - y_min)
    return jnp.stack([grad_x, -grad_x, grad_y, -grad_y], axis=-1)
