"""The programs of kernels that walk down strips: one for each box, strip and plane."""

from typing import NamedTuple

from jax import Array, lax

from jaxbox_kernels.mosaic_gpu import box_params, lanes
from jaxbox_kernels.mosaic_gpu.box_params import Box, Tables
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# Boxes of a plane run at about the same time and find its sums in the cache.
NAMES = ("plane", "strip", "box")


class Program(NamedTuple):
    """What one program works on."""

    box: Box
    plane: Array  # of the input
    strip: Array
    target: Array  # the plane of the output


def size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Of the grid, for the shape `(N, C, F, H, W)`."""
    batch, channels, number, _, width = shape
    return batch * channels, lanes.padded(width) // LANES, number


def program(boxes: Tables, shape: tuple[int, ...]) -> Program:
    """That which asks."""
    plane, strip, box = map(lax.axis_index, NAMES)
    return Program(box_params.read(boxes, plane, box, shape), plane, strip, plane * shape[2] + box)
