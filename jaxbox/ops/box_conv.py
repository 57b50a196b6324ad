"""The box convolution: checks its arguments, and puts dimensions and borders together."""

from collections.abc import Sequence

from jax import Array, lax
from jax.typing import ArrayLike

from jaxbox import boxes
from jaxbox.arguments import check_choice, check_flag, sizes_per_axis, to_array
from jaxbox.ops.box_border import PADDINGS, ImageFilter, Padding
from jaxbox.ops.box_dimensions import filter_signal, filter_volume
from jaxbox_kernels.common import layout
from jaxbox_kernels.registry import Implementation

__all__ = ["Implementation", "Padding", "box_conv"]


def box_conv(
    x: ArrayLike,
    theta: ArrayLike,
    *,
    normalize: bool = True,
    strides: int | Sequence[int] = 1,
    padding: Padding = "zeros",
    whole_pixels: bool = False,
    channel_axis: int = -1,
    implementation: Implementation | None = None,
) -> Array:
    """Averages every channel of a feature map over learnable boxes at every position.

    Output `(i, j)` of a box is the mean of `x` over the rectangle
    `[i + y_min, i + y_max] x [j + x_min, j + x_max]`, where pixel `k` covers
    `[k - 1/2, k + 1/2]` and everything outside the image is zero (Burkov & Lempitsky 2018,
    equations 2 and 4). The time does not depend on the sizes of the boxes.

    The last axis of `theta` decides the number of dimensions: 4 for images, 2 for signals and 6 for
    volumes. In the shapes below, `D`, `H` and `W` are the depth, the number of rows and the number
    of columns, `L` the length of a signal, `C` the number of channels and `F` the number of boxes
    of each channel.

    Args:
      x: the feature map, `(..., H, W, C)`, `(..., L, C)` or `(..., D, H, W, C)`, or the same with
        channels first, of a real floating dtype. Sums are computed in float32 or wider.
      theta: the boxes, `(C, F, 4)`, in pixels: `(x_min, x_max, y_min, y_max)` with `x` along the
        width and `y` along the height; or `(C, F, 2)` without `y`, or `(C, F, 6)` with `z_min` and
        `z_max` along the depth at the end. The bounds are real numbers. `x_min < x_max` and
        `y_min < y_max` is not checked, because `theta` may be traced;
        :func:`jaxbox.boxes.project` makes boxes valid. Keep `theta` float32 in bfloat16 models: a
        bfloat16 coordinate is off by up to a quarter of a pixel at 64 pixels.
      normalize: whether to divide by each box's full area, including what lies outside the image.
        If false, the result is the integral over the box.
      strides: the steps between outputs in pixels, one for all axes or one for each in the order of
        the axes of `x`. Outputs are at the positions `0, stride, 2 * stride, ...`, and no others
        are computed.
      padding: what is outside the image. `"zeros"`, as in the paper; `"edge"`, where the image goes
        on with the pixels of its border; or `"partial"`, where nothing is there and the mean is
        over the part of the box inside the image, 0 if there is none.
      whole_pixels: whether to round the boxes by :func:`jaxbox.boxes.round_to_pixels` first
        (section 4), which makes the operation cheaper. The gradient with respect to `theta` is
        then zero, as that of rounding is.
      channel_axis: the axis of the channels in `x` and in the result: -1, or before the spatial
        axes, -3 for images, -2 for signals and -4 for volumes. The computation works on planes, so
        channels first save transpositions.
      implementation: the name of the backend: `"xla"`, for any platform; `"native"`, for CPUs, if
        jaxbox was installed with a C++ compiler; `"mosaic_gpu"`, for NVIDIA's Hopper and Blackwell
        GPUs with float32 and bfloat16; or `None` for the fastest that can serve `x` on the default
        device. :func:`jaxbox.backends` tells which can, and :func:`jaxbox.default_implementation`
        sets what `None` means. Name `"mosaic_gpu"` when exporting for such a GPU from a machine
        without one; `"native"` cannot be exported.

    Returns:
      `(..., H, W, C * F)` or `(..., C * F, H, W)`, of the dtype of `x`, with each spatial axis
      divided by its stride and rounded up; box `f` of channel `c` is output channel `c * F + f`.
      The result can be differentiated with respect to `x` and `theta` in both modes, any number of
      times. If a bound lies exactly on a pixel edge, the derivative is the one in the direction in
      which the box grows. On a mesh with explicit axes the result is sharded as `x` is.

      Errors are at most 2e-6 of the largest `|x|` of the plane and 1e-5 of the mean magnitude
      inside the box, for images of any structure and any magnitude from 1e-35 to 1e35. A box over
      zeros gives 0. A NaN or an infinity reaches exactly the outputs whose boxes contain it. A box
      with swapped bounds averages as the ordered box does and has the integral of the opposite
      sign; the mean over a box without extent is NaN, that over an infinite box 0, and a NaN bound
      gives NaN. `docs/design.md` states this in full.

    Raises:
      TypeError: `x` or `theta` is not of a real floating dtype.
      ValueError: a shape does not fit; `padding`, `channel_axis` or `implementation` is unknown;
        `padding` is `"partial"`, which is a way to normalize, without `normalize`; or the named
        backend cannot serve the dtype, the shape, the strides or the device, or, when the operation
        is compiled, the platform.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)  # One row of five pixels.
      >>> theta = jnp.array([[[-1.5, 1.5, -0.5, 0.5]]])  # Three pixels wide, one high.
      >>> [f"{mean:.2f}" for mean in jaxbox.box_conv(x, theta)[0, :, 0].tolist()]
      ['0.33', '1.00', '2.00', '3.00', '2.33']
      >>> partial = jaxbox.box_conv(x, theta, padding="partial", strides=(1, 2))
      >>> [f"{mean:.2f}" for mean in partial[0, :, 0].tolist()]
      ['0.50', '2.00', '3.50']
    """
    check_flag("normalize", normalize)
    check_flag("whole_pixels", whole_pixels)
    check_choice("padding", padding, PADDINGS)
    if padding == "partial" and not normalize:
        raise ValueError("padding='partial' is a way to normalize; got normalize=False.")
    x, theta = to_array("x", x), to_array("theta", theta)
    rank = _check(x, theta, channel_axis)
    steps = sizes_per_axis("strides", strides, rank)
    if whole_pixels:
        theta = lax.stop_gradient(boxes.round_to_pixels(theta))
    filter_images = ImageFilter(padding, normalize, whole_pixels, implementation)
    channels_first = channel_axis != -1
    if rank == 1:
        return filter_signal(filter_images, x, theta, steps, channels_first)
    if rank == 3:
        return filter_volume(filter_images, x, theta, steps, channels_first)
    return filter_images(x, theta, (steps[0], steps[1]), -3 if channels_first else -1)


