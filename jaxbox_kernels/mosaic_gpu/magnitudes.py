"""The magnitudes of rows and planes, and marks of those that hold NaN or infinities.

Kernels measure planes in powers of two near their largest finite magnitudes. They are found row by
row, by what reads the rows anyway; a kernel that needs that of a plane looks through its rows.

A magnitude is an int32: the bits of the largest finite one as a float32 number, or as much of them
as its exponent, and the sign bit if the row holds anything that is not finite.
"""

from collections.abc import Callable, Sequence
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


def size(rows: int) -> int:
    """The number of elements that the magnitudes of so many rows take."""
    return max(rows, LANES)


def of_rows(rows: Array) -> Array:
    """Finds the magnitudes of rows `(rows, width)`, in one pass over them: `(size(rows),)`."""
    values = rows.astype(jnp.float32)
    bits = lax.bitcast_convert_type(jnp.abs(values), jnp.int32)

    def larger(first: Array, second: Array) -> Array:
        largest = jnp.maximum(first & _SIZE, second & _SIZE)
        return largest | ((first | second) & _MARK)

    marked = jnp.where(bits < _EXPONENT, bits, _MARK)
    found = lax.reduce(marked, jnp.int32(0), larger, (1,))
    missing = size(len(rows)) - len(rows)
    return jnp.pad(found, (0, missing)) if missing else found


def of_lanes(strips: int, readers: Sequence[Callable[[Array], Array]]) -> list[tuple[Array, Array]]:
    """Finds the magnitudes of rows in a kernel.

    Args:
      strips: the number of strips of a row.
      readers: for each row, what reads one of its strips.

    Returns:
      For each row the magnitude, and the exponent of the row's unit, scalars.
    """

    def largest(read: Callable[[Array], Array], limit: int) -> Array:
        def compare(strip: Array, most: Array) -> Array:
            bits = lax.bitcast_convert_type(jnp.abs(read(strip)), jnp.int32)
            below = bits if limit == _SIZE else jnp.where(bits < limit, bits, jnp.zeros_like(bits))
            return jnp.maximum(most, below)

        found: Array = lax.fori_loop(0, strips, compare, lanes.zeros(jnp.int32))
        return found

    def find(read: Callable[[Array], Array], of_all: Array) -> tuple[Array, Array]:
        all_finite = of_all < _EXPONENT
        of_finite = lax.cond(all_finite, lambda: of_all, lambda: jnp.max(largest(read, _EXPONENT)))
        exponent = jnp.maximum(lax.shift_right_logical(of_finite, jnp.int32(23)), 1)
        return jnp.where(all_finite, of_finite, of_finite | _MARK), exponent

    # All rows are read before the first barrier of a maximum over lanes.
    of_all = [largest(read, _SIZE) for read in readers]
    return [find(read, jnp.max(most)) for read, most in zip(readers, of_all, strict=True)]


def of_plane(rows: Array, first: Array, number: int) -> OfPlane:
    """Finds the magnitude of neighbouring rows in a kernel.

    Args:
      rows: a reference to the magnitudes of all rows.
      first: the first row.
      number: the number of rows.
    """

    def compare(strip: Array | int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last strip may hold rows of the strip before it, so that it lies within the array.
        begin = jnp.minimum(first + strip * LANES, rows.shape[0] - LANES)
        row = begin + lanes.index()
        inside = (row >= first) & (row < first + number)
        magnitude = jnp.where(
            inside, lanes.strip(rows[pl.ds(begin, LANES)]), lanes.zeros(jnp.int32)
        )
        largest, smallest = found
        return jnp.maximum(largest, magnitude & _EXPONENT), jnp.minimum(smallest, magnitude)

    nothing = lanes.zeros(jnp.int32)
    found = lax.fori_loop(0, -(-number // LANES), compare, (nothing, nothing))
    largest, smallest = jnp.max(found[0]), jnp.min(found[1])
    exponent = jnp.maximum(lax.shift_right_logical(largest, jnp.int32(23)), 1)
    return OfPlane(exponent, smallest >= 0)


def unit(magnitude: Array) -> Array:
    """The unit of a row, given its magnitude as a scalar, for each lane; 0 of a row of zeros."""
    bits = jnp.broadcast_to(magnitude, LANES) & _EXPONENT
    return lax.bitcast_convert_type(bits, jnp.float32)
