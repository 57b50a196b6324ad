"""The first block of ENet, which is also ERFNet's downsampling block."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_count
from jaxbox.models.blocks.activation import relu_or_prelu
from jaxbox.models.blocks.block import Block, check_block
from jaxbox.models.blocks.dropout import channel_dropout
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.folding import Identity, to_affine, to_plain_conv
from jaxbox.models.layer_costs import Cost, layer_cost, pooling_cost
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_pool

__all__ = ["InitialBlock"]


class InitialBlock(Block):
    """A 3x3 convolution with stride 2 beside a 2x2 max pool, then BatchNorm and an activation.

    Args:
      features: The features of the block before this one.
      channels: The number of output channels, those of the pooled input included.
      use_bias: Whether the convolution has a bias.
      prelu: Whether the activation is PReLU; otherwise it is ReLU.
      dropout: The probability of dropping a channel.
      epsilon: The epsilon of BatchNorm.
      dtype: The dtype of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: A number is out of range; `channels` is not more than those of `features`.
    """

    def __init__(
        self,
        features: FeatureMap,
        *,
        channels: int,
        use_bias: bool = True,
        prelu: bool = True,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        flags = {"use_bias": use_bias, "prelu": prelu}
        features = check_block(
            features, dropout=dropout, epsilon=epsilon, dtype=dtype, rngs=rngs, **flags
        )
        height, width, C, _ = features
        channels = check_count("channels", channels, minimum=C + 1)
        self.input = FeatureMap(height, width, C)
        self.output = FeatureMap(height // 2, width // 2, channels)
        self.conv: Layer = nnx.Conv(
            C, channels - C, (3, 3), 2, padding=1, use_bias=use_bias, dtype=dtype, rngs=rngs
        )
        self.norm: Layer = BatchNorm(channels, epsilon=epsilon, dtype=dtype)
        self.dropout: Layer = channel_dropout(dropout, rngs)
        self.activation = relu_or_prelu(prelu, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` to `(..., H/2, W/2, channels)`."""
        pooled, _ = max_pool(x)
        convolved = self.conv(x)
        outer = [(0, 0)] * (x.ndim - 1)
        # A sum of padded arrays, because on CPU `concatenate` copies channel by channel, which
        # takes as long as the convolution.
        both = jnp.pad(pooled, [*outer, (0, convolved.shape[-1])])
        both += jnp.pad(convolved, [*outer, (pooled.shape[-1], 0)])
        return self.activation(self.dropout(self.norm(both)))

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """The 3x3 convolution."""
        return (self.conv,)

    def cost(self, features: FeatureMap) -> tuple[FeatureMap, Cost]:
        """Counts what the convolution, the max pool and the activation cost."""
        convolved, conv = layer_cost(self.conv, features)
        pool = pooling_cost(convolved._replace(channels=features.channels))
        output = convolved._replace(channels=self.output.channels)
        _, activation = layer_cost(self.activation, output)
        return output, conv + pool + activation

    def fold(self) -> None:
        """Makes the BatchNorm affine, since the convolution is only a part of its input."""
        self.conv = to_plain_conv(self.conv)
        self.norm = to_affine(self.norm)
        self.dropout = Identity()
