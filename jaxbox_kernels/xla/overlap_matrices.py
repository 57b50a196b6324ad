"""Box convolution as two matrix products a box: `O = T_y x T_x^T / area`.

`T[i, k]` is the length of the interval `[i + low, i + high]` inside pixel `k`. The products cost
`H + W` multiply-adds an output, so this form is for small planes, where it is faster than integral
images. It computes in float64, whose range holds the sums of the largest and of the smallest
float32 numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxbox_kernels.backend import Gradients, Options
from jaxbox_kernels.common.area import grad_through_area, scales
from jaxbox_kernels.common.contraction import contract


class _Overlaps(NamedTuple):
    """The matrices of all boxes along one axis, `(C, F, size, size)` each.

    Attributes:
      length: the overlaps `T`.
      d_low: their derivatives with respect to the low bounds.
      d_high: their derivatives with respect to the high bounds.
    """

    length: Array
    d_low: Array
    d_high: Array


def _overlaps(low: Array, high: Array, size: int) -> _Overlaps:
    position = jnp.arange(size, dtype=low.dtype)
    # Differences of integers are exact, so that nothing is lost far from the origin.
    offset = (position[None, :] - position[:, None])[None, None]
    low, high = low[..., None, None], high[..., None, None]
    return _Overlaps(_length(low, high, offset), *_length_slopes(low, high, offset))


@jax.custom_jvp
def _length(low: Array, high: Array, pixel: Array) -> Array:
    """The overlap of a box with a pixel; an integral from a high to a low bound is negative."""
    high_limit, low_limit = (jnp.clip(bound, pixel - 0.5, pixel + 0.5) for bound in (high, low))
    return high_limit - low_limit


@_length.defjvp
def _length_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """Differentiates as the gradients do: JAX's derivative of `clip` at a limit is another."""
    d_low, d_high = _length_slopes(*primals)
    return _length(*primals), d_low * tangents[0] + d_high * tangents[1]


def _length_slopes(low: Array, high: Array, pixel: Array) -> tuple[Array, Array]:
    """The derivatives of the overlap with respect to the bounds."""
    # A bound on a pixel edge belongs to the pixel into which the box grows.
    d_low = -((pixel - 0.5 < low) & (low <= pixel + 0.5)).astype(low.dtype)
    d_high = ((pixel - 0.5 <= high) & (high < pixel + 0.5)).astype(high.dtype)
    return d_low, d_high


def _matrices(theta: Array, size: tuple[int, ...], options: Options) -> tuple[_Overlaps, _Overlaps]:
    """The matrices along y and along x, multiplied by the boxes' scales."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    height, width = size
    scale_x, scale_y = scales(theta, normalize=options.normalize)

    def scaled(scale: Array, low: Array, high: Array, size: int) -> _Overlaps:
        matrices = _overlaps(low, high, size)
        return _Overlaps(*(scale[..., None, None] * matrix for matrix in matrices))

    return scaled(scale_y, y_min, y_max, height), scaled(scale_x, x_min, x_max, width)


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output for finite `x`; see `jaxbox_kernels.backend.Forward`."""
    with jax.enable_x64(True):
        return _filter(_wide(x), _wide(theta), options).astype(x.dtype)


def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients for finite `x` and `g`; see `jaxbox_kernels.backend.Backward`."""
    with jax.enable_x64(True):
        dx, dtheta = gradients(None if x is None else _wide(x), _wide(theta), _wide(g), options)
        return (
            None if dx is None else dx.astype(g.dtype),
            None if dtheta is None else dtheta.astype(theta.dtype),
        )


def _wide(array: Array) -> Array:
    return array.astype(jnp.float64)


def _filter(x: Array, theta: Array, options: Options) -> Array:
    rows, columns = _matrices(theta, x.shape[-2:], options)
    along_x = contract("nchk,cfwk->ncfhw", x, columns.length)
    return contract("cfhi,ncfiw->ncfhw", rows.length, along_x)


def gradients(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes what `backward` does, in the dtype of its arguments and differentiably."""
    rows, columns = _matrices(theta, g.shape[-2:], options)
    back_along_y = contract("cfhi,ncfhw->ncfiw", rows.length, g)
    dx = None
    if options.needs_dx:
        dx = contract("ncfhw,cfwk->nchk", back_along_y, columns.length)
    if x is None:
        return dx, None
    grad_columns = contract("ncfhw,nchk->cfwk", back_along_y, x)
    along_x = contract("nchk,cfwk->ncfhw", x, columns.length)
    grad_rows = contract("ncfhw,ncfiw->cfhi", g, along_x)

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=(-1, -2))

    dtheta = jnp.stack(
        [
            inner(grad_columns, columns.d_low),
            inner(grad_columns, columns.d_high),
            inner(grad_rows, rows.d_low),
            inner(grad_rows, rows.d_high),
        ],
        axis=-1,
    )
    if options.normalize:
        dtheta += grad_through_area(theta, inner(grad_columns, columns.length))
    return dx, dtheta
