"""The blocks that the networks are made of.

A block is built from the `FeatureMap` that it reads and tells in `output` the one that it returns,
so that a network can be a plain sequence of blocks.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.layers.box import BoxConv
from jaxbox.models.convolution import PatchConv, PointwiseConv, UpsamplingConv, convolve
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_pool, max_unpool
from jaxbox_kernels.common import layout

__all__ = [
    "Block",
    "BlockFactory",
    "Bottleneck",
    "BoxBlock",
    "Downsampling",
    "FeatureMap",
    "InitialBlock",
    "PReLU",
    "Upsampling",
    "channel_dropout",
]


# At a scale of 1 the averages over random boxes, a dozen blocks of them, drown what the other
# blocks see, and training begins by unlearning them: on generated streets (64x128, batch 8)
# BoxENet's mean IoU after 256 steps was 0.22 with 1 and 0.33 with 0.1.
_INITIAL_BOX_SCALE = 0.1


class FeatureMap(NamedTuple):
    """Size of an image's features: height and width in pixels, and channels."""

    height: int
    width: int
    channels: int


class Block(nnx.Module):
    """A part of a network that knows the size of the features that it returns."""

    output: FeatureMap
    channel_axes: tuple[layout.ChannelAxis, layout.ChannelAxis] = (-1, -1)
    """Which axis has the channels, -1 or -3, in what it reads and in what it returns."""


