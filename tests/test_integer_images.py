"""Pictures as files hold them, of whole numbers, are refused with a word on how to convert them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbox
from jaxbox import analysis, layers, linen, models
from jaxbox.layers import BoxMatrices
from jaxbox.ops.octave import OctaveBias, OctaveKernels

_SIZE, _CHANNELS = (8, 8), 4
_KERNEL = jnp.ones((3, 3, _CHANNELS, 2))
_OCTAVES = layers.OctConv(_CHANNELS, 2, (3, 3), alpha=(0, 0.5), rngs=nnx.Rngs(0))


def _linen(layer):
    return lambda x: layer.init(jax.random.key(0), x)


def _nnx(kind, *arguments, **options):
    return lambda x: kind(_CHANNELS, *arguments, **options, rngs=nnx.Rngs(0))(x)


# What takes images, by its name in `jaxbox`, `jaxbox.layers`, `jaxbox.linen` or elsewhere.
TAKES_IMAGES = {
    "box_conv": lambda x: jaxbox.box_conv(x, jnp.ones((_CHANNELS, 2, 4))),
    "weighted_box_conv": lambda x: jaxbox.weighted_box_conv(
        x, jnp.ones((_CHANNELS, 2, 4)), jnp.ones((_CHANNELS, 2, 3))
    ),
    "halo_box_conv": lambda x: jaxbox.halo_box_conv(x, jnp.ones((_CHANNELS, 2, 4)), "rows", halo=2),
    "octave_conv": lambda x: jaxbox.octave_conv(
        x, OctaveKernels(_KERNEL, None, None, None), OctaveBias(None, None)
    ),
    "octave_conv_transpose": lambda x: jaxbox.octave_conv_transpose(
        x, OctaveKernels(_KERNEL, None, None, None), OctaveBias(None, None)
    ),
    "map_octaves": lambda x: layers.map_octaves(jnp.abs, x),
    "to_octaves": lambda x: layers.to_octaves(x, 0.5),
    "from_octaves": lambda x: layers.from_octaves((x, x[:, ::2, ::2])),
    "BoxConv": _nnx(layers.BoxConv, 2),
    "BoxConv of a dtype": _nnx(layers.BoxConv, 2, dtype=jnp.bfloat16),
    "WeightedBoxConv": _nnx(layers.WeightedBoxConv, 2, 2),
    "BoxMatrices": lambda x: BoxMatrices(layers.BoxConv(4, 2, rngs=nnx.Rngs(0)))(x),
    "DclsConv": _nnx(layers.DclsConv, 2, (3, 3), 2),
    "DOConv": _nnx(layers.DOConv, 2, (3, 3)),
    "OctConv": _OCTAVES,
    "OctConvTranspose": _nnx(layers.OctConvTranspose, 2, (3, 3), alpha=(0, 0.5)),
    "ArrayOctConv": _nnx(layers.ArrayOctConv, 2, (3, 3)),
    "PerOctave": lambda x: layers.PerOctave(nnx.BatchNorm, 8, 0.5, rngs=nnx.Rngs(0))(
        (x, x[:, ::2, ::2])
    ),
    "linen.BoxConv": _linen(linen.BoxConv(2)),
    "linen.WeightedBoxConv": _linen(linen.WeightedBoxConv(2, num_boxes=2)),
    "linen.DclsConv": _linen(linen.DclsConv(2, (3, 3), 2)),
    "linen.DOConv": _linen(linen.DOConv(2, (3, 3))),
    "linen.OctConv": _linen(linen.OctConv(2, (3, 3), alpha=(0, 0.5))),
    "linen.OctConvTranspose": _linen(linen.OctConvTranspose(2, (3, 3), alpha=(0, 0.5))),
    "linen.PerOctave": lambda x: linen.PerOctave(nn.BatchNorm).init(
        jax.random.key(0), (x, x[:, ::2, ::2])
    ),
    "SegmentationNetwork": lambda x: models.create("enet-minus", 3, _SIZE, rngs=nnx.Rngs(0))(
        x[..., :3]
    ),
    "gradient_response": lambda x: analysis.gradient_response(
        lambda x: x, x, np.zeros((1, 1, 2), int)
    ),
    "energy_curves": lambda x: analysis.energy_curves(lambda x: x, x, np.zeros((1, 1, 2), int)),
}


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize("name", TAKES_IMAGES)
def test_the_message_says_what_to_do(name, dtype):
    image = np.ones((1, *_SIZE, _CHANNELS), dtype)
    with pytest.raises(TypeError, match=rf"\b(x|images)\b.*got {dtype}.*astype"):
        TAKES_IMAGES[name](image)


def test_all_layers_are_here():
    found = {
        f"{prefix}{name}"
        for prefix, package in (("", layers), ("linen.", linen))
        for name, value in vars(package).items()
        if name in package.__all__ and inspect.isclass(value)
        if issubclass(value, nnx.Module | nn.Module)
    }
    assert found <= set(TAKES_IMAGES)
