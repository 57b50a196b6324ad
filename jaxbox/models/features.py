"""The features that pass between the layers and blocks of a network."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxbox_kernels.common.layout import ChannelAxis

__all__ = ["FeatureMap", "Layer"]

type Layer = Callable[[jax.Array], jax.Array]
"""A function from features to features: a layer of a block or an activation function."""


class FeatureMap(NamedTuple):
    """The size and layout of one image's features.

    Attributes:
      height: The height in pixels.
      width: The width in pixels.
      channels: The number of channels.
      channel_axis: The axis of the channels in a batch of features: -1, or -3 for channels first.
    """

    height: int
    width: int
    channels: int
    channel_axis: ChannelAxis = -1

    @property
    def num_elements(self) -> int:
        """The number of values: height times width times channels."""
        return self.height * self.width * self.channels
