"""Folding a BatchNorm into the convolution before it, for inference."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbox.layers.dcls import DclsConv
from jaxbox.layers.doconv import DOConv
from jaxbox.models.convolution import PatchConv, PatchConvTranspose, PointwiseConv, UpsamplingConv
from jaxbox.models.features import Layer
from jaxbox.models.normalization import Affine, BatchNorm

__all__ = ["Identity", "fold_norm", "to_affine", "to_plain_conv"]


class Identity(nnx.Module):
    """Returns its input. It takes the place of a layer that inference does not need."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x`."""
        return x


def fold_norm(conv: Layer, norm: Layer) -> tuple[Layer, Layer]:
    """Folds a BatchNorm, with its running statistics, into the layer before it.

    Args:
      conv: The layer before the BatchNorm. A convolution is changed in place.
      norm: The BatchNorm. Any other layer stays as it is.

    Returns:
      The two layers to use instead. A convolution absorbs the BatchNorm, which becomes an
      `Identity`. After any other layer, such as a box or an octave convolution, the BatchNorm
      becomes an `Affine`.
    """
    conv = to_plain_conv(conv)
    absorbs = nnx.Conv | PointwiseConv | PatchConv | PatchConvTranspose | UpsamplingConv
    if not isinstance(norm, BatchNorm) or not isinstance(conv, absorbs):
        return conv, to_affine(norm)
    _absorb(conv, norm)
    return conv, Identity()


def to_affine(norm: Layer) -> Layer:
    """Returns the `Affine` that a BatchNorm is in evaluation mode, or any other layer as it is."""
    if not isinstance(norm, BatchNorm):
        return norm
    return Affine(*norm.running_affine(), channel_axis=norm.channel_axis, dtype=norm.dtype)


def to_plain_conv(conv: Layer) -> Layer:
    """Returns the `nnx.Conv` that a DCLS or DO-Conv layer computes, or any other layer as it is."""
    return conv.fold() if isinstance(conv, DclsConv | DOConv) else conv


def _absorb(conv: Any, norm: BatchNorm) -> None:
    gain, shift = norm.running_affine()
    kernel = conv.kernel[...]
    conv.kernel[...] = kernel * gain.reshape((1,) * (kernel.ndim - 1) + gain.shape)
    bias = jnp.zeros_like(shift) if conv.bias is None else conv.bias[...]
    conv.bias = nnx.Param(bias * gain + shift)
    if isinstance(conv, nnx.Conv):
        conv.use_bias = True  # `nnx.Conv` ignores a bias where this is False.
