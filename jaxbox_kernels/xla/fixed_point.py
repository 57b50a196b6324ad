"""Fixed-point numbers, whose sums and differences are exact: integers times a step."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbox_kernels.common import xla_hints


class FixedPoint(NamedTuple):
    """Numbers in fixed point.

    Attributes:
      numbers: int32, or int64 for what was float64.
      step: what the numbers are multiples of; it broadcasts with them.
    """

    numbers: Array
    step: Array


def quantize(x: Array, largest: Array) -> FixedPoint:
    """Rounds numbers to fixed point, in steps so fine that `2 * largest` just does not overflow."""
    integer, bits = (jnp.int64, 62) if x.dtype == jnp.float64 else (jnp.int32, 30)
    smallest = np.finfo(x.dtype).tiny * 2.0**bits
    step = xla_hints.compute_once(jnp.maximum(largest * 1.001, smallest) * 2.0**-bits)
    return FixedPoint(jnp.round(x * (1 / step)).astype(integer), step)
