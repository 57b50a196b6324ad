import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxbox import models
from jaxbox.layers import BoxConv
from jaxbox.layers.box import FrozenBoxes
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    FeatureMap,
    InitialBlock,
    PReLU,
    Upsampling,
)
from jaxbox.models.convolution import PatchConv, PatchConvTranspose, PointwiseConv, UpsamplingConv
from jaxbox.models.cost import cost
from jaxbox.models.erf_blocks import NonBottleneck1D, TransposedUpsampling
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_pool, max_unpool
from jaxbox.optim import BoxSpec, find_boxes

CONVOLUTIONS = [PointwiseConv, PatchConv, PatchConvTranspose, UpsamplingConv]


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def create(name="boxenet", num_classes=5, image_size=(16, 24)):
    return models.create(name, num_classes, image_size, rngs=nnx.Rngs(0))


def abstract(*args):
    """A network whose parameters are shapes only, as drawing them takes seconds."""
    return nnx.eval_shape(lambda: create(*args))


def find_boxes_in(model):
    leaves = jax.tree.leaves(find_boxes(model), is_leaf=lambda leaf: isinstance(leaf, BoxSpec))
    return [leaf for leaf in leaves if isinstance(leaf, BoxSpec)]


def small(dtype=jnp.float32):
    """A network with a block of each kind, which compiles much faster than the paper's."""
    down, up = partial(Downsampling, channels=16, dropout=0.1), partial(Upsampling, channels=16)
    blocks = (
        partial(InitialBlock, channels=16),
        *(down, Bottleneck, partial(BoxBlock, dropout=0.1)),
        *(down, partial(Bottleneck, asymmetric=5), partial(Bottleneck, dilation=2)),
        *(up, partial(Bottleneck, prelu=False)),
        up,
    )
    architecture = models.Architecture(blocks, partial(PatchConvTranspose, use_bias=True))
    return models.SegmentationNetwork(architecture, 5, (16, 24), dtype=dtype, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def small_network():
    return nnx.split(small())


@pytest.fixture
def model(small_network):
    return nnx.merge(*small_network, copy=True)


@nnx.jit
def run(model, images):
    return model(images)


def check_gradient_reaches_every_parameter(model):
    images = normal(2, 16, 24, 3)
    labels = jax.random.randint(jax.random.key(1), images.shape[:-1], 0, 5)

    def loss(model):
        scores = nnx.log_softmax(model(images))
        return -jnp.take_along_axis(scores, labels[..., None], axis=-1).mean()

    gradient = nnx.jit(nnx.grad(loss))(model)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert len(leaves) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))
    for path, leaf in leaves:
        assert jnp.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert (leaf != 0).any(), jax.tree_util.keystr(path)


