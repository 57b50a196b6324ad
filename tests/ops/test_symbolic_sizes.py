"""Programs exported for all sizes at once give what programs for one size give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

import jaxbox
from jaxbox import layers, linen, models
from jaxbox.models.inference import for_inference
from jaxbox.ops.octave_features import average_pool, upsample_nearest
from jaxbox_kernels.common.conv import conv, conv_transpose
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation
from jaxbox_kernels.common.conv_large_kernel import conv_large_kernel
from jaxbox_kernels.common.conv_patches import patch_conv, pointwise_conv, upsampling_conv
from tests.cases.box_conv import boxes_off_edges


def _export(function, spec, *others):
    # Pooling leaves nothing of one pixel.
    scope = export.SymbolicScope([f"{name} >= 4" for name in "hw" if name in spec])
    x = jax.ShapeDtypeStruct(export.symbolic_shape(spec, scope=scope), jnp.float32)
    return export.export(jax.jit(function))(x, *others)


def _assert_same(function, spec, *arguments):
    """Compares a program exported for symbolic sizes of the first argument."""
    actual = _export(function, spec, *arguments[1:]).call(*arguments)
    expected = jax.jit(function)(*arguments)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


# Overlap matrices serve maps of H + W up to 50, integral images larger ones.
@pytest.mark.parametrize(
    ("spec", "shape", "channel_axis", "whole_pixels"),
    [
        ("b, 16, 24, 3", (2, 16, 24, 3), -1, False),
        ("b, 7, 56, 2", (3, 7, 56, 2), -1, True),
        ("b, 2, 7, 56", (3, 2, 7, 56), -3, False),
        ("b, h, w, 2", (2, 7, 56, 2), -1, False),
        ("2, h, w", (2, 9, 5), -3, True),
        ("a, b, h, 7, c", (1, 2, 5, 7, 2), -1, False),
    ],
)
def test_box_conv_and_its_gradients(spec, shape, channel_axis, whole_pixels, rng):
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    size = shape[-2:] if channel_axis == -3 else shape[-3:-1]
    theta = jnp.asarray(boxes_off_edges(rng, (shape[channel_axis], 2), size))
    box_conv = functools.partial(
        jaxbox.box_conv, channel_axis=channel_axis, whole_pixels=whole_pixels
    )

    def both(x, theta):
        def loss(x, theta):
            y = box_conv(x, theta)
            return jnp.sum(y**2), y

        return jax.grad(loss, (0, 1), has_aux=True)(x, theta)

    if " c" in spec:  # JAX would take the channels of the boxes for another size.
        _assert_same(lambda x: both(x, jnp.tile(theta[:1], (x.shape[-1], 1, 1))), spec, x)
    else:
        _assert_same(both, spec, x, theta)


def test_any_number_of_channels_and_boxes(rng):
    size = (7, 56)
    scope = export.SymbolicScope()
    shapes = (export.symbolic_shape(spec, scope=scope) for spec in ("b, h, w, c", "c, f, 4"))
    gradients = jax.jit(jax.grad(lambda *args: jnp.sum(jaxbox.box_conv(*args) ** 2), (0, 1)))
    program = export.export(gradients)(*[jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes])
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    for number in (1, 5):
        theta = jnp.asarray(boxes_off_edges(rng, (3, number), size))
        for a, b in zip(program.call(x, theta), gradients(x, theta), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_linen_boxes_that_began_in_a_map_of_known_size(rng):
    layer = linen.BoxConv(2)
    x = jnp.asarray(rng.normal(size=(2, 9, 7, 3)), jnp.float32)
    params = layer.init(jax.random.key(0), x)
    _assert_same(lambda x: layer.apply(params, x), "b, h, w, 3", x)


def test_a_saved_program_and_its_gradients(rng):
    pytest.importorskip("flatbuffers", reason="jax.export needs it to save programs")
    box_conv = functools.partial(jaxbox.box_conv, channel_axis=-3)
    x = jnp.asarray(rng.normal(size=(3, 2, 7, 56)), jnp.float32)
    theta = jnp.asarray(boxes_off_edges(rng, (2, 2), (7, 56)))
    restored = export.deserialize(_export(box_conv, "b, 2, 7, 56", theta).serialize(vjp_order=1))

    def both(function):
        y, gradients = jax.vjp(function, x, theta)
        return y, *gradients(jnp.cos(y))

    for a, b in zip(both(restored.call), both(box_conv), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def _octaves(function, kernel, pooling, **options):
    def run(x):
        features = x, average_pool(x, 2, 2, pooling)
        kernels = jaxbox.OctaveKernels(*[kernel] * 4)
        return jax.tree.leaves(function(features, kernels, pooling=pooling, **options))

    return run


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
LARGE = np.ones((11, 11, 2, 1), np.float32)
CONVOLUTIONS = {
    **{
        padding: functools.partial(conv, kernel=KERNEL, strides=2, padding=padding)
        for padding in ("SAME", "VALID", "CIRCULAR", "REFLECT")
    },
    **{
        f"transposed {padding}": functools.partial(
            conv_transpose, kernel=KERNEL, strides=2, padding=padding
        )
        for padding in ("SAME", "CIRCULAR")
    },
    "large kernel": functools.partial(conv, kernel=LARGE, conv_general_dilated=conv_large_kernel),
    "large dilation": functools.partial(
        conv, kernel=KERNEL, kernel_dilation=8, conv_general_dilated=conv_large_dilation
    ),
    "pointwise": functools.partial(pointwise_conv, kernel=KERNEL[:1, :1], channel_axes=(-1, -3)),
    "patches": lambda x: patch_conv(upsample_nearest(x, 2), KERNEL[:2, :2]),
    "upsampling": functools.partial(upsampling_conv, kernel=KERNEL),
    "octaves within": layers.ArrayOctConv(2, 4, (3, 3), rngs=nnx.Rngs(0)),
    **{
        f"octaves {pooling} {strides}": _octaves(
            jaxbox.octave_conv, KERNEL, pooling, strides=strides
        )
        for pooling in ("floor", "ceil")
        for strides in (1, 2)
    },
    **{
        f"octaves transposed {pooling}": _octaves(
            jaxbox.octave_conv_transpose, KERNEL, pooling, strides=2
        )
        for pooling in ("floor", "ceil")
    },
}


def test_convolutions(rng):
    """In one program. JAX cannot compute gradients of strided convolutions of symbolic sizes."""
    x = jnp.asarray(rng.normal(size=(2, 9, 7, 2)), jnp.float32)
    _assert_same(lambda x: [function(x) for function in CONVOLUTIONS.values()], "b, h, w, 2", x)
    names = ("large kernel", "large dilation", "pointwise", "octaves floor 1", "octaves ceil 1")

    def loss(x):
        outputs = jax.tree.leaves([CONVOLUTIONS[name](x) for name in names])
        return sum(jnp.sum(output**2) for output in outputs)

    _assert_same(jax.grad(loss), "b, h, w, 2", x)


@pytest.mark.usefixtures("relaxed_promotion")
def test_a_folded_network():
    model = for_inference(models.create("boxenet", 3, (96, 192), rngs=nnx.Rngs(0)))
    for spec in ("b, 96, 192, 3", "8*h, 8*w, 3"):
        (logits,) = _export(model, spec).out_avals
        assert str(logits.shape) == f"({spec})"
    with pytest.raises(ValueError, match="multiple of 8, got h"):
        _export(model, "b, h, w, 3")
