"""NaN and infinite pixels, which must reach exactly the sums that contain them.

Backends share sums between outputs, so that one NaN would spread over its whole plane. So they take
such numbers for 0, and what these add to the results is added afterwards. That is computed only if
there are any: the check is one pass over the planes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.backend import Backward, Forward, Gradients, Options
from jaxbox_kernels.common import bounds
from jaxbox_kernels.common.area import scales
from jaxbox_kernels.common.contraction import contract
from jaxbox_kernels.common.manual_axes import vary_alike
from jaxbox_kernels.common.reductions import add_neighbouring_rows
from jaxbox_kernels.common.strides import Strides, positions


def finite(planes: Array) -> Array:
    """Replaces what is not finite by 0."""
    return jnp.where(jnp.isfinite(planes), planes, 0)


def guard_forward(forward: Forward) -> Forward:
    """Extends a backend's `forward`, which takes what is not finite for 0, to all inputs."""

    @functools.wraps(forward)
    def guarded(x: Array, theta: Array, options: Options) -> Array:
        output = forward(x, theta, options)

        def add(output: Array, x: Array, theta: Array) -> Array:
            def add_to_box(output: Array, c: Array, f: Array) -> Array:
                return output.at[:, c, f].add(
                    _contribution(x[:, c], theta[c, f], options).astype(x.dtype)
                )

            return _for_each_box(add_to_box, output, theta)

        whole: Array = lax.cond(_any_non_finite(x), add, _keep, output, x, theta)
        return whole

    return guarded


def guard_backward(backward: Backward) -> Backward:
    """Extends a backend's `backward`, which takes what is not finite for 0, to all inputs."""

    @functools.wraps(backward)
    def guarded(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
        gradients = backward(x, theta, g, options)
        some = _any_non_finite(g) if x is None else _any_non_finite(x) | _any_non_finite(g)

        def add(gradients: Gradients, x: Array | None, theta: Array, g: Array) -> Gradients:
            dx, dtheta = gradients
            if dx is not None:
                dx = _add_to_dx(dx, theta, g, options)
            if dtheta is not None and x is not None:
                spoilt = jnp.broadcast_to(_spoils_dtheta(x, theta, g, options), dtheta.shape)
                dtheta = jnp.where(spoilt, jnp.nan, dtheta)
            return dx, dtheta

        dx, dtheta = lax.cond(some, add, _keep, gradients, x, theta, g)
        if dtheta is not None:
            has_nan_bound = jnp.any(jnp.isnan(theta), -1, keepdims=True)
            dtheta = jnp.where(jnp.broadcast_to(has_nan_bound, dtheta.shape), jnp.nan, dtheta)
        return dx, dtheta

    return guarded


def _keep[Result](result: Result, *_: Array | None) -> Result:
    return result


# Under `jax.vmap`, the answer for all examples together keeps `lax.cond` from computing both
# branches for each of them.
@jax.custom_batching.custom_vmap
def _any_non_finite(planes: Array) -> Array:
    # Products with 0 are 0, or NaN of what is not finite. XLA on CPU vectorizes their sum, but not
    # `jnp.all`, and its maximum drops NaN.
    return jnp.isnan(jnp.sum(add_neighbouring_rows(planes * 0, axis=planes.ndim - 2)))


@_any_non_finite.def_vmap
def _any_non_finite_in_batch(
    axis_size: int, in_batched: list[bool], planes: Array
) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _any_non_finite(planes), False


def _for_each_box(
    update: Callable[[Array, Array, Array], Array], values: Array, theta: Array
) -> Array:
    """Updates values for one box after the other, which takes the memory of one box's planes.

    Images are taken together, so that devices that hold different ones need not exchange them.

    Args:
      update: takes the values, the channel and the box, and returns the values.
      values: what is updated.
      theta: the boxes, `(C, F, 4)`.
    """
    channels, boxes, _ = theta.shape

    def body(number: Array, values: Array) -> Array:
        return update(values, number // boxes, number % boxes)

    updated: Array = lax.fori_loop(0, channels * boxes, body, values)
    return updated


def _contribution(planes: Array, box: Array, options: Options) -> Array:
    """What NaN and infinite pixels of planes `(N, H, W)` add to the output of a box."""
    x_min, x_max, y_min, y_max = box
    scale_x, scale_y = scales(box, normalize=options.normalize)
    # Of a box with swapped bounds, the integral is negative.
    factor = jnp.sign(x_max - x_min) * scale_x * jnp.sign(y_max - y_min) * scale_y
    kinds = jnp.stack([planes == jnp.inf, planes == -jnp.inf, jnp.isnan(planes)])
    positive, negative, nan = _touched(kinds, jnp.stack([box] * 3), options.strides)
    values = jnp.where(positive, jnp.inf, 0) - jnp.where(negative, jnp.inf, 0)
    values = jnp.where(nan, jnp.nan, values)
    return jnp.where(values == 0, 0, values * factor)


def _touched(pixels: Array, theta: Array, strides: Strides = (1, 1)) -> Array:
    """Whether boxes `(K, 4)` touch marked pixels of planes `(K, N, H, W)`, for every output."""

    def overlaps(first: Array, end: Array, size: int, stride: int) -> Array:
        pixel = jnp.arange(size, dtype=jnp.int32)
        offset = (pixel[None, :] - positions(size, stride)[:, None])[None]
        first, end = first[:, None, None], end[:, None, None]
        return ((offset >= first) & (offset < end)).astype(jnp.float32)

    # Products of matrices take longer than prefix sums, but compile faster, which all programs do.
    height, width = pixels.shape[-2:]
    along_y, along_x = bounds.touched(theta, height, width)
    rows = contract(
        "knhw,kih->knwi", pixels.astype(jnp.float32), overlaps(*along_y, height, strides[0])
    )
    return contract("knwi,kjw->knij", rows, overlaps(*along_x, width, strides[1])) > 0


def _add_to_dx(dx: Array, theta: Array, g: Array, options: Options) -> Array:
    """Adds what NaN and infinite values of `g`, `(N, C, F, H, W)`, contribute to `dx`."""
    mirrored = bounds.mirrored(theta)

    def add(dx: Array, c: Array, f: Array) -> Array:
        return dx.at[:, c].add(_contribution(g[:, c, f], mirrored[c, f], options).astype(dx.dtype))

    return _for_each_box(add, dx, theta)


def _spoils_dtheta(x: Array, theta: Array, g: Array, options: Options) -> Array:
    """Where a sum that makes up `dtheta` has a term that is not finite: `(C, F, 4)`, boolean.

    `dtheta` is made of inner products of `g` with the integrals and with their derivatives. A
    derivative with respect to a bound along x is itself the integral over a box, as wide as the
    pixel that holds the bound; likewise along y.
    """
    boxes = jnp.stack([theta, *bounds.boxes_of_derivatives(theta, *g.shape[-2:])], 2)

    def mark(spoilt: Array, c: Array, f: Array) -> Array:
        pixels = jnp.stack([~jnp.isfinite(x[:, c])] * 5)
        of_x = jnp.any(_touched(pixels, boxes[c, f], options.strides_in_g), (1, 2, 3))
        return spoilt.at[c, f].max(of_x | jnp.any(~jnp.isfinite(g[:, c, f])))

    nothing, _ = vary_alike(jnp.zeros((*theta.shape[:2], 5), bool), g)
    spoilt = _for_each_box(mark, nothing, theta)
    area, derivatives = spoilt[..., :1], spoilt[..., 1:]
    return derivatives | area if options.normalize else derivatives
