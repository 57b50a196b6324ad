"""The gradient with respect to boxes.

The kernel computes inner products of the gradient with respect to the output with the integrals
over boxes and with the pixels along each side of the boxes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.common import area, bounds
from jaxbox_kernels.mosaic_gpu import box_params, compensated, grid, lanes, sliding_window
from jaxbox_kernels.mosaic_gpu.box_params import Box, Tables
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums
from jaxbox_kernels.mosaic_gpu.sliding_window import Columns, Window

# The number of rows whose reads are under way together. The filter takes more, but here a window
# has three sums, and five products are in registers too.
_ROWS = 2


class Products(NamedTuple):
    """Inner products with the gradient with respect to the output; in the kernel, sums of a lane.

    They are without the boxes' scales.

    Attributes:
      integral: those with the integrals over boxes.
      low_x: those with the integrals along y over the pixels before the first whole ones along x.
      high_x: those with the integrals along y over the pixels after the last whole ones along x.
      low_y: those with the integrals along x over the pixels before the first whole ones along y.
      high_y: those with the integrals along x over the pixels after the last whole ones along y.
    """

    integral: Array
    low_x: Array
    high_x: Array
    low_y: Array
    high_y: Array


def inner_products(
    source: RowSums, g: Array, inverse_units: Array, boxes: Tables, shape: tuple[int, ...]
) -> Products:
    """Computes inner products, `(N, C, F)`, in units of the planes of `x` and of `g`.

    Args:
      source: prefix sums over the columns of the input's rows.
      g: the gradient with respect to the output, `(N * C * F * H, padded(W))`.
      inverse_units: the factors of `g` for each plane of the input, `(N * C,)`.
      boxes: the parameters of the boxes.
      shape: `(N, C, F, H, W)`.
    """
    planes, strips, number = grid.size(shape)
    each = len(Products._fields)
    kernel = plgpu.kernel(
        functools.partial(_inner_products, shape=shape),
        out_type=jax.ShapeDtypeStruct((planes * number, strips, each), jnp.float32),
        grid=(planes, strips, number),
        grid_names=grid.NAMES,
        compiler_params=lanes.COMPILER_PARAMS,
    )
    sums = jnp.sum(kernel(source, g, inverse_units, boxes), 1).reshape(*shape[:3], each)
    return Products(*jnp.moveaxis(sums, -1, 0))


def _inner_products(
    source: RowSums,
    g: Array,
    inverse_units: Array,
    boxes: Tables,
    out: Array,
    *,
    shape: tuple[int, ...],
) -> None:
    height = shape[-2]
    box, plane, strip, target = program = grid.program(boxes, shape)
    columns = sliding_window.columns_reader(source, program, shape, whole=False)
    read = sliding_window.only_inside(columns, height)
    rows = lanes.largest_divisor(height, _ROWS)
    inverse_unit = inverse_units[plane]

    def advance_rows(
        group: Array, carry: tuple[Window[Columns], list[compensated.Sum]]
    ) -> tuple[Window[Columns], list[compensated.Sum]]:
        window, products = carry
        for row in (group * rows + row for row in range(rows)):
            values = g[target * height + row, pl.ds(strip * LANES, LANES)]
            gradient = lanes.to_float32(values) * inverse_unit
            seen, window = sliding_window.advance(read, read, window, box.along_y, row)
            factors = Products(*seen.integral, seen.low.integral, seen.high.integral)
            products = [
                compensated.add(product, gradient * value)
                for product, value in zip(products, factors, strict=True)
            ]
        return window, products

    zero = lanes.zeros()
    window = sliding_window.init(read, Columns(zero, zero, zero), box.along_y, jnp.int32(0), height)
    products = [compensated.zeros() for _ in Products._fields]
    _, products = lax.fori_loop(0, height // rows, advance_rows, (window, products))
    for index, product in enumerate(products):
        out[target, strip, index] = jnp.sum(product.value)


def from_products(
    products: Products, boxes: Box, theta: Array, shape: tuple[int, ...], *, normalize: bool
) -> Array:
    """Puts the gradient with respect to the boxes, `(N, C, F, 4)`, together.

    Args:
      products: the inner products, `(N, C, F)` each.
      boxes: the parameters of the boxes, `(C, F)` each.
      theta: the boxes, `(C, F, 4)`.
      shape: `(..., H, W)`.
      normalize: whether outputs are means.
    """
    theta = theta[None]  # The same for all images.
    scale_x, scale_y = boxes.along_x.scale[None], boxes.along_y.scale[None]
    extent_y, extent_x = bounds.extents(theta, *shape[-2:])
    along_x, along_y = area.scales(theta, normalize=normalize)
    mean = products.integral * scale_x * scale_y
    sides = (
        (products.low_x * scale_y, products.high_x * scale_y, extent_x, along_x),
        (products.low_y * scale_x, products.high_y * scale_x, extent_y, along_y),
    )
    gradients = []
    for low, high, extent, scale in sides:
        # The kernel knows one pixel of a box within one pixel, and swapped bounds in order.
        low = jnp.where(extent.low.offset == extent.high.offset, high, low)
        swapped = box_params.is_swapped(extent)
        low, high = jnp.where(swapped, high, low), jnp.where(swapped, low, high)
        through_area = mean * scale if normalize else 0
        gradients += [through_area - low * scale, high * scale - through_area]
    return jnp.stack(gradients, axis=-1)
