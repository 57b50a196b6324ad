"""Box convolution of images whose rows are divided among devices."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxbox.arguments import check_count, check_flag, to_array
from jaxbox.ops.box_conv import box_conv
from jaxbox_kernels.common import layout
from jaxbox_kernels.registry import Implementation


def halo_box_conv(
    x: ArrayLike,
    theta: ArrayLike,
    axis_name: str,
    *,
    halo: int,
    normalize: bool = True,
    channel_axis: int = -1,
    implementation: Implementation | None = None,
) -> Array:
    """Averages over boxes in an image of which each device holds some rows, inside `jax.shard_map`.

    Each device gets the rows around its own from its neighbours, a halo, and computes the outputs
    of its own rows. So no device ever holds the whole image or its output, and devices exchange
    pixels alone, of which there are fewer than outputs. Images that fit on one device are better
    divided by the batch, for which :func:`jaxbox.box_conv` needs no exchange.

    In the shapes below, `H` is the number of rows that one device holds, `W` the number of columns,
    `C` the number of channels and `F` the number of boxes of each channel.

    Args:
      x: the device's rows, `(..., H, W, C)`, or `(..., C, H, W)` with `channel_axis=-3`. All
        devices hold as many, and their order along `axis_name` is that of the rows.
      theta: the boxes, `(C, F, 4)`, in pixels, the same on all devices.
      axis_name: the axis of the mesh along which rows are divided.
      halo: the number of rows that each device gets from above and from below, 0 or more. It is a
        part of the compiled program, while boxes are data: choose the farthest reach of any box
        along the height, rounded up to a whole number. A `BoxConv` keeps boxes within the height of
        its window. The rows may come from several devices.
      normalize: whether to divide by each box's full area; see :func:`jaxbox.box_conv`.
      channel_axis: the axis of the channels in `x` and in the result, -1 or -3.
      implementation: the name of the backend; see :func:`jaxbox.box_conv`.

    Returns:
      The outputs at the device's rows, `(..., H, W, C * F)` or `(..., C * F, H, W)`: the same as
      those of the whole image with borders of zeros, in both directions of differentiation. All
      outputs of a box that reaches `halo + 1/2` pixels or farther up or down are NaN, since rows
      are missing that it needs, unless `halo` covers all other devices' rows.

    Raises:
      TypeError: `x` or `theta` is not of a real floating dtype, or `halo` is not an integer.
      ValueError: a shape does not fit, `halo` is negative, or `channel_axis` or `implementation` is
        unknown.
      NameError: there is no mesh axis `axis_name` here.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jax.sharding import AxisType, PartitionSpec as P
      >>> import jaxbox
      >>> devices = 1  # As many as you have.
      >>> mesh = jax.make_mesh((devices,), ("rows",), axis_types=(AxisType.Auto,))
      >>> rows = P(None, "rows")
      >>> divided = jax.shard_map(
      ...     lambda x, theta: jaxbox.halo_box_conv(x, theta, "rows", halo=2),
      ...     mesh=mesh, in_specs=(rows, P()), out_specs=rows,
      ... )
      >>> divided(jnp.ones((2, 8, 4, 1)), jnp.array([[[-0.5, 0.5, -1.5, 1.5]]])).shape
      (2, 8, 4, 1)
    """
    x, theta = to_array("x", x), to_array("theta", theta)
    check_flag("normalize", normalize)
    halo = check_count("halo", halo, minimum=0)
    axes = layout.describe(channel_axis, 2)
    if theta.ndim != 3 or theta.shape[-1] != 4:
        raise ValueError(
            f"theta must be (C, F, 4): rows are those of images; got the shape {theta.shape}."
        )
    if x.ndim < 3:
        raise ValueError(
            f"x must be {axes} with channel_axis={channel_axis}; got the shape {x.shape}."
        )
    axis = x.ndim + (-3 if channel_axis == -1 else -2)
    height = x.shape[axis]
    above, below = _halos(x, axis_name, halo, axis)
    rows = jnp.concatenate([*above, x, *below], axis)
    output = box_conv(
        rows,
        theta,
        normalize=normalize,
        channel_axis=channel_axis,
        implementation=implementation,
    )
    first = sum(part.shape[axis] for part in above)
    output = lax.slice_in_dim(output, first, first + height, axis=axis)
    if halo >= (lax.axis_size(axis_name) - 1) * height:
        return output
    channels = jnp.expand_dims(
        _nan_of_far_boxes(theta, halo), [i for i in range(x.ndim) if i != x.ndim + channel_axis]
    )
    return output + channels.astype(output.dtype)


def _halos(x: Array, axis_name: str, halo: int, axis: int) -> tuple[list[Array], list[Array]]:
    """Gets rows from the devices before and after this one: parts from top to bottom.

    Beyond the first and the last device they are zeros, as the border of the image is.
    """
    height, devices = x.shape[axis], lax.axis_size(axis_name)
    above: list[Array] = []
    below: list[Array] = []
    for distance in range(1, devices):
        count = min(height, halo - (distance - 1) * height)
        if count <= 0:
            break
        down = [(device, device + distance) for device in range(devices - distance)]
        up = [(after, before) for before, after in down]
        last = lax.slice_in_dim(x, height - count, height, axis=axis)
        first = lax.slice_in_dim(x, 0, count, axis=axis)
        above.insert(0, lax.ppermute(last, axis_name, down))
        below.append(lax.ppermute(first, axis_name, up))
    return above, below


def _nan_of_far_boxes(theta: Array, halo: int) -> Array:
    """NaN for each output channel whose box reaches beyond the halo, else 0.

    A box that just reaches the edge of the halo has derivatives that need the next row.
    """
    reach = jnp.maximum(-theta[..., 2:], theta[..., 2:]).max(-1)
    return jnp.where(lax.stop_gradient(reach) < halo + 0.5, 0.0, jnp.nan).reshape(-1)