class BlockFactory(Protocol):
    """A kind of block with its options bound, as `functools.partial` makes one."""

    def __call__(self, features: FeatureMap, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Block:
        """Builds the block for features of this size."""


class PReLU(nnx.Module):
    """ReLU with a learnt slope for the negative values of each channel.

    Args:
      channels: Of the input.
      channel_axis: Which axis has them, -1 or -3.
    """

    def __init__(self, channels: int, channel_axis: layout.ChannelAxis = -1) -> None:
        self.slope = nnx.Param(jnp.full(channels, 0.25, jnp.float32))
        self.channel_axis = channel_axis

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to the same shape."""
        slope = layout.per_channel(self.slope[...].astype(x.dtype), x.ndim, self.channel_axis)
        return jnp.where(x >= 0, x, x * slope)


class InitialBlock(Block):
    """A 3x3 convolution with stride 2 beside a 2x2 max pool, then BatchNorm and activation.

    Args:
      features: What it reads.
      channels: Of the output; the pooled input takes some of them.
      use_bias: Whether the convolution has a bias.
      prelu: Whether the activation is PReLU, else ReLU.
      dropout: Probability with which a channel is dropped.
      epsilon: BatchNorm's.
      dtype: Of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.
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
        height, width, C = features
        self.output = FeatureMap(height // 2, width // 2, channels)
        self.conv = nnx.Conv(
            C, channels - C, (3, 3), 2, padding=1, use_bias=use_bias, dtype=dtype, rngs=rngs
        )
        self.norm = BatchNorm(channels, epsilon=epsilon, dtype=dtype)
        self.dropout = channel_dropout(dropout, rngs)
        self.activation = _activation(channels, prelu)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` to `(..., H/2, W/2, channels)`."""
        pooled, _ = max_pool(x)
        convolved = self.conv(x)
        outer = [(0, 0)] * (x.ndim - 1)
        # Side by side without `concatenate`, which copies channel by channel: on CPU that took as
        # long as the convolution.
        both = jnp.pad(pooled, [*outer, (0, convolved.shape[-1])])
        both += jnp.pad(convolved, [*outer, (pooled.shape[-1], 0)])
        return self.activation(self.dropout(self.norm(both)))


class Bottleneck(Block):
    """ENet's residual block: a convolution on a quarter of the channels.

    Args:
      features: What it reads, and returns.
      dilation: Of the 3x3 convolution.
      asymmetric: Use a column and then a row of this size in place of the 3x3 convolution.
      use_bias: Whether the convolution, the row if there are two, has a bias.
      prelu: Whether activations are PReLU, else ReLU.
      dropout: Probability with which a channel of the branch is dropped.
      epsilon: BatchNorm's.
      channel_axis: Which axis of the features has the channels, -1 or -3; inside it is the last.
      dtype: Of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.
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
        channel_axis: layout.ChannelAxis = -1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        C = features.channels
        inner = C // 4
        conv = partial(
            nnx.Conv,
            *(inner, inner),
            kernel_dilation=dilation,
            conv_general_dilated=convolve,
            dtype=dtype,
            rngs=rngs,
        )
        if asymmetric is None:
            convs = [conv((3, 3), use_bias=use_bias)]
        else:
            column, row = (asymmetric, 1), (1, asymmetric)
            convs = [conv(column, use_bias=False), conv(row, use_bias=use_bias)]
        self.output = features
        self.channel_axes = (channel_axis, channel_axis)
        norm = partial(BatchNorm, epsilon=epsilon, dtype=dtype)
        self.branch = nnx.Sequential(
            PointwiseConv(C, inner, channel_axes=(channel_axis, -1), dtype=dtype, rngs=rngs),
            norm(inner),
            _activation(inner, prelu),
            *convs,
            norm(inner),
            _activation(inner, prelu),
            PointwiseConv(inner, C, channel_axes=(-1, channel_axis), dtype=dtype, rngs=rngs),
            norm(C, channel_axis=channel_axis),
            channel_dropout(dropout, rngs, channel_axis),
        )
        self.activation = _activation(C, prelu, channel_axis)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` or `(..., C, H, W)` to the same shape."""
        return self.activation(x + self.branch(x))


class Downsampling(Block):
    """ENet's downsampling block: a bottleneck beside a max pool that remembers positions.

    Args:
      features: What it reads.
      channels: Of the output; the pooled input is padded to them with zeros.
      use_bias: Whether the 3x3 convolution has a bias.
      prelu: Whether activations are PReLU, else ReLU.
      dropout: Probability with which a channel of the branch is dropped.
      epsilon: BatchNorm's.
      output_axis: Which axis of the output has the channels, -1 or -3.
      dtype: Of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.
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
        height, width, C = features
        inner = channels // 4
        self.output = FeatureMap(height // 2, width // 2, channels)
        self.channel_axes = (-1, output_axis)
        norm = partial(BatchNorm, epsilon=epsilon, dtype=dtype)
        self.branch = nnx.Sequential(
            PatchConv(C, inner, dtype=dtype, rngs=rngs),
            norm(inner),
            _activation(inner, prelu),
            nnx.Conv(inner, inner, (3, 3), use_bias=use_bias, dtype=dtype, rngs=rngs),
            norm(inner),
            _activation(inner, prelu),
            PointwiseConv(inner, channels, channel_axes=(-1, output_axis), dtype=dtype, rngs=rngs),
            norm(channels, channel_axis=output_axis),
            channel_dropout(dropout, rngs, output_axis),
        )
        self.activation = _activation(channels, prelu, output_axis)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps `(..., H, W, C)` to `(..., H/2, W/2, channels)` or `(..., channels, H/2, W/2)`.

        Also returns where the maxima were, `(..., H/2, W/2, C)`, for the `Upsampling` that undoes
        this block.
        """
        pooled, positions = max_pool(x)
        padding = [(0, 0)] * x.ndim
        padding[self.channel_axes[1]] = (0, self.output.channels - pooled.shape[-1])
        padded = jnp.pad(layout.move(pooled, *self.channel_axes), padding)
        return self.activation(padded + self.branch(x)), positions


class Upsampling(Block):
    """ENet's upsampling block: a bottleneck with a transposed convolution beside max unpooling.

    Args:
      features: What it reads.
      channels: Of the output.
      use_bias: Whether the transposed convolution has a bias.
      dropout: Probability with which a channel of the branch is dropped.
      epsilon: BatchNorm's.
      input_axis: Which axis of the input has the channels, -1 or -3.
      dtype: Of the computation.
      rngs: The random keys; the streams `params` and `dropout` are used.
    """

    def __init__(
        self,
        features: FeatureMap,
        *,
        channels: int,
        use_bias: bool = True,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        input_axis: layout.ChannelAxis = -1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, C = features
        inner = channels // 4
        self.output = FeatureMap(2 * height, 2 * width, channels)
        self.channel_axes = (input_axis, -1)
        read = partial(PointwiseConv, C, channel_axes=self.channel_axes, dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, epsilon=epsilon, dtype=dtype)
        self.skip = nnx.Sequential(
            read(channels),
            norm(channels),
        )
        self.branch = nnx.Sequential(
            read(inner),
            norm(inner),
            nnx.relu,
            UpsamplingConv(inner, inner, use_bias=use_bias, dtype=dtype, rngs=rngs),
            norm(inner),
            nnx.relu,
            PointwiseConv(inner, channels, dtype=dtype, rngs=rngs),
            norm(channels),
            channel_dropout(dropout, rngs),
        )

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` or `(..., C, H, W)` to `(..., 2H, 2W, channels)`.

        Args:
          x: Features.
          positions: What the matching `Downsampling` returned, `(..., H, W, channels)`.
        """
        return nnx.relu(max_unpool(self.skip(x), positions) + self.branch(x))


class BoxBlock(Block):
    """The paper's residual block: a 1x1 convolution, then a box convolution (section 4).

    Args:
      features: What it reads, and returns. Its size in pixels is the window of the boxes.
      num_boxes: For each of the `channels / num_boxes` inner channels.
      use_bias: Whether the 1x1 convolution has a bias.
      relu: Whether what the boxes average is rectified first.
      trainable: Whether the boxes are parameters; otherwise they stay as they were drawn.
      dropout: Probability with which a channel of the branch is dropped.
      channel_axis: Which axis of the features has the channels, -1 or -3; inside it is -3.
      dtype: Of the computation; the boxes are float32 whatever it is.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      ValueError: The channels are not a multiple of `num_boxes`.
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
        channel_axis: layout.ChannelAxis = -1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, C = features
        if C % num_boxes:
            raise ValueError(f"num_boxes must divide the {C} channels, got {num_boxes}.")
        inner = C // num_boxes
        self.output = features
        self.channel_axes = (channel_axis, channel_axis)
        conv = PointwiseConv(
            C, inner, channel_axes=(channel_axis, -3), use_bias=use_bias, dtype=dtype, rngs=rngs
        )
        boxes = BoxConv(
            inner, num_boxes, (height, width), trainable=trainable, channel_axis=-3, rngs=rngs
        )
        self.branch = nnx.Sequential(
            conv,
            BatchNorm(inner, channel_axis=-3, dtype=dtype),
            *([nnx.relu] if relu else []),
            boxes,
            BatchNorm(C, channel_axis=-3, initial_scale=_INITIAL_BOX_SCALE, dtype=dtype),
            channel_dropout(dropout, rngs, -3),
        )

    @property
    def boxes(self) -> BoxConv:
        """The box convolution.

        Raises:
          ValueError: It has been pruned.
        """
        for layer in self.branch.layers:
            if isinstance(layer, BoxConv):
                return layer
        raise ValueError("the boxes of this network have been pruned already.")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., H, W, C)` or `(..., C, H, W)` to the same shape."""
        branch = layout.move(self.branch(x), -3, self.channel_axes[1])
        # Otherwise XLA adds up the branches of all blocks before again for each, transposing anew
        # what their boxes gave: BoxOnlyENet would take five times as long on CPU.
        return jax.lax.optimization_barrier(nnx.relu(x + branch))


def _activation(
    channels: int, prelu: bool, channel_axis: layout.ChannelAxis = -1
) -> Callable[[jax.Array], jax.Array]:
    return PReLU(channels, channel_axis) if prelu else nnx.relu


def channel_dropout(
    rate: float, rngs: nnx.Rngs, channel_axis: layout.ChannelAxis = -1
) -> nnx.Dropout:
    """Dropout of whole channels."""
    pixels = (-3, -2) if channel_axis == -1 else (-2, -1)
    return nnx.Dropout(rate, broadcast_dims=pixels, rngs=rngs)
