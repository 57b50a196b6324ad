"""What kernels read of each box: where its sides are, and by what to scale."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common import bounds
from jaxbox_kernels.common.bounds import Extent

_SHIFTS, _NUMBERS = 4, 5


class Tables(NamedTuple):
    """The boxes as flat arrays, box after box; or references to them in a kernel."""

    shifts: Array  # int32: of the sides low x, high x, low y and high y
    numbers: Array  # float32: the fractions of those sides, and the scale


class Side(NamedTuple):
    """One side along one axis, as scalars: at output `j` it cuts pixel `j + shift`."""

    shift: Array
    fraction: Array  # how much of that pixel lies below


class Box(NamedTuple):
    """One box, as a kernel reads it."""

    low_x: Side
    high_x: Side
    low_y: Side
    high_y: Side
    scale: Array


def make(along_y: Extent, along_x: Extent, scales: Array) -> Tables:
    """Tables of the boxes `(C, F)`."""
    both = (*along_x, *along_y)
    fractions = [
        jnp.zeros_like(scales) if side.fraction is None else side.fraction for side in both
    ]
    shifts = jnp.stack([side.offset for side in both], axis=-1)
    numbers = jnp.stack([*fractions, scales], axis=-1)
    return Tables(shifts.reshape(-1), numbers.astype(jnp.float32).reshape(-1))


def of_boxes(theta: Array, scales: Array, shape: tuple[int, ...], whole_pixels: bool) -> Tables:
    """Tables for the filter, of boxes `(C, F, 4)` on images of `(..., H, W)`."""
    return make(*bounds.extents(theta, *shape[-2:], whole_pixels=whole_pixels), scales)


def of_adjoint(theta: Array, scales: Array, shape: tuple[int, ...], whole_pixels: bool) -> Tables:
    """Tables for the adjoint filter: reflected along y, and not along x."""
    _, along_x = bounds.extents(theta, *shape[-2:], whole_pixels=whole_pixels)
    reflected_y, _ = bounds.extents(bounds.mirrored(theta), *shape[-2:], whole_pixels=whole_pixels)
    return make(reflected_y, along_x, scales)


def read(boxes: Tables, plane: Array, box: Array | int, shape: tuple[int, ...]) -> Box:
    """Reads a box of a plane's channel in a kernel; `shape` is `(N, C, F, H, W)`."""
    _, channels, number, *_ = shape
    index = lax.rem(plane, jnp.int32(channels)) * number + box
    low_x, high_x, low_y, high_y = (
        Side(boxes.shifts[index * _SHIFTS + side], boxes.numbers[index * _NUMBERS + side])
        for side in range(_SHIFTS)
    )
    return Box(low_x, high_x, low_y, high_y, scale=boxes.numbers[index * _NUMBERS + _SHIFTS])
