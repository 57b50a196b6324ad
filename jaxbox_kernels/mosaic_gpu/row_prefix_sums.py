"""Prefix sums over the columns of rows, which shifted reads turn into integrals along x.

The sums are in fixed point, where differences are exact. A sum has two int32 words: one of pixels
rounded to a coarse step, and one of the rest of each pixel, in fine steps. Differences are taken
word by word, so that no word carries into the other. Each row has steps of its own, small enough
that the sum of a row as bright everywhere as in its brightest pixel fits into a word: of a row of
1024 pixels, the fine step is `2**-40` of its largest magnitude, or less.

Only differences within a row matter. So the sums go on from row to row within a group of rows, and
may wrap around. A strip between two rows, filled with the last sum of the first row, is the right
margin of the one and the left margin of the other.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.common import powers_of_two
from jaxbox_kernels.mosaic_gpu import lanes, magnitudes
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# The number of rows of a group, which one program sums up side by side. With one row the barriers
# of a scan would have nothing else to wait for. 4 rows take 24 KiB of shared memory, and 9 such
# programs fit on a multiprocessor.
_ROWS = 4


class RowSums(NamedTuple):
    """Prefix sums over the columns of rows; in a kernel, references to them.

    Attributes:
      coarse: int32, flat, the coarse words of the sums; a row begins at `first`.
      fine: int32, the fine words, arranged alike. They count in `fine_step` of the coarse step.
      magnitudes: of the rows, see `magnitudes`.
    """

    coarse: Array
    fine: Array
    magnitudes: Array


class _Words(NamedTuple):
    """Numbers in fixed point, as a coarse and a fine word."""

    coarse: Array
    fine: Array


def _add(first: _Words, second: _Words) -> _Words:
    return _Words(first.coarse + second.coarse, first.fine + second.fine)


def _coarse_bits(width: int) -> int:
    """The number of coarse steps in a row's unit, as a power of two."""
    return 29 - (width - 1).bit_length()


def _fine_bits(width: int) -> int:
    """The number of fine steps in a coarse one, as a power of two."""
    return _coarse_bits(width) + 2  # What is left of a pixel is up to half a coarse step.


def fine_step(width: int) -> float:
    """The fine step of rows of a width, in coarse steps."""
    return float(2.0 ** -_fine_bits(width))


def first(row: Array, rows: int, width: int) -> Array:
    """The place at which the sums of a row begin, of so many rows in all."""
    group = lax.div(row, jnp.int32(_rows_of_group(rows)))
    return LANES + row * _row_and_margin(width) + group * LANES


def size(rows: int, width: int) -> int:
    """The number of elements that the sums of so many rows take, margins included."""
    return rows * _row_and_margin(width) + rows // _rows_of_group(rows) * LANES


def _row_and_margin(width: int) -> int:
    return lanes.padded(width) + LANES


def _rows_of_group(rows: int) -> int:
    return lanes.largest_divisor(rows, _ROWS)


def coarse_step(width: int) -> float:
    """The coarse step of rows of a width, in units of the row."""
    return float(2.0 ** -_coarse_bits(width))


def sum_rows(x: Array, width: int) -> RowSums:
    """Computes prefix sums over the columns of rows, in which what is not finite counts as 0.

    Args:
      x: the rows of all planes, `(planes * height, padded(width))`.
      width: the width of the image. What lies beyond it in rows must be 0.
    """
    number = x.shape[0]
    rows = _rows_of_group(number)
    words = jax.ShapeDtypeStruct((size(number, width),), jnp.int32)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows, width=width, rows=rows),
        out_type=(words, words, jax.ShapeDtypeStruct((magnitudes.size(number),), jnp.int32)),
        scratch_types=[lanes.scan_scratch(len(_Words._fields) * rows, jnp.int32)],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return RowSums(*kernel(x))


@dataclass(frozen=True)
class _Rows:
    """References to the rows of an image.

    Attributes:
      x: all rows, `(rows, padded(width))`.
      width: the width of the image.
    """

    x: Array
    width: int

    @property
    def strips(self) -> int:
        """The number of strips of a row."""
        return self.x.shape[1] // LANES

    def pixels(self, row: Array, strip: Array) -> Array:
        """Reads a strip of a row."""
        return lanes.to_float32(self.x[row, pl.ds(strip * LANES, LANES)])

    def magnitude(self, row: Array) -> tuple[Array, Array]:
        """The magnitude of a row, and the exponent of its unit."""
        return magnitudes.of_lanes(self.strips, functools.partial(self.pixels, row))

    def quantized(self, row: Array, strip: Array, exponent: Array) -> _Words:
        """Reads a strip of a row in fixed point."""
        of_lanes = jnp.broadcast_to(exponent, LANES)
        first, second = powers_of_two.quotient(_coarse_bits(self.width), of_lanes)
        values = (lanes.finite(self.pixels(row, strip)) * first) * second
        coarse = jnp.round(values)
        fine = jnp.round((values - coarse) * 2.0 ** _fine_bits(self.width))
        return _Words(coarse.astype(jnp.int32), fine.astype(jnp.int32))

    def total(self, row: Array, exponent: Array) -> _Words:
        """Adds up the pixels of a row in fixed point."""

        def add(strip: Array, total: _Words) -> _Words:
            return _add(total, self.quantized(row, strip, exponent))

        zero = lanes.zeros(jnp.int32)
        return _Words(*map(jnp.sum, lax.fori_loop(0, self.strips, add, _Words(zero, zero))))


def _sum_rows(
    x: Array,
    coarse: Array,
    fine: Array,
    magnitudes_out: Array,
    scratch: Array,
    *,
    width: int,
    rows: int,
) -> None:
    source = _Rows(x, width)
    strips = source.strips
    numbers = [lax.axis_index("group") * rows + row for row in range(rows)]
    begins = [first(row, x.shape[0], width) for row in numbers]
    lanes.clear_scan_scratch(scratch)
    exponents = []
    margins = [_Words(jnp.int32(0), jnp.int32(0))]
    for row in numbers:
        magnitudes_out[row], exponent = source.magnitude(row)
        exponents.append(exponent)
        margins.append(_add(margins[-1], source.total(row, exponent)))

    def write(place: Array, words: _Words) -> None:
        coarse[pl.ds(place, LANES)] = words.coarse
        fine[pl.ds(place, LANES)] = words.fine

    def sum_strip(strip: Array, before: list[_Words]) -> list[_Words]:
        values = [
            source.quantized(row, strip, exponent)
            for row, exponent in zip(numbers, exponents, strict=True)
        ]
        within, totals = lanes.scan(values, scratch, _add)
        for begin, sums, sum_before in zip(begins, within, before, strict=True):
            write(begin + strip * LANES, _add(sums, sum_before))
        return [_add(total, sum_before) for total, sum_before in zip(totals, before, strict=True)]

    lax.fori_loop(0, strips, sum_strip, margins[:-1])
    places = [begins[0] - LANES, *(begin + strips * LANES for begin in begins)]
    for place, margin in zip(places, margins, strict=True):
        write(place, _Words(*(jnp.broadcast_to(word, LANES) for word in margin)))
