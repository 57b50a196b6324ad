"""Removing the boxes that a network does not need.

A box has one weight on its way out of its block: the factor of its channel in the BatchNorm after
the boxes. The result is added to the block's input, which all later blocks read. So a box whose
factor is 0 can be removed without any effect, whatever the weights of the next convolution are.
Removing any other box changes the block's output by what `contributions` measures.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxbox.arguments import check_sequence
from jaxbox.models.blocks import prune_boxes
from jaxbox.models.network import SegmentationNetwork, check_network

__all__ = ["contributions", "prune"]


def contributions(model: SegmentationNetwork) -> list[jax.Array]:
    """Measures what each box of a network contributes to the output of its block.

    The contribution of a box is the standard deviation, over the images and positions of training,
    of what the box adds to its channel. It follows from the running statistics of the BatchNorm
    after the boxes: `|scale| * sqrt(var / (var + epsilon))`. It is the root mean square error if
    the box is replaced by the mean of what it adds, as `prune` does, and it is 0 exactly where the
    BatchNorm's `scale` is 0.

    Args:
      model: A trained network, not prepared by `jaxbox.models.inference.for_inference`.

    Returns:
      The contributions `(C, F)` of each box layer, in the order of `jaxbox.analysis.box_layers`.

    Raises:
      TypeError: `model` is no network.
      ValueError: The network has been pruned, or prepared for inference.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.pruning import contributions
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> first, *_ = contributions(model)
      >>> first.shape, f"{first[0, 0]:.3f}"
      ((16, 4), '0.100')
    """
    check_network(model)
    return [block.contributions() for _, block in model.box_blocks()]


def prune(model: SegmentationNetwork, keep: Sequence[ArrayLike]) -> SegmentationNetwork:
    """Copies a network without some of its boxes and the weights that serve only them.

    A removed box is replaced by the mean of what it added to its block's output. This is a
    constant, the bias of the BatchNorm after the boxes. If no box of a channel is left, the 1x1
    convolution before the boxes and its BatchNorm lose that channel. If no box of a block is left,
    its whole branch is a constant. The copy can be trained further to make up for the loss, and
    `jaxbox.models.cost.cost` counts it.

    If the removed boxes' `contributions` are 0, only zeros are missing from the sums that make the
    logits in evaluation mode. The logits are then bit for bit those of `model` if all sums are
    exact. Otherwise they may differ by a few units in the last place, since XLA may add in another
    order when it computes fewer channels.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics", which proposes to remove the boxes
    that shrank to the minimum size.

    Args:
      model: A trained network, not prepared by `jaxbox.models.inference.for_inference`.
      keep: Whether each box stays: booleans `(C, F)` for each box layer, in the order of
        `jaxbox.analysis.box_layers`. An example is
        `[~analysis.at_minimum(layer.theta) for layer in analysis.box_layers(model)]`.

    Returns:
      The smaller network.

    Raises:
      TypeError: `model` is no network, or the masks are not boolean.
      ValueError: The number of masks or a mask's shape is wrong, or the network has already been
        pruned or prepared for inference.

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
    check_network(model)
    pruned = nnx.clone(model)
    box_blocks = pruned.box_blocks()
    masks = _check_masks(keep, [block.boxes.theta.shape[:2] for _, block in box_blocks])
    for mask, (index, block) in zip(masks, box_blocks, strict=True):
        pruned.blocks[index] = prune_boxes(block, mask)
    return pruned


def _check_masks(
    keep: Sequence[ArrayLike], shapes: Sequence[tuple[int, ...]]
) -> list[NDArray[np.bool_]]:
    check_sequence("keep", keep, "masks")
    if len(keep) != len(shapes):
        raise ValueError(
            f"keep must have a mask for each of {len(shapes)} layers, got {len(keep)}."
        )
    try:
        masks = [np.asarray(mask) for mask in keep]
    except ValueError:  # Nested lists of different lengths.
        raise TypeError("keep must be boolean arrays, got lists that are none.") from None
    for index, (mask, shape) in enumerate(zip(masks, shapes, strict=True)):
        if mask.dtype != np.bool_:
            raise TypeError(f"keep must be boolean, got {mask.dtype} for layer {index}.")
        if mask.shape != shape:
            raise ValueError(f"keep must be {shape} for layer {index}, got shape {mask.shape}.")
    return masks
