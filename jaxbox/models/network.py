"""A segmentation network: a sequence of blocks, then a logit of each class for each pixel."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.models.blocks import BlockFactory, BoxBlock, Downsampling, FeatureMap, Upsampling
from jaxbox_kernels.common import layout

__all__ = ["Architecture", "ClassifierFactory", "SegmentationNetwork"]

# Three blocks halve the image, and each needs an even height and width.
_STRIDE = 8


class ClassifierFactory(Protocol):
    """A kind of transposed convolution with its options bound."""

    def __call__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> nnx.Module:
        """Builds the layer that doubles the resolution and gives the logits."""


@dataclass(frozen=True)
class Architecture:
    """What a network is made of.

    Attributes:
      blocks: From the image to features at half its resolution.
      classifier: From those to the logits.
    """

    blocks: tuple[BlockFactory, ...]
    classifier: ClassifierFactory

    def with_frozen_boxes(self) -> "Architecture":
        """The same network with boxes that stay as they were drawn."""
        return replace(self, blocks=tuple(map(_freeze, self.blocks)))


class SegmentationNetwork(nnx.Module):
    """A network for images `(..., H, W, 3)` that returns logits `(..., H, W, num_classes)`.

    Each `Upsampling` gets the positions of the maxima in the `Downsampling` that it undoes, the
    last one first.

    Args:
      architecture: What it is made of.
      num_classes: Number of logits of a pixel.
      image_size: `(H, W)` in pixels. It sets the windows of the boxes; the network takes images of
        other sizes too.
      dtype: Of the computation. Parameters, statistics and boxes are float32.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      ValueError: `num_classes` is below 1, or a side of `image_size` is not a multiple of 8.

    Example:
      >>> from functools import partial
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.models import Architecture, SegmentationNetwork
      >>> from jaxbox.models.blocks import InitialBlock
      >>> from jaxbox.models.convolution import PatchConvTranspose
      >>> architecture = Architecture((partial(InitialBlock, channels=16),), PatchConvTranspose)
      >>> model = SegmentationNetwork(architecture, 19, (16, 24), rngs=nnx.Rngs(0))
      >>> model(jnp.ones((2, 16, 24, 3))).shape
      (2, 16, 24, 19)
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if len(image_size) != 2:
            raise ValueError(f"image_size must be (H, W), got {image_size}.")
        _check_sides("image_size", image_size)
        features = FeatureMap(*image_size, 3)
        blocks = []
        for factory in architecture.blocks:
            block = factory(features, dtype=dtype, rngs=rngs)
            features = block.output
            blocks.append(block)
        self.blocks = nnx.List(blocks)
        self.classifier = architecture.classifier(
            features.channels, num_classes, dtype=dtype, rngs=rngs
        )
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """Gives each pixel its logits.

        Args:
          images: `(..., H, W, 3)`, of a floating dtype.

        Returns:
          `(..., H, W, num_classes)`, of the network's dtype.

        Raises:
          TypeError: The images are of another kind of dtype.
          ValueError: They have another shape, or `H` or `W` is not a multiple of 8.
        """
        return self.classifier(self.features(images))

    def features(self, images: jax.Array, depth: int | None = None) -> jax.Array:
        """What the first blocks make of images.

        Args:
          images: `(..., H, W, 3)`, of a floating dtype.
          depth: How many blocks to apply, from 0 to `len(self.blocks)`. Default: all of them, which
            gives what the classifier reads.

        Returns:
          `(..., h, w, channels)`, of the network's dtype.

        Raises:
          TypeError: The images are of another kind of dtype.
          ValueError: They have another shape, `H` or `W` is not a multiple of 8, or there are not
            so many blocks.
        """
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be of a floating dtype, got {images.dtype}.")
        if images.ndim < 3 or images.shape[-1] != 3:
            raise ValueError(f"images must be (..., H, W, 3), got shape {images.shape}.")
        _check_sides("images", images.shape[-3:-1])
        if depth is None:
            depth = len(self.blocks)
        if not 0 <= depth <= len(self.blocks):
            raise ValueError(f"depth must be from 0 to {len(self.blocks)}, got {depth}.")
        x = images.astype(self.dtype)
        positions = []
        channel_axis: layout.ChannelAxis = -1
        for block in self.blocks[:depth]:
            x = layout.move(x, channel_axis, block.channel_axes[0])
            channel_axis = block.channel_axes[1]
            if isinstance(block, Downsampling):
                x, maxima = block(x)
                positions.append(maxima)
            elif isinstance(block, Upsampling):
                x = block(x, positions.pop())
            else:
                x = block(x)
        return layout.move(x, channel_axis, -1)


def _freeze(block: BlockFactory) -> BlockFactory:
    """A box block with frozen boxes; any other block as it is."""
    if isinstance(block, partial) and block.func is BoxBlock:
        return partial(BoxBlock, **{**block.keywords, "trainable": False})
    return block


def _check_sides(name: str, sides: tuple[int, ...]) -> None:
    for axis, size in zip(("H", "W"), sides, strict=True):
        if size < _STRIDE or size % _STRIDE:
            raise ValueError(f"{axis} of {name} must be a multiple of {_STRIDE}, got {size}.")
