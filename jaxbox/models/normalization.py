"""Batch normalization as one multiplication and one addition per element."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox_kernels.common import layout
from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = ["Affine", "BatchNorm"]

# PyTorch's default, as in the networks' original code. PyTorch calls it a momentum of 0.1.
_MOMENTUM = 0.9


class BatchNorm(nnx.Module):
    """Batch normalization over all axes but the channels'.

    It computes `x * gain + shift`, where `flax.nnx.BatchNorm` computes `(x - mean) * gain + bias`.
    The gradient then needs one tensor and one sum less. As in `flax.nnx.BatchNorm`, `train()` and
    `eval()` switch between the batch's statistics and the running ones.

    Args:
      channels: The number of channels.
      channel_axis: The axis of the channels, -1 or -3.
      epsilon: A small number that is added to the variance.
      initial_scale: The initial value of every channel's learnt factor.
      dtype: The dtype of the result. Statistics and arithmetic are float32 or wider.
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
        self.epsilon = float(epsilon)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x`; in training mode, also updates the running statistics."""
        x = x.astype(sum_dtype(x))
        mean, variance = self._running() if self.use_running_average else self._measure(x)
        gain, shift = self._affine(mean, variance)
        return _scale_and_shift(x, gain, shift, self.channel_axis).astype(self.dtype)

    def running_affine(self) -> tuple[jax.Array, jax.Array]:
        """Returns each channel's factor and summand in evaluation mode, both `(channels,)`."""
        return self._affine(*self._running())

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the statistics to use for `flax.nnx.view`."""
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
    """Multiplies each channel by a factor and adds a summand.

    A `BatchNorm` that no convolution can absorb becomes an `Affine` for inference.

    Args:
      gain: The factor of each channel, `(channels,)`.
      shift: The summand of each channel, `(channels,)`.
      channel_axis: The axis of the channels, -1 or -3.
      dtype: The dtype of the result. The arithmetic is float32 or wider.
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
        """Returns `x * gain + shift`, of the shape of `x`."""
        x = x.astype(sum_dtype(x))
        y = _scale_and_shift(x, self.gain[...], self.shift[...], self.channel_axis)
        return y.astype(self.dtype)


def _scale_and_shift(
    x: jax.Array, gain: jax.Array, shift: jax.Array, channel_axis: layout.ChannelAxis
) -> jax.Array:
    factor, summand = (layout.per_channel(v, x.ndim, channel_axis) for v in (gain, shift))
    return x * factor + summand
