"""The suite that every backend has to pass: outputs and gradients against the float64 oracle."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from jaxbox import boxes
from jaxbox_kernels.backend import Options
from tests.cases.backends import BACKENDS, ON_CPU, run
from tests.cases.box_conv import (
    BOUNDS,
    arguments,
    assert_close,
    image_sizes,
    images,
)
from tests.oracles import box_conv as oracle

_GPU_ONLY = {"mosaic_gpu"}

_seeds = st.integers(0, 2**32 - 1)
on_cpu = pytest.mark.parametrize("name", ON_CPU)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_shapes():
    # A process holds about 400 of them before Linux denies it more memory mappings.
    yield
    jax.clear_caches()


def _params(name, tested):
    marks = [pytest.mark.gpu] if name in _GPU_ONLY else []
    for cases, more in ((tested.cases, []), (tested.slow, [pytest.mark.slow])):
        for case in cases:
            yield pytest.param(name, case, id=f"{name}-{case}", marks=marks + more)


@pytest.mark.parametrize(
    ("name", "case"),
    [param for name, tested in BACKENDS.items() for param in _params(name, tested)],
)
def test_outputs_and_gradients(name, case, rng):
    if name in _GPU_ONLY and jax.default_backend() != "gpu":
        pytest.skip("needs a GPU of compute capability 9 or 10")
    tested = BACKENDS[name]
    with tested.machine():
        for kind in case.kinds:
            for _ in range(tested.draws):
                _check(tested, case, kind, rng)


def _check(tested, case, kind, rng):
    x = images(rng, (case.batch, case.channels, *case.size))
    theta = kind(rng, (case.channels, case.boxes), case.size)
    g = rng.normal(size=(*x.shape[:2], case.boxes, *case.size)).astype(np.float32)
    options = case.options
    rounded = np.asarray(boxes.round_to_pixels(theta)) if options.whole_pixels else theta
    given = theta if tested.rounds else rounded
    results = run(x, given, g, backend=tested.backend, options=options)
    expected = _oracle(x, rounded, g, options)
    if options.whole_pixels:
        dtheta = results[-1]
        assert dtheta is None or not dtheta.any()
        results, expected = results[:-1], expected[:-1]
    _compare(results, expected)


def _oracle(x, theta, g, options):
    normalize = options.normalize
    return (
        oracle.forward(x, theta, normalize=normalize),
        *oracle.backward(x, theta, g, normalize=normalize),
    )


def _compare(results, expected):
    # What no box reaches is exactly zero: (N, C, F) planes, (N, C) planes and (C, F) boxes.
    for kind, axes, result, exact in zip(
        BOUNDS, ((-1, -2), (-1, -2), -1), results, expected, strict=False
    ):
        assert_close(result, exact, kind)
        unreached = np.broadcast_to(~exact.any(axes, keepdims=True), exact.shape)
        assert not np.asarray(result)[unreached].any(), kind


def _check_seed(name, size, seed, normalize):
    x, theta, g = arguments(np.random.default_rng(seed), size, batch=2, channels=6, number=8)
    options = Options(normalize=normalize)
    with BACKENDS[name].machine():
        results = run(x, theta, g, backend=BACKENDS[name].backend, options=options)
    _compare(results, _oracle(x, theta, g, options))


# Each is another program; by hand there are thousands.
@hypothesis.settings(max_examples=3)
@hypothesis.given(size=image_sizes, seed=_seeds, normalize=st.booleans())
def test_images_of_any_size(size, seed, normalize):
    _check_seed("box_conv", size, seed, normalize)


@pytest.mark.slow
@on_cpu
@hypothesis.settings(max_examples=2000)
@hypothesis.given(size=image_sizes, seed=_seeds, normalize=st.booleans())
def test_images_of_any_size_at_length(name, size, seed, normalize):
    _check_seed(name, size, seed, normalize)
    jax.clear_caches()


@on_cpu
@pytest.mark.parametrize(
    ("normalize", "expected"), [(False, (-9.0, 64.0)), (True, ((31.5 - 9) / 4, (64 - 31.5) / 4))]
)
def test_bounds_on_edges_see_the_pixels_outside_the_box(name, normalize, expected):
    """The box covers pixels 16 to 49 of the squares 1, 4, ... 81; 9 and 64 are next to it.

    They lie along y in the first channel and along x in the second, in one program.
    """
    squares = np.zeros((9, 9), np.float32)
    squares[:, 4] = np.arange(1, 10) ** 2
    x = np.stack([squares, squares.T])[None]
    g = np.zeros((1, 2, 1, 9, 9), np.float32)
    g[..., 4, 4] = 1
    along_y = [-0.5, 0.5, -1.5, 2.5]
    theta = np.array([[along_y], [along_y[2:] + along_y[:2]]], np.float32)
    options = Options(normalize=normalize)
    with BACKENDS[name].machine():
        *_, dtheta = run(x, theta, g, backend=BACKENDS[name].backend, options=options)
    np.testing.assert_allclose(dtheta[0, 0, 2:], expected, rtol=1e-5)
    np.testing.assert_allclose(dtheta[1, 0, :2], expected, rtol=1e-5)
