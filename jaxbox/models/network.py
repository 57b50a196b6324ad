"""A segmentation network: a sequence of blocks, then a classifier of each pixel."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import (
    check_callable,
    check_count,
    check_dtype,
    check_rngs,
    check_sequence,
    to_array,
)
from jaxbox.models.architecture import Architecture
from jaxbox.models.blocks import BoxBlock, ChannelsFirstBranch, Downsampling, FeatureMap, Upsampling
from jaxbox.models.layouts import derive_layouts
from jaxbox_kernels.common import layout, sizes

__all__ = ["SegmentationNetwork", "check_image_size", "check_network"]

# Three blocks halve the image, and each needs an even height and width.
_STRIDE = 8


class SegmentationNetwork(nnx.Module):
    """A network for images `(..., H, W, 3)` that returns logits `(..., H, W, num_classes)`.

    Each `Upsampling` gets the positions of the maxima from the `Downsampling` that it inverts: the
    first one from the last one, and so on.

    Args:
      architecture: The blocks and the classifier to build.
      num_classes: The number of logits of a pixel.
      image_size: The size `(H, W)` of the images in pixels. It sets the windows of the boxes. The
        network accepts images of other sizes too.
      dtype: The dtype of the computation. Parameters, statistics and boxes are float32.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Raises:
      TypeError: An argument is of the wrong type.
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
        if not isinstance(architecture, Architecture):
            raise TypeError(f"architecture must be an Architecture, got {architecture!r}.")
        check_sequence("the blocks of architecture", architecture.blocks, "functions")
        for block in architecture.blocks:
            check_callable("each block of architecture", block)
        check_callable("the classifier of architecture", architecture.classifier)
        num_classes = check_count("num_classes", num_classes)
        check_dtype("dtype", dtype)
        check_rngs(rngs)
        features = FeatureMap(*check_image_size(image_size), 3)
        blocks = []
        for factory in derive_layouts(architecture.blocks):
            block = factory(features, dtype=dtype, rngs=rngs)
            features = block.output
            blocks.append(block)
        self.blocks = nnx.List(blocks)
        self.classifier: Any = architecture.classifier(
            features.channels, num_classes, dtype=dtype, rngs=rngs
        )
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits of each pixel.

        Args:
          images: `(..., H, W, 3)`, of a floating dtype.

        Returns:
          `(..., H, W, num_classes)`, of the network's dtype.

        Raises:
          TypeError: The images have no floating dtype.
          ValueError: The images have another shape, or `H` or `W` is not a multiple of 8.
        """
        logits: jax.Array = self.classifier(self.features(images))
        return logits

    def features(self, images: jax.Array, depth: int | None = None) -> jax.Array:
        """Computes the features that the first blocks return.

        Args:
          images: `(..., H, W, 3)`, of a floating dtype.
          depth: The number of blocks to apply, from 0 to `len(self.blocks)`. Default: all blocks,
            which gives the features that the classifier reads.

        Returns:
          `(..., h, w, channels)`, of the network's dtype.

        Raises:
          TypeError: The images have no floating dtype, or `depth` is not an integer.
          ValueError: The images have another shape, `H` or `W` is not a multiple of 8, or there are
            fewer blocks.
        """
        images = _check_images(images)
        depth = len(self.blocks) if depth is None else check_count("depth", depth, minimum=0)
        if depth > len(self.blocks):
            raise ValueError(f"depth must be from 0 to {len(self.blocks)}, got {depth}.")
        x = images.astype(self.dtype)
        all_positions = []
        channel_axis: layout.ChannelAxis = -1
        for block in self.blocks[:depth]:
            x = layout.move(x, channel_axis, block.input.channel_axis)
            channel_axis = block.output.channel_axis
            if isinstance(block, Downsampling):
                x, positions = block(x)
                all_positions.append(positions)
            elif isinstance(block, Upsampling):
                x = block(x, all_positions.pop())
            else:
                x = block(x)
        return layout.move(x, channel_axis, -1)

    def box_blocks(self) -> list[tuple[int, BoxBlock]]:
        """Returns the blocks with boxes, each with its index in `blocks`.

        Raises:
          ValueError: The network has been pruned.
        """
        found = []
        for index, block in enumerate(self.blocks):
            if isinstance(block, BoxBlock):
                found.append((index, block))
            elif isinstance(block, ChannelsFirstBranch):
                raise ValueError("the boxes of this network have been pruned already.")
        return found


def check_network(model: SegmentationNetwork) -> None:
    """Checks that an argument `model` is a network of this package.

    Raises:
      TypeError: It is not.
    """
    if not isinstance(model, SegmentationNetwork):
        raise TypeError(f"model must be a SegmentationNetwork, got a {type(model).__name__}.")


def check_image_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Checks the size `(H, W)` of images and returns it as `int`.

    Raises:
      TypeError: It is not made of integers.
      ValueError: It is not two multiples of 8.
    """
    check_sequence("image_size", image_size, "two integers (H, W)")
    sides = tuple(image_size)
    if len(sides) != 2:
        raise ValueError(f"image_size must be two integers (H, W), got {image_size!r}.")
    height, width = (
        check_count(f"each side of {image_size!r} as image_size", n, minimum=0) for n in sides
    )
    _check_sides("image_size", (height, width))
    return height, width


def _check_images(images: jax.Array) -> jax.Array:
    images = to_array("images", images)
    if images.ndim < 3 or images.shape[-1] != 3:
        raise ValueError(f"images must be (..., H, W, 3), got shape {images.shape}.")
    _check_sides("images", images.shape[-3:-1])
    return images


def _check_sides(name: str, sides: tuple[int, ...]) -> None:
    for axis, size in zip(("H", "W"), sides, strict=True):
        if (sizes.are_known(size) and size < _STRIDE) or size % _STRIDE != 0:
            raise ValueError(f"{axis} of {name} must be a multiple of {_STRIDE}, got {size}.")
