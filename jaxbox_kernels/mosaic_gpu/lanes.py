"""The lanes of a warpgroup, which hold neighbouring pixels of a row, and sums over them."""

from collections.abc import Callable

import jax
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


def strip(values: Array) -> Array:
    """Fixes the layout of a strip that was read."""
    fixed: Array = plgpu.layout_cast(values, _LAYOUT)
    return fixed


def to_float32(values: Array) -> Array:
    """Converts a strip that was read, and fixes its layout."""
    return strip(values).astype(jnp.float32)


def finite(values: Array) -> Array:
    """Replaces what is not finite by 0."""
    return jnp.where(jnp.abs(values) < jnp.inf, values, jnp.zeros_like(values))


def scan_scratch(strips: int, dtype: DTypeLike) -> MemoryRef:
    """The shared memory that `scan` needs: two buffers of strips, each beside a strip of zeros."""
    return plgpu.SMEM((2, strips, 2 * LANES), dtype)


def clear_scan_scratch(scratch: Array, *, reverse: bool = False) -> None:
    """Writes the zeros that `scan` reads beside strips."""
    margin = LANES if reverse else 0
    for buffer in range(2):
        for strip in range(scratch.shape[1]):
            scratch[buffer, strip, margin : margin + LANES] = zeros(scratch.dtype)


def scan[T](
    rows: list[T],
    scratch: Array,
    add: Callable[[T, T], T],
    *,
    reverse: bool = False,
    radix: int = 2,
) -> tuple[list[T], list[T]]:
    """Computes prefix sums over the lanes of rows.

    Lanes see each other's values in shared memory only. Each step multiplies the number of lanes
    that a sum covers. The two buffers take turns, so that one barrier a step is enough.

    Args:
      rows: trees of strips, which hold one value a lane.
      scratch: shared memory for all strips, made by `scan_scratch` and cleared by
        `clear_scan_scratch` for the same direction.
      add: adds up two trees, of which one may be of zeros.
      reverse: whether to sum up each lane and all after it, instead of all before it.
      radix: what a step multiplies the number of lanes by. A larger one takes fewer barriers and
        writes, but more reads and additions.

    Returns:
      The prefix sums of each row, and the sum of all its lanes.
    """
    begin = 0 if reverse else LANES
    plgpu.commit_smem()  # All lanes have read what the last scan left in the buffers.
    last_lane, sign = (begin, 1) if reverse else (begin + LANES - 1, -1)
    step, covered, totals = 0, 1, rows
    while covered < LANES:
        _write(rows, scratch, step, begin)
        totals = _read(rows, scratch, step, last_lane)
        for distance in range(covered, min(radix * covered, LANES), covered):
            start = begin + sign * distance
            moved = _read(rows, scratch, step, slice(start, start + LANES))
            rows = list(map(add, rows, moved))
            totals = list(map(add, totals, _read(rows, scratch, step, last_lane + sign * distance)))
        step, covered = step + 1, radix * covered
    return rows, totals


def _write(rows: object, scratch: Array, step: int, begin: int) -> None:
    for index, strip in enumerate(jax.tree.leaves(rows)):
        scratch[step % 2, index, begin : begin + LANES] = strip
    plgpu.commit_smem()


def _read[T](rows: list[T], scratch: Array, step: int, where: slice | int) -> list[T]:
    """Reads a tree like that of `rows`."""
    strips, structure = jax.tree.flatten(rows)
    values: list[T] = jax.tree.unflatten(
        structure, [scratch[step % 2, index, where] for index in range(len(strips))]
    )
    return values
