"""The specification of convolution by weighted boxes, in float64 NumPy: sums of box averages.

In the shapes below, `N` is the number of images, `C` the number of channels, `F` the number of
boxes of each channel, `O` the number of output channels and `S` the spatial axes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.oracles import box_axes

Float64 = NDArray[np.float64]


def forward(x: ArrayLike, theta: ArrayLike, weight: ArrayLike, **options) -> Float64:
    """Convolves images `(N, C, *S)`, with the options of `box_axes.forward`: `(N, O, *outputs)`."""
    averages = box_axes.forward(x, theta, **options)
    return np.einsum("ncf...,cfo->no...", averages, np.asarray(weight, np.float64))


def backward(
    x: ArrayLike, theta: ArrayLike, weight: ArrayLike, g: ArrayLike, **options
) -> tuple[Float64, Float64, Float64]:
    """The gradients of the sum of the output times `g`, for boxes away from pixel edges."""
    weight, g = np.asarray(weight, np.float64), np.asarray(g, np.float64)
    of_averages = np.einsum("no...,cfo->ncf...", g, weight)
    averages = box_axes.forward(x, theta, **options)
    dweight = np.einsum("ncfs,nos->cfo", averages.reshape(*averages.shape[:3], -1), _flat(g))
    return *box_axes.backward(x, theta, of_averages, **options), dweight


def _flat(images: Float64) -> Float64:
    """Images `(N, O, *S)` with one spatial axis."""
    return images.reshape(*images.shape[:2], -1)
