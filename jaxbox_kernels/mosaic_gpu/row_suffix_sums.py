"""Suffix sums over the columns of rows, by which the adjoint filter ends."""

import functools
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
    non_finite_pixels,
)
from jaxbox_kernels.mosaic_gpu.box_params import Table
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# The number of rows that one program sums up side by side; see `row_prefix_sums`.
_ROWS = 4


class Differences(NamedTuple):
    """What the adjoint filter adds to rows, for each group of boxes; in a kernel, references.

    Attributes:
      magnitudes: `(groups, planes, parts)`, of the plane of the gradient that all groups and parts
        are made of, see `magnitudes`; all numbers are in its unit.
      rounded: `(groups, rows, width + LANES)`, compensated sums. The first `width` enter the suffix
        sums at their pixel; the others, in any order, enter them beyond the right border.
      errors: the rounding errors of those sums.
      pixels: `(groups, rows, width)`, what is added to each pixel alone; `None` if all bounds lie
        on pixel edges.
    """

    magnitudes: Array
    rounded: Array
    errors: Array
    pixels: Array | None


def sum_rows(differences: Differences, g: Array, boxes: Table, shape: tuple[int, ...]) -> Array:
    """Sums up each pixel and all pixels to its right, and all groups.

    Args:
      differences: what to sum up.
      g: the gradient with respect to the output, `(N * C * F * H, padded(W))`, for what is not
        finite in it.
      boxes: the parameters of the boxes, mirrored along y.
      shape: `(N, C, F, H, W)`.

    Returns:
      `(N * C * H, padded(W))`, of the dtype of `g`.
    """
    number, width = differences.rounded.shape[1], lanes.padded(shape[-1])
    rows = lanes.largest_divisor(number, _ROWS)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows, rows=rows, shape=shape),
        out_type=jax.ShapeDtypeStruct((number, width), g.dtype),
        scratch_types=[
            lanes.scan_scratch(len(compensated.Sum._fields) * rows, jnp.float32),
            non_finite_pixels.scratch(width),
        ],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    output: Array = kernel(differences, g, boxes)
    return output


def _sum_rows(
    differences: Differences,
    g: Array,
    boxes: Table,
    out: Array,
    scratch: Array,
    non_finite_sums: Array,
    *,
    rows: int,
    shape: tuple[int, ...],
) -> None:
    group = lax.axis_index("group")
    strips = out.shape[1] // LANES
    numbers = [group * rows + row for row in range(rows)]
    of_planes = [
        differences.magnitudes[0, lax.div(row, jnp.int32(shape[-2])), 0] for row in numbers
    ]
    factors = [magnitudes.unit(magnitude) for magnitude in of_planes]
    lanes.clear_scan_scratch(scratch)

    def read(row: Array, strip: Array | int) -> compensated.Sum:
        columns = pl.ds(strip * LANES, LANES)
        total = compensated.zeros()
        for boxes in range(differences.rounded.shape[0]):
            rounded, errors = (
                ref[boxes, row, columns] for ref in (differences.rounded, differences.errors)
            )
            total = compensated.merge(total, compensated.Sum(rounded, errors))
        return total

    def add_pixels(total: Array, row: Array, strip: Array) -> Array:
        if differences.pixels is not None:
            for boxes in range(differences.pixels.shape[0]):
                total = total + differences.pixels[boxes, row, pl.ds(strip * LANES, LANES)]
        return total

    def sum_strip(step: Array, after: list[compensated.Sum]) -> list[compensated.Sum]:
        strip = strips - 1 - step
        values = [read(row, strip) for row in numbers]
        within, totals = lanes.scan(values, scratch, compensated.merge, reverse=True)
        for row, factor, total, sum_after in zip(numbers, factors, within, after, strict=True):
            value = add_pixels(compensated.merge(total, sum_after).value, row, strip)
            out[row, pl.ds(strip * LANES, LANES)] = (value * factor).astype(out.dtype)
        return [
            compensated.merge(total, sum_after)
            for total, sum_after in zip(totals, after, strict=True)
        ]

    _, beyond = lanes.scan(
        [read(row, strips) for row in numbers], scratch, compensated.merge, reverse=True
    )
    lax.fori_loop(0, strips, sum_strip, beyond)
    all_finite = functools.reduce(jnp.logical_and, map(magnitudes.all_finite, of_planes))
    add_row = functools.partial(_add_non_finite, g, boxes, out, non_finite_sums, numbers[0], shape)
    lax.fori_loop(0, jnp.where(all_finite, 0, rows * shape[2]), add_row, None)


def _add_non_finite(
    g: Array,
    boxes: Table,
    out: Array,
    row_sums: Array,
    first: Array,
    shape: tuple[int, ...],
    index: Array,
    _: None,
) -> None:
    """Adds what is not finite in the gradient of one box's outputs to one row.

    Args:
      g: the gradient with respect to the output.
      boxes: the parameters of the boxes, mirrored along y.
      out: the rows.
      row_sums: shared memory, made by `non_finite_pixels.scratch`.
      first: the number of the first row of the program.
      shape: `(N, C, F, H, W)`.
      index: the row and the box: the row of the program times the number of boxes, plus the box.
    """
    boxes_of_plane, height = shape[2:4]
    number = first + lax.div(index, jnp.int32(boxes_of_plane))
    box = lax.rem(index, jnp.int32(boxes_of_plane))
    plane, row = lax.div(number, jnp.int32(height)), lax.rem(number, jnp.int32(height))

    def read(row: Array, strip: Array) -> Array:
        source = (plane * boxes_of_plane + box) * height + row
        return lanes.to_float32(g[source, pl.ds(strip * LANES, LANES)])

    params = box_params.read(boxes, plane, box, shape)
    spread = non_finite_pixels.Spread(read, params, height, row_sums, mirrored=True)
    spread.load(row)

    def add_strip(strip: Array, _: None) -> None:
        place = (number, pl.ds(strip * LANES, LANES))
        out[place] = spread.add_to(lanes.to_float32(out[place]), strip).astype(out.dtype)

    lax.fori_loop(0, out.shape[1] // LANES, add_strip, None)
