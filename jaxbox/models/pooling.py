"""2x2 max pooling that also returns the position of each maximum, and max unpooling."""

import jax
import jax.numpy as jnp

__all__ = ["max_pool", "max_unpool"]


def max_pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum of each 2x2 cell and its position in the cell.

    Args:
      x: Features `(..., H, W, C)` of even height and width.

    Returns:
      The maxima, `(..., H/2, W/2, C)`, and their positions, int8 of the same shape: 0 to 3 from
      left to right and top to bottom. Of equal values the first is the maximum, and gets the
      gradient. A NaN is the maximum of its cell, the last one if there are several, as in PyTorch.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.models.pooling import max_pool
      >>> pooled, positions = max_pool(jnp.array([[[1.0], [5.0]], [[5.0], [2.0]]]))
      >>> pooled.item(), positions.item()
      (5.0, 1)
    """
    first, *rest = _split_cells(x)
    largest, positions = first, jnp.zeros(first.shape, jnp.int8)
    for index, pixel in enumerate(rest, start=1):
        larger = (pixel > largest) | jnp.isnan(pixel)
        largest = jnp.where(larger, pixel, largest)
        positions = jnp.where(larger, jnp.int8(index), positions)
    return largest, positions


def max_unpool(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Puts each value at the position of its cell's maximum, and 0 elsewhere.

    Args:
      x: Features `(..., H, W, C)`.
      positions: The positions that `max_pool` returned, of the shape of `x`.

    Returns:
      Features of shape `(..., 2H, 2W, C)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.models.pooling import max_unpool
      >>> max_unpool(jnp.array([[[5.0]]]), jnp.array([[[2]]], jnp.int8))[..., 0]
      Array([[0., 0.],
             [5., 0.]], dtype=float32)
    """
    zero = jnp.zeros_like(x)
    return _join_cells(tuple(jnp.where(positions == index, x, zero) for index in range(4)))


def _split_cells(x: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the four pixels of each 2x2 cell, each `(..., H/2, W/2, C)`."""
    *batch, H, W, C = x.shape
    cells = x.reshape(*batch, H // 2, 2, W // 2, 2, C)
    return tuple(cells[..., :, row, :, column, :] for row in (0, 1) for column in (0, 1))


def _join_cells(pixels: tuple[jax.Array, ...]) -> jax.Array:
    """Inverts `_split_cells`."""
    *batch, H, W, C = pixels[0].shape
    rows = [jnp.stack(pixels[start : start + 2], axis=-2) for start in (0, 2)]
    return jnp.stack(rows, axis=-4).reshape(*batch, 2 * H, 2 * W, C)
