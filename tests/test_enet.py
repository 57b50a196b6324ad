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
from jaxbox.models.blocks import Bottleneck, BoxBlock, FeatureMap, PReLU
from jaxbox.models.convolution import PatchConv, PatchConvTranspose, PointwiseConv, UpsamplingConv
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pooling import max_pool, max_unpool


def normal(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def create(name="boxenet", num_classes=5, image_size=(16, 24), **kwargs):
    return models.create(name, num_classes, image_size, rngs=nnx.Rngs(0), **kwargs)


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "parameters"), [("enet", 355_959), ("boxenet", 242_539), ("enet-minus", 201_331)]
    )
    def test_parameters_are_as_many_as_in_table_3(self, name, parameters):
        model = nnx.eval_shape(lambda: create(name, 19, (512, 1024)))
        norms = [m for _, m in nnx.iter_graph(model) if isinstance(m, BatchNorm)]
        everything = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert everything - sum(norm.scale.size + norm.bias.size for norm in norms) == parameters

    @pytest.mark.parametrize("name", models.NETWORKS)
    @pytest.mark.parametrize("shape", [(8, 8, 3), (2, 16, 40, 3), (2, 3, 24, 8, 3)])
    @pytest.mark.parametrize("num_classes", [1, 12])
    def test_logits_for_each_pixel_of_an_image_of_any_size(self, name, shape, num_classes):
        model = nnx.eval_shape(lambda: create(name, num_classes))
        logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros(shape))
        assert (logits.shape, logits.dtype) == ((*shape[:-1], num_classes), jnp.float32)

    def test_leading_axes_are_all_batch_axes(self):
        model = create()
        model.eval()
        model = nnx.jit(model)
        images = normal(2, 3, 16, 24, 3)
        flat = model(images.reshape(6, 16, 24, 3))
        np.testing.assert_allclose(model(images).reshape(flat.shape), flat, atol=1e-5)
        np.testing.assert_allclose(model(images[0, 0]), flat[0], atol=1e-5)

    def test_bfloat16_computes_near_float32_and_keeps_its_parameters_in_float32(self):
        model, exact = create(dtype=jnp.bfloat16), create()
        model.eval()
        exact.eval()
        images = normal(1, 16, 24, 3)
        logits = nnx.jit(lambda model, x: model(x))(model, images)
        expected = nnx.jit(lambda model, x: model(x))(exact, images)
        assert logits.dtype == jnp.bfloat16
        difference = logits.astype(jnp.float32) - expected
        assert jnp.linalg.norm(difference) < 0.05 * jnp.linalg.norm(expected)
        variables = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}

    def test_window_of_each_box_layer_is_its_feature_map(self):
        model = nnx.eval_shape(lambda: create(image_size=(64, 96)))
        windows = [m.window for _, m in nnx.iter_graph(model) if isinstance(m, BoxConv)]
        assert sorted(windows) == sorted([(16, 24)] * 3 + [(8, 12)] * 8 + [(32, 48)])

    def test_unknown_name_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="enet, boxenet, enet-minus, got 'unet'"):
            create("unet")

    @pytest.mark.parametrize("size", [(0, 8), (20, 24), (24, 20), (-8, 8), (8,)])
    def test_image_size_must_fit(self, size):
        with pytest.raises(ValueError, match=r"[HW].* of image_size must|image_size must be"):
            create(image_size=size)

    def test_num_classes_must_be_positive(self):
        with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
            create(num_classes=0)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((2, 12, 16, 3), "H of images must be a multiple of 8, got 12"),
            ((2, 16, 4, 3), "W of images must be a multiple of 8, got 4"),
            ((2, 16, 16, 1), r"\(\.\.\., H, W, 3\)"),
            ((16, 3), r"\(\.\.\., H, W, 3\)"),
        ],
    )
    def test_shape_of_images_must_fit(self, shape, message):
        with pytest.raises(ValueError, match=message):
            create("enet-minus")(jnp.zeros(shape))

    def test_integer_images_are_refused(self):
        with pytest.raises(TypeError, match="floating dtype, got uint8"):
            create("enet-minus")(jnp.zeros((8, 8, 3), jnp.uint8))


