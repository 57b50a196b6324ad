"""The areas of boxes, by which every backend divides."""

import jax.numpy as jnp
from jax import Array


def area(theta: Array) -> Array:
    """Areas of boxes `(..., 4)` in square pixels, including what lies outside the image."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return (x_max - x_min) * (y_max - y_min)


def scale(theta: Array, *, normalize: bool) -> Array:
    """The factors `(C, F)` that turn integrals over boxes `(C, F, 4)` into outputs."""
    return 1 / area(theta) if normalize else jnp.ones(theta.shape[:-1], theta.dtype)


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
