"""The convolution with a kernel of more cells than the image has pixels, made of smaller ones."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = ["conv_general_dilated"]

type Pads = Sequence[tuple[int, int]]
type Block = tuple[slice, ...]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Pads,
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, but fast on CPU where the kernel exceeds the image.

    XLA exchanges image and kernel if the kernel has more cells than the image has pixels, and for
    what comes out it has only slow loops on CPU: 4x22x30x32 with a kernel of 25x25 takes 44 ms,
    with 27x27 3.3 s. So there the kernel is cut into blocks no larger than the image, without the
    cells that never meet a pixel; their results add up.

    Args:
      lhs: Images, `(N, *spatial, C)`.
      rhs: The kernel, `(*kernel_size, C / groups, O)`.
      window_strides: Pixels from an output to the next, along each spatial axis.
      padding: `"SAME"`, `"VALID"`, or the pixels before and after, along each spatial axis.
      **options: Of `lax.conv_general_dilated`; they dilate nothing.

    Returns:
      `(N, *outputs, O)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox_kernels.common.large_kernel import conv_general_dilated
      >>> conv = nnx.Conv(1, 1, (9,), conv_general_dilated=conv_general_dilated,
      ...                 kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
      >>> conv(jnp.array([[1.0], [2.0], [4.0]]))[:, 0].tolist()
      [7.0, 7.0, 7.0]
    """
    image, size = lhs.shape[1:-1], rhs.shape[:-2]
    pads = padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(image, size, window_strides, pads)
    too_large = math.prod(size) > math.prod(image)
    blocks = _blocks(image, size, window_strides, pads) if too_large else []

    def convolve(lhs: jax.Array, rhs: jax.Array, pads: Pads = pads) -> jax.Array:
        return lax.conv_general_dilated(lhs, rhs, window_strides, pads, **options)

    def in_blocks(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        parts = (
            convolve(lhs, rhs[block], _pads_of(block, size, pads)).astype(sum_dtype(lhs))
            for block in blocks
        )
        return sum(parts, next(parts)).astype(lhs.dtype)

    if not blocks:
        return convolve(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=in_blocks, default=convolve)


def _blocks(
    image: Sequence[int], size: Sequence[int], strides: Sequence[int], pads: Pads
) -> list[Block]:
    """Blocks of a kernel, no larger than the image, with all cells that meet a pixel.

    There are none where no cell does.
    """
    ranges = map(_ranges, image, size, strides, pads)
    return list(itertools.product(*ranges))


def _ranges(image: int, size: int, stride: int, pad: tuple[int, int]) -> list[slice]:
    """The same along one axis."""
    before, after = pad
    last_window = (image + before + after - size) // stride * stride
    # Cell `c` of the window that starts at `s` meets pixel `s + c - before`.
    start, stop = max(0, before - last_window), min(size, image + before)
    if image == 0 or last_window < 0 or start >= stop:
        return []
    count = math.ceil((stop - start) / image)
    edges = [start + (stop - start) * number // count for number in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def _pads_of(block: Block, size: Sequence[int], pads: Pads) -> Pads:
    """The padding with which a block does what it does in its kernel; may be negative."""
    return [
        (before - own.start, after - (whole - own.stop))
        for own, whole, (before, after) in zip(block, size, pads, strict=True)
    ]
