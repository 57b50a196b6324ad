"""The residual block of the box convolution paper."""

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_count
from jaxbox.layers.box import BoxConv
from jaxbox.models.blocks.block import ResidualBlock, apply_in_order, check_block
from jaxbox.models.blocks.dropout import channel_dropout
from jaxbox.models.convolution import PointwiseConv
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.folding import Identity, fold_norm, to_affine
from jaxbox.models.normalization import BatchNorm
from jaxbox_kernels.common import layout
from jaxbox_kernels.common.xla_hints import compute_once

__all__ = ["BoxBlock", "BoxBranch", "ChannelsFirstBranch"]


# At a scale of 1 the averages over a dozen blocks of random boxes drown what the other blocks
# compute, and training begins by unlearning them. On generated streets (64x128, batch 8) the mean
# IoU of BoxENet after 256 steps was 0.22 with 1 and 0.33 with 0.1.
_INITIAL_BOX_SCALE = 0.1


class ChannelsFirstBranch(ResidualBlock):
    """A residual block whose branch returns channels first; the output has the input's layout."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` or `(..., C, H, W)` to the same shape."""
        branch = apply_in_order(self.branch, x)
        y = self.activation(x + layout.move(branch, -3, self.output.channel_axis))
        # Otherwise XLA on CPU computes the sum over all blocks before, with its transpositions,
        # anew for each block.
        return compute_once(y)


class BoxBranch(ChannelsFirstBranch):
    """A residual block with a 1x1 convolution, then averages over boxes.

    Attributes:
      conv: The 1x1 convolution.
      norm1: The BatchNorm after it.
      relu: Whether there is a ReLU after that.
      norm2: The BatchNorm after the averages.
      dropout: The dropout at the end of the branch.
    """

    conv: Layer
    norm1: Layer
    relu: bool
    norm2: Layer
    dropout: Layer

    @property
    @abstractmethod
    def averages(self) -> tuple[Layer, ...]:
        """The layers that average over boxes, `norm2` included."""

    @property
    def branch(self) -> tuple[Layer, ...]:
        """The layers of the branch, in the order in which they are applied."""
        rectified = (nnx.relu,) if self.relu else ()
        return (self.conv, self.norm1, *rectified, *self.averages, self.dropout)

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """The 1x1 convolution."""
        return (self.conv,)

    def fold(self) -> None:
        """Folds the first BatchNorm, makes that after the boxes affine, and removes dropout."""
        self.conv, self.norm1 = fold_norm(self.conv, self.norm1)
        self.norm2 = to_affine(self.norm2)
        self.dropout = Identity()


class BoxBlock(BoxBranch):
    """The paper's residual block: a 1x1 convolution, then a box convolution.

    Its output has the layout of its input; inside the branch, channels are first.

    Source: Burkov & Lempitsky 2018, section 4.

    Args:
      features: The features of the block before this one. Their height and width in pixels are the
        window of the boxes.
      num_boxes: The number of boxes of each of the `channels / num_boxes` inner channels.
      use_bias: Whether the 1x1 convolution has a bias.
      relu: Whether there is a ReLU before the box convolution.
      trainable: Whether the boxes are parameters; otherwise they keep their initial values.
      dropout: The probability of dropping a channel of the branch.
      dtype: The dtype of the computation. The boxes are float32 in any case.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: A number is out of range, or the number of channels is not a multiple of
        `num_boxes`.
    """

    def __init__(
        self,
        features: FeatureMap,
        *,
        num_boxes: int = 4,
        use_bias: bool = True,
        relu: bool = True,
        trainable: bool = True,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        flags = {"use_bias": use_bias, "relu": relu, "trainable": trainable}
        features = check_block(features, dropout=dropout, dtype=dtype, rngs=rngs, **flags)
        height, width, C, axis = features
        num_boxes = check_count("num_boxes", num_boxes)
        if C % num_boxes:
            raise ValueError(f"num_boxes must divide the {C} channels, got {num_boxes}.")
        inner = C // num_boxes
        self.input = self.output = features
        self.conv: Layer = PointwiseConv(
            C, inner, channel_axes=(axis, -3), use_bias=use_bias, dtype=dtype, rngs=rngs
        )
        self.norm1: Layer = BatchNorm(inner, channel_axis=-3, dtype=dtype)
        self.relu = relu
        self.boxes = BoxConv(
            inner,
            num_boxes,
            window=(height, width),
            trainable=trainable,
            channel_axis=-3,
            rngs=rngs,
        )
        self.norm2: Layer = BatchNorm(
            C, channel_axis=-3, initial_scale=_INITIAL_BOX_SCALE, dtype=dtype
        )
        self.dropout: Layer = channel_dropout(dropout, rngs, -3)
        self.activation = nnx.relu

    @property
    def averages(self) -> tuple[Layer, ...]:
        """The box convolution and its BatchNorm."""
        return self.boxes, self.norm2

    @property
    def norm_after_boxes(self) -> BatchNorm:
        """The BatchNorm after the box convolution.

        Raises:
          ValueError: It has been folded.
        """
        if not isinstance(self.norm2, BatchNorm):
            raise ValueError("model must have its BatchNorms: prune it before folding them.")
        return self.norm2

    def contributions(self) -> jax.Array:
        """Returns each box's contribution to the output; see `jaxbox.models.pruning`.

        Returns:
          `(C, F)`, where `F` is the number of boxes of a channel.

        Raises:
          ValueError: The BatchNorm after the boxes has been folded.
        """
        norm = self.norm_after_boxes
        variance = norm.var[...]
        deviation = jnp.abs(norm.scale[...]) * jnp.sqrt(variance / (variance + norm.epsilon))
        return deviation.reshape(self.boxes.theta.shape[:2])
