"""The oracle itself, against examples worked out by hand and finite differences."""

import numpy as np
import pytest

from tests.cases.box_conv import boxes_off_edges
from tests.oracles import box_conv as oracle

# A column of nine pixels, 1, 4, ... 81. Its boxes are one pixel wide.
SQUARES = np.arange(1.0, 10.0).reshape(1, 1, 9, 1) ** 2
MIDDLE = np.zeros((1, 1, 1, 9, 1))
MIDDLE[..., 4, 0] = 1.0


def _column_box(y_min, y_max):
    return np.array([[[-0.5, 0.5, y_min, y_max]]])


def test_the_smallest_box_is_the_identity(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    theta = np.tile([-0.5, 0.5, -0.5, 0.5], (3, 1, 1))
    np.testing.assert_array_equal(oracle.forward(x, theta)[:, :, 0], x)


def test_a_shifted_pixel():
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    theta = np.array([[[0.5, 1.5, -1.5, -0.5]]])  # One column to the right, one row up.
    expected = [[0, 0, 0, 0], [1, 2, 3, 0], [5, 6, 7, 0]]
    np.testing.assert_array_equal(oracle.forward(x, theta)[0, 0, 0], expected)


def test_parts_of_pixels_and_of_boxes_outside_the_image():
    x = np.array([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3)
    theta = np.array([[[-1.0, 0.25, -0.5, 0.5]]])
    integrals = [0.75 * 1, 0.5 * 1 + 0.75 * 2, 0.5 * 2 + 0.75 * 4]
    output = oracle.forward(x, theta, normalize=False)
    np.testing.assert_allclose(output.ravel(), integrals, rtol=1e-15)
    # The divisor is the whole box's area, inside the image or not.
    np.testing.assert_allclose(
        oracle.forward(x, theta).ravel(), np.array(integrals) / 1.25, rtol=1e-15
    )


def test_x_runs_along_the_width_and_y_along_the_height():
    x = np.zeros((1, 1, 5, 5))
    x[..., 2, 2] = 1.0
    theta = np.array([[[-2.5, 0.5, -0.5, 1.5]]])  # Three columns, two rows.
    expected = np.zeros((5, 5))
    expected[1:3, 2:5] = 1.0
    np.testing.assert_array_equal(oracle.forward(x, theta, normalize=False)[0, 0, 0], expected)


def test_boxes_of_a_channel_see_only_that_channel(rng):
    x, theta = rng.normal(size=(2, 3, 4, 5)), boxes_off_edges(rng, (3, 2), (4, 5))
    for c in range(3):
        for f in range(2):
            np.testing.assert_array_equal(
                oracle.forward(x[:, c : c + 1], theta[c : c + 1, f : f + 1])[:, 0, 0],
                oracle.forward(x, theta)[:, c, f],
            )


@pytest.mark.parametrize(
    ("bounds", "normalize", "output", "expected"),
    [
        # On pixel edges, the rows just outside of the box: 9 above it and 64 below it.
        ((-1.5, 2.5), False, 16 + 25 + 36 + 49, (-9, 64)),
        ((-1.5, 2.5), True, 31.5, ((31.5 - 9) / 4, (64 - 31.5) / 4)),
        # Off pixel edges, the rows that the bounds cut.
        ((-1.9, 3.1), False, 168, (-9, 64)),
        ((-1.9, 3.1), True, 33.6, ((33.6 - 9) / 5, (64 - 33.6) / 5)),
        # At the border of the image there is nothing to grow into.
        ((-4.5, 4.5), False, 285, (0, 0)),
        ((-4.5, 4.4), False, 285 - 8.1, (0, 81)),
    ],
)
def test_the_middle_of_a_column_of_squares(bounds, normalize, output, expected):
    theta = _column_box(*bounds)
    result = oracle.forward(SQUARES, theta, normalize=normalize)[0, 0, 0, 4, 0]
    np.testing.assert_allclose(result, output, rtol=1e-14)
    _, dtheta = oracle.backward(SQUARES, theta, MIDDLE, normalize=normalize)
    np.testing.assert_allclose(dtheta[0, 0, 2:], expected, rtol=1e-13, atol=1e-12)


def _image_and_cotangent(rng):
    return rng.normal(size=(2, 3, 5, 8)), rng.normal(size=(2, 3, 2, 5, 8))


@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_against_finite_differences(normalize, rng):
    x, g = _image_and_cotangent(rng)
    theta = boxes_off_edges(rng, (3, 2), (5, 8)).astype(np.float64)
    dx, dtheta = oracle.backward(x, theta, g, normalize=normalize)

    def loss(x, theta):
        return np.sum(g * oracle.forward(x, theta, normalize=normalize))

    # Linear in x, so that any step will do.
    step = rng.normal(size=x.shape)
    np.testing.assert_allclose(np.sum(dx * step), loss(x + step, theta) - loss(x, theta), rtol=1e-9)

    h = 1e-6
    differences = np.empty_like(theta)
    for index in np.ndindex(*theta.shape):
        step = np.zeros_like(theta)
        step[index] = h
        differences[index] = (loss(x, theta + step) - loss(x, theta - step)) / (2 * h)
    np.testing.assert_allclose(dtheta, differences, rtol=1e-5, atol=1e-6 * np.abs(dtheta).max())


@pytest.mark.parametrize("normalize", [True, False])
def test_at_pixel_edges_the_derivative_is_that_of_the_growing_box(normalize, rng):
    x, g = _image_and_cotangent(rng)
    low = rng.integers(-5, 5, (3, 2, 2))
    high = low + rng.integers(1, 6, low.shape)
    theta = np.stack([low, high], axis=-1).reshape(3, 2, 4) - 0.5
    _, dtheta = oracle.backward(x, theta, g, normalize=normalize)

    def loss(theta):
        return np.sum(g * oracle.forward(x, theta, normalize=normalize))

    h = 1e-6
    differences = np.empty_like(theta)
    for index in np.ndindex(*theta.shape):
        outwards = (
            h if index[-1] % 2 else -h
        )  # As boxes grow, low bounds decrease and high bounds increase.
        step = np.zeros_like(theta)
        step[index] = outwards
        differences[index] = (loss(theta + step) - loss(theta)) / outwards
    np.testing.assert_allclose(dtheta, differences, rtol=1e-4, atol=1e-5 * np.abs(dtheta).max())


_INF, _NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("bounds", "integral", "mean"),
    [
        ((2.5, -1.5), -126, 31.5),  # Swapped.
        ((1.0, 1.0), 0, _NAN),
        ((-_INF, 0.5), 55, 0),
        ((_INF, 0.5), -(36 + 49 + 64 + 81), 0),
        ((-1.5, _NAN), _NAN, _NAN),
        ((-1e-30, 1e-30), 25 * 2e-30, 25),
    ],
)
def test_boxes_that_are_not_valid(bounds, integral, mean):
    theta = _column_box(*bounds)
    for normalize, expected in ((False, integral), (True, mean)):
        result = oracle.forward(SQUARES, theta, normalize=normalize)[0, 0, 0, 4, 0]
        np.testing.assert_allclose(result, expected, rtol=1e-14)
        _, dtheta = oracle.backward(SQUARES, theta, MIDDLE, normalize=normalize)
        if np.isnan(expected):
            assert np.isnan(dtheta).all()
        elif normalize and np.isinf(bounds).any():
            assert not dtheta.any()


def test_pixels_that_are_not_finite_are_part_of_what_reaches_them():
    x = np.array([_INF, 1.0, _NAN, 2.0, 3.0, -_INF, _INF]).reshape(1, 1, 1, 7)
    theta = np.array([[[-0.5, 1.5, -0.5, 0.5]]])
    output = oracle.forward(x, theta)[0, 0, 0, 0]
    np.testing.assert_array_equal(output, [_INF, _NAN, _NAN, 2.5, -_INF, _NAN, _INF])
    dx, dtheta = oracle.backward(x, theta, np.where(x == 3, _INF, 1.0)[:, :, None])
    np.testing.assert_array_equal(dx[0, 0, 0], [0.5, 1, 1, 1, _INF, _INF, 1])
    assert np.isnan(dtheta).all()
