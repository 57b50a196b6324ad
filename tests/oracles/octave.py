"""Octave convolution in float64, pixel by pixel; branches and kernels may be `None`."""

import numpy as np

from tests.oracles import conv as conv_oracle


def octave_conv(high, low, kernels, *, strides=1, pooling="floor", **options):
    """Convolves with `kernels` from high to high, high to low, low to high and low to low."""
    hh, hl, lh, ll = kernels

    def conv(x, kernel):
        groups = x.shape[-1] // kernel.shape[-2]
        return conv_oracle.convolve(x, kernel, groups=groups, **options)

    y_high, y_low = 0, 0
    if hh is not None:
        y_high = y_high + conv(average_pool(high, strides, pooling), hh)
    if lh is not None:
        shared = conv(low, lh)
        if strides == 1:
            doubled = tuple(2 * n for n in shared.shape[:-1])
            shared = upsample_nearest(shared, doubled if hh is None else y_high.shape[:-1])
        y_high = y_high + shared
    if hl is not None:
        y_low = y_low + conv(average_pool(high, 2 * strides, pooling), hl)
    if ll is not None:
        y_low = y_low + conv(average_pool(low, strides, pooling), ll)
    return y_high, y_low


def average_pool(x, factor, pooling):
    x = np.asarray(x, np.float64)
    size = [n // factor if pooling == "floor" else -(-n // factor) for n in x.shape[:-1]]
    y = np.empty((*size, x.shape[-1]))
    for cell in np.ndindex(*size):
        pixels = x[tuple(slice(i * factor, (i + 1) * factor) for i in cell)]
        y[cell] = pixels.reshape(-1, x.shape[-1]).mean(0)
    return y


def upsample_nearest(x, size):
    y = np.empty((*size, x.shape[-1]))
    for pixel in np.ndindex(*size):
        y[pixel] = x[tuple(i * n // m for i, n, m in zip(pixel, x.shape, size, strict=False))]
    return y
