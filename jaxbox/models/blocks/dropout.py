"""Dropout of whole channels."""

from flax import nnx

from jaxbox_kernels.common import layout

__all__ = ["channel_dropout"]


def channel_dropout(
    rate: float, rngs: nnx.Rngs, channel_axis: layout.ChannelAxis = -1
) -> nnx.Dropout:
    """Returns a layer that sets whole channels to 0, each with probability `rate`."""
    pixel_axes = (-3, -2) if channel_axis == -1 else (-2, -1)
    return nnx.Dropout(float(rate), broadcast_dims=pixel_axes, rngs=rngs)
