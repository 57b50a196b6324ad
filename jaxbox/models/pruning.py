"""Networks without the boxes that they do not need.

A box has one weight on its way out of its block: the factor that the BatchNorm after the boxes
gives its channel. What comes out is added to the block's input, which all blocks further on read.
So a box whose factor is 0 can go without a trace, whatever the weights of the next convolution; any
other leaves at least a difference of the size that `contributions` measures.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from numpy.typing import NDArray

from jaxbox.layers.box import BoxConv
from jaxbox.models.blocks import BoxBlock
from jaxbox.models.convolution import PointwiseConv
from jaxbox.models.network import SegmentationNetwork
from jaxbox.models.normalization import BatchNorm
from jaxbox_kernels.common import layout

__all__ = ["Constant", "PrunedBoxConv", "Spread", "contributions", "prune"]


class PrunedBoxConv(nnx.Module):
    """Box convolutions of a different number of boxes for each channel, on planes.

    Args:
      groups: The convolutions. The first channels of the input are the first one's, and so on.
    """

    def __init__(self, groups: Sequence[BoxConv]) -> None:
        self.groups = nnx.List(groups)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., C, H, W)` to `(..., boxes, H, W)`, one group's after another's."""
        ends = np.cumsum([boxes.in_features for boxes in self.groups])
        parts = jnp.split(x, ends[:-1].tolist(), axis=-3)
        averages = [boxes(part) for boxes, part in zip(self.groups, parts, strict=True)]
        return jnp.concatenate(averages, axis=-3)


