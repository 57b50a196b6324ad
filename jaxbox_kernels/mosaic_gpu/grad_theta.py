"""The gradient with respect to boxes.

The kernel computes inner products of the gradient with respect to the output with the integrals
over boxes and with the pixels along each side of the boxes. Its window slides down the gradient,
with boxes mirrored along y: `<g, D_y x> = <D_y^T g, x>`. So each row of the input is read once, and
there is one window, where a window down the input would need a sum for each product.
"""

import functools
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.common import area, bounds
from jaxbox_kernels.mosaic_gpu import (
    box_params,
    compensated,
    grid,
    lanes,
    magnitudes,
    non_finite_pixels,
    sliding_window,
)
from jaxbox_kernels.mosaic_gpu.box_params import Axis, Box, Table
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.magnitudes import MeasuredRows
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums
from jaxbox_kernels.mosaic_gpu.sliding_window import Window

# The number of rows whose reads are under way together, and the number of such groups whose
# products are added up in float32 before a compensated sum takes them.
_ROWS, _GROUPS = 2, 8


class Products[Each](NamedTuple):
    """Inner products with the gradient with respect to the output, or what belongs to each.

    They are without the boxes' scales.

    Attributes:
      integral: those with the integrals over boxes.
      low_x: those with the integrals along y over the pixels before the first whole ones along x.
      high_x: those with the integrals along y over the pixels after the last whole ones along x.
      low_y: those with the integrals along x over the pixels before the first whole ones along y.
      high_y: those with the integrals along x over the pixels after the last whole ones along y.
    """

    integral: Each
    low_x: Each
    high_x: Each
    low_y: Each
    high_y: Each


@functools.partial(jax.jit, static_argnames="shape")
def inner_products(
    source: RowSums,
    x: MeasuredRows,
    g: MeasuredRows,
    boxes: Table,
    shape: tuple[int, ...],
) -> tuple[Products[Array], tuple[Array, Array]]:
    """Computes inner products, `(N, C, F)`, in units of the planes of `x` and of `g`.

    Args:
      source: prefix sums over the columns of the input's rows.
      x: these rows.
      g: the rows of the gradient with respect to the output.
      boxes: the parameters of the boxes, mirrored along y.
      shape: `(N, C, F, H, W)`.

    Returns:
      The products, and the exponents of the units of `x` and of `g`, `(N, C, F)`.
    """
    planes, strips, number = grid.size(shape)
    each = len(Products._fields)
    kernel = plgpu.kernel(
        functools.partial(_inner_products, shape=shape),
        out_type=jax.ShapeDtypeStruct((planes * number, strips, each + 2), jnp.float32),
        grid=(planes, strips, number),
        grid_names=grid.NAMES,
        compiler_params=lanes.COMPILER_PARAMS,
        kernel_name="box_conv_inner_products",
    )
    results = kernel(source, x, g, boxes)
    sums = jnp.sum(results[..., :each], 1).reshape(*shape[:3], each)
    of_x, of_g = jnp.moveaxis(results[:, 0, each:].astype(jnp.int32), -1, 0).reshape(2, *shape[:3])
    return Products(*jnp.moveaxis(sums, -1, 0)), (of_x, of_g)


