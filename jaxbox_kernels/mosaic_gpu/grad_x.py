"""The kernel of the adjoint filter: what the output's gradient contributes to the input's pixels.

Down the rows, a window slides with each box mirrored. Along a row, seen from the right, the sum of
a window enters a suffix sum where the whole pixels of a box end and leaves it where they begin.
This kernel computes those differences, and apart from them what the two pixels that hold the bounds
receive; `row_suffix_sums` adds them up. Suffix sums are compensated, for else what a box leaves
behind would add up along a row.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

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
    sliding_window,
    tiles,
)
from jaxbox_kernels.mosaic_gpu.box_params import Box, Table
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.row_suffix_sums import Differences
from jaxbox_kernels.mosaic_gpu.sliding_window import Window
from jaxbox_kernels.mosaic_gpu.tiles import Tile


def differences(
    g: Array, of_rows: Array, boxes: Table, shape: tuple[int, ...], *, whole: bool
) -> Differences:
    """Computes the differences of the gradient with respect to the input along each row.

    Args:
      g: the gradient with respect to the output, `(N * C * F * H, padded(W))`.
      of_rows: the magnitudes of these rows.
      boxes: the parameters of the boxes, mirrored along y.
      shape: `(N, C, F, H, W)`.
      whole: whether all bounds are known to lie on pixel edges.
    """
    batch, channels, number, height, width = shape
    tile = tiles.largest_tile(number, height, width)
    padded = lanes.padded(width)
    groups = number // tile.boxes
    parts = tiles.parts(batch * channels * groups, height, tile.rows)

    def rows(width: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((groups, batch * channels * height, width), jnp.float32)

    of_planes = jax.ShapeDtypeStruct((groups, batch * channels, parts), jnp.int32)
    sums = (of_planes, rows(padded + LANES), rows(padded + LANES))
    kernel = plgpu.kernel(
        functools.partial(_differences, shape=shape, tile=tile, whole=whole),
        out_type=sums if whole else (*sums, rows(padded)),
        scratch_types=[
            plgpu.SMEM((tile.boxes, tiles.STATE, padded), jnp.float32),
            plgpu.SMEM((tile.boxes, tile.rows, padded + 2 * LANES), jnp.float32),
        ],
        grid=(groups, batch * channels, parts),
        grid_names=("group", "plane", "part"),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    found, rounded, errors, *pixels = kernel(g, of_rows, boxes)
    return Differences(found, rounded, errors, None if whole else pixels[0])


def _differences(
    g: Array,
    of_rows: Array,
    boxes: Table,
    of_planes: Array,
    *references: Array,
    shape: tuple[int, ...],
    tile: Tile,
    whole: bool,
) -> None:
    *outputs, states, integrals = references
    _, _, number, height, width = shape
    group, plane = lax.axis_index("group"), lax.axis_index("plane")
    padded = lanes.padded(width)
    strips = padded // LANES
    rows_of_part = height // lax.axis_size("part")
    first_row = lax.axis_index("part") * rows_of_part
    first_box = group * tile.boxes
    each = [box_params.read(boxes, plane, first_box + box, shape) for box in range(tile.boxes)]
    rows_of_plane = number * height
    magnitude = magnitudes.of_plane(of_rows, plane * rows_of_plane, rows_of_plane)
    of_planes[group, plane, lax.axis_index("part")] = magnitude.packed
    planes = _Planes(g, plane, magnitude.inverse_unit, number, first_box, height)
    windows = _Windows(planes, states, integrals, each, padded, tile)

    windows.clear_margins()
    lax.fori_loop(0, strips, functools.partial(windows.init, first_row), None)

    def write(row: Array, strip: Array | int, *values: Array) -> None:
        for output, value in zip(outputs, values, strict=False):
            output[group, plane * height + row, pl.ds(strip * LANES, LANES)] = value

    def advance_tile(step: Array, _: None) -> None:
        first = first_row + step * tile.rows
        beyond = [compensated.zeros() for _ in range(tile.rows)]
        beyond = lax.fori_loop(0, strips, functools.partial(windows.advance, first), beyond)
        for row, total in enumerate(beyond):
            write(first + row, strips, *total)
        plgpu.commit_smem()
        lax.fori_loop(0, strips, functools.partial(write_strip, first), None)
        plgpu.commit_smem()

    def write_strip(first: Array, strip: Array, _: None) -> None:
        columns = windows.columns(strip)
        for row in range(tile.rows):
            total, pixels = windows.differences(columns, row)
            write(first + row, strip, *total, *([] if whole else [pixels]))

    lax.fori_loop(0, rows_of_part // tile.rows, advance_tile, None)


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

    def reader(self, box: int, strip: Array) -> sliding_window.Reader[Array]:
        """Makes a reader of the rows of the plane that belongs to a box of the program."""
        source = self.plane * self.boxes + self.first_box + box

        def read(row: Array) -> Array:
            values = self.g[source * self.height + row, pl.ds(strip * LANES, LANES)]
            return lanes.finite(lanes.to_float32(values)) * self.inverse_unit

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
    """

    planes: _Planes
    states: Array
    integrals: Array
    boxes: list[Box]
    padded: int
    tile: Tile

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

    def advance(
        self, first: Array, strip: Array, beyond: list[compensated.Sum]
    ) -> list[compensated.Sum]:
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
                place = (index, row, pl.ds(LANES + strip * LANES, LANES))
                self.integrals[place] = seen.integral * box.along_y.scale * box.along_x.scale
                # Read as it leaves the suffix sum: not before it is rounded.
                entering = jnp.where(is_beyond, self.integrals[place], lanes.zeros())
                beyond[row] = compensated.add(beyond[row], entering)
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
