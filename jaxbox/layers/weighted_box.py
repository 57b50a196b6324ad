"""The convolution by weighted boxes as a Flax NNX layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PrecisionLike

from jaxbox.arguments import (
    check_callable,
    check_count,
    check_flag,
    check_precision,
    check_rngs,
    to_array,
)
from jaxbox.layers.box import BoxConv
from jaxbox.layers.initializers import KERNEL_INIT
from jaxbox.layers.parameters import NO_METADATA, check_metadata
from jaxbox.ops.box_conv import Implementation, Padding
from jaxbox.ops.weighted_box_conv import weighted_box_conv

__all__ = ["WeightedBoxConv"]


class WeightedBoxConv(nnx.Module):
    """A convolution with large kernels, each of them a weighted sum of learnable boxes.

    It maps `(..., H, W, in_features)` to `(..., H, W, out_features)` as `flax.nnx.Conv` does with
    padding `"SAME"`, but its kernels are as large as its boxes, and it costs the same for boxes of
    any size. It is a :class:`BoxConv` and a 1x1 convolution of its outputs, computed as one
    operation (:func:`jaxbox.weighted_box_conv`) that takes little memory.

    The parameters are

    - `boxes.theta`: the boxes of each input channel, `(in_features, num_boxes, 4)`, in pixels;
      `boxes` is a :class:`BoxConv`, whose attributes hold for this layer too, and by which
      :mod:`jaxbox.optim` finds them,
    - `weight`: the weight of each box in each output, `(in_features, num_boxes, out_features)`,
    - `bias`: `(out_features,)`.

    Source: Zhang, Halber & Rusinkiewicz 2019, "Accelerating Large-Kernel Convolution Using
    Summed-Area Tables" (arXiv 1906.11367).

    Args:
      in_features: The number of channels of the input.
      out_features: The number of channels of the output.
      num_boxes: The number of boxes for each input channel. All outputs share them.
      window: The size in pixels of the feature maps, as in :class:`BoxConv`.
      example: An array or shape to take the window from, as in :class:`BoxConv`.
      num_dims: The number of spatial axes, as in :class:`BoxConv`.
      min_size: The least width and height of boxes, in pixels.
      normalize: Whether boxes average; without it they integrate.
      strides: The steps between outputs in pixels, one for all axes or one for each.
      padding: What is outside the feature map: `"zeros"`, `"edge"` or `"partial"`.
      whole_pixels: Whether to round the boxes to whole pixels. They do not train then.
      channel_axis: The axis of the channels: -1, or before the spatial axes (-3 for images).
      use_bias: Whether to add a bias.
      dtype: The dtype that the input is cast to, which is also that of the output. By default it is
        the input's own.
      param_dtype: The dtype of the parameters. Keep float32 in bfloat16 models.
      precision: The precision of the products with `weight`, as in `flax.nnx.Conv`.
      symmetric: Whether boxes are their own mirror images, as in :class:`BoxConv`.
      causal: Whether boxes see nothing after their output along the first spatial axis, as in
        :class:`BoxConv`.
      trainable: Whether boxes learn. The weights do in any case.
      theta_init: The initializer of the boxes, by default `boxes.initializer(window)`.
      weight_init: The initializer of the weights, by default that of kernels in Flax.
      bias_init: The initializer of the bias, by default zeros.
      theta_metadata: Further metadata of the boxes, as in :class:`BoxConv`.
      weight_metadata: Further metadata of the weights, as `flax.nnx.Conv` takes for its kernel.
      bias_metadata: The same for the bias.
      implementation: The implementation of the box convolution, as in :func:`jaxbox.box_conv`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: A number is out of range, or an option is unknown; see :class:`BoxConv`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import WeightedBoxConv
      >>> layer = WeightedBoxConv(16, 32, num_boxes=4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> layer.boxes.theta.shape, layer.weight.shape
      ((16, 4, 4), (16, 4, 32))
      >>> layer(jnp.ones((2, 64, 128, 16))).shape
      (2, 64, 128, 32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_boxes: int,
        *,
        window: Sequence[float] | None = None,
        example: jax.Array | jax.ShapeDtypeStruct | None = None,
        num_dims: int | None = None,
        min_size: float = 1.0,
        normalize: bool = True,
        strides: int | Sequence[int] = 1,
        padding: Padding = "zeros",
        whole_pixels: bool = False,
        channel_axis: int = -1,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        symmetric: bool = False,
        causal: bool = False,
        trainable: bool = True,
        theta_init: Initializer | None = None,
        weight_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        theta_metadata: Mapping[str, Any] = NO_METADATA,
        weight_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.out_features = check_count("out_features", out_features)
        check_flag("use_bias", use_bias)
        check_precision(precision)
        check_callable("weight_init", weight_init)
        check_callable("bias_init", bias_init)
        of_weight = check_metadata("weight_metadata", weight_metadata)
        of_bias = check_metadata("bias_metadata", bias_metadata)
        check_rngs(rngs)
        self.boxes = BoxConv(
            in_features,
            num_boxes,
            window=window,
            example=example,
            num_dims=num_dims,
            min_size=min_size,
            normalize=normalize,
            strides=strides,
            padding=padding,
            whole_pixels=whole_pixels,
            channel_axis=channel_axis,
            dtype=dtype,
            param_dtype=param_dtype,
            symmetric=symmetric,
            causal=causal,
            trainable=trainable,
            theta_init=theta_init,
            theta_metadata=theta_metadata,
            implementation=implementation,
            rngs=rngs,
        )
        self.precision = precision
        shape = (self.boxes.in_features, self.boxes.num_boxes, self.out_features)
        self.weight = nnx.Param(weight_init(rngs.params(), shape, param_dtype), **of_weight)
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (self.out_features,), param_dtype), **of_bias)
            if use_bias
            else nnx.data(None)
        )

    @property
    def in_features(self) -> int:
        """The number of channels of the input."""
        return self.boxes.in_features

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves.

        Args:
          x: The feature map, `(..., H, W, in_features)` or, with `channel_axis=-3`,
            `(..., in_features, H, W)`, of a floating dtype.

        Returns:
          The output, with `out_features` channels and each spatial axis divided by its stride and
          rounded up, of the layer's `dtype` or else of that of `x`.

        Raises:
          TypeError: `x` is not of a real floating dtype.
          ValueError: The shape of `x` does not fit.
        """
        boxes = self.boxes
        return weighted_box_conv(
            jnp.asarray(to_array("x", x), boxes.dtype),
            boxes.valid_theta,
            self.weight[...],
            None if self.bias is None else self.bias[...],
            normalize=boxes.normalize,
            strides=boxes.strides,
            padding=boxes.padding,
            whole_pixels=boxes.whole_pixels,
            channel_axis=boxes.channel_axis,
            precision=self.precision,
            implementation=boxes.implementation,
        )
