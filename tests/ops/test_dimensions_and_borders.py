"""One to three dimensions, every border and strides, on every backend, against the oracle."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import jaxbox
from tests.cases.box_conv import BOUNDS, boxes_off_edges
from tests.oracles import box_axes as oracle

C, F = 2, 2
BACKENDS = [
    name for name, missing in jaxbox.backends().items() if missing is None and name != "mosaic_gpu"
]
PADDINGS = ("zeros", "edge", "partial")


@st.composite
def _problems(draw):
    rank = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 23 if rank < 3 else 7)) for _ in range(rank))
    padding = draw(st.sampled_from(PADDINGS))
    return {
        "size": size,
        "strides": tuple(draw(st.integers(1, 4)) for _ in range(rank)),
        "padding": padding,
        "normalize": padding == "partial" or draw(st.booleans()),
        "channels_first": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def _draw_boxes(rng, size):
    """Boxes of any place and size, with no bound near a pixel edge: `(C, F, 2 * rank)`."""
    pairs = [boxes_off_edges(rng, (C, F), (pixels, pixels))[..., :2] for pixels in reversed(size)]
    return np.concatenate(pairs, axis=-1)


def _structured(rng, shape):
    """An image with steps, a dark half and zeros."""
    x = np.cumsum(rng.normal(size=shape), axis=-1)
    x[..., : shape[-1] // 2] *= 1e-3
    x[..., -1:] = 0
    return x.astype(np.float32)


def _op(x, theta, problem, implementation):
    """Filters `(N, C, *S)`; returns `(N, C, F, *outputs)`."""
    rank = len(problem["size"])
    axis = -rank - 1 if problem["channels_first"] else -1
    options = {name: problem[name] for name in ("strides", "padding", "normalize")}
    y = jaxbox.box_conv(
        jnp.moveaxis(x, 1, axis),
        theta,
        channel_axis=axis,
        implementation=implementation,
        **options,
    )
    y = jnp.moveaxis(y, axis, 1)
    return y.reshape(y.shape[0], C, F, *y.shape[2:])


@functools.partial(jax.jit, static_argnames=("op",))
def _with_gradients(x, theta, g, op):
    output, pull_back = jax.vjp(op, x, theta)
    return output, *pull_back(g.astype(output.dtype))


def _check(problem, implementation):
    rng = np.random.default_rng(problem["seed"])
    x, theta = _structured(rng, (2, C, *problem["size"])), _draw_boxes(rng, problem["size"])
    options = {name: problem[name] for name in ("strides", "padding", "normalize")}
    output = oracle.forward(x, theta, **options)
    g = _structured(rng, output.shape)
    expected = {"forward": output}
    expected["dx"], expected["dtheta"] = oracle.backward(x, theta, g, **options)
    op = functools.partial(_op, problem=problem, implementation=implementation)
    actual = jax.jit(lambda *a: _with_gradients(*a, op=op))(x, theta, g)
    for (name, reference), result in zip(expected.items(), actual, strict=True):
        assert result.shape == reference.shape
        scale = np.abs(reference).max()
        if name == "dtheta":
            # A gradient may cancel; its terms are of this size.
            scale = max(scale, np.abs(x).max() * np.abs(g).max())
        if name == "forward" and problem["normalize"]:
            scale = np.abs(x).max()
        np.testing.assert_allclose(result, reference, rtol=0, atol=2 * BOUNDS[name] * scale + 1e-30)


@given(problem=_problems())
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("implementation", BACKENDS)
def test_any_problem(implementation, problem):
    _check(problem, implementation)


@pytest.mark.slow
@given(problem=_problems())
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("implementation", BACKENDS)
def test_many_problems(implementation, problem):
    _check(problem, implementation)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_strides_of_large_planes(implementation, rng):
    """Sizes at which XLA takes integral images, and boxes on pixel edges and of whole pixels."""
    x = _structured(rng, (1, C, 37, 131))
    theta = np.round(rng.uniform(-20, 20, (C, F, 2, 1)) * 2) / 2 + np.array([0, 5.5])
    theta = theta.reshape(C, F, 4).astype(np.float32)
    for whole_pixels in (False, True):
        boxes = np.asarray(jaxbox.boxes.round_to_pixels(theta)) if whole_pixels else theta
        for strides in ((2, 3), (1, 4), (5, 1)):
            expected = oracle.forward(x, boxes, strides=strides)
            actual = jaxbox.box_conv(
                x,
                theta,
                strides=strides,
                whole_pixels=whole_pixels,
                channel_axis=-3,
                implementation=implementation,
            )
            error = np.abs(np.asarray(actual) - expected.reshape(actual.shape)).max()
            assert error <= BOUNDS["forward"] * np.abs(x).max()


@pytest.mark.parametrize("implementation", BACKENDS)
def test_a_nan_between_outputs_reaches_no_gradient(implementation, rng):
    x = rng.normal(size=(7, 9, 1)).astype(np.float32)
    theta = np.array([[[-0.3, 0.2, -0.4, 0.3], [-0.3, 1.2, -0.4, 0.3]]], np.float32)
    spoilt = x.copy()
    spoilt[2, 3] = np.nan  # The second box touches it from the output at (2, 2).

    def gradients(x):
        op = functools.partial(jaxbox.box_conv, strides=2, implementation=implementation)
        return jax.grad(lambda x, theta: op(x, theta).sum(), (0, 1))(x, theta)

    (clean_dx, clean_dtheta), (dx, dtheta) = gradients(x), gradients(spoilt)
    np.testing.assert_array_equal(dx, clean_dx)
    np.testing.assert_array_equal(dtheta[0, 0], clean_dtheta[0, 0])
    assert np.isnan(dtheta[0, 1]).all()


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_constant_image_stays_constant_with_borders_that_say_so(padding):
    theta = jnp.array([[[-3.5, 2.2, -1.0, 4.0], [-0.5, 0.5, -9.0, 0.0]]])
    output = jaxbox.box_conv(jnp.full((6, 7, 1), 3.0), theta, padding=padding)
    constant = padding != "zeros"
    assert bool(jnp.allclose(output, 3.0, rtol=1e-6)) == constant


@pytest.mark.parametrize("padding", PADDINGS)
def test_what_is_not_finite_reaches_the_outputs_that_contain_it(padding):
    """A NaN at a corner is beyond it too where the border goes on, and nowhere else."""
    x = jnp.ones((1, 4, 5)).at[0, 0, 0].set(jnp.nan)
    theta = jnp.array([[[-1.5, 0.5, -1.5, 0.5]]])  # This pixel, and those left of and above it.
    nan = np.isnan(jaxbox.box_conv(x, theta, padding=padding, channel_axis=-3)[0])
    expected = np.zeros((4, 5), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(nan, expected)
    gradient = jax.grad(
        lambda x: jnp.sum(jaxbox.box_conv(x, theta, padding=padding, channel_axis=-3)[0, 2:, 2:])
    )(x)
    assert np.isfinite(gradient).all()


def test_boxes_beyond_the_image_have_finite_gradients():
    theta = jnp.array([[[30.0, 34.0, 0.0, 1.0], [-1.0, 1.0, -50.0, -40.0]]])
    x = jnp.arange(12.0).reshape(3, 4, 1)
    for padding in PADDINGS:
        output, gradients = jax.value_and_grad(
            lambda x, theta, padding=padding: jnp.sum(jaxbox.box_conv(x, theta, padding=padding)),
            (0, 1),
        )(x, theta)
        assert all(np.isfinite(each).all() for each in jax.tree.leaves((output, gradients)))
        assert (output == 0) == (padding != "edge")


def test_bfloat16_is_rounded_once(rng):
    x = jnp.asarray(_structured(rng, (1, C, 9, 12)), jnp.bfloat16)
    theta = _draw_boxes(rng, (9, 12))
    for padding in PADDINGS:
        output = jaxbox.box_conv(x, theta, padding=padding, channel_axis=-3)
        expected = oracle.forward(np.asarray(x, np.float64), theta, strides=(1, 1), padding=padding)
        expected = expected.reshape(output.shape)
        assert output.dtype == jnp.bfloat16
        error = np.abs(np.asarray(output, np.float64) - expected)
        assert (error <= 2.0**-8 * np.abs(expected) + 1e-6 * np.abs(expected).max()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 0}, "strides must be 2 positive sizes, got 0"),
        ({"strides": (1, 2, 3)}, "strides must be 2 positive sizes"),
        ({"padding": "reflect"}, "padding"),
        ({"padding": "partial", "normalize": False}, "padding='partial' is a way to normalize"),
        ({"channel_axis": -2}, "channel_axis must be -1 or -3"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        jaxbox.box_conv(jnp.ones((4, 5, 1)), jnp.zeros((1, 1, 4)), **options)


@pytest.mark.parametrize(
    ("shape", "boxes", "message"),
    [
        ((4, 5), (1, 1, 6), "x must be .*D, H, W, C.* boxes of 6 bounds"),
        ((5,), (1, 1, 2), "x must be .*L, C.* boxes of 2 bounds"),
        ((5, 0), (1, 1, 2), "L and C of x must be at least 1"),
        ((5, 1), (1, 1, 3), "theta must be"),
        ((5, 3), (1, 1, 2), "theta must have boxes for each of x's 3 channels"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shape, boxes, message):
    with pytest.raises(ValueError, match=message):
        jaxbox.box_conv(jnp.ones(shape), jnp.zeros(boxes))


def test_a_backend_without_strides_says_so():
    with pytest.raises(ValueError, match=r"mosaic_gpu.* cannot serve"):
        jaxbox.box_conv(
            jnp.ones((4, 5, 1)), jnp.ones((1, 1, 4)), strides=2, implementation="mosaic_gpu"
        )
