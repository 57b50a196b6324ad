"""The interface of `jaxbox.box_conv`: shapes, dtypes, the order of channels, bad arguments."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from jaxbox import boxes
from jaxbox_kernels import registry
from tests.cases.box_conv import IMAGE_SIZES, boxes_of_all_kinds, images, to_channels_last
from tests.oracles import box_conv as oracle

both_forms = pytest.mark.parametrize("form", IMAGE_SIZES)


def _case(rng, size, batch=(2,), channels=3, number=2):
    x = images(rng, (*batch, *size, channels))
    return x, boxes_of_all_kinds(rng, (channels, number), size)


def _oracle(x, theta, **kwargs):
    """The oracle's output with channels last."""
    planes = np.moveaxis(np.reshape(np.asarray(x, np.float64), (-1, *x.shape[-3:])), -1, 1)
    output = to_channels_last(oracle.forward(planes, theta, **kwargs))
    return output.reshape(*x.shape[:-1], -1)


def _assert_close(actual, expected, tolerance=2e-6):
    assert actual.shape == expected.shape
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=atol)


@both_forms
@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3), (0,)])
def test_any_number_of_batch_axes(form, batch, rng):
    x, theta = _case(rng, IMAGE_SIZES[form], batch)
    output = jaxbox.box_conv(x, theta)
    assert output.shape == (*batch, *IMAGE_SIZES[form], 6)
    if 0 not in batch:
        _assert_close(output, _oracle(x, theta))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (1, 200), (200, 1)])
def test_single_rows_columns_and_channels(size, rng):
    x, theta = _case(rng, size, (), channels=1, number=1)
    assert jaxbox.box_conv(x, theta).shape == (*size, 1)
    _assert_close(jaxbox.box_conv(x, theta), _oracle(x, theta))


@both_forms
def test_box_f_of_channel_c_is_output_channel_c_times_boxes_plus_f(form, rng):
    x, theta = _case(rng, IMAGE_SIZES[form], channels=3, number=4)
    output = jaxbox.box_conv(x, theta)
    for c, f in np.ndindex(3, 4):
        alone = _oracle(x[..., c : c + 1], theta[c : c + 1, f : f + 1])
        np.testing.assert_allclose(output[..., c * 4 + f], alone[..., 0], rtol=1e-4, atol=1e-5)


@both_forms
def test_without_normalize_it_integrates(form, rng):
    x, theta = _case(rng, IMAGE_SIZES[form])
    _assert_close(jaxbox.box_conv(x, theta, normalize=False), _oracle(x, theta, normalize=False))


@both_forms
def test_a_box_over_everything(form, rng):
    height, width = IMAGE_SIZES[form]
    x, _ = _case(rng, (height, width), channels=1)
    theta = jnp.array([[[-500.0, 1000.0, -300.0, 300.0]]])
    totals = np.sum(x, axis=(1, 2), dtype=np.float64)[:, None, None]
    for normalize, area in ((False, 1), (True, 1500 * 600)):
        expected = np.broadcast_to(totals / area, x.shape)
        _assert_close(jaxbox.box_conv(x, theta, normalize=normalize), expected, 1e-5)


@both_forms
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_only_in_the_input_and_the_result(form, dtype, rng):
    x, theta = _case(rng, IMAGE_SIZES[form])
    x = jnp.asarray(x, dtype)
    output = jaxbox.box_conv(x, theta)
    assert output.dtype == dtype
    # Rounding the result costs half a unit in the last place.
    _assert_close(output, _oracle(x, theta), 0.51 * float(jnp.finfo(dtype).eps))

    def loss(x, theta):
        return jnp.sum(jaxbox.box_conv(x, theta).astype(jnp.float32))

    dx, dtheta = jax.grad(loss, (0, 1))(x, jnp.asarray(theta))
    assert (dx.dtype, dtheta.dtype) == (dtype, jnp.float32)


@both_forms
def test_half_precision_boxes(form, rng):
    x, theta = _case(rng, IMAGE_SIZES[form])
    theta = jnp.asarray(theta, jnp.bfloat16)
    output = jaxbox.box_conv(x, theta)
    assert output.dtype == jnp.float32
    np.testing.assert_array_equal(output, jaxbox.box_conv(x, theta.astype(jnp.float32)))


@both_forms
def test_double_precision(form, rng):
    x, theta = _case(rng, IMAGE_SIZES[form])
    with jax.enable_x64(True):
        output = jaxbox.box_conv(x.astype(np.float64), theta)
        assert output.dtype == jnp.float64
        # Integral images keep the bits of a float64 that the sum of all pixels leaves.
        bound = 1e-14 if form == "overlap_matrices" else 2.0**-52 * x.shape[-3] * x.shape[-2]
        _assert_close(output, _oracle(x, theta), bound)


def test_anything_that_becomes_an_array():
    output = jaxbox.box_conv([[[1.0], [3.0]]], [[[-0.5, 1.5, -0.5, 0.5]]])
    np.testing.assert_allclose(output, [[[2.0], [1.5]]], rtol=1e-6)


def test_the_implementation_by_name(rng):
    x, theta = _case(rng, (5, 7))
    np.testing.assert_array_equal(
        jaxbox.box_conv(x, theta, implementation="xla"),
        jaxbox.box_conv(x, theta, implementation=None),
    )


