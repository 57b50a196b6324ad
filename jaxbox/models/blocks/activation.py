"""The activation functions of ENet."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbox.models.features import FeatureMap
from jaxbox.models.layer_costs import Cost, elementwise_cost, layer_cost
from jaxbox_kernels.common import layout

__all__ = ["PReLU", "relu_or_prelu"]


class PReLU(nnx.Module):
    """ReLU with a learnt slope for the negative values of each channel.

    Args:
      channels: The number of channels.
      channel_axis: The axis of the channels, -1 or -3.
    """

    def __init__(self, channels: int, channel_axis: layout.ChannelAxis = -1) -> None:
        self.slope = nnx.Param(jnp.full(channels, 0.25, jnp.float32))
        self.channel_axis = channel_axis

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to each element of `x`."""
        slope = layout.per_channel(self.slope[...].astype(x.dtype), x.ndim, self.channel_axis)
        # At 0 the derivative is the slope, as in PyTorch.
        return jnp.where(x > 0, x, x * slope)


@layer_cost.register
def _prelu_cost(layer: PReLU, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    return features, Cost(parameters=layer.slope.size) + elementwise_cost(features)


def relu_or_prelu(
    prelu: bool, channels: int, channel_axis: layout.ChannelAxis = -1
) -> Callable[[jax.Array], jax.Array]:
    """Returns a new `PReLU` if `prelu` is true, else `nnx.relu`."""
    return PReLU(channels, channel_axis) if prelu else nnx.relu
