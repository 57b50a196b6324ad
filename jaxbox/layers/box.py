"""The box convolution as a Flax NNX layer."""

from collections.abc import Sequence
from typing import Final

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer

from jaxbox import boxes
from jaxbox.ops.box_conv import Implementation, box_conv
from jaxbox_kernels.common import layout

__all__ = ["BOX_TAG", "DEFAULT_WINDOW", "BoxConv", "FrozenBoxes"]

# The `tag` in the metadata of a Param that holds boxes; `window` stands beside it.
BOX_TAG: Final = "box"

# The window in which boxes start, and by which their steps are scaled, if a layer has none.
DEFAULT_WINDOW: Final[boxes.Window] = (32, 32)


class FrozenBoxes(nnx.Variable[jax.Array]):
    """Boxes that are not trained: no `nnx.Param`, hence without gradient and optimizer state."""


class BoxConv(nnx.Module):
    """Averages every channel over learnable boxes: `num_boxes` outputs for each input channel.

    It maps `(..., H, W, in_features)` to `(..., H, W, in_features * num_boxes)` or, with
    `channel_axis=-3`, `(..., in_features, H, W)` to `(..., in_features * num_boxes, H, W)`. Box `f`
    of channel `c` is output channel `c * num_boxes + f`. See :func:`jaxbox.box_conv` for the
    formula.

    The boxes are the only parameter, `theta`: `(in_features, num_boxes, 4)`, in pixels, the last
    axis `(x_min, x_max, y_min, y_max)`. It has the metadata `tag="box"` and `window`, by which
    :mod:`jaxbox.optim` finds it. The layer itself does not keep boxes valid: use
    :func:`jaxbox.optim.constrain`, which makes any optimizer do so.

    Source: Burkov & Lempitsky 2018, section 3.1.

    Args:
      in_features: The number of channels of the input.
      num_boxes: The number of boxes for each channel.
      window: The size `(h, w)` in pixels of the feature maps that the layer will see. Boxes start
        inside it, and training keeps them in `[-w, w] x [-h, h]`. The layer accepts maps of other
        sizes too.
      example: An array or `jax.ShapeDtypeStruct` of the input's shape to take the window from, in
        place of `window`. With neither, boxes start as in a 32 x 32 window and training enforces
        only their minimum size.
      normalize: Whether to divide by the area of the box. Without it the layer integrates.
      whole_pixels: Whether to round the boxes to whole pixels, for which the layer is faster. They
        do not train then. See :func:`jaxbox.box_conv`.
      channel_axis: The axis of the channels: -1, or -3, which saves transpositions. See
        :func:`jaxbox.box_conv`.
      dtype: The dtype that the input is cast to, which is also that of the output. By default it is
        the input's own.
      param_dtype: The dtype of theta. Keep float32 in bfloat16 models.
      trainable: Whether theta is an `nnx.Param`. Otherwise it is a `FrozenBoxes`, which gradients
        and optimizers with respect to `nnx.Param` leave alone.
      theta_init: The initializer of theta, by default `boxes.initializer(window)`.
      implementation: The implementation of the operation, as in :func:`jaxbox.box_conv`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      ValueError: `window` and `example` are both given, or do not fit; a number is below 1;
        `channel_axis` is neither -1 nor -3.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import BoxConv
      >>> layer = BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> layer.theta.shape, layer.window
      ((16, 4, 4), (64, 128))
      >>> layer(jnp.ones((2, 64, 128, 16))).shape
      (2, 64, 128, 64)
    """

    def __init__(
        self,
        in_features: int,
        num_boxes: int,
        window: Sequence[float] | None = None,
        *,
        example: jax.Array | jax.ShapeDtypeStruct | None = None,
        normalize: bool = True,
        whole_pixels: bool = False,
        channel_axis: layout.ChannelAxis = -1,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        trainable: bool = True,
        theta_init: Initializer | None = None,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if in_features < 1 or num_boxes < 1:
            raise ValueError(
                f"in_features and num_boxes must be at least 1, got {in_features} and {num_boxes}."
            )
        axes = layout.describe(channel_axis)
        if example is not None:
            if window is not None:
                raise ValueError(f"Give window or example, not both; window is {window}.")
            window = _window_of(example, in_features, channel_axis, axes)
        if window is not None:
            window = boxes.check_window(window)
        if theta_init is None:
            theta_init = boxes.initializer(DEFAULT_WINDOW if window is None else window)

        self.in_features = in_features
        self.num_boxes = num_boxes
        self.normalize = normalize
        self.whole_pixels = whole_pixels
        self.channel_axis = channel_axis
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.implementation = implementation
        variable = nnx.Param if trainable else FrozenBoxes
        self.theta = variable(
            theta_init(rngs.params(), (in_features, num_boxes, 4), param_dtype),
            tag=BOX_TAG,
            window=window,
        )

    @property
    def window(self) -> boxes.Window | None:
        """The `(h, w)` that boxes are kept in; `None` if only their minimum size is enforced."""
        window: boxes.Window | None = self.theta.get_metadata("window")
        return window

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the boxes.

        Args:
          x: The feature map, `(..., H, W, in_features)` or, with `channel_axis=-3`,
            `(..., in_features, H, W)`, of a floating dtype.

        Returns:
          The averages, with `in_features * num_boxes` channels, of the layer's `dtype` or else of
          that of `x`.
        """
        return box_conv(
            jnp.asarray(x, self.dtype),
            self.theta[...],
            normalize=self.normalize,
            whole_pixels=self.whole_pixels,
            channel_axis=self.channel_axis,
            implementation=self.implementation,
        )


def _window_of(
    example: jax.Array | jax.ShapeDtypeStruct,
    in_features: int,
    channel_axis: layout.ChannelAxis,
    axes: str,
) -> boxes.Window:
    if example.ndim < 3 or example.shape[channel_axis] != in_features:
        raise ValueError(
            f"example must be {axes} with C = in_features = {in_features}, "
            f"got shape {example.shape}."
        )
    return layout.split_shape(example.shape, channel_axis)[0]
