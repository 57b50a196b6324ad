"""Sums of float32 numbers that keep about 48 bits, without 64-bit arithmetic.

A sum is held as two float32 numbers: what a float32 sum would be, and the rounding errors that it
has made, which Knuth's two-sum algorithm finds exactly. So a number that is added and later
subtracted leaves almost nothing behind, however large it is.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxbox_kernels.mosaic_gpu import lanes


class Sum(NamedTuple):
    """A sum.

    Attributes:
      rounded: the sum as float32 arithmetic gives it.
      errors: the sum of the rounding errors in `rounded`.
    """

    rounded: Array
    errors: Array

    @property
    def value(self) -> Array:
        """The sum as one float32 number."""
        return self.rounded + self.errors


def zeros() -> Sum:
    """A sum of 0 for each lane."""
    return Sum(lanes.zeros(), lanes.zeros())


def of_number(number: Array) -> Sum:
    """A sum of a scalar, for each lane."""
    return Sum(jnp.broadcast_to(number, lanes.LANES), lanes.zeros())


def add(total: Sum, value: Array) -> Sum:
    """Adds a number to a sum."""
    rounded, error = _two_sum(total.rounded, value)
    return Sum(rounded, total.errors + error)


def add_difference(total: Sum, positive: Array, negative: Array) -> Sum:
    """Adds one number to a sum and subtracts another; equal numbers leave it as it was."""
    difference, error = _two_sum(positive, -negative)
    rounded, added_error = _two_sum(total.rounded, difference)
    return Sum(rounded, total.errors + (error + added_error))


def merge(first: Sum, second: Sum) -> Sum:
    """Adds up two sums."""
    rounded, error = _two_sum(first.rounded, second.rounded)
    return Sum(rounded, (first.errors + second.errors) + error)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum of two numbers, and its rounding error, which is a float32 number too."""
    rounded = a + b
    seen_b = rounded - a
    return rounded, (a - (rounded - seen_b)) + (b - seen_b)
