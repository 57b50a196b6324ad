"""The specification: box convolution and its gradients by brute force, in float64 NumPy.

The tests of all backends compare with this file. So it is written straight from the definitions and
shares nothing with the backends. It is slow: it makes a dense matrix for each bound of a box.

In the shapes below, `N` is the number of images, `C` the number of channels, `F` the number of
boxes of each channel, `H` the number of rows and `W` the number of columns of an image. Boxes are
`(x_min, x_max, y_min, y_max)` in pixels.

A box need not be valid. The integral runs from the low to the high bound with its sign, and so does
the area: the integral over a box with swapped bounds along one axis is negative, and its mean is
that of the ordered box. A mean over no area is NaN, and a mean over an infinite area is 0. A bound
that is NaN makes everything NaN that depends on its box. A pixel that is NaN or infinite is part of
exactly the sums in which its weight is not 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


def overlaps(low: float, high: float, size: int) -> Float64:
    """Signed length of `[i + low, i + high]` in pixel `k`, as `[i, k]` (paper, equation 4)."""
    # The bounds stay as they are and the pixel is moved by `-i`, so that a bound of 1e-30 survives.
    pixel = _pixels(size)
    return np.clip(high, pixel - 0.5, pixel + 0.5) - np.clip(low, pixel - 0.5, pixel + 0.5)


def pixel_beyond_high(high: float, size: int) -> Float64:
    """`[i, k] = 1` where the interval `[., i + high]` enters pixel `k` as `high` grows."""
    pixel = _pixels(size)
    return ((pixel - 0.5 <= high) & (high < pixel + 0.5)).astype(np.float64)


def pixel_beyond_low(low: float, size: int) -> Float64:
    """`[i, k] = 1` where the interval `[i + low, .]` enters pixel `k` as `low` falls."""
    pixel = _pixels(size)
    return ((pixel - 0.5 < low) & (low <= pixel + 0.5)).astype(np.float64)


def _pixels(size: int) -> Float64:
    """The centre of pixel `k` as seen from position `i`, as `[i, k]`."""
    position = np.arange(size, dtype=np.float64)
    return position - position[:, None]


class _Axis(NamedTuple):
    """A box along one axis.

    Attributes:
      overlaps: the overlap of the box at each output with each pixel.
      d_low: the derivative of `overlaps` with respect to the low bound.
      d_high: the derivative of `overlaps` with respect to the high bound.
      length: the length of the box, or 1 if integrals are not divided by it.
      normalize: whether integrals are divided by `length`.
    """

    overlaps: Float64
    d_low: Float64
    d_high: Float64
    length: float
    normalize: bool

    def magnitudes(self) -> "_Axis":
        """The axis whose weights are the magnitudes of this one's."""
        return _Axis(*(np.abs(part) for part in self[:4]), self.normalize)


def _axes(box: Float64, size: tuple[int, int], normalize: bool) -> tuple[_Axis, _Axis]:
    """A box `(4,)` along the rows' axis y and along the columns' axis x."""

    def axis(low: float, high: float, size: int) -> _Axis:
        return _Axis(
            overlaps(low, high, size),
            -pixel_beyond_low(low, size),
            pixel_beyond_high(high, size),
            high - low if normalize else 1.0,
            normalize,
        )

    x_min, x_max, y_min, y_max = box
    return axis(y_min, y_max, size[0]), axis(x_min, x_max, size[1])


def _weigh(rows: Float64, planes: Float64, columns: Float64) -> Float64:
    """`rows @ planes @ columns.T` in which 0 times what is not finite is 0.

    The weights of either matrix are all of one sign.
    """
    total = rows @ np.where(np.isfinite(planes), planes, 0.0) @ columns.T
    for value, found in (
        (np.inf, planes == np.inf),
        (-np.inf, planes == -np.inf),
        (np.nan, np.isnan(planes)),
    ):
        if found.any():
            sign = np.sign(np.sign(rows) @ found @ np.sign(columns).T)
            total = total + np.where(sign == 0, 0.0, sign * value)
    return total


@np.errstate(all="ignore")
def forward(x: ArrayLike, theta: ArrayLike, *, normalize: bool = True) -> Float64:
    """Averages `x`, `(N, C, H, W)`, over boxes, or integrates it if `normalize` is false.

    Returns:
      The output, `(N, C, F, H, W)`.
    """
    x, theta = np.asarray(x, np.float64), np.asarray(theta, np.float64)
    output = np.empty((*x.shape[:2], theta.shape[1], *x.shape[-2:]))
    for c, f in np.ndindex(theta.shape[:2]):
        output[:, c, f] = _forward(x[:, c], *_axes(theta[c, f], x.shape[-2:], normalize))
    return output


