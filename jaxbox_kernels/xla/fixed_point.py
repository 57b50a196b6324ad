"""Fixed-point numbers, whose sums and differences are exact: whole numbers of steps."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxbox_kernels.common import xla_hints


class FixedPoint(NamedTuple):
    """Planes in fixed point, and their prefix sums likewise.

    Attributes:
      numbers: `(..., H, W)`, whole numbers: float64, which adds up to 53 bits exactly and is
        computed in vectors on every CPU, or int64 for what was float64.
      step: what the numbers are multiples of, `(..., 1, 1)`.
    """

    numbers: Array
    step: Array


def quantize(x: Array, terms: int) -> FixedPoint:
    """Rounds planes to fixed point.

    Must be called, and its results used, where 64-bit dtypes are enabled.

    Args:
      x: planes `(..., H, W)`, finite.
      terms: the number of pixels of which sums must be exact.
    """
    bits = 62 if x.dtype == jnp.float64 else 52
    largest = jnp.max(jnp.max(jnp.abs(x), -2), -1)[..., None, None].astype(jnp.float64)
    step = jnp.where(largest > 0, largest, 1) * 2.0 ** -(bits - math.ceil(math.log2(terms)))
    step = xla_hints.compute_once(step)
    numbers = jnp.round(x.astype(jnp.float64) * (1 / step))
    return FixedPoint(numbers.astype(jnp.int64) if x.dtype == jnp.float64 else numbers, step)
