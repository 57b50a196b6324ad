"""Convolution in float64, one output pixel at a time, and derivatives by differences."""

import itertools

import numpy as np


def convolve(x, kernel, *, strides=1, padding="SAME", dilation=1, groups=1):
    """Convolves `x`, `(*spatial, I)`, with `kernel`, `(*size, I / groups, O)`."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size, rank = kernel.shape[:-2], kernel.ndim - 2
    extents = [(n - 1) * dilation + 1 for n in size]
    if padding == "SAME":
        totals = [
            max((-(-n // strides) - 1) * strides + extent - n, 0)
            for n, extent in zip(x.shape, extents, strict=False)
        ]
        padding = [(total // 2, total - total // 2) for total in totals]
    elif padding == "VALID":
        padding = [(0, 0)] * rank
    x = np.pad(x, [*padding, (0, 0)])
    out = [(n - extent) // strides + 1 for n, extent in zip(x.shape, extents, strict=False)]
    inputs, outputs = kernel.shape[-2:]
    y = np.zeros((*out, outputs))
    for pixel in np.ndindex(*out):
        for tap in np.ndindex(*size):
            source = tuple(p * strides + t * dilation for p, t in zip(pixel, tap, strict=True))
            for o in range(outputs):
                group = o // (outputs // groups)
                channels = x[source][group * inputs : (group + 1) * inputs]
                y[pixel][o] += channels @ kernel[tap][:, o]
    return y


def derivatives(function, arrays, step=1e-5):
    """Returns the gradients of a scalar function of arrays, by central differences in float64."""
    arrays = [np.array(array, np.float64) for array in arrays]
    results = []
    for array in arrays:
        result = np.empty_like(array)
        for index in itertools.product(*map(range, array.shape)):
            value = array[index]
            array[index] = value + step
            above = function(*arrays)
            array[index] = value - step
            result[index] = (above - function(*arrays)) / (2 * step)
            array[index] = value
        results.append(result)
    return results


def slopes(function, arrays, directions, step=1.0):
    """Returns the derivatives of a scalar function along a direction for each of its arrays.

    They are central differences: exact, with any step, if the function is linear in each array.
    """
    arrays = [np.asarray(array, np.float64) for array in arrays]
    results = []
    for i, direction in enumerate(directions):
        above, below = (
            function(*arrays[:i], arrays[i] + side * direction, *arrays[i + 1 :])
            for side in (step, -step)
        )
        results.append((above - below) / (2 * step))
    return results


def error_of_slopes(gradients, directions, expected):
    """Returns the largest error of gradients along directions, relative to their terms."""
    errors = []
    for gradient, direction, slope in zip(gradients, directions, expected, strict=True):
        terms = np.asarray(gradient, np.float64) * direction
        errors.append(abs(terms.sum() - slope) / np.abs(terms).sum())
    return max(errors)
