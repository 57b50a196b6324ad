"""Box convolution as two matrix products a box: `O = T_y x T_x^T / area`.

`T[i, k]` is the length of `[i + low, i + high]` inside pixel `k`. The products cost `H + W`
multiply-adds an output, so this form is for small planes, where it beats integral images. It
is also the most accurate one, since it subtracts nothing.

Works on planes: `x` is `(N, C, H, W)`, `theta` `(C, F, 4)`, the output `(N, C, F, H, W)`.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.common.area import gradient_through_area, scale

# Without it TPUs and recent GPUs would multiply in fewer than 24 bits.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class _Overlaps(NamedTuple):
    """The matrices of every box along one axis, and their derivatives by its two sides."""

    length: Array  # (C, F, size, size)
    by_low: Array
    by_high: Array


def _overlaps(low: Array, high: Array, size: int) -> _Overlaps:
    position = jnp.arange(size, dtype=low.dtype)
    # Differences of whole numbers are exact, so that nothing is lost far from the origin.
    offset = (position[None, :] - position[:, None])[None, None]
    low, high = low[..., None, None], high[..., None, None]
    length = jnp.maximum(jnp.minimum(high, offset + 0.5) - jnp.maximum(low, offset - 0.5), 0)
    # On a pixel edge a side belongs to the pixel into which the box grows.
    by_low = -((offset - 0.5 < low) & (low <= offset + 0.5)).astype(low.dtype)
    by_high = ((offset - 0.5 <= high) & (high < offset + 0.5)).astype(high.dtype)
    return _Overlaps(length, by_low, by_high)


def _matrices(theta: Array, size: tuple[int, ...], normalize: bool) -> tuple[_Overlaps, _Overlaps]:
    """The matrices along y, which carry the division by the area, and along x."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    height, width = size
    scales = scale(theta, normalize=normalize)[..., None, None]
    rows = _overlaps(y_min, y_max, height)
    return _Overlaps(*(scales * matrix for matrix in rows)), _overlaps(x_min, x_max, width)


def forward(x: Array, theta: Array, *, normalize: bool) -> Array:
    """Box averages, or integrals without `normalize`."""
    rows, columns = _matrices(theta, x.shape[-2:], normalize)
    along_x = _einsum("nchk,cfwk->ncfhw", x, columns.length)
    return _einsum("cfhi,ncfiw->ncfhw", rows.length, along_x)


def backward(
    x: Array | None, theta: Array, g: Array, *, normalize: bool, by_x: bool = True
) -> tuple[Array | None, Array | None]:
    """Gradients by `x` and by `theta`, given `g`, the one by the output.

    That by `theta` is left out where there is no `x`, the other without `by_x`.
    """
    rows, columns = _matrices(theta, g.shape[-2:], normalize)
    back_along_y = _einsum("cfhi,ncfhw->ncfiw", rows.length, g)
    dx = _einsum("ncfhw,cfwk->nchk", back_along_y, columns.length) if by_x else None
    if x is None:
        return dx, None
    by_columns = _einsum("ncfhw,nchk->cfwk", back_along_y, x)
    along_x = _einsum("nchk,cfwk->ncfhw", x, columns.length)
    by_rows = _einsum("ncfhw,ncfiw->cfhi", g, along_x)

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=(-1, -2))

    dtheta = jnp.stack(
        [
            inner(by_columns, columns.by_low),
            inner(by_columns, columns.by_high),
            inner(by_rows, rows.by_low),
            inner(by_rows, rows.by_high),
        ],
        axis=-1,
    )
    if normalize:
        dtheta += gradient_through_area(theta, inner(by_columns, columns.length))
    return dx, dtheta
