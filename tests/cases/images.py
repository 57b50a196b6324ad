"""Images with structure, on which sums lose digits that they keep on independent noise."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image


def _constant(rng, shape):
    return np.full(shape, rng.uniform(0.1, 2))


def _zeros(rng, shape):
    del rng
    return np.zeros(shape)


def _along_x(function):
    """The kind of image that is `function`'s with rows and columns swapped."""
    return lambda rng, shape: function(rng, shape[::-1]).T


def _step(first, second):
    """Two values, above and below an edge near the middle."""

    def draw(rng, shape):
        edge = shape[0] // 2 + rng.integers(-1, 2)
        rows = np.where(np.arange(shape[0]) < edge, first, second)
        return np.broadcast_to(rows[:, None], shape).astype(np.float64)

    return draw


def _uneven_rows(rng, shape):
    """Noise whose rows grow from 1e-2 to 1e2."""
    return 10.0 ** np.linspace(-2, 2, shape[0])[:, None] * rng.normal(size=shape)


def _half_zeros(rng, shape):
    """Noise above an edge, zeros below it."""
    return _step(1, 0)(rng, shape) * rng.uniform(0.5, 2, shape)


def _checkerboard(rng, shape):
    return rng.uniform(0.5, 2) * (-1.0) ** np.indices(shape).sum(0)


def _ramp(rng, shape):
    """A plane that rises along either axis."""
    row, column = np.indices(shape)
    return rng.uniform(0.5, 2) * row / shape[0] + rng.uniform(0.5, 2) * column / shape[1]


def _natural(rng, shape):
    """Noise with the 1/f spectrum of photographs, in [0, 1]."""
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    frequency[0, 0] = 1
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / frequency).real
    return (image - image.min()) / max(image.max() - image.min(), 1e-9)


@functools.cache
def _photographs():
    """The two photographs that scikit-learn ships, in [0, 1]; importing it takes seconds."""
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    return [
        np.asarray(Image.open(folder / name).convert("L"), np.float64) / 255
        for name in ("china.jpg", "flower.jpg")
    ]


def _photograph(rng, shape):
    """A part of a photograph, mirrored where it is smaller than the image."""
    photograph = _photographs()[rng.integers(2)]
    missing = [max(n - m, 0) for n, m in zip(shape, photograph.shape, strict=True)]
    photograph = np.pad(photograph, [(0, n) for n in missing], mode="symmetric")
    top, left = (rng.integers(m - n + 1) for n, m in zip(shape, photograph.shape, strict=True))
    return photograph[top : top + shape[0], left : left + shape[1]]


def _outlier(rng, shape):
    """One pixel of 1e4 in noise of magnitude 1."""
    image = rng.normal(size=shape)
    image[rng.integers(shape[0]), rng.integers(shape[1])] = 1e4
    return image


def _noise(rng, shape):
    return rng.normal(size=shape)


def _positive_noise(rng, shape):
    return rng.uniform(0, 2, shape)


def _negative(rng, shape):
    return -_natural(rng, shape)


# Each draws a float64 image of `shape`, `(H, W)`.
KINDS = {
    "constant": _constant,
    "zeros": _zeros,
    "step 1 to 0 along y": _step(1, 0),
    "step 0 to 1 along x": _along_x(_step(0, 1)),
    "step +1 to -1 along y": _step(1, -1),
    "step +1 to -1 along x": _along_x(_step(1, -1)),
    "step 1e2 to 1e-2 along y": _step(1e2, 1e-2),
    "step 1e2 to 1e-2 along x": _along_x(_step(1e2, 1e-2)),
    "step 1e4 to 1e-2 along x": _along_x(_step(1e4, 1e-2)),
    "checkerboard": _checkerboard,
    "ramp": _ramp,
    "natural": _natural,
    "negative": _negative,
    "photograph": _photograph,
    "half zeros along y": _half_zeros,
    "half zeros along x": _along_x(_half_zeros),
    "outlier": _outlier,
    "rows of different size": _uneven_rows,
    "columns of different size": _along_x(_uneven_rows),
    "noise": _noise,
    "positive noise": _positive_noise,
}


def structured_images(rng, shape):
    """Returns a float32 image `(H, W, C)` of each kind, by its name."""
    *size, channels = shape
    draws = {
        name: [draw(rng, tuple(size)) for _ in range(channels)] for name, draw in KINDS.items()
    }
    return {name: np.stack(planes, -1).astype(np.float32) for name, planes in draws.items()}


def planes(rng, shape, *, kinds=tuple(KINDS)):
    """Float32 images `(..., C, H, W)`; channel `c` has images of kind `c` of `kinds`, in turn."""
    image = np.empty(shape, np.float32)
    for index in np.ndindex(*shape[:-2]):
        image[index] = KINDS[kinds[index[-1] % len(kinds)]](rng, shape[-2:])
    return image