@both_forms
@pytest.mark.parametrize("normalize", [True, False])
def test_the_gradient_with_respect_to_x_is_the_adjoint(form, normalize, rng):
    x, theta = _case(rng, IMAGE_SIZES[form])
    output, pull_back = jax.vjp(lambda x: jaxbox.box_conv(x, theta, normalize=normalize), x)
    g = rng.normal(size=output.shape).astype(np.float32)
    (dx,) = pull_back(g)
    terms = np.asarray(output, np.float64) * g
    expected = np.sum(np.asarray(dx, np.float64) * x)
    np.testing.assert_allclose(terms.sum(), expected, atol=1e-5 * np.abs(terms).sum())


@both_forms
def test_a_bound_on_an_edge_sees_the_pixel_outside_the_box(form):
    # Two bright pixels beside a dark one; the box of the dark one touches them.
    height, width = IMAGE_SIZES[form]
    x = jnp.zeros((height, width, 1)).at[1, 1].set(1.0).at[1, 3].set(1.0)
    theta = jnp.array([[[-0.5, 0.5, -0.5, 0.5]]])

    def middle(theta):
        return jaxbox.box_conv(x, theta, normalize=False)[1, 2, 0]

    np.testing.assert_allclose(jax.grad(middle)(theta), [[[-1, 1, 0, 0]]], atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [(7, 11), (3, 330)])
def test_whole_pixels_give_what_rounded_boxes_give(size, normalize, rng):
    x, theta = _case(rng, size, channels=4, number=8)
    output = jaxbox.box_conv(x, theta, normalize=normalize, whole_pixels=True)
    rounded = boxes.round_to_pixels(theta)
    exact = jaxbox.box_conv(x, rounded, normalize=normalize)
    _assert_close(output, np.asarray(exact, np.float64), 4e-6)


@both_forms
def test_gradients_on_whole_pixels(form, rng):
    """That of boxes is 0, as that of rounding is; short ones are moved by `project` first."""
    x, theta = _case(rng, IMAGE_SIZES[form], channels=1)
    theta[0, 0, 1] = theta[0, 0, 0] + 0.25

    def loss(x, theta):
        return jnp.vdot(jaxbox.box_conv(x, theta, whole_pixels=True), g)

    g = rng.normal(size=(*x.shape[:-1], 2)).astype(np.float32)
    dx, dtheta = jax.grad(loss, (0, 1))(jnp.asarray(x), jnp.asarray(theta))
    rounded = np.asarray(boxes.round_to_pixels(theta), np.float64)
    planes, of_boxes = (np.moveaxis(a, -1, 1) for a in (x, g))
    expected, _ = oracle.backward(planes, rounded, of_boxes[:, None])
    _assert_close(dx, np.moveaxis(expected, 1, -1), 5e-6)
    assert not np.any(dtheta)


_X = np.zeros((2, 5, 7, 3), np.float32)
_THETA = np.zeros((3, 2, 4), np.float32)


@pytest.mark.parametrize(
    ("x", "theta", "message"),
    [
        (_X.astype(np.int32), _THETA, "x must be of a real floating dtype, got int32"),
        (_X.astype(np.complex64), _THETA, "x must be of a real floating dtype, got complex64"),
        (_X, _THETA.astype(np.int32), "theta must be of a real floating dtype, got int32"),
    ],
)
def test_bad_dtypes(x, theta, message):
    with pytest.raises(TypeError, match=message):
        jaxbox.box_conv(x, theta)


@pytest.mark.parametrize(
    ("x_shape", "theta_shape", "message"),
    [
        ((5, 7), (3, 2, 4), r"x must be \(\.\.\., H, W, C\) .*; got the shape \(5, 7\)"),
        ((2, 0, 7, 3), (3, 2, 4), r"H, W and C of x must be at least 1; .*\(2, 0, 7, 3\)"),
        ((2, 5, 0, 3), (3, 2, 4), r"H, W and C of x must be at least 1; .*\(2, 5, 0, 3\)"),
        ((2, 5, 7, 0), (0, 2, 4), r"H, W and C of x must be at least 1; .*\(2, 5, 7, 0\)"),
        ((5, 7, 3), (3, 4), r"theta must be \(C, F, 4\).*got the shape \(3, 4\)"),
        ((5, 7, 3), (3, 2, 1, 4), r"theta must be \(C, F, 4\).*got the shape \(3, 2, 1, 4\)"),
        ((5, 7, 3), (3, 4, 3), r"theta must be \(C, F, 4\).*got the shape \(3, 4, 3\)"),
        ((5, 7, 3), (3, 0, 4), r"theta must be .*F at least 1.*got the shape \(3, 0, 4\)"),
        ((5, 7, 3), (2, 2, 4), r"each of x's 3 channels .*; got boxes for 2"),
        ((5, 7, 3), (1, 2, 4), r"each of x's 3 channels .*; got boxes for 1"),
    ],
)
def test_bad_shapes(x_shape, theta_shape, message):
    with pytest.raises(ValueError, match=message):
        jaxbox.box_conv(np.zeros(x_shape, np.float32), np.zeros(theta_shape, np.float32))


def test_other_bad_arguments():
    for name in ("normalize", "whole_pixels"):
        for value in ("no", 1, None):
            with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}"):
                jaxbox.box_conv(_X, _THETA, **{name: value})
    with pytest.raises(ValueError, match=r"channel_axis must be -1 or -3; got -3\.0"):
        jaxbox.box_conv(_X, _THETA, channel_axis=-3.0)
    with pytest.raises(ValueError, match=r"implementation must be None or one of .*got \['xla'\]"):
        jaxbox.box_conv(_X, _THETA, implementation=["xla"])
    with pytest.raises(ValueError, match=r"implementation must be None or one of .*got 'abacus'"):
        jaxbox.box_conv(_X, _THETA, implementation="abacus")


def test_every_implementation_is_in_the_table():
    assert set(get_args(registry.Implementation)) == set(registry._TABLE)
