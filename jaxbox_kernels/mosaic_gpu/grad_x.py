"""The kernel of the adjoint filter: the gradient with respect to the input.

Down the rows, a window slides with each box mirrored. Along a row, seen from the right, the sum of
a window enters a suffix sum where the whole pixels of a box end and leaves it where they begin; the
two pixels that hold the bounds receive it on their own. A program does so for several boxes of a
plane and a few rows at a time, in shared memory. Suffix sums are compensated, for else what a box
leaves behind would add up along a row.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu import (
    box_params,
    compensated,
    lanes,
    magnitudes,
    non_finite_pixels,
    sliding_window,
    tiles,
)
from jaxbox_kernels.mosaic_gpu.box_params import Box, Table
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.magnitudes import MeasuredRows
from jaxbox_kernels.mosaic_gpu.sliding_window import Window
from jaxbox_kernels.mosaic_gpu.tiles import Tile


@functools.partial(jax.jit, static_argnames=("shape", "whole"))
def filter_back(g: MeasuredRows, boxes: Table, shape: tuple[int, ...], *, whole: bool) -> Array:
    """Computes the gradient with respect to the input, `(N * C * H, padded(W))`.

    Args:
      g: the rows of the gradient with respect to the output.
      boxes: the parameters of the boxes, mirrored along y.
      shape: `(N, C, F, H, W)`.
      whole: whether all bounds are known to lie on pixel edges.
    """
    batch, channels, number, height, width = shape
    tile = tiles.largest_tile(number, height, width)
    padded = lanes.padded(width)
    groups = number // tile.boxes
    parts = tiles.parts(batch * channels * groups, height, tile.rows)
    # What groups of boxes contribute is rounded once, when it is added up.
    dtype = g.pixels.dtype if groups == 1 else jnp.float32
    kernel = plgpu.kernel(
        functools.partial(_filter_back, shape=shape, tile=tile, whole=whole),
        out_type=jax.ShapeDtypeStruct((groups, batch * channels * height, padded), dtype),
        scratch_types=[
            plgpu.SMEM((tile.boxes, tiles.STATE, padded), jnp.float32),
            plgpu.SMEM((tile.boxes, tile.rows, padded + 2 * LANES), jnp.float32),
            lanes.scan_scratch(len(compensated.Sum._fields) * tile.rows, jnp.float32),
            non_finite_pixels.scratch(width),
        ],
        grid=(groups, batch * channels, parts),
        grid_names=("group", "plane", "part"),
        compiler_params=lanes.COMPILER_PARAMS,
        kernel_name="box_conv_filter_back",
    )
    each: Array = kernel(g, boxes)
    return each[0] if groups == 1 else jnp.sum(each, 0).astype(g.pixels.dtype)


def _filter_back(
    g: MeasuredRows,
    boxes: Table,
    out: Array,
    states: Array,
    integrals: Array,
    scratch: Array,
    non_finite_sums: Array,
    *,
    shape: tuple[int, ...],
    tile: Tile,
    whole: bool,
) -> None:
    _, _, number, height, width = shape
    group, plane = lax.axis_index("group"), lax.axis_index("plane")
    padded = lanes.padded(width)
    strips = padded // LANES
    rows_of_part = height // lax.axis_size("part")
    first_row = lax.axis_index("part") * rows_of_part
    first_box = group * tile.boxes
    each = [box_params.read(boxes, plane, first_box + box, shape) for box in range(tile.boxes)]
    rows_of_plane = number * height
    magnitude = magnitudes.of_plane(g, plane * rows_of_plane, rows_of_plane)
    planes = _Planes(g.pixels, plane, magnitude.inverse_unit, number, first_box, height)
    windows = _Windows(planes, states, integrals, each, padded, tile, whole)
    unit = magnitude.unit

    windows.clear_margins()
    lanes.clear_scan_scratch(scratch, reverse=True)
    lax.fori_loop(0, strips, functools.partial(windows.init, first_row), None)

    def place(row: Array, strip: Array | int) -> tuple[Array, Array, Any]:
        return group, plane * height + row, pl.ds(strip * LANES, LANES)

    def advance_tile(step: Array, _: None) -> None:
        first = first_row + step * tile.rows
        beyond = [lanes.zeros() for _ in range(tile.rows)]
        beyond = lax.fori_loop(0, strips, functools.partial(windows.advance, first), beyond)
        plgpu.commit_smem()
        after = [compensated.of_number(jnp.sum(total)) for total in beyond]
        lax.fori_loop(0, strips, functools.partial(sum_strip, first), after)

    def sum_strip(first: Array, step: Array, after: list[compensated.Sum]) -> list[compensated.Sum]:
        """Adds up the differences of a strip from the right, and writes the gradient."""
        strip = strips - 1 - step
        columns = windows.columns(strip)
        differences, pixels = zip(
            *(windows.differences(columns, row) for row in range(tile.rows)), strict=True
        )
        within, totals = lanes.scan(list(differences), scratch, compensated.merge, reverse=True)
        for row, (total, sum_after) in enumerate(zip(within, after, strict=True)):
            value = compensated.merge(total, sum_after).value + pixels[row]
            out[place(first + row, strip)] = (value * unit).astype(out.dtype)
        return list(map(compensated.merge, totals, after))

    lax.fori_loop(0, rows_of_part // tile.rows, advance_tile, None)

    def add_non_finite(index: Array, _: None) -> None:
        """Adds what is not finite in the gradient of one box's outputs to one row."""
        row = first_row + lax.div(index, jnp.int32(tile.boxes))
        box = first_box + lax.rem(index, jnp.int32(tile.boxes))
        params = box_params.read(boxes, plane, box, shape)
        read = functools.partial(planes.read, plane * number + box)
        spread = non_finite_pixels.Spread(read, params, height, non_finite_sums, mirrored=True)
        spread.load(row)

        def add_strip(strip: Array, _: None) -> None:
            output = lanes.to_float32(out[place(row, strip)])
            out[place(row, strip)] = spread.add_to(output, strip).astype(out.dtype)

        lax.fori_loop(0, strips, add_strip, None)

    turns = jnp.where(magnitude.all_finite, 0, rows_of_part * tile.boxes)
    lax.fori_loop(0, turns, add_non_finite, None)


