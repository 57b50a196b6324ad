"""The kernel of the box filter: a window for every box of every plane and strip of columns."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from jaxbox_kernels.mosaic_gpu import (
    grid,
    lanes,
    magnitudes,
    non_finite_pixels,
    row_cache,
    sliding_window,
)
from jaxbox_kernels.mosaic_gpu.box_params import Table
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.magnitudes import MeasuredRows
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums
from jaxbox_kernels.mosaic_gpu.sliding_window import Window

# The number of output rows whose reads are all under way before the first of them is written.
_ROWS = 4


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "whole"))
def filter_planes(
    source: RowSums,
    x: MeasuredRows,
    boxes: Table,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    whole: bool,
) -> Array:
    """Computes integrals over boxes times the boxes' scales.

    Args:
      source: prefix sums over the columns of the input's rows.
      x: these rows.
      boxes: the parameters of the boxes.
      shape: `(N, C, F, H, W)`.
      dtype: the dtype of the output.
      whole: whether all bounds are known to lie on pixel edges.

    Returns:
      `(N * C * F, H, padded(W))`.
    """
    planes, strips, number = grid.size(shape)
    height, width = shape[-2:]
    kernel = plgpu.kernel(
        functools.partial(_filter, shape=shape, whole=whole),
        out_type=jax.ShapeDtypeStruct((planes * number, height, strips * LANES), jnp.dtype(dtype)),
        scratch_types=[row_cache.scratch(height), non_finite_pixels.scratch(width)],
        grid=(planes, strips, number),
        grid_names=grid.NAMES,
        compiler_params=lanes.COMPILER_PARAMS,
        kernel_name="box_conv_filter_planes",
    )
    output: Array = kernel(source, x, boxes)
    return output


def _filter(
    source: RowSums,
    x: MeasuredRows,
    boxes: Table,
    out: Array,
    cache: Array,
    non_finite_sums: Array,
    *,
    shape: tuple[int, ...],
    whole: bool,
) -> None:
    height = shape[-2]
    box, plane, strip, target = program = grid.program(boxes, shape)
    magnitude = magnitudes.of_plane(x, plane * height, height)
    unit = magnitude.unit
    columns = sliding_window.columns_reader(
        source, x, magnitude.inverse_unit, program, shape, whole=whole
    )
    rows = lanes.largest_divisor(height, _ROWS)

    def place(row: Array) -> tuple[Array, Array, Any]:
        return target, row, pl.ds(strip * LANES, LANES)

    def read(row: Array) -> Array:
        return columns(row).integral

    def slide(enter: sliding_window.Reader[Array], leave: sliding_window.Reader[Array]) -> None:
        enter, leave = (
            sliding_window.only_inside(enter, height),
            sliding_window.only_inside(leave, height),
        )

        def advance_rows(group: Array, window: Window[Array]) -> Window[Array]:
            integrals = []
            for row in range(rows):
                seen, window = sliding_window.advance(
                    enter, leave, window, box.along_y, group * rows + row
                )
                integrals.append(seen.integral)
            for row, integral in enumerate(integrals):
                # Factor by factor, since their product may lie outside the range of float32.
                values = integral * box.along_x.scale * box.along_y.scale * unit
                out[place(group * rows + row)] = values.astype(out.dtype)
            return window

        window = sliding_window.init(enter, lanes.zeros(), box.along_y, jnp.int32(0), height)
        lax.fori_loop(0, height // rows, advance_rows, window)

    if row_cache.fits_any(cache, height):
        slide(*row_cache.readers(read, cache, height))
    else:
        fits = row_cache.fits(cache, box.along_y)

        @pl.when(fits)
        def _read_once() -> None:
            slide(*row_cache.readers(read, cache, height))

        @pl.when(jnp.logical_not(fits))
        def _read_twice() -> None:
            slide(read, read)

    def read_pixels(row: Array, strip: Array) -> Array:
        return lanes.to_float32(x.pixels[plane * height + row, pl.ds(strip * LANES, LANES)])

    spread = non_finite_pixels.Spread(read_pixels, box, height, non_finite_sums, mirrored=False)

    def add_non_finite(row: Array, _: None) -> None:
        spread.load(row)
        output = lanes.to_float32(out[place(row)])
        out[place(row)] = spread.add_to(output, strip).astype(out.dtype)

    lax.fori_loop(0, jnp.where(magnitude.all_finite, 0, height), add_non_finite, None)
