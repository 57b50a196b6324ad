"""Box importance and statistics by hand, receptive fields against the whole Jacobian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbox
from jaxbox import analysis, models
from jaxbox.models.blocks import Bottleneck, BoxBlock, Downsampling, InitialBlock, Upsampling
from jaxbox.models.convolution import PatchConvTranspose

SIZE = (16, 24)


def network(*blocks):
    architecture = models.Architecture(
        (partial(InitialBlock, channels=8), *blocks), PatchConvTranspose
    )
    model = models.SegmentationNetwork(architecture, 3, SIZE, rngs=nnx.Rngs(0))
    model.eval()
    return model


def importance_by_hand(incoming, outgoing, num_boxes):
    """Literally: the mean absolute outgoing weight times the largest absolute incoming one."""
    channels = incoming.shape[-1]
    result = np.zeros((channels, num_boxes))
    for channel in range(channels):
        for box in range(num_boxes):
            mean = np.mean(np.abs(outgoing[..., channel * num_boxes + box, :]))
            result[channel, box] = mean * np.max(np.abs(incoming[..., channel]))
    return result


def test_importance_of_a_hand_computed_example():
    incoming = jnp.array([[[[2.0, -1.0], [-4.0, 0.5]]]])  # (1, 1, inputs, C)
    outgoing = jnp.array([[[[1.0, -3.0], [0.0, 0.0], [8.0, 0.0], [-1.0, -1.0]]]])  # of 2 boxes each
    expected = [[4 * 2, 4 * 0], [1 * 4, 1 * 1]]
    np.testing.assert_array_equal(analysis.importance(incoming, outgoing), expected)


def test_importance_of_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"got shapes \(3, 4\) and \(6, 2\)"):
        analysis.importance(np.ones((3, 4)), np.ones((6, 2)))


@pytest.mark.parametrize("reader", ["bottleneck", "boxes", "down", "up", "classifier"])
def test_importance_is_of_the_convolution_that_reads_the_block(reader):
    down = partial(Downsampling, channels=8)
    blocks = {
        "bottleneck": (BoxBlock, Bottleneck),
        "boxes": (BoxBlock, BoxBlock),
        "down": (BoxBlock, down),
        "up": (down, BoxBlock, partial(Upsampling, channels=8)),
        "classifier": (BoxBlock,),
    }[reader]
    model = network(*blocks)
    at = 1 + blocks.index(BoxBlock)
    box_block = model.blocks[at]
    if reader == "classifier":
        kernels = [model.classifier.kernel]
    else:
        kernels = [model.blocks[at + 1].branch.layers[0].kernel]
    if reader == "up":
        kernels.append(model.blocks[at + 1].skip.layers[0].kernel)
    outgoing = np.concatenate([np.asarray(kernel[...]) for kernel in kernels], axis=-1)
    expected = importance_by_hand(
        np.asarray(box_block.branch.layers[0].kernel[...]), outgoing, num_boxes=4
    )
    layer = analysis.box_layers(model)[0]
    np.testing.assert_allclose(layer.importance, expected, rtol=1e-5)
    np.testing.assert_array_equal(layer.theta, box_block.boxes.theta[...])
    assert layer.window == box_block.output[:2]


@pytest.mark.parametrize("name", models.NETWORKS)
def test_box_layers_of_the_networks(name):
    def shapes():
        model = models.create(name, 3, SIZE, rngs=nnx.Rngs(0))
        thetas = [block.boxes.theta[...] for block in model.blocks if type(block) is BoxBlock]
        return thetas, [layer.importance for layer in analysis.box_layers(model)]

    thetas, importances = nnx.eval_shape(shapes)
    assert [i.shape for i in importances] == [theta.shape[:2] for theta in thetas]


def test_statistics_by_hand():
    theta = jnp.array(
        [
            [-0.5, 0.5, 3.0, 4.0],  # at minimum, symmetric
            [-1.0, 3.0, 0.0, 1.0],  # low but wide, a third
            [2.0, 3.005, 0.0, 1.005],  # at minimum to the tolerance, on one side
            [-9.0, -1.0, 0.0, 9.0],
        ]
    )
    np.testing.assert_array_equal(analysis.at_minimum(theta), [True, False, True, False])
    assert analysis.share_at_minimum(theta) == 0.5
    assert analysis.share_at_minimum(theta, min_size=9.0) == 1.0
    np.testing.assert_allclose(analysis.symmetry(theta), [1, 1 / 3, 0, 0], rtol=1e-6)


def test_symmetry_is_the_overlap_with_the_mirror_image():
    key = jax.random.key(np.random.default_rng().integers(2**31))
    theta = np.asarray(jaxbox.boxes.sample(key, (50,), (9, 9)))
    fine = np.linspace(-9, 9, 40001)
    for box, measured in zip(theta, np.asarray(analysis.symmetry(theta)), strict=True):
        inside = (fine >= box[0]) & (fine <= box[1])
        mirrored = inside[::-1]
        expected = (inside & mirrored).sum() / (inside | mirrored).sum()
        assert abs(measured - expected) < 2e-3


def energy_by_loops(response, row, column):
    """`E(r)` of one map, window by window."""
    H, W = response.shape
    result = np.zeros(max(H, W) + 1)
    for radius in range(len(result)):
        for i in range(H):
            for j in range(W):
                if abs(i - row) <= radius and abs(j - column) <= radius:
                    result[radius] += response[i, j]
    return result / response.sum()


@pytest.mark.parametrize("depth", [3, None])
def test_energy_curves_against_the_jacobian(depth):
    model = network(partial(BoxBlock, num_boxes=2), partial(Downsampling, channels=8), Bottleneck)

    def layer(images):
        return model(images) if depth is None else model.features(images, depth)

    rng = np.random.default_rng()
    images = jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32)
    h, w, K = jax.eval_shape(layer, images).shape[1:]
    positions = rng.integers(0, (h, w), (2, 2, 2))
    # Three at once do not divide the units evenly.
    maps = analysis.gradient_response(layer, images, positions, units_at_once=3)
    curves = analysis.energy_curves(layer, images, positions, units_at_once=3)
    assert maps.shape == (2, 2, *SIZE)
    assert curves.shape == (2, 2, max(SIZE) + 1)

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
            centre = [s * (i + 0.5) - 0.5 for i, s in ((row, SIZE[0] / h), (column, SIZE[1] / w))]
            by_loops = energy_by_loops(expected, *centre)
            np.testing.assert_allclose(curves[n, p], by_loops, rtol=0, atol=1e-4)


def test_energy_of_a_map_without_any():
    curve = analysis.cumulative_energy(jnp.zeros((2, 3)), jnp.zeros(2))
    assert np.isnan(curve).all()


def test_changed_weights_are_seen():
    model = network()
    images, positions = jnp.ones((1, *SIZE, 3)), [[[4, 6]]]
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


def test_features_of_a_network():
    model = network(BoxBlock)
    images = jnp.asarray(np.random.default_rng().normal(size=(2, *SIZE, 3)), jnp.float32)
    np.testing.assert_array_equal(model.features(images, 0), images)
    np.testing.assert_array_equal(model.features(images, 1), model.blocks[0](images))
    np.testing.assert_array_equal(model.classifier(model.features(images)), model(images))
    with pytest.raises(ValueError, match="depth must be from 0 to 2, got 3"):
        model.features(images, 3)
