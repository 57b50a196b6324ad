"""Boxes as data: what `sample`, `project`, `round_to_pixels` and `area` promise."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox import boxes

WINDOW = (24.0, 40.0)

# Edges of the window, of boxes of the minimum size there, and numbers that rounding is unkind to.
_SPECIAL = [0.0, -0.0, 0.1, 0.5, 1.0, 3.3, 23.0, 23.1, 24.0, 39.0, 39.3, 40.0, 1e-10, 1e6, 1e30]
_coordinates = st.one_of(
    st.sampled_from([sign * value for value in _SPECIAL for sign in (1, -1)]),
    st.floats(-50, 50, width=32, allow_subnormal=False),
    st.floats(allow_nan=False, allow_infinity=False, width=32, allow_subnormal=False).filter(
        lambda value: abs(value) < 1e38
    ),
)
# One shape, so that nothing is compiled twice.
_thetas = hypothesis.extra.numpy.arrays(np.float32, (8, 4), elements=_coordinates)
_fast = hypothesis.settings(max_examples=100, deadline=None)

_project = jax.jit(boxes.project, static_argnums=1)
_round_to_pixels = jax.jit(boxes.round_to_pixels)


def _edges(theta):
    """Lower and upper edges in float64, where the difference of float32 numbers is exact."""
    theta = np.asarray(theta, np.float64)
    return theta[..., 0::2], theta[..., 1::2]


def _limits(window=WINDOW):
    return np.array([window[1], window[0]])


def _same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a).view(np.int32), np.asarray(b).view(np.int32))


@_fast
@hypothesis.given(_thetas)
def test_projected_boxes_are_valid(theta):
    low, high = _edges(_project(theta, WINDOW))
    assert (np.float32(high - low) >= 1).all()
    assert (low >= -_limits()).all()
    assert (high <= _limits()).all()


@_fast
@hypothesis.given(_thetas)
def test_projection_is_idempotent_to_the_bit(theta):
    for window in (WINDOW, None):
        once = _project(theta, window)
        _same_bits(_project(once, window), once)


@_fast
@hypothesis.given(_thetas)
def test_valid_boxes_are_unchanged_to_the_bit(theta):
    low, high = _edges(theta)
    valid = (np.float32(high - low) >= 1) & (low >= -_limits()) & (high <= _limits())
    projected = np.asarray(_project(theta, WINDOW)).reshape(-1, 2, 2)
    _same_bits(projected[valid], theta.reshape(-1, 2, 2)[valid])


@_fast
@hypothesis.given(_thetas)
def test_midpoint_is_kept_away_from_the_border(theta):
    low, high = _edges(theta)
    middle = (low + high) / 2
    short = high - low < 1
    for window, inside in ((None, True), (WINDOW, np.abs(middle) + 0.5 <= _limits() - 1e-5)):
        new_low, new_high = _edges(_project(theta, window))
        error = np.abs((new_low + new_high) / 2 - middle)
        tolerance = 3e-7 * np.maximum(np.abs(middle), 1)
        assert (error <= tolerance)[short & inside].all()
        growth = new_high - new_low - 1
        assert (np.abs(growth) <= tolerance)[short & inside].all()


def test_compiled_and_not_agree_to_the_bit(rng):
    theta = rng.uniform(-60, 60, (2000, 4)).astype(np.float32)
    for window in (WINDOW, None):
        _same_bits(_project(theta, window), boxes.project(theta, window))


def test_projection_is_the_nearest_valid_box(rng):
    points = rng.uniform(-60, 60, (200, 4)).astype(np.float32)
    projected = np.asarray(boxes.project(points, WINDOW), np.float64)
    candidates = np.asarray(
        boxes.project(rng.uniform(-60, 60, (500, 4)).astype(np.float32), WINDOW)
    )
    # A point of a convex set is nearest to `point` if no other lies beyond its tangent plane.
    products = np.einsum("pi,pci->pc", points - projected, candidates - projected[:, None])
    assert products.max() <= 1e-2


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((20, 30, 0, 1), (7, 8, 0, 1)),  # Beyond the border on both sides of its minimum size.
        ((-30, -20, 0, 1), (-8, -7, 0, 1)),
        ((7.5, 7.5, 0, 1), (7, 8, 0, 1)),
        ((-100, 100, -100, 100), (-8, 8, -4, 4)),
        ((5, 3, 3, -3), (3.5, 4.5, -0.5, 0.5)),  # Inverted.
        ((7, 8, -4, -3), (7, 8, -4, -3)),
        ((np.inf, np.inf, -np.inf, np.inf), (7, 8, -4, 4)),
    ],
)
def test_projection_by_hand(box, expected):
    theta = jnp.array(box, jnp.float32)
    assert boxes.project(theta, (4, 8)).tolist() == list(expected)


@pytest.mark.parametrize("window", [(0.5, 0.5), (0.7, 1.0), (1.0, 1.3), (3.3, 1e4)])
@pytest.mark.parametrize("min_size", [0.1, 0.3, 1.0])
def test_tight_windows(window, min_size, rng):
    theta = rng.uniform(-2, 2, (1000, 4)).astype(np.float32)
    once = boxes.project(theta, window, min_size=min_size)
    _same_bits(boxes.project(once, window, min_size=min_size), once)
    low, high = np.asarray(once)[:, 0::2], np.asarray(once)[:, 1::2]
    assert (high - low >= np.float32(min_size)).all()
    assert (np.maximum(np.abs(low), np.abs(high)) <= np.float32(_limits(window))).all()


def test_a_tiny_window_leaves_one_box():
    theta = jnp.array([1e-9, 1.0, -5.0, 3.0])
    assert boxes.project(theta, (0.5, 0.5)).tolist() == [-0.5, 0.5, -0.5, 0.5]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_dtypes_stay_valid(dtype):
    theta = jax.random.uniform(jax.random.key(0), (1000, 4), dtype, -100, 100)
    once = boxes.project(theta, (24, 40))
    assert once.dtype == dtype
    assert (boxes.project(once, (24, 40)) == once).all()
    low, high = _edges(once)
    assert (high - low >= 1).all()
    assert (np.maximum(-low, high) <= _limits()).all()


@pytest.mark.parametrize("window", [None, WINDOW])
def test_gradients_of_projected_boxes(window):
    """A box that is valid moves freely, one that is too short by its middle alone."""
    theta = jnp.array([[-3.0, 2.0, -4.0, 4.0], [1.0, 1.25, 0.5, -0.5]])
    factors = jnp.array([[1.0, 3.0, 5.0, 11.0]] * 2)
    gradient = jax.grad(lambda theta: jnp.vdot(boxes.project(theta, window), factors))(theta)
    assert gradient.tolist() == [[1, 3, 5, 11], [2, 2, 8, 8]]


def test_nans_are_not_hidden():
    theta = jnp.array([jnp.nan, jnp.nan, 0.0, 1.0])
    projected = boxes.project(theta, WINDOW)
    assert jnp.isnan(projected[:2]).all()
    assert projected[2:].tolist() == [0.0, 1.0]


def test_leading_axes_and_numpy_arrays():
    theta = np.zeros((2, 3, 5, 4), np.float32)
    assert boxes.project(theta).shape == theta.shape
    assert boxes.project(theta[0, 0, 0]).tolist() == [-0.5, 0.5, -0.5, 0.5]
    assert boxes.area(theta).shape == (2, 3, 5)
    assert boxes.project(theta[:0]).shape == (0, 3, 5, 4)


@pytest.mark.parametrize("window", [(24, 40), (1, 1), (1.0, 3.3), (512, 1024)])
def test_samples_lie_in_the_window_and_are_valid(window):
    theta = boxes.sample(jax.random.key(0), (50, 40), window)
    assert theta.shape == (50, 40, 4)
    low, high = _edges(theta)
    half = np.float32(_limits(window)) / 2
    assert (low >= -half).all()
    assert (high <= half).all()
    assert (np.float32(high - low) >= 1).all()
    _same_bits(boxes.project(theta, window), theta)


def test_samples_have_the_papers_distribution():
    low, high = _edges(boxes.sample(jax.random.key(0), (40_000,), (25, 41)))
    centre, size = (low + high) / 2, high - low
    spread = (_limits((25, 41)) - 1) / 2
    unit_centre = (centre / spread + 1) / 2
    unit_size = (size - 1) / (2 * (spread - np.abs(centre)))
    for uniform in (unit_centre, unit_size):
        for axis in range(2):
            sample = np.sort(uniform[:, axis])
            # Kolmogorov-Smirnov; 0.02 is four times the expected distance.
            assert np.abs(sample - np.linspace(0, 1, len(sample))).max() < 0.02
    correlation = np.corrcoef(np.concatenate([unit_centre, unit_size], axis=1).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.03


def test_samples_depend_on_the_key_and_jit():
    draw = jax.jit(boxes.sample, static_argnums=(1, 2))
    a, b = (boxes.sample(jax.random.key(seed), (3, 2), WINDOW) for seed in range(2))
    assert (a != b).all()
    np.testing.assert_allclose(draw(jax.random.key(0), (3, 2), WINDOW), a, rtol=1e-6, atol=1e-6)
    assert boxes.sample(jax.random.key(0), (3,), WINDOW, jnp.bfloat16).dtype == jnp.bfloat16


@_fast
@hypothesis.given(
    hypothesis.extra.numpy.arrays(
        np.float32,
        (8, 4),
        elements=st.one_of(
            st.sampled_from([-1.0, -1e-10, 0.0, 1e-10, 1.0, 0.5, -0.5, 3.0]),
            st.floats(-1000, 1000, width=32, allow_subnormal=False),
        ),
    )
)
def test_rounded_boxes_are_the_nearest_whole_pixels(theta):
    rounded_low, rounded_high = _edges(_round_to_pixels(theta))
    for edge in (rounded_low, rounded_high):
        assert (edge % 1 == 0.5).all()
    assert (rounded_high - rounded_low >= 1).all()
    low, high = _edges(_project(theta, None))
    assert (np.abs(rounded_low - low) <= 0.5).all()
    assert (np.abs(rounded_high - high) <= 0.5 + 1e-6).all()


def test_whole_pixel_boxes_round_to_themselves(rng):
    theta = rng.integers(-20, 0, (100, 4)).astype(np.float32) + 0.5
    theta[:, 1::2] = theta[:, 0::2] + rng.integers(1, 20, (100, 2))
    assert (boxes.round_to_pixels(theta) == theta).all()
    # A shift by half a pixel is a tie; it keeps the size.
    assert (boxes.area(boxes.round_to_pixels(theta - 0.5)) == boxes.area(theta)).all()


def test_area():
    assert boxes.area(jnp.array([[-1.5, 0.5, 0.0, 4.0], [0.0, 1.0, 0.0, 1.0]])).tolist() == [8, 1]


@pytest.mark.parametrize("function", [boxes.project, boxes.round_to_pixels, boxes.area])
def test_bad_theta(function):
    with pytest.raises(TypeError, match="theta must be of a real floating dtype, got int32"):
        function(jnp.zeros((3, 4), jnp.int32))
    for shape in ((3, 5), (4, 1), ()):
        with pytest.raises(ValueError, match="theta must end in an axis of 4"):
            function(jnp.zeros(shape))


@pytest.mark.parametrize("window", [(), (1, 2, 3, 4), (0, 4), (4, -1), (np.nan, 2), (np.inf, 2)])
def test_bad_windows(window):
    for function in (
        boxes.check_window,
        boxes.initializer,
        lambda window: boxes.project(jnp.zeros(4), window),
        lambda window: boxes.sample(jax.random.key(0), (2,), window),
    ):
        with pytest.raises(ValueError, match="window must be two positive finite numbers"):
            function(window)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match="at least one pixel"):
        boxes.sample(jax.random.key(0), (2,), (0.9, 4))
    with pytest.raises(TypeError, match="dtype must be floating"):
        boxes.sample(jax.random.key(0), (2,), (8, 8), jnp.int32)
    with pytest.raises(ValueError, match="shape must end in an axis of 4"):
        boxes.initializer((8, 8))(jax.random.key(0), (2, 3), jnp.float32)
    for min_size in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="min_size must be positive"):
            boxes.project(jnp.zeros(4), min_size=min_size)
    with pytest.raises(ValueError, match="min_size must fit"):
        boxes.project(jnp.zeros(4), (8, 0.4))


@pytest.mark.parametrize("window", [(9,), (6, 8), (4, 6, 8)])
def test_boxes_of_signals_and_volumes_are_drawn_projected_and_rounded(window, rng):
    rank = len(window)
    theta = boxes.sample(jax.random.key(0), (5, 3), window)
    assert theta.shape == (5, 3, 2 * rank)
    np.testing.assert_array_equal(boxes.project(theta, window), theta)
    wild = jnp.asarray(rng.normal(0, 20, (50, 2 * rank)), jnp.float32)
    low, high = (np.asarray(boxes.project(wild, window))[:, part::2] for part in (0, 1))
    # The last axis of the window is the first of a box.
    limits = np.array(window[::-1])
    assert (low >= -limits).all()
    assert (high <= limits).all()
    assert (high - low >= 1).all()
    rounded = np.asarray(boxes.round_to_pixels(wild))
    np.testing.assert_array_equal(rounded % 1, 0.5)
    np.testing.assert_allclose(
        boxes.area(jnp.asarray(rounded)), np.prod(rounded[:, 1::2] - rounded[:, ::2], axis=-1)
    )


def test_boxes_that_do_not_fit_a_window_are_refused():
    with pytest.raises(ValueError, match=r"must end in an axis of 2 \(x_min, x_max\)"):
        boxes.project(jnp.zeros(4), (9,))
    with pytest.raises(ValueError, match="shape must end in an axis of 6"):
        boxes.initializer((4, 6, 8))(jax.random.key(0), (3, 2, 4))
    with pytest.raises(ValueError, match="window must be two positive finite numbers"):
        boxes.check_window((1, 2, 3, 4))
