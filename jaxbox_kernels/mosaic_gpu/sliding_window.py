"""A walk down the rows with a box: what enters it below is added, what leaves it is subtracted.

The sum in hand is the box's own, so that it is rounded to the digits of a box, not of an image.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxbox_kernels.mosaic_gpu import lanes, row_prefix_sums
from jaxbox_kernels.mosaic_gpu.box_params import Box, Side
from jaxbox_kernels.mosaic_gpu.grid import Program
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums

type Reader[Row] = Callable[[Array], Row]


class Rows[Row](NamedTuple):
    """At one output row: the rows that the low and the high side cut, and the integral."""

    low: Row
    high: Row
    integral: Row


def only_inside[Row](read: Reader[Row], height: int) -> Reader[Row]:
    """Reads rows of an image, and zeros above and below it."""

    def read_inside(row: Array) -> Row:
        inside = (row >= 0) & (row < height)
        values = read(jnp.clip(row, 0, height - 1))
        return jax.tree.map(lambda value: _select(inside, value, jnp.zeros_like(value)), values)

    return read_inside


def begin[Row](read: Reader[Row], zero: Row, box: Box, row: Array, height: int) -> Row:
    """Sum of the rows between the sides' at an output row; less than nothing if inside out."""
    low, high = (jnp.clip(row + side.shift, 0, height) for side in (box.low_y, box.high_y))

    def add(row: Array, total: Row) -> Row:
        return jax.tree.map(jnp.add, total, read(row))

    total = lax.fori_loop(jnp.minimum(low, high), jnp.maximum(low, high), add, zero)
    return jax.tree.map(lambda value: _select(low <= high, value, -value), total)


def _select(condition: Array, if_true: Array, if_false: Array) -> Array:
    # Mosaic does not broadcast a condition by itself.
    return jnp.where(jnp.broadcast_to(condition, if_true.shape), if_true, if_false)


def step[Row](
    enter: Reader[Row], leave: Reader[Row], total: Row, box: Box, row: Array, *, whole: bool
) -> tuple[Rows[Row], Row]:
    """What the walk sees at an output row, and the sum for the next."""
    high, low = enter(row + box.high_y.shift), leave(row + box.low_y.shift)

    def add_parts(total: Array, low: Array, high: Array) -> Array:
        return total + (box.high_y.fraction * high - box.low_y.fraction * low)

    integral = total if whole else jax.tree.map(add_parts, total, low, high)
    following = jax.tree.map(lambda t, a, b: t + (b - a), total, low, high)
    return Rows(low, high, integral), following


class Columns(NamedTuple):
    """What a row gives at each output column of a strip."""

    integral: Array  # over the box's columns
    low: Array  # the pixel that the low side cuts
    high: Array


def columns_reader(
    source: RowSums, program: Program, shape: tuple[int, ...], *, whole: bool
) -> Reader[Columns]:
    """Reads rows of a plane as integrals over a box's columns. Whole boxes cut no pixels."""
    box, height, width = program.box, *shape[-2:]
    column = program.strip * LANES
    position = column + lanes.index()

    def start(shift: Array) -> Array:
        # The sum before pixel `k` is that through `k - 1`. Farther outside all are zero.
        return jnp.clip(column + shift - 1, -LANES, lanes.padded(width) - 1)

    def inside(side: Side) -> Array:
        pixel = position + side.shift
        return ((pixel >= 0) & (pixel < width)).astype(jnp.float32)

    sides = (box.low_x, box.high_x)
    starts = [(start(side.shift), start(side.shift + 1)) for side in sides]
    between = [jnp.clip(position + side.shift, 0, width) for side in sides]
    covered = (between[1] - between[0]).astype(jnp.float32)
    reached = [inside(side) for side in sides]
    if not whole:
        covered += box.high_x.fraction * reached[1] - box.low_x.fraction * reached[0]

    def read(row: Array) -> Columns:
        number = program.plane * height + row
        first = row_prefix_sums.first(number, source.means.shape[0], width)
        unit, mean = source.units[number], source.means[number]
        before = [source.sums[pl.ds(first + begin, LANES)] for begin, _ in starts]
        integral = (before[1] - before[0]).astype(jnp.float32)
        if whole:
            integral = integral * unit + mean * covered
            return Columns(integral, integral, integral)
        through = [source.sums[pl.ds(first + end, LANES)] for _, end in starts]
        low, high = (
            (after - until).astype(jnp.float32)
            for after, until in zip(through, before, strict=True)
        )
        integral += box.high_x.fraction * high - box.low_x.fraction * low
        # Numbers of units until here; each product with one is an instruction for every pixel.
        return Columns(
            integral * unit + mean * covered,
            low * unit + mean * reached[0],
            high * unit + mean * reached[1],
        )

    return read
