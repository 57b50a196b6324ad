"""Box convolution by running sums: the cost does not depend on the sizes of the boxes.

Works on planes: `x` is `(N, C, H, W)`, `theta` `(C, F, 4)`, the output `(N, C, F, H, W)`. Inside,
batch and channels are one axis `P`.

The integral over a box is, along each axis, a difference of running sums at its two sides, linear
between pixel edges. All outputs of a box shift its sides alike, so that every read is a slice which
starts where the box says. Forward, all boxes of a channel share one image of sums over both axes.
Backward, `D_y^T g` serves the gradient by `x`, whose sum over a channel's boxes leaves one plane to
sum up along the rows, and the sides along x; `D_x x` serves those along y.

Float32 sums over a whole image are too coarse for a small box (16 % off at 512 x 1024). So sums
down columns are of whole numbers, which subtract exactly, and only sums along one row are rounded.
Of the image they are less the mean of each row: the numbers are smaller, and zero beyond the right
border as they are beyond the left one.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxbox_kernels.backend import Gradients, Options
from jaxbox_kernels.common import bounds as sides
from jaxbox_kernels.common.area import grad_through_area, scale
from jaxbox_kernels.common.bounds import Interval, Side
from jaxbox_kernels.xla import prefix_sums as running_sums

# Rows beyond the image that integrals over rows have: slices reach so far over the ends of theirs.
_BEFORE, _AFTER = 1, 1
# What is computed at a time where there is more than twice as much.
_OUTPUTS_AT_ONCE = 2**20
# So many boxes of a channel go into the gradient by its plane at once: more take XLA longer to
# compile than they save.
_BOXES_AT_ONCE = 4
# At most so many neighbouring rows are added up where they are made.
_ROWS = 8


class _Image(NamedTuple):
    """An image summed over both axes, less the mean of each row, in whole numbers."""

    sums: Array  # (P, H, W); the last column, which would be 0, has the rows' means times W / 8
    unit: Array  # (P, 1, 1): what `sums` are multiples of
    mean: Array  # (P, 1): the image's, not contained in `sums`


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward`."""
    filter_planes = functools.partial(_filter, options=options)
    planes, theta = _merge_batch(x, theta)
    output = _in_pieces(filter_planes, theta, planes)
    return output.reshape(*x.shape[:2], *output.shape[1:])


def _filter(theta: Array, x: Array, *, options: Options) -> Array:
    height, width = x.shape[-2:]
    along_y, along_x = sides.intervals(theta, height, width, whole_pixels=options.whole_pixels)
    scales = scale(theta, normalize=options.normalize)
    image = _integrate(x)
    sums, of_means = (_whole_boxes if options.whole_pixels else _boxes)(
        image.sums, along_y, along_x
    )

    means = of_means.astype(x.dtype) * (image.unit * (8 / width))
    means += image.mean[..., None] * sides.covered(along_y, height, x.dtype)
    columns = sides.covered(along_x, width, x.dtype) * scales[..., None]
    units = image.unit[..., 0] * scales
    means, columns, units = lax.optimization_barrier((means, columns, units))
    return sums.astype(x.dtype) * units[..., None, None] + means[..., None] * columns[:, :, None]


def _merge_batch(x: Array, theta: Array) -> tuple[Array, Array]:
    batch = x.shape[0]
    return lax.collapse(x, 0, 2), jnp.tile(theta, (batch, 1, 1))


