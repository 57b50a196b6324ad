"""Convolution with a kernel of more cells than the image has pixels.

XLA exchanges image and kernel then, and for the convolution that results it has only slow loops on
CPU: a small step in the size of the kernel makes it many times slower. So on CPU the kernel is cut
into blocks no larger than the image, without the cells that never meet a pixel, and the blocks'
results are added up.

`Workaround.LARGE_KERNEL_BLOCKS` is the switch.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.common.workarounds import Workaround, enabled

__all__ = ["conv_large_kernel"]

type Pads = Sequence[tuple[int, int]]
type Block = tuple[slice, ...]


def conv_large_kernel(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Pads,
    **options: Any,
) -> jax.Array:
    """Computes `lax.conv_general_dilated`, fast on CPU where the kernel exceeds the image.

    Args:
      lhs: The images, `(N, *spatial, C)`.
      rhs: The kernel, `(*kernel_size, C / groups, O)`.
      window_strides: The distance in pixels between neighbouring outputs, along each spatial axis.
      padding: `"SAME"`, `"VALID"`, or the pixels before and after, along each spatial axis.
      **options: The other arguments of `lax.conv_general_dilated`. Neither the images nor the
        kernel may be dilated.

    Returns:
      The output, `(N, *outputs, O)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv import conv
      >>> from jaxbox_kernels.common.conv_large_kernel import conv_large_kernel
      >>> x = jnp.array([[1.0], [2.0], [4.0]])
      >>> conv(x, jnp.ones((9, 1, 1)), conv_general_dilated=conv_large_kernel)[:, 0].tolist()
      [7.0, 7.0, 7.0]
    """
    image, size = lhs.shape[1:-1], rhs.shape[:-2]
    pads = padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(image, size, window_strides, pads)
    is_large = sizes.are_known(*image) and math.prod(size) > math.prod(image)
    cut = is_large and enabled(Workaround.LARGE_KERNEL_BLOCKS)
    blocks = _blocks(image, size, window_strides, pads) if cut else []

    def convolve(lhs: jax.Array, rhs: jax.Array, pads: Pads = pads) -> jax.Array:
        return lax.conv_general_dilated(lhs, rhs, window_strides, pads, **options)

    def convolve_blocks(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        parts = (
            convolve(lhs, rhs[block], _block_pads(block, size, pads)).astype(sum_dtype(lhs))
            for block in blocks
        )
        return sum(parts, next(parts)).astype(lhs.dtype)

    if not blocks:
        return convolve(lhs, rhs)
    y: jax.Array = lax.platform_dependent(lhs, rhs, cpu=convolve_blocks, default=convolve)
    return y


def _blocks(
    image: Sequence[int], size: Sequence[int], strides: Sequence[int], pads: Pads
) -> list[Block]:
    """Returns blocks of the kernel, no larger than the image, with all cells that meet a pixel.

    The list is empty if no cell meets a pixel.
    """
    slices = map(_slices, image, size, strides, pads)
    return list(itertools.product(*slices))


def _slices(image: int, size: int, stride: int, pad: tuple[int, int]) -> list[slice]:
    """Returns the slices of the kernel along one axis that its blocks are made of."""
    before, after = pad
    last_window = (image + before + after - size) // stride * stride
    # Cell `c` of the window that starts at `s` meets pixel `s + c - before`.
    start, stop = max(0, before - last_window), min(size, image + before)
    if image == 0 or last_window < 0 or start >= stop:
        return []
    count = math.ceil((stop - start) / image)
    edges = [start + (stop - start) * number // count for number in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def _block_pads(block: Block, size: Sequence[int], pads: Pads) -> Pads:
    """Returns the padding, perhaps negative, that puts a block where it is in its kernel."""
    return [
        (before - cells.start, after - (n - cells.stop))
        for cells, n, (before, after) in zip(block, size, pads, strict=True)
    ]
