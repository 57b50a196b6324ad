"""Box convolution and its sister layers for JAX and Flax."""

from jaxbox.box_conv import box_conv

__all__ = ["box_conv"]
