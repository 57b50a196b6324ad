"""Outputs at some positions only: every `stride`-th row and column, from the first on."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

type Strides = tuple[int, int]
"""The steps between outputs along y and along x, in pixels."""


def output_size(size: tuple[int, int], strides: Strides) -> tuple[int, int]:
    """The number of rows and columns of outputs for an input of a size `(H, W)`."""
    (height, width), (along_y, along_x) = size, strides
    return -(-height // along_y), -(-width // along_x)


def positions(size: int, stride: int, dtype: DTypeLike = jnp.int32) -> Array:
    """The pixels at which there are outputs along an axis."""
    return jnp.arange(0, size, stride, dtype=dtype)


def spread_out(g: Array, strides: Strides, size: tuple[int, int]) -> Array:
    """Places outputs `(..., H', W')` where they were computed in an image of zeros, `(..., H, W)`.

    Args:
      g: the outputs.
      strides: the steps between them.
      size: `(H, W)`.
    """
    amounts = [(0, 0, 0)] * (g.ndim - 2)
    for pixels, outputs, stride in zip(size, g.shape[-2:], strides, strict=True):
        amounts.append((0, pixels - 1 - (outputs - 1) * stride, stride - 1))
    return lax.pad(g, jnp.zeros((), g.dtype), amounts)
