"""Images with structure, on which sums lose digits that they keep on independent noise."""

import numpy as np


def structured_images(rng, shape):
    """Returns a float32 image `(H, W, C)` of each kind, by its name."""
    H, W, _ = shape
    row, column = np.indices((H, W))
    scale = rng.uniform(0.5, 2)
    outlier = np.zeros((H, W))
    outlier[rng.integers(H), rng.integers(W)] = 1e4
    planes = {
        "constant": np.full((H, W), scale),
        "zeros": np.zeros((H, W)),
        "step along x": np.where(column < W // 2, scale, 0),
        "step along y": np.where(row < H // 2, scale, -scale),
        "ramp": row / H + 2 * column / W,
        "checkerboard": scale * (-1.0) ** (row + column),
        "outlier": outlier + rng.uniform(size=(H, W)),
        "rows of different size": 10.0 ** np.linspace(-2, 4, H)[:, None] * rng.normal(size=(H, W)),
        "columns of different size": np.where(column < W // 2, 1e4, 1e-2) * rng.normal(size=(H, W)),
        "natural": _natural(rng, H, W),
    }
    # The second channel is the image upside down, and so on.
    return {
        name: np.stack([plane, *[plane[::-1]] * (shape[-1] - 1)], -1).astype(np.float32)
        for name, plane in planes.items()
    }


def _natural(rng, height, width):
    """Noise with the 1/f spectrum of photographs, in [0, 1]."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    frequency[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(height, width))) / frequency
    image = np.fft.ifft2(noise).real
    return (image - image.min()) / (image.max() - image.min())
