"""What is outside the image: zeros, the image's border going on, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbox.ops.box_dimensions import one_pixel
from jaxbox.ops.box_filter import box_filter
from jaxbox_kernels.common import layout
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.common.layout import ChannelAxis
from jaxbox_kernels.common.overlap import overlap
from jaxbox_kernels.common.strides import Strides, positions
from jaxbox_kernels.registry import Implementation

__all__ = ["PADDINGS", "ImageFilter", "Padding"]

Padding = Literal["zeros", "edge", "partial"]
"""What is outside the image."""
PADDINGS: Final = get_args(Padding)


@dataclass(frozen=True)
class ImageFilter:
    """The box convolution of images with anything outside of them; see :func:`jaxbox.box_conv`.

    Attributes:
      padding: what is outside the image.
      normalize: whether to divide by each box's area.
      whole_pixels: whether boxes are known to cover whole pixels.
      implementation: the name of the backend.
    """

    padding: Padding
    normalize: bool
    whole_pixels: bool
    implementation: Implementation | None

    def __call__(
        self, x: Array, theta: Array, strides: Strides, channel_axis: ChannelAxis
    ) -> Array:
        """Filters images `(..., H, W, C)` or `(..., C, H, W)` with boxes `(C, F, 4)`."""
        if self.padding == "zeros":
            return self._with_zeros(x, theta, strides, channel_axis)
        extend = self._with_edge if self.padding == "edge" else self._partial
        # Sums of several terms, which are rounded once.
        wide = x.astype(sum_dtype(x))
        return extend(wide, theta, strides, channel_axis).astype(x.dtype)

    def _with_zeros(
        self, x: Array, theta: Array, strides: Strides, channel_axis: ChannelAxis
    ) -> Array:
        return box_filter(
            x,
            theta,
            normalize=self.normalize,
            whole_pixels=self.whole_pixels,
            strides=strides,
            channel_axis=channel_axis,
            implementation=self.implementation,
        )

    def _with_edge(
        self, x: Array, theta: Array, strides: Strides, channel_axis: ChannelAxis
    ) -> Array:
        """Adds what boxes find beyond the border, where the image goes on with its border pixels.

        Beyond one side these are the integrals over the border's row or column, times the length by
        which a box juts out; beyond a corner, the pixel at the corner times both lengths.
        """
        sides = _sides(theta, x.shape, strides, channel_axis, normalize=self.normalize)
        row_axis, column_axis = (-2, -1) if channel_axis == -3 else (-3, -2)
        along_y = jnp.concatenate([one_pixel(theta), theta[..., 2:]], axis=-1)
        along_x = jnp.concatenate([theta[..., :2], one_pixel(theta)], axis=-1)

        def columns(image: Array, border: Array) -> Array:
            """Adds what is left and right of an image, of which `border` are these columns."""
            return (
                image
                + _times(sides.left, _first(border, column_axis))
                + _times(sides.right, _last(border, column_axis))
            )

        inside = self._with_zeros(x, theta, strides, channel_axis)
        ends = _ends(x, column_axis)
        of_columns = self._with_zeros(ends, along_y, (strides[0], 1), channel_axis)
        rows = _ends(x, row_axis)
        of_rows = self._with_zeros(rows, along_x, (1, strides[1]), channel_axis)
        corners = jnp.repeat(_ends(rows, column_axis), theta.shape[1], axis=channel_axis)
        extended_rows = columns(of_rows, corners)
        return (
            columns(inside, of_columns)
            + _times(sides.above, _first(extended_rows, row_axis))
            + _times(sides.below, _last(extended_rows, row_axis))
        )

    def _partial(
        self, x: Array, theta: Array, strides: Strides, channel_axis: ChannelAxis
    ) -> Array:
        """Divides means by the share of the box inside the image."""
        size, _ = layout.split_shape(x.shape, channel_axis)
        bounded = _within_reach(theta, size)
        output = self._with_zeros(x, bounded, strides, channel_axis)
        for axis, (pixels, stride) in enumerate(zip(size, strides, strict=True)):
            low, high = _bounds_along(bounded, axis)
            inside = overlap(low, high, *_borders(pixels, stride, theta.dtype))
            reaches = inside != 0
            # The quotient must be finite where it is not taken, or its derivative is NaN.
            share = (high - low) / jnp.where(reaches, inside, 1)
            factor = jnp.where(reaches, share, 0)
            output *= _broadcast(factor, output.shape, axis, channel_axis)
        return output


class _Sides(NamedTuple):
    """How far boxes jut out of the image, for each row or column of outputs.

    Lengths in pixels, or as shares of the box; they broadcast with outputs.
    """

    left: Array
    right: Array
    above: Array
    below: Array


def _sides(
    theta: Array,
    shape: tuple[int, ...],
    strides: Strides,
    channel_axis: ChannelAxis,
    *,
    normalize: bool,
) -> _Sides:
    size, _ = layout.split_shape(shape, channel_axis)

    def along(axis: int) -> tuple[Array, Array]:
        pixels = size[axis]
        low, high = _bounds_along(theta, axis)
        start, end = _borders(pixels, strides[axis], theta.dtype)
        beyond = (
            overlap(low, high, jnp.full_like(start, -jnp.inf), start),
            overlap(low, high, end, jnp.full_like(end, jnp.inf)),
        )
        before, after = (
            _broadcast(length / (high - low) if normalize else length, shape, axis, channel_axis)
            for length in beyond
        )
        return before, after

    above, below = along(0)
    left, right = along(1)
    return _Sides(left, right, above, below)


def _bounds_along(theta: Array, axis: int) -> tuple[Array, Array]:
    """The low and high bounds along the height (axis 0) or width (axis 1): `(C, F, 1)` each."""
    first = 2 - 2 * axis
    return theta[..., first, None], theta[..., first + 1, None]


def _borders(pixels: int, stride: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Where an axis of so many pixels begins and ends, as seen from each output.

    Bounds of boxes stay as they are and the borders move, since half-integers are exact.
    """
    position = positions(pixels, stride, dtype)[None, None]
    return -0.5 - position, pixels - 0.5 - position


