"""The layout of images: channels last, as in Flax, or channels first, as planes."""

import math
from typing import Final, Literal

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common import xla_hints
from jaxbox_kernels.common.workarounds import Workaround, enabled

ChannelAxis = Literal[-1, -3]

SPATIAL_AXES: Final = {1: "L", 2: "H, W", 3: "D, H, W"}
"""The spatial axes of a feature map as messages name them, by their number."""


def describe(channel_axis: int, rank: int = 2) -> str:
    """The axes of images with the given channel axis, as error messages name them.

    Args:
      channel_axis: the axis of the channels.
      rank: the number of spatial axes: 1 for signals, 2 for images, 3 for volumes.

    Raises:
      ValueError: `channel_axis` is neither -1 nor before the spatial axes.
    """
    # -3.0 and True are equal to integers.
    if type(channel_axis) is not int or channel_axis not in (-1, -rank - 1):
        raise ValueError(f"channel_axis must be -1 or {-rank - 1}; got {channel_axis!r}.")
    axes = SPATIAL_AXES[rank]
    return f"(..., {axes}, C)" if channel_axis == -1 else f"(..., C, {axes})"


def split_shape(shape: tuple[int, ...], channel_axis: ChannelAxis) -> tuple[tuple[int, int], int]:
    """Splits the shape of images into their size `(H, W)` and the number of their channels."""
    (height, width), channels = spatial_size(shape, channel_axis, 2)
    return (height, width), channels


def spatial_size(
    shape: tuple[int, ...], channel_axis: int, rank: int
) -> tuple[tuple[int, ...], int]:
    """Splits the shape of a feature map into its spatial size and the number of its channels."""
    axes = shape[-rank - 1 :]
    return (axes[:-1], axes[-1]) if channel_axis == -1 else (axes[1:], axes[0])


def per_channel(values: Array, ndim: int, channel_axis: ChannelAxis) -> Array:
    """Reshapes one value a channel, `(C,)`, to broadcast with images of `ndim` axes."""
    shape = [1] * ndim
    shape[channel_axis] = values.size
    return values.reshape(shape)


def move(x: Array, source: ChannelAxis, target: ChannelAxis) -> Array:
    """Moves the channels of images from the axis `source` to the axis `target`."""
    if source == target:
        return x
    *batch, a, b, c = x.shape
    convert = _to_planes if target == -3 else _from_planes
    moved = convert(x.reshape(math.prod(batch), a, b, c))
    return moved.reshape(*batch, *moved.shape[1:])


# XLA on CPU fuses a transposition with the arithmetic around it, which then strides through memory
# for every operand. So hints keep the transposition apart on both sides. The result passes the
# second hint with its pixels in one axis: otherwise XLA changes the layout instead of transposing,
# and what follows strides through memory after all.


def _to_planes(x: Array) -> Array:
    """Transposes `(N, H, W, C)` to `(N, C, H, W)`."""
    if not enabled(Workaround.SEPARATE_TRANSPOSITIONS):
        return jnp.moveaxis(x, -1, 1)
    planes = jnp.moveaxis(xla_hints.do_not_fuse(x), -1, 1)
    rows = planes.reshape(planes.shape[0] * planes.shape[1], planes.shape[2] * planes.shape[3])
    return xla_hints.do_not_fuse(rows).reshape(planes.shape)


def _from_planes(planes: Array) -> Array:
    """Transposes `(N, C, H, W)` to `(N, H, W, C)`."""
    if not enabled(Workaround.SEPARATE_TRANSPOSITIONS):
        return jnp.moveaxis(planes, 1, -1)
    x = jnp.moveaxis(xla_hints.do_not_fuse(planes), 1, -1)
    return xla_hints.do_not_fuse(lax.collapse(x, 0, 3)).reshape(x.shape)
