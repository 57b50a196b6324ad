"""The networks' convolutions as layers; `jaxbox_kernels.common.conv_*` compute them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox_kernels.common import conv_patches, layout
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation as convolve

__all__ = ["PatchConv", "PatchConvTranspose", "PointwiseConv", "UpsamplingConv", "convolve"]


class _MatrixConv(nnx.Module):
    """The parameters of a convolution: `kernel`, `(size, size, in, out)`, and perhaps `bias`.

    Args:
      in_features: Number of channels of the input.
      out_features: Number of channels of the output.
      use_bias: Whether to add a bias.
      dtype: The dtype of the computation.
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

    def _cast(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns the input, the kernel and the bias in the dtype of the computation."""
        bias = None if self.bias is None else self.bias[...].astype(self.dtype)
        return x.astype(self.dtype), self.kernel[...].astype(self.dtype), bias


class PointwiseConv(_MatrixConv):
    """1x1 convolution, which may also move the channels to another axis.

    Args:
      in_features: Number of channels of the input.
      out_features: Number of channels of the output.
      channel_axes: The axis of the channels in the input and in the output, -1 or -3.
      **options: `use_bias`, `dtype` and `rngs`, as of the other convolutions.
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
        return conv_patches.pointwise_conv(*self._cast(x), self.channel_axes)


class PatchConv(_MatrixConv):
    """2x2 convolution with stride 2: each 2x2 cell becomes a pixel."""

    size = 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., 2H, 2W, in)` to `(..., H, W, out)`."""
        return conv_patches.patch_conv(*self._cast(x))


class PatchConvTranspose(_MatrixConv):
    """2x2 transposed convolution with stride 2: each pixel becomes a 2x2 cell.

    `kernel[a, b]` is what input pixel `(i, j)` puts at output pixel `(2i + a, 2j + b)`.
    """

    size = 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, in)` to `(..., 2H, 2W, out)`."""
        return conv_patches.patch_conv_transpose(*self._cast(x))


class UpsamplingConv(_MatrixConv):
    """3x3 transposed convolution with stride 2 that exactly doubles height and width.

    `kernel[a, b]` is what input pixel `(i, j)` adds to output pixel `(2i + a - 1, 2j + b - 1)`.
    """

    size = 3

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, in)` to `(..., 2H, 2W, out)`."""
        return conv_patches.upsampling_conv(*self._cast(x))