class Spread(nnx.Module):
    """Puts planes among constant ones, which stand for boxes that are gone.

    Args:
      constants: `(channels,)`, the constant of each plane of the output; those of planes that are
        not constant are ignored.
      positions: Where each plane of the input goes.
    """

    def __init__(self, constants: jax.Array, positions: Sequence[int]) -> None:
        self.constants = nnx.Param(constants)
        self.positions = tuple(positions)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., len(positions), H, W)` to `(..., channels, H, W)`."""
        # One past the input's planes asks for the constant.
        sources = np.full(self.constants.size, len(self.positions), np.int32)
        sources[list(self.positions)] = np.arange(len(self.positions))
        spread = jnp.take(x, sources, axis=-3, mode="fill", fill_value=0)
        is_constant = layout.per_channel(
            jnp.asarray(sources == len(self.positions)), spread.ndim, -3
        )
        constants = layout.per_channel(self.constants[...].astype(x.dtype), spread.ndim, -3)
        return jnp.where(is_constant, constants, spread)


class Constant(nnx.Module):
    """What is left of a branch that has lost all its boxes: planes that do not depend on the input.

    Args:
      constants: `(channels,)`, the constant of each plane.
      dtype: Of the result.
    """

    def __init__(self, constants: jax.Array, dtype: DTypeLike) -> None:
        self.constants = nnx.Param(constants)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `(..., channels, 1, 1)`, of as many axes as `x`."""
        return layout.per_channel(self.constants[...].astype(self.dtype), x.ndim, -3)


def contributions(model: SegmentationNetwork) -> list[jax.Array]:
    """What each box of a network contributes to the sum that its block returns.

    It is the standard deviation of what the box adds to its channel, over training's images and
    positions, as the running statistics of the BatchNorm after the boxes have it: with its `scale`,
    `var` and `epsilon`, `|scale| * sqrt(var / (var + epsilon))`. So much is lost, in root mean
    square, when the box's mean takes its place, as in `prune`. It is 0 exactly where the weight
    with which the box leaves its block is 0.

    Args:
      model: A trained network, not made ready by `jaxbox.models.inference.for_inference`.

    Returns:
      `(C, F)` for each box layer, in the order of `jaxbox.analysis.box_layers`.

    Raises:
      ValueError: The network has been pruned, or made ready for inference.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.pruning import contributions
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> first, *_ = contributions(model)
      >>> first.shape, f"{first[0, 0]:.3f}"
      ((16, 4), '0.100')
    """
    measured = []
    for block in _box_blocks(model):
        norm, shape = _norm_after_boxes(block), block.boxes.theta.shape[:2]
        variance = norm.var[...]
        deviation = jnp.abs(norm.scale[...]) * jnp.sqrt(variance / (variance + norm.epsilon))
        measured.append(deviation.reshape(shape))
    return measured


def prune(model: SegmentationNetwork, keep: Sequence[ArrayLike]) -> SegmentationNetwork:
    """Copies a network without some of its boxes and the weights that served them alone.

    In the place of a box comes the mean of what it added to its block's sum, a constant: the
    running mean of BatchNorm's input, hence BatchNorm's bias. Where no box of a channel is left,
    the 1x1 convolution before the boxes and its BatchNorm lose that channel, and a block without
    boxes its whole branch. The copy trains as any network does, to make up for the loss, and
    `jaxbox.models.cost.cost` counts it.

    Where the removed boxes' `contributions` are 0, nothing but zeros is left out of the sums that
    make the logits in evaluation mode: they are those of `model`, bit for bit where the sums are
    exact. Where they are rounded, XLA may round a plane's sums otherwise when it computes fewer
    planes, by a few units in the last place.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics", which proposes to remove the boxes
    that shrank to the minimum.

    Args:
      model: A trained network, not made ready by `jaxbox.models.inference.for_inference`.
      keep: For each box layer, in the order of `jaxbox.analysis.box_layers`, booleans `(C, F)`:
        whether the box stays. For instance
        `[~analysis.at_minimum(layer.theta) for layer in analysis.box_layers(model)]`.

    Returns:
      The smaller network.

    Raises:
      TypeError: The masks are not boolean.
      ValueError: There are not as many masks as box layers, one is of another shape, or the network
        has been pruned already or made ready for inference.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models
      >>> from jaxbox.models.cost import cost
      >>> from jaxbox.models.pruning import prune
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> keep = [analysis.symmetry(layer.theta) > 0 for layer in analysis.box_layers(model)]
      >>> pruned = prune(model, keep)
      >>> cost(pruned, (16, 24)).parameters < cost(model, (16, 24)).parameters
      True
    """
    pruned = nnx.clone(model)
    blocks = _box_blocks(pruned)
    if len(keep) != len(blocks):
        raise ValueError(
            f"keep must have a mask for each of {len(blocks)} layers, got {len(keep)}."
        )
    masks = [np.asarray(mask) for mask in keep]
    for index, (mask, block) in enumerate(zip(masks, blocks, strict=True)):
        shape = block.boxes.theta.shape[:2]
        if mask.dtype != np.bool_:
            raise TypeError(f"keep must be boolean, got {mask.dtype} for layer {index}.")
        if mask.shape != shape:
            raise ValueError(f"keep must be {shape} for layer {index}, got shape {mask.shape}.")
    for mask, block in zip(masks, blocks, strict=True):
        _prune_block(block, mask)
    return pruned


def _box_blocks(model: SegmentationNetwork) -> list[BoxBlock]:
    return [block for block in model.blocks if isinstance(block, BoxBlock)]


def _norm_after_boxes(block: BoxBlock) -> BatchNorm:
    layers = list(block.branch.layers)
    norm = layers[layers.index(block.boxes) + 1]
    if not isinstance(norm, BatchNorm):
        raise ValueError("model must have its BatchNorms: prune it, then make it ready for use.")
    return norm


def _prune_block(block: BoxBlock, keep: NDArray[np.bool_]) -> None:
    if keep.all():
        return
    boxes, norm_after = block.boxes, _norm_after_boxes(block)
    constants = norm_after.bias[...]
    if not keep.any():
        block.branch = nnx.Sequential(Constant(constants, norm_after.dtype))
        return
    layers: list[Any] = list(block.branch.layers)
    conv, norm, *rectification = layers[: layers.index(boxes)]
    dropout = layers[-1]
    # In groups of the same number of boxes, each of which is one convolution.
    counts = keep.sum(axis=1)
    members = [np.flatnonzero(counts == count) for count in np.unique(counts[counts > 0])]
    groups, positions = [], []
    for channels in members:
        at = np.nonzero(keep[channels])
        kept = channels[at[0]].reshape(len(channels), -1), at[1].reshape(len(channels), -1)
        groups.append(_box_conv_like(boxes, boxes.theta[...][kept]))
        positions += np.ravel(kept[0] * keep.shape[1] + kept[1]).tolist()
    _select_outputs(conv, np.concatenate(members))
    block.branch = nnx.Sequential(
        conv,
        _norm_of(norm, np.concatenate(members)),
        *rectification,
        PrunedBoxConv(groups),
        _norm_of(norm_after, np.array(positions)),
        Spread(constants, positions),
        dropout,
    )


def _box_conv_like(boxes: BoxConv, theta: jax.Array) -> BoxConv:
    """A layer with other boxes."""
    return BoxConv(
        theta.shape[0],
        theta.shape[1],
        boxes.window,
        normalize=boxes.normalize,
        whole_pixels=boxes.whole_pixels,
        channel_axis=boxes.channel_axis,
        dtype=boxes.dtype,
        param_dtype=boxes.param_dtype,
        trainable=isinstance(boxes.theta, nnx.Param),
        theta_init=lambda key, shape, dtype: theta,  # noqa: ARG005
        implementation=boxes.implementation,
        rngs=nnx.Rngs(0),
    )


def _select_outputs(conv: PointwiseConv, channels: NDArray[np.integer]) -> None:
    conv.kernel = nnx.Param(conv.kernel[...][..., channels])
    if conv.bias is not None:
        conv.bias = nnx.Param(conv.bias[...][channels])


def _norm_of(norm: BatchNorm, channels: NDArray[np.integer]) -> BatchNorm:
    """A BatchNorm of some of the channels."""
    selected = BatchNorm(
        len(channels), channel_axis=norm.channel_axis, epsilon=norm.epsilon, dtype=norm.dtype
    )
    selected.use_running_average = norm.use_running_average
    for name in ("scale", "bias", "mean", "var"):
        getattr(selected, name)[...] = getattr(norm, name)[...][channels]
    return selected
