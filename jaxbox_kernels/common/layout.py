"""Where images have their channels: last, as in Flax, or first, as planes."""

import math
from typing import Final, Literal

import jax.numpy as jnp
from jax import Array, lax

ChannelAxis = Literal[-1, -3]

_AXES: Final = {-1: "(..., H, W, C)", -3: "(..., C, H, W)"}


def describe(channel_axis: int) -> str:
    """The axes of images.

    Raises:
      ValueError: `channel_axis` is neither -1 nor -3.
    """
    if channel_axis not in _AXES:
        raise ValueError(f"channel_axis must be -1 or -3; got {channel_axis!r}.")
    return _AXES[channel_axis]


def split_shape(shape: tuple[int, ...], channel_axis: ChannelAxis) -> tuple[tuple[int, int], int]:
    """Height and width, and the channels, of images of a shape with three axes or more."""
    channels, height, width = shape[-3:] if channel_axis == -3 else (shape[-1], *shape[-3:-1])
    return (height, width), channels


def per_channel(values: Array, ndim: int, channel_axis: ChannelAxis) -> Array:
    """Shapes `(C,)` to go with images of `ndim` axes."""
    shape = [1] * ndim
    shape[channel_axis] = values.size
    return values.reshape(shape)


def move(x: Array, source: ChannelAxis, target: ChannelAxis) -> Array:
    """Brings `(..., H, W, C)` to `(..., C, H, W)`, or back, or leaves it as it is."""
    if source == target:
        return x
    *batch, a, b, c = x.shape
    convert = _to_planes if target == -3 else _from_planes
    moved = convert(x.reshape(math.prod(batch), a, b, c))
    return moved.reshape(*batch, *moved.shape[1:])


# A transposition that XLA fuses with arithmetic strides through memory for every operand: it takes
# up to four times as long. So barriers hold it apart on either side. The result goes through with
# its pixels in one axis: else XLA changes the layout in its place and transposes in what follows.


def _to_planes(x: Array) -> Array:
    """Brings `(N, H, W, C)` to `(N, C, H, W)`."""
    planes = jnp.moveaxis(lax.optimization_barrier(x), -1, 1)
    rows = planes.reshape(planes.shape[0] * planes.shape[1], planes.shape[2] * planes.shape[3])
    return lax.optimization_barrier(rows).reshape(planes.shape)


def _from_planes(planes: Array) -> Array:
    """The inverse of `_to_planes`."""
    x = jnp.moveaxis(lax.optimization_barrier(planes), 1, -1)
    return lax.optimization_barrier(lax.collapse(x, 0, 3)).reshape(x.shape)
