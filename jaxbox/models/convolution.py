"""The networks' convolutions that XLA on CPU is slow with.

Most are products of matrices here, for the sake of their gradients above all: the figures are of a
forward and backward pass on 2 cores in float32. Ordinary 3x3 convolutions are fastest as they are,
dilated ones up to a dilation of 4 included.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jaxbox_kernels.common import layout

__all__ = ["PatchConv", "PatchConvTranspose", "PointwiseConv", "UpsamplingConv", "convolve"]


class _MatrixConv(nnx.Module):
    """A convolution's parameters: `kernel`, `(size, size, in, out)`, and perhaps `bias`.

    Args:
      in_features: Channels of the input.
      out_features: Channels of the output.
      use_bias: Whether there is a bias.
      dtype: Of the computation.
      rngs: The random keys; the stream `params` is used.
    """

    size: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (self.size, self.size, in_features, out_features)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else nnx.data(None)
        self.dtype = dtype

    def _add_bias(self, y: jax.Array, channel_axis: layout.ChannelAxis = -1) -> jax.Array:
        if self.bias is None:
            return y
        return y + layout.per_channel(self.bias[...].astype(y.dtype), y.ndim, channel_axis)


class PointwiseConv(_MatrixConv):
    """1x1 convolution, which can also bring its input to another layout.

    Args:
      in_features: Channels of the input.
      out_features: Channels of the output.
      channel_axes: Which axis of the input and of the output has them, -1 or -3.
      **options: As of the other convolutions.
    """

    size = 1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        channel_axes: tuple[layout.ChannelAxis, layout.ChannelAxis] = (-1, -1),
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, **options)
        self.channel_axes = channel_axes

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, in)` to `(..., H, W, out)`, either perhaps with the channels first."""
        source, target = self.channel_axes
        kernel = self.kernel[...].astype(self.dtype)[0, 0]
        x = x.astype(self.dtype)
        # What has fewer channels is transposed.
        narrows = kernel.shape[0] > kernel.shape[1]
        inside = source if narrows else target
        product = _multiply if inside == -1 else _multiply_planes
        y = self._add_bias(product(layout.move(x, source, inside), kernel), inside)
        return layout.move(y, inside, target)


class PatchConv(_MatrixConv):
    """2x2 convolution with stride 2: each 2x2 cell becomes a pixel."""

    size = 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., 2H, 2W, in)` to `(..., H, W, out)`."""
        kernel = self.kernel[...].astype(self.dtype)
        # A row of a cell is one stretch of memory. 5 ms against the convolution's 10 for
        # 8x44x60x64 to 32 features.
        *batch, H, W, C = x.shape
        rows = x.astype(self.dtype).reshape(*batch, H // 2, 2, W // 2, 2 * C)
        upper, lower = (kernel[row].reshape(2 * C, -1) for row in (0, 1))
        y = _multiply(rows[..., 0, :, :], upper) + _multiply(rows[..., 1, :, :], lower)
        return self._add_bias(y)


class PatchConvTranspose(_MatrixConv):
    """2x2 transposed convolution with stride 2: each pixel becomes a 2x2 cell.

    `kernel[a, b]` is what input pixel `(i, j)` puts at output pixel `(2i + a, 2j + b)`.
    """

    size = 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, in)` to `(..., 2H, 2W, out)`."""
        kernel = self.kernel[...].astype(self.dtype)
        # 18 ms against 198 as a convolution of 8x88x120x16 to 12 features.
        cells = jnp.moveaxis(kernel, 2, 0).reshape(kernel.shape[2], -1)
        return self._add_bias(_unfold_cells(_multiply(x.astype(self.dtype), cells)))


class UpsamplingConv(_MatrixConv):
    """3x3 transposed convolution with stride 2 that exactly doubles height and width.

    It is PyTorch's `ConvTranspose2d(..., 3, stride=2, padding=1, output_padding=1)`: `kernel[a, b]`
    is what input pixel `(i, j)` adds to output pixel `(2i + a - 1, 2j + b - 1)`.
    """

    size = 3

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, in)` to `(..., 2H, 2W, out)`."""
        kernel = self.kernel[...].astype(self.dtype)
        # Output cell (i, j) depends on the input pixels at (i + 1, j + 1) to (i, j). Of the 16
        # matrices from those four pixels to the four pixels of the cell, 7 are zero: all the
        # same 6 ms against 23 as a convolution of 8x22x30x16 to 16 features.
        *batch, H, W, C = x.shape
        no_padding = [(0, 0)] * len(batch)
        padded = jnp.pad(x.astype(self.dtype), [*no_padding, (0, 1), (0, 1), (0, 0)])
        neighbours = [
            padded[..., down : down + H, right : right + W, :]
            for down in (1, 0)
            for right in (1, 0)
        ]
        taps = jnp.pad(kernel, [(1, 0), (1, 0), (0, 0), (0, 0)]).reshape(2, 2, 2, 2, C, -1)
        cells = taps.transpose(0, 2, 4, 1, 3, 5).reshape(4 * C, -1)
        return self._add_bias(_unfold_cells(_multiply(jnp.concatenate(neighbours, -1), cells)))


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str,
    *,
    rhs_dilation: Sequence[int],
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` of `(N, H, W, C)`, as `nnx.Conv` asks for it.

    Where the dilation is large the zeros beside the image are written out first. XLA's own handling
    of them grows with the dilation: forward on 1 core, a column of 3 at dilation 16 on 1x64x128x128
    took 32 ms, 14 so; a 3x3 at dilation 16 on 1x64x128x32 5.5 ms, 2.9 so; at 4 it is no faster.
    """
    if max(rhs_dilation) >= 8:
        extents = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:-2], rhs_dilation, strict=True)]
        borders = lax.padtype_to_pads(x.shape[1:-1], extents, strides, padding)
        x = lax.optimization_barrier(jnp.pad(x, [(0, 0), *borders, (0, 0)]))
        padding = "VALID"
    return lax.conv_general_dilated(
        x, kernel, strides, padding, rhs_dilation=rhs_dilation, **options
    )


def _multiply(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies the last axis of `x`, whatever the others, by `matrix`.

    The gradient of `x @ matrix` contracts several axes of `x` at once, and XLA on CPU transposes
    for that: a copy with large strides, with whatever made `x` computed anew inside. Flattened
    first, it is an ordinary product (8x44x60x64 times 64x16: 1.8 ms for that gradient, not 3.0,
    and up to 20 less where `x` was computed anew).
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _multiply_planes(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The same of `(..., C, H, W)`, along `C`."""
    *batch, C, H, W = x.shape
    matrices = jnp.broadcast_to(matrix.T, (math.prod(batch), *matrix.T.shape))
    y = matrices @ x.reshape(math.prod(batch), C, H * W)
    return y.reshape(*batch, matrix.shape[1], H, W)


def _unfold_cells(cells: jax.Array) -> jax.Array:
    """Turns `(..., H, W, 4C)`, the four pixels of each 2x2 cell, into `(..., 2H, 2W, C)`."""
    *batch, H, W, C = cells.shape
    rows = cells.reshape(*batch, H, W, 2, C // 2)
    return jnp.moveaxis(rows, -2, -3).reshape(*batch, 2 * H, 2 * W, C // 4)