class TestNetworks:
    @pytest.mark.parametrize("num_classes", [1, 12])
    @pytest.mark.parametrize("name", models.NETWORKS)
    def test_logits_for_each_pixel(self, name, num_classes):
        images = jax.ShapeDtypeStruct((2, 16, 40, 3), jnp.float32)
        logits = nnx.eval_shape(lambda model, x: model(x), abstract(name, num_classes), images)
        assert (logits.shape, logits.dtype) == ((2, 16, 40, num_classes), jnp.float32)

    def test_window_of_each_box_layer_is_its_feature_map(self):
        model = abstract("boxenet", 5, (64, 96))
        windows = [m.window for _, m in nnx.iter_graph(model) if isinstance(m, BoxConv)]
        assert sorted(windows) == sorted([(16, 24)] * 3 + [(8, 12)] * 8 + [(32, 48)])

    @pytest.mark.parametrize("name", ["boxenet", "boxerfnet"])
    def test_frozen_boxes_are_no_parameters_and_nothing_else_differs(self, name):
        plain, frozen = abstract(name), abstract(f"{name}-frozen")
        boxes = [m.theta for _, m in nnx.iter_graph(frozen) if isinstance(m, BoxConv)]
        assert boxes
        assert all(isinstance(theta, FrozenBoxes) for theta in boxes)
        assert not find_boxes_in(frozen)
        assert len(find_boxes_in(plain)) == len(boxes)
        assert cost(plain, (16, 24)) == cost(frozen, (16, 24))

    @pytest.mark.parametrize(
        ("name", "paper", "pytorch"),
        [
            ("erfnet", [0.0, 0.0, 0.0], [0.0, 0.03, 0.3]),
            ("boxerfnet", [0.0, 0.0, 0.0], [0.0, 0.03, 0.3]),
            ("boxonlyenet", [0.0, 0.01, 0.1], [0.0, 0.01, 0.01]),
            ("enet", [0.0, 0.01, 0.1], [0.0, 0.01, 0.1]),
        ],
    )
    def test_dropout_of_the_three_downsamplings(self, name, paper, pytorch):
        def rates(variant):
            model = nnx.eval_shape(
                lambda: models.create(name, 5, (16, 24), variant=variant, rngs=nnx.Rngs(0))
            )
            blocks = [b for b in model.blocks if isinstance(b, InitialBlock | Downsampling)]
            return [
                sum(m.rate for _, m in nnx.iter_graph(block) if isinstance(m, nnx.Dropout))
                for block in blocks
            ]

        assert (rates("paper"), rates("pytorch")) == (paper, pytorch)

    def test_unknown_variant_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"one of paper, pytorch, got 'torch'"):
            models.create("enet", 5, (16, 24), variant="torch", rngs=nnx.Rngs(0))

    def test_unknown_name_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"one of .*boxenet.*, got 'unet'"):
            create("unet")

    @pytest.mark.parametrize("size", [(0, 8), (20, 24), (24, 20), (-8, 8), (8,)])
    def test_image_size_must_fit(self, size):
        with pytest.raises(ValueError, match=r"[HW] of image_size must|image_size must be"):
            create(image_size=size)

    def test_num_classes_must_be_positive(self):
        with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
            create(num_classes=0)

    @pytest.mark.parametrize("name", models.NETWORKS)
    @pytest.mark.parametrize("size", [(20, 24), (24, 20)])
    def test_every_network_names_the_axis_that_does_not_fit(self, name, size):
        axis = "H" if size[0] == 20 else "W"
        with pytest.raises(ValueError, match=f"{axis} of image_size must be a multiple of 8"):
            create(name, image_size=size)
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        with pytest.raises(ValueError, match=f"{axis} of images must be a multiple of 8, got 20"):
            nnx.eval_shape(lambda model, x: model(x), abstract(name), images)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((2, 12, 16, 3), "H of images must be a multiple of 8, got 12"),
            ((2, 16, 4, 3), "W of images must be a multiple of 8, got 4"),
            ((2, 16, 16, 1), r"\(\.\.\., H, W, 3\)"),
            ((16, 3), r"\(\.\.\., H, W, 3\)"),
        ],
    )
    def test_shape_of_images_must_fit(self, model, shape, message):
        with pytest.raises(ValueError, match=message):
            model(jnp.zeros(shape))

    def test_integer_images_are_refused(self, model):
        with pytest.raises(TypeError, match="floating dtype, got uint8"):
            model(jnp.zeros((8, 8, 3), jnp.uint8))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", models.NETWORKS)
    def test_gradient_reaches_every_parameter(self, name):
        check_gradient_reaches_every_parameter(create(name))


class TestSmallNetwork:
    def test_evaluation_changes_nothing_and_takes_any_leading_axes(self, model):
        model.eval()
        before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
        images = normal(2, 16, 24, 3)
        logits = run(model, images)
        np.testing.assert_array_equal(run(model, images), logits)
        np.testing.assert_allclose(run(model, images[:, None])[:, 0], logits, atol=1e-5)
        np.testing.assert_allclose(run(model, images[0]), logits[0], atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.BatchStat), before)

    def test_images_need_not_be_of_the_size_that_set_the_windows(self, model):
        model.eval()
        assert run(model, normal(2, 8, 40, 3)).shape == (2, 8, 40, 5)

    def test_training_differs_each_time_and_updates_every_statistic(self, model):
        before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
        images = normal(2, 16, 24, 3)
        assert (run(model, images) != run(model, images)).any()
        after = nnx.state(model, nnx.BatchStat)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))

    def test_gradient_reaches_every_parameter(self, model):
        check_gradient_reaches_every_parameter(model)


def network_without_unpooling(dtype):
    """One of each other block: rounding moves maxima, and unpooling moves what follows them."""
    blocks = (
        partial(InitialBlock, channels=16),
        *(partial(Downsampling, channels=16), Bottleneck, partial(Bottleneck, asymmetric=5)),
        *(BoxBlock, partial(NonBottleneck1D, dilation=2)),
        partial(TransposedUpsampling, channels=16),
    )
    architecture = models.Architecture(blocks, partial(PatchConvTranspose, use_bias=True))
    return models.SegmentationNetwork(architecture, 5, (16, 24), dtype=dtype, rngs=nnx.Rngs(0))


def check_bfloat16(low, exact, *arguments):
    """Two networks or blocks that differ in the dtype of their computation only."""
    low.eval()
    exact.eval()
    actual, expected = nnx.jit(low)(*arguments), nnx.jit(exact)(*arguments)
    assert (actual.dtype, expected.dtype) == (jnp.bfloat16, jnp.float32)
    difference = actual.astype(jnp.float32) - expected
    assert jnp.linalg.norm(difference) < 0.05 * jnp.linalg.norm(expected)
    variables = nnx.state(low, nnx.Any(nnx.Param, nnx.BatchStat))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


