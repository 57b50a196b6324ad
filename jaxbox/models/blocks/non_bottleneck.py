"""ERFNet's residual block."""

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_count
from jaxbox.models.blocks.block import ResidualBlock, apply_in_order, check_block
from jaxbox.models.blocks.dropout import channel_dropout
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.folding import Identity, fold_norm, to_plain_conv
from jaxbox.models.normalization import BatchNorm
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation

__all__ = ["NonBottleneck1D"]


class NonBottleneck1D(ResidualBlock):
    """Two pairs of a 3x1 and a 1x3 convolution on all channels.

    It reads and returns features with channels last.

    Args:
      features: The features of the block before this one.
      dilation: The dilation of the second pair.
      use_bias: Whether the convolutions have biases.
      dropout: The probability of dropping a channel of the branch.
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
        use_bias: bool = True,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        features = check_block(features, dropout=dropout, dtype=dtype, rngs=rngs, use_bias=use_bias)
        dilation = check_count("dilation", dilation)
        C = features.channels
        conv = partial(
            nnx.Conv,
            *(C, C),
            use_bias=use_bias,
            conv_general_dilated=conv_large_dilation,
            dtype=dtype,
            rngs=rngs,
        )
        self.input = self.output = features._replace(channel_axis=-1)
        self.column1: Layer = conv((3, 1))
        self.row1: Layer = conv((1, 3))
        self.norm1: Layer = BatchNorm(C, dtype=dtype)
        self.column2: Layer = conv((3, 1), kernel_dilation=(dilation, 1))
        self.row2: Layer = conv((1, 3), kernel_dilation=(1, dilation))
        self.norm2: Layer = BatchNorm(C, dtype=dtype)
        self.dropout: Layer = channel_dropout(dropout, rngs)
        self.activation = nnx.relu

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` to the same shape."""
        return self.activation(x + apply_in_order(self.branch, x))

    @property
    def branch(self) -> tuple[Layer, ...]:
        """The layers of the branch, in the order in which they are applied."""
        return (
            *(self.column1, nnx.relu, self.row1, self.norm1, nnx.relu),
            *(self.column2, nnx.relu, self.row2, self.norm2, self.dropout),
        )

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """The first 3x1 convolution."""
        return (self.column1,)

    def fold(self) -> None:
        """Folds each BatchNorm into the convolution before it and removes dropout."""
        self.column1 = to_plain_conv(self.column1)
        self.row1, self.norm1 = fold_norm(self.row1, self.norm1)
        self.column2 = to_plain_conv(self.column2)
        self.row2, self.norm2 = fold_norm(self.row2, self.norm2)
        self.dropout = Identity()
