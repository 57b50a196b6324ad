"""Reads of planes at places that are offset by a different amount for each box.

All outputs of a box read at the same offset. So the reads for a row of outputs are one slice of
the flattened planes, which XLA on CPU copies at the speed of memory. A slice may begin before its
row or end after it: that must not leave the table, which has margins for this, and pixels that are
not of the row are replaced by zeros.

In the shapes below, `P` is the number of planes and `F` the number of boxes of each plane.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxbox_kernels.common import bounds, sizes, xla_hints
from jaxbox_kernels.common.bounds import Bound, Extent

# The number of rows that integrals over rows have above and below the image as a margin.
_ABOVE, _BELOW = 1, 1
IMAGE_ROWS = slice(_ABOVE, -_BELOW)
"""Where the rows of the image are among those of planes with margins."""


def integrate_rows(sums: Array, along_y: Extent, stride: int = 1) -> Array:
    """Integrates over the rows of boxes.

    Args:
      sums: prefix sums over rows in fixed point, `(P, H, W)`.
      along_y: the boxes' extents, `(P, F)`.
      stride: the step between rows of outputs.

    Returns:
      The integrals in fixed point of all rows of outputs and of the margins,
      `(P, F, _ABOVE + outputs + _BELOW, W)`.
    """
    height, width = sums.shape[1:]
    counts = [
        bounds.count(o, height, stride=stride, before=_ABOVE, after=_BELOW) for o in along_y.offsets
    ]
    starts = [jnp.maximum(count - 1, 0) * width for count in counts]
    above = [count > 0 for count in counts]
    table, starts, above = xla_hints.read_again((lax.collapse(sums, 1), starts, above))
    reads = [
        jnp.where(some[..., None], slices(table, start, width), 0)
        for start, some in zip(starts, above, strict=True)
    ]
    before, after = reads[:2], reads[2:]
    pixels = [through - to for through, to in zip(after, before, strict=False)]
    return along_y.integral(before, after, pixels)


def integrate_columns(rows: Array, along_x: Extent, stride: int = 1) -> Array:
    """Integrates over the columns of boxes.

    Args:
      rows: prefix sums over columns in fixed point, of one plane for each box or of one for all
        boxes, with margins: `(P, F or 1, _ABOVE + H + _BELOW, W)`.
      along_x: the boxes' extents, `(P, F)`.
      stride: the step between columns of outputs.

    Returns:
      The integrals in fixed point, `(P, F, H, outputs)`.
    """
    width, rows = rows.shape[-1], split_phases(rows, stride)
    return integrate_slices(lax.collapse(rows, 1), row_starts(rows), along_x, width, stride)


def split_phases(rows: Array, stride: int) -> Array:
    """Reorders columns such that those `stride` apart are neighbours: `(..., W)`.

    Columns `p, p + stride, ...` come together for each `p < stride`, so that what outputs `stride`
    apart read is one slice. The width is padded with zeros to a multiple of the stride.
    """
    if stride == 1:
        return rows
    length = -(-rows.shape[-1] // stride)
    amounts = [(0, 0)] * (rows.ndim - 1) + [(0, length * stride - rows.shape[-1])]
    split = jnp.pad(rows, amounts).reshape(*rows.shape[:-1], length, stride)
    return lax.collapse(jnp.swapaxes(split, -1, -2), rows.ndim - 1)


def integrate_slices(
    table: Array, starts: Array, extent: Extent, width: int, stride: int = 1
) -> Array:
    """Integrates over the columns of boxes, of rows that begin anywhere in a table.

    Args:
      table: flattened planes of prefix sums over columns in fixed point, with margins, `(P, L)`.
      starts: the places at which rows begin in the table, `(P, F, H)`; the first two axes may be 1.
      extent: the boxes' extents along x, `(P, F)`.
      width: the number of columns of the image.
      stride: the step between columns of outputs. Rows are in the order of `split_phases`.

    Returns:
      The integrals in fixed point, `(P, F, H, outputs)`.
    """
    offsets, outputs = extent.offsets, -(-width // stride)

    def place(column: Array) -> Array:
        """Where the slice of the columns at an offset from the outputs begins in its row."""
        column = _limit(column, width)
        return column if stride == 1 else column % stride * outputs + column // stride

    starts = jnp.broadcast_to(starts, (*offsets[0].shape, starts.shape[-1]))
    last = slices(table, starts + place(jnp.int32(width - 1)), 1)
    inner = offsets[0]
    if extent.parts is not None:
        inner = jnp.where(extent.within_pixel, inner, offsets[2])
    crosses = bounds.beyond(offsets[1], width, table.dtype, stride=stride) - bounds.beyond(
        inner, width, table.dtype, stride=stride
    )
    # The table has the sums through each pixel: that before a pixel is one place before it.
    places = [starts + place(o - 1)[..., None] for o in offsets]
    inside = [bounds.inside(_limit(o - 1, width), width, stride=stride) for o in offsets[:3]]
    in_image = [bounds.inside(o, width, stride=stride) for o in offsets[:2]]
    last, crosses = xla_hints.compute_once((last, crosses))
    table, places, inside, in_image = xla_hints.read_again((table, places, inside, in_image))
    reads = [slices(table, begin, outputs) for begin in places]
    sums = [jnp.where(mask[:, :, None], read, 0) for mask, read in zip(inside, reads, strict=False)]
    before, after = sums[:2], sums[2:]
    pixels = [
        jnp.where(mask[:, :, None], through - to, 0)
        for mask, through, to in zip(in_image, reads[2:], before, strict=False)
    ]
    before[1] = before[1] + crosses[:, :, None] * last
    return extent.integral(before, after, pixels)


def _limit(column: Array, width: int) -> Array:
    """Limits offsets so that a slice leaves its row by no more than the margins."""
    return bounds.clip(column, -width, width)


def row_starts(planes: Array) -> Array:
    """The places at which the image's rows begin in flattened planes with margins: `(1, F, H)`."""
    boxes, height, width = planes.shape[1:]
    arange = np.arange if sizes.are_known(boxes, height) else jnp.arange
    number = arange(boxes * height, dtype=np.int32).reshape(1, boxes, height)
    return jnp.asarray(number[:, :, IMAGE_ROWS] * width)


