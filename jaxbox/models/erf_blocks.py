"""The blocks that only ERFNet and its variants have."""

from functools import partial

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.models.blocks import Block, FeatureMap, channel_dropout
from jaxbox.models.convolution import UpsamplingConv, convolve
from jaxbox.models.normalization import BatchNorm

__all__ = ["NonBottleneck1D", "TransposedUpsampling"]


class NonBottleneck1D(Block):
    """ERFNet's residual block: two pairs of a column and a row convolution of size 3.

    Args:
      features: What it reads, and returns.
      dilation: Of the second pair.
      use_bias: Whether the convolutions have biases.
      dropout: Probability with which a channel of the branch is dropped.
      dtype: Of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.
    """

    def __init__(
        self,
        features: FeatureMap,
        *,
        dilation: int = 1,
        use_bias: bool = True,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        C = features.channels
        conv = partial(
            nnx.Conv,
            *(C, C),
            use_bias=use_bias,
            conv_general_dilated=convolve,
            dtype=dtype,
            rngs=rngs,
        )
        self.output = features
        self.branch = nnx.Sequential(
            conv((3, 1)),
            nnx.relu,
            conv((1, 3)),
            BatchNorm(C, dtype=dtype),
            nnx.relu,
            conv((3, 1), kernel_dilation=(dilation, 1)),
            nnx.relu,
            conv((1, 3), kernel_dilation=(1, dilation)),
            BatchNorm(C, dtype=dtype),
            channel_dropout(dropout, rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` to the same shape."""
        return nnx.relu(x + self.branch(x))


class TransposedUpsampling(Block):
    """A 3x3 transposed convolution with stride 2, then BatchNorm and ReLU.

    Args:
      features: What it reads.
      channels: Of the output.
      use_bias: Whether the convolution has a bias.
      dtype: Of the computation.
      rngs: The random keys; the stream `params` is used.
    """

    def __init__(
        self,
        features: FeatureMap,
        *,
        channels: int,
        use_bias: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, C = features
        self.output = FeatureMap(2 * height, 2 * width, channels)
        self.conv = UpsamplingConv(C, channels, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(channels, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` to `(..., 2H, 2W, channels)`."""
        return nnx.relu(self.norm(self.conv(x)))
