"""Convolutions whose windows do not overlap, or hardly, as products of matrices.

XLA on CPU runs them faster in this form, their gradients above all. Ordinary 3x3 convolutions are
fastest as they are.

`Workaround.MATRIX_PRODUCTS` is the switch.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common import layout
from jaxbox_kernels.common.workarounds import Workaround, enabled

__all__ = [
    "patch_conv",
    "patch_conv_transpose",
    "pointwise_conv",
    "upsampling_conv",
]


def pointwise_conv(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    channel_axes: tuple[layout.ChannelAxis, layout.ChannelAxis] = (-1, -1),
) -> Array:
    """Computes a 1x1 convolution, which may also move the channels to another axis.

    Args:
      x: The images, `(..., H, W, I)` or `(..., I, H, W)`.
      kernel: The kernel, `(1, 1, I, O)`, of the dtype of `x`.
      bias: The bias, `(O,)`, or `None` for a convolution without one.
      channel_axes: The axis of the channels in the input and in the output, -1 or -3.

    Returns:
      The output, `(..., H, W, O)` or `(..., O, H, W)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv_patches import pointwise_conv
      >>> pointwise_conv(jnp.ones((2, 4, 6, 3)), jnp.ones((1, 1, 3, 5)), None, (-1, -3)).shape
      (2, 5, 4, 6)
    """
    source, target = channel_axes
    # The images with fewer channels are the cheaper ones to transpose.
    inside = source if kernel.shape[-2] > kernel.shape[-1] else target
    matrix = kernel[0, 0]
    x = layout.move(x, source, inside)
    if not enabled(Workaround.MATRIX_PRODUCTS):
        y = _conv(x, kernel, channel_axis=inside)
    elif inside == -1:
        y = _multiply(x, matrix)
    else:
        y = _multiply_planes(x, matrix)
    return layout.move(_add_bias(y, bias, inside), inside, target)


def patch_conv(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Computes a 2x2 convolution with stride 2: each 2x2 cell becomes a pixel.

    Args:
      x: The images, `(..., 2H, 2W, I)`.
      kernel: The kernel, `(2, 2, I, O)`, of the dtype of `x`.
      bias: The bias, `(O,)`, or `None` for a convolution without one.

    Returns:
      The output, `(..., H, W, O)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv_patches import patch_conv
      >>> patch_conv(jnp.ones((4, 6, 3)), jnp.ones((2, 2, 3, 5))).shape
      (2, 3, 5)
    """
    if not enabled(Workaround.MATRIX_PRODUCTS):
        return _add_bias(_conv(x, kernel, stride=2), bias)
    # A row of a cell is contiguous in memory, a whole cell is not: hence two products.
    *batch, H, W, C = x.shape
    rows = x.reshape(*batch, H // 2, 2, W // 2, 2 * C)
    upper, lower = (kernel[row].reshape(2 * C, -1) for row in (0, 1))
    y = _multiply(rows[..., 0, :, :], upper) + _multiply(rows[..., 1, :, :], lower)
    return _add_bias(y, bias)


def patch_conv_transpose(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Computes a 2x2 transposed convolution with stride 2: each pixel becomes a 2x2 cell.

    Args:
      x: The images, `(..., H, W, I)`.
      kernel: The kernel, `(2, 2, I, O)`; `kernel[a, b]` is what input pixel `(i, j)` puts at output
        pixel `(2i + a, 2j + b)`.
      bias: The bias, `(O,)`, or `None` for a convolution without one.

    Returns:
      The output, `(..., 2H, 2W, O)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv_patches import patch_conv_transpose
      >>> patch_conv_transpose(jnp.ones((2, 3, 5)), jnp.ones((2, 2, 5, 3))).shape
      (4, 6, 3)
    """
    if not enabled(Workaround.MATRIX_PRODUCTS):
        y = _conv(x, jnp.flip(kernel, (0, 1)), input_dilation=2, padding=(1, 1))
        return _add_bias(y, bias)
    cells = jnp.moveaxis(kernel, 2, 0).reshape(kernel.shape[2], -1)
    return _add_bias(_unfold_cells(_multiply(x, cells)), bias)


