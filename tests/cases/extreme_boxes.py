"""Boxes that are not valid, tiny or huge: one meaning for every backend."""

import numpy as np

from tests.cases import box_conv

_X_MIN, _X_MAX, _Y_MIN, _Y_MAX = range(4)


def _swapped(*axes):
    """Low bounds above high bounds, along one axis or both."""

    def change(rng, box):
        del rng
        for axis in axes:
            box[2 * axis : 2 * axis + 2] = box[2 * axis : 2 * axis + 2][::-1].copy()

    return change


def _zero_length(axis):
    """Both bounds at one coordinate."""

    def change(rng, box):
        coordinate = rng.choice([0, 0.5, rng.uniform(-3, 3)])
        box[2 * axis : 2 * axis + 2] = coordinate

    return change


def _at(value, *bounds):
    """Some bounds at a value."""

    def change(rng, box):
        del rng
        box[list(bounds)] = value

    return change


def _nan(rng, box):
    box[rng.integers(4)] = np.nan


def _length(length, *axes):
    """Bounds that far apart: around 0 if short, else anywhere near."""

    def change(rng, box):
        for axis in axes:
            low = rng.uniform(-1, 0) * length
            if length == 1e-5:
                low = rng.uniform(-3, 3)
            box[2 * axis : 2 * axis + 2] = low, low + length

    return change


# Each changes a valid box `(4,)` in place.
INVALID = {
    "swapped along x": _swapped(0),
    "swapped along y": _swapped(1),
    "swapped along both": _swapped(0, 1),
    "no width": _zero_length(0),
    "no height": _zero_length(1),
    "infinite to the left": _at(-np.inf, _X_MIN),
    "infinite to the right": _at(np.inf, _X_MAX),
    "infinite upwards": _at(-np.inf, _Y_MIN),
    "infinite downwards": _at(np.inf, _Y_MAX),
    "half a plane": lambda rng, box: (_at(-np.inf, 0)(rng, box), _at(np.inf, 1)(rng, box)),
    "swapped to the right of infinity": _at(np.inf, _X_MIN),
    "swapped below infinity": _at(-np.inf, _Y_MAX),
    "NaN": _nan,
}
EXTREME = {
    "1e-5 wide": _length(1e-5, 0),
    "1e-5 high": _length(1e-5, 1),
    "1e-5 wide and high": _length(1e-5, 0, 1),
    "1e-20 wide and high": _length(1e-20, 0, 1),
    "1e-30 wide": _length(1e-30, 0),
    "1e-30 wide and high": _length(1e-30, 0, 1),
    "1e30 wide": _length(1e30, 0),
    "1e30 wide and high": _length(1e30, 0, 1),
}


def boxes(rng, shape, image_size, *, kinds):
    """Boxes `(C, F, 4)`: every other box of channel `c` is changed by function `c`, in turn."""
    theta = box_conv.boxes_of_all_kinds(rng, shape, image_size)
    for c, f in np.ndindex(*shape):
        if f % 2 == 0:
            kinds[c % len(kinds)](rng, theta[c, f])
    return theta
