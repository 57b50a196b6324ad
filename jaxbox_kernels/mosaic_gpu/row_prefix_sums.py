"""Prefix sums over the columns of rows, which shifted reads turn into integrals along x.

The sums are in fixed point, where differences are exact. Each row has a step of its own, and its
mean is subtracted. No integral over the rest is larger than half the sum of the magnitudes, so the
step can be `2**-32` of that sum, which is finer than float32 pixels are.

Only differences within a row matter. So the sums go on from row to row within a group of rows. A
strip between two rows, filled with the last sum of the first row, is the right margin of the one
and the left margin of the other.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from jaxbox_kernels.mosaic_gpu import lanes
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# The number of rows of a group, which one program sums up side by side. With one row the barriers
# of a scan would have nothing else to wait for. 8 rows take 24 KiB of shared memory, and 9 such
# programs fit on a multiprocessor.
_ROWS = 8


class RowSums(NamedTuple):
    """Prefix sums over the columns of rows; in a kernel, references to them.

    Attributes:
      sums: int32, flat; a row begins at `first`.
      steps: `(rows,)`, what the sums are multiples of.
      means: `(rows,)`, the means that were subtracted from the rows.
    """

    sums: Array
    steps: Array
    means: Array


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


def sum_rows(x: Array, width: int) -> RowSums:
    """Computes prefix sums over the columns of rows.

    Args:
      x: the rows, `(rows, padded(width))`, zero beyond `width`.
      width: the width of the image.
    """
    number = x.shape[0]
    rows = _rows_of_group(number)
    of_rows = jax.ShapeDtypeStruct((number,), jnp.float32)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows, width=width, rows=rows),
        out_type=(
            jax.ShapeDtypeStruct((size(number, width),), jnp.int32),
            of_rows,
            of_rows,
        ),
        scratch_types=[lanes.scan_scratch(rows, jnp.int32)],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return RowSums(*kernel(x))


class _Quantization(NamedTuple):
    """How a row is rounded to fixed point.

    Attributes:
      mean: the row's mean, in two parts; the second is what rounding takes from the first.
      step: the step.
    """

    mean: tuple[Array, Array]
    step: Array


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

    def pixels(self, row: Array, strip: Array, *means: Array) -> Array:
        """Reads a strip of a row, less the means; 0 beyond the image."""
        column = strip * LANES
        values = self.x[row, pl.ds(column, LANES)].astype(jnp.float32)
        for mean in means:
            values = values - mean
        return jnp.where(column + lanes.index() < self.width, values, 0)

    def add_up(self, row: Array, *means: Array) -> tuple[Array, Array]:
        """Adds up the pixels of a row, less the means, and their magnitudes."""

        def add(strip: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
            values = self.pixels(row, strip, *means)
            return totals[0] + values, totals[1] + jnp.abs(values)

        zeros = lanes.zeros()
        total, magnitudes = lax.fori_loop(0, self.strips, add, (zeros, zeros))
        return jnp.sum(total), jnp.sum(magnitudes)

    def quantization(self, row: Array) -> _Quantization:
        """Finds a row's mean and step."""
        mean = self.add_up(row)[0] / self.width
        # The mean is rounded. Over a whole row the rounding errors would add up to a visible
        # error.
        rest, magnitudes = self.add_up(row, mean)
        means = (mean, rest / self.width)
        largest = (magnitudes + jnp.abs(rest)) * 1.001
        return _Quantization(means, jnp.maximum(largest, 2.0**-90) * 2.0**-32)

    def quantized(self, row: Array, strip: Array, how: _Quantization) -> Array:
        """Reads a strip of a row in fixed point."""
        values = self.pixels(row, strip, *how.mean)
        return jnp.round(values * (1 / how.step)).astype(jnp.int32)

    def total(self, row: Array, how: _Quantization) -> Array:
        """Adds up the pixels of a row in fixed point."""

        def add(strip: Array, total: Array) -> Array:
            return total + self.quantized(row, strip, how)

        return jnp.sum(lax.fori_loop(0, self.strips, add, lanes.zeros(jnp.int32)))


def _sum_rows(
    x: Array,
    sums: Array,
    steps_out: Array,
    means_out: Array,
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
    each = [source.quantization(row) for row in numbers]
    margins = [jnp.int32(0)]
    for row, how in zip(numbers, each, strict=True):
        margins.append(margins[-1] + source.total(row, how))

    def sum_strip(strip: Array, before: list[Array]) -> list[Array]:
        values = [source.quantized(row, strip, how) for row, how in zip(numbers, each, strict=True)]
        within, totals = lanes.scan(values, scratch)
        for begin, total, sum_before in zip(begins, within, before, strict=True):
            sums[pl.ds(begin + strip * LANES, LANES)] = total + sum_before
        return [total + sum_before for total, sum_before in zip(totals, before, strict=True)]

    lax.fori_loop(0, strips, sum_strip, margins[:-1])
    places = [begins[0] - LANES, *(begin + strips * LANES for begin in begins)]
    for place, margin in zip(places, margins, strict=True):
        sums[pl.ds(place, LANES)] = jnp.broadcast_to(margin, LANES)
    for row, how in zip(numbers, each, strict=True):
        mean, rest = how.mean
        means_out[row] = mean + rest
        steps_out[row] = how.step


def sum_rows_back(differences: Array, width: int, dtype: DTypeLike) -> Array:
    """Sums up each pixel and all pixels to its right.

    Args:
      differences: `(groups, rows, 2 * width)`: what enters the sum at each pixel, then, in any
        order, what enters it beyond the right border. The groups are added up.
      width: the width in whole strips.
      dtype: the dtype of the result.

    Returns:
      `(rows, width)`.
    """
    number = differences.shape[1]
    rows = lanes.largest_divisor(number, _ROWS)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows_back, rows=rows),
        out_type=jax.ShapeDtypeStruct((number, width), dtype),
        scratch_types=[lanes.scan_scratch(rows, jnp.float32)],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    output: Array = kernel(differences)
    return output


def _sum_rows_back(differences: Array, out: Array, scratch: Array, *, rows: int) -> None:
    group = lax.axis_index("group")
    strips = out.shape[1] // LANES
    numbers = [group * rows + row for row in range(rows)]
    lanes.clear_scan_scratch(scratch)

    def read(row: Array, strip: Array) -> Array:
        total = lanes.zeros()
        for boxes in range(differences.shape[0]):
            total = total + differences[boxes, row, pl.ds(strip * LANES, LANES)]
        return total

    def beyond(row: Array) -> Array:
        def add(strip: Array, total: Array) -> Array:
            return total + read(row, strip)

        return jnp.sum(lax.fori_loop(strips, 2 * strips, add, lanes.zeros()))

    def sum_strip(step: Array, after: list[Array]) -> list[Array]:
        strip = strips - 1 - step
        within, totals = lanes.scan([read(row, strip) for row in numbers], scratch, reverse=True)
        for row, total, sum_after in zip(numbers, within, after, strict=True):
            out[row, pl.ds(strip * LANES, LANES)] = (total + sum_after).astype(out.dtype)
        return [total + sum_after for total, sum_after in zip(totals, after, strict=True)]

    lax.fori_loop(0, strips, sum_strip, [beyond(row) for row in numbers])