def _in_pieces[Result](function: Callable[..., Result], theta: Array, *planes: Array) -> Result:
    """Applies a function of boxes and planes to few planes at a time.

    What it needs for them stays in the caches. And glibc gives blocks of more than 32 MB back at
    once: the page faults at the next call would cost more than the arithmetic.
    """
    number, boxes = theta.shape[:2]
    fitting = max(1, _OUTPUTS_AT_ONCE // (boxes * math.prod(planes[0].shape[-2:])))
    if number <= 2 * fitting:
        return function(theta, *planes)
    piece = max(size for size in range(1, fitting + 1) if number % size == 0)
    pieces = [array.reshape(-1, piece, *array.shape[1:]) for array in (theta, *planes)]
    results = lax.map(lambda arrays: function(*arrays), pieces)
    return jax.tree.map(lambda array: lax.collapse(array, 0, 2), results)


def _integrate(x: Array) -> _Image:
    width = x.shape[-1]
    sums, means = running_sums.centred_along(x)
    mean = jnp.mean(means, -1, keepdims=True)
    # The means travel with the sums. They have as many digits there as their effect needs.
    last = np.zeros((1, 1, *sums.shape[-2:]), x.dtype)
    last.flat[width - 1] = width / 8
    sums += lax.optimization_barrier(means - mean)[..., None, None] * last
    # No sum over a box is larger than twice the largest of the columns' sums.
    largest = jnp.max(jnp.sum(_thin_out(jnp.abs(sums)), 1), (-1, -2))
    numbers, unit = _to_whole_numbers(sums, largest[:, None, None, None])
    numbers = lax.optimization_barrier(running_sums.join_blocks(numbers, width))
    return _Image(lax.optimization_barrier(running_sums.down(numbers)), unit[..., 0], mean)


def _to_whole_numbers(x: Array, largest: Array) -> tuple[Array, Array]:
    """`x` in multiples of a unit such that `2 * largest` fits into the whole numbers."""
    integer, bits = (jnp.int64, 62) if x.dtype == jnp.float64 else (jnp.int32, 30)
    unit = jnp.maximum(largest * 1.001, jnp.finfo(x.dtype).tiny * 2.0**bits) * 2.0**-bits
    unit = lax.optimization_barrier(unit)
    return jnp.round(x * (1 / unit)).astype(integer), unit


def _boxes(sums: Array, along_y: Interval, along_x: Interval) -> tuple[Array, Array]:
    """Integral over every box, and over its rows of the last column: `(P, F, H, W)`, `(P, F, H)`.

    The columns are integrated after the rows: 8 reads where both at once would take 16.
    """
    width = sums.shape[-1]
    rows = lax.optimization_barrier(_integrate_rows(sums, along_y))
    reads = _read_columns(lax.collapse(rows, 1), _row_starts(rows), along_x.shifts, width)
    return along_x.integral(reads), rows[:, :, _BEFORE:-_AFTER, -1]


def _whole_boxes(sums: Array, along_y: Interval, along_x: Interval) -> tuple[Array, Array]:
    """The same of boxes with all sides on pixel edges: 4 reads, nothing between the axes."""
    height, width = sums.shape[1:]
    table = lax.collapse(_with_borders(sums), 1)
    starts = [sides.count(shift, height) * width for shift in along_y.shifts]
    reads = [_read_columns(table, start, along_x.shifts, width) for start in starts]
    columns = [right - left for left, right in reads]
    last = [_slices(table, start + width - 1, 1)[..., 0] for start in starts]
    return columns[1] - columns[0], last[1] - last[0]


def _integrate_rows(sums: Array, along_y: Interval) -> Array:
    """Integral over every box's rows, of whole numbers: `(P, F, _BEFORE + H + _AFTER, W)`.

    The rows that are too many are there to be read beyond the others' ends.
    """
    height, width = sums.shape[1:]
    counts = [sides.count(s, height, before=_BEFORE, after=_AFTER) for s in along_y.shifts]
    starts = [jnp.maximum(count - 1, 0) * width for count in counts]
    above = [count > 0 for count in counts]
    table, starts = lax.optimization_barrier((lax.collapse(sums, 1), starts))
    reads = [
        jnp.where(some[..., None], _slices(table, start, width), 0)
        for start, some in zip(starts, above, strict=True)
    ]
    whole, part = along_y.difference(reads)
    return whole if part is None else whole + jnp.round(part).astype(whole.dtype)


def _row_starts(rows: Array) -> Array:
    """Where each row begins in planes with `_BEFORE` and `_AFTER`, flattened: `(1, F, H)`."""
    boxes, height, width = rows.shape[1:]
    number = np.arange(boxes * height, dtype=np.int32).reshape(1, boxes, height)
    return jnp.asarray(number[:, :, _BEFORE:-_AFTER] * width)


def _read_columns(table: Array, starts: Array, shifts: list[Array], width: int) -> list[Array]:
    """Running sums of rows that start there, at each output's column plus the shift.

    `starts` is `(P, F, H)`, either axis perhaps 1; returns `(P, F, H, W)` for each shift.
    """
    # The sums have no column 0, hence the 1; and of their last column they have something else.
    columns = [jnp.clip(shift - 1, -width, width) for shift in shifts]
    reached = [sides.inside(column, width, margin=1) for column in columns]
    places = [starts + column[..., None] for column in columns]
    # The sums too, lest XLA finds slices that others have read and keeps them instead of reading.
    table, places = lax.optimization_barrier((table, places))
    return [
        jnp.where(inside[:, :, None], _slices(table, place, width), 0)
        for place, inside in zip(places, reached, strict=True)
    ]


def _with_borders(x: Array) -> Array:
    """Adds a row of zeros above and below each plane, to be read beyond the rows' ends."""
    zeros = jnp.zeros_like(x[:, :1])
    parts = lax.optimization_barrier((zeros, x, zeros))
    return lax.optimization_barrier(jnp.concatenate(parts, axis=1))


def _slices(table: Array, starts: Array, length: int) -> Array:
    """Slices of flattened planes: `(P, L)` and `(P, ..., K)` to `(P, ..., K, length)`."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(starts.ndim,),
        collapsed_slice_dims=(),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    return lax.gather(
        table,
        starts[..., None],
        numbers,
        slice_sizes=(1, length),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward`."""
    batch, channels, boxes, height, width = g.shape

    def of_planes(theta: Array, g: Array, x: Array | None = None) -> tuple[Array | None, ...]:
        return _back(x, theta, g, options)

    g, theta = _merge_batch(g, theta)
    images = () if x is None else (lax.collapse(x, 0, 2),)
    dx, dtheta = _in_pieces(of_planes, theta, g, *images)
    if dx is not None:
        dx = dx.reshape(batch, channels, height, width)
    if dtheta is not None:
        dtheta = jnp.sum(dtheta.reshape(batch, channels, boxes, 4), 0)
    return dx, dtheta


def _back(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    along_y, along_x = sides.intervals(theta, *g.shape[-2:], whole_pixels=options.whole_pixels)
    scales = scale(theta, normalize=options.normalize)
    back = _filter_back_along_y(g, theta, options.whole_pixels)
    dx = _filter_back_along_x(back, along_x, scales) if options.needs_dx else None
    if x is None:
        return dx, None
    inner, by_sides = _inner_products(x, g, back, along_y, along_x)
    dtheta = scales[..., None] * by_sides
    if options.normalize:
        dtheta += grad_through_area(theta, scales * inner)
    return dx, dtheta


def _filter_back_along_y(g: Array, theta: Array, whole_pixels: bool) -> Array:
    """`D_y^T g`, with the rows of `_integrate_rows`: each box integrates its own plane."""
    planes, boxes, height, width = g.shape
    along_y, _ = sides.intervals(sides.mirrored(theta), height, width, whole_pixels=whole_pixels)
    longest = jnp.minimum(jnp.abs(theta[..., 3] - theta[..., 2]) + 2, height)
    largest = jnp.max(jnp.abs(g), (-1, -2)) * longest
    numbers, unit = _to_whole_numbers(g, largest[..., None, None])
    sums = lax.optimization_barrier(running_sums.down(numbers))
    of_planes = jax.tree.map(lambda side: lax.collapse(side, 0, 2)[:, None], along_y)
    rows = _integrate_rows(lax.collapse(sums, 0, 2), of_planes)
    rows = rows.reshape(planes, boxes, *rows.shape[2:])
    return lax.optimization_barrier(rows.astype(g.dtype) * unit)


def _filter_back_along_x(back: Array, along_x: Interval, scales: Array) -> Array:
    """`D_x^T` of that, summed over a channel's boxes: `(P, H, W)`.

    Seen from the right end of a row, each value enters a running sum where its box ends and leaves
    it where the box begins.
    """
    width = back.shape[-1]
    column = jnp.arange(width, dtype=jnp.int32)[None, None]
    starts, weights = [], []
    for shift, weight in zip(along_x.shifts, along_x.weights, strict=True):
        reached = sides.inside(-shift, width) & (column > 0)
        starts.append(_row_starts(back) - shift[..., None])
        weights.append(jnp.where(reached, (scales * weight)[..., None], 0)[:, :, None])

    # Where a box ends beyond the image it has one weight, exactly 0 if it begins there too.
    reads = [(column + shift[..., None] >= width).astype(back.dtype) for shift in along_x.shifts]
    beyond = scales[..., None, None] * along_x.integral([read[:, :, None] for read in reads])
    # XLA would compute them anew for each row.
    starts, weights, beyond = lax.optimization_barrier((starts, weights, beyond))

    def changes(back: Array, box: int) -> list[Array]:
        table = lax.collapse(back, 1)
        return [
            weight[:, box] * _slices(table, start[:, box], width)
            for start, weight in zip(starts, weights, strict=True)
        ]

    def ends(back: Array, box: int) -> list[Array]:
        return [beyond[:, box] * back[:, box, _BEFORE:-_AFTER]]

    sums = running_sums.along(_add_boxes(changes, back))
    total = jnp.sum(_add_boxes(ends, back), -1, keepdims=True) + sums[..., -1:]
    return lax.optimization_barrier(total) - sums


def _add_boxes(terms: Callable[[Array, int], list[Array]], back: Array) -> Array:
    """Adds up the terms of all boxes of a channel, in groups."""
    boxes, totals = back.shape[1], []
    for first in range(0, boxes, _BOXES_AT_ONCE):
        # XLA would keep what two groups read instead of reading it.
        table = lax.optimization_barrier(back)
        group = range(first, min(first + _BOXES_AT_ONCE, boxes))
        total = functools.reduce(jnp.add, (term for box in group for term in terms(table, box)))
        totals.append(lax.optimization_barrier(total))
    return functools.reduce(jnp.add, totals)


def _inner_products(
    x: Array, g: Array, back: Array, along_y: Interval, along_x: Interval
) -> tuple[Array, Array]:
    """Inner products with `g` of each box's integral, and of its derivatives by the four sides."""
    back = back[:, :, _BEFORE:-_AFTER]
    columns = _filter_along_x(x, along_x)
    bordered = _with_borders(x)
    low_x, high_x = (_inner(back, _read_pixels(bordered, side)) for side in along_x)
    low_y, high_y = (_inner(g, _read_rows(columns, side)) for side in along_y)
    return _inner(back, columns), jnp.stack([-low_x, high_x, -low_y, high_y], axis=-1)


def _filter_along_x(x: Array, along_x: Interval) -> Array:
    """`D_x x`, of every box of a channel: `(P, F, H, W)`."""
    width = x.shape[-1]
    sums, means = running_sums.centred_along(x)
    sums = _with_borders(running_sums.join_blocks(sums, width))
    starts = _row_starts(sums[:, None])
    centred = along_x.integral(_read_columns(lax.collapse(sums, 1), starts, along_x.shifts, width))
    covered = lax.optimization_barrier(sides.covered(along_x, width, x.dtype))
    return lax.optimization_barrier(centred + means[:, None, :, None] * covered[:, :, None])


def _read_pixels(bordered: Array, side: Side) -> Array:
    """The pixel that a side along x cuts, of an image with borders: `(P, F, H, W)`."""
    width = bordered.shape[-1]
    starts = _row_starts(bordered[:, None]) + side.shift[..., None]
    inside = sides.inside(side.shift, width)
    table, starts, inside = lax.optimization_barrier((lax.collapse(bordered, 1), starts, inside))
    return jnp.where(inside[:, :, None], _slices(table, starts, width), 0)


def _read_rows(columns: Array, side: Side) -> Array:
    """The row that a side along y cuts: `(P, F, H, W)`."""
    boxes, height, width = columns.shape[1:]
    first = jnp.arange(boxes, dtype=jnp.int32)[None, :, None] * height
    row = jnp.arange(height, dtype=jnp.int32)[None, None] + side.shift[..., None]
    row = jnp.clip(row, 0, height - 1)
    starts, inside = (first + row) * width, sides.inside(side.shift, height)
    table, starts, inside = lax.optimization_barrier((lax.collapse(columns, 1), starts, inside))
    return jnp.where(inside[..., None], _slices(table, starts, width), 0)


def _inner(a: Array, b: Array) -> Array:
    """Inner product of each box's planes: `(P, F, H, W)` twice to `(P, F)`."""
    return jnp.sum(_thin_out(a * b, axis=2), (-1, -2))


def _thin_out(values: Array, axis: int = 1) -> Array:
    """Adds up neighbouring rows where the values are made: XLA vectorizes both only together."""
    height = values.shape[axis]
    window = max(rows for rows in range(1, _ROWS + 1) if height % rows == 0)
    windows = (height // window, window)
    rows = values.reshape(*values.shape[:axis], *windows, *values.shape[axis + 1 :])
    added = (lax.index_in_dim(rows, row, axis + 1, keepdims=False) for row in range(window))
    return lax.optimization_barrier(functools.reduce(jnp.add, added))
