"""Prefix sums of planes along one axis, in forms that XLA on CPU vectorizes.

`jnp.cumsum` computes the same, several times more slowly there.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxbox_kernels.common import xla_hints
from jaxbox_kernels.common.contraction import contract
from jaxbox_kernels.common.workarounds import Workaround, enabled

# Prefix sums over columns multiply blocks of this many pixels by a triangular matrix.
_BLOCK = 16
# Prefix sums over rows add windows of this many rows, then windows of those sums.
_WINDOW = 8


def over_rows(x: Array) -> Array:
    """The sum of each row and all rows above it; `x` is `(..., H, W)`."""
    *planes, height, width = x.shape
    if not enabled(Workaround.BLOCKED_PREFIX_SUMS):
        return jnp.cumsum(x, axis=-2)
    if height <= _WINDOW:
        return _sum_windows(x, height)
    windows = -(-height // _WINDOW)
    if height % _WINDOW:
        x = _pad(x, x.ndim - 2, 0, windows * _WINDOW - height)
    within = _sum_windows(x.reshape(*planes, windows, _WINDOW, width), _WINDOW)
    above = _pad(over_rows(within[..., -1, :]), x.ndim - 2, 1, -1)
    summed = (within + above[..., None, :]).reshape(*planes, windows * _WINDOW, width)
    return summed[..., :height, :]


def _sum_windows(x: Array, window: int) -> Array:
    """The sum of each row and the `window - 1` rows before it."""
    x = xla_hints.compute_once(x)
    above = (_pad(x, x.ndim - 2, rows, -rows) for rows in range(1, window))
    return xla_hints.compute_once(functools.reduce(jnp.add, above, x))


def over_columns(x: Array) -> Array:
    """The sum of each pixel and all pixels before it in its row; `x` is `(..., H, W)`."""
    if not enabled(Workaround.BLOCKED_PREFIX_SUMS):
        return jnp.cumsum(x, axis=-1)
    within, totals = _sum_blocks(x)
    blocks = totals.shape[-1]
    before = _multiply(totals, np.triu(np.ones((blocks, blocks)), 1))
    sums = within + before[..., None]
    return lax.collapse(sums, sums.ndim - 2)[..., : x.shape[-1]]


def _sum_blocks(x: Array) -> tuple[Array, Array]:
    """Prefix sums within each block of columns, and the sum of each block, `(..., blocks)`."""
    *planes, width = x.shape
    blocks = -(-width // _BLOCK)
    if width % _BLOCK:
        x = _pad(x, x.ndim - 1, 0, blocks * _BLOCK - width)
    x = x.reshape(*planes, blocks, _BLOCK)
    if enabled(Workaround.BLOCKED_PREFIX_SUMS):
        within = _multiply(x, np.triu(np.ones((_BLOCK, _BLOCK))))
    else:
        within = jnp.cumsum(x, axis=-1)
    return within, xla_hints.compute_once(within[..., -1])


def _multiply(x: Array, matrix: np.ndarray) -> Array:
    axes = "abcdefgh"[: x.ndim - 1]
    product = contract(f"{axes}y,yz->{axes}z", x, jnp.asarray(matrix, x.dtype))
    return xla_hints.compute_once(product)


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    """Pads with zeros along one axis; a negative amount crops."""
    amounts = [(0, 0, 0)] * x.ndim
    amounts[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)
