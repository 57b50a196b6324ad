"""The kernel of DCLS in float64: every cell, tap and pair of channels in turn."""

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