class TestModes:
    def test_evaluation_repeats_itself_and_changes_nothing(self):
        model = create()
        model.eval()
        before = nnx.state(model)
        run = nnx.jit(lambda model, x: model(x))
        images = normal(1, 16, 24, 3)
        first, second = run(model, images), run(model, images)
        np.testing.assert_array_equal(first, second)
        after = nnx.state(model)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))

    def test_training_differs_each_time_and_updates_every_statistic(self):
        model = create()
        model.train()
        before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
        run = nnx.jit(lambda model, x: model(x))
        images = normal(2, 16, 24, 3)
        assert (run(model, images) != run(model, images)).any()
        after = nnx.state(model, nnx.BatchStat)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))

    @pytest.mark.parametrize("name", models.NETWORKS)
    def test_gradient_reaches_every_parameter(self, name):
        model = create(name)
        model.train()

        @nnx.jit
        def gradient(model, images, labels):
            def loss(model):
                scores = nnx.log_softmax(model(images))
                return -jnp.take_along_axis(scores, labels[..., None], axis=-1).mean()

            return nnx.grad(loss)(model)

        labels = jax.random.randint(jax.random.key(1), (2, 16, 24), 0, 5)
        leaves = jax.tree_util.tree_leaves_with_path(gradient(model, normal(2, 16, 24, 3), labels))
        assert len(leaves) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))
        for path, leaf in leaves:
            assert jnp.isfinite(leaf).all(), jax.tree_util.keystr(path)
            assert (leaf != 0).any(), jax.tree_util.keystr(path)


