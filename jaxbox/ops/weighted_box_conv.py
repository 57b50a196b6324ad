"""The box convolution followed by a 1x1 convolution, without all maps between them in memory."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxbox.arguments import check_precision, sizes_per_axis, to_array
from jaxbox.ops.box_conv import Implementation, Padding, box_conv
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.common.manual_axes import vary_alike

__all__ = ["weighted_box_conv"]

type Convolve = Callable[[Array, Array, Array], Array]

# The number of averages that are in memory at a time, on each device. On CPUs they stay in the
# caches, so that to average twice is no slower than to read averages back from memory; elsewhere
# smaller chunks would leave the device idle.
_CHUNK_OUTPUTS_ON_CPU = 2**20
_CHUNK_OUTPUTS = 2**24

# The number of chunks that one image may be as large as before its channels are divided into
# groups. That saves memory but takes longer, since the output is read and written for each group.
_CHUNKS_OF_AN_IMAGE = 4
_GROUPS = 8


def weighted_box_conv(
    x: ArrayLike,
    theta: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    normalize: bool = True,
    strides: int | Sequence[int] = 1,
    padding: Padding = "zeros",
    whole_pixels: bool = False,
    channel_axis: int = -1,
    precision: Any = None,
    implementation: Implementation | None = None,
) -> Array:
    """Convolves with large kernels, each of them a weighted sum of learnable boxes.

    Output channel `o` is the sum over channels `c` and boxes `f` of `weight[c, f, o]` times the
    average over box `f` of channel `c`, as :func:`jaxbox.box_conv` computes it (Zhang et al. 2019,
    arXiv 1906.11367). This is a convolution whose kernels are as large as the boxes, at a cost that
    does not depend on their sizes.

    It equals a box convolution and a 1x1 convolution of its `C * F` channels, but never holds all
    of these: it averages some images at a time, or some channels of a large image, and in the
    backward pass averages once more.

    In the shapes below, `C` is the number of channels of the input, `F` the number of boxes of each
    of them, and `O` the number of channels of the output.

    Args:
      x: the feature map, `(..., H, W, C)`, or a signal or volume as in :func:`jaxbox.box_conv`, of
        a real floating dtype. Averages and sums are computed in float32 or wider.
      theta: the boxes, `(C, F, 4)`, in pixels, or `(C, F, 2)` or `(C, F, 6)`, as in
        :func:`jaxbox.box_conv`.
      weight: the weight of each box in each output channel, `(C, F, O)`.
      bias: what is added to each output channel, `(O,)`, or `None` for nothing.
      normalize: whether boxes average; if false, they integrate.
      strides: the steps between outputs in pixels, one for all axes or one for each.
      padding: what is outside the image: `"zeros"`, `"edge"` or `"partial"`.
      whole_pixels: whether to round the boxes to whole pixels first.
      channel_axis: the axis of the channels in `x` and in the result: -1, or before the spatial
        axes, -3 for images.
      precision: the precision of the products with `weight`, as in `flax.nnx.Conv`.
      implementation: the name of the backend that averages, as in :func:`jaxbox.box_conv`.

    Returns:
      `(..., H, W, O)` or `(..., O, H, W)`, of the dtype of `x`, with each spatial axis divided by
      its stride and rounded up. It can be differentiated with respect to `x`, `theta`, `weight`
      and `bias` in both modes, any number of times. On a mesh with explicit axes it is sharded as
      `x` is.

    Raises:
      TypeError: an array is not of a real floating dtype.
      ValueError: a shape does not fit, or an option is unknown or not served; see
        :func:`jaxbox.box_conv`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)  # One row of five pixels.
      >>> theta = jnp.array([[[-1.5, 1.5, -0.5, 0.5], [-0.5, 0.5, -0.5, 0.5]]])
      >>> weight = jnp.array([[[-1.0], [1.0]]])  # A pixel less the mean of three.
      >>> [f"{y:.2f}" for y in jaxbox.weighted_box_conv(x, theta, weight)[0, :, 0].tolist()]
      ['-0.33', '0.00', '0.00', '0.00', '1.67']
    """
    x, theta = to_array("x", x), to_array("theta", theta)
    weight = to_array("weight", weight)
    check_precision(precision)
    options = _Options(
        normalize, strides, padding, whole_pixels, channel_axis, precision, implementation
    )
    maps = jax.eval_shape(options.average, x, theta)  # Raises where anything does not fit.
    rank = theta.shape[-1] // 2
    options = options._replace(strides=sizes_per_axis("strides", strides, rank))
    if weight.ndim != 3 or weight.shape[:2] != theta.shape[:2] or weight.shape[2] == 0:
        raise ValueError(
            "weight must be (C, F, O), O at least 1, with a number for each of the "
            f"{theta.shape[0]} x {theta.shape[1]} boxes; got the shape {weight.shape}."
        )
    bias = jnp.zeros(weight.shape[2], weight.dtype) if bias is None else to_array("bias", bias)
    if bias.shape != weight.shape[2:]:
        raise ValueError(f"bias must be (O,), {weight.shape[2:]}; got the shape {bias.shape}.")
    batch, image = x.shape[: -rank - 1], x.shape[-rank - 1 :]
    number = math.prod(batch)
    plan = _Plan(options, *_divide(number, theta.shape[0], math.prod(maps.shape[-rank - 1 :])))
    x, theta, weight, bias = vary_alike(x, theta, weight, bias)

    def convolve(x: Array, theta: Array, weight: Array, bias: Array) -> Array:
        output: Array = _compiled(x.reshape(number, *image), theta, weight, bias, plan)
        return output.reshape(*batch, *output.shape[1:])

    sharding = jax.typeof(x).sharding
    if sharding.mesh.explicit_axes:
        # XLA divides the work among the devices.
        convolve = jax.sharding.auto_axes(convolve, out_sharding=sharding)
    return convolve(x, theta, weight, bias)


class _Options(NamedTuple):
    """The options of :func:`weighted_box_conv`; hashable if `strides` are."""

    normalize: bool
    strides: int | Sequence[int]
    padding: Padding
    whole_pixels: bool
    channel_axis: int
    precision: Any
    implementation: Implementation | None

    def average(self, x: Array, theta: Array) -> Array:
        """Averages images over boxes: `C * F` channels, in float32 or wider."""
        return box_conv(
            x.astype(sum_dtype(x)),
            theta,
            normalize=self.normalize,
            strides=self.strides,
            padding=self.padding,
            whole_pixels=self.whole_pixels,
            channel_axis=self.channel_axis,
            implementation=self.implementation,
        )

    def convolve(self, x: Array, theta: Array, weight: Array) -> Array:
        """Averages and adds up, with all averages in memory."""
        averages = self.average(x, theta)
        axis = averages.ndim + self.channel_axis
        flat = lax.collapse(weight, 0, 2).astype(averages.dtype)
        output = lax.dot_general(averages, flat, (((axis,), (0,)), ((), ())), self.precision)
        return jnp.moveaxis(output, -1, axis)


class _Plan(NamedTuple):
    """What is computed, and how it is divided into chunks; hashable.

    Attributes:
      options: the options of the convolution.
      images: the number of images in a chunk.
      channels: the number of their channels in a chunk.
    """

    options: _Options
    images: int
    channels: int


def _divide(images: int, channels: int, outputs: int) -> tuple[int, int]:
    """Divides images, and the channels of large ones, into chunks.

    Args:
      images: the number of images.
      channels: the number of their channels.
      outputs: the number of averages of an image.

    Returns:
      The number of images and of channels in a chunk.
    """
    if images == 0 or not sizes.are_known(images, outputs):
        return images, channels
    largest = _CHUNK_OUTPUTS_ON_CPU if jax.default_backend() == "cpu" else _CHUNK_OUTPUTS
    # Devices that share the images work on as many chunks at the same time.
    fitting = min(images, max(1, largest // outputs) * jax.device_count())
    together = max(size for size in range(1, fitting + 1) if images % size == 0)
    groups = min(_GROUPS, channels) if outputs > _CHUNKS_OF_AN_IMAGE * largest else 1
    return together, -(-channels // groups)


@functools.partial(jax.jit, static_argnames="plan", inline=True)
def _compiled(x: Array, theta: Array, weight: Array, bias: Array, plan: _Plan) -> Array:
    """Convolves images `(N, ...)`, chunk by chunk."""
    shape = [1] * x.ndim
    shape[plan.options.channel_axis] = bias.size
    constant = bias.astype(sum_dtype(x)).reshape(shape)
    if (plan.images, plan.channels) == (x.shape[0], theta.shape[0]):
        return (plan.options.convolve(x, theta, weight) + constant).astype(x.dtype)

    def convolve(images: Array) -> Array:
        return (_sum_over_channels(images, theta, weight, plan) + constant).astype(x.dtype)

    if plan.images == x.shape[0]:
        return convolve(x)
    # Every chunk takes images from the whole batch. If the batch is divided among devices, each
    # has its part of every chunk.
    chunks = jnp.moveaxis(x.reshape(plan.images, -1, *x.shape[1:]), 1, 0)
    output = jnp.moveaxis(lax.map(convolve, chunks), 0, 1)
    return output.reshape(-1, *output.shape[2:])


def _sum_over_channels(x: Array, theta: Array, weight: Array, plan: _Plan) -> Array:
    """Adds up what one group of channels after the other contributes to the output."""
    # Reverse mode averages again, in place of keeping the averages.
    convolve: Convolve = jax.checkpoint(plan.options.convolve, prevent_cse=False)
    channels, size = theta.shape[0], plan.channels
    if size == channels:
        return convolve(x, theta, weight)
    # The first group has what the others leave, so that all others are alike.
    first = channels - (channels - 1) // size * size
    axis = x.ndim + plan.options.channel_axis

    def split(array: Array, axis: int) -> Array:
        rest = lax.slice_in_dim(array, first, None, axis=axis)
        shape = (*array.shape[:axis], -1, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(rest.reshape(shape), axis, 0)

    def add(total: Array, group: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + convolve(*group), None

    total = convolve(lax.slice_in_dim(x, 0, first, axis=axis), theta[:first], weight[:first])
    total, _ = lax.scan(add, total, (split(x, axis), split(theta, 0), split(weight, 0)))
    return total
