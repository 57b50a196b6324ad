"""The parameters of boxes as tables that kernels read: offsets, weights and scales.

Along an axis, the integral over a box is the sum of the pixels that lie in it as a whole, plus the
two pixels that hold its bounds, each times the length of it that lies in the box. All weights are
positive, so nothing cancels, and a box has only errors in proportion to its own pixels. A box
within two neighbouring pixels has no whole ones, and may be tiny.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common import area, bounds
from jaxbox_kernels.common.bounds import Extent


class Axis(NamedTuple):
    """A box along one axis, at output `j`; in a kernel, scalars.

    Attributes:
      first: the first whole pixel is `j + first`; the low bound lies in the pixel before it.
      end: the pixel after the last whole one is `j + end`; it holds the high bound.
      low_weight: the factor of the pixel before the first whole one.
      high_weight: the factor of the pixel after the last whole one.
      scale: the factor of the sum of all of them.
    """

    first: Array
    end: Array
    low_weight: Array
    high_weight: Array
    scale: Array


class Box(NamedTuple):
    """The parameters of one box, as a kernel reads them."""

    along_x: Axis
    along_y: Axis


type Table = Array
"""The parameters of all boxes as one flat float32 array, box after box, along x and then along y;
in a kernel, a reference to it. Offsets are whole numbers that float32 holds exactly."""


def of_boxes(
    theta: Array, shape: tuple[int, ...], *, normalize: bool, whole_pixels: bool = False
) -> Box:
    """Finds the parameters of the box filter, arrays `(C, F)`.

    Args:
      theta: the boxes, `(C, F, 4)`.
      shape: `(..., H, W)`.
      normalize: whether outputs are means.
      whole_pixels: whether all bounds are known to lie on pixel edges.
    """
    height, width = shape[-2:]
    along_y, along_x = bounds.extents_anew(theta, height, width, whole_pixels=whole_pixels)
    scale_x, scale_y = area.scales(theta, normalize=normalize)
    return Box(
        _axis(theta[..., :2], along_x, scale_x, width),
        _axis(theta[..., 2:], along_y, scale_y, height),
    )


def of_adjoint(theta: Array, shape: tuple[int, ...], *, normalize: bool, whole_pixels: bool) -> Box:
    """Finds the parameters of the adjoint filter: of boxes mirrored along y, and not along x.

    The arguments are those of `of_boxes`.
    """
    boxes = of_boxes(theta, shape, normalize=normalize, whole_pixels=whole_pixels)
    mirrored = of_boxes(
        bounds.mirrored(theta), shape, normalize=normalize, whole_pixels=whole_pixels
    )
    return Box(boxes.along_x, mirrored.along_y)


def is_swapped(extent: Extent) -> Array:
    """Whether the high bound lies in a pixel before that of the low bound."""
    return extent.high.offset < extent.low.offset


def _axis(limits: Array, extent: Extent, scale: Array, size: int) -> Axis:
    """Finds the parameters along an axis.

    Args:
      limits: the low and the high bound, `(C, F, 2)`.
      extent: the offsets of the bounds.
      scale: the factor of the integral from the low to the high bound, `(C, F)`.
      size: the number of pixels along the axis.
    """
    swapped = is_swapped(extent)
    scale = jnp.where(swapped, -scale, scale)
    first, last = extent.low.offset, extent.high.offset
    first, last = jnp.where(swapped, last, first), jnp.where(swapped, first, last)
    if extent.excess is None:
        return Axis(first, last, jnp.zeros_like(scale), jnp.zeros_like(scale), scale)
    # These are rounded once, while 1 less a fraction would lose the digits of a short length.
    low, high = jnp.moveaxis(jnp.clip(limits, -size, size), -1, 0)
    low, high = jnp.where(swapped, high, low), jnp.where(swapped, low, high)
    in_one_pixel, has_whole_pixels = last == first, last > first + 1
    low_edge, high_edge = first.astype(low.dtype) + 0.5, last.astype(low.dtype) - 0.5
    low_length = jnp.where(in_one_pixel, 0, low_edge - low)
    high_length = jnp.where(in_one_pixel, high - low, high - high_edge)
    # The scale of a box without whole pixels may be huge, but not times its lengths.
    of_lengths = jnp.where(has_whole_pixels, 1, scale)
    return Axis(
        jnp.where(in_one_pixel, first, first + 1),
        last,
        low_length * of_lengths,
        high_length * of_lengths,
        jnp.where(has_whole_pixels, scale, 1),
    )


def table(box: Box) -> Table:
    """Arranges parameters as a table, which XLA computes in one kernel."""
    numbers = [number.astype(jnp.float32) for axis in box for number in axis]
    return jnp.stack(numbers, axis=-1).reshape(-1)


def read(boxes: Table, plane: Array, box: Array | int, shape: tuple[int, ...]) -> Box:
    """Reads the parameters of a box in a kernel.

    Args:
      boxes: a reference to the table.
      plane: the number of the input's plane, of `N * C`.
      box: the number of the box, of `F`.
      shape: `(N, C, F, H, W)`.
    """
    _, channels, number, *_ = shape
    index = lax.rem(plane, jnp.int32(channels)) * number + box

    def axis(position: int) -> Axis:
        fields = len(Axis._fields)
        begin = (index * len(Box._fields) + position) * fields
        first, end, *numbers = (boxes[begin + field] for field in range(fields))
        return Axis(first.astype(jnp.int32), end.astype(jnp.int32), *numbers)

    return Box(axis(0), axis(1))
