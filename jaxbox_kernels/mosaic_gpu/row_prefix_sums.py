"""Running sums along rows, which shifted reads turn into integrals along x.

They are whole numbers, whose differences are exact: multiples of a unit of each row, of the pixels
less the row's mean. No integral of those is larger than half the sum of their magnitudes, so that
the unit can be `2**-32` of that sum, which is finer than float32 pixels are.

Only differences within a row count. So the sums go on from row to row in a group of rows: a strip
between two rows, which holds what the first ends with, is the right margin of the one and the left
margin of the other.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from jaxbox_kernels.mosaic_gpu import lanes
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# Rows of a group, which one program sums up side by side. With one row the scan's 8 barriers would
# wait for nothing else to do; 8 rows take 24 KiB of shared memory, and 9 such programs fit on a
# multiprocessor.
_ROWS = 8


class RowSums(NamedTuple):
    """Running sums of rows, or references to them in a kernel."""

    sums: Array  # int32, flat
    units: Array  # (rows,): what the sums are multiples of
    means: Array  # (rows,), not contained in the sums


def first(row: Array, rows: int, width: int) -> Array:
    """Where the sums of a row begin, of so many rows in all."""
    group = lax.div(row, jnp.int32(_rows_of_group(rows)))
    return LANES + row * _row_and_margin(width) + group * LANES


def size(rows: int, width: int) -> int:
    """How many numbers the sums of so many rows take, margins included."""
    return rows * _row_and_margin(width) + rows // _rows_of_group(rows) * LANES


def _row_and_margin(width: int) -> int:
    return lanes.padded(width) + LANES


def _rows_of_group(rows: int) -> int:
    return lanes.largest_divisor(rows, _ROWS)


def sum_rows(x: Array, width: int) -> RowSums:
    """Running sums of rows; `x` is `(rows, padded(width))`, zero beyond `width`."""
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


def _sum_rows(
    x: Array,
    sums: Array,
    units_out: Array,
    means_out: Array,
    scratch: Array,
    *,
    width: int,
    rows: int,
) -> None:
    strips = x.shape[1] // LANES
    numbers = [lax.axis_index("group") * rows + row for row in range(rows)]
    begins = [first(row, x.shape[0], width) for row in numbers]
    lanes.clear_scan_scratch(scratch)

    def pixels(row: Array, strip: Array, *means: Array) -> Array:
        column = strip * LANES
        values = x[row, pl.ds(column, LANES)].astype(jnp.float32)
        for mean in means:
            values = values - mean
        # Beyond the image nothing is summed up.
        return jnp.where(column + lanes.index() < width, values, 0)

    def add_up(row: Array, *means: Array) -> tuple[Array, Array]:
        """Sums of the pixels and of their magnitudes."""

        def add(strip: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
            values = pixels(row, strip, *means)
            return totals[0] + values, totals[1] + jnp.abs(values)

        zeros = lanes.zeros()
        total, magnitudes = lax.fori_loop(0, strips, add, (zeros, zeros))
        return jnp.sum(total), jnp.sum(magnitudes)

    means, units = [], []
    for row in numbers:
        mean = add_up(row)[0] / width
        # The mean is rounded; what is missing, times a whole row, would be seen.
        rest, magnitudes = add_up(row, mean)
        means.append((mean, rest / width))
        largest = (magnitudes + jnp.abs(rest)) * 1.001
        units.append(jnp.maximum(largest, 2.0**-90) * 2.0**-32)

    def multiples(index: int, strip: Array) -> Array:
        """Of a row's unit."""
        values = pixels(numbers[index], strip, *means[index])
        return jnp.round(values * (1 / units[index])).astype(jnp.int32)

    def end(index: int) -> Array:
        def add(strip: Array, total: Array) -> Array:
            return total + multiples(index, strip)

        return jnp.sum(lax.fori_loop(0, strips, add, lanes.zeros(jnp.int32)))

    margins = [jnp.int32(0)]
    for index in range(rows):
        margins.append(margins[-1] + end(index))

    def sum_strip(strip: Array, before: list[Array]) -> list[Array]:
        values = [multiples(index, strip) for index in range(rows)]
        within, totals = lanes.scan(values, scratch)
        for begin, total, sum_before in zip(begins, within, before, strict=True):
            sums[pl.ds(begin + strip * LANES, LANES)] = total + sum_before
        return [total + sum_before for total, sum_before in zip(totals, before, strict=True)]

    lax.fori_loop(0, strips, sum_strip, margins[:-1])
    places = [begins[0] - LANES, *(begin + strips * LANES for begin in begins)]
    for place, margin in zip(places, margins, strict=True):
        sums[pl.ds(place, LANES)] = jnp.broadcast_to(margin, LANES)
    for row, (mean, rest), unit in zip(numbers, means, units, strict=True):
        means_out[row] = mean + rest
        units_out[row] = unit


def sum_rows_back(entries: Array, width: int, dtype: DTypeLike) -> Array:
    """Sums of each pixel and all to its right: `(rows, width)` of `dtype`.

    `entries` is `(parts, rows, 2 * width)`: what pixels receive, then what lies beyond the right
    border, in any order; the parts are added up.
    """
    number = entries.shape[1]
    rows = lanes.largest_divisor(number, _ROWS)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows_back, rows=rows),
        out_type=jax.ShapeDtypeStruct((number, width), dtype),
        scratch_types=[lanes.scan_scratch(rows, jnp.float32)],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return kernel(entries)


def _sum_rows_back(entries: Array, out: Array, scratch: Array, *, rows: int) -> None:
    group = lax.axis_index("group")
    strips = out.shape[1] // LANES
    numbers = [group * rows + row for row in range(rows)]
    lanes.clear_scan_scratch(scratch)

    def read(row: Array, strip: Array) -> Array:
        total = lanes.zeros()
        for part in range(entries.shape[0]):
            total = total + entries[part, row, pl.ds(strip * LANES, LANES)]
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
