"""ENet's upsampling block."""

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_count
from jaxbox.models.blocks.block import (
    BottleneckBranch,
    apply_in_order,
    check_block,
    residual_cost,
)
from jaxbox.models.blocks.dropout import channel_dropout
from jaxbox.models.convolution import PointwiseConv, UpsamplingConv
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.folding import fold_norm
from jaxbox.models.layer_costs import Cost, chain_cost, elementwise_cost
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_unpool

__all__ = ["Upsampling"]


class Upsampling(BottleneckBranch):
    """A bottleneck with a transposed convolution beside max unpooling.

    It reads features in any layout and returns them with channels last.

    Args:
      features: The features of the block before this one.
      channels: The number of output channels.
      use_bias: Whether the transposed convolution has a bias.
      dropout: The probability of dropping a channel of the branch.
      epsilon: The epsilon of BatchNorm.
      dtype: The dtype of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: A number is out of range.
    """

    def __init__(
        self,
        features: FeatureMap,
        *,
        channels: int,
        use_bias: bool = True,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        features = check_block(
            features, dropout=dropout, epsilon=epsilon, dtype=dtype, rngs=rngs, use_bias=use_bias
        )
        channels = check_count("channels", channels, minimum=4)
        height, width, C, axis = features
        inner = channels // 4
        pointwise = partial(PointwiseConv, dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, epsilon=epsilon, dtype=dtype)
        self.input = features
        self.output = FeatureMap(2 * height, 2 * width, channels)
        self.skip_conv: Layer = pointwise(C, channels, channel_axes=(axis, -1))
        self.skip_norm: Layer = norm(channels)
        self.reduce: Layer = pointwise(C, inner, channel_axes=(axis, -1))
        self.norm1: Layer = norm(inner)
        self.activation1 = nnx.relu
        self.conv: Layer = UpsamplingConv(inner, inner, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.norm2: Layer = norm(inner)
        self.activation2 = nnx.relu
        self.expand: Layer = pointwise(inner, channels)
        self.norm3: Layer = norm(channels)
        self.dropout: Layer = channel_dropout(dropout, rngs)

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` or `(..., C, H, W)` to `(..., 2H, 2W, channels)`.

        Args:
          x: The features.
          positions: The positions of the maxima that the `Downsampling` returned which this block
            inverts, `(..., H, W, channels)`.
        """
        skip = max_unpool(apply_in_order(self.skip, x), positions)
        return nnx.relu(skip + apply_in_order(self.branch, x))

    @property
    def skip(self) -> tuple[Layer, ...]:
        """The layers before max unpooling, in the order in which they are applied."""
        return self.skip_conv, self.skip_norm

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """The 1x1 convolutions that begin the branch and the skip connection."""
        return self.reduce, self.skip_conv

    def cost(self, features: FeatureMap) -> tuple[FeatureMap, Cost]:
        """Counts what branch, skip connection, unpooling, sum and activation cost."""
        output, branch = chain_cost(self.branch, features)
        _, skip = chain_cost(self.skip, features)
        unpooling = elementwise_cost(output)
        return output, branch + skip + unpooling + residual_cost(nnx.relu, output)

    def fold(self) -> None:
        """Folds each BatchNorm into the convolution before it and removes dropout."""
        super().fold()
        self.skip_conv, self.skip_norm = fold_norm(self.skip_conv, self.skip_norm)
