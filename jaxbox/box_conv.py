"""The box convolution: checks its arguments, picks an implementation, owns the gradients."""

import functools
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxbox import boxes
from jaxbox_kernels import xla

Implementation = Literal["xla"]

_IMPLEMENTATIONS: dict[str, ModuleType] = {"xla": xla}


def box_conv(
    x: ArrayLike,
    theta: ArrayLike,
    *,
    normalize: bool = True,
    whole_pixels: bool = False,
    implementation: Implementation | None = None,
) -> Array:
    """Averages every channel of a feature map over learnable boxes at every position.

    Output `(i, j)` of a box is the mean of `x` over the rectangle
    `[i + y_min, i + y_max] x [j + x_min, j + x_max]`, where pixel `k` covers
    `[k - 1/2, k + 1/2]` and everything outside the image is zero (Burkov & Lempitsky 2018,
    equations 2 and 4). The time does not depend on the sizes of the boxes.

    In the following, `H` and `W` are the image's rows and columns, `C` its channels and `F` the
    boxes of each channel.

    Args:
      x: The feature map, `(..., H, W, C)`, of a real floating dtype. Sums are computed in float32
        or wider.
      theta: The boxes `(C, F, 4)`, in pixels: `(x_min, x_max, y_min, y_max)` with `x` along the
        width and `y` along the height. Sides need not be whole numbers; `x_min < x_max` and
        `y_min < y_max` is required but not checked, because `theta` may be traced
        (:func:`jaxbox.boxes.project` makes boxes valid). Keep it float32 in bfloat16 models: a
        bfloat16 coordinate is off by up to a quarter of a pixel at 64 pixels.
      normalize: Divide by each box's full area, including what lies outside the image. Without it
        the result is the integral over the box.
      whole_pixels: Round the boxes by :func:`jaxbox.boxes.round_to_pixels` first (section 4), which
        makes the operation cheaper. Rounding has the gradient zero: `theta` then gets none.
      implementation: `"xla"`, or `None` to pick by platform and shape.

    Returns:
      `(..., H, W, C * F)`, of `x`'s dtype; box `f` of channel `c` is output channel `c * F + f`.
      Differentiable by `x` and `theta` in reverse mode, any number of times. Where a side lies
      exactly on a pixel edge, the derivative is the one in the direction in which the box grows.

    Raises:
      TypeError: `x` or `theta` is not of a real floating dtype.
      ValueError: a shape does not fit, or `implementation` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)  # One row of five pixels.
      >>> theta = jnp.array([[[-1.5, 1.5, -0.5, 0.5]]])  # Three pixels wide, one high.
      >>> [f"{mean:.2f}" for mean in jaxbox.box_conv(x, theta)[0, :, 0].tolist()]
      ['0.33', '1.00', '2.00', '3.00', '2.33']
    """
    x, theta = jnp.asarray(x), jnp.asarray(theta)
    _check(x, theta)
    kernels = _pick(implementation)

    *batch, height, width, channels = x.shape
    num_boxes = theta.shape[1]
    if whole_pixels:
        theta = lax.stop_gradient(boxes.round_to_pixels(theta))
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    planes = jnp.moveaxis(x.reshape(-1, height, width, channels), -1, 1).astype(dtype)
    # Kept apart from their neighbours: XLA would fuse the transpositions with the arithmetic, which
    # then strides through memory (a fifth of BoxENet's training step on CPU).
    planes = lax.optimization_barrier(planes)
    output = _box_conv(planes, theta.astype(dtype), normalize, whole_pixels, kernels)
    output = lax.optimization_barrier(output.astype(x.dtype))
    output = jnp.moveaxis(output.reshape(-1, channels * num_boxes, height, width), 1, -1)
    return output.reshape(*batch, height, width, channels * num_boxes)


def _check(x: Array, theta: Array) -> None:
    for name, array in (("x", x), ("theta", theta)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be of a real floating dtype; got {array.dtype}.")
    if x.ndim < 3:
        raise ValueError(f"x must be (..., H, W, C); got the shape {x.shape}.")
    if 0 in x.shape[-3:]:
        raise ValueError(f"H, W and C of x must be at least 1; got the shape {x.shape}.")
    if theta.ndim != 3 or theta.shape[-1] != 4 or theta.shape[1] == 0:
        raise ValueError(
            "theta must be (C, F, 4), F at least 1, the last axis (x_min, x_max, y_min, y_max); "
            f"got the shape {theta.shape}."
        )
    if theta.shape[0] != x.shape[-1]:
        raise ValueError(
            f"theta must have boxes for each of x's {x.shape[-1]} channels (its last axis); "
            f"got boxes for {theta.shape[0]}: x is {x.shape}, theta is {theta.shape}."
        )


def _pick(implementation: str | None) -> ModuleType:
    if implementation is None:
        return xla
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be None or one of {sorted(_IMPLEMENTATIONS)}; "
            f"got {implementation!r}."
        )
    return _IMPLEMENTATIONS[implementation]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _box_conv(
    x: Array, theta: Array, normalize: bool, whole_pixels: bool, kernels: ModuleType
) -> Array:
    return kernels.forward(x, theta, normalize=normalize, whole_pixels=whole_pixels)


def _box_conv_fwd(
    x: Array, theta: Array, normalize: bool, whole_pixels: bool, kernels: ModuleType
) -> tuple[Array, tuple[Array, Array]]:
    return _box_conv(x, theta, normalize, whole_pixels, kernels), (x, theta)


def _box_conv_bwd(
    normalize: bool,
    whole_pixels: bool,
    kernels: ModuleType,
    residuals: tuple[Array, Array],
    g: Array,
) -> tuple[Array, Array]:
    del whole_pixels  # the gradient by x is that of the boxes, rounded or not
    x, theta = residuals
    return kernels.backward(x, theta, g, normalize=normalize)


_box_conv.defvjp(_box_conv_fwd, _box_conv_bwd)
