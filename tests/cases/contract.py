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
- `over zeros`: output of a box that sees only zeros, relative to the largest `|x|` in all rows down
  to the box's last.
- `not finite`: number of results that are NaN or infinite and should not be, or the reverse.
"""

SPAN = 1e-4
"""Pixels below this part of the largest are taken for as large in "the box's own mean"."""

_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Expected:
    """What the oracle says of one call of a backend.

    Attributes:
      results: the output, `dx` and `dtheta`.
      magnitudes: the sums of the magnitudes of their terms.
      own: the output for `|x|`, whose smallest pixels are raised to a part of the largest.
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


def expect(x, theta, g, *, normalize, span=SPAN):
    """Computes with the oracle what a backend is compared with.

    "The box's own mean" takes pixels below `span` times the largest for as large.
    """
    finite_x, finite_g = (np.where(np.isfinite(a), a, 0).astype(np.float64) for a in (x, g))
    largest = np.abs(finite_x).max((-1, -2), keepdims=True)
    inside = np.ones((*theta.shape[:2], 1, 1))
    if not normalize:
        areas = oracle.forward_magnitudes(np.ones_like(x[:1]), theta, normalize=False)
        inside = areas[0].max((-1, -2), keepdims=True)
    dx, dtheta = oracle.backward(x, theta, g, normalize=normalize)
    only_nan = dtheta
    if np.isinf(x).any() or np.isinf(g).any():
        _, only_nan = oracle.backward(*_without_infinities(x, theta, g), normalize=normalize)
    return Expected(
        (oracle.forward(x, theta, normalize=normalize), dx, dtheta),
        (
            oracle.forward_magnitudes(finite_x, theta, normalize=normalize),
            *oracle.backward_magnitudes(finite_x, theta, finite_g, normalize=normalize),
        ),
        oracle.forward_magnitudes(raised(finite_x, span), theta, normalize=normalize),
        np.isnan(only_nan),
        largest[:, :, None] * inside,
        _rows_above(np.abs(finite_x), theta)[..., None] * inside,
    )


def raised(x, span=SPAN):
    """Magnitudes of planes, those that are not 0 raised to `span` times the largest."""
    magnitude = np.abs(x)
    largest = magnitude.max((-1, -2), keepdims=True)
    return np.where(magnitude == 0, 0, np.maximum(magnitude, span * largest))


def _without_infinities(x, theta, g):
    return np.where(np.isinf(x), 1, x), theta, np.where(np.isinf(g), 1, g)


def _rows_above(magnitude, theta):
    """The largest magnitude in all rows down to each box's last: `(N, C, F, H)`."""
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
    # A result that is subnormal, or the sum of a few numbers that are, may be flushed.
    flushable = (exact != 0) & (np.abs(exact) < 100 * _FLOAT32.tiny)
    return np.where(flushable, np.maximum(error - 4 * _FLOAT32.tiny, 0), error)


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