class TestBlocks:
    def test_whole_channels_are_dropped(self):
        block = BoxBlock(FeatureMap(6, 8, 64), dropout=0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
        branch = block.branch(normal(4, 6, 8, 64))
        dropped = (branch == 0).all(axis=(1, 2))
        assert ((branch == 0).any(axis=(1, 2)) == dropped).all()
        assert 0.3 < dropped.mean() < 0.7

    @pytest.mark.parametrize("dilation", [1, 2, 5])
    def test_a_bottleneck_reaches_as_far_as_its_dilation(self, dilation):
        features = FeatureMap(13, 13, 8)
        block = Bottleneck(features, dilation=dilation, dtype=jnp.float32, rngs=nnx.Rngs(0))
        block.eval()
        x = normal(*features)
        rows = np.flatnonzero((block(x) != block(x.at[6, 6].add(1.0))).any(axis=(1, 2)))
        assert set(rows) == {6 - dilation, 6, 6 + dilation}

    def test_an_asymmetric_bottleneck_reaches_over_its_whole_square(self):
        features = FeatureMap(9, 9, 8)
        block = Bottleneck(features, asymmetric=5, dtype=jnp.float32, rngs=nnx.Rngs(0))
        block.eval()
        x = normal(*features)
        changed = (block(x) != block(x.at[4, 4].add(1.0))).any(axis=-1)
        np.testing.assert_array_equal(changed, np.pad(np.ones((5, 5), bool), 2))

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
        ours, flax = (
            BatchNorm(5, dtype=jnp.float32),
            nnx.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs()),
        )
        for norm in (ours, flax):
            norm.scale[...] = normal(5, seed=1)
            norm.bias[...] = normal(5, seed=2)
        x, weight = normal(3, 4, 6, 5) + 1.5, normal(3, 4, 6, 5, seed=3)

        def gradient(norm):
            return nnx.grad(lambda norm, x: (norm(x) * weight).sum(), argnums=(0, 1))(norm, x)

        for a, b in zip(*(jax.tree.leaves(gradient(n)) for n in (ours, flax)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        for mode in ("train", "eval"):
            for norm in (ours, flax):
                getattr(norm, mode)()
            np.testing.assert_allclose(ours(x), flax(x), rtol=1e-5, atol=1e-5)
            for name in ("mean", "var"):
                running = getattr(ours, name)[...], getattr(flax, name)[...]
                np.testing.assert_allclose(*running, rtol=1e-5, atol=1e-6)

    def test_bfloat16_uses_float32_statistics(self):
        norm = BatchNorm(3, dtype=jnp.bfloat16)
        x = (normal(64, 64, 3) + 4).astype(jnp.bfloat16)
        y = norm(x)
        assert (y.dtype, norm.mean.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_allclose(norm.mean[...], 0.1 * x.astype(jnp.float32).mean((0, 1)), 1e-5)
        np.testing.assert_allclose(y.astype(jnp.float32).std((0, 1)), 1.0, atol=1e-2)


def cells(x):
    """The four pixels of each 2x2 cell of a (B, H, W, C) array on the last axis."""
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
        values = jnp.abs(normal(2, 3, 4, 5)) + 0.1
        positions = jax.random.randint(jax.random.key(1), values.shape, 0, 4, jnp.int8)
        again, where = max_pool(max_unpool(values, positions))
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(where, positions)

    def test_unpooling_keeps_the_maxima_and_zeroes_the_rest(self):
        x = normal(2, 6, 8, 3)
        before, after = cells(x), cells(max_unpool(*max_pool(x)))
        np.testing.assert_array_equal(
            after, np.where(before == before.max(-1)[..., None], before, 0)
        )

    def test_gradients_are_each_others_maps(self):
        x, g = normal(2, 6, 8, 3), normal(2, 3, 4, 3, seed=1)
        _, pull, positions = jax.vjp(max_pool, x, has_aux=True)
        np.testing.assert_array_equal(pull(g)[0], max_unpool(g, positions))
        _, pull = jax.vjp(lambda g: max_unpool(g, positions), g)
        at_maxima = np.take_along_axis(cells(x), np.asarray(positions, int)[..., None], -1)[..., 0]
        np.testing.assert_array_equal(pull(x)[0], at_maxima)

    def test_ties_go_to_one_position(self):
        x = jnp.ones((4, 4, 2))
        _, positions = max_pool(x)
        assert (positions == 0).all()
        gradient = jax.grad(lambda x: max_pool(x)[0].sum())(x)
        np.testing.assert_array_equal(gradient[..., 0], np.tile([[1.0, 0.0], [0.0, 0.0]], (2, 2)))


def convolve(x, kernel, strides=1, padding=0, spread=1):
    """`lax.conv_general_dilated` on a batch; `spread` puts zeros between the input's pixels."""
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else [padding] * 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        pads,
        lhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def transpose_convolve(x, kernel, padding):
    return convolve(x, jnp.flip(kernel, (0, 1)), padding=padding, spread=2)


class TestConvolutions:
    @pytest.mark.parametrize(
        ("layer", "reference"),
        [
            (PointwiseConv, convolve),
            (PatchConv, partial(convolve, strides=2)),
            (PatchConvTranspose, partial(transpose_convolve, padding=1)),
            (UpsamplingConv, partial(transpose_convolve, padding=(1, 2))),
        ],
    )
    @pytest.mark.parametrize("use_bias", [False, True])
    def test_agrees_with_lax(self, layer, reference, use_bias):
        layer = layer(3, 5, use_bias=use_bias, rngs=nnx.Rngs(0))
        bias = normal(5, seed=1) if use_bias else jnp.zeros(5)
        if use_bias:
            layer.bias[...] = bias
        x = normal(2, 6, 4, 3)

        def ours(kernel, x):
            layer.kernel[...] = kernel
            return layer(x)

        def expected(kernel, x):
            return reference(x, kernel) + bias[None, None, None]

        kernel = layer.kernel[...]
        y, pull = jax.vjp(expected, kernel, x)
        np.testing.assert_allclose(layer(x), y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer(x[0]), y[0], rtol=1e-4, atol=1e-5)
        weight = normal(*y.shape, seed=2)
        graph, variables = nnx.split(layer)

        def merged(kernel, x):
            copy = nnx.merge(graph, variables, copy=True)
            copy.kernel[...] = kernel
            return copy(x)

        for a, b in zip(jax.vjp(merged, kernel, x)[1](weight), pull(weight), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        "layer", [PointwiseConv, PatchConv, PatchConvTranspose, UpsamplingConv]
    )
    def test_bfloat16(self, layer):
        layer = layer(4, 4, use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        assert layer(normal(2, 4, 4, 4)).dtype == jnp.bfloat16
        assert layer.kernel.dtype == jnp.float32

    def test_outputs_have_the_variance_of_inputs(self):
        layer = PointwiseConv(256, 256, rngs=nnx.Rngs(0))
        assert math.isclose(layer(normal(8, 8, 256)).std(), 1.0, rel_tol=0.1)
