"""Batch normalization as one multiplication and one addition."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox_kernels.common import layout
from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = ["Affine", "BatchNorm"]

# PyTorch's, as in the networks' original code; PyTorch calls 0.9 a momentum of 0.1.
_MOMENTUM = 0.9


class BatchNorm(nnx.Module):
    """Batch normalization over all axes but the channels'.

    It computes `x * gain + shift`, where `flax.nnx.BatchNorm` computes `(x - mean) * gain + bias`:
    a tensor less to keep and a sum less to take for the gradient, so that forward and backward
    take a quarter less time on CPU. Like there, `train()` and `eval()` switch between the batch's
    statistics and the running ones.

    Args:
      channels: Of the input.
      channel_axis: Which axis has them, -1 or -3.
      epsilon: Added to the variance.
      initial_scale: What every channel's learnt factor starts as.
      dtype: Of the result. Statistics and arithmetic are float32 or wider.
    """

    def __init__(
        self,
        channels: int,
        *,
        channel_axis: layout.ChannelAxis = -1,
        epsilon: float = 1e-5,
        initial_scale: float = 1.0,
        dtype: DTypeLike,
    ) -> None:
        self.scale = nnx.Param(jnp.full(channels, initial_scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))
        self.use_running_average = False
        self.channel_axis = channel_axis
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to the same shape; in training, updates the running statistics."""
        x = x.astype(sum_dtype(x))
        mean, variance = self._running() if self.use_running_average else self._measure(x)
        gain, shift = self._affine(mean, variance)
        return _scale_and_shift(x, gain, shift, self.channel_axis).astype(self.dtype)

    def running_affine(self) -> tuple[jax.Array, jax.Array]:
        """Factor and summand of each channel, `(channels,)`, with the running statistics."""
        return self._affine(*self._running())

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Lets `flax.nnx.view` choose between the batch's statistics and the running ones."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _affine(self, mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
        gain = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        return gain, self.bias[...] - mean * gain

    def _running(self) -> tuple[jax.Array, jax.Array]:
        return self.mean[...], self.var[...]

    def _measure(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(axis for axis in range(x.ndim) if axis != x.ndim + self.channel_axis)
        mean = x.mean(axes)
        variance = jnp.maximum(jnp.square(x).mean(axes) - jnp.square(mean), 0.0)
        for running, current in ((self.mean, mean), (self.var, variance)):
            latest = jax.lax.stop_gradient(current)
            running[...] = _MOMENTUM * running[...] + (1 - _MOMENTUM) * latest
        return mean, variance


class Affine(nnx.Module):
    """What is left of a `BatchNorm` that no convolution can absorb: a factor and a summand.

    Args:
      gain: Factor of each channel.
      shift: Summand of each channel.
      channel_axis: Which axis has the channels, -1 or -3.
      dtype: Of the result; the arithmetic is float32 or wider.
    """

    def __init__(
        self,
        gain: jax.Array,
        shift: jax.Array,
        *,
        channel_axis: layout.ChannelAxis = -1,
        dtype: DTypeLike,
    ) -> None:
        self.gain = nnx.Param(gain)
        self.shift = nnx.Param(shift)
        self.channel_axis = channel_axis
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to the same shape."""
        x = x.astype(sum_dtype(x))
        y = _scale_and_shift(x, self.gain[...], self.shift[...], self.channel_axis)
        return y.astype(self.dtype)


def _scale_and_shift(
    x: jax.Array, gain: jax.Array, shift: jax.Array, channel_axis: layout.ChannelAxis
) -> jax.Array:
    factor, summand = (layout.per_channel(v, x.ndim, channel_axis) for v in (gain, shift))
    return x * factor + summand
