"""Convolutions whose kernel is computed from other parameters, and their folding."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from flax.typing import Dtype, PaddingLike, PrecisionLike

from jaxbox.arguments import to_array
from jaxbox_kernels.common.conv import conv

__all__ = ["FoldableConv", "check_images", "conv_from_arrays"]


class FoldableConv(nnx.Module):
    """The base of the layers that compute a kernel from their parameters and convolve with it.

    A subclass has these attributes, and the property `kernel`.
    """

    in_features: int
    kernel_size: tuple[int, ...]
    strides: int | Sequence[int]
    padding: PaddingLike
    kernel_dilation: int | Sequence[int]
    feature_group_count: int
    dtype: Dtype | None
    param_dtype: Dtype
    precision: PrecisionLike
    conv_general_dilated: Callable[..., jax.Array]
    bias: nnx.Param[jax.Array] | None

    @property
    def kernel(self) -> jax.Array:
        """The kernel, `(*kernel_size, in_features / groups, out_features)`."""
        raise NotImplementedError

    def fold(self) -> nnx.Conv:
        """Computes the kernel once and for all.

        Returns:
          An ordinary convolution with the same output, for inference.

        Example:
          >>> from flax import nnx
          >>> from jaxbox.layers import DclsConv, DOConv
          >>> DclsConv(4, 4, (7, 7), 5, rngs=nnx.Rngs(0)).fold().kernel.shape
          (7, 7, 4, 4)
          >>> DOConv(4, 4, (3, 3), rngs=nnx.Rngs(0)).fold().kernel.shape
          (3, 3, 4, 4)
        """
        bias = None if self.bias is None else self.bias[...]
        return conv_from_arrays(
            self.kernel, bias, param_dtype=self.param_dtype, **self._conv_options()
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves.

        Args:
          x: The input, `(..., *spatial, in_features)`, of a floating dtype.

        Returns:
          The output that a `flax.nnx.Conv` with the kernel gives.

        Raises:
          TypeError: `x` is not of a real floating dtype.
          ValueError: The channels or the number of axes of `x` do not fit.
        """
        x = check_images(x, len(self.kernel_size), self.in_features)
        bias = None if self.bias is None else self.bias[...]
        return conv(x, self.kernel, bias, **self._conv_options())

    def _conv_options(self) -> dict[str, Any]:
        return {
            "strides": self.strides,
            "padding": self.padding,
            "kernel_dilation": self.kernel_dilation,
            "feature_group_count": self.feature_group_count,
            "dtype": self.dtype,
            "precision": self.precision,
            "conv_general_dilated": self.conv_general_dilated,
        }


def check_images(x: jax.Array, rank: int, channels: int) -> jax.Array:
    """Checks the input of a convolution and returns it as an array of JAX.

    Args:
      x: The input.
      rank: The number of spatial axes that it should have at least.
      channels: The number of channels that it should have.

    Raises:
      TypeError: `x` is not of a real floating dtype.
      ValueError: `x` is not `(..., *spatial, channels)`, or is empty along a spatial axis.
    """
    x = to_array("x", x)
    if x.ndim < rank + 1 or x.shape[-1] != channels or 0 in x.shape[-rank - 1 : -1]:
        raise ValueError(
            f"x must be (..., {rank} spatial axes, {channels} channels), got shape {x.shape}."
        )
    return x


def conv_from_arrays(
    kernel: jax.Array, bias: jax.Array | None, *, feature_group_count: int = 1, **options: Any
) -> nnx.Conv:
    """Makes a `flax.nnx.Conv` with a given kernel and bias.

    Args:
      kernel: The kernel, `(*kernel_size, I / feature_group_count, O)`.
      bias: The bias, `(O,)`, or `None` for a convolution without one.
      feature_group_count: The number of groups that the channels are divided into.
      **options: Other arguments of `flax.nnx.Conv`.

    Returns:
      The layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.layers.fold import conv_from_arrays
      >>> conv = conv_from_arrays(jnp.ones((3, 1, 1)), None)
      >>> conv(jnp.ones((4, 1)))[:, 0].tolist()
      [2.0, 3.0, 3.0, 2.0]
    """
    *kernel_size, inputs, outputs = kernel.shape
    return nnx.Conv(
        inputs * feature_group_count,
        outputs,
        kernel_size,
        feature_group_count=feature_group_count,
        use_bias=bias is not None,
        kernel_init=lambda *_: kernel,
        bias_init=lambda *_: bias,
        rngs=nnx.Rngs(0),
        **options,
    )
