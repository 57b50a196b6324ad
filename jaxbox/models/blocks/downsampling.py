"""ENet's downsampling block."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_choice, check_count
from jaxbox.models.blocks.activation import relu_or_prelu
from jaxbox.models.blocks.block import (
    BottleneckBranch,
    apply_in_order,
    check_block,
    residual_cost,
)
from jaxbox.models.blocks.dropout import channel_dropout
from jaxbox.models.convolution import PatchConv, PointwiseConv
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.layer_costs import Cost, chain_cost, pooling_cost
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_pool
from jaxbox_kernels.common import layout

__all__ = ["Downsampling"]


class Downsampling(BottleneckBranch):
    """A bottleneck with stride 2 beside a max pool, which also returns the positions of the maxima.

    Args:
      features: The features of the block before this one.
      channels: The number of output channels. The pooled input is padded to them with zeros.
      use_bias: Whether the 3x3 convolution has a bias.
      prelu: Whether activations are PReLU; otherwise they are ReLU.
      dropout: The probability of dropping a channel of the branch.
      epsilon: The epsilon of BatchNorm.
      output_axis: The axis of the output's channels, -1 or -3. `jaxbox.models.layouts` derives it.
      dtype: The dtype of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: A number is out of range; `channels` is below 4 or those of `features`.
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
        output_axis: layout.ChannelAxis = -1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        flags = {"use_bias": use_bias, "prelu": prelu}
        features = check_block(
            features, dropout=dropout, epsilon=epsilon, dtype=dtype, rngs=rngs, **flags
        )
        check_choice("output_axis", output_axis, get_args(layout.ChannelAxis))
        height, width, C, _ = features
        channels = check_count("channels", channels, minimum=max(C, 4))
        inner = channels // 4
        norm = partial(BatchNorm, epsilon=epsilon, dtype=dtype)
        self.input = FeatureMap(height, width, C)
        self.output = FeatureMap(height // 2, width // 2, channels, output_axis)
        self.reduce: Layer = PatchConv(C, inner, dtype=dtype, rngs=rngs)
        self.norm1: Layer = norm(inner)
        self.activation1 = relu_or_prelu(prelu, inner)
        self.conv: Layer = nnx.Conv(inner, inner, (3, 3), use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.norm2: Layer = norm(inner)
        self.activation2 = relu_or_prelu(prelu, inner)
        self.expand: Layer = PointwiseConv(
            inner, channels, channel_axes=(-1, output_axis), dtype=dtype, rngs=rngs
        )
        self.norm3: Layer = norm(channels, channel_axis=output_axis)
        self.dropout: Layer = channel_dropout(dropout, rngs, output_axis)
        self.activation = relu_or_prelu(prelu, channels, output_axis)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `(..., H, W, C)` to `(..., H/2, W/2, channels)` or `(..., channels, H/2, W/2)`.

        Also returns the positions of the maxima, `(..., H/2, W/2, C)`, for the `Upsampling` that
        inverts this block.
        """
        pooled, positions = max_pool(x)
        axis = self.output.channel_axis
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, self.output.channels - pooled.shape[-1])
        padded = jnp.pad(layout.move(pooled, -1, axis), padding)
        return self.activation(padded + apply_in_order(self.branch, x)), positions

    def cost(self, features: FeatureMap) -> tuple[FeatureMap, Cost]:
        """Counts what the branch, the max pool, the sum and the activation cost."""
        output, branch = chain_cost(self.branch, features)
        pool = pooling_cost(output._replace(channels=features.channels))
        return output, branch + pool + residual_cost(self.activation, output)
