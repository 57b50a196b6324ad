"""Convolution with a large dilation.

The time that XLA on CPU spends on the zeros beside the image grows with the dilation. If it is
large, the zeros are therefore written out before a convolution without padding.

`Workaround.DILATION_BY_ZEROS` is the switch.
"""

from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax

from jaxbox_kernels.common import xla_hints
from jaxbox_kernels.common.workarounds import Workaround, enabled

__all__ = ["conv_large_dilation"]

# The least dilation for which the zeros are written out; at 4 it is no faster.
_MIN_DILATION: Final = 8


def conv_large_dilation(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    **options: Any,
) -> jax.Array:
    """Computes `lax.conv_general_dilated`, faster on CPU where the kernel's dilation is large.

    Args:
      lhs: The images, `(N, *spatial, C)`, which may not be dilated.
      rhs: The kernel, `(*kernel_size, C / groups, O)`.
      window_strides: The distance in pixels between neighbouring outputs, along each spatial axis.
      padding: `"SAME"`, `"VALID"`, or the pixels before and after, along each spatial axis.
      rhs_dilation: The distance in pixels between neighbouring taps, along each spatial axis.
      **options: The other arguments of `lax.conv_general_dilated`.

    Returns:
      The output, `(N, *outputs, O)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv import conv
      >>> from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation
      >>> x = jnp.arange(10.0).reshape(10, 1)
      >>> y = conv(
      ...     x, jnp.ones((3, 1, 1)), kernel_dilation=8, conv_general_dilated=conv_large_dilation
      ... )
      >>> y[:, 0].tolist()
      [8.0, 10.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0]
    """
    if max(rhs_dilation) >= _MIN_DILATION and enabled(Workaround.DILATION_BY_ZEROS):
        if isinstance(padding, str):
            size = rhs.shape[:-2]
            extents = [(n - 1) * d + 1 for n, d in zip(size, rhs_dilation, strict=True)]
            padding = lax.padtype_to_pads(lhs.shape[1:-1], extents, window_strides, padding)
        # XLA would otherwise merge the padding into the convolution again.
        lhs = xla_hints.do_not_fuse(jnp.pad(lhs, [(0, 0), *padding, (0, 0)]))
        padding = "VALID"
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, rhs_dilation=rhs_dilation, **options
    )
