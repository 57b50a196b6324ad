"""The specification for any number of dimensions, any border and any strides, in float64 NumPy.

It is written from the definitions, apart from `box_conv.py`: along each axis, a box is a matrix
`T[i, k]`, the weight of pixel `k` in output `i`, and the output is the product of these matrices
and the image. In the shapes below, `N` is the number of images, `C` the number of channels, `F` the
number of boxes of each channel and `S` the spatial axes.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


def _length(low: float, high: float, start: float, end: float) -> float:
    """The signed length of `[low, high]` in `[start, end]`."""
    return np.clip(high, start, end) - np.clip(low, start, end)


def matrix(
    low: float, high: float, size: int, *, stride: int, padding: str, normalize: bool
) -> Float64:
    """The weights of the pixels of an axis in its outputs, `[output, pixel]`."""
    outputs = range(0, size, stride)
    rows = np.zeros((len(outputs), size))
    for row, i in zip(rows, outputs, strict=True):
        for k in range(size):
            row[k] = _length(low, high, k - i - 0.5, k - i + 0.5)
        if padding == "edge":
            row[0] += _length(low, high, -np.inf, -i - 0.5)
            row[-1] += _length(low, high, size - i - 0.5, np.inf)
        inside = row.sum()
        if padding == "partial":
            row[:] = row / inside if inside else 0
        elif normalize:
            row /= high - low
    return rows


def _matrices(
    box: Float64, size: Sequence[int], strides: Sequence[int], **options
) -> list[Float64]:
    """The matrices of all axes, in the order of the image's axes."""
    bounds = box.reshape(-1, 2)[::-1]
    return [
        matrix(*pair, pixels, stride=stride, **options)
        for pair, pixels, stride in zip(bounds, size, strides, strict=True)
    ]


def _apply(image: Float64, matrices: Sequence[Float64]) -> Float64:
    """Multiplies the last axes of an image, `(N, *S)`, by one matrix each."""
    for axis, each in enumerate(matrices, start=1):
        image = np.moveaxis(np.tensordot(image, each, (axis, 1)), -1, axis)
    return image


def forward(
    x: ArrayLike,
    theta: ArrayLike,
    *,
    normalize: bool = True,
    padding: str = "zeros",
    strides: Sequence[int],
) -> Float64:
    """Filters images `(N, C, *S)` with boxes `(C, F, 2 * rank)`: `(N, C, F, *outputs)`."""
    x, theta = np.asarray(x, np.float64), np.asarray(theta, np.float64)
    options = {"normalize": normalize, "padding": padding}
    outputs = [
        _apply(x[:, c], _matrices(theta[c, f], x.shape[2:], strides, **options))
        for c, f in itertools.product(*map(range, theta.shape[:2]))
    ]
    return np.stack(outputs, 1).reshape(len(x), *theta.shape[:2], *outputs[0].shape[1:])


def backward(
    x: ArrayLike, theta: ArrayLike, g: ArrayLike, *, strides: Sequence[int], **options
) -> tuple[Float64, Float64]:
    """The gradients of the sum of the output times `g`, for boxes away from pixel edges.

    That with respect to the boxes is by differences, which are exact up to rounding where no bound
    crosses an edge: along one axis the sum is linear in a bound, or a quotient of such.
    """
    x, theta, g = (np.asarray(a, np.float64) for a in (x, theta, g))
    dx, dtheta = np.zeros_like(x), np.zeros_like(theta)
    matrix_options = {"normalize": True, "padding": "zeros", **options}

    def objective(box: Float64, c: int, f: int) -> float:
        matrices = _matrices(box, x.shape[2:], strides, **matrix_options)
        return np.sum(g[:, c, f] * _apply(x[:, c], matrices))

    h = 1e-5
    for c, f in np.ndindex(theta.shape[:2]):
        matrices = _matrices(theta[c, f], x.shape[2:], strides, **matrix_options)
        dx[:, c] += _apply(g[:, c, f], [each.T for each in matrices])
        for bound, step in enumerate(h * np.eye(theta.shape[-1])):
            difference = objective(theta[c, f] + step, c, f) - objective(theta[c, f] - step, c, f)
            dtheta[c, f, bound] = difference / (2 * h)
    return dx, dtheta
