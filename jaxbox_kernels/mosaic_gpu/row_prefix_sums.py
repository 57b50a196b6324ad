"""Prefix sums over the columns of rows, which shifted reads turn into integrals along x.

The sums are in fixed point, where differences are exact. A sum has two int32 words: one of pixels
rounded to a coarse step, and one of the rest of each pixel, in fine steps. Differences are taken
word by word, so that no word carries into the other. Each row has steps of its own, small enough
that the sum of a row as bright everywhere as in its brightest pixel fits into a word: of a row of
1024 pixels, the fine step is `2**-40` of its largest magnitude, or less.

Only differences within a row matter. So the sums go on from row to row within a group of rows, and
may wrap around. A strip between two rows, filled with the last sum of the first row, is the right
margin of the one and the left margin of the other.

Beside the sums are the pixels themselves, in the rows' units, for the two pixels that hold a box's
bounds. They need no margins: which lanes read beyond the image does not depend on the row.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.common import powers_of_two
from jaxbox_kernels.mosaic_gpu import lanes, magnitudes
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.magnitudes import MeasuredRows

# The number of rows of a group, which one program sums up, and the number of strips that it sums up
# side by side. With one strip the barriers of a scan would have nothing else to wait for.
_ROWS, _STRIPS = 4, 4
# A float32 number in whose neighbourhood numbers are whole. Added to a number that is not larger
# than 2**22, it rounds it, and the bits tell the whole number: conversions to int32 are slow.
_WHOLE = 1.5 * 2.0**23
_BITS_OF_WHOLE = 0x4B400000


class RowSums(NamedTuple):
    """Prefix sums over the columns of rows; in a kernel, references to them.

    Attributes:
      coarse: int32, flat, the coarse words of the sums; the left margin of a row begins at
        `first`.
      fine: int32, the fine words, arranged alike. They count in `fine_step` of the coarse step.
      pixels: of the dtype of the input, flat, the pixels in the units of their rows, what is not
        finite as 0, with `LANES` zeros before them and after them.
    """

    coarse: Array
    fine: Array
    pixels: Array


class _Words(NamedTuple):
    """Numbers in fixed point, as a coarse and a fine word."""

    coarse: Array
    fine: Array


def _add(first: _Words, second: _Words) -> _Words:
    return _Words(first.coarse + second.coarse, first.fine + second.fine)


def _coarse_bits(width: int) -> int:
    """The number of coarse steps in a row's unit, as a power of two."""
    return min(21, 29 - (width - 1).bit_length())


def _fine_bits(width: int) -> int:
    """The number of fine steps in a coarse one, as a power of two."""
    return _coarse_bits(width) + 2  # What is left of a pixel is up to half a coarse step.


def fine_step(width: int) -> float:
    """The fine step of rows of a width, in coarse steps."""
    return float(2.0 ** -_fine_bits(width))


def coarse_step(width: int) -> float:
    """The coarse step of rows of a width, in units of the row."""
    return float(2.0 ** -_coarse_bits(width))


