"""The form of a trained network that is used, not trained."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbox import boxes
from jaxbox.layers import ArrayOctConv
from jaxbox.layers.box import BOX_TAG, BoxConv, FrozenBoxes
from jaxbox.layers.dcls import DclsConv
from jaxbox.layers.doconv import DOConv
from jaxbox.models.blocks import InitialBlock
from jaxbox.models.erf_blocks import TransposedUpsampling
from jaxbox.models.network import SegmentationNetwork
from jaxbox.models.normalization import Affine, BatchNorm
from jaxbox.models.pruning import PrunedBoxConv

__all__ = ["for_inference", "round_boxes"]

type _Layer = Callable[[jax.Array], jax.Array]


def round_boxes(model: SegmentationNetwork) -> SegmentationNetwork:
    """Copies a network and rounds its boxes to whole pixels, for which box convolutions are faster.

    The boxes are frozen then, no `nnx.Param` any more: the copy can go on training as any network
    does, to make up for the rounding, before `for_inference`.

    Source: Burkov & Lempitsky 2018, section 4.

    Args:
      model: Any network.

    Returns:
      A copy with the sides of its boxes on the edges of pixels, to stay there.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.inference import round_boxes
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> rounded = round_boxes(model)
      >>> layer = rounded.blocks[3].branch.layers[2]
      >>> bool(((layer.theta[...] + 0.5) % 1 == 0).all())
      True
    """
    rounded = nnx.clone(model)
    for _, layer in nnx.iter_modules(rounded):
        if isinstance(layer, BoxConv):
            theta = boxes.round_to_pixels(layer.theta[...])
            layer.theta = FrozenBoxes(theta, tag=BOX_TAG, window=layer.window)
            layer.whole_pixels = True
    return rounded


def for_inference(model: SegmentationNetwork) -> SegmentationNetwork:
    """Copies a network without what only training needs.

    DCLS and DO-Conv become ordinary convolutions. Convolutions absorb the BatchNorm that follows
    them; one that follows boxes, octaves or a concatenation becomes a factor and a summand of each
    channel. Dropout goes. Running statistics are used as
    they are.

    Source: Burkov & Lempitsky 2018, section 4.

    Args:
      model: A trained network.

    Returns:
      A network that gives the logits of `model` in evaluation mode, to rounding.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.inference import for_inference
      >>> model = for_inference(models.create("enet-minus", 3, (16, 24), rngs=nnx.Rngs(0)))
      >>> nnx.state(model, nnx.BatchStat)
      State({})
    """
    folded = nnx.clone(model)
    folded.eval()
    for block in folded.blocks:
        _fold_block(block)
    return folded


def _fold_block(block: Any) -> None:
    for name in ("branch", "skip"):
        sequence = getattr(block, name, None)
        if sequence is not None:
            setattr(block, name, nnx.Sequential(*_fold(sequence.layers)))
    if isinstance(block, TransposedUpsampling):
        _absorb(block.conv, block.norm)
        block.norm = nnx.Sequential()  # type: ignore[assignment]
    elif isinstance(block, InitialBlock):
        block.norm = _affine(block.norm)  # type: ignore[assignment]
        block.dropout = nnx.Sequential()  # type: ignore[assignment]


def _fold(layers: Sequence[Any]) -> Iterator[_Layer]:
    """The layers that are left of a sequence."""
    previous: Any = None
    for layer in layers:
        if isinstance(layer, nnx.Dropout):
            continue
        if isinstance(layer, DclsConv | DOConv):
            layer = layer.fold()
        keeps_its_norm = isinstance(previous, BoxConv | PrunedBoxConv | ArrayOctConv)
        if isinstance(layer, BatchNorm) and not keeps_its_norm:
            _absorb(previous, layer)
            continue
        previous = layer
        yield _affine(layer) if isinstance(layer, BatchNorm) else layer


def _affine(norm: BatchNorm) -> Affine:
    return Affine(*norm.running_affine(), channel_axis=norm.channel_axis, dtype=norm.dtype)


def _absorb(conv: Any, norm: BatchNorm) -> None:
    """Gives a convolution the effect of the BatchNorm after it."""
    gain, shift = norm.running_affine()
    kernel = conv.kernel[...]
    conv.kernel[...] = kernel * gain.reshape((1,) * (kernel.ndim - 1) + gain.shape)
    bias = jnp.zeros_like(shift) if conv.bias is None else conv.bias[...]
    conv.bias = nnx.Param(bias * gain + shift)
    if isinstance(conv, nnx.Conv):
        conv.use_bias = True  # without it, the bias would be passed over
