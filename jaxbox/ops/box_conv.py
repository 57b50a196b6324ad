"""The box convolution: checks its arguments and owns its derivatives."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jaxbox import boxes
from jaxbox.arguments import check_flag, to_array
from jaxbox_kernels import registry
from jaxbox_kernels.backend import Backend, Gradients, Options
from jaxbox_kernels.common import bounds, layout, sizes, xla_hints
from jaxbox_kernels.common.linear_map import LinearMap
from jaxbox_kernels.common.manual_axes import vary_alike
from jaxbox_kernels.common.workarounds import Workaround, enabled
from jaxbox_kernels.registry import Implementation

__all__ = ["Implementation", "box_conv"]

# The number of outputs above which images with channels last are transposed one at a time, by
# backends that ask for it. glibc returns blocks of more than 32 MB to the system at once, and the
# page faults of the next call would cost more than the arithmetic.
_MOST_TRANSPOSED_OUTPUTS = 2**21


def box_conv(
    x: ArrayLike,
    theta: ArrayLike,
    *,
    normalize: bool = True,
    whole_pixels: bool = False,
    channel_axis: layout.ChannelAxis = -1,
    implementation: Implementation | None = None,
) -> Array:
    """Averages every channel of a feature map over learnable boxes at every position.

    Output `(i, j)` of a box is the mean of `x` over the rectangle
    `[i + y_min, i + y_max] x [j + x_min, j + x_max]`, where pixel `k` covers
    `[k - 1/2, k + 1/2]` and everything outside the image is zero (Burkov & Lempitsky 2018,
    equations 2 and 4). The time does not depend on the sizes of the boxes.

    In the shapes below, `H` is the number of rows and `W` the number of columns of the image, `C`
    the number of its channels and `F` the number of boxes of each channel.

    Args:
      x: the feature map, `(..., H, W, C)` or, with `channel_axis=-3`, `(..., C, H, W)`, of a real
        floating dtype. Sums are computed in float32 or wider.
      theta: the boxes, `(C, F, 4)`, in pixels: `(x_min, x_max, y_min, y_max)` with `x` along the
        width and `y` along the height. The bounds are real numbers. `x_min < x_max` and
        `y_min < y_max` is not checked, because `theta` may be traced;
        :func:`jaxbox.boxes.project` makes boxes valid. Keep `theta` float32 in bfloat16 models: a
        bfloat16 coordinate is off by up to a quarter of a pixel at 64 pixels.
      normalize: whether to divide by each box's full area, including what lies outside the image.
        If false, the result is the integral over the box.
      whole_pixels: whether to round the boxes by :func:`jaxbox.boxes.round_to_pixels` first
        (section 4), which makes the operation cheaper. The gradient with respect to `theta` is
        then zero, as that of rounding is.
      channel_axis: the axis of the channels in `x` and in the result, -1 or -3. The computation
        works on planes, so -3 saves transpositions.
      implementation: the name of the backend: `"xla"`, for any platform; `"native"`, for CPUs, if
        jaxbox was installed with a C++ compiler; `"mosaic_gpu"`, for NVIDIA's Hopper and Blackwell
        GPUs with float32 and bfloat16; or `None` for the fastest that can serve `x` on the default
        device. :func:`jaxbox.backends` tells which can, and :func:`jaxbox.default_implementation`
        sets what `None` means. Name `"mosaic_gpu"` when exporting for such a GPU from a machine
        without one; `"native"` cannot be exported.

    Returns:
      `(..., H, W, C * F)` or `(..., C * F, H, W)`, of the dtype of `x`; box `f` of channel `c` is
      output channel `c * F + f`. The result can be differentiated with respect to `x` and `theta`
      in both modes, any number of times. If a bound lies exactly on a pixel edge, the derivative
      is the one in the direction in which the box grows. On a mesh with explicit axes the result
      is sharded as `x` is.

      Errors are at most 2e-6 of the largest `|x|` of the plane and 1e-5 of the mean magnitude
      inside the box, for images of any structure and any magnitude from 1e-35 to 1e35. A box over
      zeros gives 0. A NaN or an infinity reaches exactly the outputs whose boxes contain it. A box
      with swapped bounds averages as the ordered box does and has the integral of the opposite
      sign; the mean over a box without extent is NaN, that over an infinite box 0, and a NaN bound
      gives NaN. `docs/design.md` states this in full.

    Raises:
      TypeError: `x` or `theta` is not of a real floating dtype.
      ValueError: a shape does not fit, `channel_axis` or `implementation` is unknown, or the named
        backend cannot serve the dtype, the shape or the device; or, when the operation is compiled,
        the platform.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> x = jnp.arange(5.0).reshape(1, 5, 1)  # One row of five pixels.
      >>> theta = jnp.array([[[-1.5, 1.5, -0.5, 0.5]]])  # Three pixels wide, one high.
      >>> [f"{mean:.2f}" for mean in jaxbox.box_conv(x, theta)[0, :, 0].tolist()]
      ['0.33', '1.00', '2.00', '3.00', '2.33']
    """
    check_flag("normalize", normalize)
    check_flag("whole_pixels", whole_pixels)
    x, theta = to_array("x", x), to_array("theta", theta)
    _check(x, theta, channel_axis)
    batch = x.shape[:-3]
    size, channels = layout.split_shape(x.shape, channel_axis)
    images = math.prod(batch)
    planes = jax.ShapeDtypeStruct((images, channels, *size), x.dtype)
    backend = registry.choose(implementation, planes, theta.shape[1])
    if whole_pixels:
        theta = lax.stop_gradient(boxes.round_to_pixels(theta))
    in_place = channel_axis == -1 and backend.reads_channels_last
    options = Options(normalize, whole_pixels, channels_last=in_place)
    static = _Static(backend, options, channel_axis)

    x, theta = vary_alike(x, theta)

    def convolve(x: Array, theta: Array) -> Array:
        output: Array = _compiled(x.reshape(images, *x.shape[-3:]), theta, static)
        return output.reshape(*batch, *output.shape[-3:])

    sharding = jax.typeof(x).sharding
    if sharding.mesh.explicit_axes:
        # XLA divides the work among the devices.
        convolve = jax.sharding.auto_axes(convolve, out_sharding=sharding)
    return convolve(x, theta)


def _check(x: Array, theta: Array, channel_axis: int) -> None:
    axes = layout.describe(channel_axis)
    if x.ndim < 3:
        raise ValueError(
            f"x must be {axes} with channel_axis={channel_axis}; got the shape {x.shape}."
        )
    if 0 in x.shape[-3:]:
        raise ValueError(f"H, W and C of x must be at least 1; got the shape {x.shape}.")
    if theta.ndim != 3 or theta.shape[-1] != 4 or theta.shape[1] == 0:
        raise ValueError(
            "theta must be (C, F, 4), F at least 1, the last axis (x_min, x_max, y_min, y_max); "
            f"got the shape {theta.shape}."
        )
    if theta.shape[0] != x.shape[channel_axis]:
        raise ValueError(
            f"theta must have boxes for each of x's {x.shape[channel_axis]} channels (x is "
            f"{axes} with channel_axis={channel_axis}); got boxes for {theta.shape[0]}: x is "
            f"{x.shape}, theta is {theta.shape}."
        )


class _Static(NamedTuple):
    """What is known of a box convolution when JAX traces it; hashable.

    Attributes:
      backend: the backend that computes it.
      options: what to compute.
      channel_axis: the axis of the channels in `x` and in the output.
    """

    backend: Backend
    options: Options
    channel_axis: layout.ChannelAxis

    def to_planes(self, x: Array, channels: tuple[int, ...]) -> Array:
        """Moves the channels of images to the axis 1, and splits them as `(C,)` or `(C, F)`."""
        # In the order of the first case, XLA sees that nothing need be transposed in memory.
        if self.options.channels_last:
            split = x.reshape(*x.shape[:-1], *channels)
            return jnp.moveaxis(split, (1, 2), (-2, -1))
        planes = layout.move(x, self.channel_axis, -3)
        return planes.reshape(planes.shape[0], *channels, *planes.shape[2:])

    def from_planes(self, planes: Array) -> Array:
        """Moves the channels of `(N, C, H, W)` or `(N, C, F, H, W)` back, and merges them."""
        if self.options.channels_last:
            moved = jnp.moveaxis(planes, (-2, -1), (1, 2))
            return lax.collapse(moved, 3)
        return layout.move(lax.collapse(planes, 1, planes.ndim - 2), -3, self.channel_axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _box_conv(x: Array, theta: Array, static: _Static) -> Array:
    def forward(x: Array) -> Array:
        planes = static.to_planes(x, theta.shape[:1])
        output = static.backend.forward(planes, theta, static.options)
        return static.from_planes(output)

    return _map_images(forward, x.size * theta.shape[1], static, x)


def _box_conv_jvp(
    static: _Static, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    """Differentiates by a linear map of the tangents, of which reverse mode takes the transpose."""
    x, theta = primals
    needs_dx, needs_dtheta = (not isinstance(each, SymbolicZero) for each in tangents)
    # The image is no residual unless the gradient of the boxes needs it.
    residuals = (x, theta) if needs_dtheta else (theta,)
    derivative = LinearMap(
        _Tangent(static, needs_dx=needs_dx, needs_dtheta=needs_dtheta),
        _Gradients(static, needs_dx=needs_dx, needs_dtheta=needs_dtheta),
        len(residuals),
    )
    given = [each for each in tangents if not isinstance(each, SymbolicZero)]
    (tangent,) = derivative(*residuals, *given)
    return _box_conv(x, theta, static), tangent


_box_conv.defjvp(_box_conv_jvp, symbolic_zeros=True)


@dataclass(frozen=True)
class _Tangent:
    """The derivative in forward mode: a linear function of the tangents that are not zero.

    Attributes:
      static: what is known of the box convolution.
      needs_dx: whether `x` has a tangent.
      needs_dtheta: whether `theta` has one.
    """

    static: _Static
    needs_dx: bool
    needs_dtheta: bool

    def __call__(self, *arrays: Array) -> tuple[Array]:
        """Takes `x`, if it is needed, `theta` and the tangents; returns that of the output."""
        if not self.needs_dtheta:
            theta, dx = arrays
            return (_box_conv(dx, theta, self.static),)
        x, theta, *tangents = arrays
        tangent = self._of_boxes(x, theta, tangents[-1])
        if self.needs_dx:
            tangent += _box_conv(tangents[0], theta, self.static)
        return (tangent,)

    def _of_boxes(self, x: Array, theta: Array, dtheta: Array) -> Array:
        """The part of the tangent that the boxes' tangents make (equation 6, before the sum).

        The derivatives are box convolutions themselves, of boxes a pixel wide or high.
        """
        static, normalize = self.static, self.static.options.normalize
        size, channels = layout.split_shape(x.shape, static.channel_axis)
        boxes_of_bounds = bounds.boxes_of_derivatives(theta, *size)
        all_boxes = [*boxes_of_bounds, theta] if normalize else boxes_of_bounds
        # Rounded boxes have no tangent, and these are not whole pixels.
        number = theta.shape[1]
        outputs = static.to_planes(
            _box_conv(x, jnp.concatenate(all_boxes, axis=1), static),
            (channels, len(all_boxes), number),
        )
        signs = jnp.broadcast_to(jnp.array([-1, 1, -1, 1], dtheta.dtype), dtheta.shape)
        signed = signs * dtheta
        if normalize:
            low, high = theta[..., 0::2], theta[..., 1::2]
            signed /= jnp.repeat(high - low, 2, axis=-1)
            signed = jnp.concatenate([signed, -jnp.sum(signed, -1, keepdims=True)], axis=-1)
        factor = jnp.moveaxis(signed, -1, 1)[None, ..., None, None]
        wide = outputs.astype(factor.dtype)
        tangent = jnp.sum(wide * jnp.broadcast_to(factor, wide.shape), axis=2)
        return static.from_planes(tangent.astype(x.dtype))


@dataclass(frozen=True)
class _Gradients:
    """The derivative in reverse mode: the transpose of `_Tangent`.

    Attributes:
      static: what is known of the box convolution.
      needs_dx: whether the gradient with respect to `x` is needed.
      needs_dtheta: whether that with respect to `theta` is.
    """

    static: _Static
    needs_dx: bool
    needs_dtheta: bool

    def __call__(self, *arrays: Array) -> list[Array]:
        """Takes `x`, if it is needed, `theta` and `g`; returns the gradients that are needed."""
        *x_or_none, theta, g = arrays
        static, options = self.static, replace(self.static.options, needs_dx=self.needs_dx)

        def backward(g: Array, x: Array | None = None) -> Gradients:
            x_planes = None if x is None else static.to_planes(x, theta.shape[:1])
            g_planes = static.to_planes(g, theta.shape[:2])
            dx, dtheta = static.backend.backward(x_planes, theta, g_planes, options)
            if dx is not None:
                dx = static.from_planes(dx)
            # `_map_images` joins results along a first axis, which `dtheta` has not.
            return dx, None if dtheta is None else dtheta[None]

        dx, dtheta = _map_images(backward, g.size, static, g, *x_or_none)
        if dtheta is not None:
            dtheta = jnp.sum(dtheta, 0).astype(theta.dtype)
        return [each for each in (dx, dtheta) if each is not None]


# Under `jax.shard_map` outside `jax.jit`, JAX cannot call a `jax.custom_jvp` with symbolic zeros.
_compiled = jax.jit(_box_conv, static_argnums=2, inline=True)


def _map_images[Result](
    function: Callable[..., Result], outputs: int, static: _Static, *images: Array
) -> Result:
    """Applies a function to all images at once or, to transpose less at a time, to one by one.

    Args:
      function: takes `images` and returns arrays whose first axis is theirs.
      outputs: the number of outputs of the box convolution, of all images together.
      static: decides whether large images are taken one by one.
      *images: arrays `(N, ...)`.
    """
    number = images[0].shape[0]
    at_once = (
        static.channel_axis == -3
        or not sizes.are_known(outputs)
        or outputs <= _MOST_TRANSPOSED_OUTPUTS
        or not static.backend.maps_images
        or not enabled(Workaround.CHUNKS)
    )
    if at_once:
        return function(*images)
    each = [image[:, None] for image in images]
    results = lax.map(lambda image: xla_hints.do_not_fuse(function(*image)), each)
    joined: Result = jax.tree.map(lambda result: result.reshape(number, *result.shape[2:]), results)
    return joined
