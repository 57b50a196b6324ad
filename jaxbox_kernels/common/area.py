"""The division by a box's area, which every implementation shares."""

import jax.numpy as jnp
from jax import Array


def area(theta: Array) -> Array:
    """Areas of boxes `(..., 4)`, in square pixels: the full area, inside the image or not."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return (x_max - x_min) * (y_max - y_min)


def scale(theta: Array, *, normalize: bool) -> Array:
    """What each box's integral is multiplied by, `(C, F)`."""
    return 1 / area(theta) if normalize else jnp.ones(theta.shape[:-1], theta.dtype)


def gradient_through_area(theta: Array, inner: Array) -> Array:
    """The part of the gradient by `theta` that comes from dividing by the area.

    `inner` `(...)` is the inner product of each box's output with the gradient by it (the first
    term of the paper's equation 6).
    """
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    by_x, by_y = inner / (x_max - x_min), inner / (y_max - y_min)
    return jnp.stack([by_x, -by_x, by_y, -by_y], axis=-1)
