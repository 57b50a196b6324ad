"""The DCLS layer: a convolution with its kernel, its initial values, and its options."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxbox.layers import DclsConv, repulsive_loss
from jaxbox.ops.dcls import dcls_kernel
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle
from tests.oracles import dcls as dcls_oracle


@pytest.mark.parametrize("version", ["v0", "v1", "max"])
def test_whole_positions_are_a_dilated_convolution(version, rng):
    x, weight = (rng.normal(size=s).astype(np.float32) for s in ((2, 9, 12, 4), (2, 3, 2, 6)))
    layer = DclsConv(
        4,
        6,
        (2, 3),
        dilation=(3, 2),
        feature_group_count=2,
        version=version,
        positions_init=nnx.initializers.zeros,
        use_bias=False,
        rngs=nnx.Rngs(0),
    )
    layer.weight[...] = weight.reshape(6, 2, 6)
    expected = lax.conv_general_dilated(
        x,
        weight,
        (1, 1),
        "SAME",
        rhs_dilation=(3, 2),
        feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert relative_error(layer(x), np.asarray(expected, np.float64)) <= 1e-5


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 1), (0, 3)]])
def test_the_layer_is_a_convolution_with_that_kernel(padding, rng):
    layer = DclsConv(4, 6, (4, 3), 3, 2, padding=padding, feature_group_count=2, rngs=nnx.Rngs(0))
    x = rng.normal(size=(7, 8, 4)).astype(np.float32)
    kernel = dcls_oracle.kernel(
        *(np.asarray(p[...], np.float64) for p in (layer.weight, layer.positions, layer.sigma)),
        (4, 3),
        "gauss",
    )
    expected = conv_oracle.convolve(x, kernel, strides=2, padding=padding, groups=2)
    expected += np.asarray(layer.bias[...], np.float64)
    assert relative_error(layer(x), expected) <= 1e-5
    np.testing.assert_array_equal(layer(x), layer.fold()(x))


@pytest.mark.parametrize(("padding", "mode"), [("CIRCULAR", "wrap"), ("REFLECT", "reflect")])
def test_other_paddings(padding, mode, rng):
    layer = DclsConv(2, 3, (5, 3), 4, padding=padding, rngs=nnx.Rngs(0))
    x = rng.normal(size=(8, 6, 2)).astype(np.float32)
    padded = np.pad(x, [(2, 2), (1, 1), (0, 0)], mode=mode)
    valid = layer.fold()
    valid.padding = "VALID"
    np.testing.assert_allclose(layer(x), valid(padded), rtol=1e-5, atol=1e-5)


def test_initial_values():
    layer = DclsConv(40, 40, (9, 4), 20, gain=2.0, rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(20 * 40)
    for parameter in (layer.weight, layer.bias):
        assert jnp.abs(parameter[...]).max() <= bound
    assert jnp.abs(layer.weight[...]).max() > 0.99 * bound
    assert abs(jnp.std(layer.positions_in_cells).item() - 0.5) < 0.01
    np.testing.assert_array_equal(layer.positions_in_cells, 2 * layer.positions[...])
    assert (layer.sigma[...] == np.float32(0.23)).all()
    metadata = layer.positions.get_metadata()
    assert metadata["limits"] == ((-2.0, 2.0), (-1.0, 0.5))
    wide = DclsConv(4, 4, 9, 20, positions_init=nnx.initializers.normal(50), rngs=nnx.Rngs(0))
    assert (wide.positions[...].min().item(), wide.positions[...].max().item()) == (-4, 4)
    assert DclsConv(2, 3, 9, 5, version="max", rngs=nnx.Rngs(0)).sigma[...].max() == 0
    assert DclsConv(2, 3, 9, 5, version="v1", rngs=nnx.Rngs(0)).sigma is None


def test_shared_positions():
    layer = DclsConv(4, 6, (5, 5), 3, share_positions=True, rngs=nnx.Rngs(0))
    assert layer.positions.shape == layer.sigma.shape == (2, 3, 4, 1)
    arrays = (layer.weight[...], *(p[...] for p in (layer.positions, layer.sigma)))
    full = [jnp.broadcast_to(a, (2, 3, 4, 6)) for a in arrays[1:]]
    expected = np.asarray(dcls_kernel(arrays[0], *full, (5, 5)), np.float64)
    assert relative_error(layer.kernel, expected) <= 1e-5
    # One of the two may be shared alone.
    for some in ((full[0], arrays[2]), (arrays[1], full[1])):
        assert relative_error(dcls_kernel(arrays[0], *some, (5, 5)), expected) <= 1e-5


def test_whole_positions_for_inference():
    layer = DclsConv(2, 3, (7, 7), 4, version="v1", rngs=nnx.Rngs(0))
    layer.whole_positions = True
    np.testing.assert_array_equal(layer.positions_in_cells, jnp.round(layer.positions[...]))
    # A tap of version 1 then fills one cell.
    assert (layer.kernel != 0).sum() <= 4 * 6
    grads = nnx.grad(lambda layer: layer.kernel.sum())(layer)
    assert (grads["positions"][...] == 0).all()


def test_repulsive_loss_of_a_model_without_taps_is_0():
    assert repulsive_loss(nnx.Linear(2, 3, rngs=nnx.Rngs(0))) == 0


def test_bad_arguments():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="either kernel_count"):
        DclsConv(2, 3, (5, 5), rngs=rngs)
    with pytest.raises(ValueError, match="either kernel_count"):
        DclsConv(2, 3, (5, 5), 4, dilation=2, rngs=rngs)
    with pytest.raises(ValueError, match="dilation must be 2 positive sizes"):
        DclsConv(2, 3, (5, 5), dilation=(2, 2, 2), rngs=rngs)
    with pytest.raises(ValueError, match="feature_group_count must divide"):
        DclsConv(2, 3, (5, 5), 4, feature_group_count=2, rngs=rngs)
    with pytest.raises(ValueError, match="gain must be positive"):
        DclsConv(2, 3, (5, 5), 4, gain=0.0, rngs=rngs)
