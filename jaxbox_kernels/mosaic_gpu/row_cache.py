"""A cache in shared memory of rows, from when they enter a sliding window until they leave it.

So the integral of a row over a box's columns is computed once. Each lane reads only what it wrote
itself, so no barrier is needed.
"""

import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import MemoryRef
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu.box_params import Axis
from jaxbox_kernels.mosaic_gpu.lanes import LANES
from jaxbox_kernels.mosaic_gpu.sliding_window import Reader

# The number of rows that the cache holds at most, a power of two. They take 64 KiB, so that 3
# programs fit on a multiprocessor: 12 warps, each with 4 rows of 4 reads under way, 24 KiB in all.
# At the speed of memory, 25 bytes a nanosecond and multiprocessor, that hides a microsecond of
# latency.
_ROWS = 128


def scratch(height: int) -> MemoryRef:
    """The shared memory of the cache for images of a height."""
    return plgpu.SMEM((min(height, _ROWS), LANES), jnp.float32)


def fits_any(cache: Array, height: int) -> bool:
    """Whether the cache can hold all rows of images of a height, and so those of any box."""
    return height <= cache.shape[0]


def fits(cache: Array, axis: Axis) -> Array:
    """Whether the cache can hold all rows of a box, given along y."""
    return axis.end - axis.first < cache.shape[0]


def readers(read: Reader[Array], cache: Array, height: int) -> tuple[Reader[Array], Reader[Array]]:
    """Makes readers of rows that enter and of rows that leave a window.

    Args:
      read: computes what a row of the image contributes.
      cache: shared memory, made by `scratch`.
      height: the height of the image.

    Returns:
      A reader that computes rows and stores them, and one that reads the stored rows.
    """

    def place(row: Array) -> Array:
        return row if fits_any(cache, height) else row & (cache.shape[0] - 1)

    def enter(row: Array) -> Array:
        values = read(row)
        cache[place(row)] = values
        return values

    def leave(row: Array) -> Array:
        return cache[place(row)]

    return enter, leave
