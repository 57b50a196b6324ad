"""A sliding window down the rows of a plane: what enters is added, what leaves is subtracted.

The sum of the window is the box's own. So it is rounded relative to the magnitude of a box, not to
that of an image.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxbox_kernels.mosaic_gpu import lanes, row_prefix_sums
from jaxbox_kernels.mosaic_gpu.box_params import Bound, Box
from jaxbox_kernels.mosaic_gpu.grid import Program
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums

type Reader[Row] = Callable[[Array], Row]
"""Reads what a row, given by its number, contributes: an array or a tree of arrays."""


class Rows[Row](NamedTuple):
    """What the window holds at one output row.

    Attributes:
      low: the row in which the low bound along y lies.
      high: the row in which the high bound along y lies.
      integral: the integral over the box's rows.
    """

    low: Row
    high: Row
    integral: Row


def only_inside[Row](read: Reader[Row], height: int) -> Reader[Row]:
    """Makes a reader return zeros for rows above and below the image."""

    def read_inside(row: Array) -> Row:
        inside = (row >= 0) & (row < height)
        values = read(jnp.clip(row, 0, height - 1))
        masked: Row = jax.tree.map(
            lambda value: _select(inside, value, jnp.zeros_like(value)), values
        )
        return masked

    return read_inside


def init[Row](read: Reader[Row], zero: Row, box: Box, row: Array, height: int) -> Row:
    """Adds up the whole rows of the window at an output row.

    Args:
      read: reads rows of the image.
      zero: what to start from.
      box: the box; if its bounds are in the wrong order, rows between them count negatively.
      row: the number of the output row.
      height: the height of the image.
    """
    low, high = (jnp.clip(row + bound.offset, 0, height) for bound in (box.low_y, box.high_y))

    def add(row: Array, total: Row) -> Row:
        added: Row = jax.tree.map(jnp.add, total, read(row))
        return added

    total = lax.fori_loop(jnp.minimum(low, high), jnp.maximum(low, high), add, zero)
    signed: Row = jax.tree.map(lambda value: _select(low <= high, value, -value), total)
    return signed


def _select(condition: Array, if_true: Array, if_false: Array) -> Array:
    # Mosaic does not broadcast a condition by itself.
    return jnp.where(jnp.broadcast_to(condition, if_true.shape), if_true, if_false)


def advance[Row](
    enter: Reader[Row], leave: Reader[Row], total: Row, box: Box, row: Array, *, whole: bool
) -> tuple[Rows[Row], Row]:
    """Moves the window from one output row to the next.

    Args:
      enter: reads rows that enter.
      leave: reads rows that leave: from the row cache, or the same as `enter` without one.
      total: the sum of the whole rows of the window at this output row.
      box: the box.
      row: the number of this output row.
      whole: whether all bounds are known to lie on pixel edges.

    Returns:
      What the window holds at this output row, and the sum of its whole rows at the next one.
    """
    high, low = enter(row + box.high_y.offset), leave(row + box.low_y.offset)

    def add_fractions(total: Array, low: Array, high: Array) -> Array:
        return total + (box.high_y.fraction * high - box.low_y.fraction * low)

    integral = total if whole else jax.tree.map(add_fractions, total, low, high)
    following = jax.tree.map(lambda t, a, b: t + (b - a), total, low, high)
    return Rows(low, high, integral), following


class Columns(NamedTuple):
    """What a row contributes at each output column of a strip.

    Attributes:
      integral: the integral over the box's columns.
      low: the pixel in which the low bound along x lies.
      high: the pixel in which the high bound along x lies.
    """

    integral: Array
    low: Array
    high: Array


def columns_reader(
    source: RowSums, program: Program, shape: tuple[int, ...], *, whole: bool
) -> Reader[Columns]:
    """Makes a reader of rows of a plane as integrals over a box's columns.

    Args:
      source: prefix sums over the columns of all rows.
      program: says which plane, strip and box.
      shape: `(..., H, W)`.
      whole: whether all bounds are known to lie on pixel edges; then the low and high
        pixels of `Columns` have no meaning.
    """
    box, height, width = program.box, *shape[-2:]
    places, covered, reached = _places_of_columns(program, width, whole=whole)

    def read(row: Array) -> Columns:
        number = program.plane * height + row
        first = row_prefix_sums.first(number, source.means.shape[0], width)
        step, mean = source.steps[number], source.means[number]
        before = [source.sums[pl.ds(first + begin, LANES)] for begin, _ in places]
        integral = (before[1] - before[0]).astype(jnp.float32)
        if whole:
            integral = integral * step + mean * covered
            return Columns(integral, integral, integral)
        through = [source.sums[pl.ds(first + end, LANES)] for _, end in places]
        # A pixel is the sum through it less the sum before it.
        low, high = (
            (sum_through - sum_before).astype(jnp.float32)
            for sum_through, sum_before in zip(through, before, strict=True)
        )
        integral += box.high_x.fraction * high - box.low_x.fraction * low
        # All is in steps until here, since each product with the step is one more instruction.
        return Columns(
            integral * step + mean * covered,
            low * step + mean * reached[0],
            high * step + mean * reached[1],
        )

    return read


def _places_of_columns(
    program: Program, width: int, *, whole: bool
) -> tuple[list[tuple[Array, Array]], Array, list[Array]]:
    """Finds where the pixels along a box's bounds along x are, which is the same in all rows.

    Returns:
      For the low and the high bound, where in a row's prefix sums the sums before and through the
      pixels of a strip begin; the length of the box inside the image at each column; and for both
      bounds whether those pixels lie in the image, as numbers.
    """
    box = program.box
    column = program.strip * LANES
    position = column + lanes.index()

    def start(offset: Array) -> Array:
        # The sum before pixel `k` is that through `k - 1`. Farther outside all sums are the same.
        return jnp.clip(column + offset - 1, -LANES, lanes.padded(width) - 1)

    def inside(bound: Bound) -> Array:
        pixel = position + bound.offset
        return ((pixel >= 0) & (pixel < width)).astype(jnp.float32)

    both = (box.low_x, box.high_x)
    places = [(start(bound.offset), start(bound.offset + 1)) for bound in both]
    between = [jnp.clip(position + bound.offset, 0, width) for bound in both]
    covered = (between[1] - between[0]).astype(jnp.float32)
    reached = [inside(bound) for bound in both]
    if not whole:
        covered += box.high_x.fraction * reached[1] - box.low_x.fraction * reached[0]
    return places, covered, reached
