"""Fixed-point numbers, whose sums and differences are exact: whole numbers of steps."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxbox_kernels.common import sizes, xla_hints

# float64 holds whole numbers of up to 53 bits. CPUs without 64-bit integer vectors have float64
# vectors.
_BITS = 52


# The range of units, within which float32 holds them and their inverses.
_SMALLEST_UNIT, _LARGEST_UNIT = 2.0**-120, 2.0**120


class FixedPoint(NamedTuple):
    """Planes in fixed point, and their prefix sums likewise.

    Attributes:
      numbers: `(P, ..., H, W)`, whole numbers in float64.
      step: what the numbers are multiples of, `(P, ..., 1, 1)`, float64.
      unit: about the largest magnitude, `(P, ..., 1, 1)`, float64. In multiples of it, what is
        computed from the planes is neither too large nor too small for float32.
    """

    numbers: Array
    step: Array
    unit: Array


def quantize(x: Array, terms: int) -> FixedPoint:
    """Rounds planes to fixed point.

    Must be called, and its results used, where 64-bit dtypes are enabled.

    Args:
      x: finite planes `(P, ..., H, W)`; all that belong to one index of the first axis have the
        same step.
      terms: the number of pixels of which sums must be exact.
    """
    largest = jnp.max(jnp.max(jnp.abs(x), -2), tuple(range(1, x.ndim - 1)))
    largest = jnp.where(largest > 0, largest.astype(jnp.float64), 1)
    largest = largest.reshape(-1, *[1] * (x.ndim - 1))
    steps = _steps(terms)
    unit = jnp.clip(largest, _SMALLEST_UNIT, _LARGEST_UNIT)
    inverse, step, unit = xla_hints.compute_once((steps / largest, largest / steps, unit))
    return FixedPoint(jnp.round(x.astype(jnp.float64) * inverse), step, unit)


def _steps(terms: int) -> float | Array:
    """The largest power of two of which `terms` many numbers have a sum of at most `_BITS` bits."""
    if sizes.are_known(terms):
        return 2.0 ** (_BITS - math.ceil(math.log2(terms)))
    # A symbolic size has no logarithm, but the number of its bits is known when the program runs.
    bits = 64 - lax.clz(jnp.asarray(terms - 1, jnp.int64))
    powers = 2.0 ** (_BITS - np.arange(65))
    return jnp.take(jnp.asarray(powers), bits, mode="clip")


def in_units(x: Array, unit: Array) -> Array:
    """Divides planes by a unit of `FixedPoint`, in their own dtype."""
    return x * xla_hints.compute_once((1 / unit).astype(x.dtype))