def first(row: Array, rows: int, width: int) -> Array:
    """The place at which the left margin of a row begins, of so many rows in all."""
    each = _rows_of_group(rows)
    group = (
        lax.div(row, jnp.int32(each))
        if each == 3
        else lax.shift_right_logical(row, jnp.int32(each // 2))  # 4, 2 or 1; rows are positive.
    )
    return row * _row_and_margin(width) + group * LANES


def size(rows: int, width: int) -> int:
    """The number of elements that the sums of so many rows take, margins included."""
    return rows * _row_and_margin(width) + rows // _rows_of_group(rows) * LANES


def _row_and_margin(width: int) -> int:
    return lanes.padded(width) + LANES


def _rows_of_group(rows: int) -> int:
    return lanes.largest_divisor(rows, _ROWS)


@functools.partial(jax.jit, static_argnames="width")
def sum_rows(x: MeasuredRows, width: int) -> RowSums:
    """Computes prefix sums over the columns of rows, in which what is not finite counts as 0.

    Args:
      x: the rows of all planes.
      width: the width of the image. What lies beyond it in rows must be 0.
    """
    pixels = x.pixels
    number = pixels.shape[0]
    rows = _rows_of_group(number)
    side_by_side = _side_by_side(rows, pixels.shape[1] // LANES)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows, width=width, rows=rows),
        out_type=(
            *[jax.ShapeDtypeStruct((size(number, width),), jnp.int32)] * len(_Words._fields),
            jax.ShapeDtypeStruct((pixels.size + 2 * LANES,), pixels.dtype),
        ),
        scratch_types=[
            lanes.scan_scratch(len(_Words._fields) * math.prod(side_by_side), jnp.int32)
        ],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
        kernel_name="box_conv_sum_rows",
    )
    return RowSums(*kernel(MeasuredRows(pixels.reshape(-1), x.magnitudes)))


def _to_fixed_point(values: Array, width: int) -> _Words:
    """Converts pixels in units of their row."""
    steps = values * 2.0 ** _coarse_bits(width)
    coarse = steps + _WHOLE
    fine = (steps - (coarse - _WHOLE)) * 2.0 ** _fine_bits(width) + _WHOLE
    return _Words(
        *(lax.bitcast_convert_type(word, jnp.int32) - _BITS_OF_WHOLE for word in (coarse, fine))
    )


def _sum_rows(
    x: MeasuredRows,
    coarse: Array,
    fine: Array,
    pixels: Array,
    scratch: Array,
    *,
    width: int,
    rows: int,
) -> None:
    group = lax.axis_index("group")
    strips = lanes.padded(width) // LANES
    first_strip = group * rows * strips
    first_word = first(group * rows, rows * lax.axis_size("group"), width)
    lanes.clear_scan_scratch(scratch)

    def read(row: int, strip: Array | int) -> Array:
        place = (first_strip + row * strips + strip) * LANES
        return lanes.to_float32(x.pixels[pl.ds(place, LANES)])

    def write(row: int, strip: Array | int, sums: _Words) -> None:
        place = first_word + (row * (strips + 1) + 1 + strip) * LANES
        for words, word in zip((coarse, fine), sums, strict=True):
            words[pl.ds(place, LANES)] = jnp.broadcast_to(word, LANES)

    factors = [
        powers_of_two.quotient(0, magnitudes.exponent(x.magnitudes[group * rows + row]))
        for row in range(rows)
    ]

    rows_together, strips_together = _side_by_side(rows, strips)
    whole_rows = strips_together == strips

    def sum_strips(first_row: int, batch: Array, level: _Words) -> _Words:
        places = [
            (row, batch * strips_together + strip)
            for row in range(first_row, first_row + rows_together)
            for strip in range(strips_together)
        ]
        values = []
        for row, strip in places:
            inverse, rest = factors[row]
            values.append((lanes.finite(read(row, strip)) * inverse) * rest)
            place = LANES + (first_strip + row * strips + strip) * LANES
            pixels[pl.ds(place, LANES)] = values[-1].astype(pixels.dtype)
        fixed = [_to_fixed_point(value, width) for value in values]
        within, totals = lanes.scan(fixed, scratch, _add, radix=4)
        for index, ((row, strip), sums, total) in enumerate(
            zip(places, within, totals, strict=True), 1
        ):
            write(row, strip, _add(sums, level))
            level = _add(level, total)
            if whole_rows and index % strips == 0:
                write(row, strips, level)
        return level

    level = _Words(jnp.int32(0), jnp.int32(0))
    write(0, -1, level)
    for row in range(0, rows, rows_together):
        level = lax.fori_loop(
            0, strips // strips_together, functools.partial(sum_strips, row), level
        )
        if not whole_rows:
            write(row, strips, level)
    for place, outermost in ((0, 0), (pixels.shape[0] - LANES, lax.axis_size("group") - 1)):

        @pl.when(group == outermost)
        def _clear(place: int = place) -> None:
            pixels[place : place + LANES] = lanes.zeros(pixels.dtype)


def _side_by_side(rows: int, strips: int) -> tuple[int, int]:
    """The number of rows, of a group of so many, and of their strips that are summed up together.

    Several rows are only taken together as a whole.
    """
    strips_together = lanes.largest_divisor(strips, _STRIPS)
    rows_together = _STRIPS // strips if strips_together == strips else 1
    return lanes.largest_divisor(rows, rows_together), strips_together
