"""A `BoxBlock` without some of its boxes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from numpy.typing import NDArray

from jaxbox.layers.box import BoxConv, with_boxes
from jaxbox.models.blocks.box import BoxBlock, BoxBranch, ChannelsFirstBranch
from jaxbox.models.convolution import PointwiseConv
from jaxbox.models.features import FeatureMap, Layer
from jaxbox.models.layer_costs import Cost, layer_cost
from jaxbox.models.normalization import BatchNorm
from jaxbox_kernels.common import layout

__all__ = [
    "Constant",
    "EmptyBoxBlock",
    "InsertConstants",
    "PrunedBoxBlock",
    "PrunedBoxConv",
    "prune_boxes",
]


class PrunedBoxConv(nnx.Module):
    """Box convolutions with different numbers of boxes for different channels; channels are first.

    Args:
      groups: The convolutions. The input's first channels are the first convolution's, the next
        ones are the second's, and so on.
    """

    def __init__(self, groups: Sequence[BoxConv]) -> None:
        self.groups = nnx.List(groups)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., C, H, W)` to `(..., boxes, H, W)`, the outputs of one group after another."""
        ends = np.cumsum([boxes.in_features for boxes in self.groups])
        parts = jnp.split(x, ends[:-1].tolist(), axis=-3)
        averages = [boxes(part) for boxes, part in zip(self.groups, parts, strict=True)]
        return jnp.concatenate(averages, axis=-3)


class InsertConstants(nnx.Module):
    """Inserts channels of constant value, which stand for removed boxes; channels are first.

    Args:
      constants: The value of each output channel, `(channels,)`. The values of channels that are
        not constant are ignored.
      positions: The output channel of each input channel.
    """

    def __init__(self, constants: jax.Array, positions: Sequence[int]) -> None:
        self.constants = nnx.Param(constants)
        self.positions = tuple(positions)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., len(positions), H, W)` to `(..., channels, H, W)`."""
        # The index one past the input's channels stands for the constant.
        sources = np.full(self.constants.size, len(self.positions), np.int32)
        sources[list(self.positions)] = np.arange(len(self.positions))
        spread = jnp.take(x, sources, axis=-3, mode="fill", fill_value=0)
        is_constant = layout.per_channel(
            jnp.asarray(sources == len(self.positions)), spread.ndim, -3
        )
        constants = layout.per_channel(self.constants[...].astype(x.dtype), spread.ndim, -3)
        return jnp.where(is_constant, constants, spread)


class Constant(nnx.Module):
    """Returns channels of constant value, which stand for a branch without boxes.

    Args:
      constants: The value of each channel, `(channels,)`.
      dtype: The dtype of the result.
    """

    def __init__(self, constants: jax.Array, dtype: DTypeLike) -> None:
        self.constants = nnx.Param(constants)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `(..., channels, 1, 1)`, of as many axes as `x`."""
        return layout.per_channel(self.constants[...].astype(self.dtype), x.ndim, -3)


@layer_cost.register
def _pruned_boxes_cost(layer: PrunedBoxConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    channels, total = 0, Cost()
    for group in layer.groups:
        output, added = layer_cost(group, features._replace(channels=group.in_features))
        channels += output.channels
        total += added
    return features._replace(channels=channels), total


@layer_cost.register(InsertConstants)
@layer_cost.register(Constant)
def _constants_cost(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    # The constants were biases of a BatchNorm, which do not count, and a copy is no operation.
    return features._replace(channels=layer.constants.size), Cost()


class PrunedBoxBlock(BoxBranch):
    """A copy of a `BoxBlock` without some of its boxes, but with at least one.

    Args:
      block: The block to copy from. Its 1x1 convolution is changed in place.
      keep: Whether each box stays, booleans `(C, F)`.
    """

    def __init__(self, block: BoxBlock, keep: NDArray[np.bool_]) -> None:
        norm2 = block.norm_after_boxes
        channels, positions, groups = [], [], []
        # The channels that keep the same number of boxes are one convolution.
        counts = keep.sum(axis=1)
        for count in np.unique(counts[counts > 0]):
            members = np.flatnonzero(counts == count)
            member, box = np.nonzero(keep[members])
            kept = members[member].reshape(-1, count), box.reshape(-1, count)
            groups.append(with_boxes(block.boxes, block.boxes.theta[...][kept]))
            channels += members.tolist()
            positions += np.ravel_multi_index(kept, keep.shape).ravel().tolist()
        self.input, self.output = block.input, block.output
        self.conv: Layer = _select_outputs(block.conv, channels)
        self.norm1: Layer = _select_channels(block.norm1, channels)
        self.relu = block.relu
        self.boxes = PrunedBoxConv(groups)
        self.norm2: Layer = _select_channels(norm2, positions)
        self.insert_constants = InsertConstants(norm2.bias[...], positions)
        self.dropout: Layer = block.dropout
        self.activation = block.activation

    @property
    def averages(self) -> tuple[Layer, ...]:
        """The box convolutions, their BatchNorm, and the constants in place of removed boxes."""
        return self.boxes, self.norm2, self.insert_constants


class EmptyBoxBlock(ChannelsFirstBranch):
    """What remains of a `BoxBlock` without boxes: it adds a constant to each channel.

    Args:
      block: The block to copy from.
    """

    def __init__(self, block: BoxBlock) -> None:
        norm = block.norm_after_boxes
        self.input, self.output = block.input, block.output
        self.constant = Constant(norm.bias[...], norm.dtype)
        self.activation = block.activation

    @property
    def branch(self) -> tuple[Layer, ...]:
        """The constant."""
        return (self.constant,)

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """None: the branch does not read its input."""
        return ()

    def fold(self) -> None:
        """Does nothing, since there is nothing that only training needs."""


def prune_boxes(block: BoxBlock, keep: NDArray[np.bool_]) -> ChannelsFirstBranch:
    """Returns a block without some of the boxes; see `jaxbox.models.pruning.prune`.

    Args:
      block: The block. The result shares layers with it.
      keep: Whether each box stays, booleans `(C, F)`.

    Raises:
      ValueError: The BatchNorm after the boxes has been folded.
    """
    if keep.all():
        return block
    return PrunedBoxBlock(block, keep) if keep.any() else EmptyBoxBlock(block)


def _select_outputs(conv: Layer, channels: Sequence[int]) -> Layer:
    """Leaves a convolution only some of its output channels."""
    assert isinstance(conv, PointwiseConv)
    index = np.asarray(channels)
    conv.kernel = nnx.Param(conv.kernel[...][..., index])
    if conv.bias is not None:
        conv.bias = nnx.Param(conv.bias[...][index])
    return conv


def _select_channels(norm: Layer, channels: Sequence[int]) -> BatchNorm:
    """Returns a BatchNorm of some of the channels."""
    assert isinstance(norm, BatchNorm)
    selected = BatchNorm(
        len(channels), channel_axis=norm.channel_axis, epsilon=norm.epsilon, dtype=norm.dtype
    )
    selected.use_running_average = norm.use_running_average
    for name in ("scale", "bias", "mean", "var"):
        getattr(selected, name)[...] = getattr(norm, name)[...][np.asarray(channels)]
    return selected
