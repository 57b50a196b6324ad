"""Box convolution as two matrix products a box: `O = T_y x T_x^T / area`.

`T[i, k]` is the length of the interval `[i + low, i + high]` inside pixel `k`. The products cost
`H + W` multiply-adds an output, so on CPUs this form is for small planes, where it is faster than
integral images. TPUs and GPUs are made for such products.

No entry of a matrix is negative and nothing is subtracted, so rounding errors are relative to what
a box contains, in float32 too. On CPUs it computes in float64 all the same, whose range holds the
sums of the largest and of the smallest float32 numbers. TPUs and most GPUs are slow in float64, so
for them planes are divided by powers of two.
"""

from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxbox_kernels.backend import Gradients, Options
from jaxbox_kernels.common import powers_of_two
from jaxbox_kernels.common.area import grad_through_area, scales
from jaxbox_kernels.common.contraction import contract, contract_in_parts
from jaxbox_kernels.common.overlap import overlap, slopes
from jaxbox_kernels.common.strides import Strides, positions
from jaxbox_kernels.non_finite import finite

# Of a power of two whose inverse is a normal float32 number.
_LARGEST_EXPONENT: Final = 253


class _Overlaps(NamedTuple):
    """The matrices of all boxes along one axis, `(C, F, outputs, size)` each.

    Attributes:
      length: the overlaps `T`.
      d_low: their derivatives with respect to the low bounds.
      d_high: their derivatives with respect to the high bounds.
    """

    length: Array
    d_low: Array
    d_high: Array


def _overlaps(low: Array, high: Array, size: int, stride: int) -> _Overlaps:
    pixel = jnp.arange(size, dtype=low.dtype)
    # Differences of integers are exact, so that nothing is lost far from the origin.
    offset = (pixel[None, :] - positions(size, stride, low.dtype)[:, None])[None, None]
    low, high = low[..., None, None], high[..., None, None]
    interval = low, high, offset - 0.5, offset + 0.5
    return _Overlaps(overlap(*interval), *slopes(*interval))


def _matrices(
    theta: Array, size: tuple[int, ...], factors: tuple[Array, Array], strides: Strides = (1, 1)
) -> tuple[_Overlaps, _Overlaps]:
    """The matrices along y and along x, multiplied by a factor of each box along x and along y."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    height, width = size
    scale_x, scale_y = factors

    def scaled(scale: Array, low: Array, high: Array, size: int, stride: int) -> _Overlaps:
        matrices = _overlaps(low, high, size, stride)
        return _Overlaps(*(scale[..., None, None] * matrix for matrix in matrices))

    along_y, along_x = strides
    return (
        scaled(scale_y, y_min, y_max, height, along_y),
        scaled(scale_x, x_min, x_max, width, along_x),
    )


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output in float64; see `jaxbox_kernels.backend.Forward` and `non_finite`."""
    with jax.enable_x64(True):
        theta = _wide(theta)
        factors = scales(theta, normalize=options.normalize)
        return _filter(_wide(finite(x)), theta, factors, options.strides).astype(x.dtype)


def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients in float64; see `jaxbox_kernels.backend.Backward` and `non_finite`."""
    with jax.enable_x64(True):
        dx, dtheta = gradients(
            None if x is None else _wide(finite(x)), _wide(theta), _wide(finite(g)), options
        )
        return (
            None if dx is None else dx.astype(g.dtype),
            None if dtheta is None else dtheta.astype(theta.dtype),
        )


def _wide(array: Array) -> Array:
    return array.astype(jnp.float64)


def forward_in_float32(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output in float32; see `jaxbox_kernels.backend.Forward` and `non_finite`."""
    x, exponents = _in_units(finite(x))
    factors = scales(theta, normalize=options.normalize)
    if options.normalize:
        means = _filter(x, theta, factors, options.strides)
        return _times(means, powers_of_two.power(exponents), axis=1)
    # The extents of a tiny box have a product that is out of float32's range; an image of large
    # pixels times that product need not be.
    short = [powers_of_two.exponent(jnp.minimum(extent, 1)) for extent in _extents(theta)]
    scale_x, scale_y = (
        factor * powers_of_two.inverse(exponent)
        for factor, exponent in zip(factors, short, strict=True)
    )
    first, second = (
        factor[None, :, :, None, None]
        for factor in powers_of_two.product(exponents[:, None], *short)
    )
    return _filter(x, theta, (scale_x, scale_y), options.strides) * first * second


def _extents(theta: Array) -> tuple[Array, Array]:
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return jnp.abs(x_max - x_min), jnp.abs(y_max - y_min)


def backward_in_float32(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients in float32; see `jaxbox_kernels.backend.Backward` and `non_finite`."""
    g, exponents = _in_units(finite(g))
    exponents_of_x = None
    if x is not None:
        x, exponents_of_x = _in_units(finite(x))
    dx, dtheta = gradients(x, theta, g, options)
    if dx is not None:
        dx = _times(dx, powers_of_two.power(exponents), axis=1)
    if dtheta is not None and exponents_of_x is not None:
        for factor in powers_of_two.product(exponents, exponents_of_x):
            dtheta = _times(dtheta, factor, axis=0)
    return dx, dtheta


def _in_units(planes: Array) -> tuple[Array, Array]:
    """Divides each channel of planes by a power of two near its largest magnitude.

    Returns:
      The planes, of magnitudes up to 4, and the exponents `(C,)` of the powers of two.
    """
    exponents = jnp.minimum(powers_of_two.exponent_of_channels(planes), _LARGEST_EXPONENT)
    return _times(planes, powers_of_two.inverse(exponents), axis=1), exponents


def _times(array: Array, factors: Array, axis: int) -> Array:
    """Multiplies an array by one factor for each index of an axis."""
    return array * jnp.expand_dims(factors, [i for i in range(array.ndim) if i != axis])


def _filter(x: Array, theta: Array, factors: tuple[Array, Array], strides: Strides) -> Array:
    rows, columns = _matrices(theta, x.shape[-2:], factors, strides)
    along_x = contract_in_parts("nchk,cfwk->ncfhw", x, columns.length, along="k")
    return contract_in_parts("cfhi,ncfiw->ncfhw", rows.length, along_x, along="i")


def gradients(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes what `backward` does, in the dtype of its arguments and differentiably."""
    rows, columns = _matrices(theta, g.shape[-2:], scales(theta, normalize=options.normalize))
    back_along_y = contract_in_parts("cfhi,ncfhw->ncfiw", rows.length, g, along="h")
    dx = None
    if options.needs_dx:
        dx = contract_in_parts("ncfhw,cfwk->nchk", back_along_y, columns.length, along="w")
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
