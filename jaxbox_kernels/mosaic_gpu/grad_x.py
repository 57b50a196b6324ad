"""The kernel of the adjoint filter: what the output's gradient contributes to the input's pixels.

Down the rows, a window slides with each box mirrored. Along a row, seen from the right, the sum of
a window enters a prefix sum where the box ends and leaves it where the box begins. This kernel
computes those differences; `row_prefix_sums.sum_rows_back` adds them up.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu import box_params, lanes, sliding_window, tiles
from jaxbox_kernels.mosaic_gpu.box_params import Box, Tables
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.tiles import Tile


def differences(g: Array, boxes: Tables, shape: tuple[int, ...], *, whole: bool) -> Array:
    """Computes the differences of the gradient with respect to the input along each row.

    Args:
      g: the gradient with respect to the output, `(N * C * F * H, padded(W))`.
      boxes: the parameters of the boxes, mirrored along y.
      shape: `(N, C, F, H, W)`.
      whole: whether all bounds are known to lie on pixel edges.

    Returns:
      `(groups, N * C * H, 2 * padded(W))`: for each group of boxes what enters the sum at each
      pixel, then what enters it beyond the right border.
    """
    batch, channels, number, height, width = shape
    tile = tiles.largest_tile(number, height, width)
    padded = lanes.padded(width)
    groups = number // tile.boxes
    parts = tiles.parts(batch * channels * groups, height, tile.rows)
    kernel = plgpu.kernel(
        functools.partial(_differences, shape=shape, tile=tile, whole=whole),
        out_type=jax.ShapeDtypeStruct((groups, batch * channels * height, 2 * padded), jnp.float32),
        scratch_types=[
            plgpu.SMEM((tile.boxes, padded), jnp.float32),
            plgpu.SMEM((tile.boxes, tile.rows, padded + 2 * LANES), jnp.float32),
        ],
        grid=(groups, batch * channels, parts),
        grid_names=("group", "plane", "part"),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    output: Array = kernel(g, boxes)
    return output


def _differences(
    g: Array,
    boxes: Tables,
    out: Array,
    totals: Array,
    integrals: Array,
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
    planes = _Planes(g, plane, number, first_box, height)
    windows = _Windows(planes, totals, integrals, each, padded, tile, whole)

    windows.clear_margins()
    lax.fori_loop(0, strips, functools.partial(windows.init, first_row), None)

    def advance_tile(step: Array, _: None) -> None:
        row = first_row + step * tile.rows
        lax.fori_loop(0, strips, functools.partial(advance_strip, row), None)
        plgpu.commit_smem()
        lax.fori_loop(0, strips, functools.partial(shift_strip, row), None)
        plgpu.commit_smem()

    def advance_strip(first: Array, strip: Array, _: None) -> None:
        for row, values in enumerate(windows.advance(first, strip)):
            out[group, plane * height + first + row, pl.ds(padded + strip * LANES, LANES)] = values

    def shift_strip(first: Array, strip: Array, _: None) -> None:
        taps = windows.taps(strip)
        for row in range(tile.rows):
            total = windows.add_taps(taps, row)
            out[group, plane * height + first + row, pl.ds(strip * LANES, LANES)] = total

    lax.fori_loop(0, rows_of_part // tile.rows, advance_tile, None)


class _Tap(NamedTuple):
    """A shifted read of a box's integrals: the box, the column to read at, and the weight."""

    box: int
    column: Array
    weight: Array


@dataclass(frozen=True)
class _Planes:
    """References to the planes of the gradient with respect to the output.

    Attributes:
      g: all planes, `(N * C * F * H, padded(W))`.
      plane: the number of the input's plane.
      boxes: the number of boxes of each plane.
      first_box: the first box of the program.
      height: the height of the image.
    """

    g: Array
    plane: Array
    boxes: int
    first_box: Array
    height: int

    def reader(self, box: int, strip: Array) -> sliding_window.Reader[Array]:
        """Makes a reader of the rows of the plane that belongs to a box of the program."""
        source = self.plane * self.boxes + self.first_box + box

        def read(row: Array) -> Array:
            values = self.g[source * self.height + row, pl.ds(strip * LANES, LANES)]
            return values.astype(jnp.float32)

        return sliding_window.only_inside(read, self.height)


@dataclass(frozen=True)
class _Windows:
    """The sliding windows of one program, of several boxes of a plane.

    Attributes:
      planes: the planes down which the windows slide.
      totals: shared memory for the sums of the windows, `(boxes, padded)`.
      integrals: shared memory for a tile of integrals over rows, times the boxes' scales,
        `(boxes, rows, LANES + padded + LANES)`: with margins of zeros.
      boxes: the parameters of the boxes.
      padded: the width of the image in whole strips.
      tile: the size of `integrals`.
      whole: whether all bounds are known to lie on pixel edges.
    """

    planes: _Planes
    totals: Array
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
        """Initializes the sums of a strip for an output row."""
        for index, box in enumerate(self.boxes):
            read = self.planes.reader(index, strip)
            total = sliding_window.init(read, lanes.zeros(), box, row, self.planes.height)
            self.totals[index, pl.ds(strip * LANES, LANES)] = total

    def advance(self, first: Array, strip: Array) -> list[Array]:
        """Advances a strip by the rows of a tile, and stores the integrals.

        Returns:
          For each row what of the strip enters the prefix sum beyond the right border.
        """
        column = pl.ds(strip * LANES, LANES)
        beyond = [lanes.zeros()] * self.tile.rows
        for index, box in enumerate(self.boxes):
            read, total = self.planes.reader(index, strip), self.totals[index, column]
            weight = _beyond(box, strip, self.padded, whole=self.whole)
            for row in range(self.tile.rows):
                seen, total = sliding_window.advance(
                    read, read, total, box, first + row, whole=self.whole
                )
                scaled = seen.integral * box.scale
                self.integrals[index, row, pl.ds(LANES + strip * LANES, LANES)] = scaled
                beyond[row] = beyond[row] + weight * scaled
            self.totals[index, column] = total
        return beyond

    def taps(self, strip: Array) -> list[_Tap]:
        """Finds the reads that the differences of a strip consist of."""
        return [
            _Tap(index, jnp.clip(strip * LANES - offset, -LANES, self.padded), weight)
            for index, box in enumerate(self.boxes)
            for offset, weight in _ends(box, whole=self.whole)
        ]

    def add_taps(self, taps: list[_Tap], row: int) -> Array:
        """Adds up the reads of a row of the tile."""
        total = lanes.zeros()
        for index, column, weight in taps:
            total = total + weight * self.integrals[index, row, pl.ds(LANES + column, LANES)]
        return total


def _ends(box: Box, *, whole: bool) -> list[tuple[Array, Array]]:
    """The offsets at which a box's integrals enter a row's prefix sum from the right; weights."""
    low, high = box.low_x, box.high_x
    one = jnp.float32(1)
    if whole:
        return [(high.offset - 1, one), (low.offset - 1, -one)]
    return [
        (high.offset, high.fraction),
        (high.offset - 1, 1 - high.fraction),
        (low.offset, -low.fraction),
        (low.offset - 1, low.fraction - 1),
    ]


def _beyond(box: Box, strip: Array, padded: int, *, whole: bool) -> Array:
    """The weights with which a strip's integrals enter the sum beyond the right border."""
    position = strip * LANES + lanes.index()
    total = lanes.zeros()
    for offset, weight in _ends(box, whole=whole):
        total = total + jnp.where(position + offset >= padded, weight, 0)
    return total
