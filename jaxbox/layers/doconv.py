"""The depthwise over-parameterized convolution (DO-Conv) as a Flax NNX layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike
from jax import lax

from jaxbox.arguments import check_count, check_feature_group_count, sizes_per_axis
from jaxbox.layers.conv_options import check_conv_options, per_axis_if_needed
from jaxbox.layers.fold import FoldableConv
from jaxbox.layers.initializers import KERNEL_INIT
from jaxbox.layers.parameters import NO_METADATA, check_metadata
from jaxbox.ops.doconv import doconv_kernel
from jaxbox_kernels.common.conv import ConvGeneralDilated

__all__ = ["DOConv"]


class DOConv(FoldableConv):
    """A convolution whose kernel is composed of an ordinary and a depthwise factor.

    It maps `(..., *spatial, in_features)` to `(..., *spatial, out_features)` as `flax.nnx.Conv`
    does, with the kernel that :func:`jaxbox.doconv_kernel` composes from the parameters

    - `weight`: `(depth_multiplier, in_features / groups, out_features)`,
    - `deviation`: `(*kernel_size, depth_multiplier, in_features)`, which starts at 0; `None` for
      kernels of one tap, for which the layer is the ordinary convolution,
    - `bias`: `(out_features,)`.

    With the default depth multiplier the layer starts as the `flax.nnx.Conv` of the same keys, bit
    for bit; :meth:`fold` makes a `flax.nnx.Conv` of it after training. The depthwise factor is
    `deviation` plus the identity: weight decay pulls it to the identity, as the paper means it to,
    and needs no mask.

    Source: Cao et al. 2020.

    Args:
      in_features: The number of channels of the input.
      out_features: The number of channels of the output.
      kernel_size: The number of taps along each spatial axis. A single number is one axis.
      strides: The distance in pixels between neighbouring outputs.
      depth_multiplier: The number of values that the depthwise factor makes of the taps of each
        channel. It is at least the number of taps, which is the default.
      padding: The padding, as in `flax.nnx.Conv`.
      kernel_dilation: The distance in pixels between neighbouring taps.
      feature_group_count: The number of groups that the channels are divided into. With as many
        groups as channels the layer is the paper's DO-DConv.
      use_bias: Whether to add a bias.
      legacy_torch_grouping: Whether groups are mixed up as in the authors' PyTorch code; see
        :func:`jaxbox.doconv_kernel`.
      dtype: The dtype of the computation. By default it is inferred from input and parameters.
      param_dtype: The dtype of the parameters.
      precision: The precision of the convolution, as in `flax.nnx.Conv`.
      weight_init: The initializer of `weight`.
      bias_init: The initializer of the bias.
      conv_general_dilated: The function that convolves, as in `flax.nnx.Conv`.
      weight_metadata: Further metadata of `weight`, as `flax.nnx.Conv` takes for its kernel.
      deviation_metadata: The same for `deviation`.
      bias_metadata: The same for the bias.
      rngs: The random keys; the stream `params` is used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: `depth_multiplier` is below the number of taps, or not 1 for a single tap; a size
        is below 1; the groups do not divide the channels; `padding` or `precision` is unknown.

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
        weight_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        conv_general_dilated: ConvGeneralDilated = lax.conv_general_dilated,
        weight_metadata: Mapping[str, Any] = NO_METADATA,
        deviation_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_features, self.out_features, self.feature_group_count = check_feature_group_count(
            in_features, out_features, feature_group_count
        )
        self.kernel_size = sizes_per_axis("kernel_size", kernel_size)
        rank, taps = len(self.kernel_size), math.prod(self.kernel_size)
        if depth_multiplier is None:
            depth_multiplier = taps
        depth_multiplier = check_count("depth_multiplier", depth_multiplier)
        if depth_multiplier < taps or (taps == 1 and depth_multiplier != 1):
            raise ValueError(
                f"depth_multiplier must be at least the {taps} taps of kernel_size = "
                f"{self.kernel_size}, and 1 for a single tap; got {depth_multiplier}."
            )
        self.depth_multiplier = depth_multiplier
        self.strides = per_axis_if_needed("strides", strides, rank)
        self.padding = check_conv_options(
            rank,
            padding=padding,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            flags={"use_bias": use_bias, "legacy_torch_grouping": legacy_torch_grouping},
            functions={
                "weight_init": weight_init,
                "bias_init": bias_init,
                "conv_general_dilated": conv_general_dilated,
            },
            rngs=rngs,
        )
        self.kernel_dilation = per_axis_if_needed("kernel_dilation", kernel_dilation, rank)
        self.legacy_torch_grouping = legacy_torch_grouping
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.conv_general_dilated = conv_general_dilated

        of_weight = check_metadata("weight_metadata", weight_metadata)
        of_deviation = check_metadata("deviation_metadata", deviation_metadata)
        of_bias = check_metadata("bias_metadata", bias_metadata)

        def param(
            initializer: Initializer, metadata: Mapping[str, Any], *shape: int
        ) -> nnx.Param[jax.Array]:
            return nnx.Param(initializer(rngs.params(), shape, param_dtype), **metadata)

        inputs = self.in_features // self.feature_group_count
        self.weight = param(weight_init, of_weight, depth_multiplier, inputs, self.out_features)
        shape = (*self.kernel_size, depth_multiplier, self.in_features)
        self.deviation = (
            nnx.Param(jnp.zeros(shape, param_dtype), **of_deviation) if taps > 1 else nnx.data(None)
        )
        self.bias = param(bias_init, of_bias, self.out_features) if use_bias else nnx.data(None)

    @property
    def kernel(self) -> jax.Array:
        """The kernel composed of the two factors, `(*kernel_size, in_features / groups, O)`."""
        weight = self.weight[...]
        if self.deviation is None:
            return weight.reshape(*self.kernel_size, *weight.shape[1:])
        return doconv_kernel(
            weight,
            self.deviation[...],
            feature_group_count=self.feature_group_count,
            legacy_torch_grouping=self.legacy_torch_grouping,
        )
