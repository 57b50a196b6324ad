"""Rows that a walk keeps in shared memory from when they enter the box until they leave it.

So that what they give to a strip is computed once. Each lane reads what it wrote itself.
"""

import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import MemoryRef
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu.box_params import Box
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.sliding_window import Reader

# A power of two. 64 KiB: 3 programs fit on a multiprocessor, 12 warps, each with 4 rows of 4 reads
# under way, 24 KiB in all; at the speed of memory, 25 bytes a nanosecond and multiprocessor, that
# hides a microsecond.
_ROWS = 128


def scratch(height: int) -> MemoryRef:
    """Shared memory for `readers`, for images of a height."""
    return plgpu.SMEM((min(height, _ROWS), LANES), jnp.float32)


def are_enough(kept: Array, box: Box, height: int) -> Array:
    """Whether all rows of a box that lie in the image can be kept, and enter before they leave."""
    rows = box.high_y.shift - box.low_y.shift
    return rows >= 0 if height <= kept.shape[0] else (rows >= 0) & (rows < kept.shape[0])


def readers(read: Reader[Array], kept: Array, height: int) -> tuple[Reader[Array], Reader[Array]]:
    """Of rows of the image that enter, and of those that leave: which have entered before."""

    def place(row: Array) -> Array:
        return row if height <= kept.shape[0] else row & (kept.shape[0] - 1)

    def enter(row: Array) -> Array:
        values = read(row)
        kept[place(row)] = values
        return values

    def leave(row: Array) -> Array:
        return kept[place(row)]

    return enter, leave
