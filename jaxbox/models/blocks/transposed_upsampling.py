"""ERFNet's upsampling block."""

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_count
from jaxbox.models.blocks.block import Block, check_block
from jaxbox.models.convolution import UpsamplingConv
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.folding import fold_norm
from jaxbox.models.layer_costs import Cost, chain_cost
from jaxbox.models.normalization import BatchNorm

__all__ = ["TransposedUpsampling"]


class TransposedUpsampling(Block):
    """A 3x3 transposed convolution with stride 2, then BatchNorm and ReLU.

    Args:
      features: The features of the block before this one.
      channels: The number of output channels.
      use_bias: Whether the convolution has a bias.
      dtype: The dtype of the computation.
      rngs: The random keys; the stream `params` is used.

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
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        features = check_block(
            features, has_dropout=False, dtype=dtype, rngs=rngs, use_bias=use_bias
        )
        channels = check_count("channels", channels)
        height, width, C, _ = features
        self.input = FeatureMap(height, width, C)
        self.output = FeatureMap(2 * height, 2 * width, channels)
        self.conv: Layer = UpsamplingConv(C, channels, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.norm: Layer = BatchNorm(channels, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` to `(..., 2H, 2W, channels)`."""
        return nnx.relu(self.norm(self.conv(x)))

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """The transposed convolution."""
        return (self.conv,)

    def cost(self, features: FeatureMap) -> tuple[FeatureMap, Cost]:
        """Counts what the convolution and the activation cost."""
        return chain_cost((self.conv, self.norm, nnx.relu), features)

    def fold(self) -> None:
        """Folds the BatchNorm into the convolution."""
        self.conv, self.norm = fold_norm(self.conv, self.norm)