class TestBfloat16:
    def test_network(self):
        networks = map(network_without_unpooling, (jnp.bfloat16, jnp.float32))
        check_bfloat16(*networks, normal(2, 16, 24, 3))

    def test_unpooling(self):
        features = FeatureMap(4, 6, 64)
        blocks = [
            Upsampling(features, channels=16, dtype=dtype, rngs=nnx.Rngs(0))
            for dtype in (jnp.bfloat16, jnp.float32)
        ]
        x = normal(2, *features)
        positions = jax.random.randint(jax.random.key(1), (2, 4, 6, 16), 0, 4, jnp.int8)
        check_bfloat16(*blocks, x, positions)

    @pytest.mark.parametrize("name", models.NETWORKS)
    def test_logits(self, name):
        """Of every network, for images of another size than the one it was made for."""

        def logits():
            model = models.create(name, 7, (24, 16), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
            return model(jnp.zeros((2, 16, 40, 3)))

        result = nnx.eval_shape(logits)
        assert (result.shape, result.dtype) == ((2, 16, 40, 7), jnp.bfloat16)


class TestBlocks:
    def test_whole_channels_are_dropped(self):
        block = BoxBlock(FeatureMap(6, 8, 64), dropout=0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
        branch = nnx.jit(lambda block, x: block.branch(x))(block, normal(4, 6, 8, 64))
        dropped = (branch == 0).all(axis=(2, 3))
        np.testing.assert_array_equal((branch == 0).any(axis=(2, 3)), dropped)
        assert 0.3 < dropped.mean() < 0.7

    @pytest.mark.parametrize(
        ("options", "reach"),
        [
            ({}, np.ones((3, 3))),
            ({"dilation": 2}, np.kron(np.ones((3, 3)), [[1, 0], [0, 0]])[:5, :5]),
            ({"asymmetric": 5}, np.ones((5, 5))),
        ],
    )
    def test_reach_of_a_bottleneck(self, options, reach):
        features = FeatureMap(9, 9, 8)
        block = Bottleneck(features, **options, dtype=jnp.float32, rngs=nnx.Rngs(0))
        block.eval()
        x = normal(*features)
        changed = (run(block, x) != run(block, x.at[4, 4].add(1.0))).any(axis=-1)
        np.testing.assert_array_equal(changed, np.pad(reach, (9 - len(reach)) // 2))

    def test_boxes_must_divide_the_channels(self):
        with pytest.raises(ValueError, match="must divide the 64 channels, got 3"):
            BoxBlock(FeatureMap(8, 8, 64), num_boxes=3, dtype=jnp.float32, rngs=nnx.Rngs(0))

    def test_prelu_scales_negative_values_by_channel(self):
        prelu = PReLU(2)
        prelu.slope[...] = jnp.array([0.5, -2.0])
        x = jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
        np.testing.assert_array_equal(prelu(x), [[1.0, 1.0], [-0.5, 2.0], [0.0, 0.0]])


class TestBatchNorm:
    def test_agrees_with_flax(self):
        ours = BatchNorm(5, dtype=jnp.float32)
        flax = nnx.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(0))
        for norm in (ours, flax):
            norm.scale[...] = normal(5, seed=1)
            norm.bias[...] = normal(5, seed=2)
        x, weight = normal(3, 4, 6, 5) + 1.5, normal(3, 4, 6, 5, seed=3)

        def gradient(norm):
            loss = nnx.grad(lambda norm, x: (norm(x) * weight).sum(), argnums=(0, 1))
            parameters, to_x = nnx.jit(loss)(norm, x)
            return parameters["scale"][...], parameters["bias"][...], to_x

        for actual, expected in zip(gradient(ours), gradient(flax), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours(x), flax(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.mean[...], flax.mean[...], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.var[...], flax.var[...], rtol=1e-5)
        ours.eval()
        flax.eval()
        np.testing.assert_allclose(ours(x), flax(x), rtol=1e-5, atol=1e-5)

    def test_bfloat16_uses_float32_statistics(self):
        norm = BatchNorm(3, dtype=jnp.bfloat16)
        x = (normal(64, 64, 3) + 4.0).astype(jnp.bfloat16)
        y = norm(x)
        assert (y.dtype, norm.mean.dtype) == (jnp.bfloat16, jnp.float32)
        exact = x.astype(jnp.float32)
        np.testing.assert_allclose(norm.mean[...], 0.1 * exact.mean((0, 1)), rtol=1e-5)
        np.testing.assert_allclose(y.astype(jnp.float32).std((0, 1)), 1.0, atol=1e-2)

    def test_view_chooses_the_statistics(self):
        norm = BatchNorm(3, dtype=jnp.float32)
        x = normal(4, 3) + 1.0
        np.testing.assert_allclose(nnx.view(norm, use_running_average=True)(x), x, rtol=1e-4)


def cells(x):
    """The four pixels of each 2x2 cell of a `(B, H, W, C)` array, on the last axis."""
    B, H, W, C = x.shape
    split = np.asarray(x).reshape(B, H // 2, 2, W // 2, 2, C)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(B, H // 2, W // 2, C, 4)


class TestPooling:
    def test_agrees_with_numpy(self):
        x = normal(2, 6, 8, 3)
        pooled, positions = max_pool(x)
        np.testing.assert_array_equal(pooled, cells(x).max(-1))
        np.testing.assert_array_equal(positions, cells(x).argmax(-1))

    def test_pooling_undoes_unpooling(self):
        values = jnp.abs(normal(2, 3, 4, 3)) + 0.1
        positions = jax.random.randint(jax.random.key(1), values.shape, 0, 4, jnp.int8)
        again, where = max_pool(max_unpool(values, positions))
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(where, positions)

    def test_unpooling_keeps_the_maxima_and_zeroes_the_rest(self):
        x = normal(2, 6, 8, 3)
        kept = np.where(cells(x) == cells(x).max(-1, keepdims=True), cells(x), 0.0)
        np.testing.assert_array_equal(cells(max_unpool(*max_pool(x))), kept)

    def test_the_gradient_of_each_is_the_other(self):
        x, g = normal(2, 6, 8, 3), normal(2, 3, 4, 3, seed=1)
        _, pull, positions = jax.vjp(max_pool, x, has_aux=True)
        np.testing.assert_array_equal(pull(g)[0], max_unpool(g, positions))
        _, pull = jax.vjp(lambda g: max_unpool(g, positions), g)
        np.testing.assert_array_equal(pull(x)[0], max_pool(x)[0])

    def test_ties_go_to_one_position(self):
        x = jnp.ones((4, 4, 2))
        _, positions = max_pool(x)
        assert (positions == 0).all()
        gradient = jax.grad(lambda x: max_pool(x)[0].sum())(x)
        np.testing.assert_array_equal(gradient[..., 0], np.tile([[1.0, 0.0], [0.0, 0.0]], (2, 2)))


def convolve(x, kernel, strides=1, padding=(0, 0), spread=1):
    """A plain convolution; `spread` puts zeros between the pixels of its input."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        (padding, padding),
        lhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def transpose_convolve(x, kernel, padding):
    return convolve(x, jnp.flip(kernel, (0, 1)), padding=padding, spread=2)


class TestConvolutions:
    @pytest.mark.parametrize(
        ("convolution", "reference"),
        [
            (PointwiseConv, convolve),
            (PatchConv, partial(convolve, strides=2)),
            (PatchConvTranspose, partial(transpose_convolve, padding=(1, 1))),
            (UpsamplingConv, partial(transpose_convolve, padding=(1, 2))),
        ],
    )
    def test_agrees_with_lax(self, convolution, reference):
        layer = convolution(3, 5, use_bias=True, rngs=nnx.Rngs(0))
        layer.bias[...] = normal(5, seed=1)
        x, kernel = normal(2, 6, 4, 3), layer.kernel[...]

        @jax.jit
        def actual(kernel, x):
            copy = nnx.clone(layer)
            copy.kernel = nnx.Param(kernel)
            return copy(x)

        @jax.jit
        def expected(kernel, x):
            return reference(x, kernel) + layer.bias[...].reshape(1, 1, 1, -1)

        (y, pull), (y_expected, pull_expected) = (
            jax.vjp(function, kernel, x) for function in (actual, expected)
        )
        np.testing.assert_allclose(y, y_expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer(x[0]), y[0], rtol=1e-4, atol=1e-5)
        g = normal(*y.shape, seed=2)
        for gradient, wanted in zip(pull(g), pull_expected(g), strict=True):
            np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("convolution", CONVOLUTIONS)
    def test_bfloat16(self, convolution):
        layer = convolution(3, 5, use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        assert jax.eval_shape(layer, jnp.zeros((4, 4, 3))).dtype == jnp.bfloat16
        assert layer.kernel.dtype == jnp.float32

    def test_keeps_the_variance_of_its_input(self):
        layer = PointwiseConv(256, 256, rngs=nnx.Rngs(0))
        assert math.isclose(layer(normal(8, 8, 256)).std(), 1.0, rel_tol=0.1)
