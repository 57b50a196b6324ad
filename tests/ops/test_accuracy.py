"""Outputs and gradients of every form, against the float64 oracle."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

import jaxbox
from tests.cases.box_conv import (
    FORMS,
    boxes_of_all_kinds,
    image_sizes,
    images,
    relative_error,
    to_channels_last,
)
from tests.oracles import box_conv as reference

# Largest error, relative to the largest magnitude of the same array.
BOUNDS = {"forward": 2e-6, "dx": 5e-6, "dtheta": 2e-5}

N, C, F = 2, 6, 8
EXAMPLES = 43  # Each with C * F boxes: more than 2,000 of them.

_seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_shapes():
    # A process holds about 400 of them before Linux denies it more memory mappings.
    yield
    jax.clear_caches()


@functools.partial(jax.jit, static_argnames=("form", "normalize"))
def _form(x, theta, g, *, form, normalize):
    return form.forward(x, theta, normalize=normalize), *form.backward(
        x, theta, g, normalize=normalize
    )


@functools.partial(jax.jit, static_argnames="normalize")
def _op(x, theta, g, *, normalize):
    output, pull_back = jax.vjp(
        functools.partial(jaxbox.box_conv, normalize=normalize),
        x,
        theta,
    )
    return output, *pull_back(g)


def _arguments(size, seed):
    rng = np.random.default_rng(seed)
    x = images(rng, (N, C, *size))
    theta = boxes_of_all_kinds(rng, (C, F), size)
    g = rng.normal(size=(N, C, F, *size)).astype(np.float32)
    return x, theta, g


def _check(results, expected, *, planes):
    for (name, bound), result, exact in zip(BOUNDS.items(), results, expected, strict=True):
        error = relative_error(result, exact)
        assert error <= bound, f"{name}: {error:.1e}"
    output, dx, dtheta = expected
    # What no box reaches is exactly zero: (N, C, F), (N, C) and (C, F).
    for result, unreached in zip(
        results,
        [_all_zero(output, planes), _all_zero(dx, planes), _all_zero(dtheta, -1)],
        strict=True,
    ):
        assert not np.asarray(result)[unreached].any()


def _all_zero(array, axes):
    return np.broadcast_to(~array.any(axes, keepdims=True), array.shape)


def _check_form(form, size, seed, normalize):
    x, theta, g = _arguments(size, seed)
    expected = (
        reference.forward(x, theta, normalize=normalize),
        *reference.backward(x, theta, g, normalize=normalize),
    )
    results = _form(x, theta, g, form=FORMS[form], normalize=normalize)
    _check(results, expected, planes=(-1, -2))


def _check_op(size, seed, normalize):
    x, theta, g = _arguments(size, seed)
    output = reference.forward(x, theta, normalize=normalize)
    dx, dtheta = reference.backward(x, theta, g, normalize=normalize)
    expected = to_channels_last(output), to_channels_last(dx), dtheta
    results = _op(to_channels_last(x), theta, to_channels_last(g), normalize=normalize)
    _check(results, expected, planes=(1, 2))


@pytest.mark.parametrize("form", FORMS)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(size=image_sizes, seed=_seeds, normalize=st.booleans())
def test_forms(form, size, seed, normalize):
    _check_form(form, size, seed, normalize)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@hypothesis.settings(max_examples=2000, deadline=None)
@hypothesis.given(size=image_sizes, seed=_seeds, normalize=st.booleans())
def test_forms_at_length(form, size, seed, normalize):
    _check_form(form, size, seed, normalize)
    jax.clear_caches()


@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(size=image_sizes, seed=_seeds, normalize=st.booleans())
def test_op(size, seed, normalize):
    _check_op(size, seed, normalize)


@pytest.mark.parametrize(
    ("size", "normalize"),
    [((64, 128), True), ((71, 251), True), ((1, 330), True), ((200, 130), False)],
)
def test_op_on_larger_images(size, normalize):
    _check_op(size, np.random.SeedSequence().entropy, normalize)


def test_small_boxes_on_a_large_map():
    rng = np.random.default_rng()
    x = rng.uniform(0, 2, (1, 1, 512, 1024)).astype(np.float32)
    centre, length = rng.uniform(-4, 4, (1, 8, 2)), rng.uniform(1, 3, (1, 8, 2))
    sides = np.stack([centre - length / 2, centre + length / 2], axis=-1)
    theta = sides.reshape(1, 8, 4).astype(np.float32)
    output = jaxbox.box_conv(to_channels_last(x), theta)
    expected = to_channels_last(reference.forward(x, theta))
    assert np.abs(output - expected).max() <= 3e-5
