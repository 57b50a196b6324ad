"""The grid of kernels that slide down strips: a program for each plane, strip and box."""

from typing import NamedTuple

from jax import Array, lax

from jaxbox_kernels.mosaic_gpu import box_params, lanes
from jaxbox_kernels.mosaic_gpu.box_params import Box, Table
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# The boxes of a plane come last, so that they run at about the same time and find the plane's
# prefix sums in the cache.
NAMES = ("plane", "strip", "box")


class Program(NamedTuple):
    """What one program works on.

    Attributes:
      box: the parameters of its box.
      plane: the number of the input's plane.
      strip: the number of the strip of columns.
      target: the number of the output's plane.
    """

    box: Box
    plane: Array
    strip: Array
    target: Array


def size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The size of the grid for the shape `(N, C, F, H, W)`."""
    batch, channels, number, _, width = shape
    return batch * channels, lanes.padded(width) // LANES, number


def program(boxes: Table, shape: tuple[int, ...]) -> Program:
    """What the program that calls this works on; `shape` is `(N, C, F, H, W)`."""
    last, strip, box = map(lax.axis_index, NAMES)
    # What the kernel before wrote last is read first, while it is in the cache.
    plane = lax.axis_size(NAMES[0]) - 1 - last
    return Program(box_params.read(boxes, plane, box, shape), plane, strip, plane * shape[2] + box)
