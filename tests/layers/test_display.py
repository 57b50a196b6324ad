"""What shows a model: `nnx.tabulate` and `nnx.display` work for every layer and leave it usable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import layers

PAIR = (jnp.ones((2, 6, 8, 2)), jnp.ones((2, 3, 4, 2)))
CASES = {
    "BoxConv": (
        lambda rngs: layers.BoxConv(4, 2, window=(6, 8), rngs=rngs),
        jnp.ones((2, 6, 8, 4)),
    ),
    "DclsConv": (lambda rngs: layers.DclsConv(4, 6, (5, 5), 3, rngs=rngs), jnp.ones((2, 6, 8, 4))),
    "DOConv": (lambda rngs: layers.DOConv(4, 6, (3, 3), rngs=rngs), jnp.ones((2, 6, 8, 4))),
    "OctConv": (lambda rngs: layers.OctConv(4, 6, (3, 3), rngs=rngs), PAIR),
    "OctConvTranspose": (lambda rngs: layers.OctConvTranspose(4, 6, (3, 3), 2, rngs=rngs), PAIR),
    "ArrayOctConv": (
        lambda rngs: layers.ArrayOctConv(4, 6, (3, 3), rngs=rngs),
        jnp.ones((2, 6, 8, 4)),
    ),
    "PerOctave": (lambda rngs: layers.PerOctave(nnx.BatchNorm, 4, 0.5, rngs=rngs), PAIR),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_can_be_shown_and_called_afterwards(name, capsys):
    make, x = CASES[name]
    layer = make(nnx.Rngs(0))
    expected = layer(x)
    assert name in nnx.tabulate(layer, x)
    nnx.display(layer)
    assert name in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, layer(x), expected)
