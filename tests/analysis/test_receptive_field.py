"""Gradient response and its energy against the whole Jacobian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox import analysis, models
from jaxbox.models.blocks import Bottleneck, BoxBlock, Downsampling, InitialBlock
from jaxbox.models.convolution import PatchConvTranspose
from tests.cases.networks import IMAGE_SIZE, build


def network(*blocks):
    sequence = (partial(InitialBlock, channels=8), *blocks)
    model = build(models.Architecture(sequence, PatchConvTranspose), num_classes=3)
    model.eval()
    return model


def energy_by_loops(response, row, column):
    """Computes `E(r)` of one map, window by window."""
    H, W = response.shape
    result = np.zeros(max(H, W) + 1)
    for radius in range(len(result)):
        for i in range(H):
            for j in range(W):
                if abs(i - row) <= radius and abs(j - column) <= radius:
                    result[radius] += response[i, j]
    return result / response.sum()


def test_positions_may_be_known_only_when_a_compiled_function_runs(rng):
    images = jnp.asarray(rng.normal(size=(1, 6, 9, 2)), jnp.float32)
    positions = np.array([[[1, 2], [4, 7]]])
    compiled = jax.jit(lambda positions: analysis.energy_curves(jnp.sin, images, positions))
    expected = analysis.energy_curves(jnp.sin, images, positions)
    np.testing.assert_allclose(compiled(positions), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="positions must be integers"):
        compiled(positions + 0.5)


@pytest.mark.parametrize("depth", [3, None])
def test_energy_curves_against_the_jacobian(depth, rng):
    model = network(partial(BoxBlock, num_boxes=2), partial(Downsampling, channels=8), Bottleneck)

    def layer(images):
        return model(images) if depth is None else model.features(images, depth)

    images = jnp.asarray(rng.normal(size=(2, *IMAGE_SIZE, 3)), jnp.float32)
    h, w, K = jax.eval_shape(layer, images).shape[1:]
    positions = rng.integers(0, (h, w), (2, 2, 2))
    # The number of units is not a multiple of three.
    maps = analysis.gradient_response(layer, images, positions, units_at_once=3)
    curves = analysis.energy_curves(layer, images, positions, units_at_once=3)
    assert maps.shape == (2, 2, *IMAGE_SIZE)
    assert curves.shape == (2, 2, max(IMAGE_SIZE) + 1)

    @jax.jit
    def jacobian(image, position):
        def units(image):
            return layer(image[None])[0, position[0], position[1]]

        return jax.jacrev(units)(image)  # (K, H, W, 3)

    for n, image in enumerate(images):
        for p, (row, column) in enumerate(positions[n].tolist()):
            gradients = np.asarray(jacobian(image, positions[n, p]), np.float64)
            expected = np.sqrt((gradients**2).sum(-1)).sum(0) / K
            assert expected.max() > 0
            tolerance = 1e-4 * expected.max()
            np.testing.assert_allclose(maps[n, p], expected, rtol=0, atol=tolerance)
            strides = IMAGE_SIZE[0] / h, IMAGE_SIZE[1] / w
            centre = [s * (i + 0.5) - 0.5 for i, s in zip((row, column), strides, strict=True)]
            by_loops = energy_by_loops(expected, *centre)
            np.testing.assert_allclose(curves[n, p], by_loops, rtol=0, atol=1e-4)


def test_energy_of_a_map_of_zeros_is_nan():
    curve = analysis.cumulative_energy(jnp.zeros((2, 3)), jnp.zeros(2))
    assert np.isnan(curve).all()


def test_changed_weights_are_seen():
    model = network()
    images, positions = jnp.ones((1, *IMAGE_SIZE, 3)), [[[4, 6]]]
    before = analysis.gradient_response(model, images, positions)
    model.classifier.kernel[...] = 2 * model.classifier.kernel[...]
    after = analysis.gradient_response(model, images, positions)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ([[[0, 4]]], ValueError, "in the activations of 2 x 4 pixels"),
        ([[[-1, 0]]], ValueError, "in the activations of 2 x 4 pixels"),
        ([[[0.0, 0.0]]], TypeError, "positions must be integers, got float64"),
        ([[0, 0]], ValueError, r"with N = 1 images, got shape \(1, 2\)"),
    ],
)
def test_positions_that_do_not_fit(positions, error, message):
    with pytest.raises(error, match=message):
        analysis.energy_curves(lambda x: x, jnp.ones((1, 2, 4, 1)), positions)


def test_saturation_radius():
    curves = jnp.array([[0.5, 0.94, 0.95, 1.0], [0.96, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(analysis.saturation_radius(curves), [2, 0])
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, got 0"):
        analysis.saturation_radius(curves, 0)


def test_several_maps_have_their_own_centres_or_the_same():
    """Under strict rank promotion too, as all tests run."""
    response = jnp.asarray(np.arange(24.0).reshape(2, 3, 4), jnp.float32)
    centres = jnp.array([[1.0, 1.0], [0.0, 3.0]])
    each = [analysis.cumulative_energy(*pair) for pair in zip(response, centres, strict=True)]
    np.testing.assert_array_equal(analysis.cumulative_energy(response, centres), jnp.stack(each))
    both = [analysis.cumulative_energy(one, centres[0]) for one in response]
    np.testing.assert_array_equal(analysis.cumulative_energy(response, centres[0]), jnp.stack(both))
