"""Box convolution with fixed boxes as plain matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxbox import boxes
from jaxbox.arguments import to_array
from jaxbox.layers.box import BoxConv, FrozenBoxes
from jaxbox_kernels.common import layout
from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = ["BoxMatrices"]


class BoxMatrices(nnx.Module):
    """A box convolution whose boxes stay as they are, as two matrix products a box.

    It is for formats that cannot express what :func:`jaxbox.box_conv` is made of, which is a choice
    by platform, 64-bit sums and control flow. ONNX is one. This layer uses minima, maxima and
    products of matrices, in float32 or wider. On a feature map of `(H, W)` pixels it costs `H + W`
    multiply-adds an output.

    Unlike the box convolution it spreads a NaN or an infinity over the whole plane that has it, and
    sums of pixels beyond 1e35 may overflow.

    Args:
      layer: The layer whose boxes it takes.

    Raises:
      TypeError: `layer` is no :class:`jaxbox.BoxConv`.
      ValueError: The layer has strides, another border than zeros, or is not for images.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import BoxConv, BoxMatrices
      >>> layer = BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(0))
      >>> x = jnp.arange(144.0).reshape(6, 8, 3)
      >>> bool(jnp.allclose(BoxMatrices(layer)(x), layer(x), rtol=1e-5))
      True
    """

    def __init__(self, layer: BoxConv) -> None:
        if not isinstance(layer, BoxConv):
            raise TypeError(f"layer must be a BoxConv, got a {type(layer).__name__}.")
        if layer.num_dims != 2 or layer.padding != "zeros" or max(layer.strides) > 1:
            raise ValueError(
                "layer must be for images, with zeros outside and strides of 1; got num_dims="
                f"{layer.num_dims}, padding={layer.padding!r} and strides={layer.strides}."
            )
        theta = layer.valid_theta
        if layer.whole_pixels:
            theta = boxes.round_to_pixels(theta)
        self.theta = FrozenBoxes(theta)
        self.normalize = layer.normalize
        self.channel_axis: layout.ChannelAxis = -3 if layer.channel_axis == -3 else -1
        self.dtype = layer.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the boxes.

        Args:
          x: The feature map, `(..., H, W, C)` or, with `channel_axis=-3`, `(..., C, H, W)`, of a
            floating dtype.

        Returns:
          The averages, with `C * F` channels, of the dtype that the box convolution gave.
        """
        x = jnp.asarray(to_array("x", x), self.dtype)
        planes = layout.move(x, self.channel_axis, -3)
        *batch, channels, height, width = planes.shape
        dtype = sum_dtype(x)
        theta = self.theta[...].astype(dtype)
        x_min, x_max, y_min, y_max = (theta[..., bound, None, None] for bound in range(4))
        columns = self._matrices(x_min, x_max, width)
        rows = self._matrices(y_min, y_max, height)
        images = planes.astype(dtype).reshape(-1, channels, 1, height, width)
        # Without the precision, TPUs and recent GPUs would multiply in fewer than 24 bits.
        full = lax.Precision.HIGHEST
        along_x = jnp.matmul(images, jnp.swapaxes(columns, -1, -2)[None], precision=full)
        averages = jnp.matmul(rows[None], along_x, precision=full).astype(x.dtype)
        output = averages.reshape(*batch, -1, height, width)
        return layout.move(output, -3, self.channel_axis)

    def _matrices(self, low: jax.Array, high: jax.Array, size: int) -> jax.Array:
        """What each pixel of a row counts for in each output, `(C, F, outputs, pixels)`."""
        pixel = jnp.arange(size, dtype=low.dtype)
        offset = (pixel[None, :] - pixel[:, None])[None, None]
        half = np.asarray(0.5, low.dtype)

        def inside_pixel(bound: jax.Array) -> jax.Array:
            # Converters know `minimum` and `maximum` better than `clip`.
            return jnp.minimum(jnp.maximum(bound, offset - half), offset + half)

        overlap = inside_pixel(high) - inside_pixel(low)
        return overlap / (high - low) if self.normalize else overlap
