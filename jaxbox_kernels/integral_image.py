"""Box convolution by integral images: the cost does not depend on the sizes of the boxes.

Works on planes: `x` is `(N, C, H, W)`, `theta` `(C, F, 4)`, the output `(N, C, F, H, W)`.

Let `S[m, n]` be the sum of an image's first `m` rows and `n` columns. The integral over a box whose
sides lie on pixel edges is `S[d, b] - S[c, b] - S[d, a] + S[c, a]`; in between it is linear in each
side. All outputs of one box shift these corners alike, so that every read is a slice which
starts where the box says, and all boxes of a channel share one `S`.

Float32 sums over a whole image are too coarse for a small box (16 % off at 512 x 1024). So `S` is
in whole numbers, which subtract exactly, and only sums along one row are rounded. It is of the
image less the mean of each row: its numbers are smaller, and it is zero beyond the right border as
it is beyond the left one. The means come back in closed form.

The gradient by the image is the same filter, with boxes mirrored at the origin, of the gradient by
the output, summed over a channel's boxes.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jaxbox_kernels.normalization import gradient_through_area, scale

# Sums along rows multiply blocks of this many pixels by a triangular matrix.
_COLUMNS = 16
# Sums down columns add windows of this many rows, then windows of those sums.
_ROWS = 8


class _Side(NamedTuple):
    """One side of every box along one axis: at output `j` it cuts pixel `j + shift`."""

    shift: Array  # (C, F), int32, clipped to where it still changes the result
    fraction: Array | None  # (C, F), in [0, 1]: how much of it lies below; None if nothing does


class _Interval(NamedTuple):
    """The extent of every box along one axis."""

    low: _Side
    high: _Side


class _Integral(NamedTuple):
    """`S` of every plane less the mean of each row, without column 0, then a row of zeros."""

    sums: Array  # (N, C, (H + 2) * W), whole numbers
    unit: Array  # (N, C, 1, 1): what they are multiples of
    row_means: Array  # (N, C, H)
    size: tuple[int, int]


def _side(coordinate: Array, size: int, *, grows_up: bool) -> _Side:
    """Splits a coordinate; on a pixel edge it belongs to the pixel into which the box grows."""
    nearest = jnp.round(coordinate)
    rest = coordinate - nearest  # In [-1/2, 1/2], and exact.
    if grows_up:
        on_edge, shift, fraction = rest >= 0.5, nearest + 1, 0.0
    else:
        on_edge, shift, fraction = rest <= -0.5, nearest - 1, 1.0
    shift = jnp.clip(jnp.where(on_edge, shift, nearest), -size, size)
    return _Side(shift.astype(jnp.int32), jnp.where(on_edge, fraction, rest + 0.5))


def _whole_side(coordinate: Array, size: int) -> _Side:
    """A side that lies on a pixel edge."""
    return _Side(jnp.clip(jnp.round(coordinate + 0.5), -size, size).astype(jnp.int32), None)


def _intervals(
    theta: Array, height: int, width: int, *, whole_pixels: bool = False
) -> tuple[_Interval, _Interval]:
    """The boxes' extents along rows (y) and along columns (x)."""

    def interval(low: Array, high: Array, size: int) -> _Interval:
        if whole_pixels:
            return _Interval(_whole_side(low, size), _whole_side(high, size))
        return _Interval(_side(low, size, grows_up=False), _side(high, size, grows_up=True))

    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return interval(y_min, y_max, height), interval(x_min, x_max, width)


