"""The sister layers on images with structure, against the oracles."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxbox.layers import DclsConv, DOConv, OctConv
from tests.cases.images import structured_images
from tests.oracles import conv as conv_oracle
from tests.oracles import octave as octave_oracle

SIZE = (10, 8)
LAYERS = {
    "DclsConv": lambda rngs: DclsConv(2, 3, (5, 4), 6, use_bias=False, rngs=rngs),
    "DOConv": lambda rngs: DOConv(2, 3, (3, 2), use_bias=False, rngs=rngs),
    "OctConv": lambda rngs: OctConv(4, 4, (3, 3), use_bias=False, rngs=rngs),
}


def _oracle(kernels, x):
    """The outputs in float64, of the kernel of an ordinary convolution or the four of an octave."""
    if len(kernels) == 1:
        return (conv_oracle.convolve(*x, *kernels),)
    return octave_oracle.octave_conv(*x, kernels)


def _magnitudes(kernels, x):
    """The sums of the magnitudes of the products whose sums are the outputs."""
    return _oracle([*map(np.abs, kernels)], [*map(np.abs, x)])


def _inner(first, second):
    return sum(np.vdot(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_keep_the_digits_of_what_they_sum(name, rng):
    """Every output, and gradients along directions that weigh small and large pixels alike."""
    graph, params = nnx.split(LAYERS[name](nnx.Rngs(params=int(rng.integers(2**31)))))
    layer = nnx.merge(graph, params)
    is_octave = isinstance(layer, OctConv)
    kernels = [np.asarray(k, np.float64) for k in (layer.kernels if is_octave else (layer.kernel,))]

    @jax.jit
    def run(params, x, g):
        def apply(params, x):
            return jax.tree.leaves(nnx.merge(graph, params)(x if is_octave else x[0]))

        y, vjp = jax.vjp(apply, params, x)
        return y, *vjp(list(g))

    def draw(channels):
        """Images of each kind: one, or a pair of octaves."""
        sizes = (SIZE, (5, 4))[: len(channels)]
        both = [structured_images(rng, (*s, c)) for s, c in zip(sizes, channels, strict=True)]
        return {kind: tuple(images[kind] for images in both) for kind in both[0]}

    gs = draw((2, 2) if is_octave else (3,))
    for kind, x in draw((2, 2) if is_octave else (2,)).items():
        g = gs[kind]
        y, dparams, dx = run(params, x, g)
        expected, magnitudes = _oracle(kernels, x), _magnitudes(kernels, x)
        for actual, exact, magnitude in zip(y, expected, magnitudes, strict=True):
            assert (np.abs(actual - exact) <= 1e-6 * magnitude).all(), kind
        # The layer is linear in the image: its slope along a direction is its output for it.
        direction = [rng.normal(size=a.shape) / (np.abs(a) + 1e-6) for a in dx]
        slope = _inner(g, _oracle(kernels, direction))
        bound = _inner(map(np.abs, g), _magnitudes(kernels, direction))
        assert abs(_inner(dx, direction) - slope) <= 1e-6 * bound, kind
        # It is linear in these parameters too.
        linear = [k for k in params if k == "weight" or k.endswith(("_high", "_low"))]
        slope = _inner([dparams[k][...] for k in linear], [params[k][...] for k in linear])
        bound = _inner(map(np.abs, g), magnitudes)
        assert abs(slope - _inner(g, expected)) <= 1e-5 * bound, kind