def _forward(x: Float64, along_y: _Axis, along_x: _Axis) -> Float64:
    return _weigh(along_y.overlaps, x, along_x.overlaps) / (along_y.length * along_x.length)


@np.errstate(all="ignore")
def backward(
    x: ArrayLike, theta: ArrayLike, g: ArrayLike, *, normalize: bool = True
) -> tuple[Float64, Float64]:
    """Computes the gradients with respect to `x` (paper, equation 5) and `theta` (equation 6).

    They are the gradients of the sum of the output times `g`, `(N, C, F, H, W)`. If a bound lies on
    a pixel edge, the derivative is the one-sided one in the direction in which the box grows.
    """
    x, theta, g = (np.asarray(a, np.float64) for a in (x, theta, g))
    dx, dtheta = np.zeros_like(x), np.empty_like(theta)
    for c, f in np.ndindex(theta.shape[:2]):
        axes = _axes(theta[c, f], x.shape[-2:], normalize)
        dx[:, c] += _backward_x(g[:, c, f], *axes)
        through_bounds, through_area = _backward_theta(x[:, c], g[:, c, f], *axes)
        dtheta[c, f] = through_bounds - through_area
        if np.isnan(theta[c, f]).any():
            dtheta[c, f] = np.nan
    return dx, dtheta


def _backward_x(g: Float64, along_y: _Axis, along_x: _Axis) -> Float64:
    adjoint = _weigh(along_y.overlaps.T, g, along_x.overlaps.T)
    return adjoint / (along_y.length * along_x.length)


def _backward_theta(
    x: Float64, g: Float64, along_y: _Axis, along_x: _Axis
) -> tuple[Float64, Float64]:
    """The gradient of the integral, and what dividing by the area takes off, `(4,)` each."""
    area = along_y.length * along_x.length

    def inner(rows: Float64, columns: Float64) -> float:
        return float(np.sum(g * _weigh(rows, x, columns))) / area

    through_bounds = (
        inner(along_y.overlaps, along_x.d_low),
        inner(along_y.overlaps, along_x.d_high),
        inner(along_y.d_low, along_x.overlaps),
        inner(along_y.d_high, along_x.overlaps),
    )
    if not along_x.normalize:
        return np.array(through_bounds), np.zeros(4)
    mean = inner(along_y.overlaps, along_x.overlaps)
    by_width, by_height = np.divide(mean, along_x.length), np.divide(mean, along_y.length)
    return np.array(through_bounds), np.array([-by_width, by_width, -by_height, by_height])


@np.errstate(all="ignore")
def forward_magnitudes(x: ArrayLike, theta: ArrayLike, *, normalize: bool = True) -> Float64:
    """The sums of the magnitudes of the terms whose sums are the output."""
    x, theta = np.abs(np.asarray(x, np.float64)), np.asarray(theta, np.float64)
    output = np.empty((*x.shape[:2], theta.shape[1], *x.shape[-2:]))
    for c, f in np.ndindex(theta.shape[:2]):
        axes = [axis.magnitudes() for axis in _axes(theta[c, f], x.shape[-2:], normalize)]
        output[:, c, f] = _forward(x[:, c], *axes)
    return output


@np.errstate(all="ignore")
def backward_magnitudes(
    x: ArrayLike, theta: ArrayLike, g: ArrayLike, *, normalize: bool = True
) -> tuple[Float64, Float64]:
    """The sums of the magnitudes of the terms whose sums are `dx` and `dtheta`."""
    x, theta, g = (np.asarray(a, np.float64) for a in (x, theta, g))
    x, g = np.abs(x), np.abs(g)
    dx, dtheta = np.zeros_like(x), np.empty_like(theta)
    for c, f in np.ndindex(theta.shape[:2]):
        axes = [axis.magnitudes() for axis in _axes(theta[c, f], x.shape[-2:], normalize)]
        dx[:, c] += _backward_x(g[:, c, f], *axes)
        through_bounds, through_area = _backward_theta(x[:, c], g[:, c, f], *axes)
        dtheta[c, f] = through_bounds + np.abs(through_area)
    return dx, dtheta