def _mirrored(theta: Array) -> Array:
    """The boxes reflected through the origin: their filter is the adjoint one."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return jnp.stack([-x_max, -x_min, -y_max, -y_min], axis=-1)


def _position(size: int) -> Array:
    """Every output along an axis: `(1, 1, size)`, to go with `(C, F, 1)`."""
    return jnp.arange(size, dtype=jnp.int32)[None, None]


def _count(shift: Array, size: int) -> Array:
    """How many pixels lie before pixel `j + shift`, for every output `j`: `(C, F, size)`."""
    return jnp.clip(_position(size) + shift[..., None], 0, size)


def _inside(shift: Array, size: int, *, margin: int = 0) -> Array:
    """Whether pixel `j + shift` is one of the image's, for every output `j`: `(C, F, size)`.

    The last `margin` pixels do not count.
    """
    pixel = _position(size) + shift[..., None]
    return (pixel >= 0) & (pixel < size - margin)


def _covered(interval: _Interval, size: int, dtype: DTypeLike) -> Array:
    """Length of every box inside the image at every output: `(C, F, size)`."""

    def part(side: _Side) -> Array | float:
        if side.fraction is None:
            return 0.0
        return jnp.where(_inside(side.shift, size), side.fraction[..., None], 0)

    low, high = interval
    # Whole pixels and parts apart: their sum would lose the part's last digits.
    whole = _count(high.shift, size) - _count(low.shift, size)
    return whole.astype(dtype) + (part(high) - part(low))


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    """Pads with zeros along one axis; a negative amount crops."""
    amounts = [(0, 0, 0)] * x.ndim
    amounts[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)


def _sum_rows(x: Array) -> Array:
    """Inclusive prefix sums along the rows' axis, the last but one."""
    *batch, height, width = x.shape
    if height <= _ROWS:
        return _sum_windows(x, height)
    blocks = -(-height // _ROWS)
    if height % _ROWS:
        x = _pad(x, x.ndim - 2, 0, blocks * _ROWS - height)
    inside = _sum_windows(x.reshape(*batch, blocks, _ROWS, width), _ROWS)
    totals = _sum_rows(inside[..., -1, :])
    before = _pad(totals, x.ndim - 2, 1, -1)
    summed = (inside + before[..., None, :]).reshape(*batch, blocks * _ROWS, width)
    return summed[..., :height, :]


def _sum_windows(x: Array, window: int) -> Array:
    """Sum of each row and the `window - 1` rows before it."""
    outer = (1,) * (x.ndim - 2)
    padding = [*((0, 0) for _ in outer), (window - 1, 0), (0, 0)]
    # A NumPy zero: with a traced one JAX does not recognise the sum.
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, (*outer, window, 1), (1,) * x.ndim, padding)


