"""The box convolution of signals and of volumes, by that of images."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common.layout import ChannelAxis
from jaxbox_kernels.common.strides import Strides

__all__ = ["filter_signal", "filter_volume", "one_pixel"]

type Filter = Callable[[Array, Array, Strides, ChannelAxis], Array]


def filter_signal(
    filter_images: Filter,
    x: Array,
    theta: Array,
    strides: tuple[int, ...],
    channels_first: bool,
) -> Array:
    """Filters signals as images of one row, whose boxes are one pixel high.

    Args:
      filter_images: filters images.
      x: the signals, `(..., L, C)` or `(..., C, L)`.
      theta: the boxes, `(C, F, 2)`.
      strides: the step between outputs.
      channels_first: whether channels come before the length.

    Returns:
      `(..., ceil(L / stride), C * F)` or `(..., C * F, ceil(L / stride))`.
    """
    row = -2 if channels_first else -3
    boxes = jnp.concatenate([theta, one_pixel(theta)], axis=-1)
    images = jnp.expand_dims(x, row)
    output = filter_images(images, boxes, (1, strides[0]), -3 if channels_first else -1)
    return jnp.squeeze(output, row)


def filter_volume(
    filter_images: Filter,
    x: Array,
    theta: Array,
    strides: tuple[int, ...],
    channels_first: bool,
) -> Array:
    """Filters volumes in two steps: along the depth, and slice by slice.

    The axes of a box convolution are independent of each other. Along the depth, volumes are images
    of `D` rows and `H * W` columns, whose boxes are one pixel wide. Which of the two steps comes
    first is such that nothing need be transposed in memory.

    Args:
      filter_images: filters images.
      x: the volumes, `(..., D, H, W, C)` or `(..., C, D, H, W)`.
      theta: the boxes, `(C, F, 6)`.
      strides: the steps between outputs along the depth, the height and the width.
      channels_first: whether channels come before the spatial axes.

    Returns:
      `(..., D, H, W, C * F)` or `(..., C * F, D, H, W)`, each spatial axis divided by its stride
      and rounded up.
    """
    along_z = jnp.concatenate([one_pixel(theta), theta[..., 4:]], axis=-1)
    along_yx = theta[..., :4]
    step_z, step_y, step_x = strides
    channels, boxes, _ = theta.shape
    if not channels_first:
        slices = filter_images(x, along_yx, (step_y, step_x), -1)
        *batch, depth, height, width, outputs = slices.shape
        rows = slices.reshape(*batch, depth, height * width, outputs)
        one_box_each = along_z.reshape(outputs, 1, 4)
        filtered = filter_images(rows, one_box_each, (step_z, 1), -1)
        return filtered.reshape(*filtered.shape[:-2], height, width, outputs)
    *batch, _, _, height, width = x.shape
    rows = filter_images(lax.collapse(x, x.ndim - 2), along_z, (step_z, 1), -3)
    outputs, depth = rows.shape[-3:-1]
    slices = rows.reshape(*batch, outputs * depth, height, width)
    of_slices = jnp.repeat(along_yx.reshape(channels * boxes, 1, 4), depth, axis=0)
    filtered = filter_images(slices, of_slices, (step_y, step_x), -3)
    return filtered.reshape(*batch, outputs, depth, *filtered.shape[-2:])


def one_pixel(theta: Array) -> Array:
    """Returns the bounds of one pixel along an axis for boxes `(C, F, ...)`: `(C, F, 2)`."""
    return jnp.broadcast_to(jnp.array([-0.5, 0.5], theta.dtype), (*theta.shape[:2], 2))
