"""The magnitudes of rows and planes, and marks of those that hold NaN or infinities.

Kernels measure rows and planes in powers of two near their largest finite magnitudes. XLA finds
those of rows in one pass; a kernel that needs that of a plane looks through its rows.

A magnitude is an int32: the bits of the largest finite one as a float32 number, and the sign bit if
the row holds anything that is not finite.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxbox_kernels.common import powers_of_two
from jaxbox_kernels.mosaic_gpu import lanes
from jaxbox_kernels.mosaic_gpu.lanes import LANES

_MARK = -(2**31)
_SIZE = 2**31 - 1
_EXPONENT = 0x7F800000  # Also the bits of infinity: those of NaN are larger.


class MeasuredRows(NamedTuple):
    """The rows of all planes; in a kernel, references to them.

    Attributes:
      pixels: `(rows, padded(W))`.
      magnitudes: `(rows,)`, or more.
    """

    pixels: Array
    magnitudes: Array


class OfPlane(NamedTuple):
    """The magnitude of a plane, in a kernel; scalars.

    Attributes:
      exponent: the exponent of its unit, the largest power of two up to the magnitude.
      all_finite: whether it holds neither NaN nor infinities.
    """

    exponent: Array
    all_finite: Array

    @property
    def unit(self) -> Array:
        """The unit, for each lane."""
        return powers_of_two.power(jnp.broadcast_to(self.exponent, LANES))

    @property
    def inverse_unit(self) -> Array:
        """The inverse of the unit, for each lane; twice that for the largest exponent."""
        return powers_of_two.inverse(jnp.broadcast_to(self.exponent, LANES))


def measure(rows: Array) -> MeasuredRows:
    """Finds the magnitudes of rows `(rows, width)`, in one pass over them."""
    bits = lax.bitcast_convert_type(jnp.abs(rows.astype(jnp.float32)), jnp.int32)

    def larger(first: Array, second: Array) -> Array:
        largest = jnp.maximum(first & _SIZE, second & _SIZE)
        return largest | ((first | second) & _MARK)

    marked = jnp.where(bits < _EXPONENT, bits, _MARK)
    found = lax.reduce(marked, jnp.int32(0), larger, (1,))
    # Kernels read them by strips.
    missing = max(LANES - len(rows), 0)
    return MeasuredRows(rows, jnp.pad(found, (0, missing)) if missing else found)


def of_plane(rows: MeasuredRows, first: Array, number: int) -> OfPlane:
    """Finds the magnitude of neighbouring rows in a kernel.

    Args:
      rows: the rows of all planes.
      first: the first row.
      number: the number of rows.
    """

    def compare(strip: Array | int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last strip may hold rows of the strip before it, so that it lies within the array.
        begin = jnp.minimum(first + strip * LANES, rows.magnitudes.shape[0] - LANES)
        row = begin + lanes.index()
        inside = (row >= first) & (row < first + number)
        magnitude = jnp.where(
            inside, lanes.strip(rows.magnitudes[pl.ds(begin, LANES)]), lanes.zeros(jnp.int32)
        )
        largest, smallest = found
        return jnp.maximum(largest, magnitude & _EXPONENT), jnp.minimum(smallest, magnitude)

    nothing = lanes.zeros(jnp.int32)
    found = lax.fori_loop(0, -(-number // LANES), compare, (nothing, nothing))
    largest, smallest = jnp.max(found[0]), jnp.min(found[1])
    exponent = jnp.maximum(lax.shift_right_logical(largest, jnp.int32(23)), 1)
    return OfPlane(exponent, smallest >= 0)


def exponent(magnitude: Array) -> Array:
    """The exponent of a row's unit, given its magnitude as a scalar, for each lane."""
    bits = jnp.broadcast_to(magnitude, LANES) & _SIZE
    return jnp.maximum(lax.shift_right_logical(bits, jnp.full_like(bits, 23)), 1)


def unit(magnitude: Array) -> Array:
    """The unit of a row, given its magnitude as a scalar, for each lane; 0 of a row of zeros."""
    bits = jnp.broadcast_to(magnitude, LANES) & _EXPONENT
    return lax.bitcast_convert_type(bits, jnp.float32)
