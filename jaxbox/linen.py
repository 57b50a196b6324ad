"""The layers for Flax Linen."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from jaxbox import boxes, layout
from jaxbox.box_conv import Implementation, box_conv


class BoxConv(nn.Module):
    """Averages every channel over learnable boxes: `num_boxes` outputs for each input channel.

    The Linen form of :class:`jaxbox.layers.BoxConv`: the same numbers from the same `theta`, a
    parameter `(C, num_boxes, 4)` in pixels, the last axis `(x_min, x_max, y_min, y_max)`. Linen
    parameters carry no metadata: find the boxes with :func:`jaxbox.optim.find_boxes_by_name` and
    let :func:`jaxbox.optim.for_boxes` keep them valid.

    Source: Burkov & Lempitsky 2018, section 3.1.

    Attributes:
      num_boxes: Boxes for each channel.
      window: `(h, w)`, the size in pixels of the window in which boxes start. Default: the size of
        the input that the layer is initialized with.
      normalize: Divide by the area of the box; without it the layer integrates.
      whole_pixels: Round the boxes to whole pixels; as in :class:`jaxbox.layers.BoxConv`.
      channel_axis: -1, or -3 for planes, `(..., C, H, W)`.
      dtype: What the input is cast to, hence the dtype of the output. Default: the input's own.
      param_dtype: The dtype of theta. Keep float32 in bfloat16 models.
      theta_init: A function of `(key, shape, dtype)`. Default: `boxes.initializer(window)`.
      implementation: As in :func:`jaxbox.box_conv`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import BoxConv
      >>> layer = BoxConv(num_boxes=4)
      >>> x = jnp.ones((2, 64, 128, 16))
      >>> params = layer.init(jax.random.key(0), x)
      >>> params["params"]["theta"].shape
      (16, 4, 4)
      >>> layer.apply(params, x).shape
      (2, 64, 128, 64)
    """

    num_boxes: int
    window: Sequence[float] | None = None
    normalize: bool = True
    whole_pixels: bool = False
    channel_axis: layout.ChannelAxis = -1
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    theta_init: Initializer | None = None
    implementation: Implementation | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the boxes.

        Args:
          x: `(..., H, W, C)` or, with `channel_axis=-3`, `(..., C, H, W)`, of a floating dtype.

        Returns:
          The same with `C * num_boxes` channels, of the dtype of `x`, or `dtype` where it is set.

        Raises:
          ValueError: `x` has fewer than three axes, `window` is not two positive numbers,
            `num_boxes` is below 1, or `channel_axis` is neither -1 nor -3.
        """
        axes = layout.describe(self.channel_axis)
        x = jnp.asarray(x, self.dtype)
        if x.ndim < 3:
            raise ValueError(f"x must be {axes}, got shape {x.shape}.")
        if self.num_boxes < 1:
            raise ValueError(f"num_boxes must be at least 1, got {self.num_boxes}.")
        size, channels = layout.split_shape(x.shape, self.channel_axis)
        theta_init = self.theta_init
        if theta_init is None:
            theta_init = boxes.initializer(size if self.window is None else self.window)
        theta = self.param("theta", theta_init, (channels, self.num_boxes, 4), self.param_dtype)
        return box_conv(
            x,
            theta,
            normalize=self.normalize,
            whole_pixels=self.whole_pixels,
            channel_axis=self.channel_axis,
            implementation=self.implementation,
        )
