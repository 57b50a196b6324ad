"""What shows a model works for every layer and leaves it usable.

These functions trace modules, some of which make others when they are called.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxbox import layers, linen
from tests.cases import networks

X = jnp.ones((2, 6, 8, 4))
WIDE = {"width": 200}  # No name is broken into lines.
PAIR = layers.Octaves(jnp.ones((2, 6, 8, 2)), jnp.ones((2, 3, 4, 2)))


def _conv(features, rngs):
    return nnx.Conv(features, features, (1, 1), rngs=rngs)


LAYERS = {
    "BoxConv": (lambda rngs: layers.BoxConv(4, 2, window=(6, 8), rngs=rngs), X),
    "WeightedBoxConv": (lambda rngs: layers.WeightedBoxConv(4, 6, 2, rngs=rngs), X),
    "DclsConv": (lambda rngs: layers.DclsConv(4, 6, (5, 5), 3, rngs=rngs), X),
    "DOConv": (lambda rngs: layers.DOConv(4, 6, (3, 3), rngs=rngs), X),
    "OctConv": (lambda rngs: layers.OctConv(4, 6, (3, 3), rngs=rngs), PAIR),
    "OctConvTranspose": (lambda rngs: layers.OctConvTranspose(4, 6, (3, 3), 2, rngs=rngs), PAIR),
    "ArrayOctConv": (lambda rngs: layers.ArrayOctConv(4, 6, (3, 3), rngs=rngs), X),
    "PerOctave": (lambda rngs: layers.PerOctave(nnx.BatchNorm, 4, 0.5, rngs=rngs), PAIR),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_can_be_shown_and_called_afterwards(name, capsys):
    """Beside ordinary convolutions, as in a network."""
    make, x = LAYERS[name]
    rngs = nnx.Rngs(0)
    conv = _conv(4, rngs) if x is X else layers.PerOctave(_conv, 4, 0.5, rngs=rngs)
    model = nnx.Sequential(conv, make(rngs))
    expected = model(x)
    table = nnx.tabulate(model, x, console_kwargs=WIDE)
    assert name in table
    assert "Conv" in table
    nnx.display(model)
    assert name in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, model(x), expected)


@pytest.mark.parametrize("architecture", [networks.SMALL_ENET, networks.SMALL_ERFNET])
def test_a_network_can_be_shown_and_called_afterwards(architecture, capsys):
    model = networks.build(architecture)
    model.eval()
    x = jnp.ones((1, *networks.IMAGE_SIZE, 3))
    assert "BoxBlock" in nnx.tabulate(model, x, console_kwargs=WIDE)
    nnx.display(model)
    assert "BoxBlock" in capsys.readouterr().out
    assert jax.eval_shape(model, x).shape == (1, *networks.IMAGE_SIZE, 5)


LINEN_LAYERS = {
    "BoxConv": (linen.BoxConv(2), X),
    "WeightedBoxConv": (linen.WeightedBoxConv(6, 2), X),
    "DclsConv": (linen.DclsConv(6, (5, 5), 3), X),
    "DOConv": (linen.DOConv(6, (3, 3)), X),
    "OctConv": (linen.OctConv(6, (3, 3)), PAIR),
    "OctConvTranspose": (linen.OctConvTranspose(6, (3, 3), 2), PAIR),
    "PerOctave": (
        linen.PerOctave(functools.partial(nn.BatchNorm, use_running_average=True)),
        PAIR,
    ),
}


@pytest.mark.parametrize("name", linen.__all__)
def test_a_linen_layer_can_be_shown_and_called_afterwards(name):
    layer, x = LINEN_LAYERS[name]
    conv = nn.Conv(4, (1, 1)) if x is X else linen.OctConv(4, (1, 1))
    model = nn.Sequential([conv, layer])
    key = jax.random.key(0)
    assert name in model.tabulate(key, x, console_kwargs=WIDE)
    jax.eval_shape(model.apply, jax.eval_shape(model.init, key, x), x)
