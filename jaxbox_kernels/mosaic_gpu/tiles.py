"""How the adjoint filter divides its work: by what fits into shared memory, to keep a GPU busy."""

from typing import NamedTuple

from jaxbox_kernels.mosaic_gpu import lanes
from jaxbox_kernels.mosaic_gpu.lanes import LANES

# The shared memory that one program may use, in bytes, so that two fit on a multiprocessor.
_SHARED_MEMORY = 100 * 1024
LARGEST_SHARED_MEMORY = 227 * 1024
"""The shared memory that one program can have on Hopper and Blackwell, in bytes."""
STATE = 3
"""The number of strips that the state of a sliding window takes: a compensated sum and a row."""
# The largest tile: boxes of a plane that one program adds up, and rows between barriers.
_BOXES, _ROWS = 4, 4
# The number of programs that keep every multiprocessor of an H100 (132) or a B200 (148) busy with
# two or more. Planes are divided into parts to have as many programs, but not into parts with fewer
# rows than a window takes to be initialized.
_PROGRAMS, _LEAST_ROWS = 296, 32


class Tile(NamedTuple):
    """What one program holds in shared memory at a time: so many boxes and rows."""

    boxes: int
    rows: int


def shared_memory(width: int, boxes: int = 1, rows: int = 1) -> int:
    """The bytes of shared memory that a program needs for a tile; by default for the smallest."""
    row = lanes.padded(width) + 2 * LANES
    of_boxes = boxes * (STATE * lanes.padded(width) + rows * row)
    # And a row for what is not finite, and two buffers to add up two words of each row.
    return 4 * (of_boxes + row + 2 * 2 * rows * 2 * LANES)


def largest_tile(boxes: int, height: int, width: int) -> Tile:
    """The largest tile that leaves room for a second program, or else the smallest tile.

    Args:
      boxes: the number of boxes of each plane.
      height: the height of the image.
      width: the width of the image.
    """
    boxes, rows = lanes.largest_divisor(boxes, _BOXES), lanes.largest_divisor(height, _ROWS)
    while rows > 1 and shared_memory(width, boxes, rows) > _SHARED_MEMORY:
        rows = lanes.largest_divisor(height, rows - 1)
    while boxes > 1 and shared_memory(width, boxes, rows) > _SHARED_MEMORY:
        boxes = lanes.largest_divisor(boxes, boxes - 1)
    return Tile(boxes, rows)


def parts(planes: int, height: int, rows: int) -> int:
    """The number of parts, of whole tiles, into which the rows of a plane are divided.

    Args:
      planes: the number of planes and groups of boxes.
      height: the height of the image.
      rows: the number of rows of a tile.
    """
    fitting = max(1, height // _LEAST_ROWS)
    wanted = min(fitting, -(-_PROGRAMS // planes))
    return lanes.largest_divisor(height // rows, wanted)