def with_margins(x: Array) -> Array:
    """Adds a row of zeros above and below each plane `(P, H, W)`."""
    zeros = jnp.zeros_like(x[:, :1])
    parts = xla_hints.do_not_fuse((zeros, x, zeros))
    return xla_hints.do_not_fuse(jnp.concatenate(parts, axis=1))


def read_pixels(image: Array, bound: Bound) -> Array:
    """Reads the pixel in which a bound along x lies, of an image with margins: `(P, F, H, W)`."""
    width = image.shape[-1]
    starts = row_starts(image[:, None]) + _limit(bound.offset, width)[..., None]
    inside = bounds.inside(bound.offset, width)
    table, starts, inside = xla_hints.read_again((lax.collapse(image, 1), starts, inside))
    return jnp.where(inside[:, :, None], slices(table, starts, width), 0)


def read_rows(planes: Array, bound: Bound) -> Array:
    """Reads the row in which a bound along y lies, of one plane a box: `(P, F, H, W)`."""
    boxes, height, width = planes.shape[1:]
    first = jnp.arange(boxes, dtype=jnp.int32)[None, :, None] * height
    row = jnp.arange(height, dtype=jnp.int32)[None, None] + bound.offset[..., None]
    row = bounds.clip(row, 0, height - 1)
    starts, inside = (first + row) * width, bounds.inside(bound.offset, height)
    table, starts, inside = xla_hints.read_again((lax.collapse(planes, 1), starts, inside))
    return jnp.where(inside[..., None], slices(table, starts, width), 0)


def slices(table: Array, starts: Array, length: int) -> Array:
    """Reads slices of the rows of a table.

    Args:
      table: `(P, L)`.
      starts: the places at which slices begin, `(P, ...)`; no slice may leave its row.
      length: the length of each slice.

    Returns:
      `(P, ..., length)`.
    """
    if not sizes.are_known(length, table.shape[1]):
        # JAX refuses slices that it cannot prove to be no longer than the table.
        places = starts[..., None] + jnp.arange(length, dtype=starts.dtype).reshape(
            (1,) * starts.ndim + (length,)
        )
        read = jnp.take_along_axis(table, lax.collapse(places, 1), 1, mode="promise_in_bounds")
        return read.reshape(places.shape)
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(starts.ndim,),
        collapsed_slice_dims=(),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    gathered: Array = lax.gather(
        table,
        starts[..., None],
        numbers,
        slice_sizes=(1, length),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    return gathered