class _Shifted(NamedTuple):
    """The columns at which the differences of a strip read a box's integrals.

    Attributes:
      end: for what enters the sum at the last whole pixel.
      first: for what leaves it before the first whole pixel, and is added to that pixel alone.
      high: for what is added to the pixel after the last whole one alone.
    """

    end: Array
    first: Array
    high: Array


@dataclass(frozen=True)
class _Planes:
    """References to the planes of the gradient with respect to the output.

    Attributes:
      g: all planes, `(N * C * F * H, padded(W))`.
      plane: the number of the input's plane.
      inverse_unit: the factor of all pixels, for each lane.
      boxes: the number of boxes of each plane.
      first_box: the first box of the program.
      height: the height of the image.
    """

    g: Array
    plane: Array
    inverse_unit: Array
    boxes: int
    first_box: Array
    height: int

    def read(self, source: Array, row: Array, strip: Array) -> Array:
        """Reads a strip of a row of a plane, given its number among all."""
        values = self.g[source * self.height + row, pl.ds(strip * LANES, LANES)]
        return lanes.to_float32(values)

    def reader(self, box: int, strip: Array) -> sliding_window.Reader[Array]:
        """Makes a reader of the rows of the plane that belongs to a box of the program."""
        source = self.plane * self.boxes + self.first_box + box

        def read(row: Array) -> Array:
            return lanes.finite(self.read(source, row, strip)) * self.inverse_unit

        return sliding_window.only_inside(read, self.height)


