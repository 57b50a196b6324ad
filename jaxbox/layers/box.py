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

# The `tag` in the metadata of a Param that holds boxes; its window stands beside it.
BOX_TAG: Final = "box"

# Where boxes start, and the unit of their steps, when the layer does not know its feature map.
DEFAULT_WINDOW: Final[boxes.Window] = (32, 32)


class FrozenBoxes(nnx.Variable):
    """Boxes that are not trained: no `nnx.Param`, hence no gradient and no optimizer state."""


class BoxConv(nnx.Module):
    """Averages every channel over learnable boxes: `num_boxes` outputs for each input channel.

    Maps `(..., H, W, in_features)` to `(..., H, W, in_features * num_boxes)`, or with
    `channel_axis=-3` the same with the channels before `H`; box `f` of channel `c` is output
    channel `c * num_boxes + f`. See :func:`jaxbox.box_conv` for the formula.

    The boxes are the only parameter, `theta`: `(in_features, num_boxes, 4)`, in pixels, the last
    axis `(x_min, x_max, y_min, y_max)`. Its metadata are `tag="box"` and `window`, by which
    :mod:`jaxbox.optim` finds it. Nothing here keeps boxes valid: training must, and
    :func:`jaxbox.optim.for_model` makes any optimizer do so.

    Source: Burkov & Lempitsky 2018, section 3.1.

    Args:
      in_features: Channels of the input.
      num_boxes: Boxes for each channel.
      window: `(h, w)`, the size in pixels of the feature maps that the layer will see. Boxes start
        inside it and training keeps them in `[-w, w] x [-h, h]`. The layer accepts maps of other
        sizes all the same.
      example: Instead of `window`, an array or `jax.ShapeDtypeStruct` of the input's shape to take
        it from. With neither, boxes start as in a 32 x 32 window and training enforces only their
        minimum size.
      normalize: Divide by the area of the box; without it the layer integrates.
      whole_pixels: Round the boxes to whole pixels, for which the layer is faster; they do not
        train then. As in :func:`jaxbox.box_conv`.
      channel_axis: -1, or -3 for planes, which saves transpositions. As in :func:`jaxbox.box_conv`.
      dtype: What the input is cast to, hence the dtype of the output. Default: the input's own.
      param_dtype: The dtype of theta. Keep float32 in bfloat16 models.
      trainable: Whether theta is an `nnx.Param`; otherwise it is a `FrozenBoxes`, which gradients
        and optimizers with respect to `nnx.Param` leave alone.
      theta_init: A function of `(key, shape, dtype)`. Default: `boxes.initializer(window)`.
      implementation: As in :func:`jaxbox.box_conv`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      ValueError: `window` and `example` are both given, or do not fit; a count is below 1;
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
    ):
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
        """The `(h, w)` that boxes are kept in; `None` when only their minimum size is enforced."""
        return self.theta.get_metadata("window")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the boxes.

        Args:
          x: `(..., H, W, in_features)` or, with `channel_axis=-3`, `(..., in_features, H, W)`, of a
            floating dtype.

        Returns:
          The same with `in_features * num_boxes` channels, of the dtype of `x`, or `dtype` where it
          is set.
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