def _check(x: Array, theta: Array, channel_axis: int) -> int:
    """Checks the shapes of a feature map and of its boxes; returns the number of dimensions."""
    bounds = theta.shape[-1] if theta.ndim == 3 else 0
    if bounds not in (2, 4, 6) or theta.shape[1] == 0:
        raise ValueError(
            "theta must be (C, F, 4), F at least 1, the last axis (x_min, x_max, y_min, y_max), or "
            "(C, F, 2) for signals or (C, F, 6) for volumes; got the shape "
            f"{theta.shape}."
        )
    rank = bounds // 2
    axes = layout.describe(channel_axis, rank)
    if x.ndim < rank + 1:
        raise ValueError(
            f"x must be {axes} with channel_axis={channel_axis} and boxes of {bounds} bounds; got "
            f"the shape {x.shape}."
        )
    if 0 in x.shape[-rank - 1 :]:
        raise ValueError(
            f"{layout.SPATIAL_AXES[rank]} and C of x must be at least 1; got the shape {x.shape}."
        )
    if theta.shape[0] != x.shape[channel_axis]:
        raise ValueError(
            f"theta must have boxes for each of x's {x.shape[channel_axis]} channels (x is "
            f"{axes} with channel_axis={channel_axis}); got boxes for {theta.shape[0]}: x is "
            f"{x.shape}, theta is {theta.shape}."
        )
    return rank
