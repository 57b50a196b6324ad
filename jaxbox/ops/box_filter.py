"""The box convolution in two dimensions with zeros outside the image, and its derivatives."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxbox_kernels import registry
from jaxbox_kernels.backend import Backend, Gradients, Options
from jaxbox_kernels.common import bounds, layout, sizes, xla_hints
from jaxbox_kernels.common.linear_map import LinearMap
from jaxbox_kernels.common.manual_axes import vary_alike
from jaxbox_kernels.common.strides import Strides
from jaxbox_kernels.common.workarounds import Workaround, enabled
from jaxbox_kernels.registry import Implementation

__all__ = ["box_filter"]

# The number of outputs above which images with channels last are transposed one at a time, by
# backends that ask for it. glibc returns blocks of more than 32 MB to the system at once, and the
# page faults of the next call would cost more than the arithmetic.
_MOST_TRANSPOSED_OUTPUTS = 2**21


def box_filter(
    x: Array,
    theta: Array,
    *,
    normalize: bool,
    whole_pixels: bool,
    strides: Strides,
    channel_axis: layout.ChannelAxis,
    implementation: Implementation | None,
) -> Array:
    """Averages or integrates images over boxes; see :func:`jaxbox.box_conv`.

    Args:
      x: the images, `(..., H, W, C)` or, with `channel_axis=-3`, `(..., C, H, W)`.
      theta: the boxes, `(C, F, 4)`.
      normalize: whether to divide by each box's area.
      whole_pixels: whether all boxes are known to cover whole pixels, which saves work.
      strides: the steps between outputs along y and along x, in pixels.
      channel_axis: the axis of the channels.
      implementation: the name of the backend.

    Returns:
      `(..., ceil(H / stride), ceil(W / stride), C * F)`, or the same with channels first.

    Raises:
      ValueError: `implementation` is unknown, or the named backend cannot serve the dtype, the
        shape, the strides or the device.
    """
    batch = x.shape[:-3]
    size, channels = layout.split_shape(x.shape, channel_axis)
    images = math.prod(batch)
    planes = jax.ShapeDtypeStruct((images, channels, *size), x.dtype)
    is_strided = strides != (1, 1)
    backend = registry.choose(implementation, planes, theta.shape[1], is_strided=is_strided)
    in_place = channel_axis == -1 and backend.reads_channels_last
    options = Options(
        normalize,
        whole_pixels,
        channels_last=in_place,
        strides=strides,
        input_size=size if is_strided else None,
    )
    plan = _Plan(backend, options, channel_axis)

    x, theta = vary_alike(x, theta)

    def convolve(x: Array, theta: Array) -> Array:
        output: Array = _compiled(x.reshape(images, *x.shape[-3:]), theta, plan)
        return output.reshape(*batch, *output.shape[-3:])

    sharding = jax.typeof(x).sharding
    if sharding.mesh.explicit_axes:
        # XLA divides the work among the devices.
        convolve = jax.sharding.auto_axes(convolve, out_sharding=sharding)
    return convolve(x, theta)


class _Plan(NamedTuple):
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
def _filter(x: Array, theta: Array, plan: _Plan) -> Array:
    def forward(x: Array) -> Array:
        planes = plan.to_planes(x, theta.shape[:1])
        output = plan.backend.forward(planes, theta, plan.options)
        return plan.from_planes(output)

    return _map_images(forward, x.size * theta.shape[1], plan, x)


def _filter_jvp(
    plan: _Plan, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    """Differentiates by a linear map of the tangents, of which reverse mode takes the transpose."""
    x, theta = primals
    needs_dx, needs_dtheta = (not isinstance(each, SymbolicZero) for each in tangents)
    # The image is no residual unless the gradient of the boxes needs it.
    residuals = (x, theta) if needs_dtheta else (theta,)
    derivative = LinearMap(
        _Tangent(plan, needs_dx=needs_dx, needs_dtheta=needs_dtheta),
        _Gradients(plan, needs_dx=needs_dx, needs_dtheta=needs_dtheta),
        len(residuals),
    )
    given = [each for each in tangents if not isinstance(each, SymbolicZero)]
    (tangent,) = derivative(*residuals, *given)
    return _filter(x, theta, plan), tangent


_filter.defjvp(_filter_jvp, symbolic_zeros=True)


@dataclass(frozen=True)
class _Tangent:
    """The derivative in forward mode: a linear function of the tangents that are not zero.

    Attributes:
      plan: what is known of the box convolution.
      needs_dx: whether `x` has a tangent.
      needs_dtheta: whether `theta` has one.
    """

    plan: _Plan
    needs_dx: bool
    needs_dtheta: bool

    def __call__(self, *arrays: Array) -> tuple[Array]:
        """Takes `x`, if it is needed, `theta` and the tangents; returns that of the output."""
        if not self.needs_dtheta:
            theta, dx = arrays
            return (_filter(dx, theta, self.plan),)
        x, theta, *tangents = arrays
        tangent = self._of_boxes(x, theta, tangents[-1])
        if self.needs_dx:
            tangent += _filter(tangents[0], theta, self.plan)
        return (tangent,)

    def _of_boxes(self, x: Array, theta: Array, dtheta: Array) -> Array:
        """The part of the tangent that the boxes' tangents make (equation 6, before the sum).

        The derivatives are box convolutions themselves, of boxes a pixel wide or high.
        """
        plan, normalize = self.plan, self.plan.options.normalize
        size, channels = layout.split_shape(x.shape, plan.channel_axis)
        boxes_of_bounds = bounds.boxes_of_derivatives(theta, *size)
        # These need not cover whole pixels. Boxes that are known to do have no tangent.
        all_boxes = [*boxes_of_bounds, theta] if normalize else boxes_of_bounds
        number = theta.shape[1]
        outputs = plan.to_planes(
            _filter(x, jnp.concatenate(all_boxes, axis=1), plan),
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
        return plan.from_planes(tangent.astype(x.dtype))


@dataclass(frozen=True)
class _Gradients:
    """The derivative in reverse mode: the transpose of `_Tangent`.

    Attributes:
      plan: what is known of the box convolution.
      needs_dx: whether the gradient with respect to `x` is needed.
      needs_dtheta: whether that with respect to `theta` is.
    """

    plan: _Plan
    needs_dx: bool
    needs_dtheta: bool

    def __call__(self, *arrays: Array) -> list[Array]:
        """Takes `x`, if it is needed, `theta` and `g`; returns the gradients that are needed."""
        *x_or_none, theta, g = arrays
        plan, options = self.plan, replace(self.plan.options, needs_dx=self.needs_dx)

        def backward(g: Array, x: Array | None = None) -> Gradients:
            x_planes = None if x is None else plan.to_planes(x, theta.shape[:1])
            g_planes = plan.to_planes(g, theta.shape[:2])
            dx, dtheta = plan.backend.backward(x_planes, theta, g_planes, options)
            if dx is not None:
                dx = plan.from_planes(dx)
            # `_map_images` joins results along a first axis, which `dtheta` has not.
            return dx, None if dtheta is None else dtheta[None]

        dx, dtheta = _map_images(backward, g.size, plan, g, *x_or_none)
        if dtheta is not None:
            dtheta = jnp.sum(dtheta, 0).astype(theta.dtype)
        return [each for each in (dx, dtheta) if each is not None]


# Under `jax.shard_map` outside `jax.jit`, JAX cannot call a `jax.custom_jvp` with symbolic zeros.
_compiled = jax.jit(_filter, static_argnums=2, inline=True)


def _map_images[Result](
    function: Callable[..., Result], outputs: int, plan: _Plan, *images: Array
) -> Result:
    """Applies a function to all images at once or, to transpose less at a time, to one by one.

    Args:
      function: takes `images` and returns arrays whose first axis is theirs.
      outputs: the number of outputs of the box convolution, of all images together.
      plan: decides whether large images are taken one by one.
      *images: arrays `(N, ...)`.
    """
    number = images[0].shape[0]
    at_once = (
        plan.channel_axis == -3
        or not sizes.are_known(outputs)
        or outputs <= _MOST_TRANSPOSED_OUTPUTS
        or not plan.backend.maps_images
        or not enabled(Workaround.CHUNKS)
    )
    if at_once:
        return function(*images)
    each = [image[:, None] for image in images]
    results = lax.map(lambda image: xla_hints.do_not_fuse(function(*image)), each)
    joined: Result = jax.tree.map(lambda result: result.reshape(number, *result.shape[2:]), results)
    return joined