def _inner_products(
    source: RowSums,
    x: MeasuredRows,
    g: MeasuredRows,
    boxes: Table,
    out: Array,
    *,
    shape: tuple[int, ...],
) -> None:
    height, width = shape[-2:]
    box, plane, strip, target = program = grid.program(boxes, shape)
    of_x = magnitudes.of_plane(x, plane * height, height)
    of_g = magnitudes.of_plane(g, target * height, height)
    columns = sliding_window.columns_reader(
        source, x, of_x.inverse_unit, program, shape, whole=False
    )
    rows = lanes.largest_divisor(height, _ROWS)
    groups = lanes.largest_divisor(height // rows, _GROUPS)

    def read_gradient(row: Array) -> Array:
        # What is not finite spoils all products in the end anyway.
        values = lanes.to_float32(g.pixels[target * height + row, pl.ds(strip * LANES, LANES)])
        return values * of_g.inverse_unit

    read = sliding_window.only_inside(read_gradient, height)

    def advance_rows(
        group: Array, carry: tuple[Window[Array], list[Array]]
    ) -> tuple[Window[Array], list[Array]]:
        window, products = carry
        for row in (group * rows + row for row in range(rows)):
            seen, window = sliding_window.advance(read, read, window, box.along_y, row)
            pixels = columns(row)
            factors = Products(
                (seen.integral, pixels.integral),
                (seen.integral, pixels.low),
                (seen.integral, pixels.high),
                # A row of outputs has the one bound where the mirrored box has the other.
                (seen.high, pixels.integral),
                (seen.low, pixels.integral),
            )
            products = [
                product + gradient * values
                for product, (gradient, values) in zip(products, factors, strict=True)
            ]
        return window, products

    def add_block(
        block: Array, carry: tuple[Window[Array], list[compensated.Sum]]
    ) -> tuple[Window[Array], list[compensated.Sum]]:
        window, totals = carry
        zeros = [lanes.zeros() for _ in Products._fields]
        first = block * groups
        window, products = lax.fori_loop(first, first + groups, advance_rows, (window, zeros))
        return window, list(map(compensated.add, totals, products))

    window = sliding_window.init(read, lanes.zeros(), box.along_y, jnp.int32(0), height)
    totals = [compensated.zeros() for _ in Products._fields]
    _, totals = lax.fori_loop(0, height // (rows * groups), add_block, (window, totals))

    def read_pixels(row: Array, strip: Array) -> Array:
        return lanes.to_float32(x.pixels[plane * height + row, pl.ds(strip * LANES, LANES)])

    turns = jnp.where(of_x.all_finite, 0, height)
    spoilt = _spoilt(read_pixels, turns, box, strip, width, x.pixels.shape[1] // LANES)
    of_gradient = jnp.where(of_g.all_finite, jnp.float32(0), jnp.float32(jnp.nan))
    for index, (total, added) in enumerate(zip(totals, spoilt, strict=True)):
        out[target, strip, index] = jnp.sum(total.value + added) + of_gradient
    for index, magnitude in enumerate((of_x, of_g)):
        out[target, strip, len(totals) + index] = magnitude.exponent.astype(jnp.float32)


def _spoilt(
    read: non_finite_pixels.Pixels, height: Array, box: Box, strip: Array, width: int, strips: int
) -> Products[Array]:
    """NaN where a product has a pixel that is not finite, else 0.

    Args:
      read: reads the plane of `x`.
      height: the number of rows to look through.
      box: the parameters of the box, mirrored along y.
      strip: the strip of outputs.
      width: the width of the image.
      strips: the number of strips of a row.
    """
    columns = _Offsets.along(box.along_x)
    mirrored = _Offsets.along(box.along_y)
    rows = _Offsets(*((1 - end, 1 - first) for first, end in mirrored))
    rows = _Offsets(rows.touched, rows.high, rows.low)
    regions = Products(
        (rows.touched, columns.touched),
        (rows.touched, columns.low),
        (rows.touched, columns.high),
        (rows.low, columns.touched),
        (rows.high, columns.touched),
    )
    last_column = jnp.minimum(strip * LANES + LANES, width) - 1

    def reached(
        offsets: tuple[Array, Array], first: Array | int, last: Array
    ) -> tuple[Array, Array]:
        """The first pixel and the end of those at the offsets from the first to the last output."""
        low, high = offsets
        return first + low, jnp.where(low < high, last + high, first + low)

    def add_row(row: Array, spoilt: Products[Array]) -> Products[Array]:
        def add_strip(number: Array, spoilt: Products[Array]) -> Products[Array]:
            column = number * LANES + lanes.index()
            finite = non_finite_pixels.is_finite(read(row, number))

            def mark(
                so_far: Array, region: tuple[tuple[Array, Array], tuple[Array, Array]]
            ) -> Array:
                (first_row, end_row), (first, end) = (
                    reached(region[0], 0, height - 1),
                    reached(region[1], strip * LANES, last_column),
                )
                end = jnp.where((row >= first_row) & (row < end_row), end, first)
                inside = (column >= first) & (column < end)
                marked = jnp.where(inside, jnp.full_like(so_far, jnp.nan), so_far)
                return jnp.where(finite, so_far, marked)

            return Products(*map(mark, spoilt, regions))

        in_row: Products[Array] = lax.fori_loop(0, strips, add_strip, spoilt)
        return in_row

    nothing = Products(*(lanes.zeros() for _ in Products._fields))
    result: Products[Array] = lax.fori_loop(0, height, add_row, nothing)
    return result


class _Offsets(NamedTuple):
    """Pixels along an axis, as the offsets of the first and of the end from an output.

    Attributes:
      touched: those that a box overlaps by a positive length.
      low: the pixel before the first whole one.
      high: the pixel after the last whole one.
    """

    touched: tuple[Array, Array]
    low: tuple[Array, Array]
    high: tuple[Array, Array]

    @classmethod
    def along(cls, axis: Axis) -> Self:
        """The offsets of a box along an axis."""
        low, high = (axis.first - 1, axis.first), (axis.end, axis.end + 1)
        return cls(non_finite_pixels.touched(axis), low, high)


def from_products(
    products: Products[Array], boxes: Box, theta: Array, shape: tuple[int, ...], *, normalize: bool
) -> Array:
    """Puts the gradient with respect to the boxes, `(N, C, F, 4)`, together.

    Args:
      products: the inner products, `(N, C, F)` each.
      boxes: the parameters of the boxes, mirrored along y, `(C, F)` each.
      theta: the boxes, `(C, F, 4)`.
      shape: `(..., H, W)`.
      normalize: whether outputs are means.
    """
    theta = theta[None]  # The same for all images.
    scale_x, scale_y = boxes.along_x.scale[None], boxes.along_y.scale[None]
    extent_y, extent_x = bounds.extents_anew(theta, *shape[-2:])
    along_x, along_y = area.scales(theta, normalize=normalize)
    mean = products.integral * scale_x * scale_y
    # The kernel knows one pixel of a box within one pixel, along y that of the mirrored box.
    products = products._replace(
        low_x=jnp.where(extent_x.within_pixel, products.high_x, products.low_x),
        high_y=jnp.where(extent_y.within_pixel, products.low_y, products.high_y),
    )
    sides = (
        (products.low_x * scale_y, products.high_x * scale_y, extent_x, along_x),
        (products.low_y * scale_x, products.high_y * scale_x, extent_y, along_y),
    )
    gradients = []
    for low, high, extent, scale in sides:
        # The kernel knows swapped bounds in order.
        swapped = box_params.is_swapped(extent)
        low, high = jnp.where(swapped, high, low), jnp.where(swapped, low, high)
        through_area = mean * scale if normalize else 0
        gradients += [through_area - low * scale, high * scale - through_area]
    return jnp.stack(gradients, axis=-1)
