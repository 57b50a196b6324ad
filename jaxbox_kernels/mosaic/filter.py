"""The box filter: every box of every plane walks down each strip of columns."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from jaxbox_kernels.mosaic import lanes, tables, walk
from jaxbox_kernels.mosaic.lanes import LANES
from jaxbox_kernels.mosaic.row_sums import RowSums
from jaxbox_kernels.mosaic.tables import Tables

# Output rows whose reads are all under way before the first is written: with 8 reads a row, 32
# times 128 bytes a warp. 15 warps a multiprocessor then hide the second-level cache's latency.
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
    batch, channels, number, height, width = shape
    strips = lanes.padded(width) // LANES
    kernel = plgpu.kernel(
        functools.partial(_filter, shape=shape, whole=whole),
        out_type=jax.ShapeDtypeStruct(
            (batch * channels * number, height, strips * LANES), jnp.dtype(dtype)
        ),
        # Boxes of a plane run at about the same time and find its sums in the cache.
        grid=(batch * channels, strips, number),
        grid_names=("plane", "strip", "box"),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return kernel(source, boxes)


def _filter(
    source: RowSums,
    boxes: Tables,
    out: Array,
    *,
    shape: tuple[int, ...],
    whole: bool,
) -> None:
    _, channels, number, height, width = shape
    plane, strip = lax.axis_index("plane"), lax.axis_index("strip")
    box = tables.read(*boxes, lax.rem(plane, channels) * number + lax.axis_index("box"))
    columns = walk.columns_reader(source, box, plane, strip, (height, width), whole=whole)
    rows = lanes.largest_divisor(height, _ROWS)
    target = plane * number + lax.axis_index("box")

    def read(row: Array) -> Array:
        return columns(row).integral

    def take_steps(group: Array, total: Array) -> Array:
        integrals = []
        for row in range(rows):
            seen, total = walk.step(read, total, box, group * rows + row, whole=whole)
            integrals.append(seen.integral)
        for row, integral in enumerate(integrals):
            values = (integral * box.scale).astype(out.dtype)
            out[target, group * rows + row, pl.ds(strip * LANES, LANES)] = values
        return total

    total = walk.begin(read, lanes.zeros(), box, jnp.int32(0), height)
    lax.fori_loop(0, height // rows, take_steps, total)
