"""The adjoint filter: what the output's gradient gives to the pixels of the input.

Down the rows, each box walks reflected. Along a row its sums then enter where the box ends and
leave where it begins, seen from the right; `row_prefix_sums.sum_rows_back` adds them up.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu import box_params, lanes, sliding_window
from jaxbox_kernels.mosaic_gpu.box_params import Box, Tables
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# Shared memory of one program, in bytes: two programs fit on a multiprocessor.
_SHARED_MEMORY = 100 * 1024
# The most that one program may have on Hopper and Blackwell.
LARGEST_SHARED_MEMORY = 227 * 1024
# Boxes of a plane that one program adds up, and rows that it handles between barriers.
_BOXES, _ROWS = 4, 4
# Programs that keep every multiprocessor of an H100 (132) or a B200 (148) busy with two or more;
# planes are divided into so many parts of at least as many rows as walks down a box take to begin.
_PROGRAMS, _LEAST_ROWS = 296, 32


class _Tile(NamedTuple):
    boxes: int
    rows: int


def shared_memory(width: int, boxes: int = 1, rows: int = 1) -> int:
    """Bytes that a program needs; by default the least."""
    padded = lanes.padded(width)
    return 4 * boxes * (padded + rows * (padded + 2 * LANES))


def _tile(boxes: int, height: int, width: int) -> _Tile:
    """The largest tile that leaves room for a second program, else the smallest."""
    boxes, rows = lanes.largest_divisor(boxes, _BOXES), lanes.largest_divisor(height, _ROWS)
    while rows > 1 and shared_memory(width, boxes, rows) > _SHARED_MEMORY:
        rows = lanes.largest_divisor(height, rows - 1)
    while boxes > 1 and shared_memory(width, boxes, rows) > _SHARED_MEMORY:
        boxes = lanes.largest_divisor(boxes, boxes - 1)
    return _Tile(boxes, rows)


def _parts(planes: int, height: int, rows: int) -> int:
    """Into how many parts to divide the rows of a plane."""
    fitting = max(1, height // _LEAST_ROWS)
    wanted = min(fitting, -(-_PROGRAMS // planes))
    return lanes.largest_divisor(height // rows, wanted)


def entries(g: Array, boxes: Tables, shape: tuple[int, ...], *, whole: bool) -> Array:
    """What enters each pixel, then what ends beyond the right border: `(groups, N*C*H, 2*W)`.

    `g` is `(N * C * F * H, padded(W))`, `shape` `(N, C, F, H, W)`; the result's `W` is padded too.
    """
    batch, channels, number, height, width = shape
    tile = _tile(number, height, width)
    padded = lanes.padded(width)
    groups = number // tile.boxes
    parts = _parts(batch * channels * groups, height, tile.rows)
    kernel = plgpu.kernel(
        functools.partial(_entries, shape=shape, tile=tile, whole=whole),
        out_type=jax.ShapeDtypeStruct((groups, batch * channels * height, 2 * padded), jnp.float32),
        scratch_types=[
            plgpu.SMEM((tile.boxes, padded), jnp.float32),
            plgpu.SMEM((tile.boxes, tile.rows, padded + 2 * LANES), jnp.float32),
        ],
        grid=(groups, batch * channels, parts),
        grid_names=("group", "plane", "part"),
        compiler_params=lanes.COMPILER_PARAMS,
    )
    return kernel(g, boxes)


def _entries(
    g: Array,
    boxes: Tables,
    out: Array,
    totals: Array,
    integrals: Array,
    *,
    shape: tuple[int, ...],
    tile: _Tile,
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

    def reader(box: int, strip: Array) -> sliding_window.Reader[Array]:
        source = plane * number + first_box + box

        def read(row: Array) -> Array:
            return g[source * height + row, pl.ds(strip * LANES, LANES)].astype(jnp.float32)

        return sliding_window.only_inside(read, height)

    def begin(strip: Array, _: None) -> None:
        for index, box in enumerate(each):
            total = sliding_window.begin(
                reader(index, strip), lanes.zeros(), box, first_row, height
            )
            totals[index, pl.ds(strip * LANES, LANES)] = total

    for index in range(tile.boxes):
        for row in range(tile.rows):
            integrals[index, row, 0:LANES] = lanes.zeros()
            integrals[index, row, LANES + padded :] = lanes.zeros()
    lax.fori_loop(0, strips, begin, None)

    def walk_tile(step: Array, _: None) -> None:
        row = first_row + step * tile.rows
        lax.fori_loop(0, strips, functools.partial(walk_strip, row), None)
        plgpu.commit_smem()
        lax.fori_loop(0, strips, functools.partial(shift_strip, row), None)
        plgpu.commit_smem()

    def walk_strip(first: Array, strip: Array, _: None) -> None:
        column = pl.ds(strip * LANES, LANES)
        beyond = [lanes.zeros()] * tile.rows
        for index, box in enumerate(each):
            read, total = reader(index, strip), totals[index, column]
            weight = _beyond(box, strip, padded, whole=whole)
            for row in range(tile.rows):
                seen, total = sliding_window.step(read, read, total, box, first + row, whole=whole)
                scaled = seen.integral * box.scale
                integrals[index, row, pl.ds(LANES + strip * LANES, LANES)] = scaled
                beyond[row] = beyond[row] + weight * scaled
            totals[index, column] = total
        for row, values in enumerate(beyond):
            out[group, plane * height + first + row, pl.ds(padded + strip * LANES, LANES)] = values

    def shift_strip(first: Array, strip: Array, _: None) -> None:
        taps = [
            (index, jnp.clip(strip * LANES - shift, -LANES, padded), weight)
            for index, box in enumerate(each)
            for shift, weight in _ends(box, whole=whole)
        ]
        for row in range(tile.rows):
            total = lanes.zeros()
            for index, start, weight in taps:
                total = total + weight * integrals[index, row, pl.ds(LANES + start, LANES)]
            out[group, plane * height + first + row, pl.ds(strip * LANES, LANES)] = total

    lax.fori_loop(0, rows_of_part // tile.rows, walk_tile, None)


def _ends(box: Box, *, whole: bool) -> list[tuple[Array, Array]]:
    """By how much a box shifts what it gives to a row's running sum from the right; and weights."""
    low, high = box.low_x, box.high_x
    one = jnp.float32(1)
    if whole:
        return [(high.shift - 1, one), (low.shift - 1, -one)]
    return [
        (high.shift, high.fraction),
        (high.shift - 1, 1 - high.fraction),
        (low.shift, -low.fraction),
        (low.shift - 1, low.fraction - 1),
    ]


def _beyond(box: Box, strip: Array, padded: int, *, whole: bool) -> Array:
    """What of a box at each column of a strip enters the sum beyond the right border."""
    position = strip * LANES + lanes.index()
    total = lanes.zeros()
    for shift, weight in _ends(box, whole=whole):
        total = total + jnp.where(position + shift >= padded, weight, 0)
    return total
