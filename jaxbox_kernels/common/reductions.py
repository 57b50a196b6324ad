"""Sums over the pixels of planes, in a form that XLA on CPU vectorizes."""

import functools

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common import sizes, xla_hints
from jaxbox_kernels.common.workarounds import Workaround, enabled

# The largest number of neighbouring rows that are added up.
_MOST_ROWS = 8


def add_neighbouring_rows(values: Array, axis: int) -> Array:
    """Adds up neighbouring rows, so that the sum over all rows has fewer rows left to add.

    XLA vectorizes a loop that makes values and adds up a fixed number of rows of them, but not one
    that makes values and adds up all pixels.

    Args:
      values: planes.
      axis: the axis of the rows.
    """
    height = values.shape[axis]
    if not sizes.are_known(height) or not enabled(Workaround.NEIGHBOURING_ROWS):
        return values
    window = max(rows for rows in range(1, _MOST_ROWS + 1) if height % rows == 0)
    windows = (height // window, window)
    rows = values.reshape(*values.shape[:axis], *windows, *values.shape[axis + 1 :])
    added = (lax.index_in_dim(rows, row, axis + 1, keepdims=False) for row in range(window))
    return xla_hints.do_not_fuse(functools.reduce(jnp.add, added))