def upsampling_conv(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Computes a 3x3 transposed convolution with stride 2 that exactly doubles height and width.

    It is PyTorch's `ConvTranspose2d(..., 3, stride=2, padding=1, output_padding=1)`.

    Args:
      x: The images, `(..., H, W, I)`.
      kernel: The kernel, `(3, 3, I, O)`; `kernel[a, b]` is what input pixel `(i, j)` adds to output
        pixel `(2i + a - 1, 2j + b - 1)`.
      bias: The bias, `(O,)`, or `None` for a convolution without one.

    Returns:
      The output, `(..., 2H, 2W, O)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv_patches import upsampling_conv
      >>> upsampling_conv(jnp.ones((2, 3, 5)), jnp.ones((3, 3, 5, 3))).shape
      (4, 6, 3)
    """
    if not enabled(Workaround.MATRIX_PRODUCTS):
        y = _conv(x, jnp.flip(kernel, (0, 1)), input_dilation=2, padding=(1, 2))
        return _add_bias(y, bias)
    # Output cell (i, j) depends on the input pixels at (i + 1, j + 1) to (i, j). Of the 16 matrices
    # from those four pixels to the four pixels of the cell 7 are zero; one product is faster even
    # so.
    *batch, H, W, C = x.shape
    padded = jnp.pad(x, [*[(0, 0)] * len(batch), (0, 1), (0, 1), (0, 0)])
    neighbours = [
        padded[..., down : down + H, right : right + W, :] for down in (1, 0) for right in (1, 0)
    ]
    taps = jnp.pad(kernel, [(1, 0), (1, 0), (0, 0), (0, 0)]).reshape(2, 2, 2, 2, C, -1)
    cells = taps.transpose(0, 2, 4, 1, 3, 5).reshape(4 * C, -1)
    return _add_bias(_unfold_cells(_multiply(jnp.concatenate(neighbours, -1), cells)), bias)


def _add_bias(y: Array, bias: Array | None, channel_axis: layout.ChannelAxis = -1) -> Array:
    return y if bias is None else y + layout.per_channel(bias, y.ndim, channel_axis)


def _multiply(x: Array, matrix: Array) -> Array:
    """Multiplies the last axis of `x` by `matrix`.

    The gradient of `x @ matrix` contracts several axes of `x` at once; XLA on CPU transposes `x`
    for that, and computes anew inside whatever made it. Flattened first, it is an ordinary product.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _multiply_planes(x: Array, matrix: Array) -> Array:
    """Multiplies axis -3 of `(..., C, H, W)` by `matrix`."""
    *batch, C, H, W = x.shape
    matrices = jnp.broadcast_to(matrix.T, (math.prod(batch), *matrix.T.shape))
    y = matrices @ x.reshape(math.prod(batch), C, H * W)
    return y.reshape(*batch, matrix.shape[1], H, W)


def _unfold_cells(cells: Array) -> Array:
    """Turns `(..., H, W, 4C)`, the four pixels of each 2x2 cell, into `(..., 2H, 2W, C)`."""
    *batch, H, W, C = cells.shape
    rows = cells.reshape(*batch, H, W, 2, C // 2)
    return jnp.moveaxis(rows, -2, -3).reshape(*batch, 2 * H, 2 * W, C // 4)


def _conv(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    input_dilation: int = 1,
    channel_axis: layout.ChannelAxis = -1,
) -> Array:
    """Computes by `lax.conv_general_dilated` what the matrix products stand for."""
    axes = "NHWC" if channel_axis == -1 else "NCHW"
    y = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        kernel,
        (stride, stride),
        [padding, padding],
        lhs_dilation=(input_dilation, input_dilation),
        dimension_numbers=(axes, "HWIO", axes),
    )
    return y.reshape(*x.shape[:-3], *y.shape[1:])
