"""A box convolution whose sides see their gradient over a band of pixels."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxbox import box_conv
from jaxbox.layers import BoxConv
from jaxbox_kernels.common.layout import ChannelAxis


class SmoothedBoxConv(BoxConv):
    """A box convolution with the outputs of another and a smoothed gradient of the boxes.

    The gradient of a side is made of the pixels along it. Here these are taken from the image
    averaged over a small square, so that a side sees a band of pixels. Outputs and the gradient of
    the image are exact.

    Args:
      layer: the layer to replace, with a window; its boxes are shared.
      reach: half the width of the square in pixels.
    """

    def __init__(self, layer: BoxConv, reach: float) -> None:
        for name, value in vars(layer).items():
            setattr(self, name, value)
        self.reach = reach

    def __call__(self, x: jax.Array) -> jax.Array:
        """Averages `x` over the boxes, in the layer's layout; other options of it are not used."""
        return _smoothed(x, self.valid_theta, self.reach, self.channel_axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _smoothed(x: jax.Array, theta: jax.Array, reach: float, channel_axis: ChannelAxis) -> jax.Array:
    del reach
    return box_conv(x, theta, channel_axis=channel_axis)


def _forward(
    x: jax.Array, theta: jax.Array, reach: float, channel_axis: ChannelAxis
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _smoothed(x, theta, reach, channel_axis), (x, theta)


def _backward(
    reach: float, channel_axis: ChannelAxis, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, theta = kept
    square = jnp.broadcast_to(jnp.array([-reach, reach, -reach, reach]), (theta.shape[0], 1, 4))
    smooth = lax.stop_gradient(box_conv(x, square, channel_axis=channel_axis))
    (dx,) = jax.vjp(lambda x: box_conv(x, theta, channel_axis=channel_axis), x)[1](g)
    (dtheta,) = jax.vjp(lambda t: box_conv(smooth, t, channel_axis=channel_axis), theta)[1](g)
    return dx, dtheta


_smoothed.defvjp(_forward, _backward)
