"""Products of matrices as TPUs compute them, in passes of bfloat16, emulated in float64."""

import ml_dtypes
import numpy as np
import pytest

from tests.cases import contract, images
from tests.cases.box_conv import boxes_of_all_kinds
from tests.oracles import box_conv as oracle

_SIZE = (33, 70)
# Which parts of the two factors are multiplied, of the high, the middle and the low one.
_PASSES = {3: [(0, 0), (0, 1), (1, 0)], 6: [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)]}


def _parts(numbers):
    """A float32 array as a sum of three in bfloat16."""
    rest, parts = numbers.astype(np.float32), []
    for _ in range(3):
        part = rest.astype(ml_dtypes.bfloat16).astype(np.float32)
        parts.append(part.astype(np.float64))
        rest = rest - part
    return parts


def _multiply(a, b, passes):
    """The product of matrices, of which only the passes are inexact."""
    parts_a, parts_b = _parts(a), _parts(b)
    total = sum(parts_a[i] @ parts_b[j] for i, j in _PASSES[passes])
    return total.astype(np.float32)


def _overlaps(low, high, size):
    offset = np.arange(size)[None] - np.arange(size)[:, None]
    low, high = low[..., None, None], high[..., None, None]
    lengths = np.clip(high, offset - 0.5, offset + 0.5) - np.clip(low, offset - 0.5, offset + 0.5)
    return lengths / (high - low)


def _forward(x, theta, passes):
    x_min, x_max, y_min, y_max = np.moveaxis(theta.astype(np.float64), -1, 0)
    rows, columns = _overlaps(y_min, y_max, _SIZE[0]), _overlaps(x_min, x_max, _SIZE[1])
    along_x = _multiply(x[:, :, None], columns.swapaxes(-1, -2)[None], passes)
    return _multiply(rows[None], along_x, passes)


@pytest.mark.parametrize(("passes", "suffices"), [(6, True), (3, False)])
def test_six_passes_are_as_good_as_float32(passes, suffices, rng):
    x = images.planes(rng, (1, 8, *_SIZE))
    theta = boxes_of_all_kinds(rng, (8, 6), _SIZE)
    exact = oracle.forward(x, theta)
    error = np.abs(_forward(x, theta, passes) - exact)
    largest = np.abs(x).max((-1, -2))[:, :, None, None, None]
    own = oracle.forward_magnitudes(contract.raised(x), theta)
    good = (error <= contract.BOUNDS["forward"] * largest).all()
    good &= (error <= contract.BOUNDS["forward, of the box's own mean"] * own).all()
    assert good == suffices
