"""The parameters of boxes as tables that kernels read: bounds and scales."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common import bounds
from jaxbox_kernels.common.bounds import Extent

_OFFSETS, _NUMBERS = 4, 5  # of each box


class Tables(NamedTuple):
    """The parameters of all boxes as flat arrays, box after box; in a kernel, references to them.

    Attributes:
      offsets: int32, of the bounds low x, high x, low y and high y.
      numbers: float32, the fractions of those bounds and the scale.
    """

    offsets: Array
    numbers: Array


class Bound(NamedTuple):
    """One bound of a box along one axis: at output `j` it lies in pixel `j + offset`.

    Attributes:
      offset: a scalar.
      fraction: a scalar, how much of that pixel lies below the bound.
    """

    offset: Array
    fraction: Array


class Box(NamedTuple):
    """The parameters of one box, as a kernel reads them."""

    low_x: Bound
    high_x: Bound
    low_y: Bound
    high_y: Bound
    scale: Array


def make(along_y: Extent, along_x: Extent, scales: Array) -> Tables:
    """Makes tables of boxes from their extents and their scales, `(C, F)`."""
    both = (*along_x[:2], *along_y[:2])
    fractions = [
        jnp.zeros_like(scales) if bound.fraction is None else bound.fraction for bound in both
    ]
    offsets = jnp.stack([bound.offset for bound in both], axis=-1)
    numbers = jnp.stack([*fractions, scales], axis=-1)
    return Tables(offsets.reshape(-1), numbers.astype(jnp.float32).reshape(-1))


def of_boxes(theta: Array, scales: Array, shape: tuple[int, ...], whole_pixels: bool) -> Tables:
    """Makes tables for the box filter.

    Args:
      theta: the boxes, `(C, F, 4)`.
      scales: the factors of their integrals, `(C, F)`.
      shape: `(..., H, W)`.
      whole_pixels: whether all bounds are known to lie on pixel edges.
    """
    return make(*bounds.extents(theta, *shape[-2:], whole_pixels=whole_pixels), scales)


def of_adjoint(theta: Array, scales: Array, shape: tuple[int, ...], whole_pixels: bool) -> Tables:
    """Makes tables for the adjoint filter: of boxes that are mirrored along y, and not along x.

    The arguments are those of `of_boxes`.
    """
    _, along_x = bounds.extents(theta, *shape[-2:], whole_pixels=whole_pixels)
    mirrored = bounds.mirrored(theta)
    mirrored_y, _ = bounds.extents(mirrored, *shape[-2:], whole_pixels=whole_pixels)
    return make(mirrored_y, along_x, scales)


def read(boxes: Tables, plane: Array, box: Array | int, shape: tuple[int, ...]) -> Box:
    """Reads the parameters of a box in a kernel.

    Args:
      boxes: references to the tables.
      plane: the number of the input's plane, of `N * C`.
      box: the number of the box, of `F`.
      shape: `(N, C, F, H, W)`.
    """
    _, channels, number, *_ = shape
    index = lax.rem(plane, jnp.int32(channels)) * number + box
    low_x, high_x, low_y, high_y = (
        Bound(boxes.offsets[index * _OFFSETS + bound], boxes.numbers[index * _NUMBERS + bound])
        for bound in range(_OFFSETS)
    )
    return Box(low_x, high_x, low_y, high_y, scale=boxes.numbers[index * _NUMBERS + _OFFSETS])
