"""The length that a box and an interval of pixels have in common, along one axis."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_jvp
def overlap(low: Array, high: Array, start: Array, end: Array) -> Array:
    """The signed length of `[low, high]` inside `[start, end]`.

    An integral from a high to a low bound is negative. The derivatives with respect to bounds that
    lie on `start` or `end` are those in the direction in which the box grows, where JAX's
    derivative of `clip` is another. With respect to `start` and `end` there is none.

    Args:
      low: the low bounds of boxes.
      high: the high bounds, of a shape that broadcasts with that of `low`.
      start: the start of the interval; may be infinite.
      end: its end; may be infinite.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.overlap import overlap
      >>> box_and_pixel = jnp.array([-0.25, 9.0, -0.5, 0.5])
      >>> overlap(*box_and_pixel).item()
      0.75
      >>> [slope.item() for slope in jax.grad(overlap, (0, 1))(*box_and_pixel)]
      [-1.0, 0.0]
    """
    return jnp.clip(high, start, end) - jnp.clip(low, start, end)


@overlap.defjvp
def _overlap_jvp(
    primals: tuple[Array, Array, Array, Array], tangents: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array]:
    d_low, d_high = slopes(*primals)
    return overlap(*primals), d_low * tangents[0] + d_high * tangents[1]


def slopes(low: Array, high: Array, start: Array, end: Array) -> tuple[Array, Array]:
    """The derivatives of `overlap` with respect to the bounds."""
    d_low = -((start < low) & (low <= end)).astype(low.dtype)
    d_high = ((start <= high) & (high < end)).astype(high.dtype)
    return d_low, d_high