@dataclass(frozen=True)
class _Windows:
    """The sliding windows of one program, of several boxes of a plane.

    Attributes:
      planes: the planes down which the windows slide.
      states: shared memory for the states of the windows, `(boxes, STATE, padded)`.
      integrals: shared memory for a tile of integrals over rows, times the boxes' scales,
        `(boxes, rows, LANES + padded + LANES)`: with margins of zeros.
      boxes: the parameters of the boxes.
      padded: the width of the image in whole strips.
      tile: the size of `integrals`.
      whole: whether all bounds are known to lie on pixel edges.
    """

    planes: _Planes
    states: Array
    integrals: Array
    boxes: list[Box]
    padded: int
    tile: Tile
    whole: bool

    def clear_margins(self) -> None:
        """Writes the zeros on either side of the integrals."""
        for index in range(self.tile.boxes):
            for row in range(self.tile.rows):
                self.integrals[index, row, 0:LANES] = lanes.zeros()
                self.integrals[index, row, LANES + self.padded :] = lanes.zeros()

    def init(self, row: Array, strip: Array, _: None) -> None:
        """Initializes the windows of a strip for an output row."""
        for index, box in enumerate(self.boxes):
            read = self.planes.reader(index, strip)
            window = sliding_window.init(read, lanes.zeros(), box.along_y, row, self.planes.height)
            self._store(index, strip, window)

    def advance(self, first: Array, strip: Array, beyond: list[Array]) -> list[Array]:
        """Advances a strip by the rows of a tile, and stores the integrals.

        Args:
          first: the first row of the tile.
          strip: the number of the strip.
          beyond: for each row what enters its suffix sum beyond the right border.

        Returns:
          `beyond` with what this strip adds.
        """
        for index, box in enumerate(self.boxes):
            read, window = self.planes.reader(index, strip), self._load(index, strip)
            is_beyond = _is_beyond(box, strip, self.padded)
            for row in range(self.tile.rows):
                seen, window = sliding_window.advance(read, read, window, box.along_y, first + row)
                values = seen.integral * box.along_y.scale * box.along_x.scale
                self.integrals[index, row, pl.ds(LANES + strip * LANES, LANES)] = values
                beyond[row] = beyond[row] + jnp.where(is_beyond, values, lanes.zeros())
            self._store(index, strip, window)
        return beyond

    def columns(self, strip: Array) -> list[_Shifted]:
        """Finds where the differences of a strip read the integrals of each box."""

        def column(offset: Array) -> Array:
            return LANES + jnp.clip(strip * LANES - offset, -LANES, self.padded)

        return [
            _Shifted(column(axis.end - 1), column(axis.first - 1), column(axis.end))
            for axis in (box.along_x for box in self.boxes)
        ]

    def differences(self, columns: list[_Shifted], row: int) -> tuple[compensated.Sum, Array]:
        """Adds up the differences of a row of the tile, and what pixels receive alone."""
        total, pixels = compensated.zeros(), lanes.zeros()
        for index, (box, shifted) in enumerate(zip(self.boxes, columns, strict=True)):
            end, first, high = (
                self.integrals[index, row, pl.ds(column, LANES)] for column in shifted
            )
            total = compensated.add_difference(total, end, first)
            if not self.whole:
                axis = box.along_x
                pixels = pixels + (axis.low_weight * first + axis.high_weight * high)
        return total, pixels

    def _store(self, index: int, strip: Array, window: Window[Array]) -> None:
        for field, value in enumerate(jax.tree.leaves(window)):
            self.states[index, field, pl.ds(strip * LANES, LANES)] = value

    def _load(self, index: int, strip: Array) -> Window[Array]:
        column = pl.ds(strip * LANES, LANES)
        rounded, errors, low = (self.states[index, field, column] for field in range(tiles.STATE))
        return Window(compensated.Sum(rounded, errors), low)


def _is_beyond(box: Box, strip: Array, padded: int) -> Array:
    """Whether integrals enter the suffix sum beyond the right border, and leave it within."""
    position = strip * LANES + lanes.index()
    axis = box.along_x
    return (position + axis.end > padded) & (position + axis.first <= padded)
