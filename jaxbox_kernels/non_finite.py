"""NaN and infinite pixels, which must reach exactly the sums that contain them.

Backends share sums between outputs, so that one NaN would spread over its whole plane. Here they
get planes without such numbers, and what these add to the results is added afterwards. That is
computed only if there are any: the check is one pass over the planes.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.backend import Backward, Forward, Gradients, Options
from jaxbox_kernels.common import bounds
from jaxbox_kernels.common.area import grad_through_area, scales


def guard_forward(forward: Forward) -> Forward:
    """Extends a backend's `forward` for finite inputs to all inputs."""

    @functools.wraps(forward)
    def guarded(x: Array, theta: Array, options: Options) -> Array:
        output = forward(_finite(x), theta, options)

        def add(output: Array, x: Array, theta: Array) -> Array:
            return output + _contributions(x, theta, options).astype(output.dtype)

        whole: Array = lax.cond(_any_non_finite(x), add, _keep, output, x, theta)
        return whole

    return guarded


def guard_backward(backward: Backward, forward: Forward) -> Backward:
    """Extends a backend's `backward` for finite inputs to all inputs.

    Args:
      backward: computes gradients of finite inputs.
      forward: computes outputs of all inputs, of any backend.
    """

    @functools.wraps(backward)
    def guarded(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
        finite_x = None if x is None else _finite(x)
        gradients = backward(finite_x, theta, _finite(g), options)
        some = _any_non_finite(g) if x is None else _any_non_finite(x) | _any_non_finite(g)

        def add(gradients: Gradients, x: Array | None, theta: Array, g: Array) -> Gradients:
            dx, dtheta = gradients
            if dx is not None:
                dx += _contributions_to_dx(theta, g, options).astype(dx.dtype)
            if dtheta is not None and x is not None:
                dtheta += _contributions_to_dtheta(x, theta, g, forward, options)
            return dx, dtheta

        dx, dtheta = lax.cond(some, add, _keep, gradients, x, theta, g)
        if dtheta is not None:
            no_box = jnp.any(jnp.isnan(theta), -1, keepdims=True)
            dtheta = jnp.where(no_box, jnp.nan, dtheta)
        return dx, dtheta

    return guarded


def _keep[Result](result: Result, *_: Array | None) -> Result:
    return result


def _finite(planes: Array) -> Array:
    return jnp.where(jnp.isfinite(planes), planes, 0)


# Under `jax.vmap`, the answer for all examples together keeps `lax.cond` from computing both
# branches for each of them.
@jax.custom_batching.custom_vmap
def _any_non_finite(planes: Array) -> Array:
    # `jnp.max` would drop NaN on CPU.
    return ~jnp.all(jnp.isfinite(planes))


@_any_non_finite.def_vmap
def _any_non_finite_in_batch(
    axis_size: int, in_batched: list[bool], planes: Array
) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _any_non_finite(planes), False


def _contributions(x: Array, theta: Array, options: Options) -> Array:
    """What NaN and infinite pixels add to the output: `(N, C, F, H, W)`, 0, NaN or infinite.

    Args:
      x: the input, `(N, C, H, W)`.
      theta: the boxes, `(C, F, 4)`.
      options: what to compute.
    """
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    scale_x, scale_y = scales(theta, normalize=options.normalize)
    # Of a box with swapped bounds, the integral is negative.
    factors = jnp.sign(x_max - x_min) * scale_x * jnp.sign(y_max - y_min) * scale_y
    positive, negative = (_touched_by(x == sign * jnp.inf, theta) for sign in (1, -1))
    values = jnp.where(positive, jnp.inf, 0) - jnp.where(negative, jnp.inf, 0)
    values = jnp.where(_touched_by(jnp.isnan(x), theta), jnp.nan, values)
    return jnp.where(values == 0, 0, values * factors[None, ..., None, None])


def _touched_by(pixels: Array, theta: Array) -> Array:
    """Whether boxes touch marked pixels: `(N, C, H, W)` to `(N, C, F, H, W)`, boolean."""
    sums = jnp.cumsum(jnp.cumsum(pixels.astype(jnp.int32), -1), -2)
    sums = jnp.pad(sums, [(0, 0), (0, 0), (1, 0), (1, 0)])[:, :, None]
    along_y, along_x = bounds.touched(theta, *pixels.shape[-2:])
    low, high = (bounds.count(offset, pixels.shape[-2])[None, ..., None] for offset in along_y)
    rows = jnp.take_along_axis(sums, high, -2) - jnp.take_along_axis(sums, low, -2)
    low, high = (bounds.count(offset, pixels.shape[-1])[None, ..., None, :] for offset in along_x)
    return (jnp.take_along_axis(rows, high, -1) - jnp.take_along_axis(rows, low, -1)) > 0


def _contributions_to_dx(theta: Array, g: Array, options: Options) -> Array:
    """What NaN and infinite values of `g` add to `dx`: `(N, C, H, W)`."""
    batch, channels, boxes, height, width = g.shape
    # Each box's plane of `g` is filtered by the box mirrored through the origin.
    planes = g.reshape(batch, channels * boxes, height, width)
    mirrored = bounds.mirrored(theta).reshape(channels * boxes, 1, 4)
    return jnp.sum(_contributions(planes, mirrored, options).reshape(g.shape), 2)


def _contributions_to_dtheta(
    x: Array, theta: Array, g: Array, forward: Forward, options: Options
) -> Array:
    """What NaN and infinite values of `x` and `g` add to `dtheta`: `(C, F, 4)`.

    `dtheta` is made of inner products of `g` with the integrals and with their derivatives. A
    derivative with respect to a bound along x is itself the integral over a box, as wide as the
    pixel that holds the bound; likewise along y.
    """
    boxes = jnp.concatenate([theta, *_boxes_of_derivatives(theta, g.shape[-2:])], 1)

    def of_channel(arrays: tuple[Array, Array, Array]) -> Array:
        x, boxes, g = arrays
        integrals = forward(x[:, None], boxes[None], replace(options, normalize=False))
        integrals = integrals.reshape(g.shape[0], 5, *g.shape[1:]).astype(theta.dtype)
        return jnp.sum(integrals * g[:, None].astype(theta.dtype), (0, -1, -2))

    inner = lax.map(of_channel, (jnp.moveaxis(x, 1, 0), boxes, jnp.moveaxis(g, 1, 0)))
    scale_x, scale_y = scales(theta, normalize=options.normalize)
    signs = jnp.sign(scale_x) * jnp.sign(scale_y)
    added = jnp.where(jnp.isfinite(inner), 0, inner) * signs[:, None]
    low_x, high_x, low_y, high_y = jnp.moveaxis(added[:, 1:], 1, 0)
    dtheta = jnp.stack([-low_x, high_x, -low_y, high_y], -1)
    return dtheta + grad_through_area(theta, added[:, 0]) if options.normalize else dtheta


def _boxes_of_derivatives(theta: Array, size: tuple[int, ...]) -> list[Array]:
    """The boxes whose integrals are derivatives with respect to the bounds, `(C, F, 4)` each."""
    height, width = size
    along_y, along_x = bounds.extents(theta, height, width)
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)

    def pixel(bound: bounds.Bound) -> tuple[Array, Array]:
        centre = bound.offset.astype(theta.dtype)
        return centre - 0.5, centre + 0.5

    boxes = [
        *((*pixel(bound), y_min, y_max) for bound in along_x[:2]),
        *((x_min, x_max, *pixel(bound)) for bound in along_y[:2]),
    ]
    return [jnp.stack(box, -1) for box in boxes]
