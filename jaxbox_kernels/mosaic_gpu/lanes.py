"""The lanes of a warpgroup, which hold neighbouring pixels of a row, and sums over them."""

import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import MemoryRef
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

LANES = 128
"""The width in pixels of the strips in which kernels handle rows: one pixel a lane."""

# Kernels place barriers themselves, because automatic barriers would surround every store.
COMPILER_PARAMS = plgpu.CompilerParams(unsafe_no_auto_barriers=True)

# One pixel a lane. Mosaic would find this layout itself, but may search for minutes.
_LAYOUT = plgpu.Layout.WG_STRIDED((LANES,), vec_size=1)


def padded(width: int) -> int:
    """A width rounded up to whole strips."""
    return -(-width // LANES) * LANES


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that does not exceed `limit`."""
    return max(size for size in range(1, limit + 1) if number % size == 0)


def index() -> Array:
    """The number of each lane."""
    return plgpu.broadcasted_iota(jnp.int32, (LANES,), 0, layout=_LAYOUT)


def zeros(dtype: DTypeLike = jnp.float32) -> Array:
    """A zero for each lane."""
    values: Array = plgpu.layout_cast(jnp.zeros(LANES, dtype), _LAYOUT)
    return values


def scan_scratch(rows: int, dtype: DTypeLike) -> MemoryRef:
    """The shared memory that `scan` needs: two buffers of strips with zeros on either side."""
    return plgpu.SMEM((2, rows, 3 * LANES), dtype)


def clear_scan_scratch(scratch: Array) -> None:
    """Writes the zeros that `scan` reads on either side of strips."""
    for buffer in range(2):
        for row in range(scratch.shape[1]):
            for side in (0, 2):
                scratch[buffer, row, side * LANES : (side + 1) * LANES] = zeros(scratch.dtype)


def scan(
    strips: list[Array], scratch: Array, *, reverse: bool = False
) -> tuple[list[Array], list[Array]]:
    """Computes prefix sums over the lanes of strips.

    Lanes see each other's values in shared memory only. Each step doubles the number of lanes that
    a sum covers. The two buffers take turns, so that one barrier a step is enough.

    Args:
      strips: values, one a lane.
      scratch: shared memory made by `scan_scratch` and cleared by `clear_scan_scratch`.
      reverse: whether to sum up each lane and all after it, instead of all before it.

    Returns:
      The prefix sums of each strip, and the sum of all its lanes.
    """
    plgpu.commit_smem()  # All lanes have read what the last scan left in the buffers.
    step, distance = 0, 1
    while distance < LANES:
        _write(strips, scratch, step)
        start = LANES + distance if reverse else LANES - distance
        strips = [
            strip + scratch[step % 2, row, start : start + LANES]
            for row, strip in enumerate(strips)
        ]
        step, distance = step + 1, 2 * distance
    _write(strips, scratch, step)
    last = LANES if reverse else 2 * LANES - 1
    return strips, [scratch[step % 2, row, last] for row in range(len(strips))]


def _write(strips: list[Array], scratch: Array, step: int) -> None:
    for row, strip in enumerate(strips):
        scratch[step % 2, row, LANES : 2 * LANES] = strip
    plgpu.commit_smem()
