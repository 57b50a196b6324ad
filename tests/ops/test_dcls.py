"""The kernel of DCLS: values and gradients against the oracle, and identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox.layers.dcls import position_limits
from jaxbox.ops import dcls
from jaxbox.ops.dcls import dcls_kernel, repulsion
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle
from tests.oracles import dcls as dcls_oracle

VERSIONS = ("v0", "v1", "max", "gauss")
SIZES = ((4,), (3, 9), (6, 1), (3, 2, 4))
NAMES = ("weight", "positions", "sigma")


def _draw(rng, kernel_size, shape=(3, 2, 2), *, shared=False):
    """Taps inside the kernel, a tenth of a cell or more away from every kink of every version."""
    limits = np.array(position_limits(kernel_size))
    full = (len(kernel_size), *shape[:2], 1 if shared else shape[2])
    low, high = (side.reshape(-1, 1, 1, 1) for side in limits.T)
    positions = rng.integers(low, np.maximum(high, low + 1), full) + rng.uniform(0.1, 0.3, full)
    sigma = rng.choice([-1, 1], full) * rng.uniform(0.4, 0.6, full)
    return tuple(a.astype(np.float32) for a in (rng.normal(size=shape), positions, sigma))


def _float64(arrays):
    return [array.astype(np.float64) for array in arrays]


def _broadcast(positions, weight):
    return np.broadcast_to(positions, (len(positions), *weight.shape))


@functools.partial(jax.jit, static_argnames=("kernel_size", "version"))
def _kernel_and_gradients(weight, positions, sigma, g, *, kernel_size, version):
    """One program, where operations one by one would be dozens to compile."""
    kernel, pull_back = jax.vjp(
        lambda *arrays: dcls_kernel(*arrays, kernel_size, version), weight, positions, sigma
    )
    return kernel, pull_back(g)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kernel_size", SIZES)
def test_kernel_and_gradients(version, kernel_size, rng):
    shared = rng.random() < 0.5
    arrays = _draw(rng, kernel_size, shared=shared)
    g = rng.normal(size=(*kernel_size, *arrays[0].shape[1:])).astype(np.float32)

    def oracle(weight, positions, sigma):
        full = (_broadcast(a, weight) for a in (positions, sigma))
        return dcls_oracle.kernel(weight, *full, kernel_size, version)

    kernel, gradients = _kernel_and_gradients(*arrays, g, kernel_size=kernel_size, version=version)
    assert relative_error(kernel, oracle(*_float64(arrays))) <= 1e-5
    expected = conv_oracle.derivatives(lambda *arrays: (g * oracle(*arrays)).sum(), arrays)
    for name, actual, of_oracle in zip(NAMES, gradients, expected, strict=True):
        assert relative_error(actual, of_oracle) <= 1e-5, name
    if not shared:  # The formulas of the other tests hold where there is no kink.
        formulas = dcls_oracle.gradients(*_float64(arrays), kernel_size, version, g)
        for name, formula, difference in zip(NAMES, formulas, expected, strict=True):
            assert relative_error(formula, difference) <= 1e-6, name


@pytest.mark.parametrize("version", VERSIONS)
def test_taps_partly_and_wholly_outside(version, rng):
    weight, positions, sigma = _draw(rng, (4, 3), (5, 2, 1))
    positions += rng.integers(-3, 4, positions.shape).astype(np.float32)
    weight[0] = 1  # One that lies inside, by which to measure errors.
    positions[:, 0] = np.array([0.25, -0.25], np.float32).reshape(2, 1, 1)
    kernel = dcls_kernel(weight, positions, sigma, (4, 3), version)
    arrays = (a.astype(np.float64) for a in (weight, positions, sigma))
    assert relative_error(kernel, dcls_oracle.kernel(*arrays, (4, 3), version)) <= 1e-5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kernel_size", [(7,), *SIZES])
def test_no_nan_at_whole_positions_and_sigma_0(version, kernel_size, rng):
    # The shapes of the next test, which compiles the same programs.
    weight, positions, sigma = _draw(rng, kernel_size, (8, 2, 2))
    g = np.ones((*kernel_size, *weight.shape[1:]), np.float32)
    for arrays in (
        (weight, np.round(positions), np.zeros_like(sigma)),
        (weight, np.full_like(positions, 99), sigma),  # All on one point, outside.
    ):
        results = _kernel_and_gradients(*arrays, g, kernel_size=kernel_size, version=version)
        assert all(np.isfinite(array).all() for array in jax.tree.leaves(results))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kernel_size", [(7,), *SIZES])
def test_derivatives_at_kinks_are_the_original_codes(version, kernel_size, rng):
    """At whole positions, at the limits, half a cell off, and at sigma 0 and whole sigmas."""
    weight, positions, sigma = _draw(rng, kernel_size, (8, 2, 2))
    low, high = (side.reshape(-1, 1, 1, 1) for side in np.array(position_limits(kernel_size)).T)
    whole = np.clip(np.round(positions), low, high)
    kind = rng.integers(5, size=positions.shape)
    positions = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3], [whole, low, high, whole + 0.5], positions
    )
    kinks = rng.choice([0, 0.3, -0.3, 1, -2], sigma.shape)
    sigma = np.where(rng.random(sigma.shape) < 0.8, kinks, sigma)
    arrays = [a.astype(np.float32) for a in (weight, positions, sigma)]
    g = rng.normal(size=(*kernel_size, 2, 2)).astype(np.float32)
    _, gradients = _kernel_and_gradients(*arrays, g, kernel_size=kernel_size, version=version)
    expected = dcls_oracle.gradients(*_float64(arrays), kernel_size, version, g)
    for name, actual, formula in zip(NAMES, gradients, expected, strict=True):
        assert relative_error(actual, formula) <= 1e-5, name


@pytest.mark.parametrize(
    ("version", "position", "sigma", "d_position", "d_sigma"),
    [
        ("v0", 0, 0, 7, 0),  # From the middle cell, 9, to the right, 16.
        ("v1", 0, 0, 0, 0),
        ("v1", -3, 0, 0, 0),
        ("v1", 3, 0, 0, 0),
        ("max", 0, 0, 0, 0),
        ("max", 0.3, 0, 7, 0),
        ("max", -3, 0.3, 0.5078125, 0.390625),
        ("gauss", 0.3, 0, 5.455298900604248, 0),
    ],
)
def test_derivatives_of_a_single_tap_at_kinks(version, position, sigma, d_position, d_sigma):
    weight, squares = jnp.ones((1, 1, 1)), jnp.arange(7.0).reshape(7, 1, 1) ** 2

    def value(position, sigma):
        return jnp.sum(dcls_kernel(weight, position, sigma, (7,), version) * squares)

    at = (jnp.full((1, 1, 1, 1), value, jnp.float32) for value in (position, sigma))
    slopes = [slope.item() for slope in jax.grad(value, (0, 1))(*at)]
    np.testing.assert_allclose(slopes, [d_position, d_sigma], rtol=1e-5, atol=1e-5)


def test_a_narrow_gaussian_is_nearly_a_dilated_convolution():
    weight = jnp.ones((1, 1, 1))
    kernel = dcls_kernel(weight, jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1)), (5,), "gauss")
    beside = np.exp(-0.5 / 0.27**2)
    np.testing.assert_allclose(kernel[2].item(), 1 / (1 + 2 * beside), rtol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_shift_shifts_the_kernel(version, rng):
    weight, positions, sigma = _draw(rng, (3, 3))
    inside = dcls_kernel(weight, positions, sigma, (21, 21), version)
    shift = np.array([4, -2], np.float32).reshape(2, 1, 1, 1)
    shifted = dcls_kernel(weight, positions + shift, sigma, (21, 21), version)
    expected = np.roll(np.asarray(inside, np.float64), (4, -2), (0, 1))
    assert relative_error(shifted, expected) <= 1e-5
    # Nothing is lost inside: the sum is that of the weights, to the 1e-7 in the divisor.
    sums = np.asarray(inside, np.float64).sum((0, 1))
    assert np.abs(sums - weight.sum(0, dtype=np.float64)).max() <= 2e-5 * np.abs(weight).max()


@pytest.mark.parametrize("version", VERSIONS)
def test_axes_swap_with_the_kernel(version, rng):
    weight, positions, sigma = _draw(rng, (3, 8))
    kernel = dcls_kernel(weight, positions, sigma, (3, 8), version)
    swapped = dcls_kernel(weight, positions[::-1], sigma[::-1], (8, 3), version)
    np.testing.assert_allclose(kernel, jnp.swapaxes(swapped, 0, 1), rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_are_added_up_in_float32(rng):
    weight, positions, sigma = _draw(rng, (5, 5))
    half = jnp.asarray(weight, jnp.bfloat16)
    kernel = dcls_kernel(half, positions, sigma, (5, 5))
    assert kernel.dtype == jnp.bfloat16
    expected = dcls_kernel(half.astype(jnp.float32), positions, sigma, (5, 5))
    np.testing.assert_array_equal(kernel, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("kernel_size", [(17, 17), (32, 32, 3)])
def test_no_temporary_of_two_axes_of_cells_and_the_taps(kernel_size):
    taps, channels = 120, 16
    shapes = [
        jax.ShapeDtypeStruct(s, jnp.float32)
        for s in ((taps, channels, 1), *((len(kernel_size), taps, channels, 1),) * 2)
    ]

    def run(weight, positions, sigma):
        def loss(*arrays):
            return jnp.sum(jnp.square(dcls_kernel(*arrays, kernel_size)))

        return jax.grad(loss, (0, 1, 2))(weight, positions, sigma)

    used = jax.jit(run).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    two_axes = 4 * taps * channels * kernel_size[0] * kernel_size[1]
    assert used < two_axes


def test_channels_in_chunks_give_the_same(monkeypatch, rng):
    weight, positions, sigma = _draw(rng, (5, 4), (3, 5, 7))
    g = rng.normal(size=(5, 4, 5, 7)).astype(np.float32)

    def results():
        kernel, pull_back = jax.vjp(lambda *a: dcls_kernel(*a, (5, 4)), weight, positions, sigma)
        return kernel, *pull_back(jnp.asarray(g))

    in_one_chunk = results()
    # 4 of 35 pairs of channels, and 3 in the end.
    monkeypatch.setattr(dcls, "_CHUNK_SIZE", 4 * 3 * 5)
    for found, expected in zip(results(), in_one_chunk, strict=True):
        assert relative_error(found, np.asarray(expected, np.float64)) <= 1e-5


def test_repulsion_against_its_formula(rng):
    positions = rng.uniform(-1, 1, (2, 4, 3, 2))
    total = 0.0
    for i in range(4):
        for j in range(i):
            distance = np.sqrt(((positions[:, i] - positions[:, j]) ** 2).sum(0))
            total += 2 * np.maximum(0, 1 - distance).sum() / (4 * 3 * 3 * 2)
    np.testing.assert_allclose(repulsion(positions.astype(np.float32)), total, rtol=1e-5)
    assert (jax.grad(repulsion)(jnp.zeros((2, 4, 1, 1))) == 0).all()
    # At the kink, a distance of 1, the derivative is that of the original's `clamp_min`.
    neighbours = jnp.arange(2.0).reshape(1, 2, 1, 1)
    assert jax.grad(repulsion)(neighbours).ravel().tolist() == [1, -1]
    assert (jax.grad(repulsion)(1.001 * neighbours) == 0).all()
    assert repulsion(jnp.zeros((2, 1, 3, 3))) == 0


def test_bad_arguments():
    weight, positions = jnp.ones((3, 2, 4)), jnp.ones((2, 3, 2, 4))
    with pytest.raises(ValueError, match="version must be one of v0, v1, max, gauss, got 'v2'"):
        dcls_kernel(weight, positions, None, (5, 5), "v2")
    with pytest.raises(ValueError, match="needs sigma"):
        dcls_kernel(weight, positions, None, (5, 5), "gauss")
    with pytest.raises(ValueError, match=r"positions must be .*\(1, 3, 2, 4\)"):
        dcls_kernel(weight, positions, None, (5,), "v0")
    with pytest.raises(TypeError, match="weight must be of a real floating dtype, got int32"):
        dcls_kernel(weight.astype(jnp.int32), positions, None, (5, 5), "v0")
    with pytest.raises(ValueError, match=r"sigma must be .*got shape \(0,\)"):
        dcls_kernel(weight, positions, jnp.ones(0), (5, 5), "v0")
    with pytest.raises(ValueError, match="kernel_size must be 1 to 3"):
        dcls_kernel(weight, positions, None, (5, 0), "v0")
