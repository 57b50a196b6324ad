"""The kernel of the gradient with respect to boxes.

It computes inner products of the gradient with respect to the output with the integrals over boxes
and with the pixels along each side of the boxes.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu import grid, lanes, sliding_window
from jaxbox_kernels.mosaic_gpu.box_params import Tables
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums
from jaxbox_kernels.mosaic_gpu.sliding_window import Columns

# The signs of the integral and of the bounds in theta's order: as a low bound grows, the box loses
# the pixels in which the bound lies.
_SIGNS = (1, -1, 1, -1, 1)
# The number of rows whose reads are under way together. The filter takes more, but here a window
# has three sums, and five products are in registers too.
_ROWS = 2


def inner_products(source: RowSums, g: Array, boxes: Tables, shape: tuple[int, ...]) -> Array:
    """Computes inner products with the integrals and with their derivatives.

    Args:
      source: prefix sums over the columns of the input's rows.
      g: the gradient with respect to the output, `(N * C * F * H, padded(W))`.
      boxes: the parameters of the boxes.
      shape: `(N, C, F, H, W)`.

    Returns:
      `(N, C, F, 5)`: with the integrals, then with the derivatives with respect to the bounds in
      theta's order.
    """
    planes, strips, number = grid.size(shape)
    kernel = plgpu.kernel(
        functools.partial(_inner_products, shape=shape),
        out_type=jax.ShapeDtypeStruct((planes * number, strips, len(_SIGNS)), jnp.float32),
        grid=(planes, strips, number),
        grid_names=grid.NAMES,
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return jnp.sum(kernel(source, g, boxes), 1).reshape(*shape[:3], len(_SIGNS))


def _inner_products(
    source: RowSums,
    g: Array,
    boxes: Tables,
    out: Array,
    *,
    shape: tuple[int, ...],
) -> None:
    height = shape[-2]
    box, _, strip, target = program = grid.program(boxes, shape)
    columns = sliding_window.columns_reader(source, program, shape, whole=False)
    read = sliding_window.only_inside(columns, height)
    rows = lanes.largest_divisor(height, _ROWS)

    def advance_rows(
        group: Array, carry: tuple[Columns, list[Array]]
    ) -> tuple[Columns, list[Array]]:
        total, products = carry
        for row in (group * rows + row for row in range(rows)):
            gradient = g[target * height + row, pl.ds(strip * LANES, LANES)].astype(jnp.float32)
            seen, total = sliding_window.advance(read, read, total, box, row, whole=False)
            # The integral, then the pixels along x_min, x_max, y_min and y_max.
            factors = (*seen.integral, seen.low.integral, seen.high.integral)
            products = [
                product + gradient * factor
                for product, factor in zip(products, factors, strict=True)
            ]
        return total, products

    zero = lanes.zeros()
    total = sliding_window.init(read, Columns(zero, zero, zero), box, jnp.int32(0), height)
    _, products = lax.fori_loop(0, height // rows, advance_rows, (total, [zero] * len(_SIGNS)))
    for index, (sign, product) in enumerate(zip(_SIGNS, products, strict=True)):
        out[target, strip, index] = sign * jnp.sum(product)