def _within_reach(theta: Array, size: tuple[int, int]) -> Array:
    """Moves bounds that are outside the image at every output nearer, and apart from each other."""
    height, width = size
    least = jnp.array([-width - 1, -width, -height - 1, -height], theta.dtype)
    most = jnp.array([width, width + 1, height, height + 1], theta.dtype)
    low, high = (jnp.broadcast_to(limit, theta.shape) for limit in (least, most))
    return jnp.clip(theta, low, high)


def _broadcast(factors: Array, shape: Sequence[int], axis: int, channel_axis: ChannelAxis) -> Array:
    """Shapes factors `(C, F, outputs)` along the height or width to broadcast with outputs."""
    channels, boxes, outputs = factors.shape
    merged = factors.reshape(channels * boxes, outputs)
    if channel_axis == -1:
        merged = merged.T
    full = [1] * len(shape)
    full[channel_axis] = channels * boxes
    full[axis - 2 if channel_axis == -3 else axis - 3] = outputs
    return merged.reshape(full)


def _times(length: Array, values: Array) -> Array:
    """Multiplies values by lengths; where a box does not reach them, NaN and infinity are 0 too."""
    shape = jnp.broadcast_shapes(length.shape, values.shape)
    length, values = jnp.broadcast_to(length, shape), jnp.broadcast_to(values, shape)
    return jnp.where(length == 0, 0, length * values)


def _ends(x: Array, axis: int) -> Array:
    """The first and the last slice along an axis."""
    return jnp.concatenate([_first(x, axis), _last(x, axis)], axis=axis)


def _first(x: Array, axis: int) -> Array:
    return jnp.take(x, jnp.array([0]), axis=axis)


def _last(x: Array, axis: int) -> Array:
    return jnp.take(x, jnp.array([x.shape[axis] - 1]), axis=axis)
