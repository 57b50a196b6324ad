"""A sliding window down the rows of a plane: what enters is added, what leaves is subtracted.

The sum of the window is compensated. So a bright row that has left leaves nothing behind that
counts beside dark rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxbox_kernels.mosaic_gpu import compensated, lanes, magnitudes, row_prefix_sums
from jaxbox_kernels.mosaic_gpu.box_params import Axis
from jaxbox_kernels.mosaic_gpu.grid import Program
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.magnitudes import MeasuredRows
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums

# The number of rows whose reads are under way together while a window is initialized.
_ROWS = 4

type Reader[Row] = Callable[[Array], Row]
"""Reads what a row, given by its number, contributes: an array or a tree of arrays."""


class Rows[Row](NamedTuple):
    """What the window holds at one output row.

    Attributes:
      low: the row in which the low bound along y lies.
      high: the row in which the high bound along y lies.
      integral: the integral over the box's rows, without the box's scale along y.
    """

    low: Row
    high: Row
    integral: Row


class Window[Row](NamedTuple):
    """The state of a window before an output row.

    Attributes:
      total: the sum of its whole rows: a tree like a row's, with compensated sums.
      low: the row before the first whole one.
    """

    total: Any
    low: Row


def only_inside[Row](read: Reader[Row], height: int) -> Reader[Row]:
    """Makes a reader return zeros for rows above and below the image."""

    def read_inside(row: Array) -> Row:
        return _where((row >= 0) & (row < height), read(jnp.clip(row, 0, height - 1)))

    return read_inside


def _where[Row](condition: Array, row: Row) -> Row:
    """A row if a condition holds, else zeros."""
    masked: Row = jax.tree.map(
        # Mosaic does not broadcast a condition by itself.
        lambda value: jnp.where(
            jnp.broadcast_to(condition, value.shape), value, jnp.zeros_like(value)
        ),
        row,
    )
    return masked


def init[Row](read: Reader[Row], zero: Row, axis: Axis, row: Array, height: int) -> Window[Row]:
    """Adds up the whole rows of the window at an output row.

    Args:
      read: reads rows, zeros outside the image.
      zero: the row that contributes nothing.
      axis: the box along y.
      row: the number of the output row.
      height: the height of the image.
    """
    low = read(row + axis.first - 1)
    start, end = (jnp.clip(row + offset, 0, height) for offset in (axis.first, axis.end))

    def add_rows(group: Array, total: Any) -> Any:
        rows = [start + group * _ROWS + row for row in range(_ROWS)]
        # The last group reads its last row again in place of rows that are missing.
        values = [read(jnp.minimum(row, end - 1)) for row in rows]
        for row, value in zip(rows, values, strict=True):
            total = _map(compensated.add, total, _where(row < end, value))
        return total

    empty = jax.tree.map(lambda _: compensated.zeros(), zero)
    groups = lax.div(jnp.maximum(end - start, 0) + (_ROWS - 1), jnp.int32(_ROWS))
    return Window(lax.fori_loop(0, groups, add_rows, empty), low)


def advance[Row](
    enter: Reader[Row], leave: Reader[Row], window: Window[Row], axis: Axis, row: Array
) -> tuple[Rows[Row], Window[Row]]:
    """Moves the window from one output row to the next.

    Args:
      enter: reads rows that enter, zeros outside the image.
      leave: reads rows that leave: from the row cache, or the same as `enter` without one.
      window: the window at this output row.
      axis: the box along y.
      row: the number of this output row.

    Returns:
      What the window holds at this output row, and the window at the next one.
    """
    high, leaving = enter(row + axis.end), leave(row + axis.first)

    def integrate(total: compensated.Sum, low: Array, high: Array) -> Array:
        return total.value + (axis.low_weight * low + axis.high_weight * high)

    integral = _map(integrate, window.total, window.low, high)
    total = _map(compensated.add_difference, window.total, high, leaving)
    return Rows(window.low, high, integral), Window(total, leaving)


def _map(function: Callable[..., Any], total: Any, *rows: Any) -> Any:
    """Applies a function to each compensated sum of a window and the arrays of rows for it."""
    return jax.tree.map(
        function, total, *rows, is_leaf=lambda node: isinstance(node, compensated.Sum)
    )


class Columns(NamedTuple):
    """What a row contributes at each output column of a strip.

    Attributes:
      integral: the integral over the box's columns, without the box's scale along x.
      low: the pixel in which the low bound along x lies.
      high: the pixel in which the high bound along x lies.
    """

    integral: Array
    low: Array
    high: Array


def columns_reader(
    source: RowSums,
    x: MeasuredRows,
    inverse_unit: Array,
    program: Program,
    shape: tuple[int, ...],
    *,
    whole: bool,
) -> Reader[Columns]:
    """Makes a reader of rows of a plane as integrals over a box's columns.

    Args:
      source: prefix sums over the columns of all rows.
      x: these rows.
      inverse_unit: the inverse of the plane's unit, in which rows are read, for each lane.
      program: says which plane, strip and box.
      shape: `(N, C, F, H, W)`.
      whole: whether all bounds are known to lie on pixel edges; then the low and high
        pixels of `Columns` have no meaning.
    """
    batch, channels, _, height, width = shape
    rows, padded = batch * channels * height, lanes.padded(width)
    axis, column = program.box.along_x, program.strip * LANES

    def read_sums(row: Array) -> tuple[Array, Array]:
        begin = row_prefix_sums.first(row, rows, width)
        first, end = (
            # The sum before pixel `k` is that through `k - 1`. Farther outside all are the same.
            pl.ds(begin + jnp.clip(LANES + column + offset - 1, 0, LANES + padded - 1), LANES)
            for offset in (axis.first, axis.end)
        )
        # Differences are exact in fixed point.
        coarse, fine = (
            (words[end] - words[first]).astype(jnp.float32)
            for words in (source.coarse, source.fine)
        )
        return coarse, fine

    def reader_of_pixels(offset: Array) -> tuple[Reader[Array], Array]:
        """Makes a reader of shifted pixels, and finds which lanes read the image."""
        start = jnp.clip(column + offset, -LANES, padded)
        position = start + lanes.index()

        def read(row: Array) -> Array:
            pixels = source.pixels[pl.ds(row * padded + (LANES + start), LANES)]
            return lanes.to_float32(pixels)

        return read, (position >= 0) & (position < padded)

    def weight(inside: Array, weight: Array) -> Array:
        return jnp.where(inside, jnp.broadcast_to(weight, LANES), lanes.zeros())

    read_low, low_inside = reader_of_pixels(axis.first - 1)
    read_high, high_inside = reader_of_pixels(axis.end)
    low_weight, high_weight = (
        weight(low_inside, axis.low_weight),
        weight(high_inside, axis.high_weight),
    )

    def read(row: Array) -> Columns:
        number = program.plane * height + row
        unit = magnitudes.unit(x.magnitudes[number]) * inverse_unit
        coarse, fine = read_sums(number)
        integral = coarse + fine * row_prefix_sums.fine_step(width)
        integral = integral * row_prefix_sums.coarse_step(width)
        if whole:
            return Columns(integral * unit, integral, integral)
        low, high = read_low(number), read_high(number)
        integral = integral + (low_weight * low + high_weight * high)
        zero = lanes.zeros()
        return Columns(
            integral * unit,
            jnp.where(low_inside, low, zero) * unit,
            jnp.where(high_inside, high, zero) * unit,
        )

    return read
