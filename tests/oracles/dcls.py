"""The kernel of DCLS and its derivatives in float64: every tap and pair of channels in turn."""

import functools
import math

import numpy as np


def kernel(weight, positions, sigma, kernel_size, version):
    taps, inputs, outputs = weight.shape
    result = np.zeros((*kernel_size, inputs, outputs))
    for k in range(taps):
        for i in range(inputs):
            for o in range(outputs):
                spread = np.zeros(kernel_size)
                for cell in np.ndindex(*kernel_size):
                    spread[cell] = _share(
                        cell,
                        [
                            p + s // 2
                            for p, s in zip(positions[:, k, i, o], kernel_size, strict=True)
                        ],
                        None if sigma is None else sigma[:, k, i, o],
                        version,
                    )
                if version != "v0":
                    spread /= spread.sum() + 1e-7
                result[..., i, o] += weight[k, i, o] * spread
    return result


def _share(cell, position, sigma, version):
    axes = range(len(cell))
    if version == "v0":
        share = 1.0
        for a in axes:
            low = math.floor(position[a])
            rest = position[a] - low
            share *= {low: 1 - rest, low + 1: rest}.get(cell[a], 0.0)
        return share
    if version == "v1":
        return math.prod(max(0.0, 1 - abs(cell[a] - position[a])) for a in axes)
    if version == "max":
        return math.prod(max(0.0, 1 + abs(sigma[a]) - abs(cell[a] - position[a])) for a in axes)
    return math.exp(
        -0.5 * sum(((cell[a] - position[a]) / (0.27 + abs(sigma[a]))) ** 2 for a in axes)
    )


def gradients(weight, positions, sigma, kernel_size, version, g):
    """Returns the gradients of `sum(g * kernel)`, by hand from the original code's formulas.

    The original computes them by PyTorch's autograd, in which `abs` and `relu` have the derivative
    0 at 0, and `floor` everywhere.
    """
    dweight, dpositions, dsigma = (np.zeros(a.shape) for a in (weight, positions, sigma))
    axes = range(len(kernel_size))
    for k, i, o in np.ndindex(*weight.shape):
        shares, by_position, by_sigma = zip(
            *(
                _share_along_axis(s, p + s // 2, sig, version)
                for s, p, sig in zip(
                    kernel_size, positions[:, k, i, o], sigma[:, k, i, o], strict=True
                )
            ),
            strict=True,
        )
        share = functools.reduce(np.multiply.outer, shares)
        total = 1.0 if version == "v0" else share.sum() + 1e-7
        dshare = g[..., i, o] / total
        dweight[k, i, o] = (dshare * share).sum()
        if version != "v0":
            dshare = dshare - dweight[k, i, o] / total
        for a in axes:
            for result, slope in ((dpositions, by_position[a]), (dsigma, by_sigma[a])):
                factors = [slope if b == a else shares[b] for b in axes]
                moved = functools.reduce(np.multiply.outer, factors)
                result[a, k, i, o] = weight[k, i, o] * (dshare * moved).sum()
    return dweight, dpositions, dsigma


def _share_along_axis(size, position, sigma, version):
    """The factor of one axis in a tap's share, and its derivatives by position and sigma."""
    u = np.arange(size) - position
    if version == "v0":
        low = math.floor(position)
        is_low, is_high = np.arange(size) == low, np.arange(size) == low + 1
        rest = position - low
        return (1 - rest) * is_low + rest * is_high, 1.0 * is_high - is_low, np.zeros(size)
    if version == "gauss":
        width = 0.27 + abs(sigma)
        share = np.exp(-0.5 * (u / width) ** 2)
        return share, share * u / width**2, share * u**2 / width**3 * np.sign(sigma)
    width = 1 + (abs(sigma) if version == "max" else 0)
    inside = width - np.abs(u) > 0
    by_sigma = inside * np.sign(sigma) if version == "max" else np.zeros(size)
    return inside * (width - np.abs(u)), inside * np.sign(u), by_sigma
