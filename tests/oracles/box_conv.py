"""The specification: box convolution and its gradients by brute force, in float64 NumPy.

The tests of all backends compare with this file. So it is written straight from the definitions and
shares nothing with the backends. It is slow: it makes a dense matrix for each bound of a box.

In the shapes below, `N` is the number of images, `C` the number of channels, `F` the number of
boxes of each channel, `H` the number of rows and `W` the number of columns of an image. Boxes are
`(x_min, x_max, y_min, y_max)` in pixels.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


def overlaps(low: float, high: float, size: int) -> Float64:
    """Length of `[i + low, i + high]` inside pixel `k`, as `[i, k]` (paper, equation 4)."""
    position = np.arange(size, dtype=np.float64)
    left = np.maximum(position[:, None] + low, position - 0.5)
    right = np.minimum(position[:, None] + high, position + 0.5)
    return np.maximum(right - left, 0.0)


def pixel_beyond_high(high: float, size: int) -> Float64:
    """`[i, k] = 1` where the interval `[., i + high]` enters pixel `k` as `high` grows."""
    position = np.arange(size, dtype=np.float64)
    edge = position[:, None] + high
    return ((position - 0.5 <= edge) & (edge < position + 0.5)).astype(np.float64)


def pixel_beyond_low(low: float, size: int) -> Float64:
    """`[i, k] = 1` where the interval `[i + low, .]` enters pixel `k` as `low` falls."""
    position = np.arange(size, dtype=np.float64)
    edge = position[:, None] + low
    return ((position - 0.5 < edge) & (edge <= position + 0.5)).astype(np.float64)


def forward(x: ArrayLike, theta: ArrayLike, *, normalize: bool = True) -> Float64:
    """Averages `x`, `(N, C, H, W)`, over boxes, or integrates it if `normalize` is false.

    Returns:
      The output, `(N, C, F, H, W)`.
    """
    x, theta = np.asarray(x, np.float64), np.asarray(theta, np.float64)
    height, width = x.shape[-2:]
    output = np.empty((*x.shape[:2], theta.shape[1], height, width))
    for c, f in np.ndindex(theta.shape[:2]):
        x_min, x_max, y_min, y_max = theta[c, f]
        rows, columns = overlaps(y_min, y_max, height), overlaps(x_min, x_max, width)
        area = (x_max - x_min) * (y_max - y_min) if normalize else 1.0
        output[:, c, f] = rows @ x[:, c] @ columns.T / area
    return output


def backward(
    x: ArrayLike, theta: ArrayLike, g: ArrayLike, *, normalize: bool = True
) -> tuple[Float64, Float64]:
    """Computes the gradients with respect to `x` (paper, equation 5) and `theta` (equation 6).

    They are the gradients of the sum of the output times `g`, `(N, C, F, H, W)`. If a bound lies on
    a pixel edge, the derivative is the one-sided one in the direction in which the box grows.
    """
    x, theta = np.asarray(x, np.float64), np.asarray(theta, np.float64)
    g = np.asarray(g, np.float64)
    height, width = x.shape[-2:]
    dx, dtheta = np.zeros_like(x), np.empty_like(theta)
    for c, f in np.ndindex(theta.shape[:2]):
        x_min, x_max, y_min, y_max = theta[c, f]
        rows, columns = overlaps(y_min, y_max, height), overlaps(x_min, x_max, width)
        area = (x_max - x_min) * (y_max - y_min) if normalize else 1.0
        scaled = g[:, c, f] / area
        dx[:, c] += rows.T @ scaled @ columns

        def inner(
            rows: Float64, columns: Float64, g: Float64 = scaled, plane: Float64 = x[:, c]
        ) -> float:
            return float(np.sum(g * (rows @ plane @ columns.T)))

        shrink = inner(rows, columns) if normalize else 0.0
        dtheta[c, f] = (
            -inner(rows, pixel_beyond_low(x_min, width)) + shrink / (x_max - x_min),
            inner(rows, pixel_beyond_high(x_max, width)) - shrink / (x_max - x_min),
            -inner(pixel_beyond_low(y_min, height), columns) + shrink / (y_max - y_min),
            inner(pixel_beyond_high(y_max, height), columns) - shrink / (y_max - y_min),
        )
    return dx, dtheta
