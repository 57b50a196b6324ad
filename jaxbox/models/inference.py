"""The form of a trained network for inference."""

from typing import get_args

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbox import boxes, symmetric_boxes
from jaxbox.arguments import check_choice
from jaxbox.layers.box import BoxConv, FrozenBoxes
from jaxbox.models.network import SegmentationNetwork, check_network

__all__ = ["for_inference", "round_boxes"]


def round_boxes(
    model: SegmentationNetwork, *, rounding: boxes.Rounding = "nearest"
) -> SegmentationNetwork:
    """Copies a network and rounds its boxes to whole pixels, for which box convolutions are faster.

    The boxes of the copy are no longer an `nnx.Param`, so that they stay where they are if the copy
    is trained further to make up for the rounding.

    Source: Burkov & Lempitsky 2018, section 4.

    Args:
      model: The network.
      rounding: `"nearest"` as in the paper, or `"inward"` as in the rounded mode of the authors'
        code, with which to run its checkpoints; see :func:`jaxbox.boxes.round_to_pixels`.

    Returns:
      A copy whose boxes begin and end at pixel edges.

    Raises:
      TypeError: `model` is no network.
      ValueError: `rounding` is unknown.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.inference import round_boxes
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> rounded = round_boxes(model)
      >>> layer = rounded.blocks[3].boxes
      >>> bool(((layer.theta[...] + 0.5) % 1 == 0).all())
      True
    """
    check_network(model)
    check_choice("rounding", rounding, get_args(boxes.Rounding))
    rounded = nnx.clone(model)
    for _, layer in nnx.iter_modules(rounded):
        if isinstance(layer, BoxConv):
            theta = _rounded(layer, rounding)
            layer.theta = FrozenBoxes.from_metadata(theta, layer.theta.get_metadata())
            layer.whole_pixels = True
    return rounded


def _rounded(layer: BoxConv, rounding: boxes.Rounding) -> jax.Array:
    """Rounds the boxes of a layer; symmetric ones stay three numbers."""
    theta = layer.valid_theta
    if not layer.symmetric:
        return boxes.round_to_pixels(theta, rounding=rounding)
    width = theta[..., 1:2] - theta[..., 0:1]
    symmetric = jnp.concatenate([theta[..., 2:], width], axis=-1)
    return symmetric_boxes.round_to_pixels(symmetric, rounding=rounding)


def for_inference(model: SegmentationNetwork) -> SegmentationNetwork:
    """Copies a network without what only training needs.

    Dropout is removed. DCLS and DO-Conv layers become ordinary convolutions. A BatchNorm is folded,
    with its running statistics, into the convolution before it. After a box or octave convolution
    or a concatenation it becomes one multiplication and one addition per element.

    Source: Burkov & Lempitsky 2018, section 4.

    Args:
      model: The trained network.

    Returns:
      A network that returns, up to rounding, the logits of `model` in evaluation mode.

    Raises:
      TypeError: `model` is no network.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.inference import for_inference
      >>> model = for_inference(models.create("enet-minus", 3, (16, 24), rngs=nnx.Rngs(0)))
      >>> nnx.state(model, nnx.BatchStat)
      State({})
    """
    check_network(model)
    folded = nnx.clone(model)
    folded.eval()  # type: ignore[no-untyped-call, unused-ignore]
    for block in folded.blocks:
        block.fold()
    return folded
