"""Suffix sums over the columns of rows, by which the adjoint filter ends."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from jaxbox_kernels.mosaic_gpu import compensated, lanes
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# The number of rows that one program sums up side by side; see `row_prefix_sums`.
_ROWS = 4


class Differences(NamedTuple):
    """What the adjoint filter adds to rows, for each group of boxes; in a kernel, references.

    Attributes:
      rounded: `(groups, rows, width + LANES)`, compensated sums. The first `width` enter the suffix
        sums at their pixel; the others, in any order, enter them beyond the right border.
      errors: the rounding errors of those sums.
      pixels: `(groups, rows, width)`, what is added to each pixel alone; `None` if all bounds lie
        on pixel edges.
    """

    rounded: Array
    errors: Array
    pixels: Array | None


def sum_rows(
    differences: Differences, units: Array, height: int, width: int, dtype: DTypeLike
) -> Array:
    """Sums up each pixel and all pixels to its right, and all groups.

    Args:
      differences: what to sum up.
      units: `(planes,)`, the factor of each plane.
      height: the height of the image.
      width: the width in whole strips.
      dtype: the dtype of the result.

    Returns:
      `(rows, width)`.
    """
    number = differences.rounded.shape[1]
    rows = lanes.largest_divisor(number, _ROWS)
    kernel = plgpu.kernel(
        functools.partial(_sum_rows, rows=rows, height=height),
        out_type=jax.ShapeDtypeStruct((number, width), dtype),
        scratch_types=[lanes.scan_scratch(len(compensated.Sum._fields) * rows, jnp.float32)],
        grid=(number // rows,),
        grid_names=("group",),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    output: Array = kernel(differences, units)
    return output


def _sum_rows(
    differences: Differences, units: Array, out: Array, scratch: Array, *, rows: int, height: int
) -> None:
    group = lax.axis_index("group")
    strips = out.shape[1] // LANES
    numbers = [group * rows + row for row in range(rows)]
    factors = [units[lax.div(row, jnp.int32(height))] for row in numbers]
    lanes.clear_scan_scratch(scratch)

    def read(row: Array, strip: Array | int) -> compensated.Sum:
        columns = pl.ds(strip * LANES, LANES)
        total = compensated.zeros()
        for boxes in range(differences.rounded.shape[0]):
            rounded, errors = (ref[boxes, row, columns] for ref in differences[:2])
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
