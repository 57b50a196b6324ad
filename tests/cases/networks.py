"""Networks for tests: small ones with every kind of block, and the paper's without arrays."""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbox import models
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    InitialBlock,
    NonBottleneck1D,
    TransposedUpsampling,
    Upsampling,
)
from jaxbox.models.convolution import PatchConvTranspose, UpsamplingConv

# The smallest image with more than one pixel at 1/8 of its resolution along each axis.
IMAGE_SIZE = (16, 24)

_down = partial(Downsampling, channels=16, dropout=0.1)
SMALL_ENET = models.Architecture(
    (
        partial(InitialBlock, channels=16),
        *(_down, Bottleneck, partial(BoxBlock, dropout=0.1)),
        *(_down, partial(Bottleneck, asymmetric=5), partial(Bottleneck, dilation=2)),
        *(partial(Upsampling, channels=16), partial(Bottleneck, prelu=False)),
        partial(Upsampling, channels=16),
    ),
    partial(PatchConvTranspose, use_bias=True),
)
SMALL_ERFNET = models.Architecture(
    (
        *(partial(InitialBlock, channels=channels, prelu=False) for channels in (8, 16)),
        partial(NonBottleneck1D, dilation=2, dropout=0.1, use_bias=False),
        partial(BoxBlock, relu=False, use_bias=False),
        partial(TransposedUpsampling, channels=8, use_bias=False),
    ),
    partial(UpsamplingConv, use_bias=True),
)


def build(architecture, num_classes=5, image_size=IMAGE_SIZE, dtype=jnp.float32):
    """Builds a network of an architecture."""
    rngs = nnx.Rngs(0)
    return models.SegmentationNetwork(architecture, num_classes, image_size, dtype=dtype, rngs=rngs)


def create(name, num_classes=5, image_size=IMAGE_SIZE, **options):
    """Builds a network of the paper."""
    return models.create(name, num_classes, image_size, **options, rngs=nnx.Rngs(0))


@functools.cache
def abstract(name, num_classes=5, image_size=IMAGE_SIZE, **options):
    """Builds a network of the paper with shapes in place of arrays, which take seconds to draw.

    Tests share the result and must not change it.
    """
    return nnx.eval_shape(lambda: create(name, num_classes, image_size, **options))


def draw(name, rng, **options):
    """Builds a network of the paper with arrays drawn by NumPy, which compiles nothing."""
    graph, shapes = nnx.split(abstract(name, **options))
    drawn = [
        (path, leaf.replace(_draw(path[-1], leaf, rng))) for path, leaf in nnx.to_flat_state(shapes)
    ]
    return nnx.merge(graph, nnx.from_flat_state(drawn))


def _draw(name, variable, rng):
    shape, dtype = variable.shape, variable.dtype
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.key(rng.integers(2**31))
    if name == "theta":
        height, width = variable.get_metadata("window")
        bounds = np.sort(rng.uniform(-0.5, 0.5, (*shape[:-1], 2, 2))) * [[width], [height]]
        one_pixel = np.array([-0.5, 0.5, -0.5, 0.5])
        return jnp.asarray(bounds.reshape(shape) + one_pixel, dtype)
    if name == "kernel":
        return jnp.asarray(rng.normal(0, math.prod(shape[:-1]) ** -0.5, shape), dtype)
    if name in ("scale", "var"):
        return jnp.ones(shape, dtype)
    return jnp.full(shape, 0.25 if name == "slope" else 0, dtype)
