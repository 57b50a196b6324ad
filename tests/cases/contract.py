"""The accuracy that every backend promises, and how far results are from it.

`docs/design.md` states the promise. Every error is measured relative to the magnitudes that were
summed, since a sum may be close to 0 by cancellation.
"""

from dataclasses import dataclass

import numpy as np

from tests.oracles import box_conv as oracle

BOUNDS = {
    "forward": 2e-6,
    "dx": 5e-6,
    "dtheta": 2e-5,
    "forward, of the box's own mean": 1e-5,
    "over zeros": 0.0,
    "not finite": 0.0,
}
"""The largest figure of every line of the contract.

- `forward`: error relative to the largest `|x|` of the plane, times the area that a box has inside
  the image if outputs are integrals.
- `dx`: error relative to the largest value that the same adjoint gives for `|g|`.
- `dtheta`: error relative to the same inner products of `|x|` and `|g|`.
- `forward, of the box's own mean`: error relative to the output for `|x|` at the same place.
- `over zeros`: output of a box that sees only zeros, relative to the largest `|x|` in the rows above
  the box's lower bound.
- `not finite`: number of results that are NaN or infinite and should not be, or the reverse.
"""

# Pixels below this part of the largest are taken for as large in "the box's own mean".
_SPAN = 1e-4

_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Expected:
    """What the oracle says of one call of a backend.

    Attributes:
      results: the output, `dx` and `dtheta`.
      magnitudes: the sums of the magnitudes of their terms.
      own: the output for `|x|`, whose smallest pixels are raised to 1e-4 of the largest.
      must_be_nan: where `dtheta` contains a NaN, rather than infinities.
      unit: `(N, C, F, 1, 1)`, what `forward` is measured by.
      rows: `(N, C, F, H, 1)`, what `over zeros` is measured by.
    """

    results: tuple
    magnitudes: tuple
    own: np.ndarray
    must_be_nan: np.ndarray
    unit: np.ndarray
    rows: np.ndarray


def expect(x, theta, g, *, normalize):
    """Computes with the oracle what a backend is compared with."""
    finite_x, finite_g = (np.where(np.isfinite(a), a, 0).astype(np.float64) for a in (x, g))
    magnitude = np.abs(finite_x)
    largest = magnitude.max((-1, -2), keepdims=True)
    raised = np.where(magnitude == 0, 0, np.maximum(magnitude, _SPAN * largest))
    own, *_ = oracle.magnitudes(raised, theta, finite_g, normalize=normalize)
    if normalize:
        inside = np.ones((*theta.shape[:2], 1, 1))
    else:
        ones, no_g = np.ones_like(x[:1]), np.zeros_like(g[:1])
        inside, *_ = oracle.magnitudes(ones, theta, no_g, normalize=False)
        inside = inside[0].max((-1, -2), keepdims=True)
    no_infinities = [np.where(np.isinf(a), 1, a) for a in (x, g)]
    _, nan = oracle.backward(no_infinities[0], theta, no_infinities[1], normalize=normalize)
    return Expected(
        (
            oracle.forward(x, theta, normalize=normalize),
            *oracle.backward(x, theta, g, normalize=normalize),
        ),
        oracle.magnitudes(finite_x, theta, finite_g, normalize=normalize),
        own,
        np.isnan(nan),
        largest[:, :, None] * inside,
        _rows_above(magnitude, theta)[..., None] * inside,
    )


def _rows_above(magnitude, theta):
    """The largest magnitude in the rows above each box's lower bound: `(N, C, F, H)`."""
    height = magnitude.shape[-2]
    running = np.maximum.accumulate(magnitude.max(-1), axis=-1)
    bound = np.nan_to_num(np.max(theta[..., 2:], axis=-1), nan=height)
    last = np.arange(height) + np.clip(bound, -height, height)[..., None] + 1.5
    last = np.clip(last, 0, height - 1).astype(int)  # (C, F, H)
    return np.take_along_axis(running[:, :, None], last[None], axis=-1)


def figures(results, expected):
    """The worst figure of each line of `BOUNDS`, for the output, `dx` and `dtheta` of a backend.

    A result may be `None`, which is not measured.
    """
    kinds = ("forward", "dx", "dtheta")
    units = (expected.unit, _largest(expected.magnitudes[1]), expected.magnitudes[2])
    worst = dict.fromkeys(BOUNDS, 0.0)
    for kind, result, exact, magnitude, unit in zip(
        kinds, results, expected.results, expected.magnitudes, units, strict=True
    ):
        if result is None:
            continue
        result = np.asarray(result, np.float64)
        assert result.shape == exact.shape, kind
        # What overflows is not part of the contract.
        overflows = (magnitude >= _FLOAT32.max) & np.isfinite(exact)
        differs = _differs(result, exact, expected.must_be_nan if kind == "dtheta" else None)
        worst["not finite"] += np.sum(differs & ~overflows)
        counted = np.isfinite(exact) & np.isfinite(result) & ~overflows
        error = np.where(counted, _error(result, exact, counted), 0)
        worst[kind] = _worst(error, unit)
        if kind == "forward":
            zeros = counted & (magnitude == 0)
            worst["over zeros"] = _worst(np.where(zeros, np.abs(result), 0), expected.rows)
            worst["forward, of the box's own mean"] = _worst(
                np.where(zeros, 0, error), expected.own
            )
    return worst


def _differs(result, exact, must_be_nan):
    """Where a result is not finite and should be, or the reverse, or not the right infinity."""
    if must_be_nan is None:
        same = (result == exact) | (np.isnan(result) & np.isnan(exact))
        return ~np.where(np.isfinite(exact), np.isfinite(result), same)
    # Whether infinities of both signs meet depends on the order in which inner products are summed.
    return (np.isfinite(exact) != np.isfinite(result)) | (must_be_nan & ~np.isnan(result))


def _error(result, exact, counted):
    error = np.abs(np.where(counted, result, 0) - np.where(counted, exact, 0))
    # Results that are subnormal may be flushed.
    subnormal = np.abs(exact) < _FLOAT32.tiny
    return np.where(subnormal & (exact != 0), np.maximum(error - _FLOAT32.tiny, 0), error)


def _largest(magnitude):
    return np.nan_to_num(magnitude, nan=0, posinf=np.inf).max((-1, -2), keepdims=True)


def _worst(error, unit):
    """The largest quotient; an error where nothing was summed is infinite."""
    error, unit = np.broadcast_arrays(error, unit)
    wrong = error > 0
    with np.errstate(divide="ignore"):
        return float((error[wrong] / np.nan_to_num(unit[wrong], nan=0)).max(initial=0))


def broken(worst, bounds):
    """The lines whose figures are above their bounds, as text."""
    return [f"{line}: {worst[line]:.1e}" for line, bound in bounds.items() if worst[line] > bound]