def _sum_blocks(x: Array) -> Array:
    """Prefix sums within blocks along the last axis: `(..., W)` to `(..., blocks, _COLUMNS)`."""
    *batch, width = x.shape
    blocks = -(-width // _COLUMNS)
    if width % _COLUMNS:
        x = _pad(x, x.ndim - 1, 0, blocks * _COLUMNS - width)
    triangle = jnp.triu(jnp.ones((_COLUMNS, _COLUMNS), x.dtype))
    x = x.reshape(*batch, blocks, _COLUMNS)
    # Without the precision TPUs and recent GPUs would multiply in fewer than 24 bits.
    return lax.optimization_barrier(jnp.matmul(x, triangle, precision=lax.Precision.HIGHEST))


def _before(totals: Array) -> Array:
    """Sum of all blocks before each one, along the last axis."""
    return _pad(lax.cumsum(totals, axis=totals.ndim - 1), totals.ndim - 1, 1, -1)


def _centred_sums(x: Array) -> tuple[Array, Array, Array]:
    """Prefix sums of each row less its mean, within blocks; the blocks' totals; the means.

    `(N, C, H, W)` to `(N, C, H, blocks, _COLUMNS)`, `(N, C, H, blocks)` and `(N, C, H)`.
    """
    width = x.shape[-1]
    # Sums of smaller numbers are rounded less.
    plane_mean = lax.optimization_barrier(jnp.mean(x, axis=(-1, -2), keepdims=True))
    sums = _sum_blocks(x - plane_mean)
    blocks = sums.shape[-2]
    lengths = jnp.full(blocks, _COLUMNS, x.dtype).at[-1].set(width - (blocks - 1) * _COLUMNS)
    totals = sums[..., -1]
    means = jnp.sum(totals, -1) / width
    totals -= jnp.multiply.outer(means, lengths)
    # A mean is rounded, and what is missing, times a whole row, would be seen.
    rests = jnp.sum(totals, -1) / width
    totals -= jnp.multiply.outer(rests, lengths)
    means, rests, totals = lax.optimization_barrier((means, rests, totals))
    pixels = jnp.arange(1, _COLUMNS + 1, dtype=x.dtype)
    sums -= jnp.multiply.outer(means, pixels)[..., None, :]
    sums -= jnp.multiply.outer(rests, pixels)[..., None, :]
    return sums, totals, plane_mean[..., 0] + means


def _integrate(x: Array) -> _Integral:
    *batch, height, width = x.shape
    sums, totals, means = _centred_sums(x)
    # No sum over a box or a block is larger than twice the largest of the columns' sums.
    before = lax.optimization_barrier(_before(totals))[..., None]
    sizes = lax.optimization_barrier(jnp.abs(sums + before))
    largest = jnp.max(jnp.sum(sizes, -3), (-1, -2))[..., None, None]
    integer, bits = (jnp.int64, 62) if x.dtype == jnp.float64 else (jnp.int32, 30)
    unit = jnp.maximum(largest * 1.001, jnp.finfo(x.dtype).tiny * 2.0**bits) * 2.0**-bits
    unit = lax.optimization_barrier(unit)

    before = lax.optimization_barrier(_before(jnp.round(totals / unit).astype(integer)))
    whole = jnp.round(sums / unit[..., None]).astype(integer) + before[..., None]
    whole = lax.optimization_barrier(lax.collapse(whole, x.ndim - 1)[..., :width])
    # Row 0 of `S`; and one for slices of the last row that begin far right.
    border = jnp.zeros((*batch, 1, width), integer)
    parts = lax.optimization_barrier((border, _sum_rows(whole), border))
    table = lax.optimization_barrier(jnp.concatenate(parts, axis=-2))
    return _Integral(lax.collapse(table, 2), unit, means, (height, width))


def _slices(planes: Array, starts: Array, length: int) -> Array:
    """For every box and output row a slice of its plane.

    `planes` is `(N, C, L)` and `starts` `(C, ..., K)`: returns `(N, C, ..., K, length)`.
    """
    batch, inner = planes.shape[0], starts.ndim
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(0, inner + 1),
        collapsed_slice_dims=(),
        start_index_map=(2,),
        operand_batching_dims=(1,),
        start_indices_batching_dims=(0,),
    )
    return lax.gather(
        planes,
        starts[..., None],
        numbers,
        slice_sizes=(batch, 1, length),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def _per_box(values: Array) -> Array:
    """`(C, F)`, to go with `(N, C, F, H, W)`."""
    return values[None, :, :, None, None]


def _per_row(values: Array) -> Array:
    """`(..., C, F, H)`, to go with `(N, C, F, H, W)`."""
    return values[..., None] if values.ndim == 4 else values[None, ..., None]


def _per_column(values: Array) -> Array:
    """`(C, F, W)`, to go with `(N, C, F, H, W)`."""
    return values[None, :, :, None]


def _corners(integral: _Integral, rows: list[Array], columns: list[Array]) -> list[list[Array]]:
    """`S[i + row, j + column]` for every output, in units; first by column, then by row."""
    height, width = integral.size
    row_starts = [_count(row, height) * width for row in rows]
    # `sums` has no column 0, hence the 1; and of its last column, zero, only rounding is left.
    columns = [jnp.clip(column - 1, -width, width) for column in columns]
    starts = [[row + column[..., None] for row in row_starts] for column in columns]
    inside = [_inside(column, width, margin=1) for column in columns]
    # The sums too, lest XLA finds corners that others have read and keeps them instead of reading.
    sums, starts, inside = lax.optimization_barrier((integral.sums, starts, inside))
    return [
        [jnp.where(_per_column(reached), _slices(sums, start, width), 0) for start in column]
        for reached, column in zip(inside, starts, strict=True)
    ]


class _Extent(NamedTuple):
    """What a sum along one axis is made of: differences between prefix sums."""

    shifts: list[Array]
    terms: list[tuple[Array | None, tuple[int, int]]]  # weight (or 1); from and to which shifts


def _extent(interval: _Interval) -> _Extent:
    """A box's: from side to side in whole pixels, and the parts of those that they cut."""
    low, high = interval
    if low.fraction is None or high.fraction is None:
        return _Extent([low.shift, high.shift], [(None, (0, 1))])
    shifts = [low.shift, high.shift, low.shift + 1, high.shift + 1]
    return _Extent(shifts, [(None, (0, 1)), (high.fraction, (1, 3)), (-low.fraction, (0, 2))])


def _cut(side: _Side) -> _Extent:
    """The pixel that a side cuts."""
    return _Extent([side.shift, side.shift + 1], [(None, (0, 1))])


def _sums(integral: _Integral, rows: _Extent, columns: _Extent) -> Array:
    """Sum of `S`'s pixels in every box's rows and columns, in units: `(N, C, F, H, W)`."""
    corners = _corners(integral, rows.shifts, columns.shifts)

    def between(row: tuple[int, int], column: tuple[int, int]) -> Array:
        # Whole numbers, of which large ones subtract before they are rounded.
        (top, bottom), (left, right) = row, column
        at_right = corners[right][bottom] - corners[right][top]
        return at_right - (corners[left][bottom] - corners[left][top])

    def weighted(weight: Array | None, values: Array) -> Array:
        return values if weight is None else _per_box(weight) * values

    dtype = integral.unit.dtype
    by_column = []
    for column_weight, column in columns.terms:
        by_row = [
            weighted(row_weight, between(row, column).astype(dtype))
            for row_weight, row in rows.terms
        ]
        by_column.append(weighted(column_weight, functools.reduce(jnp.add, by_row)))
    return functools.reduce(jnp.add, by_column)


def _filter_rows(values: Array, along_y: _Interval) -> Array:
    """Integral of a column of values, `(N, C, 1, H)`, over every box's rows: `(N, C, F, H)`."""
    height = values.shape[-1]
    mean = jnp.mean(values, -1, keepdims=True)
    prefix = _pad(_sum_rows((values - mean)[..., None])[..., 0], values.ndim - 1, 1, 0)

    extent = _extent(along_y)
    corners = [
        jnp.take_along_axis(prefix, _count(shift, height)[None], -1) for shift in extent.shifts
    ]
    integral = mean * _covered(along_y, height, values.dtype)[None]
    for weight, (above, below) in extent.terms:
        rows = corners[below] - corners[above]
        integral += rows if weight is None else weight[None, ..., None] * rows
    return lax.optimization_barrier(integral)


def forward(x: Array, theta: Array, *, normalize: bool, whole_pixels: bool = False) -> Array:
    """Box averages, or integrals without `normalize`."""
    height, width = x.shape[-2:]
    along_y, along_x = _intervals(theta, height, width, whole_pixels=whole_pixels)
    scales = scale(theta, normalize=normalize)
    integral = _integrate(x)
    rows = _filter_rows(integral.row_means[:, :, None], along_y)
    columns = lax.optimization_barrier(_covered(along_x, width, x.dtype) * scales[..., None])
    units = lax.optimization_barrier(integral.unit[..., 0] * scales[None])
    centred = _sums(integral, _extent(along_y), _extent(along_x))
    return centred * units[..., None, None] + _per_row(rows) * _per_column(columns)


def backward(x: Array, theta: Array, g: Array, *, normalize: bool) -> tuple[Array, Array]:
    """Gradients by `x` and by `theta`, given `g`, the one by the output."""
    return _gradient_by_x(theta, g, normalize), _gradient_by_theta(x, theta, g, normalize)


def _gradient_by_x(theta: Array, g: Array, normalize: bool) -> Array:
    """The filter with each box mirrored, of its own plane, summed over a channel's boxes."""
    batch, channels, boxes, *size = g.shape
    planes = g.reshape(batch, channels * boxes, *size)
    filtered = forward(planes, lax.collapse(_mirrored(theta), 0, 2)[:, None], normalize=normalize)
    filtered = lax.optimization_barrier(filtered.reshape(g.shape))
    return functools.reduce(jnp.add, [filtered[:, :, box] for box in range(boxes)])


def _gradient_by_theta(x: Array, theta: Array, g: Array, normalize: bool) -> Array:
    height, width = x.shape[-2:]
    along_y, along_x = _intervals(theta, height, width)
    integral = _integrate(x)
    unit, means = integral.unit[:, :, None], integral.row_means[:, :, None]
    rows = _per_row(_filter_rows(means, along_y))
    columns = _per_column(lax.optimization_barrier(_covered(along_x, width, x.dtype)))

    def column_cut(side: _Side) -> Array:
        pixels = _sums(integral, _extent(along_y), _cut(side))
        reached = _per_column(_inside(side.shift, width))
        return unit * pixels + jnp.where(reached, rows, 0)

    def row_cut(side: _Side) -> Array:
        pixels = _sums(integral, _cut(side), _extent(along_x))
        row = jnp.clip(_position(height) + side.shift[..., None], 0, height - 1)
        mean = jnp.take_along_axis(means, row[None], -1)
        mean = lax.optimization_barrier(jnp.where(_inside(side.shift, height), mean, 0))
        return unit * pixels + _per_row(mean) * columns

    inside = unit * _sums(integral, _extent(along_y), _extent(along_x)) + rows * columns
    cuts = [inside, *map(column_cut, along_x), *map(row_cut, along_y)]
    sums = (_inner(g, cut) for cut in cuts)
    scales = scale(theta, normalize=normalize)
    inner, low_x, high_x, low_y, high_y = (scales * total for total in sums)
    dtheta = jnp.stack([-low_x, high_x, -low_y, high_y], axis=-1)
    return dtheta + gradient_through_area(theta, inner) if normalize else dtheta


def _inner(a: Array, b: Array) -> Array:
    """Inner product of each box's planes: `(N, C, F, H, W)` twice to `(C, F)`."""
    # Apart from the sum, the product is computed in vectors.
    return jnp.sum(lax.optimization_barrier(a * b), axis=(0, -1, -2))
