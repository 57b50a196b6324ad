"""The box filter: every box of every plane walks down each strip of columns."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from jaxbox_kernels.mosaic import grid, kept_rows, lanes, walk
from jaxbox_kernels.mosaic.lanes import LANES
from jaxbox_kernels.mosaic.row_sums import RowSums
from jaxbox_kernels.mosaic.tables import Tables

# Output rows whose reads are all under way before the first is written.
_ROWS = 4


def filter_planes(
    source: RowSums,
    boxes: Tables,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    whole: bool,
) -> Array:
    """Integrals over the boxes times their scales: `(N * C * F, H, padded(W))`.

    `shape` is `(N, C, F, H, W)`.
    """
    planes, strips, number = grid.size(shape)
    height = shape[-2]
    kernel = plgpu.kernel(
        functools.partial(_filter, shape=shape, whole=whole),
        out_type=jax.ShapeDtypeStruct((planes * number, height, strips * LANES), jnp.dtype(dtype)),
        scratch_types=[kept_rows.scratch(height)],
        grid=(planes, strips, number),
        grid_names=grid.NAMES,
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return kernel(source, boxes)


def _filter(
    source: RowSums,
    boxes: Tables,
    out: Array,
    kept: Array,
    *,
    shape: tuple[int, ...],
    whole: bool,
) -> None:
    height = shape[-2]
    box, _, strip, target = program = grid.program(boxes, shape)
    columns = walk.columns_reader(source, program, shape, whole=whole)
    rows = lanes.largest_divisor(height, _ROWS)

    def read(row: Array) -> Array:
        return columns(row).integral

    def walk_down(enter: walk.Reader[Array], leave: walk.Reader[Array]) -> None:
        enter, leave = walk.only_inside(enter, height), walk.only_inside(leave, height)

        def take_steps(group: Array, total: Array) -> Array:
            integrals = []
            for row in range(rows):
                seen, total = walk.step(enter, leave, total, box, group * rows + row, whole=whole)
                integrals.append(seen.integral)
            for row, integral in enumerate(integrals):
                values = (integral * box.scale).astype(out.dtype)
                out[target, group * rows + row, pl.ds(strip * LANES, LANES)] = values
            return total

        total = walk.begin(enter, lanes.zeros(), box, jnp.int32(0), height)
        lax.fori_loop(0, height // rows, take_steps, total)

    fits = kept_rows.are_enough(kept, box, height)

    @pl.when(fits)
    def _read_once() -> None:
        walk_down(*kept_rows.readers(read, kept, height))

    @pl.when(jnp.logical_not(fits))
    def _read_twice() -> None:
        walk_down(read, read)
