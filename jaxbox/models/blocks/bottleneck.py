"""ENet's bottleneck."""

from functools import partial

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_count
from jaxbox.models.blocks.activation import relu_or_prelu
from jaxbox.models.blocks.block import (
    BottleneckBranch,
    ResidualBlock,
    apply_in_order,
    check_block,
)
from jaxbox.models.blocks.dropout import channel_dropout
from jaxbox.models.convolution import PointwiseConv
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.normalization import BatchNorm
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation

__all__ = ["Bottleneck"]


class Bottleneck(BottleneckBranch, ResidualBlock):
    """ENet's residual block: a convolution on a quarter of the channels.

    Its output has the layout of its input; inside the branch, channels are last.

    Args:
      features: The features of the block before this one.
      dilation: The dilation of the 3x3 convolution.
      asymmetric: The size `n` of an `n x 1` and a `1 x n` convolution that replace the 3x3
        convolution. Default: there is a 3x3 convolution.
      use_bias: Whether the 3x3 convolution, or the `1 x n` convolution, has a bias.
      prelu: Whether activations are PReLU; otherwise they are ReLU.
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
        dilation: int = 1,
        asymmetric: int | None = None,
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
        dilation = check_count("dilation", dilation)
        if asymmetric is not None:
            asymmetric = check_count("asymmetric", asymmetric)
        C, axis = features.channels, features.channel_axis
        check_count("the channels of features", C, minimum=4)
        inner = C // 4
        pointwise = partial(PointwiseConv, dtype=dtype, rngs=rngs)
        conv = partial(
            nnx.Conv,
            *(inner, inner),
            kernel_dilation=dilation,
            conv_general_dilated=conv_large_dilation,
            dtype=dtype,
            rngs=rngs,
        )
        norm = partial(BatchNorm, epsilon=epsilon, dtype=dtype)
        self.input = self.output = features
        size = (3, 3)
        if asymmetric is not None:
            self.column = nnx.data(conv((asymmetric, 1), use_bias=False))
            size = (1, asymmetric)
        self.conv: Layer = conv(size, use_bias=use_bias)
        self.reduce: Layer = pointwise(C, inner, channel_axes=(axis, -1))
        self.norm1: Layer = norm(inner)
        self.activation1 = relu_or_prelu(prelu, inner)
        self.norm2: Layer = norm(inner)
        self.activation2 = relu_or_prelu(prelu, inner)
        self.expand: Layer = pointwise(inner, C, channel_axes=(-1, axis))
        self.norm3: Layer = norm(C, channel_axis=axis)
        self.dropout: Layer = channel_dropout(dropout, rngs, axis)
        self.activation = relu_or_prelu(prelu, C, axis)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` or `(..., C, H, W)` to the same shape."""
        return self.activation(x + apply_in_order(self.branch, x))
