"""Inner products of the output's gradient with the integral, and with what each side cuts."""

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

# The integral, and the sides in theta's order: a low side moves out of the box as its coordinate
# grows.
_SIGNS = (1, -1, 1, -1, 1)
# As for the filter, but with more in registers: three sums are walked and five products kept.
_ROWS = 2


def inner_products(source: RowSums, g: Array, boxes: Tables, shape: tuple[int, ...]) -> Array:
    """With the integrals, then with their derivatives by the sides in theta's order.

    `g` is `(N * C * F * H, padded(W))`, `shape` `(N, C, F, H, W)`, the result `(N, C, F, 5)`.
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

    def take_steps(group: Array, carry: tuple[Columns, list[Array]]) -> tuple[Columns, list[Array]]:
        total, products = carry
        for row in (group * rows + row for row in range(rows)):
            gradient = g[target * height + row, pl.ds(strip * LANES, LANES)].astype(jnp.float32)
            seen, total = sliding_window.step(read, read, total, box, row, whole=False)
            factors = (*seen.integral, seen.low.integral, seen.high.integral)
            products = [
                product + gradient * factor
                for product, factor in zip(products, factors, strict=True)
            ]
        return total, products

    zero = lanes.zeros()
    total = sliding_window.begin(read, Columns(zero, zero, zero), box, jnp.int32(0), height)
    _, products = lax.fori_loop(0, height // rows, take_steps, (total, [zero] * len(_SIGNS)))
    for index, (sign, product) in enumerate(zip(_SIGNS, products, strict=True)):
        out[target, strip, index] = sign * jnp.sum(product)
