"""The depthwise over-parameterized convolution (DO-Conv) as a Flax NNX layer."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike
from jax import lax

from jaxbox.layers.plain_conv import check_groups, conv_with, positive_sizes
from jaxbox.ops.doconv import doconv_kernel

_WEIGHT_INIT: Final = nnx.initializers.lecun_normal()


class DOConv(nnx.Module):
    """A convolution whose kernel is a product while it trains: an ordinary factor and a depthwise.

    Maps `(..., *spatial, in_features)` to `(..., *spatial, out_features)` as `flax.nnx.Conv` does,
    with the kernel that :func:`jaxbox.doconv_kernel` composes of the parameters

    - `weight`: `(depth_multiplier, in_features / groups, out_features)`,
    - `deviation`: `(*kernel_size, depth_multiplier, in_features)`, which starts as 0; `None` for
      kernels of one tap, where the layer is the plain convolution,
    - `bias`: `(out_features,)`.

    With the default depth multiplier it starts as the `flax.nnx.Conv` of the same keys, bit for
    bit; :meth:`fold` makes one of it after training. The depthwise factor is `deviation` plus the
    identity: ordinary weight decay pulls it to the identity, as the paper means it to, and no mask
    is needed.

    Source: Cao et al. 2020.

    Args:
      in_features: Channels of the input.
      out_features: Channels of the output.
      kernel_size: Pixels along each spatial axis. A single number is one axis.
      strides: Pixels from an output to the next.
      depth_multiplier: How many values the depthwise factor makes of the taps of each channel: at
        least their number, which is the default.
      padding: As in `flax.nnx.Conv`.
      kernel_dilation: Pixels from a tap to the next.
      feature_group_count: The number of groups; with as many as channels the layer is the paper's
        DO-DConv.
      use_bias: Whether there is a bias.
      legacy_torch_grouping: As in :func:`jaxbox.doconv_kernel`.
      dtype: Of the computation. Default: inferred from input and parameters.
      param_dtype: Of the parameters.
      precision: Of the convolution, as in `flax.nnx.Conv`.
      weight_init: A function of `(key, shape, dtype)`.
      bias_init: The same.
      conv_general_dilated: As in `flax.nnx.Conv`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      ValueError: `depth_multiplier` is below the number of taps, or not 1 for a single tap; a size
        is below 1; groups do not divide the channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import DOConv
      >>> layer = DOConv(16, 32, (3, 3), rngs=nnx.Rngs(0))
      >>> layer.weight.shape, layer.deviation.shape, layer.kernel.shape
      ((9, 16, 32), (3, 3, 9, 16), (3, 3, 16, 32))
      >>> layer(jnp.ones((2, 28, 28, 16))).shape
      (2, 28, 28, 32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        depth_multiplier: int | None = None,
        padding: PaddingLike = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        legacy_torch_grouping: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        weight_init: Initializer = _WEIGHT_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
        rngs: nnx.Rngs,
    ):
        check_groups(in_features, out_features, feature_group_count)
        self.kernel_size = positive_sizes("kernel_size", kernel_size)
        taps = math.prod(self.kernel_size)
        if depth_multiplier is None:
            depth_multiplier = taps
        if depth_multiplier < taps or (taps == 1 and depth_multiplier != 1):
            raise ValueError(
                f"depth_multiplier must be at least the {taps} taps of a kernel of "
                f"{self.kernel_size}, and 1 for a single tap; got {depth_multiplier}."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.depth_multiplier = depth_multiplier
        self.strides = strides
        self.padding = padding
        self.kernel_dilation = kernel_dilation
        self.feature_group_count = feature_group_count
        self.legacy_torch_grouping = legacy_torch_grouping
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.conv_general_dilated = conv_general_dilated

        shape = (depth_multiplier, in_features // feature_group_count, out_features)
        self.weight = nnx.Param(weight_init(rngs.params(), shape, param_dtype))
        self.deviation = (
            nnx.Param(jnp.zeros((*self.kernel_size, depth_multiplier, in_features), param_dtype))
            if taps > 1
            else nnx.data(None)
        )
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
            if use_bias
            else nnx.data(None)
        )

    @property
    def kernel(self) -> jax.Array:
        """The kernel composed of the two factors: `(*kernel_size, in_features / groups, O)`."""
        weight = self.weight[...]
        if self.deviation is None:
            return weight.reshape(*self.kernel_size, *weight.shape[1:])
        return doconv_kernel(
            weight,
            self.deviation[...],
            feature_group_count=self.feature_group_count,
            legacy_torch_grouping=self.legacy_torch_grouping,
        )

    def fold(self) -> nnx.Conv:
        """Composes the kernel for good.

        Returns:
          An ordinary convolution with the same output, for inference.

        Example:
          >>> from flax import nnx
          >>> from jaxbox.layers import DOConv
          >>> DOConv(4, 4, (3, 3), rngs=nnx.Rngs(0)).fold().kernel.shape
          (3, 3, 4, 4)
        """
        return conv_with(
            self.kernel,
            None if self.bias is None else self.bias[...],
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            conv_general_dilated=self.conv_general_dilated,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves.

        Args:
          x: `(..., *spatial, in_features)`, of a floating dtype.

        Returns:
          The features that a `flax.nnx.Conv` with the kernel gives.
        """
        return self.fold()(x)
