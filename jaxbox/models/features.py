"""The features that pass between the layers and blocks of a network."""

from collections.abc import Callable
from typing import NamedTuple, get_args

import jax

from jaxbox.arguments import check_choice, check_count
from jaxbox_kernels.common.layout import ChannelAxis

__all__ = ["FeatureMap", "Layer", "check_features"]

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


def check_features(features: FeatureMap) -> FeatureMap:
    """Checks the description of an image's features and returns it in Python's numbers.

    Raises:
      TypeError: `features` is not a `FeatureMap`, or a size is not an integer.
      ValueError: A size is below 1, or `channel_axis` is neither -1 nor -3.
    """
    if not isinstance(features, FeatureMap):
        raise TypeError(f"features must be a FeatureMap, got {features!r}.")
    height, width, channels = (
        check_count(f"the {name} of features", getattr(features, name))
        for name in ("height", "width", "channels")
    )
    check_choice("the channel_axis of features", features.channel_axis, get_args(ChannelAxis))
    return FeatureMap(height, width, channels, features.channel_axis)
